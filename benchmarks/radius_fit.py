"""Fitting the tables from which a radius is read: monotone regression of the error, then conformal quantiles, series as the unit.

An additive model of rising curves (isotonic backfitting) gives a score; a rising curve of the score each quantile of the error.
That quantile is multiplied by the number with which it holds, with the probability asked for, for a series that it was not fitted
to: each is left out once, with a quarter of all seeds (cross-conformal, Vovk 2015). Every series has the same mass, shared by
its places, and one more series' mass lies at infinity (Dunn, Wasserman and Ramdas 2022, pooled distribution functions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from error_rows import Rows
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from r2n2.registration.uncertainty.tables import Curve, MethodTable

__all__ = ["FEATURES", "FRAME", "FRAME_OF_EDGES", "LEVELS", "Places", "fitted_table", "places_of", "series_weights"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
_USUAL = ("noise_narrow", "sandwich", "steepness", "blank_smooth", "unlike", "frame_whiteness", "frame_noise_wide")
FEATURES = {
    "r2n2": _USUAL,
    "network": _USUAL,
    "fit": _USUAL,
    "ngf": ("sandwich", "leftover_wide", "steepness", "frame_leftover_wide", "unlike", "outside"),
    "bspline": _USUAL,
}
"""By method; with "+back" the disagreement of both ways joins them."""
FRAME = ("unlike", "residual_wide", "noise_wide", "motion", "counts")
"""By which a frame is known to be unlike those of the calibration."""
FRAME_OF_EDGES = ("unlike", "blank_wide", "motion", "counts")
"""The same where edges are compared: what noise leaves of them differs from scanner to scanner, yet the radius holds."""

Array = NDArray[np.float64]
_LEAST_ERROR = 1e-3  # added before the logarithm: an eighth of a pixel of 256
_KNOTS, _CURVE_KNOTS, _SWEEPS = 12, 16, 12
_SMALLEST = 1e-5
_FAMILIAR = 0.99
_FOLDS = 4
_NARROWEST = 0.02  # width of a bin, in a logarithm


@dataclass(frozen=True, eq=False)
class Places:
    """All places of some rows, one below the other.

    Parameters
    ----------
    values
        Feature -> (N,).
    error
        (N,) NORMALISED.
    unit_mm
        (N,) length of a NORMALISED unit.
    kind, series
        (N,) names.
    """

    values: dict[str, Array]
    error: Array
    unit_mm: Array
    kind: NDArray[np.str_]
    series: NDArray[np.str_]

    def where(self, chosen: NDArray[np.bool_]) -> Places:
        """Some of them."""
        values = {name: value[chosen] for name, value in self.values.items()}
        return Places(values, self.error[chosen], self.unit_mm[chosen], self.kind[chosen], self.series[chosen])


def places_of(rows: Sequence[Rows], names: Sequence[str]) -> Places:
    """Where the truth is known."""
    known = [np.isfinite(row.error) for row in rows]
    values = {
        name: np.concatenate([row.values[name][k].astype(float) for row, k in zip(rows, known, strict=True)]) for name in names
    }

    def repeated(of: Sequence[object]) -> NDArray[np.generic]:
        return np.repeat(np.array(of), [int(k.sum()) for k in known])

    return Places(
        values,
        np.concatenate([row.error[k] for row, k in zip(rows, known, strict=True)]),
        repeated([row.unit_mm for row in rows]),
        repeated([row.kind for row in rows]),
        repeated([f"{row.kind} {row.seed}" for row in rows]),
    )


def series_weights(series: NDArray[np.str_]) -> Array:
    """(N,) so that every series counts as one."""
    _, place, count = np.unique(series, return_inverse=True, return_counts=True)
    return 1 / count[place]


def fitted_table(rows: Sequence[Rows], features: Sequence[str], frame: Sequence[str] = FRAME) -> MethodTable:
    """Curves fitted to all series; the numbers that make quantiles hold come from series left out of a fit in turn."""
    seeds = np.array([row.seed for row in rows])
    folds = [(seeds % _FOLDS != fold, seeds % _FOLDS == fold) for fold in range(_FOLDS)]
    parts = [(places_of(_some(rows, fit), features), places_of(_some(rows, rest), features)) for fit, rest in folds if rest.any()]
    series = np.concatenate([rest.series for _, rest in parts])
    ratios: dict[float, list[Array]] = {level: [] for level in LEVELS}
    for fit, rest in parts:
        curves = _additive(fit, features)
        knots, quantiles = _rising_quantiles(sum_of(curves, fit), fit)
        score = sum_of(curves, rest)
        for level, values in quantiles.items():
            ratios[level].append(rest.error / np.exp(np.interp(score, knots, values)))
    everything = places_of(rows, features)
    curves = _additive(everything, features)
    knots, quantiles = _rising_quantiles(sum_of(curves, everything), everything)
    factors = {level: _conformal_quantile(np.concatenate(found), series, level) for level, found in ratios.items()}
    centre, precision, farthest = _familiar(rows, frame)
    return MethodTable(
        features={name: _curve(*curve) for name, curve in curves.items()},
        radius={f"{level:g}": _curve(knots, values + np.log(factors[level])) for level, values in quantiles.items()},
        centre=centre,
        precision=precision,
        farthest=farthest,
    )


def _some(rows: Sequence[Rows], chosen: NDArray[np.bool_]) -> list[Rows]:
    return [row for row, kept in zip(rows, chosen, strict=True) if kept]


def sum_of(curves: dict[str, tuple[Array, Array]], places: Places) -> Array:
    """Score of every place."""
    return np.sum([np.interp(_log(places.values[name]), *curve) for name, curve in curves.items()], axis=0)


def _additive(places: Places, features: Sequence[str]) -> dict[str, tuple[Array, Array]]:
    """Rising curves of the logarithms of features whose sum is nearest the logarithm of the error."""
    weight, target = series_weights(places.series), np.log(places.error + _LEAST_ERROR)
    base = np.average(target, weights=weight)
    logs = {name: _log(places.values[name]) for name in features}
    bins = {name: _bins(log, weight, _KNOTS) for name, log in logs.items()}
    curves = {name: (knots, np.zeros(len(knots))) for name, (_, knots) in bins.items()}
    parts = {name: np.zeros(len(target)) for name in features}
    for _ in range(_SWEEPS):
        for name in features:
            member, knots = bins[name]
            left = target - base - sum(part for other, part in parts.items() if other != name)
            mass = np.bincount(member, weight, len(knots))
            mean = np.bincount(member, weight * left, len(knots)) / mass
            values = isotonic_regression(mean, weights=mass).x
            values -= np.average(values, weights=mass)
            curves[name] = (knots, values)
            parts[name] = np.interp(logs[name], knots, values)
    first = features[0]
    curves[first] = (curves[first][0], curves[first][1] + base)
    return curves


def _rising_quantiles(score: Array, places: Places) -> tuple[Array, dict[float, Array]]:
    """Logarithms of quantiles of the error, by the score."""
    weight = series_weights(places.series)
    member, knots = _bins(score, weight, _CURVE_KNOTS)
    mass = np.bincount(member, weight, len(knots))
    found = {}
    for level in LEVELS:
        values = [_quantile(places.error[member == k], weight[member == k], level) for k in range(len(knots))]
        found[level] = isotonic_regression(np.log(np.array(values) + _SMALLEST), weights=mass).x
    return knots, found


def _bins(values: Array, weight: Array, count: int) -> tuple[NDArray[np.int64], Array]:
    """Bin of every value, bins of equal mass, and the mean of each; fewer where values coincide."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    edges = np.unique(np.interp(np.linspace(0, 1, count + 1), reached, values[order]))
    edges = edges[np.r_[True, np.diff(edges) > _NARROWEST]]
    member = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    _, member = np.unique(member, return_inverse=True)
    knots = np.bincount(member, weight * values) / np.bincount(member, weight)
    if len(knots) < 2:
        # A feature that never changes: a flat curve.
        return member, np.array([knots[0], knots[0] + 1])
    return member, knots


