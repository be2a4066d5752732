"""Registration by other people's programs, one pair of images at a time: demons, TV-L1, elastix and ANTs.

Every program sees the same pair: z-scored float32 images whose pixel sizes are in their true ratio, with a mean of 1, so that
settings in pixels mean the same for every series. TV-L1 and ANTs, which expect no negative intensities, get the same values
between 0 and 1. What comes back is the pull-back displacement in pixels, array order.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "Image", "Program", "ants", "demons", "elastix", "elastix_lung", "tvl1", "z_scored"]

Image = NDArray[np.float32]

_DEMONS_SMOOTHING_PX = 1.5
_DEMONS_LEVELS = ((8, 100), (4, 100), (2, 100), (1, 60))  # reduction, iterations
_ELASTIX_LEVELS = 4
# z-scored intensities shown as 0 and 1 to the programs that want no negative ones.
_DARKEST, _BRIGHTEST = -3.0, 3.0


@dataclass(frozen=True, eq=False)
class Found:
    """A registration of one pair.

    Parameters
    ----------
    vectors_px
        (ndim, *shape) float32, array order, in pixels of the fixed image: fixed(x) = moving(x + vectors_px(x)).
    numbers
        How many numbers describe it.
    """

    vectors_px: NDArray[np.float32]
    numbers: int


Program = Callable[[Image, Image], Found]
"""Registers a fixed and a moving image, both (*shape) and z-scored."""


def z_scored(image: NDArray[Any], valid: NDArray[np.bool_]) -> Image:
    """An image (*shape) with mean 0 and standard deviation 1 over its valid pixels; the others are 0."""
    values = image[valid].astype(np.float64)
    spread = float(values.std())
    return np.where(valid, (image - values.mean()) / (spread if spread > 0 else 1.0), 0.0).astype(np.float32)


def demons(spacing: tuple[float, ...], threads: int) -> Program:
    """SimpleITK's fast symmetric forces demons, coarse to fine, the displacement smoothed by 1.5 pixels of each level."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    sizes = _pixel_sizes(spacing)

    def on(field: sitk.Image, like: sitk.Image) -> sitk.Image:
        resampler = sitk.ResampleImageFilter()
        resampler.SetReferenceImage(like)
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.SetUseNearestNeighborExtrapolator(True)
        return resampler.Execute(field)

    def register(fixed: Image, moving: Image) -> Found:
        images = [sitk.GetImageFromArray(image) for image in (fixed, moving)]
        for image in images:
            image.SetSpacing(sizes[::-1])
        field = None
        for factor, iterations in _DEMONS_LEVELS:
            small = images
            if factor > 1:
                blurred = [
                    sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * size for size in sizes[::-1]]) for image in images
                ]
                small = [sitk.Shrink(image, [factor] * fixed.ndim) for image in blurred]
            program = sitk.FastSymmetricForcesDemonsRegistrationFilter()
            program.SetNumberOfIterations(iterations)
            program.SetSmoothDisplacementField(True)
            program.SetStandardDeviations(_DEMONS_SMOOTHING_PX)
            field = program.Execute(*small) if field is None else program.Execute(*small, on(field, small[0]))
        return _dense(sitk.GetArrayFromImage(field), sizes)

    return register


def tvl1(spacing: tuple[float, ...], threads: int) -> Program:
    """scikit-image's TV-L1 optical flow at its own settings; it knows pixels only, and computes on one thread."""
    from skimage.registration import optical_flow_tvl1

    def register(fixed: Image, moving: Image) -> Found:
        vectors = optical_flow_tvl1(_unit_range(fixed), _unit_range(moving))
        return Found(vectors.astype(np.float32), vectors.size)

    return register


def elastix(
    spacing: tuple[float, ...], threads: int, *, control_px: int, bending: float = 10.0, metric: str = "AdvancedMeanSquares"
) -> Program:
    """Cubic B-splines of elastix, control points ``control_px`` apart on the finest level; a metric plus bending energy."""
    wanted = {
        "Registration": ["MultiMetricMultiResolutionRegistration"],
        "Metric": [metric, "TransformBendingEnergyPenalty"],
        "Metric0Weight": ["1.0"],
        "Metric1Weight": [str(bending)],
        "MaximumNumberOfIterations": ["300"],
        "NumberOfSpatialSamples": ["4096"],
    }
    return _elastix_program(spacing, threads, _ELASTIX_LEVELS, float(control_px), wanted)


