"""A Zarr array of which a chunk that spans many frames is decoded once for a run of them, and a chunk that is damaged is named.

A run is the frames of one chunk along time, or as many of them as the memory set aside for it holds. The last runs are kept, so
that a pass over the series decodes each chunk once, and so does one that goes outward from a frame.
"""

from __future__ import annotations

import itertools
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError, ResourceError

__all__ = ["ChunkRuns"]

_RUN_BYTES = 128 * 2**20
_KEPT_RUNS = 2


class ChunkRuns:
    """Reads like the array itself, by a tuple of integers and slices, one for each axis.

    Parameters
    ----------
    path
        What to call it in messages.
    array
        The Zarr array.
    time_axis
        Which of its axes counts the frames, or None: then nothing is kept.
    max_bytes
        Most bytes to keep. A run has at most 128 MiB, or those of a chunk where that is larger, for it has to be decoded anyway;
        two runs are kept where both fit.
    """

    def __init__(self, path: Path, array: Any, time_axis: int | None, max_bytes: int) -> None:
        self._path = path
        self._array = array
        self._time_axis = time_axis
        chunk_bytes = math.prod(array.chunks) * self.dtype.itemsize
        self._run_bytes = min(max_bytes, max(_RUN_BYTES, chunk_bytes))
        self._kept_bytes = min(max_bytes, max(_KEPT_RUNS * _RUN_BYTES, chunk_bytes))
        self._runs: dict[tuple[int, str], NDArray[Any]] = {}
        # Frames may be asked for by several threads, as a viewer does.
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return tuple(int(n) for n in self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored."""
        return np.dtype(self._array.dtype)

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        axis = self._time_axis
        if axis is None or not isinstance(where[axis], (int, np.integer)):
            return self._read(where)
        run = self._run_around(int(where[axis]), where, axis)
        if len(run) == 1:
            return self._read(where)
        with self._lock:
            frames = self._frames(run, where, axis)
            # A copy: a view would hold on to the whole run.
            return np.array(frames[int(where[axis]) - run.start])

    def _run_around(self, frame: int, where: tuple[Any, ...], axis: int) -> range:
        """The frames that are read together with one of them."""
        sizes = [len(range(*part.indices(n))) for part, n in zip(where, self.shape, strict=True) if isinstance(part, slice)]
        chunk = int(self._array.chunks[axis])
        fitting = max(1, self._run_bytes // max(1, math.prod(sizes) * self.dtype.itemsize))
        # Of equal length, for the chunk is decoded anew for each of them.
        length = math.ceil(chunk / math.ceil(chunk / fitting))
        first = frame // chunk * chunk
        start = first + (frame - first) // length * length
        return range(start, min(start + length, first + chunk, self.shape[axis]))

    def _frames(self, run: range, where: tuple[Any, ...], axis: int) -> NDArray[Any]:
        """The run's frames, the time axis first."""
        whole = (*where[:axis], slice(run.start, run.stop), *where[axis + 1 :])
        key = (run.start, repr((*where[:axis], *where[axis + 1 :])))
        frames = self._runs.pop(key, None)
        if frames is None:
            # Room is made before it is read, for the largest that it may be.
            while len(self._runs) >= _KEPT_RUNS or self._crowded():
                del self._runs[next(iter(self._runs))]
            before = sum(isinstance(part, slice) for part in where[:axis])
            frames = np.moveaxis(self._read(whole), before, 0)
        # Back at the end: the one that was not asked for longest goes first.
        self._runs[key] = frames
        return frames

    def _crowded(self) -> bool:
        kept = sum(frames.nbytes for frames in self._runs.values())
        return bool(self._runs) and kept + self._run_bytes > self._kept_bytes

    def _read(self, where: tuple[Any, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self._array[where])
        except MemoryError as error:
            raise ResourceError(
                f"{self._path}: not enough memory to decode chunks of {self._array.chunks} ({error}); "
                "free some memory or write it anew with smaller chunks"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise ReadError(f"{self._path}: chunk {self._culprit(where)} is damaged ({reason}); get an intact copy") from error

    def _culprit(self, where: tuple[Any, ...]) -> str:
        chunks = self._array.shards or self._array.chunks
        ranges = []
        for part, size, chunk in zip(where, self.shape, chunks, strict=True):
            asked = range(*part.indices(size)) if isinstance(part, slice) else range(part, part + 1)
            ranges.append(range(asked.start // chunk, (asked.stop - 1) // chunk + 1))
        for place in itertools.product(*ranges):
            try:
                self._array[tuple(slice(k * c, (k + 1) * c) for k, c in zip(place, chunks, strict=True))]
            except Exception:
                return str(self._array.metadata.encode_chunk_key(place))
        return "unknown"
