"""Whether the contrast of a series changes from frame to frame, seen before anything is registered.

Frames are compared at a coarse size with the one whose structures agree best with all others. Motion alone lowers the agreement of
intensities and of structures together, and leaves no curve that explains intensities much better than a straight line does. Limits
were chosen on development series (simulated thoraxes of seeds 100 and 101 with and without change, moved slices, cine, drawn
fluorescence); the concept page on contrast has their table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2n2.config import SimilarityName
from r2n2.errors import R2N2Error
from r2n2.geometry import Grid
from r2n2.mask import NO_MASKS, Masks
from r2n2.preprocessing import blur, luminance, normalise
from r2n2.registration.intensity_relation import explained_by_a_curve
from r2n2.registration.measures import GradientField
from r2n2.series import ImageSeries
from r2n2.working import to_working

__all__ = ["ContrastFinding", "examine_frames", "examine_series", "suitable_measure"]

_CHANGING: SimilarityName = "ngf"
_SIZE = {2: 96, 3: 48}
_MOST_FRAMES = 16
_SMOOTH_PX = 1.5
_STRUCTURES_AGREE = 0.6
_INTENSITIES_DISAGREE = 0.6
# Of the variance that a straight line leaves, and of all variance: brightness that changes a little with the heart beat is none.
_BY_A_CURVE, _NOTABLE = 0.15, 0.015


@dataclass(frozen=True)
class ContrastFinding:
    """What a look at a series says.

    Parameters
    ----------
    changes
        Whether contrast changes from frame to frame.
    reason
        Why that is said, the end of "because ..."; "" where nothing could be compared.
    most_alike
        The frame whose structures agree best with those of the others, or None where none could be read.
    """

    changes: bool
    reason: str
    most_alike: int | None


def suitable_measure(finding: ContrastFinding) -> SimilarityName:
    """The measure for frames of which this was found: ssd where contrast stays, else ngf.

    Of all measures ngf was the most accurate on every kind of change tried.
    """
    return _CHANGING if finding.changes else "ssd"


def examine_series(series: ImageSeries, masks: Masks = NO_MASKS) -> ContrastFinding:
    """Look at up to 16 frames, evenly spread, where masks let them count; those without contrast or unreadable are left out."""
    chosen = np.unique(np.linspace(0, len(series) - 1, _MOST_FRAMES).round().astype(int)).tolist()
    return _examined(_readable(series, chosen), series.grid, masks)


def _readable(series: ImageSeries, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Frames one at a time, as no more than one volume is to be in memory."""
    for number in numbers:
        try:
            image, valid = luminance(series.frame(number))
        except (OSError, ValueError, RuntimeError, R2N2Error):
            continue
        yield number, image, valid


def _inside(masks: Masks, index: int) -> Tensor | None:
    """(1, *shape) bool where a frame counts at all; None where all of it does.

    Motion is not known yet, so the mask of the reference stands for the same place in all frames.
    """
    parts = [mask.inside(number) for mask, number in ((masks.fixed, 0), (masks.moving, index)) if mask is not None]
    return torch.from_numpy(np.logical_and.reduce(parts))[None] if parts else None


def examine_frames(
    frames: Sequence[tuple[Tensor, Tensor]], grid: Grid, numbers: Sequence[int], masks: Masks = NO_MASKS
) -> ContrastFinding:
    """Look at frames, each (1, *grid.shape) float and bool, that have these numbers in their series, where masks let them count.

    What masks leave out has no part in any other pixel, either; frames without contrast where they count are left out.
    """
    return _examined(((number, *frame) for number, frame in zip(numbers, frames, strict=True)), grid, masks)


def _examined(frames: Iterable[tuple[int, Tensor, Tensor]], grid: Grid, masks: Masks) -> ContrastFinding:
    squares, kept = [], []
    for number, image, valid in frames:
        inside = _inside(masks, number)
        seen = valid if inside is None else valid & inside
        if bool(seen.any()) and float(image[seen].max()) > float(image[seen].min()):
            weight = seen[None].to(image.dtype) if masks else None
            squares.append(to_working(image[None], seen[None], grid, _SIZE[grid.ndim], weight=weight))
            kept.append(number)
    if not squares:
        return ContrastFinding(False, "", None)
    structures = torch.stack([GradientField().products(square).flatten() for square in squares])
    alike = torch.nn.functional.normalize(structures, dim=1) @ torch.nn.functional.normalize(structures, dim=1).mT
    best = int(alike.sum(1).argmax())
    smooth = [blur(normalise(square.images, square.valid, clamp=3.0), (_SMOOTH_PX,) * grid.ndim) for square in squares]
    reasons = []
    for k, number in enumerate(kept):
        both = squares[k].valid & squares[best].valid
        if k != best and int(both.sum()) > 1:
            reasons.append(_reason(smooth[best][both], smooth[k][both], float(alike[best, k]), number))
    changed = [reason for reason in reasons if reason]
    if not changed:
        return ContrastFinding(False, "intensities follow one another in a straight line", kept[best])
    return ContrastFinding(True, f"{changed[0]} ({len(changed)} of {len(reasons)} frames looked at)", kept[best])


def _reason(a: Tensor, b: Tensor, structures: float, number: int) -> str:
    """Why two frames show tissue in different contrast, or ""."""
    related = float(torch.corrcoef(torch.stack((a, b)))[0, 1])
    if structures > _STRUCTURES_AGREE and related < _INTENSITIES_DISAGREE:
        return f"in frame {number} edges agree ({structures:.2f}) where intensities do not (correlation {related:.2f})"
    curve = explained_by_a_curve(a, b)
    if curve is not None and curve - related**2 > max(_NOTABLE, _BY_A_CURVE * (1 - related**2)):
        return f"in frame {number} a curve explains the intensities far better than a straight line does"
    return ""
