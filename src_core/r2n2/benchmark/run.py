"""The comparison itself: contestants take turns round by round, each in its own process, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from r2n2.benchmark.case import Case
from r2n2.benchmark.contestant import Contestant, Settings
from r2n2.benchmark.process import ContestantError, ContestantProcess
from r2n2.benchmark.programs import Found
from r2n2.benchmark.results import CaseResult, ContestantResult
from r2n2.benchmark.scores import FrameScore, FrameTruth, score_frame
from r2n2.benchmark.worker import Answer, Ready
from r2n2.geometry import Space
from r2n2.transform import DisplacementField

__all__ = ["Progress", "run_benchmark"]

_HEARTBEAT_S = 0.2


@dataclass(frozen=True, eq=False)
class Progress:
    """Yielded several times a second, so that a person can stop the run.

    Parameters
    ----------
    done, total
        Turns: one to get ready and one a round, of every contestant and series.
    doing
        Who does what now.
    finished
        The series that became ready with this turn.
    """

    done: int
    total: int
    doing: str
    finished: CaseResult | None = None


def run_benchmark(
    cases: Sequence[Case], contestants: Sequence[Contestant], settings: Settings, *, rounds: int = 3
) -> Iterator[Progress]:
    """Register every series by every contestant, yielding as it goes.

    In round 1 every contestant registers all frames once, in turn; round 2 begins with the second contestant, and so on: what
    slows the machine for a while hits all of them. Before the first round each registers one frame, not counted. Displacements
    are assessed as they are after the first round.

    Processes are spawned, so a script that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    cases, contestants
        At least one of each.
    settings
        The same for all.
    rounds
        How often every contestant registers all frames.
    """
    total = len(cases) * len(contestants) * (1 + rounds)
    done = 0
    for case in cases:
        with contextlib.ExitStack() as stack:
            turns = [_Turns(contestant, case, settings, stack) for contestant in contestants]
            orders = []
            for each in turns:
                for _ in each.get_ready():
                    yield Progress(done, total, f"{case.name}: {each.name} gets ready")
                done += 1
            for number in range(rounds):
                first = number % len(turns)
                order = turns[first:] + turns[:first]
                orders.append(tuple(each.name for each in order))
                for each in order:
                    for _ in each.take():
                        yield Progress(done, total, f"{case.name}, round {number + 1} of {rounds}: {each.name}")
                    done += 1
        results = []
        for each in turns:
            yield Progress(done, total, f"{case.name}: scores of {each.name}")
            results.append(each.result())
        yield Progress(done, total, f"{case.name}: done", CaseResult(case, tuple(results), tuple(orders)))


class _Turns:
    """What one contestant has done on one series so far."""

    def __init__(self, contestant: Contestant, case: Case, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.name = contestant.name
        self._case = case
        self._process = ContestantProcess(contestant, case.grid, settings)
        self._stack = stack
        self._found: tuple[Found | str, ...] = ()
        self._so_far = ContestantResult(contestant)

    def get_ready(self) -> Iterator[None]:
        """Start the process, load what it needs, and register the first frame, not counted."""
        try:
            self._stack.enter_context(self._process)
            ready = yield from self._reply()
            assert isinstance(ready, Ready)
            self._so_far = replace(self._so_far, loaded_mib=ready.loaded_mib)
            self._process.register(self._case.images.part(slice(0, 1)))
            yield from self._reply()
        except ContestantError as error:
            self._so_far = replace(self._so_far, stopped=str(error))

    def take(self) -> Iterator[None]:
        """Register all frames."""
        if self._so_far.stopped:
            return
        try:
            self._process.register(self._case.images)
            answer = yield from self._reply()
        except ContestantError as error:
            self._so_far = replace(self._so_far, stopped=str(error))
            return
        assert isinstance(answer, Answer)
        self._found = self._found or answer.results
        self._so_far = replace(
            self._so_far,
            seconds=(*self._so_far.seconds, answer.seconds / len(self._case.images)),
            peak_mib=answer.peak_mib,
        )

    def _reply(self) -> Generator[None, None, Ready | Answer]:
        while True:
            yield
            reply = self._process.reply(_HEARTBEAT_S)
            if reply is not None:
                return reply

    def result(self) -> ContestantResult:
        """All of it, with the scores of the first round."""
        scores: list[FrameScore] = []
        errors: list[tuple[int, str]] = []
        numbers: list[int] = []
        for place, (frame, found) in enumerate(zip(self._case.frames, self._found, strict=False)):
            if isinstance(found, Found) and np.isfinite(found.vectors_px).all():
                scores.append(_score(self._case, place, found))
                numbers.append(found.numbers)
            else:
                errors.append((frame, found if isinstance(found, str) else "the displacement holds numbers that are not finite"))
        used = max(numbers, default=None)
        return replace(self._so_far, scores=tuple(scores), errors=tuple(errors), numbers=used)


def _score(case: Case, place: int, found: Found) -> FrameScore:
    labels = None if case.labels is None else case.labels[[0, place + 1]]
    transform = DisplacementField(torch.from_numpy(found.vectors_px).double(), case.grid, Space.INDEX)
    return score_frame(case.images, place, transform, FrameTruth(case.frames[place], case.reference, case.landmarks, labels))
