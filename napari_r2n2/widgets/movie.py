"""The Movie widget: the registration as GIF or MP4, and the view on display as a figure with a scale bar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QDoubleSpinBox, QFileDialog, QFormLayout, QSpinBox, QVBoxLayout

from napari_r2n2.models.movies import write_registration_movie
from napari_r2n2.widgets.choosers import button, combo
from napari_r2n2.widgets.task_dock import TaskDock, words
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["MovieWidget"]

_FRAMES, _STEPS = "frames", "steps"
_KINDS = "GIF (*.gif);;MP4 (*.mp4)"


class MovieWidget(TaskDock):
    """Writes what is seen, for a talk or a paper."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.kind = combo("Every frame before beside aligned, or the frame on display step by step.")
        for text, value in (("before beside aligned", _FRAMES), ("the frame, step by step", _STEPS)):
            self.kind.addItem(text, value)
        self.rate = QDoubleSpinBox()
        self.rate.setRange(0.5, 60.0)
        self.rate.setDecimals(1)
        self.rate.setValue(8.0)
        self.rate.setSuffix(" pictures/s")
        self.rate.setToolTip("How fast it plays.")
        self.height = QSpinBox()
        self.height.setRange(64, 2160)
        self.height.setValue(320)
        self.height.setSuffix(" pixels")
        self.height.setToolTip("Height of an image in the movie at least; it is never made smaller than it is.")
        self.start = button("Write movie ...", "")
        self.start.setStatusTip("GIF, or MP4 where OpenCV is installed; the result as it is now, with what is switched on.")
        self.figure = button("Figure of the view ...", "Write the canvas as it is now as PNG and SVG, with a scale bar.")
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Movie of", self.kind)
        rows.addRow("Speed", self.rate)
        rows.addRow("Size", self.height)
        self.start.clicked.connect(self._ask_movie)
        self.figure.clicked.connect(self._ask_figure)
        whole = QVBoxLayout()
        whole.addWidget(words("Writes the result for others to see."))
        whole.addLayout(rows)
        self.lay_out(whole, self.start, self.figure)

    def _ask_movie(self) -> None:
        name, chosen = QFileDialog.getSaveFileName(self, "Movie", "", _KINDS)
        if name:
            path = Path(name)
            self.write(path if path.suffix else path.with_suffix(".mp4" if "mp4" in chosen else ".gif"))

    def write(self, path: Path) -> None:
        """Write the movie in the background."""
        key = self.results.key
        if key is None:
            self.say("movie: no frame of the series is on display; move the sliders onto it", problem=True)
            return
        steps = self.kind.currentData() == _STEPS
        options: dict[str, Any] = {"steps": steps, "rate_hz": self.rate.value(), "height": self.height.value()}
        work = write_registration_movie(self.session.registration, path, key, **options)
        self.work(work, f"Writing {path.name} ...", lambda written: self.say(f"Written to {written}."))

    def _ask_figure(self) -> None:
        name, _chosen = QFileDialog.getSaveFileName(self, "Figure of the view", "", "PNG and SVG (*.png)")
        if name:
            self.write_view(Path(name))

    def write_view(self, path: Path) -> None:
        """Write the canvas as PNG and SVG under this name."""
        from r2n2.report.curves import save_figure
        from r2n2.report.view_figure import view_figure

        picture, mm_a_pixel = self._view()
        stem = path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
        try:
            written = save_figure(view_figure(picture, mm_a_pixel), stem)
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        bar = "" if mm_a_pixel is not None else " There is no scale bar: the pixel size is not known, or the view is not flat."
        self.say(f"Written to {' and '.join(one.name for one in written)} in {stem.parent}.{bar}")

    def _view(self) -> tuple[NDArray[np.uint8], float | None]:
        """The part of the canvas that the series fills, and the length of one of its pixels in mm."""
        viewer, place = self.viewer, self.results.place
        picture = np.asarray(viewer.screenshot(canvas_only=True, flash=False), np.uint8)
        series = self.session.series
        flat = (
            viewer.dims.ndisplay == 2
            and not viewer.canvas.grid.enabled
            and tuple(viewer.dims.displayed) == tuple(range(viewer.dims.ndim - 2, viewer.dims.ndim))
        )
        if place is None or not series or not flat:
            return picture, None
        zoom = float(viewer.scene.camera.zoom) * self.devicePixelRatioF()
        cut = []
        for axis, length in ((-2, picture.shape[0]), (-1, picture.shape[1])):
            step = place.scale[axis]
            start = place.translate[axis] - 0.5 * step
            centre = float(viewer.scene.camera.center[axis])
            ends = [(edge - centre) * zoom + length / 2 for edge in (start, start + step * series[0].grid.shape[axis])]
            low, high = (int(np.clip(round(edge), 0, length)) for edge in ends)
            cut.append(slice(low, high) if high - low > 8 else slice(None))
        mm = float(series[0].grid.spacing[-1]) / abs(place.scale[-1]) / zoom
        return picture[tuple(cut)], mm if series[0].spacing_known else None
