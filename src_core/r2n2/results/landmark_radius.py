"""What the uncertainty of a result says at its landmarks: the radius of 90 % probability beside the error of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from r2n2.evaluation import TRETable
from r2n2.geometry import Grid, Space
from r2n2.series import LandmarkSet
from r2n2.transform import sample_normalised

__all__ = ["with_radii"]


def with_radii(table: TRETable, landmarks: LandmarkSet, grid: Grid, radius_of: Callable[[int], Tensor | None]) -> TRETable:
    """The table with the radius at every landmark of the reference, linear between pixels; NaN outside the image.

    Parameters
    ----------
    table
        Errors of these landmarks.
    landmarks
        As they were given to ``target_registration_error``.
    grid
        Lattice of the frames.
    radius_of
        Frame -> radius in mm at every pixel of the reference, (*grid.shape); None where it is not known.
    """
    fixed = landmarks.to_space(Space.INDEX, grid).in_frame(table.reference)
    points = grid.convert_points(torch.from_numpy(fixed.points), Space.INDEX, Space.NORMALISED).float()
    places = points.mT.reshape(1, grid.ndim, len(points), *[1] * (grid.ndim - 1))
    found: dict[tuple[int, str], float] = {}
    for frame in table.frames:
        radius = radius_of(frame)
        if radius is None:
            continue
        sampled, inside = sample_normalised(radius[None, None].float(), places, grid)
        values = torch.where(inside, sampled, torch.nan).flatten().tolist()
        found.update({(frame, name): value for name, value in zip(fixed.ids, values, strict=True)})
    rows = tuple(replace(row, radius_mm=found.get((row.frame, row.id), math.nan)) for row in table.rows)
    return replace(table, rows=rows)
