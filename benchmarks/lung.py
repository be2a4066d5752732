"""Lung function against its truth: the phantom that does not move, and moving thoraxes aligned by us, by bspline and not at all.

The truth of a moving thorax is what the same analysis reads from its noiseless frames, each brought onto the reference by its exact
displacement. All of it is simulated; seeds 100 and on, on which nothing of the analysis was chosen.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.config import RegistrationConfig
from r2n2.lung.analysis import LungFunction, analyse
from r2n2.registration import register_series, warp_frame
from r2n2.registration.reference import resolve_reference
from r2n2.simulation import Label, ThoraxConfig, thorax_series
from r2n2.simulation.tissue_phantom import simulate_tissue
from r2n2.transform import warp_image

Map = NDArray[np.float64]


def read(frame: Callable[[int], Map], times_s: tuple[float, ...], mask: NDArray[np.bool_]) -> tuple[LungFunction, float]:
    """The analysis and its seconds."""
    began = time.process_time()
    running = analyse(frame, times_s, mask)
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value, time.process_time() - began


def phantom(seeds: range) -> None:
    """Bias and error of fractional ventilation, of the rates, and correlation of perfusion."""
    print("| SNR | frames | FV bias | FV RMSE | breathing off, Hz | heart off, Hz | perfusion r | s |")
    print("|---|---|---|---|---|---|---|---|")
    for snr, frames in ((50, 480), (50, 120), (20, 480), (20, 120)):
        rows = []
        for seed in seeds:
            made = simulate_tissue(seed, frames=frames, snr=snr)
            stack, mask = made.series.frames, made.lung
            assert made.series.times_s is not None
            found, seconds = read(lambda k, stack=stack: np.asarray(stack[k][0], np.float64), made.series.times_s, mask)
            error = (found.ventilation - made.ventilation)[mask]
            heart = math.nan if found.heart is None else abs(found.heart.frequency_hz - made.heart_hz)
            r = math.nan if found.perfusion is None else float(np.corrcoef(found.perfusion[mask], made.perfusion[mask])[0, 1])
            breathing = abs(found.breathing.frequency_hz - made.breathing_hz)
            rows.append((error.mean(), math.sqrt((error**2).mean()), breathing, heart, r, seconds))
        bias, rmse, breathing, heart, r, seconds = np.array(rows).T
        worst = (bias[np.abs(bias).argmax()], rmse.max(), breathing.max(), heart.max(), r.min())
        print(f"| {snr} | {frames} | " + " | ".join(f"{value:.4f}" for value in worst) + f" | {seconds.mean():.2f} |")


def moving(seeds: range, frames: int, size: int) -> None:
    """Maps after our registration, after bspline and after none, against those after the exact displacement."""
    print("| alignment | FV error (median abs.) | FV r | perfusion r | displacement r |")
    print("|---|---|---|---|---|")
    table: dict[str, list[tuple[float, float, float, float]]] = {}
    for seed in seeds:
        config = ThoraxConfig(seed=seed, frames=frames, shape=(size, size))
        made, clean = thorax_series(config), thorax_series(config.model_copy(update={"noise": 0.0}))
        series = made.series
        assert series.times_s is not None
        reference = resolve_reference(series, "auto")
        exact = [made.displacement(reference, k) for k in range(frames)]
        still = [
            warp_image(torch.from_numpy(clean.series.frame(k).astype(np.float32)), field)[0].numpy().astype(np.float64)
            for k, field in enumerate(exact)
        ]
        mask = made.label_map(reference) == Label.LUNG
        truth, _ = read(still.__getitem__, series.times_s, mask)
        for name in ("none", "bspline", "r2n2"):
            if name == "none":
                stack = [np.asarray(series.frame(k)[0], np.float64) for k in range(frames)]
                motion = math.nan
            else:
                results = sorted(
                    (r for p in register_series(series, RegistrationConfig(method=name, reference=reference)) for r in p.finished),
                    key=lambda result: result.frame,
                )
                stack = [np.asarray(warp_frame(series, result)[0], np.float64) for result in results]
                ours = np.concatenate(
                    [
                        r.transform.displacement_field().to_space(e.space).vectors[0][mask].numpy()
                        for r, e in zip(results, exact, strict=True)
                    ]
                )
                theirs = np.concatenate([e.vectors[0][mask].numpy() for e in exact])
                motion = float(np.corrcoef(ours, theirs)[0, 1])
            found, _ = read(stack.__getitem__, series.times_s, mask)
            known = mask & np.isfinite(found.ventilation) & np.isfinite(truth.ventilation)
            error = float(np.median(np.abs(found.ventilation - truth.ventilation)[known]))
            fv = float(np.corrcoef(found.ventilation[known], truth.ventilation[known])[0, 1])
            q = math.nan
            if found.perfusion is not None and truth.perfusion is not None:
                q = float(np.corrcoef(found.perfusion[mask], truth.perfusion[mask])[0, 1])
            table.setdefault(name, []).append((error, fv, q, motion))
    for name, rows in table.items():
        values = np.array(rows)
        # Without a registration there is no displacement to correlate.
        means = [float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else math.nan for column in values.T]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in means) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--parts", nargs="+", choices=("phantom", "moving"), default=("phantom", "moving"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "phantom" in options.parts:
        phantom(range(100, 100 + options.seeds))
    if "moving" in options.parts:
        print()
        moving(range(100, 100 + options.seeds), options.frames, options.size)


if __name__ == "__main__":
    main()
