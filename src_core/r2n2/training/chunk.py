"""Some steps of the network on a batch with the loss they earn: the one module that is trained, on one process or many."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from r2n2.config import NetworkConfig
from r2n2.geometry import Grid
from r2n2.network import RecurrentNetwork
from r2n2.network.least_squares import LeastSquares
from r2n2.registration.base import Pairs
from r2n2.registration.recurrent_steps import Progress, Squares, advance, begin, compare, prepare
from r2n2.simulation.engine import SimulatedBatch
from r2n2.training.objective import Truth, placement_loss, step_loss
from r2n2.training.settings import TrainingConfig
from r2n2.transform import resample

__all__ = ["Chunk", "Sequences", "square_pairs"]


def square_pairs(batch: SimulatedBatch) -> Pairs:
    """Simulated squares as pairs on a grid of their own."""
    size = batch.fixed.shape[-1]
    return Pairs(batch.fixed, batch.moving, batch.fixed_valid, batch.moving_valid, Grid((size, size)))


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch under way; replaced, never changed."""

    first: int
    """Number of the batch's first sample in the stream of all processes."""
    squares: Squares
    truth: Truth
    known: Tensor
    """(B,) bool: the true displacement is known."""
    progress: Progress
    done: int
    """Steps taken."""
    length: int
    """Steps to take."""
    told: bool = True
    """Whether truth that is known may be used."""

    @classmethod
    def start(
        cls,
        network: RecurrentNetwork,
        batch: SimulatedBatch,
        config: TrainingConfig,
        settings: NetworkConfig,
        *,
        first: int,
        length: int,
        told: bool = True,
    ) -> Sequences:
        """A new batch before its first step, on squares of the sizes in ``settings``."""
        like = network.entry.weight
        pairs = square_pairs(batch)
        with torch.no_grad():
            squares = prepare(settings, pairs, like)
            seen = squares.seen
            exact = resample(batch.displacement.to(like), pairs.grid, seen.grid).image
            known = batch.has_truth.to(like.device) & told
            truth = Truth.weigh(exact, known, seen, structure=config.objective.structure)
            progress = begin(network, squares)
        return cls(first, squares, truth, known, progress, 0, length, told)

    def moved_on(self, progress: Progress, done: int) -> Sequences:
        """The same batch after ``done`` steps."""
        return replace(self, progress=progress, done=done)


class Chunk(nn.Module):
    """``forward`` takes steps and returns their mean loss; wrap it for many processes."""

    def __init__(self, network: RecurrentNetwork, config: TrainingConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, sequences: Sequences, steps: int) -> tuple[Tensor, Progress, dict[str, Tensor]]:
        """Take ``steps`` steps.

        Returns
        -------
        tuple
            Mean loss over steps and batch, where the batch stands, and what to log: numbers without gradient.
        """
        config, squares = self.config, sequences.squares
        progress = sequences.progress
        losses, error, similarity = [], None, None
        placement = progress.displacements[0].new_zeros(())
        device = progress.displacements[0].device.type
        low = config.precision == "bfloat16"
        # Opened once: entering it anew would cast all weights again.
        with torch.autocast(device, torch.bfloat16) if low else nullcontext():
            for step in range(1, steps + 1):
                shown = progress.displacements if config.through_images else progress.detached().displacements
                before = progress.displacements[squares.working].detach()
                if config.recompute:
                    progress, scores, least_squares = checkpoint(self._step, squares, progress, shown, use_reentrant=False)
                else:
                    progress, scores, least_squares = self._step(squares, progress, shown)
                with torch.autocast(device, enabled=False):
                    assessed = step_loss(
                        config.objective,
                        progress.displacements[squares.working],
                        sequences.truth,
                        squares.seen,
                        sequences.known,
                        last=sequences.done + step == sequences.length,
                        length=sequences.length,
                    )
                    total = assessed.total
                    if scores is not None and config.objective.placement:
                        assert least_squares is not None
                        assert squares.pooling is not None
                        wrong = placement_loss(scores, least_squares, squares.pooling, sequences.truth, before)
                        total = total + config.objective.placement * wrong
                        placement = wrong.detach().mean()
                losses.append(total)
                error, similarity = assessed.error, assessed.similarity
        loss = torch.stack(losses).mean()
        assert error is not None
        assert similarity is not None
        known = sequences.known
        logged = {
            "relative_error": (
                (error / sequences.truth.scale)[known].mean() if bool(known.any()) else error.new_tensor(float("nan"))
            ),
            "similarity": similarity.mean(),
            "placement": placement,
        }
        return loss, progress, {name: value.detach() for name, value in logged.items()}

    def _step(
        self, squares: Squares, progress: Progress, shown: tuple[Tensor, ...]
    ) -> tuple[Progress, Tensor | None, LeastSquares | None]:
        # Positions, intensities and least squares stay in full precision.
        with torch.autocast(progress.displacements[0].device.type, enabled=False):
            seen = compare(squares, shown)
        step, after = advance(self.network, squares, progress, seen)
        return after, step.scores, seen.least_squares
