"""Building blocks of the recurrent registration network: residual blocks, C-GRU, spatial softmax and the two heads.

Nothing here remembers a call: the recurrent state goes in and comes out. All blocks exist in 2D and 3D. Multiplicative
noise is drawn in training mode only, so that evaluation is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = [
    "CONVOLUTIONS",
    "ConvGRU",
    "GatedRegistrationUnit",
    "ParameterHead",
    "PositionHead",
    "RecurrentUnit",
    "ResidualBlock",
    "UnitOutput",
    "bounded",
    "convolve",
    "expected_position",
    "multiplicative_noise",
    "spatial_softmax",
]

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_FUNCTIONS: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}

_HIDDEN_FEATURES = 1024
# Two softmaxes that share no pixel have certainty 0; if that happens on all three levels (16) would be 0 / 0.
_LEAST_CERTAINTY = 1e-6


def multiplicative_noise(values: Tensor, keep_probability: float, generator: Generator | None = None) -> Tensor:
    """Values times independent noise N(1, sqrt((1 - p) / p)), whose mean leaves them unchanged.

    Parameters
    ----------
    values
        Any shape.
    keep_probability
        p in (0, 1]; with 1 there is no noise and ``values`` itself is returned.
    generator
        Source of randomness on the device of ``values``; torch's default if None.
    """
    deviation = math.sqrt((1 - keep_probability) / keep_probability)
    if deviation == 0:
        return values
    draw = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    return values * (1 + deviation * draw)


def spatial_softmax(features: Tensor) -> Tensor:
    """Softmax over all pixels of every feature map (equation 14), (B, C, *shape) to the same shape."""
    return features.flatten(2).softmax(dim=2).view_as(features)


def expected_position(probabilities: Tensor, coordinates: Tensor) -> Tensor:
    """Mean position under a distribution over pixels (equation 15).

    Parameters
    ----------
    probabilities
        (B, 1, *shape), summing to 1.
    coordinates
        (ndim, *shape) position of every pixel.

    Returns
    -------
    Tensor
        (B, ndim), in the unit and order of ``coordinates``.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        return probabilities.flatten(1) @ coordinates.flatten(1).mT


def bounded(values: Tensor) -> Tensor:
    """tanh; where no gradient is asked for, in place of ``values``.

    On a processor it is then 2 sigmoid(2 x) - 1, equal to 3e-7, which takes torch a third of the time of its tanh.
    """
    if torch.is_grad_enabled():
        return torch.tanh(values)
    if values.device.type != "cpu" or values.dtype.itemsize < 4:
        return values.tanh_()
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


