"""A trainer's whole state as plain tensors and numbers, and a trainer put back into it: a resumed run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from r2n2.errors import ArgumentError
from r2n2.network import GaussianParameters
from r2n2.registration.recurrent_steps import Progress, placed_on
from r2n2.training.loop import Trainer
from r2n2.training.settings import TrainingConfig
from r2n2.training.state import TrainingState

__all__ = ["capture", "recorded_settings", "restore", "under_way"]

# Settings that change nothing of what is computed.
_HARMLESS = frozenset({"name", "minutes", "validate_minutes", "save_minutes"})


def recorded_settings(state: TrainingState) -> dict[str, Any]:
    """The settings that a state was saved with, under the names that they have now."""
    try:
        return TrainingConfig.model_validate(state.settings).model_dump(mode="json")
    except ValidationError:
        return dict(state.settings)  # what has changed is then told by name


def under_way(trainer: Trainer) -> dict[str, Tensor]:
    """What this process alone knows: its batches under way and its random state, as tensors by name."""
    kept = {"random": torch.get_rng_state()}
    device = trainer.network.entry.weight.device
    if device.type == "cuda":
        kept["random_cuda"] = torch.cuda.get_rng_state(device)
    for number, group in enumerate(trainer.groups):
        if group is None:
            continue
        place = f"group{number}/"
        sizes = (group.first, group.done, group.length, group.squares.seen.grid.shape[0], int(group.told))
        kept[place + "position"] = torch.tensor(sizes)
        progress = group.progress
        placed = () if progress.placed is None else progress.placed.parameters
        for kind, tensors in (("displacement", progress.displacements), ("state", progress.state), ("placed", placed)):
            kept |= {f"{place}{kind}{index}": tensor.detach().cpu().contiguous() for index, tensor in enumerate(tensors)}
    return kept


def capture(
    trainer: Trainer, ranks: list[dict[str, Tensor]], elapsed_s: float, best: Mapping[str, Any], *, validated: int = -1
) -> TrainingState:
    """The state to save.

    Parameters
    ----------
    ranks
        ``under_way`` of every process, in order.
    elapsed_s
        Time spent training so far.
    best
        The best validation so far.
    validated
        Update after which the last one was made, -1 before the first.
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
        counters={
            "skipped": trainer.skipped,
            "rolled_back": trainer.rolled_back,
            "failures": trainer.failures,
            "returns": trainer.returns,
            "halvings": trainer.halvings,
            "validated": validated,
            "processes": len(ranks),
        },
        best=dict(best),
        settings=trainer.config.model_dump(mode="json"),
    )


def restore(trainer: Trainer, state: TrainingState, rank: int, world: int) -> tuple[str, ...]:
    """Put a trainer where the state was taken; give notes on what could not be.

    Raises
    ------
    ArgumentError
        If the state is of another network or optimiser.
    """
    changed = _changed(recorded_settings(state), trainer.config.model_dump(mode="json"))
    fixed = sorted(name for name in changed if name.startswith("network.") or name == "optimiser.amsgrad")
    if fixed:
        raise ArgumentError(
            f"--resume: {_said(changed, fixed)}: cannot change within a run; resume with the settings it began with"
        )
    try:
        trainer.network.load_state_dict(dict(state.network))
    except RuntimeError:
        raise ArgumentError("--resume: the saved state is of another network; resume with the version that began the run") from None
    trainer.optimiser.load_state_dict(dict(state.optimiser))
    for group in trainer.optimiser.param_groups:
        group["weight_decay"] = trainer.config.optimiser.weight_decay
    trainer.update, trainer.sample = state.step, state.sample
    trainer.skipped, trainer.rolled_back = state.counters["skipped"], state.counters["rolled_back"]
    trainer.failures = state.counters["failures"]
    trainer.returns, trainer.halvings = (state.counters.get(name, 0) for name in ("returns", "halvings"))
    trainer.average = _average(trainer, state)
    notes = []
    others = sorted(name for name in changed if name not in _HARMLESS)
    if others:
        notes.append(f"resumed with other settings: {_said(changed, others)}")
    if state.counters["processes"] != world:
        notes.append(f"resumed with {world} processes what {state.counters['processes']} had begun")
    if notes:
        notes.append("the batches under way are begun anew, so the run is not the same bit for bit")
        return tuple(notes)
    mine = f"rank{rank}/"
    _begin_again(trainer, {name.removeprefix(mine): value for name, value in state.tensors.items() if name.startswith(mine)})
    return ()


def _begin_again(trainer: Trainer, kept: Mapping[str, Tensor]) -> None:
    """The batches under way and the random state, as ``under_way`` gave them."""
    device = trainer.network.entry.weight.device
    for number in range(trainer.config.groups):
        place = f"group{number}/"
        if place + "position" not in kept:
            continue
        # States from before truth could be kept back end with the size.
        first, done, length, size, *told = (int(value) for value in kept[place + "position"])
        found: list[tuple[Tensor, ...]] = []
        for kind in ("displacement", "state", "placed"):
            count = sum(name.startswith(place + kind) for name in kept)
            found.append(tuple(kept[f"{place}{kind}{index}"].to(device) for index in range(count)))
        begun = trainer.begin(first, length, size, told=all(told))
        displacements, recurrent, parameters = found
        placed = placed_on(begun.squares, GaussianParameters(*parameters)) if parameters else None
        trainer.groups[number] = begun.moved_on(Progress(displacements, recurrent, placed), done)
    torch.set_rng_state(kept["random"])
    if device.type == "cuda" and "random_cuda" in kept:
        torch.cuda.set_rng_state(kept["random_cuda"], device)


def _average(trainer: Trainer, state: TrainingState) -> dict[str, Tensor]:
    """The running mean of the weights, begun with the weights themselves where the run had none."""
    if not trainer.average:
        return {}
    kept = {name.removeprefix("average/"): value for name, value in state.tensors.items() if name.startswith("average/")}
    weights = trainer.network.state_dict()
    return {name: kept.get(name, value).detach().to(value.device, copy=True) for name, value in weights.items()}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> dict[str, tuple[Any, Any]]:
    """Old and new value of every setting that differs, by its whole name."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **now}:
        one, other = before.get(name), now.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= _changed(one, other, f"{place}{name}.")
        elif one != other:
            found[place + name] = one, other
    return found


def _said(changed: Mapping[str, tuple[Any, Any]], names: list[str]) -> str:
    return ", ".join(f"{name} {changed[name][0]} -> {changed[name][1]}" for name in names)
