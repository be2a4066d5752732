"""Registration by the recurrent network: one local Gaussian a step, summed, the original moving image warped each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.config import StoppingConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.network import LEVELS, GaussianParameters, RecurrentNetwork, Unchanging
from r2n2.network.joint import Placed
from r2n2.network.least_squares import LeastSquares
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.cuda_graph import Recorded, Recorder, TensorFunction, Tensors
from r2n2.registration.recurrent_steps import Comparison, Progress, Squares, advance, begin, compare, prepare
from r2n2.similarity import mean_squared_error
from r2n2.transform import GaussianSequence, Transform

__all__ = ["RecurrentMethod"]

# Mean squared difference of z-scored images that are the same but for rounding.
_ALIGNED = 1e-4


@dataclass(frozen=True, eq=False)
class _Running:
    """The pairs that are computed."""

    rows: Tensor
    """(A,) which of the batch they are."""
    going: Tensor
    """(A,) bool, whose steps count; where steps are recorded, others are computed along as a recording has one shape."""
    still: Tensor
    """(A,) how many of the last steps in a row changed nothing."""
    squares: Squares
    unchanging: Unchanging
    progress: Progress
    seen: Comparison
    step: TensorFunction
    """The next step on these squares, from what ``_packed`` gives to parameters, loss and the same again."""

    def part(self, kept: Tensor, network: RecurrentNetwork, dtype: torch.dtype) -> _Running:
        """Those for which ``kept`` (A,) is true."""
        if bool(kept.all()):
            return self
        rows = kept.nonzero()[:, 0]
        own = self.unchanging.features
        unchanging = self.unchanging if len(own) != len(self.rows) else self.unchanging._replace(features=own[rows])
        squares = self.squares.part(rows)
        return _Running(
            self.rows[rows],
            self.going[rows],
            self.still[rows],
            squares,
            unchanging,
            self.progress.part(rows),
            self.seen.part(rows),
            _step(network, squares, unchanging, dtype),
        )


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Where a batch stands after some steps; replaced, never changed, so that earlier steps stay available."""

    running: _Running
    gaussians: GaussianParameters
    """(B, K, ...) of the whole batch; of pairs that took fewer steps the last are 0."""
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
    dtype
        Of the convolutions: float32 or bfloat16. Places, intensities, least squares and displacements keep their precision.
    recorder
        ``cuda_graph`` to record a step and replay it; pairs that have stopped are then computed along. None to compute as is.

    Raises
    ------
    ArgumentError
        If ``steps`` is not positive or the network is in training mode.
    """

    name = "r2n2"

    def __init__(
        self,
        network: RecurrentNetwork,
        *,
        steps: int = 25,
        stopping: StoppingConfig | None = None,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
    ) -> None:
        if steps < 1:
            raise ArgumentError(f"steps: the sequence needs at least 1 step, got {steps}")
        if network.training:
            raise ArgumentError("network: in training mode its output is random; call network.eval() first")
        self._network = network
        self._steps = steps
        self._stopping = stopping
        self._dtype = dtype
        self._recorder = recorder

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
            transforms = _Result(sequence.gaussians, tuple(sequence.taken.tolist()), pairs, beginnings)
            loss = sequence.loss.to(pairs.fixed.device, copy=True)
            yield RegistrationStep(index, self._steps, loss, transforms)
            if not bool(sequence.running.going.any()):
                return

    def _begin(self, pairs: Pairs, beginnings: tuple[GaussianSequence, ...]) -> _Sequence:
        begun = any(len(sequence) or sequence.linear is not None for sequence in beginnings)

        def displaced(grid: Grid, like: Tensor) -> Tensor:
            return torch.stack([_on_square(sequence, grid, like) for sequence in beginnings])

        squares = prepare(self._network.config, pairs, self._network.entry.weight, displaced if begun else None)
        start = tuple(displaced(scale.grid, scale.moving) for scale in squares.scales) if begun else None
        progress = begin(self._network, squares, start)
        seen = compare(squares, progress.displacements)
        unchanging = self._network.unchanging(squares.fixed)
        rows = torch.arange(len(squares), device=seen.fixed.device)
        step = _step(self._network, squares, unchanging, self._dtype)
        # A recording has one shape, and the Gaussians that are solved again grow in number.
        if self._recorder is not None and progress.placed is None:
            step = Recorded(step, self._recorder)
        none = torch.zeros_like(rows)
        running = _Running(rows, torch.ones_like(rows, dtype=torch.bool), none, squares, unchanging, progress, seen, step)
        ndim, like = pairs.grid.ndim, seen.fixed
        gaussians = GaussianParameters(*(like.new_zeros(len(rows), 0, n) for n in (ndim, ndim, 1 if ndim == 2 else 3, ndim)))
        return _Sequence(running, gaussians, none, _loss(seen))

    def _advance(self, before: _Sequence) -> _Sequence:
        running, rows = before.running, before.running.rows
        centres, sigmas, orientation, amplitudes, now, *packed = running.step(_packed(running.progress, running.seen))
        found = GaussianParameters(centres, sigmas, orientation, amplitudes)
        progress, seen = _unpacked(tuple(packed), len(running.squares.scales), orthogonal=self._network.config.orthogonal)
        # A sigma that underflows to 0 is as useless as a number that is not finite.
        usable = torch.cat(found, dim=1).isfinite().all(dim=1) & (found.sigmas > 0).all(dim=1)
        usable &= progress.displacements[0].flatten(1).sum(1).isfinite()
        counted = running.going & usable
        then = before.loss[rows]
        loss = torch.where(counted, now, torch.where(running.going, torch.nan, then))
        going, still = counted, running.still
        if self._stopping is not None:
            moved = _longest_change(running.progress, progress, found)
            still = torch.where(_changed_nothing(self._stopping, moved, now, then), still + 1, 0)
            going = counted & (still < self._stopping.patience)
        after = replace(running, progress=progress, seen=seen, going=going, still=still)
        if self._recorder is None:
            after = after.part(going, self._network, self._dtype)
        return _Sequence(
            after,
            _joined(before.gaussians, found, progress.placed, rows, counted),
            before.taken.index_add(0, rows, counted.to(before.taken.dtype)),
            before.loss.index_copy(0, rows, loss),
        )


def _joined(
    before: GaussianParameters, found: GaussianParameters, placed: Placed | None, rows: Tensor, counted: Tensor
) -> GaussianParameters:
    """The whole batch's Gaussians (B, K, ...) and one more, found (A, ...) for the pairs ``rows`` where ``counted`` (A,)."""
    parts = []
    for earlier, new in zip(before, found, strict=True):
        row = new.new_zeros(len(earlier), new.shape[1]).index_copy(0, rows, torch.where(counted[:, None], new, 0))
        parts.append(torch.cat((earlier, row[:, None]), 1))
    joined = GaussianParameters(*parts)
    if placed is None:
        return joined
    # All amplitudes are new where the step counts.
    solved = torch.where(counted[:, None, None], placed.parameters.amplitudes, joined.amplitudes[rows])
    return joined._replace(amplitudes=joined.amplitudes.index_copy(0, rows, solved))


