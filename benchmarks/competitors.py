"""Registration by other people's programs, for comparison: demons of SimpleITK, B-splines of elastix; each as one call a pair.

Both see z-scored images with a pixel size of 1, and give the pull-back displacement in pixels.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.registration import Pairs
from r2n2.transform import DisplacementField

__all__ = ["Competitor", "demons", "elastix", "has_elastix"]

Image = NDArray[np.float32]
Competitor = Callable[[Pairs], tuple[tuple[DisplacementField, ...], int]]
"""Registers a batch; gives the transforms and how many numbers describe one."""

_DEMONS_SMOOTHING_PX = 1.5
_DEMONS_LEVELS = ((8, 100), (4, 100), (2, 100), (1, 60))  # reduction, iterations


def _each(pairs: Pairs, register: Callable[[Image, Image], NDArray[np.float64]]) -> tuple[DisplacementField, ...]:
    return tuple(
        _field(register(_scored(fixed[0]), _scored(moving[0])), pairs.grid)
        for fixed, moving in zip(pairs.fixed, pairs.moving, strict=True)
    )


def _scored(image: torch.Tensor) -> Image:
    return ((image - image.mean()) / image.std().clamp_min(1e-9)).numpy().astype(np.float32)


def _field(vectors_xy: NDArray[np.float64], grid: Grid) -> DisplacementField:
    """From (H, W, 2), x first."""
    vectors = np.ascontiguousarray(np.moveaxis(vectors_xy[..., ::-1], -1, 0), dtype=np.float64)
    return DisplacementField(torch.from_numpy(vectors), grid, Space.INDEX)


def demons(threads: int) -> Competitor:
    """Fast symmetric forces demons on four levels, the displacement smoothed by 1.5 pixels of each level."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)

    def one(fixed: Image, moving: Image) -> NDArray[np.float64]:
        images = [sitk.GetImageFromArray(image) for image in (fixed, moving)]
        field = None
        for factor, iterations in _DEMONS_LEVELS:
            small = images
            if factor > 1:
                small = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 0.5 * factor), [factor] * 2) for image in images]
            program = sitk.FastSymmetricForcesDemonsRegistrationFilter()
            program.SetNumberOfIterations(iterations)
            program.SetSmoothDisplacementField(True)
            program.SetStandardDeviations(_DEMONS_SMOOTHING_PX)
            field = program.Execute(*small) if field is None else program.Execute(*small, _on(field, small[0]))
        return sitk.GetArrayFromImage(field)

    def _on(field: sitk.Image, like: sitk.Image) -> sitk.Image:
        resampler = sitk.ResampleImageFilter()
        resampler.SetReferenceImage(like)
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.SetUseNearestNeighborExtrapolator(True)
        return resampler.Execute(field)

    return lambda pairs: (_each(pairs, one), 2 * int(np.prod(pairs.grid.shape)))


def has_elastix() -> bool:
    """Whether itk-elastix is installed."""
    return importlib.util.find_spec("itk") is not None


def elastix(spacing_px: int, threads: int, *, bending: float = 10.0) -> Competitor:
    """Cubic B-splines with control points ``spacing_px`` apart on the finest of four levels, mean squares plus bending energy."""
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    settings = itk.ParameterObject.New()
    chosen = settings.GetDefaultParameterMap("bspline", 4, float(spacing_px))
    wanted = {
        "Registration": ["MultiMetricMultiResolutionRegistration"],
        "Metric": ["AdvancedMeanSquares", "TransformBendingEnergyPenalty"],
        "Metric0Weight": ["1.0"],
        "Metric1Weight": [str(bending)],
        "MaximumNumberOfIterations": ["300"],
        "NumberOfSpatialSamples": ["4096"],
        "RandomSeed": ["1"],
        "WriteResultImage": ["false"],
    }
    for name, values in wanted.items():
        chosen[name] = values
    settings.AddParameterMap(chosen)
    numbers: list[int] = []

    def one(fixed: Image, moving: Image) -> NDArray[np.float64]:
        images = [itk.image_view_from_array(image) for image in (fixed, moving)]
        _, found = itk.elastix_registration_method(*images, parameter_object=settings, log_to_console=False)
        numbers[:] = [int(found.GetParameterMap(0)["NumberOfParameters"][0])]
        # The field is always written to a file, too.
        with tempfile.TemporaryDirectory() as folder:
            field = itk.transformix_deformation_field(images[1], found, log_to_console=False, output_directory=folder)
            return np.array(itk.array_from_image(field))

    return lambda pairs: (_each(pairs, one), numbers[0])
