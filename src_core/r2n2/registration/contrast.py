"""Whether the contrast of a series changes from frame to frame, seen before anything is registered.

Frames are compared at a coarse size with the one whose structures agree best with all others. Motion alone lowers the agreement of
intensities and of structures together, and leaves no curve that explains intensities much better than a straight line does. Limits
were chosen on development series (simulated thoraxes of seeds 100 and 101 with and without change, moved slices, cine, drawn
fluorescence); the concept page on contrast has their table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2n2.config import SimilarityName
from r2n2.errors import R2N2Error
from r2n2.geometry import Grid
from r2n2.mask import NO_MASKS, Masks
from r2n2.preprocessing import Square, blur, luminance, normalise
from r2n2.registration.intensity_relation import explained_by_a_curve
from r2n2.registration.measures import GradientField
from r2n2.series import ImageSeries
from r2n2.working import to_working

__all__ = [
    "ContrastFinding",
    "examine_frames",
    "examine_series",
    "examine_squares",
    "examined_frames",
    "prepare_frame",
    "suitable_measure",
]

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
    agreement
        Frame -> how well its structures agree with those of the others, of the frames that were looked at and show any.
    """

    changes: bool
    reason: str
    agreement: Mapping[int, float]

    @property
    def most_alike(self) -> int | None:
        """The frame whose structures agree best with those of the others, or None where there is none."""
        return max(self.agreement, key=lambda frame: self.agreement[frame], default=None)


def suitable_measure(finding: ContrastFinding, ndim: int = 2) -> SimilarityName:
    """The measure for frames of which this was found: where contrast stays ssd, or lncc for volumes, else ngf.

    Of all measures ngf was the most accurate on every kind of change tried, and lncc on slabs of simulated persons (seeds 100 to
    103): beside the bright fat of the body's wall the faint texture of lungs and liver hardly counts unless it is compared locally.
    """
    return _CHANGING if finding.changes else "ssd" if ndim == 2 else "lncc"


def examined_frames(count: int) -> tuple[int, ...]:
    """Which of so many frames are looked at: up to 16, evenly spread."""
    return tuple(np.unique(np.linspace(0, count - 1, _MOST_FRAMES).round().astype(int)).tolist())


def examine_series(series: ImageSeries, masks: Masks = NO_MASKS) -> ContrastFinding:
    """Look at some frames (``examined_frames``), where masks let them count; those without contrast or unreadable are left out."""
    squares: dict[int, Square | None] = {}
    for number in examined_frames(len(series)):
        try:
            image, valid = luminance(series.frame(number))
        except (OSError, ValueError, RuntimeError, R2N2Error):
            continue
        squares[number] = prepare_frame(image, valid, series.grid, number, masks)
    return examine_squares(squares, series.grid)


def examine_frames(
    frames: Sequence[tuple[Tensor, Tensor]], grid: Grid, numbers: Sequence[int], masks: Masks = NO_MASKS
) -> ContrastFinding:
    """Look at frames, each (1, *grid.shape) float and bool, that have these numbers in their series, where masks let them count.

    What masks leave out has no part in any other pixel, either; frames without contrast where they count are left out.
    """
    squares = {n: prepare_frame(*frame, grid, n, masks) for n, frame in zip(numbers, frames, strict=True)}
    return examine_squares(squares, grid)


def prepare_frame(image: Tensor, valid: Tensor, grid: Grid, number: int, masks: Masks = NO_MASKS) -> Square | None:
    """A frame (1, *grid.shape) at the coarse size at which it is looked at; None where it has no contrast where it counts.

    Large frames need not stay in memory until all of them are there.
    """
    inside = masks.inside(number)
    seen = valid if inside is None else valid & torch.from_numpy(inside)
    if not bool(seen.any()) or float(image[seen].max()) <= float(image[seen].min()):
        return None
    weight = seen[None].to(image.dtype) if masks else None
    return to_working(image[None], seen[None], grid, _SIZE[grid.ndim], weight=weight)


def examine_squares(prepared: Mapping[int, Square | None], grid: Grid) -> ContrastFinding:
    """Look at frames as ``prepare_frame`` gives them, by their numbers."""
    found = {number: square for number, square in prepared.items() if square is not None}
    squares, kept = list(found.values()), list(found)
    if not squares:
        return ContrastFinding(False, "", {})
    structures = torch.stack([GradientField().products(square).flatten() for square in squares])
    alike = torch.nn.functional.normalize(structures, dim=1) @ torch.nn.functional.normalize(structures, dim=1).mT
    agreement = dict(zip(kept, alike.sum(1).tolist(), strict=True))
    best = int(alike.sum(1).argmax())
    smooth = [blur(normalise(square.images, square.valid, clamp=3.0), (_SMOOTH_PX,) * grid.ndim) for square in squares]
    reasons = []
    for k, number in enumerate(kept):
        both = squares[k].valid & squares[best].valid
        if k != best and int(both.sum()) > 1:
            reasons.append(_reason(smooth[best][both], smooth[k][both], float(alike[best, k]), number))
    changed = [reason for reason in reasons if reason]
    if not changed:
        return ContrastFinding(False, "intensities follow one another in a straight line", agreement)
    return ContrastFinding(True, f"{changed[0]} ({len(changed)} of {len(reasons)} frames looked at)", agreement)


def _reason(a: Tensor, b: Tensor, structures: float, number: int) -> str:
    """Why two frames show tissue in different contrast, or ""."""
    related = float(torch.corrcoef(torch.stack((a, b)))[0, 1])
    if structures > _STRUCTURES_AGREE and related < _INTENSITIES_DISAGREE:
        return f"in frame {number} edges agree ({structures:.2f}) where intensities do not (correlation {related:.2f})"
    curve = explained_by_a_curve(a, b)
    if curve is not None and curve - related**2 > max(_NOTABLE, _BY_A_CURVE * (1 - related**2)):
        return f"in frame {number} a curve explains the intensities far better than a straight line does"
    return ""
