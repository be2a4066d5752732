"""What a person sees of a cohort run: one line with rate and time left while it goes on, what failed, and the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.status import Status

if TYPE_CHECKING:
    from r2n2.cohort.run import CohortProgress
    from r2n2.cohort.summary import SummaryRow

__all__ = ["CohortDisplay", "print_summary"]

_LINE_EVERY_S = 30.0
_MOST_NAMED = 50


class CohortDisplay:
    """One line on standard error: rewritten on a terminal, now and then a new one elsewhere.

    Parameters
    ----------
    quiet
        Only what failed.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._status = Status("", console=self._console) if self._console.is_terminal and not quiet else None
        self._started = time.monotonic()
        self._shown = self._started
        self._line = ""

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
        # Elsewhere than on a terminal the last line tells how far it came.
        if self._line and not self._quiet:
            self._console.print(self._line, highlight=False, markup=False, soft_wrap=True)

    def show(self, progress: CohortProgress) -> None:
        """One step."""
        for item in progress.ended:
            if item.outcome.exit_code:
                self._console.print(f"r2n2: {item.label}: {item.outcome.message}", highlight=False, markup=False, soft_wrap=True)
        self._line = progress_line(progress, time.monotonic() - self._started)
        if self._status is not None:
            self._status.update(self._line)
        elif not self._quiet and time.monotonic() - self._shown >= _LINE_EVERY_S:
            self._shown = time.monotonic()
            self._console.print(self._line, highlight=False, markup=False, soft_wrap=True)


def progress_line(progress: CohortProgress, elapsed_s: float) -> str:
    """How far, how fast, and how long it will take at that rate."""
    ended = progress.done + progress.failed
    parts = [f"{ended} of {progress.total} slice positions"]
    parts += [f"{progress.failed} failed"] if progress.failed else []
    parts += ["waiting for a worker"] if not progress.workers else [f"{progress.workers} workers"] if progress.workers > 1 else []
    if progress.fresh and elapsed_s > 0 and ended < progress.total:
        rate = progress.fresh / elapsed_s
        parts += [_rate_text(rate), f"{_duration((progress.total - ended) / rate)} left"]
    return ", ".join(parts)


def _rate_text(a_second: float) -> str:
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if a_second * seconds >= 1 or unit == "h":
            return f"{a_second * seconds:.1f} a {unit}"
    return ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def print_summary(rows: Sequence[SummaryRow], folder: object) -> None:
    """One line of numbers, those to look at by name, and where the rest is."""
    done = [row for row in rows if row.state == "done"]
    frames, flagged = sum(row.frames for row in done), sum(row.flagged for row in done)
    print(f"{len(done)} of {len(rows)} slice positions registered, {frames} frames, {flagged} of them to look at")
    troubled = [row for row in rows if row.message]
    for row in troubled[:_MOST_NAMED]:
        print(f"{'failed' if row.state != 'missing' else 'missing'}: {row.label}: {row.message}")
    if len(troubled) > _MOST_NAMED:
        print(f"... {len(troubled)} in all: status.csv names every one")
    print(f"overview in {folder}/cohort.html, numbers in summary.csv")
    sys.stdout.flush()
