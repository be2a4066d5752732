"""The recurrent registration neural network R2N2 (the paper's section 3.2): two images and a state to one local Gaussian.

State goes in and comes out, nothing of a call stays on the module. It works in NORMALISED space on a square (a cube in
3D) whose pixel centres run over [-1, 1]; array order (z,)y,x. It starts as the identity: its last layer is zero, so the
first amplitude is 0 and sigma is half the largest.

With channels (32, 64, 128, 256) and the paper's inputs it has 3,593,611 parameters. Where the paper is silent: every
convolution has a bias (the C-GRU one a gate), those of the position head are 1 x 1.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor, nn

from r2n2.config import NetworkConfig
from r2n2.network.blocks import CONVOLUTIONS, GatedRegistrationUnit, ParameterHead, PositionHead, UnitOutput, bounded
from r2n2.network.least_squares import Evidence, solve_amplitude, without_folding
from r2n2.network.placement import PlaceChooser, features_at
from r2n2.transform.gaussians import gaussian_on_lattice, precision_matrix

__all__ = ["LEVELS", "R2N2", "GaussianParameters", "State", "Unchanging", "coordinate_lattice", "force_channels"]

SIZE_MULTIPLE = 8
LEVELS = 3
_FORCE_FLOOR = 0.02
_CORRECTION = 0.5  # largest correction of a solved amplitude, in widths of its Gaussian
_WIDER = 0.7  # logarithm of the largest factor between a chosen width and a standard deviation
_PREFERENCE = 2.0  # how much the scale on which a place was chosen counts more than the others at first

State: TypeAlias = tuple[Tensor, ...]
"""One (B, C, *shape) tensor a level, at 1/2, 1/4 and 1/8 of the working size."""


class GaussianParameters(NamedTuple):
    """One local Gaussian deformation a pair, NORMALISED, array order; the inputs of ``r2n2.transform``'s functions."""

    centres: Tensor
    """(B, ndim) in [-1, 1]."""
    sigmas: Tensor
    """(B, ndim) standard deviations along principal axes 1, 2(, 3), in (sigma_min, sigma_max)."""
    orientation: Tensor
    """(B, 1) angle in [0, pi]; in 3D a rotation vector (B, 3)."""
    amplitudes: Tensor
    """(B, ndim) in [-1, 1]; in the scale of the settings."""

    def displacement(self, lattice: Tensor) -> Tensor:
        """The Gaussian on a lattice (ndim, *shape) of positions, (B, ndim, *shape)."""
        # Positions stay in full precision where convolutions do not.
        with torch.autocast(lattice.device.type, enabled=False):
            return self.added_to(lattice.new_zeros((1, *lattice.shape)), lattice)

    def added_to(self, displacement: Tensor, lattice: Tensor) -> Tensor:
        """A displacement (B, ndim, *shape) on a lattice (ndim, *shape), and the Gaussian."""
        with torch.autocast(lattice.device.type, enabled=False):
            height = gaussian_on_lattice(lattice, self.centres, precision_matrix(self.sigmas, self.orientation))
            amplitudes = self.amplitudes.view(*self.amplitudes.shape, *[1] * len(lattice))
            return torch.addcmul(displacement, amplitudes, height.unsqueeze(1))


class Unchanging(NamedTuple):
    """What stays the same while a sequence grows, computed once."""

    features: Tensor
    """(B or 1, C, *half the shape): what fixed image and coordinates give to the first convolution, its bias included."""
    lattice: Tensor
    """(ndim, *shape) from ``coordinate_lattice``."""


def coordinate_lattice(size: int, ndim: int, like: Tensor) -> Tensor:
    """Position of every pixel centre of the square, (ndim, *shape), -1 to 1, in the dtype and on the device of ``like``."""
    axis = torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij"))


def force_channels(fixed: Tensor, warped: Tensor) -> Tensor:
    """Residual r = F - W and normalised force r g / (|g|^2 + r^2 / 4 + 0.02), g the gradient a pixel of (F + W) / 2.

    Not in the paper: the force points roughly where the demons algorithm would move a pixel, which spares the network
    learning to compare two images from scratch.

    Parameters
    ----------
    fixed, warped
        (B, 1, *shape).

    Returns
    -------
    Tensor
        (B, 1 + ndim, *shape): r, then the components in array order.
    """
    residual = fixed - warped
    axes = tuple(range(2, fixed.ndim))
    gradient = torch.cat(torch.gradient((fixed + warped) / 2, dim=axes), dim=1)
    scale = gradient.square().sum(dim=1, keepdim=True) + residual.square() / 4 + _FORCE_FLOOR
    return torch.cat((residual, residual * gradient / scale), dim=1)


