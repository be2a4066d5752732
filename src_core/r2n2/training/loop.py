"""The training loop: a generator that yields after every update, can be stopped at each, and goes on from a saved state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from r2n2.errors import ArgumentError
from r2n2.network import RecurrentNetwork, create_network
from r2n2.network.checkpoint import load_network
from r2n2.network.initialisation import initialise_for_tanh
from r2n2.training.chunk import Chunk, Sequences
from r2n2.training.settings import OptimiserConfig, Stage, TrainingConfig
from r2n2.training.supply import BatchSource, Supply

__all__ = ["DivergenceError", "Trainer", "TrainingStep", "build_network", "learning_rate", "stage_at"]

_PATIENCE = 5
# Updates in a row without a finite loss before the weights go back to the last good ones; at once where they are no use any more.
_BURST = 10.0
# Weights this many times as large as the last good ones are no use, though they may give a finite loss.
_RETURNS = 8
# Times in a row that the weights go back before the run ends.


class DivergenceError(ArgumentError):
    """Weights had to go back again and again, and smaller steps did not help."""


class _Good(NamedTuple):
    """What failures go back to."""

    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    average: dict[str, Tensor]
    norm: float

    def size_of(self, network: RecurrentNetwork) -> float:
        """Norm of a network's weights, relative to these; not finite where a weight is not."""
        return _norm(network) / max(self.norm, 1e-6)


@dataclass(frozen=True)
class TrainingStep:
    """What one update did."""

    update: int
    """Updates done, from 1."""
    updates: int
    """Updates planned."""
    sample: int
    """Position in the stream of samples."""
    loss: float
    """NaN where the update was skipped."""
    logged: dict[str, float]
    learning_rate: float
    gradient_norm: float
    skipped: int
    """Updates skipped since the beginning because a number was not finite."""
    rolled_back: int
    """Times the weights went back to the last good ones."""


def stage_at(stages: tuple[Stage, ...], update: int) -> Stage:
    """The stage that update number ``update`` (from 0) belongs to; the last from its end on."""
    return _within(stages, update)[0]


def _within(stages: tuple[Stage, ...], update: int) -> tuple[Stage, int]:
    """The stage of an update, and how many updates of that stage are done before it."""
    for stage in stages:
        if update < stage.updates:
            return stage, update
        update -= stage.updates
    return stages[-1], stages[-1].updates


def learning_rate(config: OptimiserConfig, stages: tuple[Stage, ...], update: int) -> float:
    """Step size of update number ``update`` (from 0)."""
    stage, done = _within(stages, update)
    rate = stage.learning_rate or config.learning_rate
    rate *= 1 - (1 - stage.fall) * done / stage.updates
    if config.warmup:
        rate *= min(1.0, (update + 1) / config.warmup)
    if config.decay == "cosine":
        share = min(1.0, update / sum(one.updates for one in stages))
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
    return rate


