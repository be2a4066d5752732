"""Where lung is: a proposal from the mean image, and which part of a mask is the right and which the left lung."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid

__all__ = ["propose_lung", "sides"]

_SMOOTH_MM = 2.0
_CLOSE_MM = 6.0
_SMALLEST_SHARE = 0.01  # of the frame: smaller dark regions are airways, stomach or bowel
_AIR_SHARE = 0.35  # of the lung threshold: what is darker and touches the frame's edge is air around the body


def propose_lung(mean: NDArray[np.float64], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """The two largest dark regions inside the body of a temporal mean image.

    Otsu's threshold tells tissue from air and lung; the body is the largest bright region with what it encloses, lung what is dark
    in it. A proposal: it must be looked at.

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
    from scipy.ndimage import binary_fill_holes, gaussian_filter  # type: ignore[import-untyped]
    from skimage.filters import threshold_otsu
    from skimage.measure import label
    from skimage.morphology import closing, disk, opening

    smooth = gaussian_filter(mean, [_SMOOTH_MM / s for s in spacing_mm])
    radius = max(1, round(_CLOSE_MM / max(spacing_mm)))
    if np.ptp(smooth) == 0:
        raise ReadError("mask: the mean image has no contrast to find lung by; draw one or give it as --mask")
    bright = smooth > threshold_otsu(smooth)
    body = _largest(closing(np.pad(bright, radius), disk(radius)), 1)[radius:-radius, radius:-radius]
    # Body that leaves the frame above and below still encloses the lungs: its ends are closed for a moment.
    closed = np.pad(body, ((1, 1), (0, 0)), mode="edge")
    for row in (0, -1):
        columns = np.flatnonzero(closed[row])
        if columns.size:
            closed[row, columns[0] : columns[-1] + 1] = True
    inside = binary_fill_holes(closed)[1:-1]
    dark = opening(inside & ~bright, disk(max(1, radius // 2)))
    lung = _largest(dark, 2)
    if lung.sum() < _SMALLEST_SHARE * lung.size:
        raise ReadError("mask: found no dark region inside the body that could be lung; draw one or give it as --mask")
    return np.asarray(binary_fill_holes(_largest(lung, len(np.unique(label(lung))) - 1)))


def _largest(regions: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
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