class R2N2(nn.Module):
    """The function g of equation (7), as one step of a recurrent network.

    Parameters
    ----------
    config
        Architecture; the defaults are the paper's.
    ndim
        2, or 3 for cubes. The paper is 2D only: a 3D orientation has three components in (-pi/2, pi/2) instead of one
        angle in (0, pi).

    Raises
    ------
    ValueError
        If ``ndim`` is neither 2 nor 3 or a level has no channel (the last needs two, as it is halved).
    """

    def __init__(self, config: NetworkConfig, ndim: int = 2) -> None:
        super().__init__()
        if ndim not in CONVOLUTIONS:
            raise ValueError(f"R2N2: ndim must be 2 or 3, got {ndim}")
        channels = config.channels
        if min(channels) < 1 or channels[-1] < 2:
            raise ValueError(f"R2N2: channels must be at least 1, the last at least 2, got {channels}")
        self.config = config
        self.ndim = ndim
        if config.evidence_sizes and ndim != 2:
            raise ValueError(f"R2N2: evidence is for 2D images, got ndim {ndim}; leave evidence_sizes empty")
        inputs = 2 + ndim + (1 + ndim if config.force_channels else 0)
        self.entry = CONVOLUTIONS[ndim](inputs, channels[0], 7, stride=2, padding=3)
        scales = len(config.evidence_sizes)
        self.evidence_entry: nn.Module | None = None
        self.chooser: PlaceChooser | None = None
        if scales:
            self.evidence_entry = CONVOLUTIONS[ndim](Evidence.channel_count(scales), channels[0], 3, padding=1)
            self.chooser = PlaceChooser(channels[:-1], scales)
        self.levels = nn.ModuleList(
            GatedRegistrationUnit(here, below, ndim, config.keep_probability, positioned=not scales)
            for here, below in itertools.pairwise(channels)
        )
        self._widths = (ndim, ndim, 1 if ndim == 2 else 3, *((scales, 1) if scales else ()))
        located = sum(channels[:-1]) + self.chooser.described if self.chooser is not None else 0
        self.parameter_head = ParameterHead(channels[-1], sum(self._widths), ndim, located)

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
        own = torch.cat((weight[:, :1], weight[:, 2 : 2 + self.ndim]), dim=1)
        return Unchanging(self.entry._conv_forward(inputs, own, self.entry.bias), lattice)

    def step(
        self,
        fixed: Tensor,
        warped: Tensor,
        state: State,
        *,
        evidence: Evidence | None = None,
        generator: Generator | None = None,
    ) -> tuple[GaussianParameters, State]:
        """The next local deformation: ``scored_step`` without the scores."""
        return self.scored_step(fixed, warped, state, evidence=evidence, generator=generator)[:2]

    def scored_step(
        self,
        fixed: Tensor,
        warped: Tensor,
        state: State,
        *,
        evidence: Evidence | None = None,
        generator: Generator | None = None,
        unchanging: Unchanging | None = None,
    ) -> tuple[GaussianParameters, State, Tensor | None]:
        """The next local deformation.

        Parameters
        ----------
        fixed, warped
            (B, 1, *shape) normalised intensities of the fixed image and of the moving image warped so far, on a square
            (cube) whose side is a multiple of 8.
        state
            From ``initial_state`` or the step before.
        evidence
            Of fixed and warped image, where the settings name ``evidence_sizes``; else None.
        generator
            Source of the noise in training mode, on the device of the images; torch's default if None.
        unchanging
            From ``unchanging``, where it was computed before.

        Returns
        -------
        tuple
            The deformation, the next state and, with evidence, the score (B, L, K, n / 2, n / 2) of every place and width.

        Raises
        ------
        ValueError
            If the shapes of images or state do not fit, or evidence lacks or is not asked for.
        """
        self._check_images(fixed, warped, state)
        if (evidence is None) != (self.evidence_entry is None):
            raise ValueError(
                f"R2N2.step: settings with evidence_sizes {self.config.evidence_sizes} "
                f"{'take no' if self.evidence_entry is None else 'need'} evidence; see r2n2.registration.recurrent_steps"
            )
        unchanging = unchanging or self.unchanging(fixed)
        full = lattice = unchanging.lattice
        features = unchanging.features + self._changing(fixed, warped)
        if self.evidence_entry is not None and evidence is not None:
            features = features + self.evidence_entry(evidence.channels)
        if not torch.is_grad_enabled():
            # The layout in which few channels are quickly convolved; all that follows keeps it.
            layout = torch.channels_last if self.ndim == 2 else torch.channels_last_3d
            kind = fixed.device.type
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
        states = tuple(unit.state for unit in done)
        here = [unit.here for unit in done]
        if self.chooser is None or evidence is None:
            centres = _weighted_position(
                [_position_head(level)(maps, place) for level, maps, place in zip(self.levels, here, lattices, strict=True)]
            )
            return self._in_range(self.parameter_head(features).to(fixed.dtype), centres), states, None
        chosen = self.chooser(here, evidence, lattices[0])
        located = [features_at(maps, chosen.centres, fixed.shape[-1]) for maps in here]
        values = self.parameter_head(features, torch.cat((*located, chosen.description), dim=1)).to(fixed.dtype)
        sigmas, amplitudes, orientation, mixture, caution = values.split(self._widths, dim=1)
        sigmas = chosen.widths * torch.exp(_WIDER * torch.tanh(sigmas))
        angles = torch.sigmoid(orientation) * torch.pi
        weights = (mixture + _PREFERENCE * chosen.scales).softmax(dim=1)
        cautious = torch.exp(caution.clamp(-8, 8))
        with torch.autocast(fixed.device.type, enabled=False):
            solved = solve_amplitude(evidence.moments, full, chosen.centres, sigmas, angles, weights, cautious)
            amplitudes = without_folding(solved + _CORRECTION * chosen.widths * torch.tanh(amplitudes), sigmas, angles)
        return GaussianParameters(chosen.centres, sigmas, angles, amplitudes), states, chosen.scores

    def _changing(self, fixed: Tensor, warped: Tensor) -> Tensor:
        """The first convolution of what differs from step to step."""
        weight = self.entry.weight
        if not self.config.force_channels:
            return self.entry._conv_forward(warped, weight[:, 1:2], None)
        own = torch.cat((weight[:, 1:2], weight[:, 2 + self.ndim :]), dim=1)
        return self.entry._conv_forward(torch.cat((warped, force_channels(fixed, warped)), dim=1), own, None)

    def _in_range(self, values: Tensor, centres: Tensor) -> GaussianParameters:
        """The output ranges of equation (18), narrowed where the settings say so."""
        sigmas, amplitudes, orientation = values.split(self._widths, dim=1)
        angles = torch.sigmoid(orientation) * torch.pi
        return GaussianParameters(
            centres=centres,
            sigmas=self.config.sigma_min + torch.sigmoid(sigmas) * (self.config.sigma_max - self.config.sigma_min),
            orientation=angles if self.ndim == 2 else angles - torch.pi / 2,
            amplitudes=torch.tanh(amplitudes) * self.config.amplitude_scale,
        )

    def _level_shapes(self, size: int) -> tuple[tuple[int, ...], ...]:
        return tuple((size >> (level + 1),) * self.ndim for level in range(LEVELS))

    def _check_size(self, size: int) -> None:
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            raise ValueError(f"R2N2: the working size must be a positive multiple of {SIZE_MULTIPLE} pixels, got {size}")

    def _check_images(self, fixed: Tensor, warped: Tensor, state: State) -> None:
        size = fixed.shape[-1]
        expected = (len(fixed), 1, *(size,) * self.ndim)
        if tuple(fixed.shape) != expected or fixed.shape != warped.shape:
            raise ValueError(
                f"R2N2.step: fixed and warped must have one shape (B, 1, {', '.join(['N'] * self.ndim)}), "
                f"got {tuple(fixed.shape)} and {tuple(warped.shape)}; bring them to the network's square first"
            )
        self._check_size(size)
        wanted = [
            (len(fixed), count, *shape) for count, shape in zip(self.config.channels[:-1], self._level_shapes(size), strict=True)
        ]
        if [tuple(part.shape) for part in state] != wanted:
            raise ValueError(
                f"R2N2.step: for images of shape {tuple(fixed.shape)} the state must have shapes {wanted}, "
                f"got {[tuple(part.shape) for part in state]}; start from initial_state"
            )


def _position_head(level: nn.Module) -> PositionHead:
    head = level.position
    assert isinstance(head, PositionHead)
    return head


def _weighted_position(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean of the levels' positions, weighted by their certainty (equation 16), (B, ndim)."""
    certainty = torch.cat([weight for _, weight in found], dim=1)
    positions = torch.stack([position for position, _ in found], dim=1)
    return (positions * certainty[..., None]).sum(dim=1) / certainty.sum(dim=1, keepdim=True)