def convolve(layer: nn.Conv2d | nn.Conv3d, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer does, with other weights than its own: a part of them, or noisy ones."""
    return _FUNCTIONS[features.ndim - 2](features, weight, bias, layer.stride, layer.padding)


class ResidualBlock(nn.Module):
    """tanh(x + conv(tanh(conv(x)))), two 3-wide convolutions."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[ndim]
        self.first = convolution(channels, channels, 3, padding=1)
        self.second = convolution(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *shape) to the same shape."""
        return bounded(features + self.second(bounded(self.first(features))))


class ConvGRU(nn.Module):
    """C-GRU of equations (10)-(13) with 3-wide convolutions and one bias a gate.

    As printed, the reset gate r multiplies the state inside the proposal's convolution. In training the weights of the
    proposal, w and u of (12), are multiplied by noise drawn anew in every call (dropconnect).

    The convolutions of one input are fused: ``of_input`` gives r, z and the proposal; ``of_state`` r and z. Where neither noise
    nor a gradient is asked for, input and state are: one convolution of both gives r and z, another the proposal.
    """

    def __init__(self, channels: int, ndim: int, keep_probability: float) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[ndim]
        self.of_input = convolution(channels, 3 * channels, 3, padding=1)
        self.of_state = convolution(channels, 2 * channels, 3, padding=1, bias=False)
        self.of_reset_state = convolution(channels, channels, 3, padding=1, bias=False)
        self.channels = channels
        self.keep_probability = keep_probability

    def forward(self, features: Tensor, state: Tensor, generator: Generator | None = None) -> Tensor:
        """The next state h_t from input x and state h_{t-1}, all (B, C, *shape)."""
        if not self.training and not torch.is_grad_enabled():
            return self._fused(features, state)
        of_input, of_reset_state = self._weights(generator)
        x_gates, x_proposal = convolve(self.of_input, features, of_input, self.of_input.bias).split(
            (2 * self.channels, self.channels), dim=1
        )
        reset, update = torch.sigmoid(x_gates + self.of_state(state)).chunk(2, dim=1)
        proposal = torch.tanh(x_proposal + convolve(self.of_reset_state, reset * state, of_reset_state, None))
        return state + update * (proposal - state)  # (13), one product fewer

    def _fused(self, features: Tensor, state: Tensor) -> Tensor:
        count = 2 * self.channels
        both = torch.cat((features, state), dim=1)
        of_input, bias = self.of_input.weight, self.of_input.bias
        assert bias is not None
        of_gates = torch.cat((of_input[:count], self.of_state.weight), dim=1)
        reset, update = convolve(self.of_input, both, of_gates, bias[:count]).sigmoid_().chunk(2, dim=1)
        both[:, self.channels :].mul_(reset)
        of_proposal = torch.cat((of_input[count:], self.of_reset_state.weight), dim=1)
        proposal = bounded(convolve(self.of_input, both, of_proposal, bias[count:]))
        return torch.lerp(state, proposal, update)

    def _weights(self, generator: Generator | None) -> tuple[Tensor, Tensor]:
        of_input, of_reset_state = self.of_input.weight, self.of_reset_state.weight
        if not self.training:
            return of_input, of_reset_state
        gates, proposal = of_input.split((2 * self.channels, self.channels))
        noisy = multiplicative_noise(proposal, self.keep_probability, generator)
        return torch.cat((gates, noisy)), multiplicative_noise(of_reset_state, self.keep_probability, generator)


class PositionHead(nn.Module):
    """Position of the local deformation on one level, and how certain it is (figure 4a)."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__()
        self.left = CONVOLUTIONS[ndim](channels, 1, 1)
        self.right = CONVOLUTIONS[ndim](channels, 1, 1)

    def forward(self, features: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Position (B, ndim) and certainty (B, 1) in (0, 2], equation (17), in the dtype of ``coordinates``."""
        left = spatial_softmax(self.left(features).to(coordinates.dtype))
        right = spatial_softmax(self.right(features).to(coordinates.dtype))
        certainty = 2 - (left - right).abs().flatten(1).sum(dim=1, keepdim=True)
        return expected_position(left, coordinates), certainty.clamp_min(_LEAST_CERTAINTY)


class ParameterHead(nn.Module):
    """Numbers that describe shape and weight of the local deformation (figure 4b), before the ranges of equation (18).

    The pooling is a sum where the paper averages. The softmax sums to 1, so a sum is the mean feature under it, the same
    on every working size; an average would divide it by the number of pixels, a constant that the next layer's weights
    take up on one working size but not on two.
    """

    def __init__(self, channels: int, outputs: int, ndim: int, located: int = 0) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[ndim]
        self.halves = (channels // 2, channels - channels // 2)
        self.shared = convolution(channels, channels, 3, padding=1)
        self.content = convolution(self.halves[0], self.halves[1], 3, padding=1)
        self.hidden = nn.Linear(self.halves[1] + located, _HIDDEN_FEATURES)
        self.output = nn.Linear(_HIDDEN_FEATURES, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor, located: Tensor | None = None) -> Tensor:
        """(B, C, *shape), and (B, located) features of the chosen place if there are any, to (B, outputs)."""
        content, attention = self.shared(features).split(self.halves, dim=1)
        # The softmax is the second half's activation: after a tanh no pixel could weigh more than e^2 times another.
        content = bounded(self.content(bounded(content)))
        pooled = (content * spatial_softmax(attention)).flatten(2).sum(dim=2)
        if located is not None:
            pooled = torch.cat((pooled, located), dim=1)
        return self.output(bounded(self.hidden(pooled)))


class UnitOutput(NamedTuple):
    """What a gated recurrent registration unit gives."""

    features: Tensor
    """(B, C_next, *half the shape), for the next level."""
    state: Tensor
    """(B, C, *shape)."""
    here: Tensor
    """(B, C, *shape), from which the position is read."""


class RecurrentUnit(nn.Module):
    """One level: residual blocks, C-GRU with a skip connection, and half the resolution.

    Parameters
    ----------
    channels, next_channels, ndim, keep_probability
        Of this level and the next; axes; p of the noise.
    """

    def __init__(self, channels: int, next_channels: int, ndim: int, keep_probability: float) -> None:
        super().__init__()
        self.residual = nn.Sequential(*(ResidualBlock(channels, ndim) for _ in range(3)))
        self.recurrent = ConvGRU(channels, ndim, keep_probability)
        self.down = CONVOLUTIONS[ndim](channels, next_channels, 3, stride=2, padding=1)
        self.keep_probability = keep_probability

    def forward(self, features: Tensor, state: Tensor, generator: Generator | None = None) -> UnitOutput:
        """One step of the level from features and state (B, C, *shape)."""
        features = self.residual(features)
        state = self.recurrent(features, state, generator)
        # The noise is on what the C-GRU hands on; the state stays clean, or it would grow with every step of a sequence.
        handed_on = multiplicative_noise(state, self.keep_probability, generator) if self.training else state
        features = features + handed_on
        return UnitOutput(bounded(self.down(features)), state, features)


class GatedRegistrationUnit(RecurrentUnit):
    """The paper's GR2U (figure 4c): a ``RecurrentUnit`` with the position net that reads what the level hands on."""

    def __init__(self, channels: int, next_channels: int, ndim: int, keep_probability: float) -> None:
        super().__init__(channels, next_channels, ndim, keep_probability)
        self.position = PositionHead(channels, ndim)
