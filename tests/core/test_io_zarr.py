from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2n2.errors import ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries

OLD_AXES = [
    {"name": "t", "type": "time", "unit": "millisecond"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def ramp(shape: tuple[int, ...], dtype: Any = np.uint16) -> np.ndarray:
    return (np.arange(1, 1 + np.prod(shape)).reshape(shape) % 1000).astype(dtype)


def foreign(path: Path, array: np.ndarray, version: str = "0.4", zarr_format: int = 2, **changes: Any) -> Path:
    """An OME-Zarr as another program writes it."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    stored = group.create_array("0", shape=array.shape, chunks=(1, *array.shape[1:]), dtype=array.dtype)
    stored[:] = array
    steps = [{"type": "scale", "scale": [40.0, 2000.0, 500.0]}, {"type": "translation", "translation": [0.0, 1000.0, 3000.0]}]
    image = {"axes": OLD_AXES, "datasets": [{"path": "0", "coordinateTransformations": steps}], **changes}
    if zarr_format == 2:
        group.attrs.update({"multiscales": [{**image, "version": version}]})
    else:
        group.attrs.update({"ome": {"version": version, "multiscales": [image]}})
    return path


def ours(folder: Path, version: str = "0.5") -> Path:
    frames = ramp((4, 1, 9, 11))
    series = ImageSeries(frames, Grid((9, 11), (2.0, 0.5)), source={"format": "ome-zarr", "ome_version": version})
    return write_series(folder, "a", series, iter(frames))


@pytest.mark.parametrize(("version", "zarr_format"), [("0.4", 2), ("0.5", 3)])
def test_known_versions(tmp_path: Path, version: str, zarr_format: int) -> None:
    array = ramp((4, 9, 11))
    (series,) = read_series(foreign(tmp_path / "é a.zarr", array, version, zarr_format))
    assert (len(series), series.channels) == (4, 1)
    assert series.grid == Grid((9, 11), (2.0, 0.5), (1.0, 3.0))
    assert series.times_s == pytest.approx((0, 0.04, 0.08, 0.12))
    np.testing.assert_array_equal(series.frame(2)[0], array[2])


@pytest.mark.parametrize(("version", "zarr_format"), [("9.9", 2), ("9.9", 3), ("0.6", 3), ("0.5", 2), ("0.4", 3), ("none", 2)])
def test_unknown_versions_are_refused(tmp_path: Path, version: str, zarr_format: int) -> None:
    with pytest.raises(ReadError, match=rf"OME-Zarr version {version} in Zarr format {zarr_format} is not supported; convert"):
        read_series(foreign(tmp_path / "a.zarr", ramp((4, 9, 11)), version, zarr_format))


def test_no_multiscales_odd_axes_and_odd_transformations(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(ReadError, match="without multiscales"):
        read_series(tmp_path / "a.zarr")
    odd = [{"name": n} for n in ("phase", "y", "x")]
    path = foreign(tmp_path / "b.zarr", ramp((4, 9, 11)), axes=odd)
    with pytest.raises(ReadError, match="pass --axes"):
        read_series(path)
    assert len(read_series(path, axes="TYX")[0]) == 4
    with pytest.raises(ReadError, match="is not a scale or translation of 3 axes"):
        read_series(foreign(tmp_path / "c.zarr", ramp((4, 9, 11)), coordinateTransformations=[{"type": "scale", "scale": [1, 2]}]))


def test_no_unit_is_no_spacing(tmp_path: Path) -> None:
    axes = [{k: v for k, v in axis.items() if k != "unit"} for axis in OLD_AXES]
    (series,) = read_series(foreign(tmp_path / "a.zarr", ramp((4, 9, 11)), axes=axes))
    assert not series.spacing_known
    assert series.times_s is None


def test_bare_arrays(tmp_path: Path) -> None:
    array = ramp((4, 9, 11))
    zarr.create_array(tmp_path / "a.zarr", data=array)
    with pytest.raises(ReadError, match="pass --axes"):
        read_series(tmp_path / "a.zarr")
    (series,) = read_series(tmp_path / "a.zarr", axes="TYX")
    np.testing.assert_array_equal(series.frame(3)[0], array[3])
    zarr.create_array(tmp_path / "b.zarr", data=array, shards=(2, 9, 11), chunks=(1, 9, 11), dimension_names=["t", "y", "x"])
    (series,) = read_series(tmp_path / "b.zarr")
    np.testing.assert_array_equal(series.frame(3)[0], array[3])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_missing_chunk(tmp_path: Path, version: str) -> None:
    path = ours(tmp_path, version)
    key = "0/2/0/0" if version == "0.4" else "0/c/2/0/0"
    (path / key).unlink()
    with pytest.raises(ReadError, match=r"a\.zarr: chunk (c/)?2/0/0 is missing; .*--allow-missing"):
        read_series(path)
    (series,) = read_series(path, allow_missing=True)
    assert series.frame(2).max() == 0
    assert any("1 chunks are missing" in note for note in series.notes)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_corrupt_chunk_is_named(tmp_path: Path, version: str) -> None:
    path = ours(tmp_path, version)
    chunk = path / ("0/2/0/0" if version == "0.4" else "0/c/2/0/0")
    data = bytearray(chunk.read_bytes())
    for where in range(0, len(data), 7):
        chunk.write_bytes(bytes(data[:where]) + bytes([data[where] ^ 0x55]) + bytes(data[where + 1 :]))
        (series,) = read_series(path)
        np.testing.assert_array_equal(series.frame(1), ramp((4, 1, 9, 11))[1])
        with pytest.raises(ReadError, match=r"a\.zarr: chunk (c/)?2/0/0 is damaged"):
            series.frame(2)


@pytest.mark.parametrize("percent", [0, 30, 70, 99])
def test_truncated_chunk(tmp_path: Path, percent: int) -> None:
    path = ours(tmp_path)
    data = (path / "0/c/1/0/0").read_bytes()
    (path / "0/c/1/0/0").write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match="chunk c/1/0/0 is damaged"):
        read_series(path)[0].frame(1)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_killed_writer(tmp_path: Path, version: str) -> None:
    code = f"""
import time
from pathlib import Path
import numpy as np
from r2n2.geometry import Grid
from r2n2.io import write_series
from r2n2.series import ImageSeries
frames = np.ones((3, 1, 9, 11), np.uint8)
def slow():
    yield frames[0]
    yield frames[1]
    print("two", flush=True)
    time.sleep(60)
series = ImageSeries(frames, Grid((9, 11)), source={{"format": "ome-zarr", "ome_version": {version!r}}})
write_series(Path({str(tmp_path)!r}), "a", series, slow())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"two"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".r2n2-tmp-")
    with pytest.raises(ReadError, match="was not finished when it was written"):
        read_series(left)


def test_an_image_outside_the_folder_is_refused(tmp_path: Path) -> None:
    foreign(tmp_path / "secret.zarr", ramp((4, 9, 11)))
    for place in ("../secret.zarr/0", "/etc", ""):
        steps = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        path = foreign(tmp_path / "a.zarr", ramp((4, 9, 11)), datasets=[{"path": place, "coordinateTransformations": steps}])
        with pytest.raises(ReadError, match="outside the folder"):
            read_series(path)


def test_zipped_zarr_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        archive.writestr("../canary", "x")
    with pytest.raises(ReadError, match="archives are not opened; unpack it yourself"):
        read_series(tmp_path / "a.zarr.zip")
    assert not (tmp_path.parent / "canary").exists()


def test_forged_chunk_size(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", ramp((4, 9, 11)))
    metadata = path / "0" / ".zarray"
    metadata.write_text(metadata.read_text().replace("9,", "900000,"))
    with pytest.raises(ResourceError, match="--max-bytes"):
        read_series(path, max_bytes=2**20)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "group", "attributes": 3}']
)
def test_damaged_metadata(tmp_path: Path, content: str) -> None:
    path = ours(tmp_path)
    (path / "zarr.json").write_text(content)
    with pytest.raises(ReadError, match=r"a\.zarr"):
        read_series(path)


