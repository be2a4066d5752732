"""What a displacement does to a frame in numbers: similarity, folding, landmark errors in mm, overlap of labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.benchmark.images import Images
from r2n2.evaluation import dice, folding, target_registration_error, warp_labels
from r2n2.geometry import Space
from r2n2.series import LandmarkSet
from r2n2.similarity import correlation
from r2n2.transform import Transform, warp

__all__ = ["FrameScore", "FrameTruth", "score_frame"]


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """What is known of a frame beside its pixels.

    Parameters
    ----------
    frame, reference
        Indices in the series.
    landmarks
        Of both, if any.
    labels
        (2, *shape) whole numbers, of the reference and of the frame, if any.
    """

    frame: int
    reference: int
    landmarks: LandmarkSet | None = None
    labels: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class FrameScore:
    """One frame registered by one method; NaN or empty where it cannot be told.

    Parameters
    ----------
    frame
        Index in the series.
    correlation_before, correlation
        Correlation coefficient with the reference over the valid pixels.
    folding_percent, min_jacobian
        Share of cells that fold, and the smallest Jacobian determinant.
    before_mm, tre_mm
        Distance of every landmark inside the image, without registration and with.
    dice_before, dice
        Mean over the labels.
    """

    frame: int
    correlation_before: float
    correlation: float
    folding_percent: float
    min_jacobian: float
    before_mm: tuple[float, ...] = field(repr=False)
    tre_mm: tuple[float, ...] = field(repr=False)
    dice_before: float
    dice: float


def score_frame(images: Images, place: int, transform: Transform, truth: FrameTruth) -> FrameScore:
    """Measure a registered frame.

    Parameters
    ----------
    images, place
        The images of the series, and which of the moving ones this is.
    transform
        Maps points of the fixed image into the moving one, as the method gave it.
    truth
        What is known.
    """
    fixed, fixed_valid = (torch.from_numpy(part)[None, None] for part in (images.fixed, images.fixed_valid))
    moving, moving_valid = (torch.from_numpy(part[place])[None, None] for part in (images.moving, images.moving_valid))
    grid = transform.grid
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None].float()
    warped, measured = warp(moving, vectors, grid, mask=moving_valid)
    folds = folding(transform)
    before_mm, tre_mm = _landmark_errors(transform, truth)
    return FrameScore(
        truth.frame,
        float(correlation(fixed, moving, fixed_valid & moving_valid)),
        float(correlation(fixed, warped, measured & fixed_valid)),
        folds.percent,
        folds.min_jacobian,
        before_mm,
        tre_mm,
        *_overlaps(transform, truth),
    )


def _landmark_errors(transform: Transform, truth: FrameTruth) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if truth.landmarks is None:
        return (), ()
    table = target_registration_error({truth.frame: transform}, truth.landmarks, truth.reference, transform.grid)
    rows = table.included(truth.frame)
    return tuple(row.before_mm for row in rows), tuple(row.after_mm for row in rows)


def _overlaps(transform: Transform, truth: FrameTruth) -> tuple[float, float]:
    if truth.labels is None:
        return math.nan, math.nan
    fixed, moving = truth.labels
    before, after = (dice(fixed, labels) for labels in (moving, warp_labels(moving, transform)))
    return tuple(float(np.mean(list(overlaps.values()))) if overlaps else math.nan for overlaps in (before, after))  # type: ignore[return-value]
