"""Whether the chunks of a Zarr array are there and are what they say of themselves, before any is decoded."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.checks import check_dtype, check_memory

__all__ = ["check_chunks"]

_MOST_CHUNKS = 2_000_000
_BLOSC_HEADER = 16


def check_chunks(path: Path, place: Path, array: Any, max_bytes: int, allow_missing: bool) -> tuple[str, ...]:
    """A note where chunks are missing and may be.

    Raises
    ------
    ReadError
        If there are too many, one is missing that may not be, or one is not what it says of itself.
    ResourceError
        If one needs more than ``max_bytes``.
    """
    check_dtype(path, array.dtype)
    chunks = tuple(array.shards or array.chunks)
    check_memory(path, math.prod(array.chunks) * np.dtype(array.dtype).itemsize, max_bytes)
    count = math.prod(-(-n // c) for n, c in zip(array.shape, chunks, strict=True))
    if count > _MOST_CHUNKS:
        raise ReadError(
            f"{path}: declares {count} chunks for its shape {array.shape}; the metadata is forged, or write larger chunks"
        )
    blosc = _blosc_bytes(array)
    missing, first = 0, ""
    # Zarr gives the fill value for a chunk that is not there, without a word.
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True))):
        key = str(array.metadata.encode_chunk_key(index))
        if (place / key).is_file():
            if blosc:
                _check_blosc(path, place / key, key, blosc)
            continue
        if not allow_missing:
            raise ReadError(
                f"{path}: chunk {key} is missing; get a complete copy, "
                "or pass --allow-missing where the writer leaves empty chunks out"
            )
        missing, first = missing + 1, first or key
    if missing == count:
        raise ReadError(f"{path}: holds none of its {count} chunks; get a complete copy")
    return (f"{missing} chunks are missing, {first} first: they count as {array.fill_value}",) if missing else ()


def _blosc_bytes(array: Any) -> int:
    """Bytes of a chunk of an array that Blosc alone packs, else 0."""
    packed = [type(codec).__name__.lower().startswith("blosc") for codec in array.compressors]
    if packed != [True] or array.filters or array.shards:
        return 0
    return int(math.prod(array.chunks)) * np.dtype(array.dtype).itemsize


def _check_blosc(path: Path, file: Path, key: str, unpacked: int) -> None:
    """Refuse a chunk whose header declares other sizes: its decoder believes them and ends the process."""
    with file.open("rb") as chunk:
        start = chunk.read(_BLOSC_HEADER)
    declared, block, packed = (int.from_bytes(start[place : place + 4], "little") for place in (4, 8, 12))
    if len(start) < _BLOSC_HEADER or packed != file.stat().st_size or declared != unpacked or block > max(declared, 1):
        raise ReadError(
            f"{path}: chunk {key} is damaged (its header declares {packed} packed bytes and {declared} bytes of pixels, "
            f"expected {file.stat().st_size} and {unpacked}); get an intact copy"
        )
