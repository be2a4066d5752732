"""A trainer's whole state as plain tensors and numbers, and a trainer put back into it: a resumed run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from r2n2.errors import ArgumentError
from r2n2.registration.unroll import Progress
from r2n2.training.loop import Trainer
from r2n2.training.state import TrainingState

__all__ = ["capture", "restore", "under_way"]


def under_way(trainer: Trainer) -> dict[str, Tensor]:
    """What this process alone knows: its batches under way and its random state, as tensors by name."""
    kept = {"random": torch.get_rng_state()}
    for number, group in enumerate(trainer.groups):
        if group is None:
            continue
        place = f"group{number}/"
        sizes = (group.first, group.done, group.length, group.squares.seen.grid.shape[0])
        kept[place + "position"] = torch.tensor(sizes)
        for kind, tensors in (("displacement", group.progress.displacements), ("state", group.progress.state)):
            kept |= {f"{place}{kind}{index}": tensor.detach().cpu().contiguous() for index, tensor in enumerate(tensors)}
    return kept


def capture(trainer: Trainer, ranks: list[dict[str, Tensor]], elapsed_s: float, best: Mapping[str, Any]) -> TrainingState:
    """The state to save.

    Parameters
    ----------
    ranks
        ``under_way`` of every process, in order.
    elapsed_s
        Time spent training so far.
    best
        The best validation so far.
    """
    tensors = {f"rank{rank}/{name}": value for rank, kept in enumerate(ranks) for name, value in kept.items()}
    tensors |= {f"average/{name}": value.cpu() for name, value in trainer.average.items()}
    return TrainingState(
        step=trainer.update,
        sample=trainer.sample,
        elapsed_s=elapsed_s,
        network={name: value.detach().cpu() for name, value in trainer.network.state_dict().items()},
        optimiser=trainer.optimiser.state_dict(),
        tensors=tensors,
        counters={"skipped": trainer.skipped, "rolled_back": trainer.rolled_back, "processes": len(ranks)},
        best=dict(best),
        settings=trainer.config.model_dump(mode="json"),
    )


def restore(trainer: Trainer, state: TrainingState, rank: int, world: int) -> tuple[str, ...]:
    """Put a trainer where the state was taken; give notes on what could not be.

    Raises
    ------
    ArgumentError
        If the state is of another network.
    """
    notes = []
    try:
        trainer.network.load_state_dict(dict(state.network))
    except RuntimeError:
        raise ArgumentError(
            "--resume: the saved state is of another network than the settings ask for; resume with the settings it began with"
        ) from None
    trainer.optimiser.load_state_dict(dict(state.optimiser))
    like = trainer.network.entry.weight
    trainer.average = {
        name.removeprefix("average/"): value.to(like.device) for name, value in state.tensors.items() if name.startswith("average/")
    }
    trainer.update, trainer.sample = state.step, state.sample
    trainer.skipped, trainer.rolled_back = state.counters["skipped"], state.counters["rolled_back"]
    if state.counters["processes"] != world:
        notes.append(
            f"resumed with {world} processes what {state.counters['processes']} had begun: the batches under way are begun anew, "
            f"so the run is not the same bit for bit"
        )
        return tuple(notes)
    mine = f"rank{rank}/"
    kept = {name.removeprefix(mine): value for name, value in state.tensors.items() if name.startswith(mine)}
    for number in range(trainer.config.groups):
        place = f"group{number}/"
        if place + "position" not in kept:
            continue
        first, done, length, size = (int(value) for value in kept[place + "position"])
        begun = trainer.begin(first, length, size)

        def saved(kind: str, place: str = place) -> tuple[Tensor, ...]:
            count = sum(name.startswith(place + kind) for name in kept)
            return tuple(kept[f"{place}{kind}{index}"].to(like.device) for index in range(count))

        trainer.groups[number] = begun.moved_on(Progress(saved("displacement"), saved("state")), done)
    torch.set_rng_state(kept["random"])
    return tuple(notes)