def build_network(config: TrainingConfig) -> RecurrentNetwork:
    """The network before training, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = create_network(config.network)
        if config.initialisation == "tanh":
            initialise_for_tanh(network)
    return network


def network_from(weights: str, config: TrainingConfig) -> RecurrentNetwork:
    """The network of the settings with the weights of a name or file.

    Raises
    ------
    ArgumentError
        If they are of another network; what no weight depends on (working size, noise, whether amplitudes are solved again) is the
        settings' own.
    ReadError
        If the file is no weights.
    """
    given = load_network(weights, ndim=2)
    free = {"working_size", "keep_probability", "least_squares_sizes", "orthogonal"}
    wanted, found = (part.model_dump(mode="json", exclude=free) for part in (config.network, given.config))
    wanted["scales compared"], found["scales compared"] = (len(part.least_squares_sizes) for part in (config.network, given.config))
    differing = [f"{name} {found[name]} where the settings have {wanted[name]}" for name in wanted if wanted[name] != found[name]]
    if differing:
        raise ArgumentError(
            f"--init {weights}: another network, with {', '.join(differing)}; give the settings it was trained with"
        )
    network = create_network(config.network)
    network.load_state_dict(given.state_dict())
    return network


class Trainer:
    """Owns weights, optimiser and the batches under way; ``run`` makes updates.

    Parameters
    ----------
    network
        Trained in place.
    engine
        Stream of samples, numbered.
    config
        Settings.
    rank, world
        Which of how many processes; each takes its own part of every batch.
    wrap
        Makes the module that is called of the chunk; DistributedDataParallel for many processes.
    agree
        Whether any process says so: an update is made by all or by none.
    """

    def __init__(
        self,
        network: RecurrentNetwork,
        engine: BatchSource,
        config: TrainingConfig,
        *,
        rank: int = 0,
        world: int = 1,
        wrap: Callable[[Chunk], torch.nn.Module] | None = None,
        agree: Callable[[bool], bool] | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ArgumentError(f"rank: must be 0 to {world - 1} of {world} processes, got {rank}")
        self.config = config
        self.network = network.train()
        self.chunk = Chunk(network, config)
        self._called = wrap(self.chunk) if wrap else self.chunk
        self._agree = agree or bool
        self._supply = Supply(engine)
        self._rank, self._world = rank, world
        optimiser = config.optimiser
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=optimiser.learning_rate, amsgrad=optimiser.amsgrad, weight_decay=optimiser.weight_decay
        )
        self.average = self._weights() if optimiser.averaging else {}
        self.update = 0
        self.sample = 0
        self.skipped = 0
        self.rolled_back = 0
        self.groups: list[Sequences | None] = [None] * config.groups
        self.failures = 0
        """Updates skipped since the last one that was not."""
        self.returns = 0
        """Times that the weights went back since the last update that was not skipped."""
        self.halvings = 0
        """How often the step size was halved, as weights had to go back."""
        self._good: _Good | None = None
        torch.manual_seed(config.seed + 1 + rank)

    @property
    def updates(self) -> int:
        """How many updates the stages ask for."""
        return sum(stage.updates for stage in self.config.stages)

    def run(self) -> Iterator[TrainingStep]:
        """Make updates until the stages are done, yielding after each."""
        while self.update < self.updates:
            yield self.make_update()

    def make_update(self) -> TrainingStep:
        """One chunk of one batch and one step of the optimiser.

        Raises
        ------
        DivergenceError
            If the weights had to go back again and again, and smaller steps did not help.
        """
        config = self.config
        if self._good is None:
            self.remember()
        assert self._good is not None
        stage = stage_at(config.stages, self.update)
        number = self.update % config.groups
        sequences = self._under_way(number, stage)
        steps = min(config.chunk or sequences.length, sequences.length - sequences.done)
        rate = learning_rate(config.optimiser, config.stages, self.update) * 0.5**self.halvings
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss, progress, logged = self._called(sequences, steps)
        norm = loss.new_tensor(math.nan)
        # Before going back: of positions that are not finite the sampler shows a pixel, and a loss of such pixels is finite.
        broken = self._agree(not _finite(loss, *progress.displacements))
        if not broken:
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.optimiser.clip)
            broken = self._agree(not _finite(norm))
        self.update += 1
        if not broken:
            self.optimiser.step()
            broken = not self._good.size_of(self.network) < _BURST
            if broken:
                self.failures = _PATIENCE
        if broken:
            self._skip(number, rate)
        else:
            self.failures = self.returns = 0
            self._follow()
            going_on = sequences.moved_on(progress.detached(), sequences.done + steps)
            self.groups[number] = going_on if going_on.done < going_on.length else None
        values = {name: float(value) for name, value in logged.items()}
        return TrainingStep(
            self.update, self.updates, self.sample, float(loss.detach()), values, rate, float(norm), self.skipped, self.rolled_back
        )

    def as_it_stands(self) -> TrainingStep:
        """What a step says, of no step."""
        rate = learning_rate(self.config.optimiser, self.config.stages, self.update) * 0.5**self.halvings
        nan = math.nan
        return TrainingStep(self.update, self.updates, self.sample, nan, {}, rate, nan, self.skipped, self.rolled_back)

    def remember(self) -> None:
        """Take the present weights as the good ones that failures go back to."""
        average = {name: value.clone() for name, value in self.average.items()}
        # Copied, as the optimiser goes on writing into its own tensors.
        self._good = _Good(self._weights(), copy.deepcopy(self.optimiser.state_dict()), average, _norm(self.network))

    def go_back(self) -> None:
        """Take the good weights again, and begin new batches."""
        assert self._good is not None
        self.network.load_state_dict(self._good.weights)
        self.optimiser.load_state_dict(copy.deepcopy(self._good.optimiser))
        self.average = {name: value.clone() for name, value in self._good.average.items()}
        self.groups = [None] * self.config.groups
        self.failures = 0
        self.rolled_back += 1

    def averaged(self) -> RecurrentNetwork:
        """The network to validate and to save: the running mean of the weights where there is one."""
        # A copy: building another would draw from the random numbers of the training.
        network = copy.deepcopy(self.network)
        if self.average:
            network.load_state_dict(self.average)
        return network.eval()

    def _under_way(self, number: int, stage: Stage) -> Sequences:
        present = self.groups[number]
        if present is not None:
            return present
        # The first batches are of different lengths, so that from then on they are at different places of their sequences.
        length = stage.steps
        if self.update < self.config.groups and self.config.chunk:
            share = (number + 1) / self.config.groups
            length = self.config.chunk * max(1, round(share * stage.steps / self.config.chunk))
            length = min(length, stage.steps)
        first = self.sample
        self.sample += self.config.batch * self._world
        return self.begin(first, length, stage.working_size, told=stage.truth)

    def begin(self, first: int, length: int, working_size: int, *, told: bool = True) -> Sequences:
        """The batch whose first sample (of all processes) has number ``first``, the truth ``told`` or not."""
        config = self.config
        batch = self._supply.batch(first + self._rank * config.batch, config.batch, config.data_size)
        settings = self.network.config.model_copy(update={"working_size": working_size})
        return Sequences.start(self.network, batch, config, settings, first=first, length=length, told=told)

    def _follow(self) -> None:
        decay = self.config.optimiser.averaging
        if not decay:
            return
        # Early on the mean forgets faster, or it would stay near the first random weights for long.
        decay = min(decay, (1 + self.update) / (10 + self.update))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value.detach(), 1 - decay)

    def _skip(self, number: int, rate: float) -> None:
        self.skipped += 1
        self.failures += 1
        self.groups[number] = None
        if self.failures >= _PATIENCE:
            self.go_back()
            self.returns += 1
            # More each time: a step size that is wrong by orders of magnitude is found out within a few.
            self.halvings += self.returns
            if self.returns > _RETURNS:
                raise DivergenceError(
                    f"optimiser.learning_rate: the training diverges, even at {rate:.1e} ({self.skipped} updates skipped, the "
                    f"weights went back {self.rolled_back} times); begin anew with a smaller one, or check the images"
                )

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def _norm(network: RecurrentNetwork) -> float:
    norms = torch._foreach_norm([parameter.detach() for parameter in network.parameters()])
    return float(torch.stack(norms).norm())


def _finite(*values: Tensor) -> bool:
    return all(bool(value.detach().isfinite().all()) for value in values)
