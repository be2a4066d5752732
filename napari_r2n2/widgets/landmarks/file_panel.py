"""The part of the landmarks widget that imports, exports and compares with a second observer's file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_r2n2.layers.landmarks.hints import HintLayer
from napari_r2n2.layers.landmarks.model import LandmarkModel
from napari_r2n2.models.landmarks import files
from napari_r2n2.models.landmarks.marks import Marks
from napari_r2n2.models.lengths import Lengths
from r2n2.errors import ArgumentError, R2N2Error

if TYPE_CHECKING:
    from r2n2.series import LandmarkSet

__all__ = ["FilePanel"]

_READABLE = "Landmarks (*.csv *.tsv *.txt *.json *.fcsv *.xls)"


class FilePanel(QWidget):
    """Turns a chosen file into one call of the model, and says what came of it."""

    def __init__(self, model: LandmarkModel, do: Callable[[Callable[[], object]], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._second: Mapping[int, LandmarkSet] | None = None
        self._name = ""
        self._hint = HintLayer(model.viewer, "observer 2", colour="magenta", symbol="diamond", anchor="upper_right")
        self.load = QPushButton("Import ...")
        self.load.setToolTip(
            "Landmarks from R2N2's CSV (px or mm), napari, 3D Slicer, ImageJ, elastix or DIR-Lab; for several slice positions a "
            "folder with slice_00.csv ... They replace those of the layer; Undo brings them back."
        )
        self.save = QPushButton("Export ...")
        self.save.setToolTip(
            "Write the landmarks: CSV in mm or pixels, 3D Slicer's .mrk.json, or napari's CSV. Drafts are left out."
        )
        self.compare = QPushButton("Second observer ...")
        self.compare.setToolTip("Load another observer's landmarks, show them beside yours and measure how far the two lie apart.")
        self.forget = QPushButton("Remove")
        self.forget.setToolTip("Take the second observer's landmarks away again.")
        self.observer = QLabel()
        self.observer.setWordWrap(True)
        self.observer.setToolTip("Inter-observer error: no TRE below it can be told from placing the landmarks anew.")
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for k, button in enumerate((self.load, self.save, self.compare, self.forget)):
            grid.addWidget(button, k // 2, k % 2)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(grid)
        whole.addWidget(self.observer)
        self.load.clicked.connect(lambda: do(self._import))
        self.save.clicked.connect(lambda: do(self._export))
        self.compare.clicked.connect(lambda: do(self._load_observer))
        self.forget.clicked.connect(self._forget)
        self.show_state()

    def show_state(self) -> None:
        """Show what can be done, and the distance to the second observer."""
        model = self._model
        self.load.setEnabled(model.image is not None)
        self.save.setEnabled(len(model.marks) > 0)
        self.compare.setEnabled(len(model.marks) > 0)
        if self._second is not None and not (model.image is not None and self._hint.shown):
            self._forget()
        self.forget.setEnabled(self._second is not None)
        self.observer.setText("" if self._second is None else self._comparison(self._second))
        self.observer.setVisible(bool(self.observer.text()))

    def _import(self) -> None:
        path = self._ask_open("Import landmarks")
        if path is None or self._model.image is None:
            return
        sets, notes = self._read(path)
        marks, old = Marks.from_sets(sets, self._model.image.ndim, self._model.spatial), len(self._model.marks)
        self._model.replace_all(marks, f"import {path.name}")
        replaced = f" They replace {old} landmarks; Undo brings those back." if old else ""
        self._model.said.emit(" ".join([f"{len(marks)} landmarks imported from {path.name}.{replaced}", *map(_sentence, notes)]))

    def _export(self) -> None:
        model = self._model
        if model.several:
            folder = QFileDialog.getExistingDirectory(self, "Export landmarks: a folder for slice_00.csv ...")
            path, kind = folder, "mm" if all(item.spacing_known for item in model.series) else "px"
        else:
            kinds = {text: kind for kind, text in files.FORMATS.items() if kind != "mm" or model.series[0].spacing_known}
            path, chosen = QFileDialog.getSaveFileName(self, "Export landmarks", "landmarks.csv", ";;".join(kinds))
            kind = "slicer" if path.lower().endswith(".json") else kinds.get(chosen, "px")
        if not path:
            return
        with _busy():
            written = files.write(Path(path), model.marks, model.series, kind)
        drafts = model.marks.drafted
        left = f" {drafts} unmoved copies or predictions were left out." if drafts else ""
        names = written[0].name if len(written) == 1 else f"{len(written)} files"
        model.said.emit(f"{len(model.marks) - drafts} landmarks written to {names}.{left}")

    def _load_observer(self) -> None:
        path = self._ask_open("Second observer's landmarks")
        image = self._model.image
        if path is None or image is None:
            return
        sets, notes = self._read(path)
        files.compare(self._model.marks.sets(), sets, self._model.series)  # refused before anything is shown
        self._second, self._name = sets, path.name
        self._hint.show(image, Marks.from_sets(sets, image.ndim, self._model.spatial))
        self.show_state()
        if notes:
            self._model.said.emit(" ".join(map(_sentence, notes)))

    def _forget(self) -> None:
        self._second = None
        self._hint.hide()
        self.show_state()

    def _comparison(self, second: Mapping[int, LandmarkSet]) -> str:
        try:
            found = files.compare(self._model.marks.sets(), second, self._model.series)
        except (R2N2Error, ValueError) as error:
            return str(error)
        several, lengths = self._model.several, Lengths.of(self._model.series)
        number = lengths.number
        worst = [f"{name} in {f'slice {s}, ' if several else ''}frame {t}: {number(mm)}" for s, t, name, mm in found.worst]
        figures = found.summary
        alone = f" {found.alone} marked by one only." if found.alone else ""
        return (
            f"{self._name}: {figures.count} landmarks marked by both.{alone}\n"
            f"mean {number(figures.mean_mm)}, median {number(figures.median_mm)}, max {number(figures.max_mm)} {lengths.name}\n"
            f"Farthest apart ({lengths.name}): {'; '.join(worst)}"
        )

    def _read(self, path: Path) -> tuple[dict[int, LandmarkSet], tuple[str, ...]]:
        if self._model.image is None:
            raise ArgumentError("there is no image series that landmarks could belong to; open one first")
        references = [self._model.reference(k) for k in range(len(self._model.series))]
        with _busy():
            return files.read(path, self._model.series, references)

    def _ask_open(self, title: str) -> Path | None:
        if self._model.several:
            path = QFileDialog.getExistingDirectory(self, f"{title}: folder with slice_00.csv ...")
        else:
            path, _kind = QFileDialog.getOpenFileName(self, title, "", _READABLE)
        return Path(path) if path else None


@contextmanager
def _busy() -> Iterator[None]:
    """The wait cursor: the first conversion between mm and pixels loads torch, which takes seconds."""
    QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
    try:
        yield
    finally:
        QApplication.restoreOverrideCursor()


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")
