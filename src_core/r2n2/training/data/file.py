"""Training data as one safetensors file, so that a machine without image readers can train from it.

Images are kept as whole numbers: exactly where the pixels are whole numbers of a range below 65536, else in 65536 steps from
minimum to maximum. Masks are packed eight pixels a byte. An image that several entries use is kept once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2n2 import __version__
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.io.atomic import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from r2n2.training.data.contents import TrainingData

__all__ = ["read_data_file", "save_data_file"]

_KIND = "r2n2 stock"
_SCHEMA = "1"
_SUFFIX = ".safetensors"
_MAXIMUM_BYTES = 16 * 2**30


def save_data_file(path: Path, data: TrainingData) -> None:
    """Write training data; the file appears under its name only when it is whole.

    Raises
    ------
    ArgumentError
        If the name does not end in .safetensors.
    ResourceError
        If the file cannot be written.
    """
    from safetensors.numpy import save_file

    if path.suffix != _SUFFIX:
        raise ArgumentError(f"{path}: training data are written as {_SUFFIX} only; give a name that ends in it")
    tables = _Tables()
    content = {
        "slices": [{"image": tables.image(item.image), "valid": tables.mask(item.valid), **_labels(item)} for item in data.slices],
        "pairs": [
            {
                "fixed": tables.image(item.fixed),
                "moving": tables.image(item.moving),
                "displacement": tables.exact(item.displacement),
                **_labels(item),
            }
            for item in data.pairs
        ],
        "contoured": [
            {
                "fixed": tables.image(item.fixed),
                "moving": tables.image(item.moving),
                "fixed_mask": tables.mask(item.fixed_mask),
                "moving_mask": tables.mask(item.moving_mask),
                **_labels(item),
            }
            for item in data.contoured
        ],
        "coding": tables.coding,
        "notes": list(data.notes),
    }
    metadata = {"kind": _KIND, "schema": _SCHEMA, "version": __version__, "content": json.dumps(content)}
    metadata["sha256"] = _digest(metadata["content"], tables.arrays)
    with atomic_write(path) as temporary:
        save_file(tables.arrays, temporary, metadata)


def read_data_file(path: Path) -> TrainingData:
    """Read what ``save_data_file`` wrote.

    Raises
    ------
    ReadError
        If the file is missing, damaged, or no training data of this schema.
    ResourceError
        If it may not be read.
    """
    from r2n2.simulation.slices import RealPair, RealSlice
    from r2n2.training.data.contents import ContouredPair, TrainingData

    content, arrays = _read(path)
    try:
        tables = _Decoder(arrays, content["coding"])
        slices = [
            RealSlice(
                image=tables.image(entry["image"]),
                valid=None if entry["valid"] is None else tables.mask(entry["valid"], entry["image"]),
                **_named(entry),
            )
            for entry in content["slices"]
        ]
        pairs = [
            RealPair(
                fixed=tables.image(entry["fixed"]),
                moving=tables.image(entry["moving"]),
                displacement=tables.exact(entry["displacement"]),
                **_named(entry),
            )
            for entry in content["pairs"]
        ]
        contoured = [
            ContouredPair(
                fixed=tables.image(entry["fixed"]),
                moving=tables.image(entry["moving"]),
                fixed_mask=tables.mask(entry["fixed_mask"], entry["fixed"]),
                moving_mask=tables.mask(entry["moving_mask"], entry["moving"]),
                **_named(entry),
            )
            for entry in content["contoured"]
        ]
        return TrainingData(tuple(slices), tuple(pairs), tuple(contoured), tuple(str(note) for note in content["notes"]))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ReadError(f"{path}: its entries cannot be used ({' '.join(str(error).split())[:200]}); make it again") from None


def _labels(item: Any) -> dict[str, Any]:
    return {"spacing": [float(step) for step in item.spacing], "patient": item.patient, "source": item.source}


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    y, x = entry["spacing"]
    return {"spacing": (float(y), float(x)), "patient": str(entry["patient"]), "source": str(entry["source"])}


class _Tables:
    """Arrays to be written, each once, under names that are hashes of what they hold."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.coding: dict[str, tuple[float, float]] = {}

    def image(self, image: Tensor) -> str:
        """Name of an image (1, H, W), stored as whole numbers that times scale plus offset give the pixels."""
        pixels = np.asarray(image, dtype=np.float64)[0]
        offset, top = float(pixels.min()), float(pixels.max())
        whole = bool((pixels == np.round(pixels)).all()) and top - offset <= 65535
        scale = 1.0 if whole or top == offset else (top - offset) / 65535
        kind = np.uint8 if whole and top - offset <= 255 else np.uint16
        name = self._keep(np.round((pixels - offset) / scale).astype(kind), "image", f"{scale!r},{offset!r}")
        self.coding[name] = (scale, offset)
        return name

    def mask(self, mask: Tensor | None) -> str | None:
        """Name of a mask (1, H, W), packed along rows; None where there is none or all of it is True."""
        if mask is None or bool(np.asarray(mask).all()):
            return None
        return self._keep(np.packbits(np.asarray(mask, dtype=bool)[0], axis=1), "mask", "")

    def exact(self, values: Tensor | None) -> str | None:
        """Name of a float32 array kept as it is."""
        return None if values is None else self._keep(np.ascontiguousarray(values, dtype=np.float32), "exact", "")

    def _keep(self, array: NDArray[Any], prefix: str, coding: str) -> str:
        digest = hashlib.sha256(f"{array.shape}{array.dtype}{coding}".encode() + array.tobytes()).hexdigest()[:24]
        name = f"{prefix}.{digest}"
        self.arrays.setdefault(name, np.ascontiguousarray(array))
        return name


