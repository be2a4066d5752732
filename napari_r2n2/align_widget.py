"""The dock widget "Align (R2N2)": choose a layer and a method, run in the background, get the aligned layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import create_widget
from napari.layers import Image
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QProgressBar, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_r2n2.alignment import AlignmentProgress, align
from napari_r2n2.layers import layer_to_series, registered_layer
from r2n2.config import RegistrationConfig
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.viewer import Viewer

    from r2n2.series import ImageSeries

__all__ = ["AlignWidget"]

_AUTO = -1
_METHODS = {"Network, refined": "r2n2", "Gaussians, fitted": "fit", "B-spline": "bspline"}


class AlignWidget(QWidget):
    """Aligns every frame of an image layer to a reference frame; the input layer is never changed."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._worker: Any = None
        # A list, so that the slot that outlives this widget holds no reference to it.
        self._running: list[Any] = []
        self._image: Any = None
        self._result: Any = None
        self._warnings: list[str] = []
        self._settings: dict[str, Any] = {}
        self._build()
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._update_choices)
        running = self._running
        self.destroyed.connect(lambda: [worker.quit() for worker in running])
        self._update_choices()

    def _build(self) -> None:
        self._layers: Any = create_widget(annotation=Image, name="layer")
        self._layers.native.setToolTip("The image series: axes (frame, y, x) or (slice, frame, y, x).")
        self._reference = QSpinBox()
        self._reference.setRange(_AUTO, _AUTO)
        self._reference.setSpecialValueText("auto")
        self._reference.setToolTip("Frame that all others are aligned to; auto: mean intensity nearest the mean of the series.")
        self._method = QComboBox()
        for label, name in _METHODS.items():
            self._method.addItem(label, name)
        self._method.setToolTip(
            "Network: a short readable sequence of Gaussians, then refined. Gaussians: fitted without the network. "
            "B-spline: the paper's baseline."
        )
        self._run = QPushButton("Run")
        self._run.setToolTip("Align in the background and add the result as a new layer.")
        self._cancel = QPushButton("Cancel")
        self._cancel.setToolTip("Stop soon and keep the frames aligned so far.")
        self._cancel.setEnabled(False)
        self._progress = QProgressBar()
        self._progress.setRange(0, 1000)
        self._message = QLabel("")
        self._message.setWordWrap(True)
        form, buttons, whole = QFormLayout(), QHBoxLayout(), QVBoxLayout()
        form.addRow("Layer", self._layers.native)
        form.addRow("Reference", self._reference)
        form.addRow("Method", self._method)
        buttons.addWidget(self._run)
        buttons.addWidget(self._cancel)
        whole.addLayout(form)
        whole.addLayout(buttons)
        whole.addWidget(self._progress)
        whole.addWidget(self._message)
        whole.addStretch()
        self.setLayout(whole)
        self._run.clicked.connect(self._start)
        self._cancel.clicked.connect(self._stop)
        self._layers.changed.connect(self._layer_changed)

    def _update_choices(self, _event: object = None) -> None:
        self._layers.choices = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        self._layer_changed()

    def _layer_changed(self, _layer: object = None) -> None:
        layer = self._layers.value
        frames = 0
        if layer is not None:
            axis = -4 if layer.rgb else -3
            frames = layer.data.shape[axis] if layer.data.ndim >= -axis else 0
        self._reference.setMaximum(frames - 1)
        if self._worker is None:
            self._run.setEnabled(layer is not None)
            self._message.setText("" if layer is not None else "Open an image series first, or File > Open Sample > R2N2.")

    def _start(self) -> None:
        layer, reference = self._layers.value, self._reference.value()
        try:
            config = RegistrationConfig.parse(
                {"method": self._method.currentData(), "reference": "auto" if reference == _AUTO else reference}
            )
            series = layer_to_series(layer)
        except (R2N2Error, ValueError) as error:
            self._say(str(error))
            return
        self._image, self._result, self._warnings = layer, None, []
        self._settings = config.model_dump(mode="json")
        self._run.setEnabled(False)
        self._cancel.setEnabled(True)
        self._progress.setValue(0)
        self._message.setText("Working ...")
        self._worker = worker = _work(series, config)
        self._running[:] = [worker]
        worker.yielded.connect(self._show)
        worker.returned.connect(self._done)
        worker.aborted.connect(self._aborted)
        worker.errored.connect(self._broken)
        worker.finished.connect(self._ready)
        worker.start()

    def _stop(self) -> None:
        self._cancel.setEnabled(False)
        self._message.setText("Stopping after this step ...")
        self._worker.quit()

    def _show(self, progress: AlignmentProgress) -> None:
        self._progress.setValue(round(1000 * progress.fraction))
        for aligned in progress.finished:
            if self._result is None:
                self._result = np.array(self._image.data)  # frames not aligned yet stay as they are
            several = self._image.axis_labels[0] == "slice"
            self._result[(aligned.slice_index, aligned.frame) if several else aligned.frame] = aligned.image
            if aligned.warning:
                self._warnings.append(f"frame {aligned.frame}: {aligned.warning}")

    def _done(self, problem: str) -> None:
        if problem:
            self._say(problem)
            self._add_result(complete=False)
            return
        self._add_result(complete=True)
        self._message.setText("Done. " + " ".join(self._warnings))

    def _aborted(self) -> None:
        self._add_result(complete=False)
        self._message.setText("Cancelled: frames not reached are unchanged." if self._result is not None else "Cancelled.")

    def _broken(self, error: BaseException) -> None:
        self._add_result(complete=False)
        self._say(f"Internal error, {type(error).__name__}: {error}; please report it.")

    def _ready(self) -> None:
        self._worker = None
        self._running.clear()
        self._cancel.setEnabled(False)
        self._run.setEnabled(self._layers.value is not None)

    def _add_result(self, *, complete: bool) -> None:
        if self._result is not None:
            data, options, _kind = registered_layer(self._image, self._result, complete=complete, settings=self._settings)
            self._viewer.add_image(data, **options)

    def _say(self, problem: str) -> None:
        self._message.setText(problem)
        show_error(problem)


@thread_worker
def _work(series: tuple[ImageSeries, ...], config: RegistrationConfig) -> Generator[AlignmentProgress, None, str]:
    """Runs in the worker's thread; returns "" or, for a problem a person can mend, its message."""
    try:
        yield from align(series, config)
    except (R2N2Error, ValueError, MemoryError) as error:
        return str(error) or "not enough memory; crop the series or close other layers"
    return ""
