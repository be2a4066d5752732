"""What a person sees of a registration: notes and a bar while it goes on, then its table."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r2n2.cli.tables import print_registration
from r2n2.registration import FrameStatus
from r2n2.runtime.signals import StopRequest
from r2n2.series import ImageSeries
from r2n2.workflow import FolderProgress, Stage

__all__ = ["RunDisplay"]


class RunDisplay:
    """Shows progress step by step, and ends the run at a step if a signal asked for it.

    A first signal waits for the batch in progress while frames are registered, and ends the run at once while files are written.

    Parameters
    ----------
    stop
        Asked after every step.
    quiet
        Neither bar nor notes.
    """

    def __init__(self, stop: StopRequest, *, quiet: bool) -> None:
        self._stop = stop
        self._quiet = quiet
        self._bar: Progress | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_bar()

    def show(self, progress: FolderProgress, series: ImageSeries, folder: Path) -> bool:
        """Show one step of a series; true if it is the last one and a frame failed.

        Raises
        ------
        Interrupted
            If a signal asked to stop.
        """
        for note in progress.notes:
            self.note(f"note: {note}")
        if progress.stage is Stage.REGISTERING and not progress.notes:
            self._move_bar(len(series), progress.fraction)
        elif progress.stage is Stage.WRITING:
            self._end_bar()
            self.note(f"writing {folder}")
        for warning in progress.warnings:
            print(f"r2n2: {warning}", file=sys.stderr)
        self._stop.check()
        if progress.was_there:
            print(f"{folder}: holds this very result already; nothing to do (--overwrite repeats it)")
        elif progress.result is not None:
            print_registration(progress.result)
            return any(row.status is FrameStatus.FAILED for row in progress.result.metrics)
        return False

    def fail(self, text: str) -> None:
        """A slice position failed."""
        self._end_bar()
        print(f"r2n2: {text}", file=sys.stderr)

    def note(self, text: str) -> None:
        """A line on the side."""
        if not self._quiet:
            print(text, file=sys.stderr)

    def _move_bar(self, frames: int, fraction: float) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
            bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=self._quiet)
            self._bar = self._held.enter_context(bar)
            self._held.enter_context(self._stop.patiently())
            self._bar.add_task("registering", total=frames)
        self._bar.update(self._bar.task_ids[0], completed=fraction * frames)

    def _end_bar(self) -> None:
        self._held.close()
        self._bar = None
