"""Registration by the recurrent network: one local Gaussian a step, summed, the original moving image warped each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.config import StoppingConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.network import R2N2, GaussianParameters, Unchanging
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.unroll import Comparison, Progress, Squares, advance, begin, compare, prepare
from r2n2.similarity import mean_squared_error
from r2n2.transform import GaussianSequence, Transform

__all__ = ["RecurrentMethod"]


@dataclass(frozen=True, eq=False)
class _Running:
    """The pairs that still take steps."""

    rows: Tensor
    """(A,) which of the batch they are."""
    squares: Squares
    unchanging: Unchanging
    progress: Progress
    seen: Comparison
    still: Tensor
    """(A,) how many of the last steps in a row changed nothing."""

    def part(self, kept: Tensor) -> _Running:
        """Those for which ``kept`` (A,) is true."""
        if bool(kept.all()):
            return self
        rows = kept.nonzero()[:, 0]
        own = self.unchanging.features
        shared = len(own) != len(self.rows)
        return _Running(
            self.rows[rows],
            self.squares.part(rows),
            self.unchanging if shared else self.unchanging._replace(features=own[rows]),
            self.progress.part(rows),
            self.seen.part(rows),
            self.still[rows],
        )


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Where a batch stands after some steps; replaced, never changed, so that earlier steps stay available."""

    running: _Running
    steps: tuple[GaussianParameters, ...]
    """Each of the whole batch; numbers of pairs that take no more steps are 0."""
    taken: Tensor
    """(B,) steps that count for each pair."""
    loss: Tensor
    """(B,)"""


