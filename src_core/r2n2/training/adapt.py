"""Going on with training on the very series that is to be registered, without truth, never ending worse than it began.

Some frames are held out. The others teach in two ways: as slices that simulated motion is applied to, whose truth is exact, and as
pairs with the reference, whose displacement ``fit`` finds. Weights are kept only if the held-out frames become more alike the
reference without folding more. Where the training diverges, the best weights before are the result.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.errors import ArgumentError, R2N2Error
from r2n2.network import RecurrentNetwork
from r2n2.preprocessing import luminance
from r2n2.registration import resolve_device, resolve_reference
from r2n2.registration.base import Method, Pairs
from r2n2.registration.fit.method import FitMethod
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.series import ImageSeries
from r2n2.similarity import correlation
from r2n2.simulation.engine import PairEngine
from r2n2.simulation.engine_config import AppearanceConfig, EngineConfig
from r2n2.simulation.slices import RealPair, RealSlice
from r2n2.training.loop import DivergenceError, Trainer
from r2n2.training.settings import DataConfig, ObjectiveConfig, OptimiserConfig, Stage, TrainingConfig
from r2n2.training.validation import displacements
from r2n2.transform import folding_percent, jacobian_determinant, warp

__all__ = ["Adapting", "Score", "adapt"]

_MOST_TEACHERS = 32
_MOST_HELD_OUT = 12
_EVERY = 4  # one frame in so many is held out
_FOLDING_ALLOWED = 0.02  # percent more than at the start
# A fifth of it, 2e-4, was half as fast on drawn ultrasound and fluorescence of development seeds; twice of it was no faster.
_LEARNING_RATE = 1e-3
_CHECKS = 8  # times in all that the held-out frames are registered


@dataclass(frozen=True)
class Score:
    """How held-out frames fare."""

    similarity: float
    """Mean correlation with the reference after registration."""
    folding_percent: float
    """Mean share of pixels with a Jacobian determinant of at most 0."""

    def better_than(self, other: Score, start: Score) -> bool:
        """More alike, and folding no more than at the start."""
        return self.similarity > other.similarity and self.folding_percent <= start.folding_percent + _FOLDING_ALLOWED


@dataclass(frozen=True, eq=False)
class Adapting:
    """What ``adapt`` yields: at the start, and after every update."""

    seconds: float
    update: int
    loss: float
    """NaN at the start."""
    start: Score
    best: Score
    network: RecurrentNetwork
    """The best so far, in evaluation mode; its weights are a copy."""
    checked: bool
    """Whether the held-out frames were registered after this update."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Frames:
    reference: Tensor
    """(1, H, W)."""
    reference_valid: Tensor
    moving: Tensor
    """(N, 1, H, W)."""
    valid: Tensor
    numbers: tuple[int, ...]

    def pairs(self, series: ImageSeries, device: torch.device) -> Pairs:
        count = len(self.moving)
        fixed = self.reference.to(device)[None].expand(count, *self.reference.shape)
        fixed_valid = self.reference_valid.to(device)[None].expand(count, *self.reference_valid.shape)
        return Pairs(fixed, self.moving.to(device), fixed_valid, self.valid.to(device), series.grid)


def adapt(
    series: ImageSeries,
    network: RecurrentNetwork,
    *,
    seconds: float = 120.0,
    reference: int | str = "auto",
    device: str = "auto",
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Adapting]:
    """Adapt a network to a series, yielding after every update; the last ``network`` yielded is the result.

    Parameters
    ----------
    series
        2D, at least four usable frames.
    network
        Weights to start from; left as they are.
    seconds
        For everything, preparation included.
    reference
        Frame number or "auto", as it will be registered.
    device
        auto, cpu, cuda or cuda:N.
    seed
        Of all that is drawn at random.
    stop
        Asked after every update.

    Raises
    ------
    ArgumentError
        If the series is too short, not 2D, or the time is not positive.
    """
    began = time.monotonic()
    if seconds <= 0:
        raise ArgumentError(f"minutes: the time to adapt must be positive, got {seconds / 60:g}")
    if series.grid.ndim != 2 or network.ndim != 2:
        raise ArgumentError(f"adapt: works on 2D frames, got {series.grid.ndim}D; pick one slice with --slice")
    where = resolve_device(device)
    network = copy.deepcopy(network).to(where)
    index = resolve_reference(series, reference)
    teachers, held, notes = _load(series, index)
    start = best = _score(RecurrentMethod(network.eval()), held, series, where)
    chosen = copy.deepcopy(network).eval()
    yield Adapting(time.monotonic() - began, 0, float("nan"), start, best, chosen, True, notes)
    pairs = _taught(teachers, series, where)
    trainer = Trainer(network, PairEngine(_slices(teachers, series), pairs, _engine_config(), seed=seed), _config(network, seed))
    length = max(2.0, min(20.0, seconds / _CHECKS))
    checked = time.monotonic()
    over = False
    while not over:
        notes = ()
        try:
            step = trainer.make_update()
        except DivergenceError as error:
            step, notes = trainer.as_it_stands(), (f"adapting ended early, the best weights before are kept: {error}",)
        now = time.monotonic()
        over = bool(notes) or now - began > seconds - length / 8 or stop()
        due = not notes and (over or now - checked > length)
        if due:
            tried = trainer.averaged()
            score = _score(RecurrentMethod(tried), held, series, where)
            if score.better_than(best, start):
                best, chosen = score, tried
                # Where the training diverges it goes on from here.
                trainer.remember()
            checked = time.monotonic()
        yield Adapting(time.monotonic() - began, step.update, step.loss, start, best, chosen, due, notes)


