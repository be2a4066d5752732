"""Shift whole frames of simulated breathing series by 10 to 90 % of their side, and print what is found, and what is flagged.

usage: python benchmarks/large_shifts.py [--seeds 100-103] [--size 128] [--method fit]

What leaves the frame is lost; noise, or the frame of another person, enters. Frame k breathes as before, shifted by 10 k %, into
any direction up to 40 % and along an axis beyond. Beside it stands the error of the same landmarks in the same frame without the
shift: what a shift costs is the difference. Seeds from 100 on were looked at while settings were chosen.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameResult, FrameStatus, register_series
from r2n2.series import ImageSeries
from r2n2.simulation import ThoraxConfig, thorax_series
from r2n2.transform import Transform

_RIGHT_MM = 1.0


def shifted(frame: np.ndarray, other: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A frame shifted by whole pixels over another image."""
    height, width = frame.shape
    out = other.copy()
    out[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = frame[
        max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)
    ]
    return out


@dataclass(frozen=True)
class Row:
    """One frame: percent of the side, mean TRE in mm of the landmarks that stay in view, that of the same unshifted, status."""

    percent: int
    error: float
    unshifted: float
    status: FrameStatus

    @property
    def wrong(self) -> bool:
        """Whether it says that it is right and is not."""
        return self.status in (FrameStatus.OK, FrameStatus.LIMITED) and not self.error < _RIGHT_MM


def registered(stack: np.ndarray, grid: Grid, method: str) -> dict[int, FrameResult]:
    """Results of frames (T, H, W), all to the first."""
    config = RegistrationConfig(method=method, reference=0)
    progress = register_series(ImageSeries(stack[:, None], grid), config)
    return {result.frame: result for step in progress for result in step.finished}


def run(seed: int, size: int, method: str, rng: np.random.Generator) -> list[Row]:
    """Every frame of a series, with noise and with another person entering."""
    truth = thorax_series(ThoraxConfig(seed=seed, frames=10, shape=(size, size)))
    grid = truth.series.grid
    frames = np.stack([np.asarray(truth.series.frame(k)[0], np.float32) for k in range(10)])
    other = np.asarray(thorax_series(ThoraxConfig(seed=seed + 40, frames=2, shape=(size, size))).series.frame(0)[0], np.float32)
    marks = truth.landmarks.to_space(Space.INDEX, grid)
    fixed = marks.in_frame(0)
    places = grid.convert_points(torch.from_numpy(fixed.points), Space.INDEX, Space.NORMALISED)
    plain = registered(frames, grid, method)

    def errors(transform: Transform, expected: np.ndarray, seen: np.ndarray) -> float:
        found = grid.convert_points(places + transform.displacement_at(places), Space.NORMALISED, Space.INDEX).numpy()
        apart = np.linalg.norm((found - expected) * np.array(grid.spacing), axis=1)[seen]
        return float(apart.mean()) if len(apart) else np.nan

    rows = []
    for kind in ("noise", "other"):
        stack, moved = frames.copy(), [(0, 0)] * 10
        for k in range(1, 10):
            angle = rng.uniform(0, 2 * np.pi) if k <= 4 else rng.choice([0, 0.5, 1, 1.5]) * np.pi
            moved[k] = (int(np.rint(size * k / 10 * np.sin(angle))), int(np.rint(size * k / 10 * np.cos(angle))))
            noise = rng.uniform(frames.min(), frames.max(), (size, size)).astype(np.float32)
            stack[k] = shifted(frames[k], noise if kind == "noise" else other, *moved[k])
        results = registered(stack, grid, method)
        for k in range(1, 10):
            still = marks.in_frame(k).select(list(fixed.ids)).points
            expected = still + np.array(moved[k])
            seen = ((expected >= 0) & (expected <= size - 1)).all(axis=1)
            own, without = errors(results[k].transform, expected, seen), errors(plain[k].transform, still, seen)
            rows.append(Row(10 * k, own, without, results[k].status))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-103")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--method", default="fit", choices=["fit", "r2n2", "bspline"])
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    # Each seed draws its own directions, so that seeds may be run one by one.
    rows = [row for seed in seeds for row in run(seed, arguments.size, arguments.method, np.random.default_rng([seed, 1]))]
    print("| shift, % | frames | TRE below 1 mm | the same unshifted | median TRE mm | unshifted | ok | ok and over 1 mm |")
    print("|" + "---|" * 8)
    for percent in range(10, 100, 10):
        own = [row for row in rows if row.percent == percent]
        medians = [np.nanmedian([*values, np.nan]) if np.isfinite(values).any() else np.nan for values in _errors(own)]
        below = [sum(value < _RIGHT_MM for value in values) for values in _errors(own)]
        good = sum(row.status in (FrameStatus.OK, FrameStatus.LIMITED) for row in own)
        wrong = ", ".join(f"{row.error:.2f} (unshifted {row.unshifted:.2f})" for row in own if row.wrong)
        print(
            f"| {percent} | {len(own)} | {below[0]} | {below[1]} | {medians[0]:.2f} | {medians[1]:.2f} | {good} | {wrong or 0} |",
            flush=True,
        )


def _errors(rows: list[Row]) -> tuple[list[float], list[float]]:
    return [row.error for row in rows], [row.unshifted for row in rows]


if __name__ == "__main__":
    main()
