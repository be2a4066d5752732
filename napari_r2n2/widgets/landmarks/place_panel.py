"""The part of the landmarks widget in which landmarks are placed, moved, copied, deleted and predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_r2n2.layers.landmarks.model import LandmarkModel
from napari_r2n2.models.landmarks.marks import GUIDING, PLACED
from napari_r2n2.models.session import FrameKey
from napari_r2n2.widgets.choosers import combo

__all__ = ["PlacePanel"]

_NEXT = "next id"
_NARROW = 48

Do = Callable[[Callable[[], object]], None]
"""Runs an action and shows what went wrong in plain words."""


class PlacePanel(QWidget):
    """Shows what is expected next and turns buttons into calls of the model."""

    def __init__(self, model: LandmarkModel, do: Do, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model, self._do = model, do
        self._images: list[Any] = []
        self._points: list[Any] = []
        self._build()
        self._connect()

    # Building

    def _build(self) -> None:
        self.image, self.points = (
            combo("Image series with axes (frame, y, x) or (slice, frame, y, x).", least_letters=4),
            combo(
                "Points layer that holds the landmarks. A layer without the feature 'id' is numbered frame by frame.",
                least_letters=4,
            ),
        )
        self.new = QPushButton("New")
        self.new.setToolTip("Make an empty landmarks layer for the series.")
        self.reference = QSpinBox()
        self.reference.setToolTip(
            "Frame in which landmarks are defined; all others hold their partners. Once the series is registered, its reference "
            "counts and cannot be changed here."
        )
        row = QHBoxLayout()
        row.addWidget(self.points, 1)
        row.addWidget(self.new)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Series", self.image)
        form.addRow("Landmarks", row)
        form.addRow("Reference", self.reference)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(form)
        whole.addLayout(self._build_guide())
        whole.addLayout(self._build_tools())

    def _build_guide(self) -> QVBoxLayout:
        self.guide, self.progress = QLabel(), QLabel()
        self.guide.setStyleSheet("font-size: 13pt; font-weight: bold;")
        self.guide.setToolTip("What the next click in the image does.")
        self.progress.setToolTip("Landmarks of this frame, and frames that have every landmark of the reference.")
        for label in (self.guide, self.progress):
            label.setWordWrap(True)
        box = QVBoxLayout()
        box.setContentsMargins(0, 6, 0, 4)
        box.setSpacing(2)
        box.addWidget(self.guide)
        box.addWidget(self.progress)
        return box

    def _build_tools(self) -> QGridLayout:
        self.place = _button("Place", "Each click in the image places a landmark. Press again to stop.", checkable=True)
        self.move_ = _button("Move", "Drag a landmark to move it; click it to select it. Press again to stop.", checkable=True)
        self.ids = QComboBox()
        self.ids.setEditable(True)
        self.ids.setMinimumWidth(_NARROW)
        self.ids.setToolTip(
            "Landmark that a click places: the next one in order, or always the one chosen here. New names can be typed."
        )
        self.next = _button("Next frame", "Go to the next frame that lacks landmarks of the reference. Key: N")
        self.jump = QCheckBox("Go on when complete")
        self.jump.setChecked(self._model.jumps)
        self.jump.setToolTip("After the last landmark of a frame, show the next frame that lacks some.")
        self.undo = _button("Undo", "")
        self.redo = _button("Redo", "")
        self.copy = _button(
            "Copy reference",
            "Copy the reference's landmarks to all frames that lack them, as starting positions. A copy is not counted before it "
            "was dragged or confirmed: its distance before registration is 0 by construction.",
        )
        self.confirm = _button("Confirm", "The selected copies lie right as they are: count them.")
        self.delete = _button("Delete", "Delete landmarks; Undo brings them back.")
        menu = QMenu(self.delete)
        for text, what in (
            ("Selected points", "selected"),
            ("Their ids in all frames", "everywhere"),
            ("All in this frame", "frame"),
        ):
            action = menu.addAction(text)
            assert action is not None
            action.triggered.connect(lambda _checked=False, what=what: self._do(lambda: self._model.delete(what)))
        self.delete.setMenu(menu)
        self.show_prediction = QCheckBox("Show prediction")
        self.show_prediction.setToolTip(
            "Show where the registration expects the landmarks of this frame. Place them before you look: who sees the prediction "
            "tends to follow it, and the error then comes out too small."
        )
        self.accept = _button(
            "Accept",
            "Place the expected landmark on its prediction, then drag it to where you see it. Key: Y\nA landmark left unchanged on "
            "its prediction measures nothing (TRE 0): it is flagged 'predicted' and not counted until it is moved.",
        )
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for k, item in enumerate((self.place, self.move_, self.ids, self.undo, self.redo, self.delete, self.copy, self.confirm)):
            grid.addWidget(item, k // 3, k % 3)
        grid.addWidget(self.next, 2, 2)
        grid.addWidget(self.show_prediction, 3, 0, 1, 2)
        grid.addWidget(self.accept, 3, 2)
        grid.addWidget(self.jump, 4, 0, 1, 3)
        for column in range(3):
            grid.setColumnStretch(column, 1)
        return grid

    def _connect(self) -> None:
        model, do = self._model, self._do
        self.image.activated.connect(lambda k: do(lambda: model.choose_image(self._images[k])))
        self.points.activated.connect(self._choose_points)
        self.new.clicked.connect(lambda: do(model.new_layer))
        self.reference.valueChanged.connect(model.set_reference)
        self.place.clicked.connect(lambda: self._set_mode("add"))
        self.move_.clicked.connect(lambda: self._set_mode("select"))
        self.ids.activated.connect(lambda _k: self._choose_id())
        line = self.ids.lineEdit()
        assert line is not None
        line.editingFinished.connect(self._choose_id)
        self.next.clicked.connect(lambda: do(self.go_on))
        self.jump.toggled.connect(lambda on: setattr(model, "jumps", on))
        self.undo.clicked.connect(lambda: do(model.undo))
        self.redo.clicked.connect(lambda: do(model.redo))
        self.copy.clicked.connect(lambda: do(model.copy_reference))
        self.confirm.clicked.connect(lambda: do(model.confirm))
        self.accept.clicked.connect(lambda: do(model.accept_prediction))

    # Acting

    def go_on(self) -> None:
        """Show the next frame that lacks landmarks."""
        key = self._model.next_open()
        if key is None:
            self._model.said.emit(
                "Every frame has all landmarks of the reference." if len(self._model.marks) else "Place landmarks first."
            )
        else:
            self._model.go_to(key)

    def _choose_points(self, k: int) -> None:
        if 0 <= k < len(self._points):
            self._do(lambda: self._model.choose_layer(self._points[k]))
        self.show_layers()

    def _choose_id(self) -> None:
        text = self.ids.currentText().strip()
        chosen = None if text in ("", _NEXT) else text
        if chosen != self._model.chosen:
            self._model.chosen = chosen
            self.show_state()

    def _set_mode(self, mode: str) -> None:
        layer = self._model.layer
        if layer is not None:
            if str(layer.mode) == mode and self._model.viewer.layers.selection.active is layer:
                layer.mode = "pan_zoom"
            else:
                layer.visible = True
                self._model.viewer.layers.selection.active = layer
                layer.mode = mode
        self.show_state()

    # Showing

    def show_layers(self) -> None:
        """Fill the choices of layers."""
        model = self._model
        self._images, self._points = model.images(), model.points()
        _fill(self.image, [layer.name for layer in self._images], _index(self._images, model.image), "no image series")
        none = "none yet" if model.image is not None else ""
        _fill(self.points, [layer.name for layer in self._points], _index(self._points, model.layer), none)
        self.show_state()

    def show_state(self) -> None:
        """Show what is expected and what can be done."""
        model = self._model
        editing, key, marks = model.editor is not None, model.frame, model.marks
        self.reference.blockSignals(True)
        self.reference.setMaximum(max(0, len(model.series[key.slice_index]) - 1) if model.series else 0)
        self.reference.setValue(model.reference())
        self.reference.blockSignals(False)
        self.reference.setEnabled(model.image is not None and not model.reference_known)
        self.new.setEnabled(model.image is not None)
        mode = str(model.layer.mode) if model.layer is not None else ""
        active = model.layer is not None and model.viewer.layers.selection.active is model.layer
        self.place.setChecked(mode == "add" and active)
        self.move_.setChecked(mode == "select" and active)
        for button in (self.place, self.move_, self.ids, self.next, self.delete, self.copy, self.confirm):
            button.setEnabled(editing)
        predictable = editing and model.registered and model.session.transform(key) is not None and key.frame != model.reference()
        self.accept.setEnabled(predictable)
        self.show_prediction.setEnabled(editing and model.registered and bool(model.session.results))
        for button, what, word, keys in (
            (self.undo, model.editor.undo_text if model.editor else "", "Undo", "Ctrl+Z"),
            (self.redo, model.editor.redo_text if model.editor else "", "Redo", "Ctrl+Shift+Z"),
        ):
            button.setEnabled(bool(what))
            button.setToolTip(f"{word}: {what}. Key: {keys}" if what else f"Nothing to {word.lower()}. Key: {keys}")
        self._show_ids(marks.ids_in(FrameKey(key.slice_index, model.reference())))
        self.guide.setText(self._guide(key))
        self.progress.setText(self._progress(key) if editing else "")

    def _show_ids(self, names: tuple[str, ...]) -> None:
        wanted = [_NEXT, *names]
        shown = self._model.chosen or _NEXT
        line = self.ids.lineEdit()
        if line is not None and line.hasFocus() and line.isModified():
            return
        if [self.ids.itemText(k) for k in range(self.ids.count())] != wanted:
            self.ids.blockSignals(True)
            self.ids.clear()
            self.ids.addItems(wanted)
            self.ids.blockSignals(False)
        self.ids.setCurrentText(shown)

    def _guide(self, key: FrameKey) -> str:
        model = self._model
        if model.image is None:
            return "Open an image series first, or File > Open Sample > Breathing thorax."
        if model.editor is None:
            return "Press New to place landmarks, or choose a points layer."
        where = f"Frame {key.frame}" + (" (reference)" if key.frame == model.reference() else "")
        if model.several:
            where = f"Slice {key.slice_index}, f{where[1:]}"
        expected = model.expected
        if expected is None:
            nothing = not model.marks.ids_in(FrameKey(key.slice_index, model.reference()))
            return f"{where}: mark reference frame {model.reference()} first" if nothing else f"{where}: complete"
        if not self.place.isChecked():
            return f"{where}: landmark {expected} is next"
        verb = "move" if model.marks.find(key, expected) is not None else "place"
        return (
            f"{where}: click to {verb} landmark {expected}"
            if verb == "move" or "(" in where
            else f"{where}: click landmark {expected}"
        )

    def _progress(self, key: FrameKey) -> str:
        model = self._model
        marks, reference = model.marks, FrameKey(key.slice_index, model.reference())
        wanted = len(marks.ids_in(reference))
        frames = [FrameKey(key.slice_index, t) for t in range(len(model.series[key.slice_index])) if t != reference.frame]
        complete = sum(not model.open_names(frame) for frame in frames) if wanted else 0
        drafts = sum(marks.drafts[k] not in (PLACED, GUIDING) for k in marks.rows_in(key))
        here = f"{len(marks.ids_in(key))} of {wanted} here" if key != reference else f"{wanted} in the reference"
        flagged = f" ({drafts} to be moved)" if drafts else ""
        return f"{here}{flagged}, {complete} of {len(frames)} frames complete"


def _button(text: str, tip: str, *, checkable: bool = False) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setCheckable(checkable)
    return button


def _fill(box: QComboBox, names: list[str], chosen: int, none: str) -> None:
    box.blockSignals(True)
    box.clear()
    box.addItems(names)
    box.setPlaceholderText(none)
    box.setCurrentIndex(chosen)
    box.setEnabled(bool(names))
    box.blockSignals(False)


def _index(layers: list[Any], layer: Any) -> int:
    return next((k for k, other in enumerate(layers) if other is layer), -1)
