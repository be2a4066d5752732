"""Outcome of a comparison: every contestant's times, memory and frame scores, and their summary in one row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from r2n2.benchmark.case import Case
from r2n2.benchmark.contestant import Contestant, Settings
from r2n2.benchmark.scores import FrameScore
from r2n2.evaluation import ErrorSummary, summarise
from r2n2.quantities import LengthUnit, length_unit

__all__ = ["Benchmark", "CaseResult", "ContestantResult", "Row", "before_row", "row_of"]


@dataclass(frozen=True)
class ContestantResult:
    """One contestant on one series.

    Parameters
    ----------
    contestant
        Who.
    seconds
        A frame, of every round.
    loaded_mib, peak_mib
        Largest resident memory of its process: before the first image came, and in all; None where the system does not tell.
    numbers
        How many numbers describe one displacement; None where none was found.
    scores
        Of the frames that it registered.
    errors
        Frame -> why not.
    stopped
        Why it did not take part to the end, "" if it did.
    """

    contestant: Contestant
    seconds: tuple[float, ...] = ()
    loaded_mib: float | None = None
    peak_mib: float | None = None
    numbers: int | None = None
    scores: tuple[FrameScore, ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class CaseResult:
    """All contestants on one series, in the order of the tables, and the names in the order of every round."""

    case: Case
    results: tuple[ContestantResult, ...]
    orders: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A whole comparison.

    Parameters
    ----------
    settings, rounds
        How it was run.
    absent
        Contestants that could not take part, and why.
    cases
        One a series.
    """

    settings: Settings
    rounds: int
    absent: tuple[tuple[Contestant, str], ...]
    cases: tuple[CaseResult, ...]

    @property
    def length_unit(self) -> LengthUnit:
        """What lengths are shown in: um where the pixels of every series are that small."""
        units = {length_unit(outcome.case.grid.spacing) for outcome in self.cases}
        return units.pop() if len(units) == 1 else LengthUnit.MM

    def rows(self) -> list[Row]:
        """One row a contestant over all series, the frames of all counted alike; the first is that of doing nothing."""
        by_name: dict[str, list[ContestantResult]] = {}
        for case in self.cases:
            for result in case.results:
                by_name.setdefault(result.contestant.name, []).append(result)
        return [before_row(self.cases), *(row_of(results, self.cases) for results in by_name.values())]


@dataclass(frozen=True)
class Row:
    """One line of the table; NaN where something is not known.

    Parameters
    ----------
    seconds, fastest, slowest
        A frame: median, smallest and largest of all rounds.
    peak_mib, loaded_mib
        Largest of all series.
    correlation, folding_percent, worst_folding_percent, dice
        Means over frames, and the worst frame.
    tre
        Of all landmarks of all frames.
    numbers
        Describing one displacement.
    frames, wanted
        Registered, and to be registered.
    """

    name: str
    seconds: float
    fastest: float
    slowest: float
    peak_mib: float
    loaded_mib: float
    correlation: float
    folding_percent: float
    worst_folding_percent: float
    tre: ErrorSummary
    dice: float
    numbers: float
    frames: int
    wanted: int


def row_of(results: Sequence[ContestantResult], cases: Sequence[CaseResult]) -> Row:
    """Summary of one contestant on some series."""
    scores = [score for result in results for score in result.scores]
    seconds = [value for result in results for value in result.seconds]
    folds = [score.folding_percent for score in scores]
    return Row(
        results[0].contestant.name,
        statistics.median(seconds) if seconds else math.nan,
        min(seconds, default=math.nan),
        max(seconds, default=math.nan),
        _largest(result.peak_mib for result in results),
        _largest(result.loaded_mib for result in results),
        _mean(score.correlation for score in scores),
        _mean(folds),
        max(folds, default=math.nan),
        summarise(value for score in scores for value in score.tre_mm),
        _mean(score.dice for score in scores),
        _mean(math.nan if result.numbers is None else result.numbers for result in results),
        len(scores),
        sum(len(case.case.frames) for case in cases),
    )


def before_row(cases: Sequence[CaseResult]) -> Row:
    """The same of doing nothing, on the frames that any contestant registered."""
    scores: list[FrameScore] = []
    for case in cases:
        known = {score.frame: score for result in case.results for score in result.scores}
        scores += known.values()
    nothing = math.nan
    return Row(
        "not registered",
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        _mean(score.correlation_before for score in scores),
        nothing,
        nothing,
        summarise(value for score in scores for value in score.before_mm),
        _mean(score.dice_before for score in scores),
        nothing,
        len(scores),
        sum(len(case.case.frames) for case in cases),
    )


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _largest(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=math.nan)