def _load(series: ImageSeries, index: int) -> tuple[_Frames, _Frames, tuple[str, ...]]:
    """Frames to learn from and frames held out."""
    notes: list[str] = []
    images: dict[int, tuple[Tensor, Tensor]] = {}
    others = [frame for frame in range(len(series)) if frame != index]
    most = _MOST_TEACHERS + _MOST_HELD_OUT
    picked = others if len(others) <= most else [others[k * len(others) // most] for k in range(most)]
    for number in [index, *picked]:
        try:
            image, valid = luminance(series.frame(number))
        except (OSError, ValueError, RuntimeError, R2N2Error) as error:
            notes.append(f"frame {number} is not used: {error}")
            continue
        if float(image.max()) > float(image.min()):
            images[number] = image, valid
    usable = [number for number in picked if number in images]
    if index not in images or len(usable) < 3:
        raise ArgumentError(
            f"adapt: needs the reference and at least 3 other usable frames, got {len(usable)}; give a longer series"
        )
    held = usable[1::_EVERY][:_MOST_HELD_OUT]
    taught = [number for number in usable if number not in held]

    def frames(numbers: list[int]) -> _Frames:
        moving = torch.stack([images[number][0] for number in numbers])
        valid = torch.stack([images[number][1] for number in numbers])
        return _Frames(*images[index], moving, valid, tuple(numbers))

    return frames(taught), frames(held), tuple(notes)


def _score(method: Method, frames: _Frames, series: ImageSeries, device: torch.device) -> Score:
    fields = displacements(method, frames.pairs(series, device)).to(frames.moving.dtype)
    pairs = frames.pairs(series, torch.device("cpu"))
    warped = warp(pairs.moving, fields, series.grid, mask=pairs.moving_valid)
    alike = correlation(pairs.fixed, warped.image, warped.valid & pairs.fixed_valid)
    folding = folding_percent(jacobian_determinant(fields, series.grid))
    return Score(float(alike.nanmean()), float(folding.mean()))


def _taught(frames: _Frames, series: ImageSeries, device: torch.device) -> list[RealPair]:
    """Pairs with the reference and the displacements that ``fit`` finds; those it does not make more alike are left out."""
    pairs = frames.pairs(series, device)
    fields = displacements(FitMethod(FitConfig()), pairs).to(frames.moving.dtype)
    plain = frames.pairs(series, torch.device("cpu"))
    after = warp(plain.moving, fields, series.grid, mask=plain.moving_valid)
    alike = correlation(plain.fixed, after.image, after.valid & plain.fixed_valid)
    before = correlation(plain.fixed, plain.moving, plain.fixed_valid & plain.moving_valid)
    spacing = _spacing(series)
    return [
        RealPair(frames.reference, frames.moving[k], spacing, "series", "series", fields[k])
        for k in range(len(fields))
        if float(alike[k]) >= float(before[k])
    ]


def _slices(frames: _Frames, series: ImageSeries) -> list[RealSlice]:
    images: Sequence[tuple[Tensor, Tensor]] = [
        (frames.reference, frames.reference_valid),
        *((image, valid) for image, valid in zip(frames.moving, frames.valid, strict=True)),
    ]
    return [RealSlice(image, valid, _spacing(series), "series", "series") for image, valid in images]


def _spacing(series: ImageSeries) -> tuple[float, float]:
    y, x = series.grid.spacing
    return y, x


def _engine_config() -> EngineConfig:
    """The series as it is: no drawn pictures, no inversion, hardly another view."""
    appearance = AppearanceConfig(invert=0.0, gamma=0.2, mapping=0.0, texture=0.0, vessels=0.0, noise=0.3)
    return EngineConfig(
        real_share=0.7, synthetic_share=0.0, zoom=(0.95, 1.3), rotation_deg=8.0, quarter_turns=0.0, appearance=appearance
    )


def _config(network: RecurrentNetwork, seed: int) -> TrainingConfig:
    settings = network.config
    pursuit = bool(settings.least_squares_sizes)
    objective = ObjectiveConfig(
        supervised=1.0,
        placement=0.5 if pursuit else 0.0,
        similarity=0.5,
        similarity_with_truth=0.2,
        total_variation=0.0,
        diffusion=0.003,
        folding=1.0,
        roughness_with_truth=0.3,
    )
    return TrainingConfig(
        name="adapted",
        seed=seed,
        network=settings,
        objective=objective,
        optimiser=OptimiserConfig(learning_rate=_LEARNING_RATE, warmup=10, amsgrad=False, averaging=0.95),
        data=DataConfig(),
        stages=(Stage(updates=1_000_000, working_size=settings.working_size, steps=25),),
        batch=4,
        chunk=5,
        groups=5,
        through_images=False,
        data_size=max(32, *settings.least_squares_sizes, settings.working_size),
    )
