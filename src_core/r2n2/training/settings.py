"""Settings of training, strict and frozen; in and out as TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, model_validator

from r2n2.config import Config, NetworkConfig
from r2n2.simulation.engine import EngineConfig

__all__ = ["DataConfig", "ObjectiveConfig", "OptimiserConfig", "Stage", "TrainingConfig"]


class ObjectiveConfig(Config):
    """Weights of what is made small; the defaults are the paper's equation (6)."""

    measure: Literal["mse", "lncc"] = "mse"
    """Likeness of the images: mean squared difference or local normalised correlation."""
    similarity: float = Field(default=1.0, ge=0)
    """Weight of the likeness for pairs whose motion is unknown."""
    similarity_with_truth: float = Field(default=1.0, ge=0)
    """Weight of the likeness for pairs whose motion is known."""
    supervised: float = Field(default=0.0, ge=0)
    """Weight of the distance to the true displacement, relative to its mean length."""
    distance: float = Field(default=0.0, ge=0)
    """Weight of the distance to the true displacement, NORMALISED: pairs that move much count more."""
    placement: float = Field(default=0.0, ge=0)
    """Weight of what the places found are worth to the error; for a matching pursuit and with truth only."""
    structure: float = Field(default=0.6, ge=0, le=1)
    """Share of the weight of both distances that goes to places with structure; the rest is even."""
    total_variation: float = Field(default=0.1, ge=0)
    """Weight of the isotropic total variation of the final field."""
    diffusion: float = Field(default=0.0, ge=0)
    """Weight of the mean squared gradient of every step's field."""
    folding: float = Field(default=0.0, ge=0)
    """Weight of the mean squared shortfall of the Jacobian determinant below 0.2."""
    roughness_with_truth: float = Field(default=1.0, ge=0)
    """Factor of the three before for pairs whose motion is known."""


class OptimiserConfig(Config):
    """Adam with AMSGrad; the defaults are the paper's."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Step size."""
    warmup: int = Field(default=0, ge=0)
    """Updates over which the step size rises from 0."""
    decay: Literal["none", "cosine"] = "none"
    """Whether the step size falls to a hundredth over the run, along a cosine."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    amsgrad: bool = True
    """AMSGrad's maximum of the second moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the weights."""
    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the running mean of the weights that is validated and saved; 0 for the weights themselves."""


class Stage(Config):
    """One part of the curriculum."""

    updates: int = Field(ge=1)
    """How many updates."""
    working_size: int = Field(ge=32, le=2048, multiple_of=8)
    """Side of the square that the network sees."""
    steps: int = Field(ge=1, le=500)
    """Length of a sequence."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size in place of the optimiser's."""
    fall: float = Field(default=1.0, gt=0, le=1)
    """Share of the step size that is left at the end of the stage, to which it falls evenly."""
    truth: bool = True
    """Whether the true displacement is told where it is known; without it the images alone teach, as in the paper."""


class DataConfig(Config):
    """Where the images come from."""

    folders: tuple[Path, ...] = ()
    """Folders of series in any readable format, or data files."""
    masks: Path | None = None
    """Folder of outlines under the same paths as the images, for Dice in validation."""
    phases: int | None = Field(default=None, ge=1)
    """Frames of a slice where pictures are numbered through the slices."""
    axes: str | None = None
    """Names of the array axes of files that do not say."""
    exclude: tuple[str, ...] = ()
    """Patients never to be used."""
    held_out: float | tuple[str, ...] = 0.15
    """Share of the patients, or their names, kept for validation."""
    engine: EngineConfig = EngineConfig()
    """How pairs are made of the images."""
    thorax_seeds: tuple[int, int] = (0, 0)
    """First and one past the last seed of simulated thoraxes that join the stream; below 1000 are the benchmarks'."""
    thorax_frames: int = Field(default=4, ge=1)
    """Pairs of frames of each."""


class TrainingConfig(Config):
    """A whole training run; the defaults are the paper's."""

    name: str = "paper-as-published"
    """Name of the weights."""
    seed: int = Field(default=0, ge=0)
    """Of everything drawn at random."""
    network: NetworkConfig = NetworkConfig()
    """Architecture; ``working_size`` is that of the last stage."""
    initialisation: Literal["plain", "tanh"] = "plain"
    """How the first weights are drawn: as torch does, or for an activation of tanh (Xavier)."""
    init: str | None = None
    """Name or file of the weights to begin with instead; of the same network but for working size and noise."""
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    # "stock" is its name in files and states of before.
    data: DataConfig = Field(default=DataConfig(), validation_alias=AliasChoices("data", "stock"))
    stages: tuple[Stage, ...] = (Stage(updates=20000, working_size=256, steps=25),)
    """The curriculum, in order."""
    batch: int = Field(default=1, ge=1)
    """Pairs in one update on one process."""
    chunk: int = Field(default=0, ge=0)
    """Steps between two updates; gradients stop where a chunk begins. 0 is the whole sequence, as in the paper."""
    groups: int = Field(default=1, ge=1)
    """Batches under way at once, at different places of their sequences; more than 1 only with ``chunk``."""
    through_images: bool = True
    """Let gradients flow through warped images from step to step; without it, through displacement and state alone."""
    data_size: int = Field(default=256, ge=32, multiple_of=8)
    """Side of the squares that the data come on."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the convolutions."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    validation_steps: int | None = Field(default=None, ge=1, le=500)
    """Length of a sequence in validation; None for that of the last stage."""
    validate_minutes: float = Field(default=10.0, gt=0)
    """Time between validations."""
    save_minutes: float = Field(default=5.0, gt=0)
    """Time between checkpoints."""
    minutes: float | None = Field(default=None, gt=0)
    """Stop after this time, counted anew when resumed; None for the stages alone."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.groups > 1 and not self.chunk:
            raise ValueError("groups: more than one batch under way needs a chunk")
        if not self.stages or self.stages[-1].working_size != self.network.working_size:
            raise ValueError(f"stages: the last must have the network's working_size, {self.network.working_size}")
        return self
