"""How true the radius of uncertainty is, and what it finds, on series that its tables were not fitted to.

usage: python benchmarks/uncertainty.py --rows FOLDER [--methods r2n2 fit ...] [--seeds 60] [--slow-seeds 10] [--without-kind]

Seeds 140 to 199 of every kind, those that nothing was calibrated on among them (development data: set R2N2_DATA). With
--without-kind each kind is judged by tables that are fitted anew without it, to see what transfers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from calibrate_uncertainty import SLOW, kinds_of
from error_rows import BACK, Rows, kept_rows
from held_out import data_folder
from known_motion import CALIBRATION_SEEDS, EVALUATION_SEEDS, LEFT_OUT
from numpy.typing import NDArray
from radius_fit import FEATURES, FRAME, FRAME_OF_EDGES, LEVELS, Places, fitted_table, places_of, series_weights
from scipy.stats import rankdata, spearmanr

from r2n2.registration.uncertainty.tables import EDGES, MethodTable, shipped_tables
from r2n2.registration.uncertainty.verdict import APART, MOST_APART, MOST_UNCERTAIN, UNCERTAIN

WRONG = ("far", "contrast", "lost")
"""Kinds of which many frames are beyond what any method here finds."""
_OFF_MM, _FAR_OFF_MM = 2.0, 5.0
# NORMALISED, 2 % of the longer side; and shares of a frame's places that are farther off.
_OFF = 0.04
_MOSTLY_RIGHT, _MOSTLY_WRONG = 0.05, 0.25
_HEAD = (
    f"{'':14}{'series':>7}  {'coverage % at ' + ' '.join(f'{100 * q:g}' for q in LEVELS):>24}  {'rank in':>7} {'pooled':>6} "
    f"{'AUROC':>6} {'>5 mm':>6} {'found %':>7} {'radius':>7} {'new %':>6} {'known':>6}"
)


def radii(table: MethodTable, rows: Sequence[Rows], level: float) -> NDArray[np.float64]:
    """(N,) NORMALISED of all places of the rows whose truth is known."""
    values = places_of(rows, tuple(table.features)).values
    found = table.radius_of({name: torch.from_numpy(value) for name, value in values.items()}, f"{level:g}")
    return found.numpy()


def line(name: str, table: MethodTable, rows: Sequence[Rows]) -> str:
    """What is asked of the radius, of some series."""
    places = places_of(rows, tuple(table.features))
    weight = kind_weights(places)
    found = {level: radii(table, rows, level) for level in LEVELS}
    covered = [100 * np.average(places.error <= found[level], weights=weight) for level in LEVELS]
    error, radius = places.error * places.unit_mm, found[0.9] * places.unit_mm
    within = [spearmanr(radius[k], error[k])[0] for s in np.unique(places.series) if (k := places.series == s).sum() > 9]
    far = error > _FAR_OFF_MM
    distances = [_distance(table, row) for row in rows]
    distance = np.concatenate(distances)
    # In the order of the places, which are those of every frame whose truth is known.
    familiar = np.concatenate(
        [
            np.broadcast_to((apart <= table.farthest)[:, None], row.error.shape)[np.isfinite(row.error)]
            for apart, row in zip(distances, rows, strict=True)
        ]
    )
    known = 100 * np.average((places.error <= found[0.9])[familiar], weights=weight[familiar]) if familiar.any() else np.nan
    return (
        f"{name:14}{len(rows):7}  {' '.join(f'{share:5.1f}' for share in covered):>24}  {np.nanmean(within):7.2f} "
        f"{spearmanr(radius, error)[0]:6.2f} {_auroc(radius, error > _OFF_MM):6.3f} {int(far.sum()):6} "
        f"{100 * np.mean(radius[far] > _OFF_MM) if far.any() else np.nan:7.1f} {np.median(radius):7.2f} "
        f"{100 * np.mean(distance > table.farthest):6.1f} {known:6.1f}"
    )


def kind_weights(places: Places) -> NDArray[np.float64]:
    """(N,) so that every kind counts as one, and within it every series."""
    _, place = np.unique(places.kind, return_inverse=True)
    weight = series_weights(places.series)
    return weight / np.bincount(place, weight)[place]


def _distance(table: MethodTable, row: Rows) -> NDArray[np.float64]:
    return table.distance({name: torch.from_numpy(value) for name, value in row.frames.items()}).numpy()


def _auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative place that the score puts in order."""
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return float("nan")
    return float((rankdata(score)[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def table_text(rows: Sequence[Rows], tables: dict[str, MethodTable]) -> str:
    """A line a kind, each by its table, and of all, kinds counting equally in the coverage, where they have one table."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = [_HEAD, *(line(kind, tables[kind], [row for row in rows if row.kind == kind]) for kind in kinds)]
    if len({id(table) for table in tables.values()}) == 1:
        table = next(iter(tables.values()))
        known = [row for row in rows if row.kind not in LEFT_OUT]
        lines += [
            line("calibrated", table, known),
            line("  of ordinary", table, [row for row in known if row.kind not in WRONG]),
            line("all", table, rows),
        ]
    return "\n".join(lines)


def verdicts(table: MethodTable, rows: Sequence[Rows]) -> str:
    """How many frames that are wrong, right or in between are flagged: by the radius, on the way back, by the other signs."""
    counts: dict[str, NDArray[np.int64]] = {}
    for row in rows:
        radius = table.radius_of({name: torch.from_numpy(row.values[name]) for name in table.features}).numpy()
        for k, error in enumerate(row.error):
            known, counted = np.isfinite(error), row.counts[k] + 1e-9
            off = np.average(error[known] > _OFF, weights=counted[known])
            name = "right" if off < _MOSTLY_RIGHT else "wrong" if off > _MOSTLY_WRONG else "between"
            uncertain = np.average(radius[k] > UNCERTAIN, weights=counted) > MOST_UNCERTAIN
            apart = "disagreement" in row.values and np.average(row.values["disagreement"][k] > APART, weights=counted) > MOST_APART
            counts[name] = counts.get(name, np.zeros(4, np.int64)) + np.array((1, uncertain, apart, row.doubts[k] > 0))
    return "\n".join(
        f"{name} frames {n}: flagged by the radius {a}, on the way back {b}, by the other signs of doubt {c}"
        for name, (n, a, b, c) in counts.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="folder in which registrations are kept")
    parser.add_argument("--methods", nargs="+", default=[*FEATURES, f"r2n2{BACK}"])
    parser.add_argument("--seeds", type=int, default=len(EVALUATION_SEEDS), help="how many of a kind")
    parser.add_argument("--slow-seeds", type=int, default=10, help="how many for the B-spline and for both ways")
    parser.add_argument("--without-kind", action="store_true", help="judge each kind by tables fitted without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("rank: Spearman's correlation of radius and error, within series and pooled (mm). AUROC: of errors over 2 mm.")
    print("found: errors over 5 mm where the radius is over 2 mm. radius: median, mm. new: frames told to be uncalibrated.")
    print("known: coverage at 90 % in all other frames.")
    for method in arguments.methods:
        count = arguments.slow_seeds if method in SLOW else arguments.seeds
        kinds = (*kinds_of(method), *(() if method == EDGES else LEFT_OUT))
        rows = list(kept_rows(kinds, EVALUATION_SEEDS, count, (method,), data_folder(), arguments.rows))
        if arguments.without_kind:
            known = list(kept_rows(kinds_of(method), CALIBRATION_SEEDS, count, (method,), data_folder(), arguments.rows))
            features = tuple(shipped_tables().methods[method].features)
            frame = FRAME_OF_EDGES if method == EDGES else FRAME
            tables = {kind: fitted_table([row for row in known if row.kind != kind], features, frame) for kind in kinds}
        else:
            tables = dict.fromkeys(kinds, shipped_tables().methods[method])
        print(f"\n{method}{', each kind by tables without it' if arguments.without_kind else ''}")
        print(table_text(rows, tables))
        if not arguments.without_kind:
            print(verdicts(shipped_tables().methods[method], rows))
        slower = [row.own_seconds / row.seconds for row in rows if not method.endswith(BACK)]
        if slower:
            print(f"time of the features: {100 * np.median(slower):.1f} % of that of the registration")


if __name__ == "__main__":
    main()
