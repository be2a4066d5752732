"""Where lung is: a proposal from the mean image, and which part of a mask is the right and which the left lung."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid

__all__ = ["largest_regions", "padded", "propose_lung", "sides"]

_SMOOTH_MM = 2.0
_SHADING_MM = 60.0
_CLIPPED = 0.8
_OPEN_MM = 10.0
_CLOSE_MM = 5.0
_VESSEL_MM2 = 900.0  # holes up to this size are vessels in the lung
_SMALLEST_SHARE = 0.02  # of the frame: smaller dark regions are airways, stomach or bowel


def propose_lung(mean: NDArray[np.float64], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """The two largest dark regions of a temporal mean image that the body encloses.

    Shading by the coils is taken away by dividing by a wide blur of what is no air; Otsu's threshold, what is brighter than most
    tissue clipped, tells tissue from lung and air; of the dark regions that do not run into the edge of the frame the two largest
    are lung, with the vessels in them. A proposal: it must be looked at.

    Parameters
    ----------
    mean
        (H, W), finite.
    spacing_mm
        Of its rows and columns.

    Raises
    ------
    ReadError
        If there is no such region.
    """
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if np.ptp(mean) == 0:
        raise ReadError("mask: the mean image has no contrast to find lung by; draw one or give it as --mask")
    smooth = gaussian_filter(mean, [_SMOOTH_MM / s for s in spacing_mm])
    solid = (smooth > threshold_otsu(np.minimum(smooth, np.median(smooth)))).astype(np.float64)
    width = [_SHADING_MM / s for s in spacing_mm]
    shading = gaussian_filter(smooth * solid, width) / np.maximum(gaussian_filter(solid, width), 1e-3)
    flat = smooth / np.maximum(shading, 1e-3 * shading.max())
    clipped = np.minimum(flat, np.quantile(flat, _CLIPPED))
    # Three kinds of tissue: air with lung, muscle, organs; or air, lung, and all else, where air is black and lung is not.
    found = [_inside(clipped < threshold, spacing_mm) for threshold in threshold_multiotsu(clipped, classes=3)]
    best = max(found, key=_lungs)
    if not _lungs(best):
        raise ReadError("mask: found no dark region inside the body that could be lung; draw one or give it as --mask")
    return best


def _lungs(regions: NDArray[np.bool_]) -> int:
    """How many regions are as large as a lung, at most two."""
    from skimage.measure import label

    sizes = np.bincount(label(regions, connectivity=1).ravel())[1:]
    return min(2, int((sizes >= _SMALLEST_SHARE * regions.size).sum()))


def _inside(dark: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """The two largest dark regions that do not lead out of the frame, with the vessels in them."""
    from skimage.morphology import closing, dilation, opening, remove_small_holes

    pixel = max(spacing_mm)
    whole = remove_small_holes(dark, max_size=round(_VESSEL_MM2 / (spacing_mm[0] * spacing_mm[1])))
    whole = padded(closing, whole, _CLOSE_MM / pixel)
    # Airways and gaps beside the arms lead out of the body: what is left without narrow parts tells which regions are inside.
    inner = largest_regions(_off_the_edge(padded(opening, whole, _OPEN_MM / pixel)), 2)
    return padded(dilation, inner, _OPEN_MM / pixel) & whole


def padded(operation: Any, regions: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """A morphological operation by a disk, as if the frame went on at its edge."""
    from skimage.morphology import disk

    reach = max(1, round(radius))
    return np.asarray(operation(np.pad(regions, reach, mode="edge"), disk(reach))[reach:-reach, reach:-reach])


def _off_the_edge(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The regions that do not touch the frame's edge, as the air around the body does."""
    from skimage.measure import label
    from skimage.segmentation import clear_border

    return np.asarray(clear_border(label(regions, connectivity=1)) > 0)


def largest_regions(regions: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The largest connected regions, those far smaller than the first left out."""
    from skimage.measure import label

    numbered = label(regions, connectivity=1)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    order = np.argsort(sizes)[::-1][:count]
    kept = [k for k in order if sizes[k] > 0 and sizes[k] >= 0.1 * sizes.max()]
    return np.isin(numbered, kept)


def sides(mask: NDArray[np.bool_], patient: Grid | None) -> tuple[dict[str, NDArray[np.bool_]], str]:
    """The right and the left lung of a mask, and how they were told apart.

    Two regions are taken as they are, one is cut along the column in the middle of its extent.

    Parameters
    ----------
    mask
        (H, W).
    patient
        3D grid of one pixel along z that places the slice in the patient (LPS), or None: then the patient's right is taken to be on
        the left of the picture, as radiologists look at it.

    Returns
    -------
    tuple
        ``{"right": ..., "left": ...}``, or ``{}`` where the slice shows no left and right, and a sentence.
    """
    from skimage.measure import label

    towards_left = 1.0
    if patient is not None:
        along = np.array(patient.direction)[2, 2]  # how far a column further right lies to the patient's left
        if abs(along) < 0.5:
            return {}, "the slice does not show right and left side by side"
        towards_left = float(np.sign(along))
    numbered = label(mask, connectivity=1)
    columns = np.arange(mask.shape[1])[None]
    sizes = np.bincount(numbered.ravel())[1:]
    if len(sizes) >= 2:
        two = np.argsort(sizes)[::-1][:2] + 1
        middles = [float(np.broadcast_to(columns, mask.shape)[numbered == k].mean()) for k in two]
        border, how = sum(middles) / 2, "two regions"
    else:
        found = np.flatnonzero(mask.any(axis=0))
        border, how = float(found[0] + found[-1]) / 2, "one region, cut in the middle"
    first = mask & (columns < border)
    names = ("right", "left") if towards_left > 0 else ("left", "right")
    known = "by its place in the patient" if patient is not None else "the patient's right on the left of the picture"
    return {names[0]: first, names[1]: mask & ~first}, f"{how}; {known}"