class RecurrentMethod:
    """The paper's method (equations 6 and 7), as a generator over steps.

    Where the displacement of a pair stops being finite, the pair keeps the steps before, its loss is NaN from there on,
    and the other pairs of the batch go on.

    Parameters
    ----------
    network
        In evaluation mode; it decides the device on which the work is done. Nothing of a call is kept on it or here.
    steps
        Length T of the sequence, at least 1.
    stopping
        When a pair takes no more steps, and costs no more time; None for all steps.

    Raises
    ------
    ArgumentError
        If ``steps`` is not positive or the network is in training mode.
    """

    name = "r2n2"

    def __init__(self, network: R2N2, *, steps: int = 25, stopping: StoppingConfig | None = None) -> None:
        if steps < 1:
            raise ArgumentError(f"steps: the sequence needs at least 1 step, got {steps}")
        if network.training:
            raise ArgumentError("network: in training mode its output is random; call network.eval() first")
        self._network = network
        self._steps = steps
        self._stopping = stopping

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step.

        Parameters
        ----------
        pairs
            The image pairs, of any shape and spacing.
        start
            One GaussianSequence a pair, on a grid that shares the pairs' NORMALISED space: the first displacement, whose
            Gaussians come first in the results. None for no displacement.

        Raises
        ------
        ArgumentError
            If the pairs have another number of axes than the network, or ``start`` does not fit the pairs.
        """
        if pairs.grid.ndim != self._network.ndim:
            raise ArgumentError(
                f"weights: the network is for {self._network.ndim}D images, got {pairs.grid.ndim}D pairs; "
                f"choose other weights or use --method fit"
            )
        beginnings = _check_start(pairs, start)
        # Entered anew for every step: around a yield it would switch off gradients in the caller, too.
        with torch.inference_mode():
            sequence = self._begin(pairs, beginnings)
        for index in range(1, self._steps + 1):
            with torch.inference_mode():
                sequence = self._advance(sequence)
            transforms = _Result(sequence.steps, tuple(sequence.taken.tolist()), pairs, beginnings)
            loss = sequence.loss.to(pairs.fixed.device, copy=True)
            yield RegistrationStep(index, self._steps, loss, transforms)
            if not len(sequence.running.rows):
                return

    def _begin(self, pairs: Pairs, beginnings: tuple[GaussianSequence, ...]) -> _Sequence:
        squares = prepare(self._network.config, pairs, self._network.entry.weight)
        start = None
        if any(len(sequence.centres) for sequence in beginnings):
            start = tuple(
                torch.stack([_on_square(sequence, scale.grid, scale.moving) for sequence in beginnings]) for scale in squares.scales
            )
        progress = begin(self._network, squares, start)
        seen = compare(squares, progress.displacements)
        unchanging = self._network.unchanging(squares.fixed)
        rows = torch.arange(len(squares), device=seen.fixed.device)
        running = _Running(rows, squares, unchanging, progress, seen, torch.zeros_like(rows))
        return _Sequence(running, (), torch.zeros_like(rows), _loss(seen))

    def _advance(self, before: _Sequence) -> _Sequence:
        running = before.running
        parameters, progress, _ = advance(
            self._network, running.squares, running.progress, running.seen, unchanging=running.unchanging
        )
        # A sigma that underflows to 0 is as useless as a number that is not finite.
        usable = torch.cat(parameters, dim=1).isfinite().all(dim=1) & (parameters.sigmas > 0).all(dim=1)
        usable &= progress.displacements[0].flatten(1).sum(1).isfinite()
        after = replace(running, progress=progress).part(usable)
        kept = parameters if len(after.rows) == len(usable) else GaussianParameters(*(values[usable] for values in parameters))
        seen = compare(after.squares, after.progress.displacements) if len(after.rows) else after.seen
        now, then = _loss(seen), before.loss[after.rows]
        loss = before.loss.index_fill(0, running.rows[~usable], float("nan")).index_copy(0, after.rows, now)
        step = GaussianParameters(*(v.new_zeros(len(loss), v.shape[1]).index_copy(0, after.rows, v) for v in kept))
        taken = before.taken.index_add(0, after.rows, torch.ones_like(after.rows))
        after = replace(after, seen=seen)
        if self._stopping is not None:
            quiet = _still(self._stopping, kept, now, then)
            after = replace(after, still=torch.where(quiet, after.still + 1, 0))
            after = after.part(after.still < self._stopping.patience)
        return _Sequence(after, (*before.steps, step), taken, loss)


@dataclass(frozen=True, eq=False)
class _Result:
    """Makes the transforms of one step when asked; holds the parameters only, so that keeping every step costs little."""

    steps: tuple[GaussianParameters, ...]
    taken: tuple[int, ...]
    pairs: Pairs
    beginnings: tuple[GaussianSequence, ...]

    def __call__(self) -> tuple[Transform, ...]:
        return tuple(self._transform(pair) for pair in range(len(self.pairs)))

    def _transform(self, pair: int) -> GaussianSequence:
        like = self.pairs.fixed
        steps = self.steps[: self.taken[pair]]
        start = self.beginnings[pair]

        def joined(name: str) -> Tensor:
            parts = [getattr(start, name).to(like), *(getattr(step, name)[pair, None].to(like) for step in steps)]
            return torch.cat(parts)

        return GaussianSequence(joined("centres"), joined("sigmas"), joined("orientation"), joined("amplitudes"), self.pairs.grid)


def _still(config: StoppingConfig, step: GaussianParameters, now: Tensor, then: Tensor) -> Tensor:
    """(A,) where a step changed neither the displacement nor the similarity."""
    moved = step.amplitudes.norm(dim=1)
    return (moved < config.displacement) & (then - now < config.improvement * then)


def _loss(seen: Comparison) -> Tensor:
    """The error (B,) where both images are measured."""
    return mean_squared_error(seen.fixed, seen.warped, seen.valid)


def _on_square(start: GaussianSequence, grid: Grid, like: Tensor) -> Tensor:
    moved = {name: getattr(start, name).to(like) for name in ("centres", "sigmas", "orientation", "amplitudes")}
    return replace(start, **moved, grid=grid).displacement_field().vectors


def _check_start(pairs: Pairs, start: Sequence[Transform] | None) -> tuple[GaussianSequence, ...]:
    if start is None:
        return (GaussianSequence.identity(pairs.grid),) * len(pairs)
    if len(start) != len(pairs):
        raise ArgumentError(f"start: expected one transform a pair, {len(pairs)}, got {len(start)}")
    sequences = []
    for transform in start:
        if not isinstance(transform, GaussianSequence):
            raise ArgumentError(
                f"start: the network goes on from a GaussianSequence only, got {type(transform).__name__}; "
                f"start from none or use --method fit"
            )
        if not transform.grid.same_space(pairs.grid):
            raise ArgumentError(f"start: its grid {transform.grid} does not share the normalised space of the pairs, {pairs.grid}")
        sequences.append(transform)
    return tuple(sequences)
