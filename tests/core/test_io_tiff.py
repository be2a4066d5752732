from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries


def ramp(shape: tuple[int, ...], dtype: Any = np.uint16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 1000).astype(dtype)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


KINDS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "metadata": {"axes": "TYX"}},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    "bigtiff": {"bigtiff": True, "metadata": {"axes": "TYX"}},
    "packed": {"compression": "zlib", "metadata": {"axes": "TYX"}},
    "plain": {"metadata": None},
    "one by one": {"metadata": None, "contiguous": False},
    "big endian": {"metadata": None, "byteorder": ">"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_frames(tmp_path: Path, kind: str) -> None:
    array = ramp((5, 9, 11))
    path = save(tmp_path / "é a.tif", array, photometric="minisblack", **KINDS[kind])
    if KINDS[kind]["metadata"] is None:
        with pytest.raises(ReadError, match="its 5 pages may be time or slices; pass --axes TYX for a series or --axes ZYX"):
            read_series(path)
        (series,) = read_series(path, axes="TYX")
    else:
        (series,) = read_series(path)
    assert (len(series), series.channels, series.dtype) == (5, 1, np.uint16)
    for t in (4, 0, 2):
        np.testing.assert_array_equal(series.frame(t)[0], array[t])


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (4, 9, 11)), ("ZYX", (4, 9, 11)), ("TZCYX", (3, 2, 4, 9, 11))])
def test_channels_and_slices_are_never_time(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    array = ramp(shape)
    path = save(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes})
    every = read_series(path, axes="ZYX" if axes == "ZYX" else None)
    size = dict(zip(axes, shape, strict=True))
    assert len(every) == size.get("Z", 1)
    assert [(len(s), s.channels) for s in every] == [(size.get("T", 1), size.get("C", 1))] * len(every)
    last = array[-1] if axes != "CYX" else array
    last = last[-1] if axes == "TZCYX" else last
    np.testing.assert_array_equal(every[-1].frame(len(every[-1]) - 1), last.reshape(-1, 9, 11))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour(tmp_path: Path, compression: str | None) -> None:
    array = ramp((5, 9, 11, 3), np.uint8)
    path = save(tmp_path / "a.tif", array, photometric="rgb", compression=compression, metadata={"axes": "TYXS"})
    (series,) = read_series(path)
    assert (len(series), series.channels) == (5, 3)
    np.testing.assert_array_equal(series.frame(3), np.moveaxis(array[3], -1, 0))
    with pytest.raises(ReadError, match="pass --axes"):
        read_series(save(tmp_path / "b.tif", array, photometric="rgb", metadata=None))


@pytest.mark.parametrize(
    ("unit", "mm"), [("mm", 1), ("micron", 1e-3), ("um", 1e-3), ("cm", 10), ("inch", 25.4), ("pixel", None), ("furlong", None)]
)
def test_imagej_units(tmp_path: Path, unit: str, mm: float | None) -> None:
    path = save(
        tmp_path / "a.tif",
        ramp((5, 9, 11)),
        imagej=True,
        resolution=(4.0, 0.5),
        metadata={"axes": "TYX", "unit": unit, "finterval": 0.25},
    )
    (series,) = read_series(path)
    assert series.spacing_known is (mm is not None)
    assert series.grid.spacing == pytest.approx((2 * mm, 0.25 * mm) if mm else (1, 1))
    assert series.times_s == (0, 0.25, 0.5, 0.75, 1.0)


def test_ome_units_and_times(tmp_path: Path) -> None:
    metadata = {"axes": "TYX", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.2, "PhysicalSizeYUnit": "cm"}
    regular = {**metadata, "TimeIncrement": 40.0, "TimeIncrementUnit": "ms"}
    (series,) = read_series(save(tmp_path / "a.ome.tif", ramp((3, 9, 11)), metadata=regular))
    assert series.grid.spacing == pytest.approx((2.0, 0.5))
    assert series.times_s == pytest.approx((0, 0.04, 0.08))
    uneven = {**metadata, "Plane": {"DeltaT": [0.0, 0.5, 2.0]}}
    (series,) = read_series(save(tmp_path / "b.ome.tif", ramp((3, 9, 11)), metadata=uneven))
    assert series.times_s == (0, 0.5, 2)


