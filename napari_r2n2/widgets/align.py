"""The Align widget: choose a series and a method, align it in the background, export the result or open an earlier one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QVBoxLayout,
)

from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.layers.place import METADATA_KEY, Place
from napari_r2n2.layers.result_layers import View, results_of
from napari_r2n2.layers.to_series import axes_of
from napari_r2n2.models.alignment import AlignmentProgress, align
from napari_r2n2.models.command_line import register_command
from napari_r2n2.models.registration import Registration
from napari_r2n2.models.result_files import FileProgress, export_results, open_results
from napari_r2n2.models.training_run import weights_added
from napari_r2n2.preferences import PLUGIN_NAME
from napari_r2n2.widgets.align_form import AlignForm
from napari_r2n2.widgets.choosers import button
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.garbage import MainThreadGarbage
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari.viewer import Viewer

    from r2n2.config import RegistrationConfig
    from r2n2.series import ImageSeries

__all__ = ["AlignWidget"]

_BAR = 1000
_TELL_S = 0.05
_RUN_KEY, _FINISHED_NAME = "Control-Enter", "run.json"


class AlignWidget(Dock):
    """Aligns every frame of a series to a reference frame; the input layer is never changed."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.results = results_of(napari_viewer)
        self.session = self.results.session
        self._worker: Any = None
        # A list, so that the slot that outlives this widget holds no reference to it.
        self._running: list[Any] = []
        self._warnings: list[str] = []
        self._began_s = 0.0
        self._build()
        running, session, viewer = self._running, self.session, self.results.viewer
        viewer.bind_key(_RUN_KEY, lambda _viewer: self._run.click(), overwrite=True)

        def leave() -> None:
            viewer.bind_key(_RUN_KEY, None, overwrite=True)
            for end in running:
                end()
            session.end()

        connect_while_alive(self, [(weights_added, self.form.weights.add), (session.began, self._update)], at_end=leave)
        self._update()

    # Making it

    def _build(self) -> None:
        self.form = AlignForm(self._viewer)
        self._run = button(
            "Run", f"Align in the background ({_RUN_KEY.replace('Control', 'Ctrl')}); frames appear as they are done."
        )
        self._cancel = button("Cancel", "Stop after this step and keep the frames that are done.")
        self._export = button("Export ...", "Write the folder that r2n2 register writes: series, fields, tables, report.")
        self._open = button("Open result ...", "Show a folder that Export or r2n2 register wrote.")
        self._command = button("Copy as command", "Copy the command line that does the same without a window.")
        self._step_through = button("Step through ...", "Open the Sequence widget: ellipses, numbers, comparisons.")
        self._measure = button("Landmarks ...", "Open the Landmarks widget: the target registration error in mm.")
        self._progress = QProgressBar()
        self._progress.setRange(0, _BAR)
        self._message = QLabel("")
        self._message.setWordWrap(True)
        self._message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        runs, files = QHBoxLayout(), QGridLayout()
        runs.addWidget(self._run, 2)
        runs.addWidget(self._cancel, 1)
        files.addWidget(self._step_through, 0, 0)
        files.addWidget(self._measure, 0, 1)
        files.addWidget(self._export, 1, 0)
        files.addWidget(self._open, 1, 1)
        files.addWidget(self._command, 2, 0, 1, 2)
        whole = QVBoxLayout()
        whole.addWidget(self.form)
        whole.addLayout(runs)
        whole.addWidget(self._progress)
        whole.addWidget(self._message)
        whole.addLayout(files)
        whole.addStretch()
        self.fill(whole)
        self.form.changed.connect(self._update)
        self.form.reference_shown.connect(self._look_at)
        self._run.clicked.connect(self._start)
        self._cancel.clicked.connect(self._stop)
        self._export.clicked.connect(self._ask_export)
        self._open.clicked.connect(self._ask_open)
        self._command.clicked.connect(self._copy_command)
        self._step_through.clicked.connect(lambda: self._open_beside("Sequence"))
        self._measure.clicked.connect(lambda: self._open_beside("Landmarks"))

    def _update(self) -> None:
        idle = self._worker is None
        self._run.setEnabled(idle and not self.form.problem)
        self._cancel.setEnabled(not idle)
        self._open.setEnabled(idle)
        self._export.setEnabled(idle and bool(self.session.registration.references))
        self._step_through.setEnabled(bool(self.session.series))
        self._command.setEnabled(not self.form.problem)
        if idle and self.form.problem:
            self._message.setText(self.form.problem)
        elif idle and not self.session.results:
            self._message.setText("")

    def _look_at(self, frame: int) -> None:
        """Show a frame of the chosen layer, which may have no registration yet."""
        layer = self.form.chooser.layer
        axis = self.form.chooser.axes.index("frame")
        ndim = len(self.form.chooser.axes)
        world = float(layer.translate[axis] + frame * layer.scale[axis])
        dims = self._viewer.dims
        dims.set_point(dims.ndim - ndim + axis, world)

    def _open_beside(self, name: str) -> None:
        """Open another of our widgets as a tab of this one."""
        dock, _widget = self._viewer.window.add_plugin_dock_widget(PLUGIN_NAME, name, tabify=True)
        dock.show()
        dock.raise_()

    # Aligning

    def _start(self) -> None:
        try:
            config, series = self.form.config(), self.form.chooser.series()
        except R2N2Error as error:
            self._say(str(error))
            return
        self._warnings = []
        self.session.begin(series, config)
        layer = self.form.chooser.layer
        self.results.begin(Place.of(layer, self.form.chooser.axes), layer)
        self._work(_align(series, config), self._show, "Working ...")

    def _work(self, worker: Any, show: Callable[[Any], None], text: str) -> None:
        self._worker = worker
        self._garbage = MainThreadGarbage()
        self._running[:] = [worker.quit, self._garbage.release]
        self._began_s = time.monotonic()
        self._progress.setValue(0)
        self._message.setText(text)
        worker.yielded.connect(show)
        worker.returned.connect(self._done)
        worker.aborted.connect(self._aborted)
        worker.errored.connect(self._broken)
        worker.finished.connect(self._ready)
        worker.start()
        self._update()

    def _stop(self) -> None:
        self._cancel.setEnabled(False)
        self._message.setText("Stopping after this step ...")
        if self._worker is not None:
            self._worker.quit()

    def _show(self, progress: AlignmentProgress) -> None:
        for result in progress.finished:
            self.session.add(progress.slice_index, progress.reference, result)
            if result.message:
                self._warnings.append(result.message)
        self._progress.setValue(round(_BAR * progress.fraction))
        if not self._cancel.isEnabled():
            return
        done = f"{progress.frames_done} of {progress.frames_total} frames"
        self._message.setText(f"{done}{_time_left(time.monotonic() - self._began_s, progress.fraction)}")

    def _done(self, outcome: Any) -> None:
        if isinstance(outcome, str):
            self._say(outcome)
        elif isinstance(outcome, Registration):
            self._show_registration(outcome)
        elif isinstance(outcome, Path):
            self._progress.setValue(_BAR)
            self._message.setText(f"Written to {outcome}")
            show_info(f"R2N2: written to {outcome}")
        else:
            self._progress.setValue(_BAR)
            seconds = time.monotonic() - self._began_s
            notes = "\n".join(self._warnings[:3]) + (f"\n... and {len(self._warnings) - 3} more" if len(self._warnings) > 3 else "")
            self._message.setText(
                f"Done: {len(self.session.results)} frames in {seconds:.1f} s, {self._reference()}.\n{notes}".strip()
            )
            self.results.show(View.GAUSSIANS)

    def _reference(self) -> str:
        frames = [self.session.reference(index) for index in range(len(self.session.series))]
        return f"reference frame {frames[0]}" if len(frames) == 1 else f"reference frames {', '.join(map(str, frames))}"

    def _aborted(self) -> None:
        kept, total = len(self.session.results), sum(len(item) for item in self.session.series)
        self._message.setText(f"Cancelled: {kept} of {total} frames are aligned, the others are shown as they came.")

    def _broken(self, error: BaseException) -> None:
        self._say(f"Internal error, {type(error).__name__}: {error}; what was finished is kept. Please report it.")

    def _ready(self) -> None:
        self._worker = None
        self._garbage.release()
        self._running.clear()
        self.session.end()
        text = self._message.text()
        self._update()
        if text:
            self._message.setText(text)

    # Files

    def _ask_export(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder for the result")
        if not name:
            return
        folder, overwrite = Path(name), False
        if (folder / _FINISHED_NAME).exists():
            question = f"{folder} holds a result already. Replace it?"
            overwrite = QMessageBox.question(self, "R2N2", question) == QMessageBox.StandardButton.Yes
            if not overwrite:
                return
        self.export(folder, overwrite=overwrite)

    def export(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the result in the background."""
        landmarks = {
            index: marks for index in range(len(self.session.series)) if (marks := self.session.landmarks(index)) is not None
        }
        work = export_results(self.session.registration, folder, landmarks=landmarks, overwrite=overwrite)
        self._work(_write(work, folder), self._show_files, f"Writing {folder} ...")

    def _show_files(self, progress: FileProgress) -> None:
        self._progress.setValue(round(_BAR * progress.fraction))

    def _ask_open(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder that Export or r2n2 register wrote")
        if name:
            self.open(Path(name))

    def open(self, folder: Path, source: Path | None = None) -> None:
        """Show a result folder, read in the background."""
        self._work(_read(folder, source), self._show_files, f"Reading {folder} ...")

    def _show_registration(self, registration: Registration) -> None:
        made = series_to_layers(registration.series)
        if len(made) > 1:
            self._say("The slice positions of this result differ in size; open one of its sub-folders.")
            return
        data, options, _kind = made[0]
        layer = self._viewer.add_image(data, **options)
        self.session.show(registration)
        self.results.begin(Place.of(layer, axes_of(layer)), layer)
        self.results.show(View.GAUSSIANS)
        self._progress.setValue(_BAR)
        self._message.setText(f"Opened: {len(registration.results)} frames.")

    def _copy_command(self) -> None:
        try:
            series, config = self.form.chooser.series(), self.form.config()
        except R2N2Error as error:
            self._say(str(error))
            return
        remembered = self.form.chooser.layer.metadata.get(METADATA_KEY, {}).get("series", [])
        spacing = tuple(remembered[0]["spacing"]) if remembered else None
        command = register_command(series, config, spacing_in_file=spacing)
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(command)
        self._message.setText(f"Copied:\n{command}")

    def _say(self, problem: str) -> None:
        self._message.setText(problem)
        show_error(problem)


def _time_left(seconds: float, fraction: float) -> str:
    """What is left at the pace so far; nothing while there is no pace."""
    if not 0.02 < fraction < 1:
        return ""
    left = seconds * (1 - fraction) / fraction
    return f", {left:.0f} s left" if left < 90 else f", {left / 60:.0f} min left"


@thread_worker
def _align(series: tuple[ImageSeries, ...], config: RegistrationConfig) -> Generator[AlignmentProgress, None, str | None]:
    """Runs in the worker's thread; returns None or, for a problem a person can mend, its message."""
    told_s = 0.0
    try:
        for progress in align(series, config):
            # Telling more often would only keep the window from drawing; Cancel is heard at these moments.
            if progress.finished or time.monotonic() - told_s > _TELL_S:
                yield progress
                told_s = time.monotonic()
    except (R2N2Error, ValueError, OSError, MemoryError) as error:
        return str(error) or "not enough memory; crop the series or close other layers"
    return None


@thread_worker
def _write(work: Iterator[FileProgress], folder: Path) -> Generator[FileProgress, None, str | Path]:
    try:
        yield from work
    except (R2N2Error, OSError, MemoryError) as error:
        return str(error)
    return folder


@thread_worker
def _read(folder: Path, source: Path | None) -> Generator[FileProgress, None, str | Registration]:
    yield FileProgress(0.0, f"reading {folder.name}")
    try:
        return open_results(folder, source)
    except (R2N2Error, OSError, MemoryError) as error:
        return str(error)
