"""One frame registered by one method in numbers: landmark errors, overlap, folding, similarity, time, size."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
from contestants import Entry, images_of
from held_out import Case

from r2n2.benchmark.scores import FrameScore, FrameTruth, score_frame

__all__ = ["Score", "scores_of"]


@dataclass(frozen=True)
class Score(FrameScore):
    """One frame registered by one method; NaN or empty where it cannot be told."""

    method: str
    part: str
    series: str
    seconds: float
    numbers: int


def scores_of(contestant: Entry, whole: Case) -> list[Score]:
    """Register a series and measure every frame."""
    case = whole.first(contestant.most_frames)
    register = contestant.register if contestant.prepare is None else contestant.prepare(case)
    if register is None:
        return []
    began = time.perf_counter()
    found = register(case)
    seconds = (time.perf_counter() - began) / len(found.transforms)
    images = images_of(case)
    scores = []
    for frame, transform in enumerate(found.transforms, start=1):
        labels = None if case.masks is None else np.stack([case.masks[0], case.masks[frame]])
        measured = score_frame(images, frame - 1, transform, FrameTruth(frame, 0, case.landmarks, labels))
        scores.append(
            Score(
                **asdict(measured),
                method=contestant.name,
                part=case.part,
                series=case.name,
                seconds=seconds,
                numbers=found.numbers,
            )
        )
    return scores