class _Decoder:
    """The arrays of a file as tensors; entries that share an image share its tensor."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], coding: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self._coding = coding
        self._done: dict[str, Tensor] = {}

    def image(self, name: str) -> Tensor:
        import torch

        if name not in self._done:
            scale, offset = self._coding[name]
            pixels = self._arrays[name].astype(np.float64) * float(scale) + float(offset)
            if not np.isfinite(pixels).all() or pixels.ndim != 2:
                raise ValueError(f"image {name} is not a plane of finite numbers")
            self._done[name] = torch.from_numpy(pixels.astype(np.float32))[None]
        return self._done[name]

    def mask(self, name: str | None, image: str) -> Tensor:
        import torch

        height, width = self._arrays[image].shape
        if name is None:
            return torch.ones(1, height, width, dtype=torch.bool)
        bits = np.unpackbits(self._arrays[name], axis=1, count=width)
        return torch.from_numpy(bits.astype(bool))[None]

    def exact(self, name: str | None) -> Tensor | None:
        import torch

        return None if name is None else torch.from_numpy(self._arrays[name])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Content and arrays of a file whose digest is right."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise ReadError(f"{path}: no such file; give a file that save_data_file wrote")
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise ReadError(f"{path}: larger than {_MAXIMUM_BYTES >> 30} GiB; make smaller data files")
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("kind") != _KIND:
                raise ReadError(f"{path}: a safetensors file, but no training data; give one that save_data_file wrote")
            if metadata.get("schema") != _SCHEMA:
                schema = metadata.get("schema", "")[:20]
                raise ReadError(f"{path}: training data of schema {schema!r}, this version reads {_SCHEMA}; make it again")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        content = json.loads(metadata.get("content", ""))
    except OSError as error:
        raise ResourceError(f"{path}: not readable ({error.strerror or error}); check its permissions") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path}: damaged or no training data ({' '.join(str(error).split())[:200]}); make it again") from None
    if not isinstance(content, dict) or metadata.get("sha256") != _digest(metadata["content"], arrays):
        raise ReadError(f"{path}: the SHA-256 of its content is not the one written with it; make it again")
    return content, arrays


def _digest(content: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
