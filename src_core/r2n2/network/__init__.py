"""The recurrent registration networks: the paper's R2N2, the learnt matching pursuit on the same trunk, and their weights."""

from r2n2.network.building import create_network
from r2n2.network.gaussian import GaussianParameters
from r2n2.network.matching_pursuit import MatchingPursuit
from r2n2.network.r2n2 import R2N2
from r2n2.network.trunk import LEVELS, RecurrentNetwork, State, Step, Unchanging

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
