"""A training run in a folder: updates, validation, checkpoints and log, from settings or from where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from r2n2 import __version__
from r2n2.errors import ArgumentError
from r2n2.io.atomic import atomic_write, check_writable, resource_errors
from r2n2.network import RecurrentNetwork
from r2n2.network.checkpoint import save_network
from r2n2.registration import resolve_device
from r2n2.runtime.folder_lock import folder_lock
from r2n2.simulation.engine import PairEngine, SimulatedBatch
from r2n2.training.data.contents import TrainingData, split
from r2n2.training.journal import Journal
from r2n2.training.loop import Trainer, TrainingStep, build_network, network_from
from r2n2.training.pictures import can_draw, show_examples
from r2n2.training.processes import Processes
from r2n2.training.resuming import capture, recorded_settings, restore, under_way
from r2n2.training.settings import TrainingConfig
from r2n2.training.state import load_state, save_state, state_files
from r2n2.training.validation import Validation, validate

__all__ = ["SETTINGS_FILE", "WEIGHTS_FILE", "Trained", "train", "validation_batch"]

SETTINGS_FILE = "config.toml"
WEIGHTS_FILE = "weights.safetensors"

_VALIDATION_PAIRS = 48
_CONTOURED_PAIRS = 24
_LOG_EVERY = 20
_LOG_SECONDS = 30.0
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
    best: dict[str, Any] = field(default_factory=dict)
    """Update and numbers of the best validation so far, whose weights are in the folder; empty before the first."""
    notes: tuple[str, ...] = ()


def train(
    config: TrainingConfig,
    folder: Path,
    data: TrainingData,
    *,
    resume: bool = False,
    device: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    processes: Processes | None = None,
    start: RecurrentNetwork | None = None,
) -> Iterator[Trained]:
    """Train, yielding after every update; the state is saved at the end and, of one process, when the generator is closed.

    Parameters
    ----------
    config
        Settings; written to the folder.
    folder
        For checkpoints, weights, settings and log; made if missing.
    data
        Images; split by patient. Where there are none, all pairs are drawn pictures.
    resume
        Go on from the folder's newest checkpoint; begin where there is none.
    device
        auto, cpu, cuda or cuda:N.
    stop
        Asked after every update; the run then saves and ends, without a validation.
    processes
        This one's place among many; None for alone.
    start
        Weights to begin from instead of random ones.

    Raises
    ------
    ArgumentError
        If the folder holds another run and ``resume`` is false, or settings do not fit the run that is resumed.
    ResourceError
        If another process writes to the folder, the device or disk is missing, or another process of the team is gone.
    """
    team = processes or Processes.alone()
    if state_files(folder) and not resume:
        raise ArgumentError(f"{folder}: holds a training run already; give --resume to go on with it, or another folder")
    check_writable(folder)
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder) if team.leads else nullcontext():
        yield from _train(config, folder, data, team, device, stop, start)


def _train(
    config: TrainingConfig,
    folder: Path,
    data: TrainingData,
    team: Processes,
    device: str,
    stop: Callable[[], bool],
    start: RecurrentNetwork | None,
) -> Iterator[Trained]:
    team.require_alike(**_started_with(config, data) if team.world > 1 else {})
    if config.data.thorax_seeds[0] < config.data.thorax_seeds[1]:
        from r2n2.simulation.people import thorax_pairs

        drawn = thorax_pairs(range(*config.data.thorax_seeds), config.data.thorax_frames, size=config.data_size)
        data = replace(data, pairs=(*data.pairs, *drawn))
    training, held = split(data, held_out=config.data.held_out, seed=config.seed)
    where = team.device or resolve_device(device)
    state = load_state(folder)
    if start is None:
        start = build_network(config) if state is not None or config.init is None else network_from(config.init, config)
    engine = PairEngine(training.slices, training.pairs, config.data.engine, seed=config.seed)
    # The layout in which a processor convolves forward and back a quarter faster; gradients and optimiser take it over.
    layout = torch.channels_last if start.ndim == 2 else torch.channels_last_3d
    start = start.to(where)
    for parameter in start.parameters():
        if parameter.ndim == start.ndim + 2:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    trainer = Trainer(start, engine, config, rank=team.rank, world=team.world, wrap=team.wrap, agree=team.agree)
    notes: list[str] = []
    if not held.patients:
        notes.append("no patient is held out: weights are validated on drawn pictures alone; name some in data.held_out")
    before_s, best, validated = 0.0, {}, -1
    if not team.alike(-1 if state is None else state.step):
        raise ArgumentError(f"{folder}: not every process sees the same saved state there; give a folder that all machines share")
    if state is not None:
        notes += [*state.notes, *restore(trainer, state, team.rank, team.world)]
        before_s, best = state.elapsed_s, dict(state.best)
        if best and _validated_on(recorded_settings(state)) != _validated_on(config.model_dump(mode="json")):
            notes.append("the best validation so far was on other pairs or other lengths of sequences: it is forgotten")
            best = {}
        # States of older versions do not say; their weights do.
        validated = state.counters.get("validated", state.step if (folder / WEIGHTS_FILE).is_file() else -1)
    run = _Run(config, folder, trainer, team, validation_batch(config, held), held, best, before_s, validated)
    yield from run.updates(stop, tuple(notes))


def _started_with(config: TrainingConfig, data: TrainingData) -> dict[str, object]:
    """What every process of a team must have in common; folders may have other names on other machines."""
    settings = config.model_dump(mode="json", exclude={"data": {"folders", "masks"}, "init": True, "seed": True})
    return {"version": (__version__, torch.__version__), "seed": config.seed, "settings": settings, "images": data.sha256()}


def _validated_on(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the pairs of a validation and what is done with them."""
    steps = settings.get("validation_steps") or settings["stages"][-1]["steps"]
    return settings["data"], settings["data_size"], settings["seed"], steps, settings["network"]["working_size"]


