"""Register series to a reference frame, to their mean or median, and from neighbour to neighbour; print landmark errors of each.

usage: python benchmarks/neighbours.py [--seeds 3] [--frames 24] [--kinds ..] [--method r2n2]

Every way is given the same frames and the same reference frame, the automatic one, in whose place the errors are. Frames follow
each other in time: simulated thoraxes; slices of cine patients moved by patterns that swell and fade; drawn ultrasound whose
scatterers stay, and of which a share is renewed in every frame. "far" is the mean error of the quarter of the frames farthest
from the reference in time, where errors from neighbour to neighbour have added up. Development data: seeds from 100 on, and
patients that no test is made of.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from held_out import Case, data_folder, moved_pictures
from moved_slices import acquired, landmarks_of, moved, textured_places
from unseen_kind import motions_in_time, ultrasound

from r2n2.config import RegistrationConfig
from r2n2.evaluation import target_registration_error
from r2n2.registration import FrameStatus, automatic_reference, register_series
from r2n2.simulation import ThoraxConfig, thorax_series
from r2n2.transform import GaussianSequence

KINDS = {"thorax": None, "cine": None, "ultrasound": 0.0, "ultrasound, 10 % renewed": 0.1, "ultrasound, 30 % renewed": 0.3}
TARGETS = ("reference", "mean", "median", "previous")
_FIRST_SEED = 100


def cases(kind: str, count: int, frames: int) -> Iterator[Case]:
    if kind == "thorax":
        for seed in range(_FIRST_SEED, _FIRST_SEED + count):
            truth = thorax_series(ThoraxConfig(seed=seed, frames=frames))
            stack = torch.from_numpy(np.stack([truth.series.frame(k) for k in range(frames)]).astype(np.float32))
            yield Case("thorax", f"thorax {seed}", stack, truth.series.grid, truth.landmarks)
    elif kind == "cine":
        pictures = itertools.islice(moved_pictures(data_folder(), 50, 1, validation=True), count)
        for number, (name, image, grid, _) in enumerate(pictures):
            rng = np.random.default_rng([_FIRST_SEED + number, 14])
            motions = motions_in_time(rng, len(image), frames - 1, 0.02)
            shown = np.stack([image, *(moved(image, motion) for motion in motions)])
            marks = landmarks_of(textured_places(image, 40), motions)
            yield Case("cine", name, acquired(rng, shown), grid, marks)
    else:
        for seed in range(_FIRST_SEED, _FIRST_SEED + count):
            drawn = ultrasound(seed, frames - 1, renewed=KINDS[kind])
            yield Case("ultrasound", f"ultrasound {seed}", drawn.frames, drawn.grid, drawn.landmarks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--method", default="r2n2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| kind | registered to | mean mm | 95 % mm | largest mm | far mm | doubtful | s a frame |")
    print("|---" * 8 + "|")
    for kind in arguments.kinds:
        made = list(cases(kind, arguments.seeds, arguments.frames))
        for target in (None, *arguments.targets):
            print(_row(kind, target, made, arguments.method), flush=True)


def _row(kind: str, target: str | None, made: list[Case], method: str) -> str:
    errors, far, doubtful, began, total = [], [], 0, time.process_time(), 0
    for case in made:
        series, count = case.series, len(case.frames)
        reference = automatic_reference(series)
        results = {}
        if target is not None:
            config = RegistrationConfig(method=method, reference=reference, target=target, uncertainty="off")
            for progress in register_series(series, config):
                results.update({result.frame: result for result in progress.finished})
        transforms = {frame: result.transform for frame, result in results.items()}
        farthest = sorted(range(count), key=lambda frame: -abs(frame - reference))[: count // 4]
        if target is None:
            transforms = dict.fromkeys(range(count), GaussianSequence.identity(case.grid))
        table = target_registration_error(transforms, case.landmarks, reference, case.grid)
        errors += [row.after_mm for row in table.included() if row.frame != reference]
        far += [row.after_mm for row in table.included() if row.frame in farthest]
        doubtful += sum(result.status is not FrameStatus.OK for result in results.values()) - bool(results)
        total += count - 1
    quantile = float(np.quantile(errors, 0.95))
    seconds = (time.process_time() - began) / total
    name = "not at all" if target is None else target
    told = f"{doubtful} of {total} | {seconds:.2f}" if target else " | "
    return f"| {kind} | {name} | {np.mean(errors):.2f} | {quantile:.2f} | {max(errors):.1f} | {np.mean(far):.2f} | {told} |"


if __name__ == "__main__":
    main()
