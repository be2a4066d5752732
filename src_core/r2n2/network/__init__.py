"""The recurrent registration networks: the paper's R2N2, the learnt matching pursuit on the same trunk, and their weights.

Names are imported on first use, so that asking which weights there are loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2n2.network.building import create_network
    from r2n2.network.gaussian import GaussianParameters
    from r2n2.network.matching_pursuit import MatchingPursuit
    from r2n2.network.r2n2 import R2N2
    from r2n2.network.trunk import LEVELS, RecurrentNetwork, State, Step, Unchanging

_HOMES = {
    "LEVELS": "r2n2.network.trunk",
    "R2N2": "r2n2.network.r2n2",
    "GaussianParameters": "r2n2.network.gaussian",
    "MatchingPursuit": "r2n2.network.matching_pursuit",
    "RecurrentNetwork": "r2n2.network.trunk",
    "State": "r2n2.network.trunk",
    "Step": "r2n2.network.trunk",
    "Unchanging": "r2n2.network.trunk",
    "create_network": "r2n2.network.building",
}

__all__ = [
    "LEVELS",
    "R2N2",
    "GaussianParameters",
    "MatchingPursuit",
    "RecurrentNetwork",
    "State",
    "Step",
    "Unchanging",
    "create_network",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r2n2.network' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