def test_complex(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="magnitude"):
        read_series(foreign(tmp_path / "a.zarr", ramp((4, 9, 11), np.complex64)))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    dtype = data.draw(st.sampled_from(["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<f2", "<f4", "<f8"]))
    size = st.integers(1, 7)
    shape = (data.draw(size), data.draw(st.sampled_from([1, 3])), data.draw(size), data.draw(size))
    frames = data.draw(hnp.arrays(np.dtype(dtype), shape))
    spacing = data.draw(st.tuples(*[st.floats(1e-3, 1e3)] * 2))
    times = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=shape[0], max_size=shape[0]).map(tuple))
    c, s = math.cos(0.4), math.sin(0.4)
    grid = Grid(shape[2:], spacing, (1.5, -2.0), ((c, -s), (s, c)))
    patient = None
    if data.draw(st.booleans()):
        patient = Grid((1, *shape[2:]), (4.0, *spacing), (9.0, 1.5, -2.0), ((1, 0, 0), (0, c, -s), (0, s, c)))
    series = ImageSeries(
        frames,
        grid,
        times_s=times,
        patient_grid=patient,
        source={"format": "ome-zarr", "ome_version": data.draw(st.sampled_from(["0.4", "0.5"]))},
    )
    path = write_series(tmp_path_factory.mktemp("round"), "out", series, iter(frames))
    (back,) = read_series(path)
    assert back.source["ome_version"] == series.source["ome_version"]
    assert back.dtype == series.dtype
    assert back.times_s == times
    assert back.patient_grid == patient
    assert back.grid.same_space(grid)
    for t in range(len(series)):
        np.testing.assert_array_equal(back.frame(t), frames[t])
