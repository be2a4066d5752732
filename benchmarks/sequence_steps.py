"""What each step of the sequence brings, by both networks: error against t in one figure, and the paper's Figure 7 of each.

usage: python benchmarks/sequence_steps.py OUT --data FILE... --people NAME... [--networks paper general] [--pairs 24]

FILE is a data file of pairs whose displacement is known, as `python -m r2n2.training.data.thorax` writes it; NAMEs are people who
were held out. The error is the mean distance to the true displacement over all pixels, in mm. A network that solves its amplitudes
again is shown as it stood after every step, not as a part of its last sequence. OUT/steps.json keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from learning_curves import COLOURS, STYLE
from matplotlib import pyplot as plt
from paper_figures import FIGURE_7_STEPS, draw_figure_7
from torch import Tensor

from r2n2.config import BSplineConfig
from r2n2.geometry import Grid
from r2n2.network.checkpoint import load_network
from r2n2.registration import BSplineMethod, Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.training.data.file import read_data_file
from r2n2.transform import GaussianSequence

STEPS = 25
BATCH = 8


def held_out(files: list[Path], people: list[str], most: int) -> tuple[Pairs, Tensor]:
    """At most so many pairs, evenly, and their true displacement (B, 2, *shape) NORMALISED."""
    items = [
        pair for file in files for pair in read_data_file(file).pairs if pair.patient in people and pair.displacement is not None
    ]
    if not items:
        raise SystemExit(f"--people: {', '.join(people)} have no pairs with a known displacement in these files")
    items = [items[k] for k in sorted({round(k) for k in np.linspace(0, len(items) - 1, min(most, len(items)))})]
    grid = Grid(tuple(items[0].fixed.shape[1:]), items[0].spacing)
    fixed, moving, truth = (torch.stack([getattr(item, name) for item in items]) for name in ("fixed", "moving", "displacement"))
    valid = torch.ones_like(fixed, dtype=torch.bool)
    return Pairs(fixed, moving, valid, valid, grid), truth


def errors_of(found: list[Tensor], truth: Tensor, unit_mm: float) -> list[float]:
    """Mean distance to the truth of each pair, mm."""
    return (unit_mm * (torch.stack(found) - truth).norm(dim=1).flatten(1).mean(1)).tolist()


def by_steps(weights: str, pairs: Pairs, truth: Tensor, shown: int) -> tuple[list[list[float]], dict[int, GaussianSequence]]:
    """Errors (step, pair) after 0, 1, ... steps, and the sequence of pair ``shown`` at the steps of Figure 7."""
    method = RecurrentMethod(load_network(weights).eval(), steps=STEPS)
    unit, stages = pairs.grid.unit_mm, {}
    errors = [errors_of(list(torch.zeros_like(truth)), truth, unit), *([] for _ in range(STEPS))]
    for first in range(0, len(pairs), BATCH):
        for step in method.register(pairs.part(slice(first, first + BATCH))):
            sequences = step.transforms()
            fields = [one.displacement_field().vectors for one in sequences]
            errors[step.index] += errors_of(fields, truth[first : first + BATCH], unit)
            if first <= shown < first + BATCH and step.index in FIGURE_7_STEPS:
                stages[step.index] = sequences[shown - first]
    return errors, stages


def spline_errors(pairs: Pairs, truth: Tensor) -> list[float]:
    found: list[Tensor] = []
    for first in range(0, len(pairs), BATCH):
        *_, last = BSplineMethod(BSplineConfig()).register(pairs.part(slice(first, first + BATCH)))
        found += [one.displacement_field().vectors.float() for one in last.transforms()]
    return errors_of(found, truth, pairs.grid.unit_mm)


def draw(path: Path, errors: dict[str, list[list[float]]], spline_mm: float) -> None:
    """Mean over the pairs after every step, quartiles as a band, the B-spline's mean as a line."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
        for (name, table), colour in zip(errors.items(), COLOURS, strict=False):
            values = np.array(table)
            low, high = np.quantile(values, (0.25, 0.75), axis=1)
            axis.fill_between(range(len(values)), low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(values.mean(1), "o-", color=colour, markersize=2.2, label=f"network {name}")
        axis.axhline(spline_mm, color="0.4", linestyle="--", linewidth=0.9, label="B-spline")
        axis.set(xlabel="step t", ylabel="mean displacement error, mm", xlim=(0, STEPS + 0.3), ylim=(0, None))
        axis.grid(axis="y")
        axis.legend(framealpha=1, edgecolor="none")
        figure.savefig(path, dpi=200)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--people", nargs="+", required=True)
    parser.add_argument("--networks", nargs="+", default=["paper", "general"], help="names or files of weights")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    pairs, truth = held_out(given.data, given.people, given.pairs)
    # The pair that moves most says most.
    shown = int(truth.norm(dim=1).flatten(1).mean(1).argmax())
    errors: dict[str, list[list[float]]] = {}
    for weights in given.networks:
        name = Path(weights).stem
        errors[name], stages = by_steps(weights, pairs, truth, shown)
        draw_figure_7(given.out / f"figure7_{name}.png", pairs, shown, stages)
    spline = spline_errors(pairs, truth)
    (given.out / "steps.json").write_text(json.dumps({"networks": errors, "B-spline": spline}), encoding="utf-8")
    draw(given.out / "steps_of_both.png", errors, float(np.mean(spline)))
    print(f"{len(pairs)} pairs of {', '.join(given.people)}, {pairs.grid.shape[0]} x {pairs.grid.shape[1]} pixels\n")
    steps = (0, 1, *FIGURE_7_STEPS)
    print("| mean error, mm | " + " | ".join(f"t = {step}" for step in steps) + " |\n|" + "---|" * (len(steps) + 1))
    for name, table in errors.items():
        print(f"| {name} | " + " | ".join(f"{np.mean(table[step]):.2f}" for step in steps) + " |")
    print(f"\nB-spline: {np.mean(spline):.2f} mm")


if __name__ == "__main__":
    main()
