"""Shift whole frames of simulated breathing series by 10 to 90 % of their side, and print what is found, and what is flagged.

usage: python benchmarks/large_shifts.py [--seeds 100-103] [--size 128] [--method fit]

What leaves the frame is lost; noise, or the frame of another person, enters. Frame k of a series breathes as before, shifted by
10 k %, into any direction up to 40 % and along an axis beyond. Seeds 100 and up were looked at while settings were chosen.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from r2n2.config import RegistrationConfig
from r2n2.geometry import Space
from r2n2.registration import FrameStatus, register_series
from r2n2.series import ImageSeries
from r2n2.simulation import ThoraxConfig, thorax_series

_RIGHT_MM = 1.0


def shifted(frame: np.ndarray, other: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A frame shifted by whole pixels over another image."""
    height, width = frame.shape
    out = other.copy()
    out[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = frame[
        max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)
    ]
    return out


def run(seed: int, size: int, method: str, kind: str, rng: np.random.Generator) -> list[tuple[int, float, str]]:
    """(percent, mean TRE in mm of the landmarks that stay in view, status) of every frame."""
    truth = thorax_series(ThoraxConfig(seed=seed, frames=10, shape=(size, size)))
    grid = truth.series.grid
    frames = np.stack([np.asarray(truth.series.frame(k)[0], np.float32) for k in range(10)])
    other = np.asarray(thorax_series(ThoraxConfig(seed=seed + 40, frames=2, shape=(size, size))).series.frame(0)[0], np.float32)
    stack, moved = frames.copy(), [(0, 0)] * 10
    for k in range(1, 10):
        angle = rng.uniform(0, 2 * np.pi) if k <= 4 else rng.choice([0, 0.5, 1, 1.5]) * np.pi
        moved[k] = (int(np.rint(size * k / 10 * np.sin(angle))), int(np.rint(size * k / 10 * np.cos(angle))))
        noise = rng.uniform(frames.min(), frames.max(), (size, size)).astype(np.float32)
        stack[k] = shifted(frames[k], noise if kind == "noise" else other, *moved[k])
    results = {}
    for progress in register_series(ImageSeries(stack[:, None], grid), RegistrationConfig(method=method, reference=0)):
        results.update({result.frame: result for result in progress.finished})
    marks = truth.landmarks.to_space(Space.INDEX, grid)
    fixed = marks.in_frame(0)
    places = grid.convert_points(torch.from_numpy(fixed.points), Space.INDEX, Space.NORMALISED)
    rows = []
    for k in range(1, 10):
        expected = marks.in_frame(k).select(list(fixed.ids)).points + np.array(moved[k])
        seen = ((expected >= 0) & (expected <= size - 1)).all(axis=1)
        found = grid.convert_points(places + results[k].transform.displacement_at(places), Space.NORMALISED, Space.INDEX).numpy()
        errors = np.linalg.norm((found - expected) * np.array(grid.spacing), axis=1)[seen]
        rows.append((10 * k, float(errors.mean()) if len(errors) else np.nan, str(results[k].status)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-103")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--method", default="fit", choices=["fit", "r2n2", "bspline"])
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    rng = np.random.default_rng(1)
    rows = [
        row
        for seed in range(int(first), int(last or first) + 1)
        for kind in ("noise", "other")
        for row in run(seed, arguments.size, arguments.method, kind, rng)
    ]
    print("| shift, % | frames | TRE below 1 mm | median TRE mm | ok | doubtful | ok and wrong |")
    print("|" + "---|" * 7)
    for percent in range(10, 100, 10):
        own = [(error, status) for share, error, status in rows if share == percent]
        errors = np.array([error for error, _ in own])
        good = [status in (FrameStatus.OK, FrameStatus.LIMITED) for _, status in own]
        wrong = sum(g and not error < _RIGHT_MM for g, (error, _) in zip(good, own, strict=True))
        median = np.nanmedian(errors) if np.isfinite(errors).any() else np.nan
        found = int((errors < _RIGHT_MM).sum())
        print(f"| {percent} | {len(own)} | {found} | {median:.2f} | {sum(good)} | {len(own) - sum(good)} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
