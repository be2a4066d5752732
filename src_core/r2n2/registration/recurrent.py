"""Registration by the recurrent network: one local Gaussian a step, summed, the original moving image warped each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.network import R2N2, GaussianParameters
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.unroll import Comparison, Progress, Squares, advance, begin, compare, kept_where, prepare
from r2n2.similarity import mean_squared_error
from r2n2.transform import GaussianSequence, Transform

__all__ = ["RecurrentMethod"]


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Where a batch stands after some steps; replaced, never changed, so that earlier steps stay available."""

    progress: Progress
    seen: Comparison
    steps: tuple[GaussianParameters, ...]
    taken: tuple[int, ...]
    """Steps that count for each pair: all, or those before its displacement stopped being finite."""
    loss: Tensor


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

    Raises
    ------
    ArgumentError
        If ``steps`` is not positive or the network is in training mode.
    """

    name = "r2n2"

    def __init__(self, network: R2N2, *, steps: int = 25) -> None:
        if steps < 1:
            raise ArgumentError(f"steps: the sequence needs at least 1 step, got {steps}")
        if network.training:
            raise ArgumentError("network: in training mode its output is random; call network.eval() first")
        self._network = network
        self._steps = steps

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
            squares = prepare(self._network.config, pairs, self._network.entry.weight)
            sequence = self._begin(squares, beginnings)
        for index in range(1, self._steps + 1):
            with torch.inference_mode():
                sequence = self._advance(squares, sequence)
            transforms = _Result(sequence.steps, sequence.taken, pairs, beginnings)
            loss = sequence.loss.to(pairs.fixed.device, copy=True)
            yield RegistrationStep(index, self._steps, loss, transforms)

    def _begin(self, squares: Squares, beginnings: tuple[GaussianSequence, ...]) -> _Sequence:
        start = None
        if any(len(sequence.centres) for sequence in beginnings):
            start = tuple(
                torch.stack([_on_square(sequence, scale.grid, scale.moving) for sequence in beginnings]) for scale in squares.scales
            )
        progress = begin(self._network, squares, start)
        seen = compare(squares, progress.displacements)
        return _Sequence(progress, seen, (), (0,) * len(squares), _loss(seen))

    def _advance(self, squares: Squares, before: _Sequence) -> _Sequence:
        parameters, progress, _ = advance(self._network, squares, before.progress, before.seen)
        numbers = torch.cat((progress.displacements[squares.working].flatten(1), *parameters), dim=1)
        # A sigma that underflows to 0 is as useless as a number that is not finite.
        usable = numbers.isfinite().all(dim=1) & (parameters.sigmas > 0).all(dim=1)
        done = len(before.steps)
        taken = tuple(
            done + 1 if good and count == done else count for good, count in zip(usable.tolist(), before.taken, strict=True)
        )
        alive = torch.tensor([count == done + 1 for count in taken], device=numbers.device)
        progress = kept_where(alive, progress, before.progress)
        seen = compare(squares, progress.displacements)
        loss = torch.where(alive, _loss(seen), torch.full_like(before.loss, float("nan")))
        return _Sequence(progress, seen, (*before.steps, parameters), taken, loss)


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
