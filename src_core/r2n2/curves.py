"""Curves of a label over time: mean intensity before and after alignment, area (mm2) or volume (mm3), and strain, without unit.

A label is drawn on the reference. Before alignment its intensity is read at the same pixels of every frame, after it from the
aligned frame, so that the same tissue is read. Where the registration maps the reference x to x + u(x) in a frame, F = I + grad u
is the deformation gradient of the frame against the reference. Over the label are averaged: det F, which gives the area that its
tissue takes in the frame, and the Green-Lagrange strain E = (F'F - I) / 2, in array order of the axes (Holzapfel, Nonlinear Solid
Mechanics, 2000, eq. 2.69).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.transform import Transform

__all__ = ["CurveProgress", "LabelCurve", "deformation_gradient", "label_curves"]

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class CurveProgress:
    """Share done in [0, 1]."""

    fraction: float


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """One label through all frames.

    Parameters
    ----------
    label
        Its number.
    pixels
        How many of the reference it holds.
    frames
        (T,) frame of every sample.
    before, after
        (T,) mean intensity; ``before`` is NaN where the images as they came are not at hand.
    size
        (T,) mm2 or mm3 that its tissue takes in the frame.
    strain
        (T, ndim, ndim) Green-Lagrange strain against the reference, mean over the label.
    pixel_size
        mm2 or mm3 of one pixel.
    """

    label: int
    pixels: int
    frames: NDArray[np.int64]
    before: Curve
    after: Curve
    size: Curve
    strain: Curve

    pixel_size: float

    @property
    def size_strain(self) -> Curve:
        """(T,) change of area or volume as a share of that of the label as drawn: mean det F - 1."""
        return self.size / (self.pixels * self.pixel_size) - 1

    @property
    def principal(self) -> Curve:
        """(T, ndim) principal strains, the largest first: eigenvalues of the mean strain, which noise of pixels does not raise."""
        return np.asarray(np.linalg.eigvalsh(self.strain)[:, ::-1])


def label_curves(
    labels: NDArray[np.integer],
    grid: Grid,
    transforms: Mapping[int, Transform],
    aligned: Callable[[int], NDArray[np.floating]],
    before: Callable[[int], NDArray[np.floating]] | None = None,
    *,
    frames: Sequence[int] | None = None,
) -> Generator[CurveProgress, None, tuple[LabelCurve, ...]]:
    """The curves of every label but 0.

    Parameters
    ----------
    labels
        (*grid.shape) on the reference.
    transforms
        Frame -> transform from the reference into it.
    aligned, before
        Give a frame after and before alignment, (*grid.shape); pixels that are NaN do not count.
    frames
        Which; all that have a transform by default.

    Raises
    ------
    ArgumentError
        If the labels have another shape than the reference, or there is none.
    """
    if labels.shape != grid.shape:
        raise ArgumentError(f"labels: expected the shape of the reference {grid.shape}, got {labels.shape}; resample them first")
    numbers = [int(number) for number in np.unique(labels) if number != 0]
    if not numbers:
        raise ArgumentError("labels: hold nothing but 0; draw at least one label on the reference")
    chosen = sorted(transforms) if frames is None else list(frames)
    inside = [labels == number for number in numbers]
    count, ndim = len(chosen), grid.ndim
    pixel = float(np.prod(grid.spacing))
    samples = {name: np.full((len(numbers), count), np.nan) for name in ("before", "after", "size")}
    strains = np.zeros((len(numbers), count, ndim, ndim))
    for k, frame in enumerate(chosen):
        gradient = deformation_gradient(transforms[frame])
        determinant = np.linalg.det(gradient)
        strain = (np.swapaxes(gradient, -1, -2) @ gradient - np.eye(ndim)) / 2
        images = {"after": aligned(frame), **({} if before is None else {"before": before(frame)})}
        for n, region in enumerate(inside):
            samples["size"][n, k] = float(determinant[region].sum()) * pixel
            strains[n, k] = strain[region].mean(axis=0)
            for name, image in images.items():
                values = np.asarray(image, np.float64)[region]
                known = values[np.isfinite(values)]
                samples[name][n, k] = known.mean() if known.size else np.nan
        yield CurveProgress((k + 1) / count)
    return tuple(
        LabelCurve(
            number,
            int(inside[n].sum()),
            np.array(chosen),
            samples["before"][n],
            samples["after"][n],
            samples["size"][n],
            strains[n],
            pixel,
        )
        for n, number in enumerate(numbers)
    )


def deformation_gradient(transform: Transform) -> Curve:
    """F = I + grad u at every pixel, (*shape, ndim, ndim): row the component, column the axis, by central differences in mm."""
    grid = transform.grid
    field = transform.displacement_field()
    index = grid.convert_vectors(field.vectors.double().flatten(1).mT, field.space, Space.INDEX).mT.unflatten(1, grid.shape)
    scale = torch.tensor(grid.spacing, dtype=torch.float64).reshape(-1, *[1] * grid.ndim)
    # Along the axes of the image, whichever way these lie in the patient.
    along = (index * scale).numpy()
    gradient = np.stack([np.stack(np.gradient(part, *grid.spacing), axis=-1) for part in along], axis=-2)
    return np.asarray(gradient + np.eye(grid.ndim))
