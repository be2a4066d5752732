"""Draw how the paper's network learns: error of checkpoints on people held out, with the errors of B-spline and fit as lines.

usage: python benchmarks/paper_curve.py FIGURE.png --data FILE... --people NAME... [--size 64] CHECKPOINT...

CHECKPOINTs are weights of one run whose manifests tell their minutes of training. The error is the mean distance to the true
displacement over all pixels, in mm, of all pairs of those people in the data files, on squares of --size pixels for every method.
What was measured is kept in FIGURE.json, and only what is new is measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from r2n2.config import BSplineConfig, FitConfig
from r2n2.geometry import Grid
from r2n2.network.checkpoint import load_network, read_manifest
from r2n2.preprocessing import to_square
from r2n2.registration import BSplineMethod, FitMethod, Method, Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.training.data.file import read_data_file
from r2n2.transform import resample

BATCH = 8
STEPS = 25


def held_out(files: list[Path], people: list[str], size: int) -> tuple[Pairs, Tensor, float]:
    """Pairs, their true displacement (B, 2, n, n) NORMALISED, and mm of one NORMALISED unit."""
    items = [pair for file in files for pair in read_data_file(file).pairs if pair.patient in people]
    grid = Grid(tuple(items[0].fixed.shape[1:]), items[0].spacing)
    valid = torch.ones(len(items), 1, *grid.shape, dtype=torch.bool)
    fixed, moving = (
        to_square(torch.stack([getattr(item, name) for item in items]), valid, grid, size) for name in ("fixed", "moving")
    )
    truth = resample(torch.stack([item.displacement for item in items]), grid, fixed.grid).image
    return Pairs(fixed.images, moving.images, fixed.valid, moving.valid, Grid((size, size))), truth, grid.unit_mm


def errors(method: Method, pairs: Pairs, truth: Tensor, *, every_step: bool = False) -> list[float]:
    """Mean distance to the truth, NORMALISED: of the result, or of every step and, first, of none."""
    sums: list[list[float]] = []
    for first in range(0, len(pairs), BATCH):
        part = pairs.part(slice(first, first + BATCH))
        exact = truth[first : first + BATCH]
        *_, last = method.register(part)
        if every_step:
            fields = torch.stack([one.partial_sums() for one in last.transforms()], 1)
        else:
            fields = torch.stack([one.displacement_field().vectors.float() for one in last.transforms()])[None]
        sums.append([float((field - exact).norm(dim=1).mean()) * len(part) for field in fields])
    return [sum(column) / len(pairs) for column in zip(*sums, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--people", nargs="+", required=True)
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    kept = given.figure.with_suffix(".json")
    found: dict[str, list[float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    pairs, truth, unit = held_out(given.data, given.people, given.size)
    found["before"] = [unit * float(truth.norm(dim=1).mean())]
    for name, method in (("B-spline", BSplineMethod(BSplineConfig())), ("fit", FitMethod(FitConfig()))):
        if name not in found:
            found[name] = [unit * error for error in errors(method, pairs, truth)]
    for file in given.checkpoints:
        if file.name not in found:
            network = load_network(file).eval()
            network.config = network.config.model_copy(update={"working_size": given.size})
            method = RecurrentMethod(network, steps=STEPS)
            found[file.name] = [unit * error for error in errors(method, pairs, truth, every_step=True)]
            print(f"{file.name}: {found[file.name][-1]:.3f} mm", flush=True)
        kept.write_text(json.dumps(found))
    draw(given.figure, found, [(float(read_manifest(file).info["minutes"]), file.name) for file in given.checkpoints])


def draw(figure_path: Path, found: dict[str, list[float]], checkpoints: list[tuple[float, str]]) -> None:
    """Error against minutes, and against steps for some checkpoints."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    ordered = sorted(checkpoints)
    left.plot([minutes for minutes, _ in ordered], [found[name][-1] for _, name in ordered], "o-", label=f"R2N2, {STEPS} steps")
    left.plot([minutes for minutes, _ in ordered], [min(found[name]) for _, name in ordered], "o:", label="R2N2, best step")
    shown = sorted({0, len(ordered) // 2, len(ordered) - 1})
    for shade, index in zip(np.linspace(0.75, 0.0, len(shown)), shown, strict=True):
        minutes, name = ordered[index]
        right.plot(found[name], color=str(shade), label=f"after {minutes:.0f} min")
    for axis in (left, right):
        for colour, name in (("C1", "B-spline"), ("C2", "fit"), ("0.5", "before")):
            axis.axhline(found[name][0], color=colour, linestyle="--", linewidth=1, label=name)
    left.set(xlabel="minutes of training", ylabel="mean displacement error, mm", ylim=(0, None))
    right.set(xlabel="step t")
    left.legend(frameon=False, fontsize=7)
    right.legend(frameon=False, fontsize=7)
    figure.savefig(figure_path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
