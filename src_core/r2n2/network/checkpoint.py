"""Weights of the network in files: safetensors with a manifest that says what they are for and proves they are whole.

The manifest is the file's metadata: schema, package version, network settings, number of axes, normalisation of the
images, a hash of the architecture and a SHA-256 of manifest and weights as they are stored. Weights are stored as float32
or, to ship, as float16; they are computed with as float32. Pickled files (.pt, .pth, .ckpt) are refused
whatever they hold, as loading one can run code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from r2n2 import __version__
from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.io.atomic import atomic_write
from r2n2.network.building import create_network
from r2n2.network.least_squares import ROUGHNESS, WIDTHS
from r2n2.network.shipped_weights import SUFFIX, named_weights, shipped_file
from r2n2.network.trunk import RecurrentNetwork

__all__ = ["NORMALISATION", "Manifest", "load_network", "named_weights", "read_manifest", "save_network", "shipped_bytes"]

NORMALISATION = "z-score over valid pixels, clamped to [-2, 2]; square on isotropic [-1, 1]"
"""What the network's images go through (``r2n2.preprocessing``); weights of any other are refused."""

SPACING = "any: frames are resampled to isotropic pixels on a square"
"""What weights make of pixel sizes; weights of another convention are refused. Files of older versions do not say."""

MAXIMUM_BYTES = 512 * 2**20
MAXIMUM_HEADER_BYTES = 2**20

_SCHEMA = 1
# Raise when the network computes something else from tensors of the same names and shapes.
_ARCHITECTURE = "r2n2-1"
# The same for matching pursuit: of what is looked for (``least_squares``), chosen and made of the numbers.
_PURSUIT_ARCHITECTURE = "evidence-2"
# Names of parts in files, which stay what they were when the first files were written.
_STORED_NAMES = {"least_squares_entry.": "evidence_entry.", "placement.": "chooser."}
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LENGTH_BYTES = 8
_SETTLED_NS = 2 * 10**9
_PICKLED = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_KEYS = ("version", "config", "ndim", "normalisation", "architecture", "info")


@dataclass(frozen=True)
class Manifest:
    """What a file of weights says about itself.

    Parameters
    ----------
    version
        Of the package that wrote it.
    config, ndim
        Architecture.
    normalisation
        What images must go through.
    architecture
        Hash of names, shapes and computation.
    info
        Whatever the writer wished to tell: data, iterations, validation error.
    sha256
        Of the rest of the manifest and all weights; names these weights in run.json.
    """

    version: str
    config: NetworkConfig
    ndim: int
    normalisation: str
    architecture: str
    info: Mapping[str, str]
    sha256: str


