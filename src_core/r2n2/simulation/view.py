"""The random affine window through which a source is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2n2.simulation.engine_config import EngineConfig
from r2n2.simulation.lattice import log_uniform

__all__ = ["View", "draw_view"]


@dataclass(frozen=True, eq=False)
class View:
    """Positions of the square's points in a source: p = linear @ x + shift, both NORMALISED.

    Parameters
    ----------
    linear
        (2, 2): a rotation, perhaps mirrored, divided by the zoom.
    shift
        (2,).
    zoom
        Magnification.
    """

    linear: Tensor
    shift: Tensor
    zoom: float

    def to_source(self, positions: Tensor) -> Tensor:
        """Positions (2, h, w) of the source from positions (2, h, w) of the square."""
        return (self.linear @ positions.flatten(1) + self.shift[:, None]).view(positions.shape)

    def vectors_to_square(self, vectors: Tensor) -> Tensor:
        """Displacement (2, h, w) in the square's units from one in the source's."""
        return (torch.linalg.inv(self.linear) @ vectors.flatten(1)).view(vectors.shape)


def draw_view(rng: np.random.Generator, config: EngineConfig) -> View:
    """Draw zoom, rotation, mirroring and shift."""
    zoom = log_uniform(rng, config.zoom)
    angle = math.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
    if rng.uniform() < config.quarter_turns:
        angle += math.pi / 2 * int(rng.integers(1, 4))
    mirror = -1.0 if rng.uniform() < config.flips else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    linear = torch.tensor([[cos, -sin * mirror], [sin, cos * mirror]]) / zoom
    reach = config.shift + max(0.0, 1 - 1 / zoom)
    return View(linear, torch.from_numpy(rng.uniform(-reach, reach, 2)).float(), zoom)
