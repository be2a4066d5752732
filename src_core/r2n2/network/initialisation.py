"""Weights drawn for an activation of tanh, from which the paper's network learns; torch's own are drawn for another one."""

from __future__ import annotations

import torch
from torch import nn

from r2n2.network.blocks import ConvGRU, ParameterHead

__all__ = ["initialise_for_tanh"]

_OUTPUT_DEVIATION = 1e-3


def initialise_for_tanh(network: nn.Module) -> None:
    """Draw all weights anew from torch's generator, in place.

    Convolutions and linear layers are Xavier normal with tanh's gain of 5/3, those of the C-GRU with 1, as gates keep what they
    pass on within its range. Biases are 0. The last layer is N(0, 1e-3): a network begins as good as the identity, yet not with
    all pairs alike.
    """
    gated = {id(part) for module in network.modules() if isinstance(module, ConvGRU) for part in module.children()}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            continue
        gain = 1.0 if id(module) in gated else nn.init.calculate_gain("tanh")
        # The C-GRU's gates share a layer, and each is a convolution of its own.
        parts = len(module.weight) // module.weight.shape[1] if id(module) in gated else 1
        with torch.no_grad():
            for part in module.weight.chunk(parts):
                nn.init.xavier_normal_(part, gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ParameterHead):
            nn.init.normal_(module.output.weight, std=_OUTPUT_DEVIATION)
