"""A training run in a folder: updates, validation, checkpoints and log, from settings or from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2n2.checkpoint import save_network
from r2n2.errors import ArgumentError
from r2n2.network import R2N2
from r2n2.registration import resolve_device
from r2n2.simulation.engine import PairEngine, SimulatedBatch
from r2n2.simulation.slices import RealPair
from r2n2.training.journal import Journal
from r2n2.training.loop import Trainer, TrainingStep, build_network
from r2n2.training.processes import Processes
from r2n2.training.resuming import capture, restore, under_way
from r2n2.training.settings import TrainingConfig
from r2n2.training.state import load_state, save_state, state_files
from r2n2.training.stock_contents import Stock, split
from r2n2.training.validation import Validation, validate

__all__ = ["SETTINGS_FILE", "WEIGHTS_FILE", "Trained", "train"]

SETTINGS_FILE = "config.toml"
WEIGHTS_FILE = "weights.safetensors"

_VALIDATION_PAIRS = 48
_CONTOURED_PAIRS = 24
_LOG_EVERY = 20
# Samples of the validation stream are numbered from 0 under a seed that training never draws.
_VALIDATION_SEED = 2**31 - 1


@dataclass(frozen=True)
class Trained:
    """What a run yields after every update."""

    step: TrainingStep
    seconds: float
    """Time spent training so far, earlier runs included."""
    validation: Validation | None
    """If there was one after this update."""
    saved: bool
    """Whether a checkpoint was written after this update."""
    notes: tuple[str, ...] = ()


def train(
    config: TrainingConfig,
    folder: Path,
    stock: Stock,
    *,
    resume: bool = False,
    device: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    processes: Processes | None = None,
    start: R2N2 | None = None,
) -> Iterator[Trained]:
    """Train, yielding after every update; the state is saved at the end, and whenever the consumer closes the generator.

    Parameters
    ----------
    config
        Settings; written to the folder.
    folder
        For checkpoints, weights, settings and log; made if missing.
    stock
        Images; split by patient.
    resume
        Go on from the folder's newest checkpoint; begin where there is none.
    device
        auto, cpu, cuda or cuda:N.
    stop
        Asked after every update; the run then saves and ends.
    processes
        This one's place among many; None for alone.
    start
        Weights to begin from instead of random ones.

    Raises
    ------
    ArgumentError
        If the folder holds another run and ``resume`` is false, or the stock is empty.
    """
    team = processes or Processes.alone()
    if state_files(folder) and not resume:
        raise ArgumentError(f"{folder}: holds a training run already; give --resume to go on with it, or another folder")
    training, held = split(stock, held_out=config.stock.held_out, seed=config.seed)
    pairs: list[RealPair] = list(training.pairs)
    if config.stock.thorax_seeds[0] < config.stock.thorax_seeds[1]:
        from r2n2.simulation.stock import thorax_pairs

        pairs += thorax_pairs(range(*config.stock.thorax_seeds), config.stock.thorax_frames)
    where = resolve_device(device)
    network = build_network(config) if start is None else start
    engine = PairEngine(training.slices, pairs, config.stock.engine, seed=config.seed)
    trainer = Trainer(network.to(where), engine, config, rank=team.rank, world=team.world, wrap=team.wrap)
    notes: tuple[str, ...] = ()
    before_s, best = 0.0, {}
    state = load_state(folder) if resume and state_files(folder) else None
    if state is not None:
        notes = (*state.notes, *restore(trainer, state, team.rank, team.world))
        before_s, best = state.elapsed_s, dict(state.best)
    truth = _validation_batch(config, held)
    run = _Run(config, folder, trainer, team, truth, held, best, before_s)
    yield from run.updates(stop, notes)


class _Run:
    """Times and files of one run."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        trainer: Trainer,
        team: Processes,
        truth: SimulatedBatch,
        held: Stock,
        best: dict[str, Any],
        before_s: float,
    ) -> None:
        self._config, self._folder, self._trainer, self._team = config, folder, trainer, team
        self._truth, self._held, self._best, self._before_s = truth, held, best, before_s
        self._began = self._saved = self._validated = time.monotonic()

    @property
    def _elapsed_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def updates(self, stop: Callable[[], bool], notes: tuple[str, ...]) -> Iterator[Trained]:
        config, trainer, team = self._config, self._trainer, self._team
        self._folder.mkdir(parents=True, exist_ok=True)
        if team.leads:
            (self._folder / SETTINGS_FILE).write_text(config.to_toml(), encoding="utf-8")
        journal = Journal(self._folder, step=trainer.update) if team.leads else None
        trainer.remember()
        try:
            for step in trainer.run():
                if journal and (step.update % _LOG_EVERY == 0 or step.update == step.updates):
                    journal.scalars(step.update, {**_numbers(step), "minutes": self._elapsed_s / 60})
                over = config.minutes is not None and time.monotonic() - self._began > 60 * config.minutes
                ending = team.agree(stop() or over) or step.update == step.updates
                validation = None
                if team.agree(ending or time.monotonic() - self._validated > 60 * config.validate_minutes):
                    validation = self._validate(journal, step.update) if team.leads else None
                    self._validated = time.monotonic()
                saving = team.agree(ending or validation is not None or time.monotonic() - self._saved > 60 * config.save_minutes)
                if saving:
                    self._save()
                yield Trained(step, self._elapsed_s, validation, saving, notes)
                notes = ()
                if ending:
                    return
        finally:
            if journal:
                journal.close()

    def _save(self) -> None:
        # A state is good to go back to only if it could be saved: save_state refuses what it cannot read back.
        ranks = self._team.gather(under_way(self._trainer))
        if self._team.leads:
            save_state(self._folder, capture(self._trainer, ranks, self._elapsed_s, self._best))
        self._trainer.remember()
        self._saved = time.monotonic()

    def _validate(self, journal: Journal | None, update: int) -> Validation:
        from r2n2.training.pictures import show_examples

        network = self._trainer.averaged()
        steps = self._config.stages[-1].steps
        found = validate(network, self._truth, self._held.contoured[:_CONTOURED_PAIRS], steps=steps)
        if journal:
            journal.scalars(update, {f"validation/{name}": value for name, value in found.numbers().items()})
            if journal.takes_pictures:
                show_examples(journal, update, network, self._truth, steps=steps)
        score = found.error_percent
        if not self._best or score < self._best["error_percent"]:
            self._best = {"update": update, **found.numbers()}
            info = {"name": self._config.name, "updates": str(update), "minutes": f"{self._elapsed_s / 60:.1f}"}
            save_network(self._folder / WEIGHTS_FILE, network, info=info | {k: f"{v:.4f}" for k, v in found.numbers().items()})
        return found


def _numbers(step: TrainingStep) -> dict[str, float]:
    return {
        "loss": step.loss,
        **step.logged,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        "skipped": step.skipped,
        "rolled_back": step.rolled_back,
    }


def _validation_batch(config: TrainingConfig, held: Stock) -> SimulatedBatch:
    """Simulated pairs of the patients held out; of drawn pictures where nobody is."""
    engine = PairEngine(held.slices, [], config.stock.engine, seed=_VALIDATION_SEED)
    return engine.batch(0, _VALIDATION_PAIRS, config.data_size)
