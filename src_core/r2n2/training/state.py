"""The whole state of a training in one file, from which it goes on bit for bit.

A state is a safetensors file: the tensors, and as metadata the JSON of everything else with a SHA-256 of both. Nothing is pickled.
It is flushed to disk and read back before it gets its name, and only then is an older one removed, so that a process killed at
any moment leaves at least one whole state.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2n2 import __version__
from r2n2.errors import ReadError, ResourceError
from r2n2.io.atomic import atomic_write, clean_stale
from r2n2.training.serialisation import flatten, rebuild

__all__ = ["TrainingState", "load_state", "save_state", "state_files"]

_LOG = logging.getLogger(__name__)
_KIND = "r2n2 training state"
_SCHEMA = "1"
_NAME = re.compile(r"state-(\d{9,})\.safetensors")
_MAXIMUM_BYTES = 16 * 2**30
_TENSOR_GROUPS = ("network", "generators", "tensors")
_OTHER_GROUPS = ("step", "sample", "elapsed_s", "optimiser", "counters", "best", "settings")


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Where a training stands between two steps.

    Parameters
    ----------
    step
        Optimiser updates done.
    sample
        Position in the stream of samples.
    elapsed_s
        Time spent training so far, over all runs.
    network
        ``network.state_dict()``.
    optimiser
        ``optimizer.state_dict()``, whatever it nests.
    generators
        States of the random generators, uint8.
    tensors
        Anything else that goes on: recurrent states, displacements of samples in flight.
    counters
        Such as skipped steps.
    best
        The best validation so far.
    settings
        The configuration.
    notes
        What ``load_state`` had to decide; not saved.
    """

    step: int
    sample: int
    elapsed_s: float
    network: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    generators: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def state_files(folder: Path) -> tuple[Path, ...]:
    """The states in a folder, the newest first."""
    if not folder.is_dir():
        return ()
    return tuple(sorted((entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)), key=_step_of, reverse=True))


def save_state(folder: Path, state: TrainingState, keep: int = 2) -> Path:
    """Write a state, verify it, then remove all but the newest ``keep``; give its path.

    States of later steps than this one are removed too: whoever saves an earlier step has gone back to it.

    Raises
    ------
    ValueError
        If ``keep`` is below 1 or a position negative.
    TypeError
        If the optimiser's state holds something that is no number, text, list, tuple, dict or tensor.
    ResourceError
        If the disk is full, the folder is missing or read-only, or the file reads back differently; older states stay.
    """
    if keep < 1:
        raise ValueError(f"save_state: keep must be at least 1, got {keep}; the state just written always stays")
    if state.step < 0 or state.sample < 0:
        raise ValueError(f"save_state: step and sample must not be negative, got {state.step} and {state.sample}")
    content = _encode(state)
    path = folder / f"state-{state.step:09d}.safetensors"
    with atomic_write(path) as temporary:
        _write_through(temporary, content)
        if hashlib.sha256(temporary.read_bytes()).digest() != hashlib.sha256(content).digest():
            raise ResourceError(f"{path}: reads back differently from what was written; check the disk or choose another folder")
    files = state_files(folder)
    later = files.index(path)
    for file in files[:later] + files[later + keep :]:
        file.unlink(missing_ok=True)
    clean_stale(folder)
    return path


def load_state(folder: Path) -> TrainingState | None:
    """The newest whole state of a folder, on the CPU; None if there is no state at all.

    A damaged one is passed over for the one before it, with a note and a warning in the log.

    Raises
    ------
    ReadError
        If there are states but none is whole.
    ResourceError
        If one may not be read.
    """
    problems: list[str] = []
    for path in state_files(folder):
        try:
            state = _decode(path)
        except ReadError as error:
            problems.append(str(error))
            continue
        notes = tuple(f"{problem} - went back to step {state.step}" for problem in problems)
        for note in notes:
            _LOG.warning(note)
        return replace(state, notes=notes)
    if problems:
        raise ReadError(f"{folder}: none of its {len(problems)} training states is whole ({problems[0]}); start the training again")
    return None


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _write_through(path: Path, content: bytes) -> None:
    """Write to the disk itself, so that reading back tests what a power cut would leave."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _encode(state: TrainingState) -> bytes:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for group in _TENSOR_GROUPS:
        for name, value in getattr(state, group).items():
            tensors[f"{group}/{name}"] = value
    trees = {name: flatten(getattr(state, name), f"{name}/", tensors) for name in _OTHER_GROUPS}
    layouts = {name: layout for name, value in tensors.items() if (layout := _layout(value))}
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    content = json.dumps({"trees": trees, "layouts": layouts})
    metadata = {"kind": _KIND, "schema": _SCHEMA, "version": __version__, "content": content}
    return save(plain, {**metadata, "sha256": _digest(content, plain)})


def _decode(path: Path) -> TrainingState:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise ReadError(f"{path}: larger than {_MAXIMUM_BYTES >> 30} GiB; no training state is")
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("kind") != _KIND or metadata.get("schema") != _SCHEMA:
                raise ReadError(f"{path}: no training state of schema {_SCHEMA}; resume it with the version that wrote it")
            # Copied: what is mapped from a file must not change when the file is replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        content = metadata.get("content", "")
        if metadata.get("sha256") != _digest(content, tensors):
            raise ReadError(f"{path}: damaged training state, its SHA-256 is not the one written with it")
        return _state(json.loads(content), tensors)
    except OSError as error:
        raise ResourceError(f"{path}: not readable ({error.strerror or error}); check its permissions") from None
    except ReadError:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise ReadError(f"{path}: damaged training state ({' '.join(str(error).split())[:200]})") from None


def _state(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainingState:
    formats = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
    laid_out = {
        name: value.contiguous(memory_format=formats[content["layouts"][name]]) if name in content["layouts"] else value
        for name, value in tensors.items()
    }
    groups: dict[str, Any] = {
        group: {name.removeprefix(f"{group}/"): value for name, value in laid_out.items() if name.startswith(f"{group}/")}
        for group in _TENSOR_GROUPS
    }
    values = {name: rebuild(content["trees"][name], laid_out) for name in _OTHER_GROUPS}
    kinds = {"step": int, "sample": int, "elapsed_s": float | int, **dict.fromkeys(_OTHER_GROUPS[3:], dict)}
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is a {type(values[name]).__name__}")
    return TrainingState(**values, **groups)


def _layout(value: Tensor) -> str | None:
    """Name of the memory format where it is not the plain one: arithmetic may round differently in another."""
    if value.is_contiguous():
        return None
    if value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    if value.ndim == 5 and value.is_contiguous(memory_format=torch.channels_last_3d):
        return "channels_last_3d"
    return None


def _digest(content: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        # Reinterpreted as bytes because numpy has no bfloat16.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
