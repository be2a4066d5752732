"""One frame registered by one method in numbers: landmark errors, overlap, folding, similarity, time, size."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from contestants import Contestant, numbers_of
from held_out import Case

from r2n2.evaluation import dice, folding, target_registration_error, warp_labels
from r2n2.geometry import Space
from r2n2.similarity import correlation
from r2n2.transform import warp

__all__ = ["Score", "scores_of"]

NAN = float("nan")


@dataclass(frozen=True)
class Score:
    """One frame registered by one method; NaN or empty where it cannot be told."""

    method: str
    part: str
    series: str
    frame: int
    before_mm: list[float] = field(repr=False)
    after_mm: list[float] = field(repr=False)
    dice_before: float
    dice_after: float
    folding_percent: float
    correlation_before: float
    correlation: float
    seconds: float
    numbers: int


def scores_of(contestant: Contestant, whole: Case) -> list[Score]:
    """Register a series and measure every frame."""
    case = whole.first(contestant.most_frames)
    register = contestant.register if contestant.prepare is None else contestant.prepare(case)
    if register is None:
        return []
    began = time.perf_counter()
    found = register(case)
    seconds = (time.perf_counter() - began) / len(found.transforms)
    transforms = dict(enumerate(found.transforms, start=1))
    table = None
    if case.landmarks is not None:
        table = target_registration_error(transforms, case.landmarks, 0, case.grid)
    scores = []
    for frame, transform in transforms.items():
        vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None].float()
        fixed, moving = case.frames[:1], case.frames[frame : frame + 1]
        warped = warp(moving, vectors, case.grid)
        rows = table.included(frame) if table else ()
        overlap = (NAN, NAN)
        if case.masks is not None:
            carried = warp_labels(case.masks[frame], transform)
            overlap = tuple(dice(case.masks[0], mask).get(1, NAN) for mask in (case.masks[frame], carried))
        scores.append(
            Score(
                contestant.name,
                case.part,
                case.name,
                frame,
                [row.before_mm for row in rows],
                [row.after_mm for row in rows],
                *overlap,
                folding(transform).percent,
                float(correlation(fixed, moving, torch.ones_like(fixed, dtype=torch.bool))),
                float(correlation(fixed, warped.image, warped.valid)),
                seconds,
                numbers_of(transform) if found.numbers is None else found.numbers,
            )
        )
    return scores
