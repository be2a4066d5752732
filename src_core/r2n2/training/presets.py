"""Settings of training by name: ``paper`` as published, ``general`` for weights that work on anatomy they never saw."""

from __future__ import annotations

from collections.abc import Callable

from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError
from r2n2.simulation.engine_config import EngineConfig, MotionConfig
from r2n2.training.settings import ObjectiveConfig, OptimiserConfig, Stage, StockConfig, TrainingConfig

__all__ = ["PRESETS", "preset"]


def _paper() -> TrainingConfig:
    return TrainingConfig()


def _general() -> TrainingConfig:
    motion = MotionConfig(
        factor=(0.4, 1.4), gaussian_amplitude=0.2, breathing_amplitude=(0.03, 0.22), smooth_amplitude=0.07, sum_share=0.2
    )
    objective = ObjectiveConfig(
        supervised=1.0,
        placement=0.5,
        similarity=0.5,
        similarity_with_truth=0.05,
        total_variation=0.0,
        diffusion=0.003,
        folding=1.0,
        roughness_with_truth=0.1,
    )
    return TrainingConfig(
        name="general",
        network=NetworkConfig(channels=(8, 16, 32, 64), least_squares_sizes=(64, 128), working_size=64, keep_probability=1.0),
        objective=objective,
        optimiser=OptimiserConfig(learning_rate=6e-4, warmup=100, decay="cosine", amsgrad=False, averaging=0.998),
        stock=StockConfig(engine=EngineConfig(motion=motion, real_share=0.35, zoom=(0.75, 1.8))),
        stages=(Stage(updates=5000, working_size=64, steps=25),),
        batch=8,
        chunk=5,
        groups=5,
        through_images=False,
        data_size=128,
    )


PRESETS: dict[str, Callable[[], TrainingConfig]] = {"paper": _paper, "general": _general}
"""By name."""


def preset(name: str) -> TrainingConfig:
    """Settings by name.

    Raises
    ------
    ArgumentError
        If there are none of that name.
    """
    if name not in PRESETS:
        raise ArgumentError(f"--preset: no settings are called {name!r}; choose {' or '.join(PRESETS)}, or give a TOML file")
    return PRESETS[name]()
