"""Tiny trainings for the tests: a few channels, squares of 32 pixels, drawn pictures instead of data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from r2n2.config import NetworkConfig
from r2n2.simulation.engine import EngineConfig, PairEngine, SimulatedBatch
from r2n2.training.loop import Trainer, build_network
from r2n2.training.settings import ObjectiveConfig, OptimiserConfig, Stage, TrainingConfig

CHANNELS = (4, 4, 6, 6)


def network_config(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**{"channels": CHANNELS, "working_size": 32, "keep_probability": 1.0, **changes})


def config(updates: int = 4, *, steps: int = 2, network: NetworkConfig | None = None, **changes: Any) -> TrainingConfig:
    """The paper's objective on a tiny network."""
    values = {
        "name": "tiny",
        "network": network or network_config(),
        "stages": (Stage(updates=updates, working_size=32, steps=steps),),
        "batch": 2,
        "data_size": 32,
        "data": {"held_out": 0.0},
        **changes,
    }
    return TrainingConfig.parse(values)


def rich_config(updates: int = 4, *, orthogonal: bool = False) -> TrainingConfig:
    """All that a resumed run has to restore: noise, least squares, chunks in groups, a mean of the weights, two stages."""
    return TrainingConfig(
        name="rich",
        network=network_config(least_squares_sizes=(32,), keep_probability=0.8, orthogonal=orthogonal),
        objective=ObjectiveConfig(supervised=1.0, placement=0.05, folding=1.0, diffusion=0.01),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup=3, decay="cosine", averaging=0.9),
        stages=(Stage(updates=3, working_size=40, steps=4), Stage(updates=updates - 3, working_size=32, steps=4)),
        batch=2,
        chunk=2,
        groups=2,
        through_images=False,
        data_size=32,
    )


def parallel_trainer(kind: str, batch: int, **options: Any) -> Trainer:
    """Without noise, by plain gradient descent: Adam makes whole steps of gradients that are but rounding."""
    changes: dict[str, Any] = {"batch": batch, "optimiser": {"learning_rate": 0.1}}
    if kind == "paper":
        settings = config(3, **changes)
    else:
        changes |= {"objective": {"supervised": 1.0, "placement": 0.1}, "chunk": 2, "groups": 2, "recompute": True}
        settings = config(4, steps=4, network=network_config(least_squares_sizes=(32,)), **changes)
    made = trainer(settings, **options)
    made.optimiser = torch.optim.SGD(made.network.parameters())  # type: ignore[assignment]
    return made


def engine(settings: TrainingConfig, seed: int = 3) -> PairEngine:
    """Drawn pictures alone."""
    return PairEngine([], [], settings.data.engine, seed=seed)


def trainer(settings: TrainingConfig, source: Any = None, **options: Any) -> Trainer:
    return Trainer(build_network(settings), source or engine(settings), settings, **options)


class OnePair:
    """An engine that always gives the same pairs, and notes what it was asked for."""

    def __init__(self, seed: int = 5) -> None:
        self._engine = PairEngine([], [], EngineConfig(synthetic_share=1.0), seed=seed)
        self.asked: list[tuple[int, int]] = []

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        self.asked.append((first, count))
        return self._engine.batch(0, count, size)


def shaken(network: torch.nn.Module, size: float = 0.03) -> None:
    """Move the weights away from the start, at which the network is the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def same(one: Any, other: Any) -> bool:
    """Equal in every bit, through dicts, lists and tuples."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other) or (one != one and other != other)
