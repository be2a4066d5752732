"""Zarr chunks that span many frames: decoded once, kept within bounds, and the pixels those of the file in any order of reading."""

from __future__ import annotations

import asyncio
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from r2n2.errors import ReadError, ResourceError
from r2n2.io import read_series


def stored(path: Path, axes: str, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> np.ndarray:
    values = (np.arange(1, 1 + np.prod(shape)).reshape(shape) * 7919 % 60000).astype(np.uint16)
    array = zarr.create_array(path, shape=shape, chunks=chunks, dtype="u2", dimension_names=list(axes.lower()), **options)
    array[:] = values
    return values


def frames_of(values: np.ndarray, axes: str, z: int = 0) -> np.ndarray:
    """(T, Y, X) of one slice position, by numpy alone."""
    if "Z" in axes:
        values, axes = values.take(z, axis=axes.index("Z")), axes.replace("Z", "")
    return values.transpose([axes.index(axis) for axis in "TYX"])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the chunks that are read, in order."""
    keys: list[str] = []
    get = LocalStore.get

    async def noting(self: LocalStore, key: str, *arguments: Any, **named: Any) -> Any:
        if "c/" in key:
            keys.append(key)
        return await get(self, key, *arguments, **named)

    monkeypatch.setattr(LocalStore, "get", noting)
    return keys


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_frame_is_the_file_s_in_any_order(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "a.zarr"
    axes = "".join(data.draw(st.permutations("TYX" if data.draw(st.booleans()) else "TZYX")))
    shape = tuple(data.draw(st.integers(2, 9), label=f"size of {axis}") for axis in axes)
    chunks = tuple(data.draw(st.integers(1, n + 2), label="chunk") for n in shape)
    values = stored(path, axes, shape, chunks)
    budget = data.draw(st.sampled_from([1, 100, 1000, 2**30]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r2n2.io.omezarr.chunks._RUN_BYTES", budget)
        found = read_series(path)
        count = shape[axes.index("T")]
        for index in data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3 * count)):
            z = data.draw(st.integers(0, len(found) - 1))
            np.testing.assert_array_equal(found[z].frame(index)[0], frames_of(values, axes, z)[index])


def test_axes_that_the_caller_names_decide_which_are_frames(tmp_path: Path, reads: list[str]) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (11, 6, 13), (11, 6, 5))
    (series,) = read_series(tmp_path / "a.zarr", axes="YXT")
    for k in range(13):
        np.testing.assert_array_equal(series.frame(k)[0], values[:, :, k])
    assert len(reads) == 3


@pytest.mark.parametrize("outward", [False, True])
def test_a_pass_reads_every_chunk_once(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, outward: bool) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (23, 9, 11), (5, 4, 11))
    # Two runs of five frames and no third.
    monkeypatch.setattr("r2n2.io.omezarr.chunks._RUN_BYTES", 5 * 9 * 11 * 2)
    (series,) = read_series(tmp_path / "a.zarr")
    order = sorted(range(23), key=lambda k: abs(k - 11)) if outward else range(23)
    for _ in range(2):
        reads.clear()
        for k in order:
            np.testing.assert_array_equal(series.frame(k)[0], values[k])
        assert len(reads) >= 3 * 3
        assert len(set(reads)) == len(reads)


def test_a_run_that_memory_does_not_hold_is_cut_into_equal_ones(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path / "a.zarr", "TYX", (12, 9, 11), (12, 3, 2))
    # Five frames would fit: runs of four are as many as runs of five.
    monkeypatch.setattr("r2n2.io.omezarr.chunks._RUN_BYTES", 5 * 9 * 11 * 2)
    (series,) = read_series(tmp_path / "a.zarr")
    for k in range(12):
        reads.clear()
        series.frame(k)
        assert bool(reads) == (k % 4 == 0)


def test_what_is_kept_stays_within_max_bytes(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr", "TYX", (60, 200, 300), (20, 100, 150))
    chunk, limit = 20 * 100 * 150 * 2, 3 * 2**20
    (series,) = read_series(tmp_path / "a.zarr", max_bytes=limit)
    tracemalloc.start()
    try:
        for k in (*range(60), *range(60)):
            series.frame(k)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < limit + 2**19
    # While a run is made, the chunks that are decoded for it, four of them, are there too.
    assert peak < limit + 4 * chunk + 2**20


def test_a_frame_is_not_a_view_of_what_is_kept(tmp_path: Path) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (6, 9, 11), (6, 9, 11))
    (series,) = read_series(tmp_path / "a.zarr")
    frame = series.frame(2)
    frame[:] = 0
    np.testing.assert_array_equal(series.frame(2)[0], values[2])
    assert frame.base is None or frame.base.nbytes == frame.nbytes


def test_a_damaged_chunk_of_many_frames_is_named_for_each_of_them(tmp_path: Path) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (9, 6, 11), (3, 6, 4))
    (tmp_path / "a.zarr" / "c" / "1" / "0" / "2").write_bytes(b"damage")
    (series,) = read_series(tmp_path / "a.zarr")
    for k in range(9):
        if k in (3, 4, 5):
            with pytest.raises(ReadError, match=r"chunk c/1/0/2 is damaged"):
                series.frame(k)
        else:
            np.testing.assert_array_equal(series.frame(k)[0], values[k])


def test_a_chunk_that_memory_does_not_hold_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path / "a.zarr", "TYX", (9, 6, 11), (3, 6, 4))
    (series,) = read_series(tmp_path / "a.zarr")

    async def full(*_: Any, **__: Any) -> Any:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(LocalStore, "get", full)
    with pytest.raises(ResourceError, match=r"not enough memory to decode chunks of \(3, 6, 4\) \(Unable to allocate 9 GiB\)"):
        series.frame(4)


def test_frames_of_a_shard_are_read_one_by_one(tmp_path: Path, reads: list[str]) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (8, 6, 11), (1, 6, 11), shards=(4, 6, 11))
    (series,) = read_series(tmp_path / "a.zarr")
    for k in (0, 7, 3):
        np.testing.assert_array_equal(series.frame(k)[0], values[k])
    assert len(reads) >= 3


def test_threads_that_read_at_once_share_a_run(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    values = stored(tmp_path / "a.zarr", "TYX", (6, 31, 17), (6, 31, 17))
    (series,) = read_series(tmp_path / "a.zarr")
    get = LocalStore.get

    async def slow(self: LocalStore, *arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(0.2)
        return await get(self, *arguments, **named)

    monkeypatch.setattr(LocalStore, "get", slow)
    with ThreadPoolExecutor(6) as pool:
        for k, frame in enumerate(pool.map(series.frame, range(6))):
            np.testing.assert_array_equal(frame[0], values[k])
    assert len(reads) == 1
