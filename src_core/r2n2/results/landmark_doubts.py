"""Whether landmarks were written in another convention than they say: the registration fits them far better in that one.

Before a registration only points outside the image betray a mistake; afterwards the motion that was found does, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from r2n2.errors import ReadError
from r2n2.evaluation import TRETable, target_registration_error
from r2n2.geometry import Grid, Space
from r2n2.quantities import length_text, length_unit
from r2n2.series import LandmarkSet
from r2n2.transform import Transform

__all__ = ["doubts"]

_MOST_FRAMES = 12
_FEWEST_PAIRS = 6
_FAR_BETTER = 0.5
_Change = Callable[[LandmarkSet, Grid], LandmarkSet]


def _swapped(index: LandmarkSet, grid: Grid) -> LandmarkSet:
    return replace(index, points=index.points[:, [*range(grid.ndim - 2), grid.ndim - 1, grid.ndim - 2]])


def _swapped_mm(index: LandmarkSet, grid: Grid) -> LandmarkSet:
    return _swapped(index.to_space(Space.WORLD, grid), grid).to_space(Space.INDEX, grid)


def _mm_as_px(index: LandmarkSet, grid: Grid) -> LandmarkSet:
    return replace(index.to_space(Space.WORLD, grid), space=Space.INDEX)


def _px_as_mm(index: LandmarkSet, grid: Grid) -> LandmarkSet:
    return replace(index, space=Space.WORLD).to_space(Space.INDEX, grid)


def _earlier(index: LandmarkSet, grid: Grid) -> LandmarkSet:
    return index if (index.frames == 0).any() else replace(index, frames=index.frames - 1)


def _of_space(space: Space) -> dict[str, _Change]:
    """Mistakes that can be made with points in this space, each undone on points in INDEX space."""
    world = space is Space.WORLD
    return {
        "x and y were exchanged: are the columns swapped?": _swapped_mm if world else _swapped,
        f"the numbers were {'pixels' if world else 'mm'}: is the unit right?": _mm_as_px if world else _px_as_mm,
        "every frame number were one less: are frames counted from 1?": _earlier,
    }


def doubts(
    transforms: Mapping[int, Transform], landmarks: LandmarkSet, reference: int, grid: Grid, table: TRETable
) -> tuple[str, ...]:
    """One sentence for each mistake that, undone, at least halves the error that the registration leaves.

    Parameters
    ----------
    transforms, landmarks, reference, grid
        As of ``target_registration_error``.
    table
        What that gave.
    """
    if len(table.included()) < _FEWEST_PAIRS:
        return ()
    frames = [frame for frame in table.frames if table.included(frame)]
    chosen = {frames[k] for k in np.linspace(0, len(frames) - 1, min(_MOST_FRAMES, len(frames))).round().astype(int)}
    index = landmarks.to_space(Space.INDEX, grid)
    found = []
    for words, change in _of_space(landmarks.space).items():
        changed = change(index, grid)
        if np.array_equal(changed.points, index.points) and np.array_equal(changed.frames, index.frames):
            continue
        wanted = changed if change is _earlier else changed.select_frames({reference, *chosen})
        better = _mean_mm(transforms, wanted, reference, grid)
        given = float(np.mean([row.after_mm for row in table.included() if row.frame in chosen]))
        # Where the landmarks hardly move every convention fits, and a fraction of a pixel proves nothing.
        if better is not None and better < _FAR_BETTER * given and given - better > min(grid.spacing[-2:]):
            unit = length_unit(grid.spacing)
            found.append(f"the mean TRE would be {length_text(better, unit)} instead of {length_text(given, unit)} if {words}")
    return tuple(found)


def _mean_mm(transforms: Mapping[int, Transform], landmarks: LandmarkSet, reference: int, grid: Grid) -> float | None:
    try:
        table = target_registration_error(transforms, landmarks, reference, grid)
    except ReadError:
        return None
    # Points thrown out of the image would be left out, and the rest would look good.
    return table.after().mean_mm if table.rows and not table.outside else None
