"""Time our methods on one batch of simulated frames, in turn, and print seconds a frame and their ratio to bspline.

usage: python benchmarks/speed.py [--size 256] [--batch 16] [--runs 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from r2n2.config import BSplineConfig, RegistrationConfig
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


METHODS = {
    "network": RegistrationConfig(refine=False, device="cpu"),
    "network + refinement": RegistrationConfig(device="cpu"),
    "fit": RegistrationConfig(method="fit"),
    "bspline": RegistrationConfig(method="bspline"),
}


def seconds_a_frame(config: RegistrationConfig, pairs: Pairs) -> float:
    began = time.perf_counter()
    for _ in build_method(config).register(pairs):
        pass
    return (time.perf_counter() - began) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = batch_of(arguments.size, arguments.batch)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for config in METHODS.values():  # warm up
        quick = config.model_copy(update={"bspline": BSplineConfig(iterations=2)})
        seconds_a_frame(quick, pairs.part(slice(0, 1)))
    for _ in range(arguments.runs):
        for method, config in METHODS.items():
            seconds[method].append(seconds_a_frame(config, pairs))
    base = statistics.median(seconds["bspline"])
    print(f"{arguments.threads} threads, {arguments.batch} frames of {arguments.size} x {arguments.size} at once, runs in turn\n")
    print("| method | s/frame, median | smallest | largest | times as fast as bspline |\n|---|---|---|---|---|")
    for method, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {method} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} | {base / middle:.1f} |")


if __name__ == "__main__":
    main()
