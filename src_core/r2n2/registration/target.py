"""What frames are registered to where it is not the reference itself: images made of the aligned series, in the reference's place.

A single frame is noisy, and where the contrast changes along a series none looks like the others. Once frames are aligned, their
mean or median over time shows what all have in common, with less noise, and the first principal components over time, the signal
model of groupwise registration by Huizinga et al. (2016), give each frame an image of its own contrast in the place of the
reference. Frames are registered to these anew, from where they stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.errors import ResourceError
from r2n2.geometry import Grid
from r2n2.registration.batch import LoadedFrame
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.transform import RowField, lattice_rows, row_blocks, sample_masked

__all__ = ["AlignedSeries", "components_of", "make_targets"]

_PCA = "pca:"
_LARGEST_BYTES = 8 * 2**30
# Sums over frames in double, a part of the pixels at once, hold so many numbers.
_NUMBERS_AT_ONCE = 2**24


def components_of(target: str) -> int:
    """L of "pca:L"; 0 for any other target."""
    return int(target.removeprefix(_PCA)) if target.startswith(_PCA) else 0


@dataclass(frozen=True, eq=False)
class AlignedSeries:
    """Frames of a series as they look in the reference's place; filled frame by frame."""

    images: Tensor
    """(T, *shape) float32."""
    valid: Tensor
    """(T, *shape) bool."""
    sound: Tensor
    """(T,) bool: frames that shape a target; the others could not be registered at all."""

    @classmethod
    def empty(cls, frames: int, grid: Grid) -> AlignedSeries:
        """Of so many frames, none there yet.

        Raises
        ------
        ResourceError
            If it would take more than 8 GiB.
        """
        size = 5 * frames * torch.Size(grid.shape).numel()
        if size > _LARGEST_BYTES:
            raise ResourceError(
                f"target: {frames} aligned frames of {' x '.join(map(str, grid.shape))} would take {size / 2**30:.1f} GiB, "
                f"at most {_LARGEST_BYTES // 2**30} GiB are used; choose --target reference, or a shorter series"
            )
        shape = (frames, *grid.shape)
        return cls(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.zeros(frames, dtype=torch.bool))

    def put(self, frame: LoadedFrame, result: FrameResult) -> None:
        """Warp a frame into its place, as well as it is known.

        A frame in doubt counts, too: a wrong place does less harm to a median or a component than to leave out its contrast, and
        the next round may find a better one.
        """
        grid, field = result.transform.grid, RowField.of(result.transform)
        for rows in row_blocks(grid):
            vectors = field.rows(rows).to(frame.image)
            places = lattice_rows(grid, rows, vectors) + vectors
            image, valid = sample_masked(frame.image[None], frame.counted[None], places[None], grid)
            self.images[frame.index, rows], self.valid[frame.index, rows] = image[0, 0], valid[0, 0]
        self.sound[frame.index] = result.status not in (FrameStatus.FAILED, FrameStatus.CONSTANT)


def make_targets(aligned: AlignedSeries, target: str, reference: LoadedFrame) -> Mapping[int, LoadedFrame]:
    """What each frame is registered to next.

    Parameters
    ----------
    aligned
        Of all frames.
    target
        "mean", "median" or "pca:L".
    reference
        Its mask says what counts in every target.

    Returns
    -------
    Mapping
        Frame -> its target, with the index of the reference; one and the same for all frames where it is the mean or the median.
    """
    count = len(aligned.images)
    if components_of(target):
        made = _low_rank(aligned, components_of(target))
    else:
        made = (_mean(aligned) if target == "mean" else _median(aligned))[None].expand_as(aligned.images)
    # Where no frame that may be trusted was measured, nothing is known.
    known = (aligned.valid & aligned.sound.view(-1, *[1] * (aligned.images.ndim - 1))).any(0)[None]
    if not components_of(target):
        common = LoadedFrame(reference.index, made[0][None], known, reference.weight)
        return dict.fromkeys(range(count), common)
    return {k: LoadedFrame(reference.index, made[k][None], known, reference.weight) for k in range(count)}


def _mean(aligned: AlignedSeries) -> Tensor:
    """Mean over the sound frames that are measured, pixel by pixel, (*shape); 0 where there is none."""
    flat = aligned.images.flatten(1)
    weight = (aligned.valid.flatten(1) & aligned.sound[:, None]).to(flat.dtype)
    return ((flat * weight).sum(0) / weight.sum(0).clamp_min(1)).view(aligned.images.shape[1:])


def _median(aligned: AlignedSeries) -> Tensor:
    """Median over the sound frames that are measured, pixel by pixel, (*shape); 0 where there is none."""
    images = torch.where(aligned.valid, aligned.images, torch.nan)[aligned.sound]
    return images.nanmedian(0).values.nan_to_num(0.0)


def _low_rank(aligned: AlignedSeries, components: int) -> Tensor:
    """Every frame as the mean of the sound frames and its part along their first principal components over time, (T, *shape)."""
    flat, valid = aligned.images.flatten(1), aligned.valid.flatten(1)
    mean = _mean(aligned).flatten()
    # What a frame does not show is no deviation from the mean.
    deviation = torch.where(valid, flat - mean, 0)
    count = len(flat)
    products = torch.zeros(count, count, dtype=torch.float64)
    for part in deviation.split(max(1, _NUMBERS_AT_ONCE // count), dim=1):
        products += part.double() @ part.double().mT
    sound = aligned.sound.nonzero()[:, 0]
    values, vectors = torch.linalg.eigh(products[sound][:, sound])
    kept = vectors[:, -components:][:, values[-components:] > 1e-9 * values[-1].clamp_min(1e-30)]
    # Components of a pixel are sums over the sound frames; any frame is projected on them: Z = D V (V'V)^-1 V', V = D_s' U.
    along = products[:, sound] @ kept / values[-components:][-kept.shape[1] :] if kept.shape[1] else products.new_zeros(count, 0)
    share = along @ kept.mT
    return (mean + share.to(flat.dtype) @ deviation[sound]).view_as(aligned.images)
