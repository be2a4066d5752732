"""One frame of a registered series fitted again: with guiding pairs, or around Gaussians that a person set."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.guides import Guides, GuidingPairs
from r2n2.mask import NO_MASKS, Masks
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.batch import LoadedFrame, assess, assess_edited
from r2n2.registration.fit.held import HeldFit
from r2n2.registration.fit.refit import GuidedRefit
from r2n2.registration.measures import measure_of
from r2n2.registration.methods import resolve_device
from r2n2.registration.passes import needed_frame
from r2n2.registration.results import FrameResult
from r2n2.registration.uncertainty import uncertainty_estimator
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence

__all__ = ["refit_around", "refit_frame"]


def refit_frame(
    series: ImageSeries,
    reference: int,
    result: FrameResult,
    guides: Guides,
    config: RegistrationConfig,
    *,
    masks: Masks = NO_MASKS,
) -> Generator[float, None, FrameResult]:
    """Fit a frame again from its result, yielding the share done; the new result is returned.

    Parameters
    ----------
    series
        The registered series.
    reference
        Its reference frame.
    result
        Of the frame, as registered.
    guides
        Pairs of points, of this frame and perhaps of others.
    config
        How it was registered.
    masks
        What counted.

    Raises
    ------
    ArgumentError
        If the frame has no pair, its result is no sum of Gaussians, or the frames are not registered to the reference.
    ReadError
        If a point lies outside its image, or a frame cannot be read any more.
    """
    pairs = guides.pairs(reference, series.grid).get(result.frame)
    if pairs is None:
        raise ArgumentError(f"guide: frame {result.frame} has no guiding pair; mark a place in the reference and in this frame")
    if config.target == "previous":
        raise ArgumentError("guide: with target previous frames are aligned to their neighbours, not to where pairs are marked")
    config = config.of_grid(series.grid.ndim).model_copy(update={"similarity": result.similarity_measure})
    fixed, moving = needed_frame(series, reference, masks.fixed), needed_frame(series, result.frame, masks.moving)
    batch = _batch(series, fixed, moving, config, pairs)
    measure = measure_of(result.similarity_measure, clamp=config.fit.clamp)
    last: RegistrationStep | None = None
    for last in GuidedRefit(config.fit, measure=measure).register(batch, result.transform):
        yield last.index / last.total
    assert last is not None
    found = last.transforms()
    estimator = uncertainty_estimator(config) if config.estimates_uncertainty else None
    uncertainty = None
    if estimator is not None:
        with torch.inference_mode():
            (uncertainty,) = estimator.estimate(batch, found)
    loss = float(last.loss[0])
    return assess(fixed, moving, found[0], loss, result.seconds, uncertainty=uncertainty, measure=measure, guides=pairs)


def refit_around(
    series: ImageSeries,
    reference: int,
    result: FrameResult,
    held: Sequence[int],
    config: RegistrationConfig,
    *,
    masks: Masks = NO_MASKS,
    guides: Guides | None = None,
    message: str = "",
) -> Generator[float, None, FrameResult]:
    """Fit all Gaussians of a frame again but some that a person set, yielding the share done; the result has the status EDITED.

    Parameters
    ----------
    series, reference, config, masks
        As of ``refit_frame``.
    result
        Of the frame, with what the person set.
    held
        Which Gaussians that is, from 0.
    guides
        Pairs of points to hold to, if there are any.
    message
        What was done, for the result.

    Raises
    ------
    ArgumentError
        If there is no such Gaussian, or the result is no sum of them.
    ReadError
        If a frame cannot be read any more.
    """
    if not isinstance(result.transform, GaussianSequence):
        raise ArgumentError(
            f"frame {result.frame}: its displacement is no sum of Gaussians, so there is none to fit the others around"
        )
    config = config.of_grid(series.grid.ndim).model_copy(update={"similarity": result.similarity_measure})
    fixed, moving = needed_frame(series, reference, masks.fixed), needed_frame(series, result.frame, masks.moving)
    pairs = None if guides is None else guides.pairs(reference, series.grid).get(result.frame)
    measure = measure_of(result.similarity_measure, clamp=config.fit.clamp)
    last: RegistrationStep | None = None
    for last in HeldFit(config.fit, measure=measure).register(_batch(series, fixed, moving, config, pairs), result.transform, held):
        yield last.index / last.total
    assert last is not None
    return assess_edited(fixed, moving, last.transforms()[0], message, result.seconds, measure)


def _batch(
    series: ImageSeries, fixed: LoadedFrame, moving: LoadedFrame, config: RegistrationConfig, pairs: GuidingPairs | None
) -> Pairs:
    """One pair of images on the device that the settings name."""
    device = resolve_device(config.device)
    images = [image[None].to(device) for image in (fixed.image, moving.image, fixed.valid, moving.valid)]
    fixed_weight, moving_weight = (None if w is None else w[None].to(device) for w in (fixed.weight, moving.weight))
    guides = () if pairs is None else (pairs,)
    return Pairs(images[0], images[1], images[2], images[3], series.grid, fixed_weight, moving_weight, guides)