class _Run:
    """Times and files of one run."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        trainer: Trainer,
        team: Processes,
        truth: SimulatedBatch,
        held: TrainingData,
        best: dict[str, Any],
        before_s: float,
        validated: int,
    ) -> None:
        self._config, self._folder, self._trainer, self._team = config, folder, trainer, team
        self._truth, self._held, self._best, self._before_s = truth, held, best, before_s
        self._began = self._saved = self._validated = time.monotonic()
        self._saved_update, self._validated_update = trainer.update, validated
        self._ended = False

    @property
    def _elapsed_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def updates(self, stop: Callable[[], bool], notes: tuple[str, ...]) -> Iterator[Trained]:
        trainer, team = self._trainer, self._team
        if team.leads:
            notes += self._write_settings()
        journal = Journal(self._folder, step=trainer.update) if team.leads else None
        log = _Log(journal)
        for note in notes:
            log.note(trainer.update, note)
        try:
            if trainer.update >= trainer.updates and self._validated_update < trainer.update:
                # Killed after its last update, before that was validated.
                yield self._after(trainer.as_it_stands(), journal, False, notes)
                return
            while trainer.update < trainer.updates:
                with team.together("make an update"):
                    step = trainer.make_update()
                log.add(step, self._elapsed_s)
                yield self._after(step, journal, stop(), notes)
                notes = ()
                if self._ended:
                    return
        except GeneratorExit:
            # Whoever closes the generator is in the main line of one process; the others of a team know nothing of it.
            if team.world == 1 and self._saved_update != trainer.update:
                self._save()
            raise
        finally:
            if journal:
                journal.close()

    def _write_settings(self) -> tuple[str, ...]:
        """As a file to read and to resume with; a note where that cannot be written."""
        try:
            text = self._config.to_toml()
        except ModuleNotFoundError as error:
            return (f"no {SETTINGS_FILE} is written, as {error.name} is not installed; the checkpoints hold the settings as well",)
        with atomic_write(self._folder / SETTINGS_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return ()

    def _after(self, step: TrainingStep, journal: Journal | None, asked: bool, notes: tuple[str, ...]) -> Trained:
        """Validate and save where it is time to."""
        config, now = self._config, time.monotonic()
        over = config.minutes is not None and now - self._began > 60 * config.minutes
        stopped, over, validating, saving = self._team.agree_on(
            asked, over, now - self._validated > 60 * config.validate_minutes, now - self._saved > 60 * config.save_minutes
        )
        over = over or step.update == step.updates
        self._ended = stopped or over
        # Who stops a run does not wait for a validation.
        validating = over or (validating and not stopped)
        if self._ended and self._trainer.failures:
            # What a run is resumed from must not be what failed.
            self._trainer.go_back()
        # Not amid failures: their weights are no good ones. Before a validation too: a kill in the middle of it costs nothing.
        saving = self._ended or ((saving or validating) and not self._trainer.failures)
        if saving:
            self._save()
        validation = None
        if validating:
            if self._team.leads:
                validation = self._validate(journal, step.update)
            self._validated, self._validated_update = time.monotonic(), step.update
            if saving:
                self._save()
        elif stopped and self._team.leads and not self._best:
            self._write_weights(self._trainer.averaged(), step.update, {})
        return Trained(step, self._elapsed_s, validation, saving, dict(self._best), notes)

    def _save(self) -> None:
        ranks = self._team.gather(under_way(self._trainer))
        if self._team.leads:
            save_state(self._folder, capture(self._trainer, ranks, self._elapsed_s, self._best, validated=self._validated_update))
        # Good to go back to only now: save_state refuses what it cannot read back.
        self._trainer.remember()
        self._saved = time.monotonic()
        self._saved_update = self._trainer.update

    def _validate(self, journal: Journal | None, update: int) -> Validation:
        network = self._trainer.averaged()
        steps = self._config.validation_steps or self._config.stages[-1].steps
        found = validate(network, self._truth, self._held.contoured[:_CONTOURED_PAIRS], steps=steps)
        if journal:
            journal.scalars(update, {f"validation/{name}": value for name, value in found.numbers().items()})
            if journal.takes_pictures and can_draw():
                show_examples(journal, update, network, self._truth, steps=steps)
        score = found.error_percent
        if math.isfinite(score) and (not self._best or score < self._best["error_percent"]):
            self._best = {"update": update, **found.numbers()}
            self._write_weights(network, update, found.numbers())
        return found

    def _write_weights(self, network: RecurrentNetwork, update: int, numbers: dict[str, float]) -> None:
        info = {"name": self._config.name, "updates": str(update), "minutes": f"{self._elapsed_s / 60:.1f}"}
        if self._config.init is not None:
            info["init"] = Path(self._config.init).name
        info |= {name: f"{value:.4f}" for name, value in numbers.items()}
        save_network(self._folder / WEIGHTS_FILE, network, info=info)


class _Log:
    """Means of what updates say, in the journal after every some updates or seconds; NaN does not count."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._written = time.monotonic()
        self._since: list[dict[str, float]] = []

    def note(self, update: int, text: str) -> None:
        if self._journal:
            self._journal.text(update, "note", text)

    def add(self, step: TrainingStep, elapsed_s: float) -> None:
        self._since.append({"loss": step.loss, **step.logged, "gradient_norm": step.gradient_norm})
        waited = time.monotonic() - self._written > _LOG_SECONDS
        if not self._journal or not (len(self._since) >= _LOG_EVERY or waited or step.update == step.updates):
            return
        means = {name: _mean([numbers[name] for numbers in self._since]) for name in self._since[0]}
        others = {"learning_rate": step.learning_rate, "skipped": step.skipped, "rolled_back": step.rolled_back}
        self._journal.scalars(step.update, {**means, **others, "minutes": elapsed_s / 60})
        self._since, self._written = [], time.monotonic()


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def validation_batch(config: TrainingConfig, held: TrainingData) -> SimulatedBatch:
    """Pairs with truth of the patients held out, simulated or given; of drawn pictures where nobody is held out."""
    known = [pair for pair in held.pairs if pair.displacement is not None]
    engine = PairEngine(held.slices, known, config.data.engine, seed=_VALIDATION_SEED)
    return engine.batch(0, _VALIDATION_PAIRS, config.data_size)
