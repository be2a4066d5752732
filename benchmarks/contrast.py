"""Register series whose contrast changes while the motion is known exactly, and print landmark errors a kind of change and measure.

usage: python benchmarks/contrast.py [--test] [--seeds 4] [--frames 8] [--kinds ..] [--measures ..] [--slices N]

Thoraxes seen in five changes of contrast and in none (``r2n2.simulation.contrast``); with --slices also slices of cine patients
moved by known motions. Every method is given the same frames and the same reference, that of ``r2n2 register``. "start" is no
registration; "auto" is what ``r2n2 register`` does. elastix is its cubic B-spline, 16 pixels, by mutual information (Advanced
Mattes) with bending energy, on the first frames of each series alone. Times are processor seconds a frame, all on one thread.

Seeds 100 and up chose the settings; --test takes 0 and up, and slices of the patients that no setting was chosen on.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from held_out import Case, data_folder, moved_pictures
from moved_slices import acquired, landmarks_of, moved, textured_places

from r2n2.benchmark.programs import elastix, z_scored
from r2n2.config import RegistrationConfig
from r2n2.evaluation import target_registration_error
from r2n2.geometry import Space
from r2n2.registration import FrameStatus, register_series, resolve_reference
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.simulation import ContrastKind, ThoraxConfig, thorax_series
from r2n2.simulation.contrast import contrast_of_picture
from r2n2.transform import DisplacementField, Transform

MEASURES = ("ssd", "lncc", "mind", "ngf", "curve")
NAMES = {"none": None, **{str(kind).replace(" ", "-"): kind for kind in ContrastKind}}
INTERVAL_S = 0.53  # so that few frames show a whole breath


@dataclass(frozen=True)
class Score:
    """One series by one method: (frames,) mean errors in mm, seconds a frame, how many were told to be doubtful or worse."""

    errors: tuple[float, ...]
    seconds: float
    flagged: int = 0


def thoraxes(seeds: Sequence[int], frames: int, kind: ContrastKind | None) -> Iterator[Case]:
    for seed in seeds:
        truth = thorax_series(ThoraxConfig(seed=seed, frames=frames, frame_interval_s=INTERVAL_S), kind)
        stack = torch.from_numpy(np.stack([truth.series.frame(k) for k in range(frames)]).astype(np.float32))
        yield Case("thorax", f"thorax {seed}", stack, truth.series.grid, truth.landmarks)


def slices(seed: int, count: int, frames: int, kind: ContrastKind | None, *, test: bool) -> Iterator[Case]:
    """Pictures moved by known motions, each frame then seen in a contrast of its own."""
    pictures = itertools.islice(moved_pictures(data_folder(), seed, frames - 1, validation=not test), count)
    for number, (name, image, grid, motions) in enumerate(pictures):
        rng = np.random.default_rng([seed + number, 22])
        shown = np.stack([image, *(moved(image, motion) for motion in motions)])
        if kind is not None:
            change = contrast_of_picture(rng, image, kind, frames)
            seen = [change.shown(image if (f := change.factor(k)) is None else image * f, k) for k in range(frames)]
            shown = np.stack([seen[0], *(moved(part, motion) for part, motion in zip(seen[1:], motions, strict=True))])
        marks = landmarks_of(textured_places(image, 40), motions)
        stack = acquired(rng, np.abs(shown)) if kind is not ContrastKind.SIGNED_RECOVERY else _signed(rng, shown)
        yield Case("slices", name, stack, grid, marks)


def _signed(rng: np.random.Generator, frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(1000 * (frames + rng.normal(0, 0.02, frames.shape))).float()[:, None]


def errors_of(case: Case, reference: int, transforms: dict[int, Transform]) -> tuple[float, ...]:
    assert isinstance(case.landmarks, LandmarkSet)
    table = target_registration_error(transforms, case.landmarks, reference, case.grid)
    return tuple(table.after(frame).mean_mm for frame in transforms)


def by_measure(case: Case, reference: int, measure: str) -> Score:
    series = ImageSeries(case.frames.numpy(), case.grid)
    config = RegistrationConfig.parse({"similarity": measure, "reference": reference, "device": "cpu"})
    began, found = time.process_time(), {}
    for progress in register_series(series, config):
        found.update({result.frame: result for result in progress.finished if result.frame != reference})
    seconds = (time.process_time() - began) / len(found)
    flagged = sum(result.status is not FrameStatus.OK for result in found.values())
    return Score(errors_of(case, reference, {k: r.transform for k, r in found.items()}), seconds, flagged)


def by_elastix(case: Case, reference: int, frames: int) -> Score:
    program = elastix(case.grid.spacing, 1, control_px=16, metric="AdvancedMattesMutualInformation")
    images = [z_scored(image, np.ones(case.grid.shape, dtype=bool)) for image in case.frames[:, 0].numpy()]
    began, found = time.process_time(), {}
    for frame in [k for k in range(len(images)) if k != reference][:frames]:
        vectors = torch.from_numpy(program(images[reference], images[frame]).vectors_px).double()
        found[frame] = DisplacementField(vectors, case.grid, Space.INDEX)
    return Score(errors_of(case, reference, found), (time.process_time() - began) / max(len(found), 1))


def scores(case: Case, measures: Sequence[str], elastix_frames: int) -> dict[str, Score]:
    reference = resolve_reference(ImageSeries(case.frames.numpy(), case.grid), "auto")
    others = [k for k in range(len(case.frames)) if k != reference]
    still = {k: DisplacementField.identity(case.grid) for k in others}
    found = {"start": Score(errors_of(case, reference, still), 0.0)}
    for measure in (*measures, "auto"):
        found[measure] = by_measure(case, reference, measure)
    if elastix_frames:
        found["elastix MI"] = by_elastix(case, reference, elastix_frames)
        # The same frames by our own, which the two are compared on.
        found["auto, those frames"] = replace(found["auto"], errors=found["auto"].errors[:elastix_frames], flagged=0)
    return found


def row(name: str, all_scores: Sequence[dict[str, Score]], method: str) -> str:
    parts = [scores[method] for scores in all_scores]
    errors = np.concatenate([part.errors for part in parts])
    start = [np.mean(scores["start"].errors) for scores in all_scores]
    worse = sum(np.mean(part.errors) > before for part, before in zip(parts, start, strict=True)) if len(errors) else 0
    return (
        f"| {name} | {method} | {errors.mean():.2f} | {np.median(errors):.2f} | {errors.max():.2f} | {worse} of {len(parts)} "
        f"| {sum(part.flagged for part in parts)} of {len(errors)} | {np.mean([part.seconds for part in parts]):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--seeds", type=int, default=4, help="how many")
    parser.add_argument("--first", type=int, default=None, help="first seed; 0 with --test, else 100")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--measures", nargs="*", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--elastix-frames", type=int, default=3)
    parser.add_argument("--slices", type=int, default=0, help="how many moved slices beside the thoraxes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = arguments.first if arguments.first is not None else (0 if arguments.test else 100)
    print("| contrast | method | mean mm | median | worst frame | series worse than start | frames flagged | s/frame |")
    print("|" + "---|" * 8)
    for name in arguments.kinds:
        kind = NAMES[name]
        sources = [("thorax", thoraxes(range(first, first + arguments.seeds), arguments.frames, kind))]
        if arguments.slices:
            pictures = slices(first, arguments.slices, arguments.frames, kind, test=arguments.test)
            sources.append(("slices", pictures))
        for source, cases in sources:
            found = [scores(case, arguments.measures, arguments.elastix_frames) for case in cases]
            for method in found[0] if found else ():
                print(row(f"{source}, {name}", found, method), flush=True)


if __name__ == "__main__":
    main()
