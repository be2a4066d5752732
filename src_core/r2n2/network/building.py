"""Which network settings describe: the one place that decides between the two kinds."""

from __future__ import annotations

from r2n2.config import NetworkConfig
from r2n2.network.matching_pursuit import MatchingPursuit
from r2n2.network.r2n2 import R2N2
from r2n2.network.trunk import RecurrentNetwork

__all__ = ["create_network"]


def create_network(config: NetworkConfig, ndim: int = 2) -> RecurrentNetwork:
    """A learnt matching pursuit where the settings name sizes to compare images on, else the paper's network.

    Raises
    ------
    ValueError
        If the settings describe an impossible network.
    """
    kind: type[MatchingPursuit | R2N2] = MatchingPursuit if config.least_squares_sizes else R2N2
    return kind(config, ndim)
