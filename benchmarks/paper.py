"""The paper's experiment on a simulated cohort: Table 1, size of a transform, time of a pair, error against steps, Figure 7.

usage: python benchmarks/paper.py OUT --weights FILE [--part validation] [--small] [--slices 14] [--frames 20] [--observer-mm 0.8]

One breath of 21 frames a slice position is registered to the frame nearest the mean, by the network and by the B-spline of the
paper. OUT keeps what was measured of every slice position, so that a run goes on where it stopped; another network needs another
OUT, or --again. --small takes 2 people, 2 slice positions and 3 frames of 128 pixels each: minutes. Settings are chosen on
``--part validation``; the test people are for the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from paper_cohort import PARTS, Breath, breaths_of, observed
from paper_figures import FIGURE_7_STEPS, draw_error_against_steps, draw_figure_7

from r2n2.config import RegistrationConfig
from r2n2.evaluation import target_registration_error
from r2n2.registration import build_method
from r2n2.transform import GaussianSequence, Transform, folding_percent, jacobian_determinant

METHODS = ("r2n2", "bspline")
LABELS = {"r2n2": "R2N2", "bspline": "BS"}


@dataclass(frozen=True)
class Measured:
    """One slice position registered by one method; errors in mm, one a frame."""

    method: str
    person: int
    number: int
    before: list[float]
    exact: list[float]
    observed: list[float]
    folding_percent: list[float]
    numbers: int
    seconds_a_pair: float
    by_steps: list[float] = field(default_factory=list)
    """Mean error with the first 0, 1, ... steps alone."""


def config_of(method: str, weights: str, steps: int, precision: str) -> RegistrationConfig:
    network = {"weights": weights, "steps": steps, "refine": False, "stop_early": False, "device": "cpu", "precision": precision}
    return RegistrationConfig.parse({"method": method, **(network if method == "r2n2" else {})})


def measure(breath: Breath, method: str, config: RegistrationConfig, observer_mm: float) -> tuple[Measured, list[Transform]]:
    """Register a breath and compare with the truth."""
    pairs = breath.pairs
    registering = build_method(config)
    # Of the processor, not of the clock: what else runs on the machine does not count.
    began = time.process_time()
    *_, last = registering.register(pairs)
    seconds = (time.process_time() - began) / len(pairs)
    transforms = list(last.transforms())
    marks = breath.landmarks

    def errors(which: list[Transform], landmarks: object = marks) -> tuple[list[float], list[float]]:
        table = target_registration_error(dict(zip(breath.frames, which, strict=True)), landmarks, breath.reference, pairs.grid)
        return [table.before(k).mean_mm for k in table.frames], [table.after(k).mean_mm for k in table.frames]

    before, exact = errors(transforms)
    seed = 100 * breath.person + breath.number
    placed = errors(transforms, observed(marks, pairs.grid.spacing, observer_mm, seed))[1]
    folding = [
        float(folding_percent(jacobian_determinant(one.displacement_field().vectors[None], pairs.grid))[0]) for one in transforms
    ]
    by_steps = []
    if all(isinstance(one, GaussianSequence) for one in transforms):
        longest = max(len(one) for one in transforms)
        by_steps = [float(np.mean(errors([one.select(slice(0, upto)) for one in transforms])[1])) for upto in range(longest + 1)]
    numbers = max(numbers_of(one) for one in transforms)
    found = Measured(method, breath.person, breath.number, before, exact, placed, folding, numbers, seconds, by_steps)
    return found, transforms


def numbers_of(transform: Transform) -> int:
    """How many numbers describe it."""
    if isinstance(transform, GaussianSequence):
        return sum(part.numel() for part in (transform.centres, transform.sigmas, transform.orientation, transform.amplitudes))
    return transform.control.numel()


def table_1(found: list[Measured], kind: str) -> Iterator[str]:
    """Slice by slice the mean and the largest error of the breath's frames, and the mean of each person, as in the paper."""
    people = sorted({one.person for one in found})
    most = max(sum(one.person == person and one.method == METHODS[0] for one in found) for person in people)
    yield "| person | method | " + " | ".join(f"slice {k + 1}" for k in range(most)) + " | mean |"
    yield "|" + "---|" * (most + 3)
    for person in people:
        for method in METHODS:
            slices = [one for one in found if (one.person, one.method) == (person, method)]
            means = [np.mean(getattr(one, kind)) for one in slices]
            cells = [f"{mean:.2f} <sub>{max(getattr(one, kind)):.2f}</sub>" for mean, one in zip(means, slices, strict=True)]
            cells += [""] * (most - len(cells))
            yield f"| {person} | {LABELS[method]} | {' | '.join(cells)} | {np.mean(means):.2f} |"


