"""Settings of training by name: the paper's network as it learns, the same as published, and a network for anatomy it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError
from r2n2.simulation.engine_config import AppearanceConfig, EngineConfig, MotionConfig
from r2n2.training.settings import DataConfig, ObjectiveConfig, OptimiserConfig, Stage, TrainingConfig

__all__ = ["PRESETS", "preset"]


def _as_published() -> TrainingConfig:
    return TrainingConfig()


_AS_ACQUIRED = EngineConfig(
    real_share=1.0,
    synthetic_share=0.0,
    zoom=(1.0, 1.0),
    rotation_deg=0.0,
    quarter_turns=0.0,
    shift=0.0,
    appearance=AppearanceConfig(
        invert=0, gamma=0, mapping=0, texture=0, vessels=0, bias=0, density=0, drift=0, pulse=0, blur=0, noise=0
    ),
)
"""Pairs as they were made, but for mirror images."""


def _growing(longest: int, updates: int, size: int) -> Iterator[Stage]:
    """A stage a length of sequence from 2 on."""
    return (Stage(updates=updates, working_size=size, steps=steps) for steps in range(2, longest + 1))


def _paper() -> TrainingConfig:
    # Sequences grow by a step at a time: where they doubled, the network unlearnt all but its first steps.
    supervised = (
        *_growing(6, 100, 64),
        Stage(updates=1000, working_size=64, steps=6, learning_rate=2e-4, fall=0.5),
        *(Stage(updates=500, working_size=64, steps=steps, learning_rate=1e-4) for steps in (7, 8)),
        Stage(updates=1000, working_size=64, steps=8, learning_rate=1e-4, fall=0.3),
    )
    alone = (Stage(updates=1000, working_size=64, steps=8, learning_rate=3e-5, fall=0.1, truth=False),)
    return TrainingConfig(
        name="paper",
        network=NetworkConfig(working_size=64, sigma_min=0.02, amplitude_scale=0.25, keep_probability=1.0),
        initialisation="tanh",
        objective=ObjectiveConfig(distance=8.0, structure=0.0),
        optimiser=OptimiserConfig(learning_rate=3e-4, warmup=50),
        data=DataConfig(engine=_AS_ACQUIRED, thorax_seeds=(1000, 1400)),
        stages=(*supervised, *alone),
        batch=8,
        data_size=128,
        validation_steps=25,
    )


def _general() -> TrainingConfig:
    motion = MotionConfig(
        factor=(0.4, 1.4), gaussian_amplitude=0.2, breathing_amplitude=(0.03, 0.22), smooth_amplitude=0.07, sum_share=0.2
    )
    objective = ObjectiveConfig(
        supervised=1.0,
        similarity=0.5,
        similarity_with_truth=0.05,
        total_variation=0.0,
        diffusion=0.003,
        folding=1.0,
        roughness_with_truth=0.1,
    )
    return TrainingConfig(
        name="general",
        network=NetworkConfig(
            channels=(8, 16, 32, 64), least_squares_sizes=(64, 192), orthogonal=True, working_size=64, keep_probability=1.0
        ),
        objective=objective,
        optimiser=OptimiserConfig(learning_rate=6e-4, warmup=100, decay="cosine", amsgrad=False, averaging=0.998),
        data=DataConfig(engine=EngineConfig(motion=motion, real_share=0.35, zoom=(0.75, 1.8))),
        stages=(Stage(updates=5000, working_size=64, steps=25),),
        batch=8,
        chunk=5,
        groups=5,
        through_images=False,
        data_size=192,
    )


def _paper_gpu() -> TrainingConfig:
    """The recipe of ``paper`` on the paper's squares, with its noise and all of its gradients, for hours of a GPU."""
    supervised = (
        *_growing(25, 200, 64),
        Stage(updates=5000, working_size=64, steps=25, learning_rate=2e-4),
        Stage(updates=5000, working_size=128, steps=25, learning_rate=2e-4, fall=0.5),
        Stage(updates=5000, working_size=256, steps=25, learning_rate=1e-4, fall=0.5),
    )
    alone = (Stage(updates=10000, working_size=256, steps=25, learning_rate=5e-5, fall=0.1, truth=False),)
    return _paper().model_copy(
        update={
            "name": "paper-gpu",
            "network": NetworkConfig(sigma_min=0.02, amplitude_scale=0.25),
            "stages": (*supervised, *alone),
            "batch": 16,
            "data_size": 256,
            "precision": "bfloat16",
            "recompute": True,
            "save_minutes": 2.0,
        }
    )


PRESETS: dict[str, Callable[[], TrainingConfig]] = {
    "paper": _paper,
    "paper-gpu": _paper_gpu,
    "paper-as-published": _as_published,
    "general": _general,
}
"""By name."""


def preset(name: str) -> TrainingConfig:
    """Settings by name.

    Raises
    ------
    ArgumentError
        If there are none of that name.
    """
    if name not in PRESETS:
        raise ArgumentError(f"--preset: no settings are called {name!r}; choose {', '.join(PRESETS)}, or give a TOML file")
    return PRESETS[name]()
