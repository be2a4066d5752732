"""Which slice positions of a cohort a person should look at first, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from r2n2.cohort.summary import DONE, FAILED, SummaryRow

__all__ = ["Outlier", "find_outliers"]

_FEWEST = 8
_FENCE = 1.5
_FEW_FRAMES = 0.05


@dataclass(frozen=True)
class Outlier:
    """A slice position to look at.

    Parameters
    ----------
    row
        Its numbers.
    reasons
        Why, the gravest first.
    """

    row: SummaryRow
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Measure:
    """A number in which a slice position may stand out: ``sign`` is 1 where more is worse and -1 where less is."""

    value: Callable[[SummaryRow], float]
    sign: int
    reason: str
    least: float = -math.inf
    """What is better than this is no outlier, however far it lies from the others."""


_MEASURES = (
    _Measure(lambda row: row.tre_mm, 1, "landmark error {:.2f} mm"),
    _Measure(lambda row: row.flagged / max(row.frames - 1, 1), 1, "{:.0%} of the frames to look at", _FEW_FRAMES),
    _Measure(lambda row: row.similarity_after, -1, "similarity {:.3f}", -0.98),
    _Measure(lambda row: row.folding_percent, 1, "folding {:.2f} %", 0.1),
    _Measure(lambda row: row.uncertainty_mm / row.spacing_mm, 1, "uncertain by {:.1f} pixels", 0.5),
    _Measure(lambda row: row.max_displacement_mm / row.spacing_mm, 1, "moves by {:.0f} pixels", 5.0),
)


def find_outliers(rows: Sequence[SummaryRow]) -> tuple[Outlier, ...]:
    """What failed, what has frames that failed, and what lies far from the others, in this order.

    Far is more than 1.5 interquartile ranges outside of the quartiles (Tukey 1977) of those whose frames were compared alike, where
    there are at least eight of them.
    """
    done = [row for row in rows if row.state == DONE]
    reasons: dict[int, list[str]] = {id(row): [] for row in done}
    for row in done:
        if row.failed_frames:
            reasons[id(row)].append(f"{row.failed_frames} of {row.frames} frames failed")
    for kind in sorted({row.similarity_measure for row in done}):
        alike = [row for row in done if row.similarity_measure == kind]
        for measure in _MEASURES:
            limit = _limit(alike, measure)
            for row in alike:
                value = measure.value(row)
                if measure.sign * value > limit:
                    reasons[id(row)].append(measure.reason.format(value))
    found = [Outlier(row, tuple(reasons[id(row)])) for row in done if reasons[id(row)]]
    found.sort(key=lambda outlier: (not outlier.row.failed_frames, -len(outlier.reasons), outlier.row.similarity_after))
    return (*(Outlier(row, (row.message,)) for row in rows if row.state == FAILED), *found)


def _limit(rows: Sequence[SummaryRow], measure: _Measure) -> float:
    """Above which the number, times its sign, is far."""
    values = [measure.sign * value for row in rows if math.isfinite(value := measure.value(row))]
    if len(values) < _FEWEST:
        return math.inf
    low, high = np.quantile(values, (0.25, 0.75))
    return max(float(high + _FENCE * (high - low)), measure.least)