def save_network(path: Path, network: RecurrentNetwork, *, info: Mapping[str, str] | None = None, half: bool = False) -> None:
    """Write weights and manifest; the file appears under its name only when it is whole.

    Parameters
    ----------
    path
        Ends in .safetensors.
    network
        On any device.
    info
        Whatever is worth telling: data, iterations, validation error.
    half
        Round the weights to float16, which halves the file.

    Raises
    ------
    ArgumentError
        If the name does not end in .safetensors.
    ValueError
        If a weight is not finite, or too large for float16.
    ResourceError
        If the file cannot be written.
    """
    from safetensors.torch import save

    if path.suffix != SUFFIX:
        raise ArgumentError(f"{path}: weights are written as {SUFFIX} only; give a name that ends in it")
    weights = network.state_dict().items()
    tensors = {_stored(name): value.detach().to("cpu", torch.float32).contiguous() for name, value in weights}
    broken = _first_not_finite(tensors)
    if broken is not None:
        raise ValueError(
            f"save_network: {broken} holds a number that is not finite; the training diverged, go back to a checkpoint"
        )
    if half:
        tensors = {name: value.half() for name, value in tensors.items()}
        broken = _first_not_finite(tensors)
        if broken is not None:
            raise ValueError(f"save_network: {broken} holds a number too large for float16; save with half=False")
    metadata = {
        "schema": str(_SCHEMA),
        "version": __version__,
        "config": network.config.model_dump_json(),
        "ndim": str(network.ndim),
        "normalisation": NORMALISATION,
        "spacing": SPACING,
        "architecture": _architecture_hash(network),
        "info": json.dumps(dict(info or {})),
    }
    metadata["sha256"] = _digest(metadata, tensors)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_network(name_or_path: str | Path, *, ndim: int | None = None) -> RecurrentNetwork:
    """The network of shipped weights or of a file, on the CPU, in evaluation mode.

    Parameters
    ----------
    name_or_path
        Name of shipped weights (letters, digits, ``-`` and ``_``), or the path of a .safetensors file.
    ndim
        Number of axes of the images to be registered; weights for another are refused. None takes either.

    Raises
    ------
    ResourceError
        If no weights of that name ship, or the file may not be read.
    ReadError
        If the file is missing, damaged, pickled, too large, of another architecture, version or normalisation, or holds
        numbers that are not finite.
    ArgumentError
        If the weights are for another number of axes than ``ndim``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    place, content = _read(name_or_path)
    metadata = _metadata(place, content)
    manifest = _manifest(place, metadata)
    if ndim is not None and ndim != manifest.ndim:
        raise ArgumentError(
            f"{place}: these weights are for {manifest.ndim}D images, got {ndim}D; choose others or use --method fit"
        )
    network = _empty_network(place, manifest)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ReadError(f"{place}: damaged weights ({_one_line(error)}); fetch or copy the file again") from None
    kinds = {value.dtype for value in tensors.values()}
    names = {_stored(name): name for name in network.state_dict()}
    expected = {_stored(name): tuple(value.shape) for name, value in network.state_dict().items()}
    if {name: tuple(value.shape) for name, value in tensors.items()} != expected or kinds not in ({torch.float32}, {torch.float16}):
        raise ReadError(f"{place}: the weights are not those its manifest describes; fetch or copy the file again")
    if _digest(metadata, tensors) != manifest.sha256:
        raise ReadError(
            f"{place}: the SHA-256 of weights and manifest is not the one written with them; fetch or copy the file again"
        )
    broken = _first_not_finite(tensors)
    if broken is not None:
        raise ReadError(f"{place}: {broken} holds a number that is not finite; use other weights")
    network.load_state_dict({names[stored]: value.float() for stored, value in tensors.items()}, assign=True)
    return network.eval()


def read_manifest(name_or_path: str | Path) -> Manifest:
    """What weights say about themselves, of which only the header is read; raises as ``load_network``."""
    place, content = _read(name_or_path, header_only=True)
    return _manifest(place, _metadata(place, content))


def shipped_bytes(name: str) -> int:
    """Size of the file of weights that ship, one of ``named_weights``."""
    with shipped_file(name).open("rb") as stream:
        return stream.seek(0, os.SEEK_END)


def _read(name_or_path: str | Path, *, header_only: bool = False) -> tuple[str, bytes]:
    """How to call the file in messages, and all of it, or as much as its header may take."""
    if isinstance(name_or_path, str) and _NAME.fullmatch(name_or_path):
        known = named_weights()
        if name_or_path not in known:
            which = f"there are: {', '.join(known)}; choose one" if known else "no weights ship; use --method fit"
            raise ResourceError(f"no weights are called {name_or_path!r}: {which} or give a {SUFFIX} file")
        shipped = shipped_file(name_or_path)
        if isinstance(shipped, Path) and not header_only:
            return f"weights {name_or_path!r}", _whole(shipped)
        with shipped.open("rb") as stream:
            return f"weights {name_or_path!r}", _content(stream, header_only)
    path = Path(name_or_path)
    if path.suffix.lower() in _PICKLED:
        raise ReadError(f"{path}: pickled weights can run code and are never opened; convert them to {SUFFIX} where they were made")
    if path.suffix.lower() != SUFFIX:
        raise ReadError(f"{path}: expected a {SUFFIX} file, got {path.suffix or 'a name without suffix'!r}; give weights of r2n2")
    try:
        if not path.is_file():
            raise ReadError(f"{path}: no such file; check the path of the weights")
        size = path.stat().st_size
        if size > MAXIMUM_BYTES:
            raise ReadError(
                f"{path}: {size / 2**20:.0f} MiB, weights have at most {MAXIMUM_BYTES / 2**20:.0f} MiB; give weights of r2n2"
            )
        if not header_only:
            return str(path), _whole(path)
        with path.open("rb") as stream:
            return str(path), _content(stream, header_only)
    except OSError as error:
        raise ResourceError(f"{path}: not readable ({error.strerror or error}); check its permissions") from None


def _whole(path: Path) -> bytes:
    """All of a file: a process that registers one series after another reads its weights once, unless the file changes."""
    state = path.stat()
    # Times of change are coarse: a file written just now may be written again and look the same.
    if time.time_ns() - state.st_mtime_ns < _SETTLED_NS:
        return path.read_bytes()
    return _read_once(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=1)
def _read_once(path: Path, *_state: int) -> bytes:
    return path.read_bytes()


def _content(stream: IO[bytes], header_only: bool) -> bytes:
    if not header_only:
        return stream.read()
    start = stream.read(_LENGTH_BYTES)
    # One byte more, as the checks of a header ask for something behind its length.
    return start + stream.read(min(int.from_bytes(start, "little"), MAXIMUM_HEADER_BYTES) + 1)


def _metadata(place: str, content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, read before anything in it is believed."""
    if content.startswith(_PICKLE_MAGIC):
        raise ReadError(f"{place}: a pickled or zipped file under another name; pickles can run code and are never opened")
    if len(content) <= _LENGTH_BYTES:
        raise ReadError(f"{place}: {len(content)} bytes are no weights; fetch or copy the file again")
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > min(MAXIMUM_HEADER_BYTES, len(content) - _LENGTH_BYTES):
        raise ReadError(f"{place}: truncated or no safetensors file (a header of {length} bytes); fetch or copy the file again")
    try:
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (ValueError, RecursionError):
        raise ReadError(f"{place}: no safetensors file (its header is not JSON); fetch or copy the file again") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or "schema" not in metadata or not all(isinstance(v, str) for v in metadata.values()):
        raise ReadError(f"{place}: holds no manifest of r2n2; give weights that r2n2 train or adapt wrote")
    return metadata