def _step(network: RecurrentNetwork, squares: Squares, unchanging: Unchanging, dtype: torch.dtype) -> TensorFunction:
    """The next Gaussian and what the images then say; reads nothing back, so that it can be recorded."""

    def next_step(arguments: Tensors) -> Tensors:
        progress, seen = _unpacked(arguments, len(squares.scales), orthogonal=network.config.orthogonal)
        kind = seen.fixed.device.type
        # Entered for one step, so a cache of cast weights would be of no use, and none may outlive a recording.
        with torch.autocast(kind, torch.bfloat16, enabled=dtype is torch.bfloat16, cache_enabled=False):
            step, progress = advance(network, squares, progress, seen, unchanging=unchanging)
        seen = compare(squares, progress.displacements)
        return (*step.parameters, _loss(seen), *_packed(progress, seen))

    return next_step


def _packed(progress: Progress, seen: Comparison) -> Tensors:
    placed = () if progress.placed is None else (*progress.placed.parameters, progress.placed.heights, progress.placed.gradients)
    return (*progress.displacements, *progress.state, *placed, seen.fixed, seen.warped, seen.valid, *(seen.least_squares or ()))


def _unpacked(packed: Tensors, scales: int, *, orthogonal: bool) -> tuple[Progress, Comparison]:
    displacements, rest = packed[:scales], packed[scales:]
    state, rest = rest[:LEVELS], rest[LEVELS:]
    placed, numbers = None, len(GaussianParameters._fields)
    if orthogonal:
        placed = Placed(GaussianParameters(*rest[:numbers]), *rest[numbers : numbers + 2])
        rest = rest[numbers + 2 :]
    (fixed, warped, valid), solved = rest[:3], rest[3:]
    return Progress(displacements, state, placed), Comparison(fixed, warped, valid, LeastSquares(*solved) if solved else None)


@dataclass(frozen=True, eq=False)
class _Result:
    """Makes the transforms of one step when asked; holds the parameters only, so that keeping every step costs little."""

    gaussians: GaussianParameters
    taken: tuple[int, ...]
    pairs: Pairs
    beginnings: tuple[GaussianSequence, ...]

    def __call__(self) -> tuple[Transform, ...]:
        # Off the device once a step, not once a step and pair; frames are assessed and written on the processor.
        gaussians = GaussianParameters(*(values.cpu() for values in self.gaussians))
        return tuple(self._transform(pair, gaussians) for pair in range(len(self.pairs)))

    def _transform(self, pair: int, gaussians: GaussianParameters) -> GaussianSequence:
        dtype = self.pairs.fixed.dtype
        start = self.beginnings[pair]

        def joined(name: str) -> Tensor:
            own = getattr(gaussians, name)[pair, : self.taken[pair]]
            return torch.cat((getattr(start, name).to("cpu", dtype), own.to(dtype)))

        return GaussianSequence(
            joined("centres"), joined("sigmas"), joined("orientation"), joined("amplitudes"), self.pairs.grid, start.linear
        )


def _longest_change(before: Progress, after: Progress, step: GaussianParameters) -> Tensor:
    """(A,) length of the largest change of an amplitude, NORMALISED; of a new Gaussian it is the whole."""
    if before.placed is None or after.placed is None:
        return step.amplitudes.norm(dim=1)
    earlier = functional.pad(before.placed.parameters.amplitudes, (0, 0, 0, 1))
    return (after.placed.parameters.amplitudes - earlier).norm(dim=2).amax(1)


def _changed_nothing(config: StoppingConfig, moved: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """(A,) where a step changed neither the displacement nor the similarity."""
    return (moved <= config.displacement) & (then - now <= config.improvement * then.clamp_min(_ALIGNED))


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
