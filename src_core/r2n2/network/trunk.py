"""What both recurrent networks share: one convolution of two images, three recurrent levels, and state that goes in and comes out.

Nothing of a call stays on a module. A network works in NORMALISED space on a square (a cube in 3D) whose pixel centres run over
[-1, 1]; array order (z,)y,x.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor, nn

from r2n2.config import NetworkConfig
from r2n2.network.blocks import CONVOLUTIONS, RecurrentUnit, UnitOutput, bounded, convolve
from r2n2.network.gaussian import GaussianParameters, coordinate_lattice
from r2n2.network.joint import Placed
from r2n2.network.least_squares import LeastSquares

__all__ = ["LEVELS", "Encoded", "RecurrentNetwork", "State", "Step", "Unchanging"]

SIZE_MULTIPLE = 8
LEVELS = 3

State: TypeAlias = tuple[Tensor, ...]
"""One (B, C, *shape) tensor a level, at 1/2, 1/4 and 1/8 of the working size."""


class Unchanging(NamedTuple):
    """What stays the same while a sequence grows, computed once."""

    features: Tensor
    """(B or 1, C, *half the shape): what fixed image and coordinates give to the first convolution, its bias included."""
    lattice: Tensor
    """(ndim, *shape) from ``coordinate_lattice``."""


class Step(NamedTuple):
    """What a step gives."""

    parameters: GaussianParameters
    state: State
    scores: Tensor | None
    """(B, L, K, *half the shape) of every place and width, where the network scores them; else None."""
    placed: Placed | None = None
    """The K Gaussians before and this one with all their amplitudes, where those are solved again; else None."""


class Encoded(NamedTuple):
    """What the three levels make of a step's images."""

    features: Tensor
    """(B, C, *shape / 16) for the parameter head."""
    levels: tuple[UnitOutput, ...]
    lattices: tuple[Tensor, ...]
    """(ndim, *shape) positions of the pixels of every level."""

    @property
    def state(self) -> State:
        """The next state."""
        return tuple(level.state for level in self.levels)