def _quantile(values: Array, weight: Array, level: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(reached, level)])


def _conformal_quantile(values: Array, series: NDArray[np.str_], level: float) -> float:
    """Smallest number that is not exceeded with probability ``level`` in a further series of the same kind."""
    count = len(np.unique(series))
    order = np.argsort(values)
    reached = np.cumsum(series_weights(series)[order]) / (count + 1)
    place = int(np.searchsorted(reached, level))
    if place == len(values):
        raise SystemExit(f"{count} series are too few for a probability of {level:g}; give more seeds")
    return float(values[order][place])


def _familiar(rows: Sequence[Rows], names: Sequence[str]) -> tuple[dict[str, float], tuple[tuple[float, ...], ...], float]:
    """Centre, inverse covariance and limit of the features of the calibration's frames."""
    logs = np.concatenate([np.stack([_log(row.frames[name].astype(float)) for name in names], 1) for row in rows])
    centre = logs.mean(0)
    precision = np.linalg.inv(np.cov(logs.T) + 1e-6 * np.eye(len(names)))
    apart = logs - centre
    distance = np.sqrt(np.einsum("bi,ij,bj->b", apart, precision, apart))
    rounded = tuple(tuple(float(f"{value:.6g}") for value in row) for row in precision)
    return dict(zip(names, centre.round(6).tolist(), strict=True)), rounded, float(np.quantile(distance, _FAMILIAR))


def _curve(knots: Array, values: Array) -> Curve:
    rising = np.maximum.accumulate(values.round(5))
    return Curve(knots=tuple(knots.round(6).tolist()), values=tuple(rising.tolist()))


def _log(values: Array) -> Array:
    return np.log(np.maximum(values, _SMALLEST))