def summary(found: list[Measured]) -> Iterator[str]:
    """What the paper claims, in one table."""
    yield "| | before | R2N2 | B-spline | ratio |\n|---|---|---|---|---|"
    parts = {method: [one for one in found if one.method == method] for method in METHODS}
    ours, theirs = (parts[method] for method in METHODS)
    for kind, title in (("exact", "mean TRE, exact landmarks, mm"), ("observed", "mean TRE, landmarks as placed, mm")):
        before, one, other = (
            np.mean([np.mean(getattr(item, what)) for item in part])
            for part, what in ((ours, "before"), (ours, kind), (theirs, kind))
        )
        yield f"| {title} | {before:.2f} | {one:.2f} | {other:.2f} | {one / other:.2f} |"
    worse = [sum(np.mean(item.exact) >= np.mean(item.before) for item in part) for part in (ours, theirs)]
    yield f"| slice positions no better than nothing, of {len(ours)} | | {worse[0]} | {worse[1]} | |"
    folded = [np.mean([np.mean(item.folding_percent) for item in part]) for part in (ours, theirs)]
    yield f"| folding, % of pixels | | {folded[0]:.4f} | {folded[1]:.4f} | |"
    counts = [max(item.numbers for item in part) for part in (ours, theirs)]
    yield f"| numbers of a transform | | {counts[0]} | {counts[1]} | {100 * counts[0] / counts[1]:.1f} % |"
    seconds = [np.median([item.seconds_a_pair for item in part]) for part in (ours, theirs)]
    faster = seconds[1] / seconds[0]
    yield f"| processor seconds a pair, median | | {seconds[0]:.3f} | {seconds[1]:.3f} | {faster:.1f} times as fast |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="paper")
    parser.add_argument("--part", choices=["validation", "test"], default="validation")
    parser.add_argument("--method", choices=METHODS, help="measure this one alone, and print nothing: the other comes later")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--series-frames", type=int, default=140)
    parser.add_argument("--slices", type=int, default=14, help="most slice positions of a person")
    parser.add_argument("--frames", type=int, default=20, help="frames of a breath that are registered")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--observer-mm", type=float, default=0.8, help="mean distance of a placed landmark from its place")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure the network again: its weights are others")
    given = parser.parse_args()
    people = PARTS[given.part]
    if given.small:
        people, given.size, given.series_frames, given.slices, given.frames = people[:2], 128, 42, 2, 3
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    found: list[Measured] = []
    example: tuple[float, Breath, int, GaussianSequence] | None = None
    for person in people:
        breaths = breaths_of(
            person,
            size=given.size,
            series_frames=given.series_frames,
            frames=given.frames,
            most_slices=given.slices,
            kept=given.out,
        )
        for breath in breaths:
            for method in [given.method] if given.method else METHODS:
                file = given.out / f"{given.part}-{breath.name}-{method}.json"
                if file.is_file() and not (given.again and method == "r2n2"):
                    found.append(Measured(**json.loads(file.read_text())))
                    continue
                measured, transforms = measure(
                    breath, method, config_of(method, given.weights, given.steps, given.precision), given.observer_mm
                )
                file.write_text(json.dumps(asdict(measured)))
                found.append(measured)
                print(f"{breath.name} {method}: {np.mean(measured.before):.2f} -> {np.mean(measured.exact):.2f} mm", flush=True)
                if method == "r2n2":
                    most = int(np.argmax(measured.before))
                    if example is None or measured.before[most] > example[0]:
                        example = measured.before[most], breath, most, transforms[most]
    if given.method:
        return
    print(
        f"\n{given.part}: {len(people)} people, {len(found) // 2} slice positions, {given.frames} frames each of "
        f"{given.size} x {given.size} pixels, reference of {given.series_frames} frames, {given.threads} threads\n"
    )
    for kind, title in (("observed", f"landmarks placed with an error of {given.observer_mm} mm"), ("exact", "exact landmarks")):
        print(f"Mean TRE in mm, small: the largest of all frames; {title}\n")
        print("\n".join(table_1(found, kind)) + "\n")
    print("\n".join(summary(found)))
    draw_error_against_steps(given.out / "steps.png", [one.by_steps for one in found if one.by_steps], _spline_error(found))
    if example is not None:
        _, breath, index, sequence = example
        stages = {step: sequence.select(slice(0, step)) for step in FIGURE_7_STEPS}
        draw_figure_7(given.out / "figure7.png", breath.pairs, index, stages)


def _spline_error(found: list[Measured]) -> float:
    return float(np.mean([np.mean(one.exact) for one in found if one.method == "bspline"]))


if __name__ == "__main__":
    main()
