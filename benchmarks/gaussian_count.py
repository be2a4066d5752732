"""Landmark error against the number of Gaussians on development series: fixed numbers, and as many as each frame needs.

usage: python benchmarks/gaussian_count.py [--counts 10 15 25 40 60] [--worth 0.2] [--frames 2] [--parts thorax slices ...]
       [--set KEY=NUMBER ...]

`--set` changes settings of fit, such as steepness_weight=0.01. Series of a part count alike in the geometric mean of their mean
errors, landmarks in the mean. Parts without landmarks are told by their overlap (Dice).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from contestants import images_of
from held_out import PARTS, Case, data_folder, held_out_cases

from r2n2.benchmark.scores import FrameTruth, score_frame
from r2n2.config import FitConfig
from r2n2.registration.fit import FitMethod, GrowingFit

_COLUMNS = (
    "part",
    "asked for",
    "Gaussians",
    "fewest - most",
    "mean mm",
    "median",
    "95 %",
    "largest",
    "geometric",
    "Dice",
    "s/frame",
)


def line(part: str, cases: list[Case], asked: int | float, config: FitConfig) -> str:
    """A row of the table: a number of Gaussians, or what they have to be worth."""
    if isinstance(asked, int):
        method: FitMethod | GrowingFit = FitMethod(config, gaussians=asked)
    else:
        method = GrowingFit(config.model_copy(update={"worth": asked}))
    counts: list[int] = []
    errors: list[list[float]] = []
    overlaps: list[float] = []
    began = time.process_time()
    found = []
    for case in cases:
        *_, last = method.register(case.pairs)
        found.append(last.transforms())
    seconds = (time.process_time() - began) / sum(map(len, found))
    for case, transforms in zip(cases, found, strict=True):
        series: list[float] = []
        for frame, transform in enumerate(transforms, start=1):
            labels = None if case.masks is None else np.stack([case.masks[0], case.masks[frame]])
            truth = FrameTruth(frame, 0, case.landmarks, labels)
            score = score_frame(images_of(case), frame - 1, transform, truth)
            series += list(score.tre_mm)
            overlaps += [score.dice] if labels is not None else []
            counts.append(len(transform))
        if series:
            errors.append(series)
    cells = [""] * 5
    if errors:
        every = np.concatenate(errors)
        numbers = [every.mean(), np.median(every), np.quantile(every, 0.95), every.max()]
        numbers.append(np.exp(np.mean([np.log(np.mean(series)) for series in errors])))
        cells = [f"{value:.3f}" for value in numbers]
    name = str(asked) if isinstance(asked, int) else f"auto, worth {asked:g}"
    dice = f"{np.mean(overlaps):.4f}" if overlaps else ""
    words = [part, name, f"{np.mean(counts):.1f}", f"{min(counts)} - {max(counts)}", *cells, dice, f"{seconds:.3f}"]
    return f"| {' | '.join(words)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[10, 15, 25, 40, 60])
    parser.add_argument("--worth", type=float, nargs="*", default=[FitConfig().worth])
    parser.add_argument("--frames", type=int, default=2, help="moving frames a series")
    parser.add_argument("--most", type=int, default=None, help="series a part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["thorax", "slices", "unseen", "contoured"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=NUMBER", dest="settings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = dict(text.split("=") for text in arguments.settings)
    config = FitConfig(**{name: float(value) for name, value in given.items()})
    print(f"| {' | '.join(_COLUMNS)} |\n" + "|" + "---|" * len(_COLUMNS))
    for part in arguments.parts:
        data = None if part in ("thorax", "unseen") else data_folder()
        cases = list(held_out_cases((part,), data, frames=arguments.frames, most=arguments.most, validation=True))
        for asked in (*arguments.counts, *arguments.worth):
            print(line(part, cases, asked, config), flush=True)


if __name__ == "__main__":
    main()
