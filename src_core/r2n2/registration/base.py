"""The one protocol of all registration methods: a generator over a batch of pairs that yields after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.guides import GuidingPairs
from r2n2.transform import Transform

__all__ = ["Method", "Pairs", "RegistrationStep"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of image pairs on one grid, as a method receives them.

    Parameters
    ----------
    fixed, moving
        (B, 1, *grid.shape) float32 intensities as in the file (not normalised); finite everywhere.
    fixed_valid, moving_valid
        (B, 1, *grid.shape) bool: False where a pixel holds no measurement (NaN in the file) and must not count.
    grid
        Lattice of both.
    fixed_weight, moving_weight
        (B, 1, *grid.shape) float32 in [0, 1]: how much a pixel counts, by masks; None where all valid ones count alike.
    guides
        What a person vouches for, one item a pair, None where that is nothing; empty where no pair has any.
    """

    fixed: Tensor
    moving: Tensor
    fixed_valid: Tensor
    moving_valid: Tensor
    grid: Grid
    fixed_weight: Tensor | None = None
    moving_weight: Tensor | None = None
    guides: tuple[GuidingPairs | None, ...] = ()

    def __len__(self) -> int:
        return len(self.moving)

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.fixed_weight is not None or self.moving_weight is not None

    def part(self, chosen: slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            self.fixed[chosen],
            self.moving[chosen],
            self.fixed_valid[chosen],
            self.moving_valid[chosen],
            self.grid,
            None if self.fixed_weight is None else self.fixed_weight[chosen],
            None if self.moving_weight is None else self.moving_weight[chosen],
            self.guides[chosen],
        )

    def chosen(self, rows: Sequence[int] | Tensor) -> Pairs:
        """Pairs of these numbers; what all pairs share stays shared."""
        at = torch.as_tensor(rows, dtype=torch.long, device=self.moving.device)

        def of(values: Tensor) -> Tensor:
            return values[:1].expand(len(at), *values.shape[1:]) if values.stride(0) == 0 else values[at]

        images = (of(self.fixed), of(self.moving), of(self.fixed_valid), of(self.moving_valid))
        fixed_weight, moving_weight = (None if w is None else of(w) for w in (self.fixed_weight, self.moving_weight))
        guides = tuple(self.guides[row] for row in at.tolist()) if self.guides else ()
        return Pairs(*images, self.grid, fixed_weight, moving_weight, guides)

    def distinct_fixed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fixed images, their validity and weight without repetition: of one image where all pairs share it by ``expand``."""
        held = (self.fixed, self.fixed_valid, self.fixed_weight)
        if any(tensor is not None and tensor.stride(0) != 0 for tensor in held):
            return held
        return self.fixed[:1], self.fixed_valid[:1], None if self.fixed_weight is None else self.fixed_weight[:1]


@dataclass(frozen=True, eq=False)
class RegistrationStep:
    """What is known after one step; stopping here keeps it.

    Parameters
    ----------
    index, total
        Steps done, from 1, and steps planned.
    loss
        (B,) value of the method's objective, smaller is better.
    transforms
        Gives the B transforms found so far, each on the grid of the pairs.
    notes
        What was done to each transform after it was found, the end of a sentence or ""; empty where nothing was to any.
    """

    index: int
    total: int
    loss: Tensor
    transforms: Callable[[], tuple[Transform, ...]]
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """A way to register pairs; holds settings and weights, keeps nothing of a call."""

    @property
    def name(self) -> str:
        """What a person calls it: r2n2, fit or bspline."""
        ...

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step.

        Parameters
        ----------
        pairs
            The image pairs.
        start
            One transform a pair to start from, or None for no displacement.
        """
        ...
