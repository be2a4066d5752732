"""How much of each rhythm every pixel holds: one linear least squares over all frames, gathered frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.lung.rhythm import Rhythm, harmonic

__all__ = ["Amplitudes", "Regression"]

Map = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Amplitudes:
    """What least squares found at every pixel.

    Parameters
    ----------
    offset
        (*shape) the signal without rhythms and drift, at the middle of the series.
    oscillations
        One (*shape) complex a rhythm: the pixel holds Re(conj(a) c) of the rhythm's curve c, so that |a| is its amplitude where the
        curve has length 1, and arg a its delay in phase.
    variances
        One (*shape) a rhythm: variance of |a| by what noise is left, of one component.
    residual
        (*shape) standard deviation of what nothing explains.
    """

    offset: Map
    oscillations: tuple[NDArray[np.complex128], ...]
    variances: tuple[Map, ...]
    residual: Map


class Regression:
    """Gathers frames and solves for offset, drift and the rhythms with a second harmonic of the first.

    Memory holds one map a column and one of squares, not the frames.

    Parameters
    ----------
    rhythms
        Breathing first; each with its curve over all frames.
    harmonics
        For how many of them, from the first on, a second harmonic is fitted too, so that an oscillation that is no cosine does not
        count as noise.
    shape
        Of a frame.
    """

    def __init__(self, rhythms: Sequence[Rhythm], shape: tuple[int, ...], *, harmonics: int = 1) -> None:
        count = len(rhythms[0].curve)
        columns = [np.ones(count), np.linspace(-1, 1, count)]
        for rhythm in rhythms:
            columns += [rhythm.curve.real, rhythm.curve.imag]
        for rhythm in rhythms[:harmonics]:
            second = harmonic(rhythm.curve)
            columns += [second.real, second.imag]
        self._design = np.stack(columns, axis=1)
        self._rhythms = len(rhythms)
        self._sums = np.zeros((self._design.shape[1], *shape))
        self._squares = np.zeros(shape)
        self._used: list[int] = []

    def add(self, index: int, frame: NDArray[np.floating]) -> None:
        """Count frame ``index`` in, (*shape); each at most once, in any order, some may be left out."""
        values = np.asarray(frame, np.float64)
        self._used.append(index)
        self._sums += self._design[index].reshape(-1, *[1] * values.ndim) * values
        self._squares += values**2

    def solve(self) -> Amplitudes:
        """The least-squares solution of what was gathered.

        Raises
        ------
        ValueError
            If there are fewer frames than unknowns.
        """
        design = self._design[self._used]
        count, unknowns = design.shape
        if count <= unknowns:
            raise ValueError(f"Regression: {count} frames are too few for {unknowns} unknowns; give a longer series")
        inverse = np.linalg.inv(design.T @ design)
        solved = np.tensordot(inverse, self._sums, axes=1)
        explained = (solved * self._sums).sum(axis=0)
        variance = np.maximum(self._squares - explained, 0) / (count - unknowns)
        oscillations, variances = [], []
        for k in range(self._rhythms):
            first = 2 + 2 * k
            oscillations.append(solved[first] + 1j * solved[first + 1])
            variances.append(variance * (inverse[first, first] + inverse[first + 1, first + 1]) / 2)
        # The mean of the frames that count, and not the middle of the drift, which a series with a gap need not hold.
        return Amplitudes(solved[0], tuple(oscillations), tuple(variances), np.sqrt(variance))
