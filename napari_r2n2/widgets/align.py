"""The Align widget: choose a series and a method, align it in the background, see at once what is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout

from napari_r2n2.layers.place import Place
from napari_r2n2.layers.result_layers import View, results_of
from napari_r2n2.models.alignment import AlignmentProgress, align
from napari_r2n2.models.training_run import weights_added
from napari_r2n2.widgets.align_form import AlignForm
from napari_r2n2.widgets.choosers import button
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.jobs import Job
from napari_r2n2.widgets.result_panel import ResultPanel
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_r2n2.models.registration import Registration

__all__ = ["AlignWidget"]

_BAR = 1000
_RUN_KEY = "Control-Enter"
_SENTENCES_TOLD = 3
_LAYERS_GONE = "Stopped: the layers that it was for are gone."


class AlignWidget(Dock):
    """Aligns every frame of a series to a reference frame; the input layer is never changed."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.results = results_of(napari_viewer)
        self.session = self.results.session
        self.job: Job | None = None
        # A list, so that the slot that outlives this widget holds no reference to it.
        self._running: list[Callable[[], None]] = []
        self._run_registration: Registration | None = None
        self._notes: list[str] = []
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

        pairs: list[tuple[Any, Callable[..., Any]]] = [
            (weights_added, self.form.weights.add),
            (session.began, self._another_registration),
            (session.edited, self._update),
            (self.results.views_changed, self._update),
        ]
        connect_while_alive(self, pairs, at_end=leave)
        self._series_changed()

    # Making it

    def _build(self) -> None:
        self.form = AlignForm(self._viewer)
        self._run = button(
            "Run", f"Align in the background ({_RUN_KEY.replace('Control', 'Ctrl')}); frames appear as they are done."
        )
        self._cancel = button("Cancel", "Stop after this step and keep the frames that are done.")
        self._progress = QProgressBar()
        self._progress.setRange(0, _BAR)
        self._message = QLabel("")
        self._message.setWordWrap(True)
        self._message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.files = ResultPanel(self._viewer, self.form, self.work, self.say)
        runs = QHBoxLayout()
        runs.addWidget(self._run, 2)
        runs.addWidget(self._cancel, 1)
        whole = QVBoxLayout()
        whole.addWidget(self.form)
        whole.addLayout(runs)
        whole.addWidget(self._progress)
        whole.addWidget(self._message)
        whole.addWidget(self.files)
        whole.addStretch()
        self.fill(whole)
        self.form.changed.connect(self._update)
        self.form.chooser.changed.connect(self._series_changed)
        self.form.reference_shown.connect(self._look_at)
        self._run.clicked.connect(self._start)
        self._cancel.clicked.connect(self._stop)

    def _series_changed(self) -> None:
        """What was said belongs to another series; what is known of this one is said instead."""
        # The run of a deleted layer may end before or after the layer leaves the choice: why it ended is told either way.
        told = self.form.chooser.layer is None and self._message.text() == _LAYERS_GONE
        if self.job is None and not told:
            self._progress.setValue(0)
            about = "\n".join(filter(None, (self.form.remark, self.form.about)))
            self._message.setText(self.form.problem or self.files.summary() or about)
        self._update()

    def _update(self, _event: object = None) -> None:
        idle = self.job is None
        self._run.setEnabled(idle and not self.form.problem)
        self._cancel.setEnabled(self.job is not None and not self.job.stopping)
        self.files.update_state(idle=idle)

    def _another_registration(self) -> None:
        """The layers of what runs were deleted, or another result was opened: going on would be for nobody."""
        if self.job is not None and self._run_registration not in (None, self.session.registration):
            self.job.cancel()
        QTimer.singleShot(0, self.results.remove_leftovers)
        self._update()

    def _look_at(self, frame: int) -> None:
        """Show a frame of the chosen layer, which may have no registration yet."""
        layer = self.form.chooser.layer
        axis = self.form.chooser.axes.index("frame")
        ndim = len(self.form.chooser.axes)
        world = float(layer.translate[axis] + frame * layer.scale[axis])
        dims = self._viewer.dims
        dims.set_point(dims.ndim - ndim + axis, world)

    # Aligning

    def _start(self) -> None:
        try:
            config, series, choice = self.form.config(), self.form.chooser.series(), self.form.choice()
            masks = self.form.masks()
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        self._notes, self._warnings = [], [self.form.remark] if self.form.remark else []
        layer = self.form.chooser.layer
        self.session.begin(series, config, masks)
        self.results.begin(Place.of(layer, self.form.chooser.axes), layer)
        self._run_registration = self.session.registration
        self.work(align(series, config, choice, masks), "Working ...", self._show, self._done, self._cancelled)

    def work(
        self,
        work: Generator[Any, None, Any] | Any,
        text: str,
        progressed: Callable[[Any], None] | None,
        returned: Callable[[Any], None],
        cancelled: Callable[[], None],
    ) -> None:
        """Run a generator of the models in the background; one at a time."""
        if self.job is not None:
            return
        self.job = job = Job(work)
        self._running[:] = [job.release]
        self._began_s = time.monotonic()
        self._progress.setValue(0)
        self._message.setText(text)
        job.progressed.connect(progressed or self._show_share)
        job.returned.connect(returned)
        job.cancelled.connect(cancelled)
        job.refused.connect(self._refused)
        job.broken.connect(self._broken)
        job.ended.connect(self._ended)
        job.start()
        self._update()

    def _stop(self) -> None:
        if self.job is not None:
            self._message.setText("Stopping after this step ...")
            self.job.cancel()
            self._update()

    def _show_share(self, progress: Any) -> None:
        self._progress.setValue(round(_BAR * progress.fraction))

    def _show(self, progress: AlignmentProgress) -> None:
        if self._run_registration is not self.session.registration:
            return
        self._notes += progress.notes
        self.session.note_run(progress.slice_index, progress.facts, progress.settings)
        for result in progress.finished:
            self.session.add(progress.slice_index, progress.reference, result)
            if result.message:
                self._warnings.append(result.message)
        self._show_share(progress)
        if self.job is not None and not self.job.stopping:
            done = f"{progress.frames_done} of {progress.frames_total} frames"
            left = _time_left(time.monotonic() - self._began_s, progress.fraction)
            self._message.setText("\n".join([f"{done}{left}", *_first(self._notes)]))

    def _done(self, _nothing: object) -> None:
        seconds = time.monotonic() - self._began_s
        done = f"Done: {len(self.session.results)} frames in {seconds:.1f} s, {self.files.reference_text()}."
        self.say("\n".join([done, *_first(self._notes), *_first(self._warnings)]))
        self.results.show(View.GAUSSIANS)

    def _cancelled(self) -> None:
        if self._run_registration is not self.session.registration:
            self.say(_LAYERS_GONE)
            return
        kept, total = len(self.session.results), sum(len(item) for item in self.session.series)
        stopped = f"Cancelled: {kept} of {total} frames are aligned, the others are shown as they came."
        self.say("\n".join([stopped, *_first(self._notes)]))

    def _refused(self, problem: str) -> None:
        self.say(problem, problem=True)

    def _broken(self, error: BaseException) -> None:
        self.say(f"Internal error, {type(error).__name__}: {error}; what was finished is kept. Please report it.", problem=True)

    def _ended(self) -> None:
        self.job = self._run_registration = None
        self._running.clear()
        self.session.end()
        self._update()

    def say(self, text: str, *, problem: bool = False) -> None:
        """Tell what came of it, under the buttons; a problem also where napari tells its own."""
        self._message.setText(text)
        if problem:
            show_error(text)
        else:
            self._progress.setValue(_BAR)


def _first(sentences: Sequence[str]) -> list[str]:
    """As many as can be read at a glance, and how many more there are."""
    more = len(sentences) - _SENTENCES_TOLD
    return [*sentences[:_SENTENCES_TOLD], *([f"... and {more} more"] if more > 0 else [])]


def _time_left(seconds: float, fraction: float) -> str:
    """What is left at the pace so far; nothing while there is no pace."""
    if not 0.02 < fraction < 1:
        return ""
    left = seconds * (1 - fraction) / fraction
    return f", {left:.0f} s left" if left < 90 else f", {left / 60:.0f} min left"
