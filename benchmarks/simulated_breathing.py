"""Register simulated breathing series, whose landmarks are known exactly, and print the landmark error a seed and method.

usage: python benchmarks/simulated_breathing.py [--seeds 0-9] [--frames 20] [--size 256] [--method fit] [--method bspline]

Seeds 100 and up were looked at while settings were chosen; 0 to 99 were not.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from r2n2.config import RegistrationConfig
from r2n2.evaluation import target_registration_error
from r2n2.registration import register_series
from r2n2.simulation import ThoraxConfig, thorax_series


def errors(seed: int, frames: int, size: int, methods: list[str]) -> list[tuple]:
    truth = thorax_series(ThoraxConfig(seed=seed, frames=frames, shape=(size, size)))
    lines = []
    for method in methods:
        began = time.perf_counter()
        reference, results = 0, {}
        for progress in register_series(truth.series, RegistrationConfig(method=method)):
            reference = progress.reference
            results.update({result.frame: result for result in progress.finished})
        seconds = (time.perf_counter() - began) / frames
        transforms = {k: r.transform for k, r in results.items() if k != reference}
        table = target_registration_error(transforms, truth.landmarks, reference, truth.series.grid)
        before, after = table.before(), table.after()
        worse = sum(table.after(k).mean_mm > table.before(k).mean_mm * 1.05 for k in transforms)
        folding = float(np.mean([r.folding_percent for r in results.values()]))
        lines.append((method, before, after, worse, folding, seconds))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--method", action="append", choices=["fit", "bspline", "r2n2"])
    arguments = parser.parse_args()
    methods = arguments.method or ["fit", "bspline"]
    first, _, last = arguments.seeds.partition("-")
    print("| seed | method | TRE before mm | TRE mean mm | median | 95 % | max | frames > 5 % worse | folding % | s/frame |")
    print("|" + "---|" * 10)
    means: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for seed in range(int(first), int(last or first) + 1):
        for method, before, after, worse, folding, seconds in errors(seed, arguments.frames, arguments.size, methods):
            print(
                f"| {seed} | {method} | {before.mean_mm:.3f} | {after.mean_mm:.3f} | {after.median_mm:.3f} "
                f"| {after.q95_mm:.3f} | {after.max_mm:.2f} | {worse} | {folding:.4f} | {seconds:.3f} |",
                flush=True,
            )
            means[method].append((before.mean_mm, after.mean_mm))
    for method, pairs in means.items():
        before, after = np.mean(pairs, axis=0)
        print(f"{method}: mean TRE over {len(pairs)} series {before:.3f} -> {after:.3f} mm")


if __name__ == "__main__":
    main()
