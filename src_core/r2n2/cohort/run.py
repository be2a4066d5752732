"""The cohort run: acquisitions are listed, their slice positions handed out as workers become free, what went wrong tried again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2n2.cohort.board import Board, State
from r2n2.cohort.engine import Engine
from r2n2.cohort.entry import Entry, Listing, Outcome, Task
from r2n2.cohort.perform import MOST_ATTEMPTS
from r2n2.cohort.shard import Shard

__all__ = ["CohortProgress", "Ended", "run_cohort"]


@dataclass(frozen=True)
class Ended:
    """A slice position that is done or has failed, or an acquisition that could not be listed.

    Parameters
    ----------
    label
        What a person calls it.
    outcome
        What became of it.
    """

    label: str
    outcome: Outcome


@dataclass(frozen=True)
class CohortProgress:
    """How far a cohort is.

    Parameters
    ----------
    done, failed, total
        Slice positions; acquisitions that are not listed yet count as one.
    fresh
        Of those that ended, how many took work.
    workers
        That are there.
    ended
        With this step.
    """

    done: int
    failed: int
    total: int
    fresh: int
    workers: int
    ended: tuple[Ended, ...] = ()


def run_cohort(entries: Sequence[Entry], folder: Path, engine: Engine, *, shard: Shard | None = None) -> Iterator[CohortProgress]:
    """Register every slice position of every acquisition that is not registered yet.

    Parameters
    ----------
    folder
        Of the cohort; each acquisition has a folder of its name in it. ``status.csv`` there is kept current.
    shard
        Do only this part.

    Yields
    ------
    CohortProgress
        At least about once a second where the engine has workers, and whenever something ended.

    Raises
    ------
    ResourceError
        If the engine is gone, or the folder cannot be written; what is done is kept.
    """
    places = {entry.name: number for number, entry in enumerate(entries)}
    board = Board(folder, "" if shard is None else shard.suffix)
    waiting: deque[tuple[Listing, str]] = deque()

    def add(jobs: Sequence[Listing]) -> None:
        board.wait(jobs)
        waiting.extend((job, "") for job in jobs)

    # What one part has listed, the others find: so each begins at another place.
    first = 0 if shard is None else len(entries) * (shard.number - 1) // shard.count
    in_turn = (*entries[first:], *entries[:first])
    add([Listing(entry=entry, folder=str(folder.absolute() / entry.name)) for entry in in_turn])
    tries: dict[str, int] = {}
    fresh = 0
    try:
        while waiting or engine.busy:
            while waiting and engine.free > 0:
                job, avoid = waiting.popleft()
                engine.submit(job, avoid=avoid)
                board.begin(job)
            board.write()
            ended: list[Ended] = []
            for job, outcome in engine.wait():
                tries[job.label] = tries.get(job.label, 0) + 1
                attempts = max(tries[job.label], outcome.attempts)
                if not outcome.final and not outcome.frames and attempts < MOST_ATTEMPTS:
                    board.again(job, outcome.model_copy(update={"attempts": attempts}))
                    waiting.append((job, outcome.worker))
                elif outcome.slices:
                    board.forget(job)
                    add(_tasks(job, outcome, places[job.entry.name], shard))
                elif isinstance(job, Task) or shard is None or shard.holds(places[job.entry.name]):
                    board.end(job, outcome)
                    fresh += not outcome.was_there
                    ended.append(Ended(job.label, outcome))
                else:
                    board.forget(job)
            yield _progress(board, engine, fresh, ended)
    finally:
        board.stop()
        board.write(now=True)


def _tasks(job: Listing, outcome: Outcome, place: int, shard: Shard | None) -> list[Task]:
    chosen = [selector for selector in outcome.slices if shard is None or shard.holds(place, selector.index)]
    return [Task(entry=job.entry, folder=job.folder, selector=selector) for selector in chosen]


def _progress(board: Board, engine: Engine, fresh: int, ended: Sequence[Ended]) -> CohortProgress:
    counts = board.counts
    return CohortProgress(
        done=counts[State.DONE],
        failed=counts[State.FAILED],
        total=sum(counts.values()),
        fresh=fresh,
        workers=engine.workers,
        ended=tuple(ended),
    )
