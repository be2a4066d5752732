"""A dock whose one button starts work in the background: its bar, its Cancel, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout

from napari_r2n2.layers.result_layers import results_of
from napari_r2n2.widgets.choosers import button
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.jobs import Job

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["TaskDock", "words"]

_BAR = 1000


class TaskDock(Dock):
    """Base of the widgets that do something with the current registration.

    A sub-class makes its controls, hands them to ``lay_out`` with its button, and overrides ``problem``.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.results = results_of(napari_viewer)
        self.session = self.results.session
        self.job: Job | None = None
        self._running: list[Any] = []
        self._layers = 0
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.update_state)
        self.cancel = button("Cancel", "Stop; nothing is added or written.")
        self.cancel.clicked.connect(self._stop)
        self.bar = QProgressBar()
        self.bar.setRange(0, _BAR)
        self.bar.setTextVisible(False)
        self.message = words("")
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    @property
    def viewer(self) -> Any:
        """The viewer itself: of the proxy that plugins receive, layers are proxies too, which are not those of the list."""
        return self.results.viewer

    def lay_out(self, controls: QVBoxLayout, start: QPushButton, *below: Any) -> None:
        """Show the controls, then button, bar and message, then what is below."""
        self.start_button = start
        runs = QHBoxLayout()
        runs.addWidget(start, 2)
        runs.addWidget(self.cancel, 1)
        controls.addLayout(runs)
        controls.addWidget(self.bar)
        controls.addWidget(self.message)
        for part in below:
            controls.addWidget(part) if hasattr(part, "setVisible") else controls.addLayout(part)
        controls.addStretch()
        self.fill(controls)
        running = self._running
        signals = (self.session.began, self.session.ended, self.session.edited, self.results.views_changed)
        connect_while_alive(self, [(one, self.follow) for one in signals], at_end=lambda: [end() for end in running])
        self.follow()

    @property
    def problem(self) -> str:
        """Why the button cannot be pressed, one sentence; empty if it can."""
        if self.results.place is None or not self.session.results:
            return "Align a series, or open a result, in the Align widget first."
        return ""

    def follow(self, _event: object = None) -> None:
        """Layers or results changed: at once, but for layers that go, when napari may be in the midst of removing several."""
        before, self._layers = self._layers, len(self.viewer.layers)
        if self._layers < before:
            self._soon.start(0)
        else:
            self.update_state()

    def update_state(self) -> None:
        """Show what can be done now."""
        problem = self.problem
        self.start_button.setEnabled(self.job is None and not problem)
        self.start_button.setToolTip(problem or self.start_button.statusTip())
        self.cancel.setEnabled(self.job is not None and not self.job.stopping)
        if problem and self.job is None:
            self.message.setText(problem)
            self.bar.setValue(0)
        elif self.message.text().startswith("Align a series"):
            self.message.setText("")

    def work(self, work: Generator[Any, None, Any], text: str, returned: Callable[[Any], None]) -> None:
        """Run a generator in the background; one at a time."""
        if self.job is not None:
            return
        self.job = job = Job(work)
        self._running[:] = [job.release]
        self.bar.setValue(0)
        self.message.setText(text)
        job.progressed.connect(lambda progress: self.bar.setValue(round(_BAR * progress.fraction)))
        job.returned.connect(returned)
        job.cancelled.connect(lambda: self.say("Cancelled."))
        job.refused.connect(lambda problem: self.say(problem, problem=True))
        job.broken.connect(self._broken)
        job.ended.connect(self._ended)
        job.start()
        self.update_state()

    def say(self, text: str, *, problem: bool = False) -> None:
        """Tell what came of it; a problem also where napari tells its own."""
        self.message.setText(text)
        self.bar.setValue(0 if problem else _BAR)
        if problem:
            show_error(text)

    def _stop(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self.update_state()

    def _broken(self, error: BaseException) -> None:
        self.say(f"Internal error, {type(error).__name__}: {error}. Please report it.", problem=True)

    def _ended(self) -> None:
        self.job = None
        self._running.clear()
        self.update_state()


def words(text: str) -> QLabel:
    """A label whose text wraps."""
    label = QLabel(text)
    label.setWordWrap(True)
    return label