def _manifest(place: str, metadata: dict[str, str]) -> Manifest:
    if metadata["schema"] != str(_SCHEMA):
        writer = metadata.get("version", "unknown")[:20]
        raise ReadError(
            f"{place}: weights of schema {metadata['schema'][:20]!r} (written by r2n2 {writer}), "
            f"this version reads {_SCHEMA}; use that version or train again"
        )
    missing = [key for key in (*_KEYS, "sha256") if key not in metadata]
    if missing:
        raise ReadError(f"{place}: the manifest lacks {', '.join(missing)}; fetch or copy the file again")
    if metadata["normalisation"] != NORMALISATION:
        raise ReadError(
            f"{place}: made for images normalised by {metadata['normalisation'][:80]!r}, "
            f"this version gives {NORMALISATION!r}; use other weights"
        )
    if metadata.get("spacing", SPACING) != SPACING:
        raise ReadError(
            f"{place}: made for pixel sizes {metadata['spacing'][:80]!r}, this version takes {SPACING!r}; use other weights"
        )
    try:
        config = NetworkConfig.parse(_json_object(metadata["config"]))
        info = {str(key): str(value) for key, value in _json_object(metadata["info"]).items()}
        ndim = {"2": 2, "3": 3}[metadata["ndim"]]
    except (ArgumentError, ValueError, KeyError, RecursionError) as error:
        raise ReadError(f"{place}: the manifest cannot be used ({_one_line(error)}); fetch or copy the file again") from None
    return Manifest(
        metadata["version"], config, ndim, metadata["normalisation"], metadata["architecture"], info, metadata["sha256"]
    )


def _json_object(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, got {text[:40]!r}")
    return values


def _empty_network(place: str, manifest: Manifest) -> RecurrentNetwork:
    """The network of a manifest without memory for its weights, so that forged sizes cost none."""
    try:
        with torch.device("meta"):
            network = create_network(manifest.config, manifest.ndim)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise ReadError(f"{place}: describes an impossible network ({_one_line(error)}); fetch or copy the file again") from None
    if _architecture_hash(network) != manifest.architecture:
        raise ReadError(
            f"{place}: weights of another architecture (written by r2n2 {manifest.version[:20]}, this is {__version__}); "
            f"use that version or train again"
        )
    return network


def _architecture_hash(network: RecurrentNetwork) -> str:
    shapes = sorted((_stored(name), list(value.shape)) for name, value in network.state_dict().items())
    # False: that there are no other inputs than the paper's, which networks once could have.
    inputs: list[Any] = [_ARCHITECTURE, network.ndim, False, shapes]
    # The sides of the images compared change what is seen, not what is done with it, as the working size does.
    if scales := len(network.config.least_squares_sizes):
        inputs.append([_PURSUIT_ARCHITECTURE, scales, WIDTHS, ROUGHNESS])
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _stored(name: str) -> str:
    """Name in a file of what is called ``name`` in a network."""
    for own, stored in _STORED_NAMES.items():
        if name.startswith(own):
            return stored + name.removeprefix(own)
    return name


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps({k: v for k, v in metadata.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in tensors.items() if not math.isfinite(float(value.abs().sum(dtype=torch.float64)))), None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
