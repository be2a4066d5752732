"""Time fit against bspline on one batch of simulated frames, in turn, and print seconds a frame and their ratio.

usage: python benchmarks/speed.py [--size 256] [--batch 16] [--runs 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from r2n2.config import RegistrationConfig
from r2n2.registration import Pairs, build_method
from r2n2.registration.reference import automatic_reference
from r2n2.simulation import ThoraxConfig, thorax_series


def batch_of(size: int, count: int) -> Pairs:
    series = thorax_series(ThoraxConfig(seed=7, frames=count + 1, shape=(size, size))).series
    reference = automatic_reference(series)
    frames = [torch.from_numpy(series.frame(k).astype("float32")) for k in range(len(series))]
    moving = torch.stack([frame for k, frame in enumerate(frames) if k != reference])
    valid = torch.ones_like(moving, dtype=torch.bool)
    return Pairs(frames[reference].expand_as(moving), moving, valid, valid, series.grid)


def seconds_a_frame(method: str, pairs: Pairs) -> float:
    began = time.perf_counter()
    for _ in build_method(RegistrationConfig(method=method)).register(pairs):
        pass
    return (time.perf_counter() - began) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 256), ("batch", 16), ("runs", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = batch_of(arguments.size, arguments.batch)
    seconds_a_frame("fit", pairs)  # warm-up, not counted
    times: dict[str, list[float]] = {"fit": [], "bspline": []}
    for _ in range(arguments.runs):
        for method, values in times.items():
            values.append(seconds_a_frame(method, pairs))
    size = arguments.size
    print(f"{arguments.batch} frames of {size} x {size}, {arguments.threads} threads, {arguments.runs} runs in turn")
    print("| method | median s/frame | fastest | slowest |\n|---|---|---|---|")
    for method, values in times.items():
        print(f"| {method} | {statistics.median(values):.4f} | {min(values):.4f} | {max(values):.4f} |")
    ratios = [b / f for f, b in zip(times["fit"], times["bspline"], strict=True)]
    print(f"bspline / fit, run by run: {', '.join(f'{r:.1f}' for r in ratios)}; median {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
