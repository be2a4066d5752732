"""Who does the tasks: what an engine is, and the one that needs none, this process, one task after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from r2n2.cohort.entry import Listing, Outcome
from r2n2.cohort.perform import perform

__all__ = ["Engine", "InProcess"]


class Engine(Protocol):
    """Takes tasks and gives back outcomes; knows nothing of cohorts."""

    @property
    def free(self) -> int:
        """How many more tasks may be handed in now: no more than are begun at once, so that what is begun is known."""
        ...

    @property
    def busy(self) -> int:
        """How many are handed in and not given back."""
        ...

    @property
    def workers(self) -> int:
        """How many tasks are done side by side."""
        ...

    @property
    def dashboard(self) -> str:
        """Address of a page that shows it at work; "" where there is none."""
        ...

    def submit(self, job: Listing, *, avoid: str = "") -> None:
        """Hand in a task, if possible for another worker than the one to be avoided."""
        ...

    def wait(self) -> Sequence[tuple[Listing, Outcome]]:
        """What is done, after at most about a second; perhaps nothing.

        Raises
        ------
        ResourceError
            If the engine is gone.
        """
        ...


class InProcess:
    """Does a task while it is waited for.

    Parameters
    ----------
    run
        Of which run of the command its tasks are a part.
    tick
        Called between the steps of a registration; may raise to end it.
    """

    workers = 1
    dashboard = ""

    def __init__(self, run: str, tick: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._tick = tick
        self._jobs: deque[Listing] = deque()

    @property
    def free(self) -> int:
        """One at a time."""
        return 0 if self._jobs else 1

    @property
    def busy(self) -> int:
        """1 or 0."""
        return len(self._jobs)

    def submit(self, job: Listing, *, avoid: str = "") -> None:
        """Keep it until it is waited for."""
        self._jobs.append(job)

    def wait(self) -> Sequence[tuple[Listing, Outcome]]:
        """Do it."""
        job = self._jobs.popleft()
        return [(job, perform(job, self._run, self._tick))]
