"""The Train widget: adapt the network's weights to the open series in the background, with curves, time left and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QSpinBox,
    QVBoxLayout,
)

from napari_r2n2.models.training_run import SUFFIX, TrainingRun, weights_folder
from napari_r2n2.preferences import read_preferences
from napari_r2n2.widgets.choosers import SeriesChooser, WeightsChooser, button, device_combo
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.garbage import MainThreadGarbage
from napari_r2n2.widgets.loss_plot import LossPlot
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.viewer import Viewer

    from r2n2.series import ImageSeries
    from r2n2.training.adapt import Adapting

__all__ = ["TrainWidget"]

_AUTO = -1
_BAR = 1000
_REDRAWN_EVERY_MS = 500
_FEWEST_FRAMES = 4
_NOTES_TOLD = 3
_INTRODUCTION = (
    "Goes on training on the very series that is to be aligned. Some frames are held out; "
    "weights are kept only if they align these better and fold no more."
)


class TrainWidget(Dock):
    """Adapts weights to a series; the series and the weights it starts from are never changed."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._worker: Any = None
        # A list, so that the slot that outlives this widget holds no reference to it.
        self._running: list[Any] = []
        self.run: TrainingRun | None = None
        self._build()
        self._clock = QTimer(self)
        self._clock.setInterval(_REDRAWN_EVERY_MS)
        self._clock.timeout.connect(self._show_progress)
        running = self._running
        connect_while_alive(self, [(napari_viewer.events.theme, self._show_theme)], at_end=lambda: [end() for end in running])
        self._show_theme()
        self.chooser.update()

    # Making it

    def _build(self) -> None:
        preferred = read_preferences()
        self._introduction = _label(_INTRODUCTION)
        self._rows = QFormLayout()
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.chooser = SeriesChooser(self._viewer, self, self._rows)
        self._slice = QSpinBox()
        self._slice.setToolTip("Slice position to adapt to, counted from 0; the weights then serve all of them.")
        tip = "Weights to start from: shipped, adapted before, or a .safetensors file."
        self.weights = WeightsChooser(self, tip, preferred.weights)
        self._reference = QSpinBox()
        self._reference.setRange(_AUTO, _AUTO)
        self._reference.setSpecialValueText("auto")
        self._reference.setToolTip(
            "The frame that the series will be aligned to, counted from 0.\n"
            "auto: the frame whose mean intensity is nearest the mean of the series."
        )
        self._minutes = QDoubleSpinBox()
        self._minutes.setRange(0.1, 600.0)
        self._minutes.setDecimals(1)
        self._minutes.setSingleStep(0.5)
        self._minutes.setValue(2.0)
        self._minutes.setSuffix(" min")
        self._minutes.setToolTip("For everything, preparation included; on a GPU fewer minutes are enough.")
        self._device = device_combo(preferred.device)
        self._start = button("Start", "Adapt in the background; what is found is kept only if it is better.")
        self._stop = button("Stop", "End after this update and keep the best weights so far.")
        self._plot = LossPlot()
        self._plot.setToolTip(
            "Loss of every update, faint, and its running mean.\n"
            "Points: similarity of the held-out frames to the reference, of the best weights so far."
        )
        self._progress = QProgressBar()
        self._progress.setRange(0, _BAR)
        self._progress.setTextVisible(False)
        self._progress.setToolTip("Share of the time that is over.")
        self._phase = _label("")
        self._message = _label("")
        self._message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._save = button("Save as ...", "Copy the adapted weights to a file of your choice.")
        self._folder = button("Open folder", "Show where adapted weights are kept, to copy or delete them.")
        self._lay_out()
        self._start.clicked.connect(self._begin)
        self._stop.clicked.connect(self._end_early)
        self._save.clicked.connect(self._ask_save)
        self._folder.clicked.connect(self._open_folder)
        self.chooser.changed.connect(self._series_changed)

    def _lay_out(self) -> None:
        runs, files = QHBoxLayout(), QHBoxLayout()
        self._rows.addRow("Slice", self._slice)
        self._rows.addRow("Start from", self.weights)
        self._rows.addRow("Reference", self._reference)
        self._rows.addRow("Time", self._minutes)
        self._rows.addRow("Device", self._device)
        runs.addWidget(self._start, 2)
        runs.addWidget(self._stop, 1)
        files.addWidget(self._save)
        files.addWidget(self._folder)
        whole = QVBoxLayout()
        whole.addWidget(self._introduction)
        whole.addLayout(self._rows)
        whole.addLayout(runs)
        whole.addWidget(self._progress)
        whole.addWidget(self._phase)
        whole.addWidget(self._plot)
        whole.addWidget(self._message)
        whole.addLayout(files)
        whole.addStretch()
        self.fill(whole)

    # Following the viewer

    def _series_changed(self) -> None:
        layer, problem = self.chooser.layer, ""
        series: tuple[ImageSeries, ...] = ()
        try:
            series = self.chooser.series()
        except R2N2Error as error:
            problem = str(error)
        self._rows.setRowVisible(self._slice, len(series) > 1)
        if series:
            self._slice.setRange(0, len(series) - 1)
            self._reference.setMaximum(len(series[0]) - 1)
            if len(series[0]) < _FEWEST_FRAMES:
                problem = (
                    f"layer {layer.name!r}: has {len(series[0])} frames, adapting needs the reference and at least 3 others; "
                    "choose a longer series"
                )
            if series[0].grid.ndim == 3:
                problem = (
                    f"layer {layer.name!r}: the network is made for slices, so it learns nothing from volumes; take it as slices"
                )
        self._start.setEnabled(self._worker is None and not problem)
        if self._worker is None:
            self._phase.setText(problem)
            self._phase.setVisible(bool(problem))
        self._show_buttons()

    def _show_buttons(self) -> None:
        self._stop.setEnabled(self._worker is not None and self.run is not None and not self.run.stopping)
        self._save.setEnabled(self._worker is None and self.run is not None and self.run.file is not None)

    def _show_theme(self, _event: object = None) -> None:
        self._plot.show_theme(self._viewer.theme)

    # Running

    def _begin(self) -> None:
        reference = self._reference.value()
        try:
            series = self.chooser.series()[self._slice.value()]
        except R2N2Error as error:
            self._say(str(error))
            return
        self.run = run = TrainingRun(
            series,
            name=self.chooser.layers.currentText(),
            start=self.weights.weights,
            seconds=60 * self._minutes.value(),
            reference="auto" if reference == _AUTO else reference,
            device=self._device.currentText(),
        )
        worker = self._worker = _work(run)
        self._garbage = MainThreadGarbage()
        self._running[:] = [run.stop, worker.quit, self._garbage.release]
        self._message.setText("")
        self._phase.setVisible(True)
        self._start.setEnabled(False)
        self._show_buttons()
        self._show_progress()
        worker.yielded.connect(self._take)
        worker.returned.connect(self._done)
        worker.errored.connect(self._broken)
        worker.finished.connect(self._ready)
        self._clock.start()
        worker.start()

    def _end_early(self) -> None:
        assert self.run is not None
        self.run.stop()
        self._show_buttons()
        self._show_progress()

    def _take(self, adapting: Adapting) -> None:
        assert self.run is not None
        self.run.take(adapting)

    def _show_progress(self) -> None:
        if self.run is None:
            return
        self._plot.show_curves(self.run.losses, [(check.update, check.similarity) for check in self.run.checks])
        if self._worker is not None:
            self._progress.setValue(round(_BAR * self.run.fraction))
            self._phase.setText(self.run.phase)

    def _done(self, problem: str) -> None:
        assert self.run is not None
        notes = "\n".join(self.run.notes[:_NOTES_TOLD])
        if problem:
            self._say(problem)
            return
        try:
            file = self.run.keep()
        except (R2N2Error, OSError, ValueError) as error:
            self._say(f"{self.run.verdict} They could not be saved: {error}")
            return
        told = self.run.verdict if file is None else f"{self.run.verdict}\nChoose {file.stem!r} under Weights in the Align widget."
        self._message.setText(f"{told}\n{notes}".strip())
        if file is not None:
            self.weights.offer({file.stem: file})

    def _broken(self, error: BaseException) -> None:
        # napari tells it too, with where it happened.
        self._message.setText(f"Internal error, {type(error).__name__}: {error}; nothing was saved. Please report it.")

    def _ready(self) -> None:
        self._clock.stop()
        self._worker = None
        self._garbage.release()
        self._running.clear()
        self._show_progress()
        self._progress.setValue(_BAR if self.run is not None and self.run.last is not None else 0)
        self._series_changed()

    # Files

    def _ask_save(self) -> None:
        assert self.run is not None
        assert self.run.file is not None
        name, _kind = QFileDialog.getSaveFileName(self, "Save the adapted weights", self.run.file.name, f"Weights (*{SUFFIX})")
        if not name:
            return
        try:
            show_info(f"Saved: {self.run.save_as(Path(name))}")
        except (R2N2Error, OSError) as error:
            self._say(f"The weights could not be saved: {error}")

    def _open_folder(self) -> None:
        folder = weights_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._say(f"{folder}: cannot be made ({error.strerror}); check its permissions")
            return
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def _say(self, problem: str) -> None:
        self._message.setText(problem)
        show_error(problem)


def _label(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    return label


@thread_worker
def _work(run: TrainingRun) -> Generator[Adapting, None, str]:
    """Runs in the worker's thread; returns "" or, for a problem a person can mend, its message."""
    try:
        yield from run.work()
    except (R2N2Error, ValueError, OSError, MemoryError) as error:
        return str(error) or "not enough memory; crop the series or close other layers"
    return ""