class RecurrentNetwork(nn.Module, ABC):
    """The function g of equation (7) as one step of a recurrent network, but for the heads.

    Parameters
    ----------
    config
        Architecture; the defaults are the paper's.
    ndim
        2, or 3 for cubes. The paper is 2D only.
    unit
        What a level is made of.

    Raises
    ------
    ValueError
        If ``ndim`` is neither 2 nor 3 or a level has no channel (the last needs two, as it is halved).
    """

    def __init__(self, config: NetworkConfig, ndim: int, unit: type[RecurrentUnit]) -> None:
        super().__init__()
        channels = config.channels
        if ndim not in CONVOLUTIONS:
            raise ValueError(f"{type(self).__name__}: ndim must be 2 or 3, got {ndim}")
        if min(channels) < 1 or channels[-1] < 2:
            raise ValueError(f"{type(self).__name__}: channels must be at least 1, the last at least 2, got {channels}")
        self.config = config
        self.ndim = ndim
        self.entry = CONVOLUTIONS[ndim](2 + ndim, channels[0], 7, stride=2, padding=3)
        self.levels = nn.ModuleList(
            unit(here, below, ndim, config.keep_probability) for here, below in itertools.pairwise(channels)
        )

    @abstractmethod
    def step(
        self,
        fixed: Tensor,
        warped: Tensor,
        state: State,
        *,
        least_squares: LeastSquares | None = None,
        placed: Placed | None = None,
        generator: Generator | None = None,
        unchanging: Unchanging | None = None,
    ) -> Step:
        """The next local deformation.

        Parameters
        ----------
        fixed, warped
            (B, 1, *shape) normalised intensities of the fixed image and of the moving image warped so far, on a square
            (cube) whose side is a multiple of 8.
        state
            From ``initial_state`` or the step before.
        least_squares
            Of fixed and warped image, for a network whose settings name ``least_squares_sizes``; None for any other.
        placed
            The Gaussians before on the working lattice, for a network that is ``orthogonal``; None for any other.
        generator
            Source of the noise in training mode, on the device of the images; torch's default if None.
        unchanging
            From ``unchanging``, where it was computed before.

        Raises
        ------
        ValueError
            If the shapes of images or state do not fit, or ``least_squares`` or ``placed`` lack or are not asked for.
        """

    def initial_state(
        self, batch: int, size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first step: zero.

        Parameters
        ----------
        batch, size
            Number of pairs and side in pixels of the square, a multiple of 8.
        device, dtype
            Those of the network if None.

        Raises
        ------
        ValueError
            If ``size`` is no multiple of 8.
        """
        self._check_size(size)
        like = self.entry.weight
        return tuple(
            torch.zeros(batch, count, *shape, device=device or like.device, dtype=dtype or like.dtype)
            for count, shape in zip(self.config.channels[:-1], self._level_shapes(size), strict=True)
        )

    def unchanging(self, fixed: Tensor) -> Unchanging:
        """What every step on a fixed image (B, 1, *shape) would compute anew; one image serves all pairs that share it."""
        lattice = coordinate_lattice(fixed.shape[-1], self.ndim, fixed)
        inputs = torch.cat((fixed, lattice.expand(len(fixed), *lattice.shape)), dim=1)
        weight = self.entry.weight
        own = torch.cat((weight[:, :1], weight[:, 2:]), dim=1)
        return Unchanging(convolve(self.entry, inputs, own, self.entry.bias), lattice)

    def _entered(self, warped: Tensor, unchanging: Unchanging) -> Tensor:
        """The first convolution of fixed image, warped image and coordinates, before its activation."""
        return unchanging.features + convolve(self.entry, warped, self.entry.weight[:, 1:2], None)

    def _encode(self, features: Tensor, state: State, lattice: Tensor, generator: Generator | None) -> Encoded:
        """All levels, from the first convolution (B, C, *half the shape) before its activation and the whole lattice."""
        if not torch.is_grad_enabled():
            # The layout in which few channels are quickly convolved; all that follows keeps it.
            layout = torch.channels_last if self.ndim == 2 else torch.channels_last_3d
            kind = features.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
            features = features.to(dtype).contiguous(memory_format=layout)
            state = tuple(part.to(dtype).contiguous(memory_format=layout) for part in state)
        features = bounded(features)
        done: list[UnitOutput] = []
        lattices: list[Tensor] = []
        for level, level_state in zip(self.levels, state, strict=True):
            # Pixel i of a level is where the strided convolutions are centred: pixel 2 i of the level above. Spreading
            # the level over [-1, 1] would move it, by up to 0.2 on the last level of 64 pixels.
            lattice = lattice[(slice(None), *(slice(None, None, 2),) * self.ndim)]
            done.append(level(features, level_state, generator))
            features = done[-1].features
            lattices.append(lattice)
        return Encoded(features, tuple(done), tuple(lattices))

    def _level_shapes(self, size: int) -> tuple[tuple[int, ...], ...]:
        return tuple((size >> (level + 1),) * self.ndim for level in range(LEVELS))

    def _check_size(self, size: int) -> None:
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            raise ValueError(
                f"{type(self).__name__}: the working size must be a positive multiple of {SIZE_MULTIPLE} pixels, got {size}"
            )

    def _check_images(self, fixed: Tensor, warped: Tensor, state: State) -> None:
        name, size = type(self).__name__, fixed.shape[-1]
        expected = (len(fixed), 1, *(size,) * self.ndim)
        if tuple(fixed.shape) != expected or fixed.shape != warped.shape:
            raise ValueError(
                f"{name}.step: fixed and warped must have one shape (B, 1, {', '.join(['N'] * self.ndim)}), "
                f"got {tuple(fixed.shape)} and {tuple(warped.shape)}; bring them to the network's square first"
            )
        self._check_size(size)
        wanted = [
            (len(fixed), count, *shape) for count, shape in zip(self.config.channels[:-1], self._level_shapes(size), strict=True)
        ]
        if [tuple(part.shape) for part in state] != wanted:
            raise ValueError(
                f"{name}.step: for images of shape {tuple(fixed.shape)} the state must have shapes {wanted}, "
                f"got {[tuple(part.shape) for part in state]}; start from initial_state"
            )