def elastix_lung(spacing: tuple[float, ...], threads: int) -> Program:
    """Elastix with the settings published for pairs of lung CT: "Par0015" of its Model Zoo (Staring et al., Med. Phys. 2014).

    Normalised correlation, five levels of 1000 iterations with 2000 samples each, and control points 10 mm apart at the end.
    """
    sizes, ndim = _pixel_sizes(spacing), len(spacing)
    factors = [16] * ndim + [8] * ndim + [4] * ndim + [2] * ndim + [1] * ndim
    wanted = {
        "Registration": ["MultiResolutionRegistration"],
        "Metric": ["AdvancedNormalizedCorrelation"],
        "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
        "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
        "ImagePyramidSchedule": [str(factor) for factor in factors],
        "GridSpacingSchedule": ["8.0", "8.0", "4.0", "2.0", "1.0"],
        "MaximumNumberOfIterations": ["1000"],
        "NumberOfSpatialSamples": ["2000"],
        "ImageSampler": ["RandomCoordinate"],
        "BSplineInterpolationOrder": ["1"],
    }
    return _elastix_program(spacing, threads, 5, 10.0 * sizes[0] / spacing[0], wanted)


def _elastix_program(
    spacing: tuple[float, ...], threads: int, levels: int, control: float, wanted: dict[str, list[str]]
) -> Program:
    """Elastix' own settings for B-splines on so many levels, control points ``control`` apart at the end, but for those wanted."""
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    sizes = _pixel_sizes(spacing)
    settings = itk.ParameterObject.New()
    chosen = settings.GetDefaultParameterMap("bspline", levels, control)
    for name, values in {**wanted, "RandomSeed": ["1"], "WriteResultImage": ["false"]}.items():
        chosen[name] = values
    settings.AddParameterMap(chosen)

    def register(fixed: Image, moving: Image) -> Found:
        images = [itk.image_view_from_array(image) for image in (fixed, moving)]
        for image in images:
            image.SetSpacing(sizes[::-1])
        _, found = itk.elastix_registration_method(*images, parameter_object=settings, log_to_console=False)
        numbers = int(found.GetParameterMap(0)["NumberOfParameters"][0])
        # The field is always written to a file, too.
        with tempfile.TemporaryDirectory() as folder:
            field = itk.transformix_deformation_field(images[1], found, log_to_console=False, output_directory=folder)
            return Found(_dense(itk.array_from_image(field), sizes).vectors_px, numbers)

    return register


def ants(spacing: tuple[float, ...], threads: int, *, iterations: tuple[int, ...] | None = None) -> Program:
    """ANTs' affine, then symmetric normalisation, mutual information.

    Parameters
    ----------
    iterations
        Of the second stage, from the coarsest level to the finest; None: ANTs' own, which leave out full resolution.
    """
    # Read once, when the library is loaded.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import ants as program

    sizes = _pixel_sizes(spacing)
    options: dict[str, Any] = {} if iterations is None else {"reg_iterations": iterations}

    def register(fixed: Image, moving: Image) -> Found:
        # ANTs indexes x first.
        images = [program.from_numpy(_unit_range(image).T.copy(), spacing=sizes[::-1]) for image in (fixed, moving)]
        with tempfile.TemporaryDirectory() as folder:
            found = program.registration(
                *images, type_of_transform="SyN", outprefix=str(Path(folder, "stage")), random_seed=1, **options
            )
            path = program.apply_transforms(*images, found["fwdtransforms"], compose=str(Path(folder, "both")))
            field = program.image_read(path).numpy()
        return _dense(np.swapaxes(field, 0, fixed.ndim - 1), sizes)

    return register


def _pixel_sizes(spacing: tuple[float, ...]) -> tuple[float, ...]:
    """Pixel sizes in the ratio of ``spacing`` with a geometric mean of 1."""
    mean = math.prod(spacing) ** (1 / len(spacing))
    return tuple(size / mean for size in spacing)


def _unit_range(image: Image) -> Image:
    return np.clip((image - _DARKEST) / (_BRIGHTEST - _DARKEST), 0, 1).astype(np.float32)


def _dense(vectors: NDArray[Any], sizes: tuple[float, ...]) -> Found:
    """From (*shape, ndim), x first, in the unit of the pixel sizes."""
    pixels = np.moveaxis(vectors[..., ::-1] / np.array(sizes), -1, 0)
    return Found(np.ascontiguousarray(pixels, dtype=np.float32), pixels.size)