@pytest.mark.parametrize(
    ("unit", "resolution", "spacing"),
    [("CENTIMETER", (20.0, 5.0), (2.0, 0.5)), ("INCH", (72.0, 72.0), None), ("NONE", (3.0, 3.0), None)],
)
def test_resolution_tags(tmp_path: Path, unit: str, resolution: tuple[float, float], spacing: tuple[float, float] | None) -> None:
    path = save(tmp_path / "a.tif", ramp((5, 9, 11)), metadata=None, resolution=resolution, resolutionunit=unit)
    (series,) = read_series(path, axes="TYX")
    assert series.spacing_known is (spacing is not None)
    assert series.grid.spacing == pytest.approx(spacing or (1, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [0, 1, 10, 30, 50, 75, 90, 97])
def test_truncated(tmp_path: Path, kind: str, percent: int) -> None:
    noise = np.random.default_rng(0).integers(0, 9999, (10, 31, 30)).astype(np.uint16)
    if kind == "one by one":
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for page in noise:
                writer.write(page, contiguous=False, metadata=None)
    else:
        save(tmp_path / "a.tif", noise, photometric="minisblack", **KINDS[kind])
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=r"a\.tif"):
        read_series(tmp_path / "a.tif", axes="TYX")


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*", b"II+\0"])
def test_junk_with_a_valid_magic(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(magic + np.random.default_rng(0).bytes(2000))
    with pytest.raises(ReadError, match=r"a\.tif"):
        read_series(tmp_path / "a.tif", axes="TYX")


def test_flipped_bytes_never_escape(tmp_path: Path) -> None:
    data = save(tmp_path / "a.tif", ramp((5, 9, 11)), compression="zlib", metadata={"axes": "TYX"}).read_bytes()
    for where in np.random.default_rng(1).integers(4, len(data), 150):
        (tmp_path / "b.tif").write_bytes(data[:where] + bytes([data[where] ^ 0x41]) + data[where + 1 :])
        try:
            for series in read_series(tmp_path / "b.tif", axes="TYX"):
                series.frame(len(series) - 1)
        except (ReadError, ValueError, RuntimeError) as error:
            assert "b.tif" in str(error)  # noqa: PT017 - either a clear error or a readable file


def test_the_log_of_tifffile_is_left_as_it_was(tmp_path: Path) -> None:
    before = list(logging.getLogger("tifffile").handlers)
    test_junk_with_a_valid_magic(tmp_path, b"II*\0")
    assert logging.getLogger("tifffile").handlers == before


@pytest.mark.parametrize("kind", ["imagej", "ome-tiff", "tiff"])
@pytest.mark.parametrize(("dtype", "held"), [("?", "?"), ("f2", "f4"), ("i8", "i8"), ("u8", "u8")])
def test_types_that_ome_lacks_are_written(tmp_path: Path, kind: str, dtype: str, held: str) -> None:
    frames = (ramp((5, 1, 9, 11)) % 2).astype(dtype)
    path = write_series(tmp_path, "out", ImageSeries(frames, Grid((9, 11), (2.0, 0.5)), source={"format": kind}), iter(frames))
    (back,) = read_series(path, axes="TYX")
    assert back.dtype == np.dtype(held)
    assert back.grid.spacing == pytest.approx((2.0, 0.5))
    np.testing.assert_array_equal(back.frame(4), frames[4])


def test_a_series_can_be_sent_to_another_process(tmp_path: Path) -> None:
    (series,) = read_series(save(tmp_path / "a.tif", ramp((5, 9, 11)), **KINDS["packed"]))
    again = pickle.loads(pickle.dumps(series))
    np.testing.assert_array_equal(again.frame(3), series.frame(3))


def test_types(tmp_path: Path) -> None:
    for dtype in ("i1", "i2", "u4", "i4", "f2", "f4", "f8"):
        array = ramp((5, 9, 11), dtype)
        (series,) = read_series(save(tmp_path / "a.tif", array, metadata={"axes": "TYX"}))
        assert series.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(series.frame(4)[0], array[4])
    with pytest.raises(ReadError, match="magnitude"):
        read_series(save(tmp_path / "c.tif", np.zeros((5, 9, 11), np.complex64), metadata={"axes": "TYX"}))


def test_ome_entities_are_refused(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'
    )
    save(tmp_path / "a.ome.tif", ramp((9, 11)), description=text, metadata=None)
    with pytest.raises(ReadError, match="entities"):
        read_series(tmp_path / "a.ome.tif")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = data.draw(st.sampled_from(["imagej", "ome-tiff", "tiff"]))
    dtype = data.draw(
        st.sampled_from(["u1", "<u2", "<f4"] if kind == "imagej" else ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8"])
    )
    size = st.integers(2, 7)
    shape = (data.draw(size), data.draw(st.sampled_from([1, 2, 3])), data.draw(size), data.draw(size))
    frames = data.draw(hnp.arrays(np.dtype(dtype), shape))
    spacing = data.draw(st.tuples(*[st.floats(1e-2, 1e2)] * 2))
    times = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=shape[0], max_size=shape[0]).map(tuple))
    if data.draw(st.booleans()):
        times = tuple(0.25 * k for k in range(shape[0]))
    known = data.draw(st.booleans())
    series = ImageSeries(
        frames, Grid(shape[2:], spacing if known else ()), times_s=times, spacing_known=known, source={"format": kind}
    )
    path = write_series(tmp_path_factory.mktemp("round"), "out", series, iter(frames))
    (back,) = read_series(path)
    assert back.dtype == series.dtype
    assert back.spacing_known is known
    assert back.grid.spacing == pytest.approx(series.grid.spacing, rel=1e-6)
    assert back.times_s == (None if times is None else pytest.approx(times))
    for t in range(len(series)):
        np.testing.assert_array_equal(back.frame(t), frames[t])
    if kind == "imagej" and (times is None or times[:2] == (0, 0.25)):
        assert back.source["format"] == "imagej"
