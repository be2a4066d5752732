from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import describe, read_series, write_series
from r2n2.series import ImageSeries

REAL_TYPES = ["?", "u1", "i1", "<u2", ">i2", "<i4", ">u4", "<i8", "<f2", "<f4", ">f4", "<f8"]


def ramp(shape: tuple[int, ...], dtype: str = "<i2") -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 120).astype(dtype)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_three_axes_are_time_row_column(tmp_path: Path) -> None:
    array = ramp((5, 9, 11))
    (series,) = read_series(save(tmp_path / "a.npy", array))
    assert (len(series), series.channels, series.grid.shape) == (5, 1, (9, 11))
    np.testing.assert_array_equal(series.frame(2)[0], array[2])
    assert not series.spacing_known
    assert "pass --spacing" in series.notes[-1]


@pytest.mark.parametrize("axes", ["TYX", "XYT", "YXT"])
def test_axes_name_the_array_order(tmp_path: Path, axes: str) -> None:
    array = ramp((5, 9, 11))
    given_order = array.transpose(["TYX".index(a) for a in axes])
    (series,) = read_series(save(tmp_path / "a.npy", given_order), axes=axes, spacing=(2.0, 1.5))
    np.testing.assert_array_equal(series.frame(4)[0], array[4])
    assert series.grid.spacing == (2.0, 1.5)


def test_a_slice_axis_gives_one_series_each(tmp_path: Path) -> None:
    array = ramp((5, 3, 9, 11))
    path = save(tmp_path / "a.npy", array)
    every = read_series(path, axes="TZYX")
    assert len(every) == 3
    np.testing.assert_array_equal(every[2].frame(1)[0], array[1, 2])
    (one,) = read_series(path, axes="TZYX", slice_index=1)
    np.testing.assert_array_equal(one.frame(4)[0], array[4, 1])
    with pytest.raises(ArgumentError, match="slice 3 does not exist; the file holds slices 0 to 2"):
        read_series(path, axes="TZYX", slice_index=3)


@pytest.mark.parametrize("dtype", REAL_TYPES)
def test_every_real_type_is_kept(tmp_path: Path, dtype: str) -> None:
    array = ramp((6, 8, 7), dtype)
    (series,) = read_series(save(tmp_path / "a.npy", array))
    assert series.dtype == np.dtype(dtype).newbyteorder("=")
    assert series.frame(3).dtype == series.dtype
    np.testing.assert_array_equal(series.frame(3)[0], array[3])


def test_negative_strides_and_fortran_order(tmp_path: Path) -> None:
    array = ramp((6, 8, 7))
    for k, stored in enumerate([array[::-1, :, ::-1], np.asfortranarray(array)]):
        (series,) = read_series(save(tmp_path / f"{k}.npy", stored))
        np.testing.assert_array_equal(series.frame(1)[0], stored[1])
        assert series.frame(1).flags.c_contiguous


def test_large_integers_keep_their_last_bit(tmp_path: Path) -> None:
    array = np.array([16777216, 16777217], np.int32).reshape(1, 1, 2).repeat(5, 0)
    (series,) = read_series(save(tmp_path / "a.npy", array))
    assert series.frame(0).ravel().tolist() == [16777216, 16777217]


def test_complex_is_refused_with_the_magnitude_offered(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"complex64.*numpy\.abs"):
        read_series(save(tmp_path / "a.npy", np.zeros((6, 5, 7), np.complex64)))


@pytest.mark.parametrize("shape", [(10, 9, 8, 3), (3, 9, 8), (9, 8, 3), (9, 8, 4), (2, 3, 4, 5, 6), (7,)])
def test_what_may_be_colour_is_asked_for(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ReadError, match=r"pass --axes .*YX"):
        read_series(save(tmp_path / "a.npy", ramp(shape)))


def test_channels_are_kept(tmp_path: Path) -> None:
    array = ramp((10, 9, 8, 3), "u1")
    (series,) = read_series(save(tmp_path / "a.npy", array), axes="TYXC")
    assert (len(series), series.channels) == (10, 3)
    np.testing.assert_array_equal(series.frame(6), np.moveaxis(array[6], -1, 0))


@pytest.mark.parametrize("axes", ["TY", "TYXZ", "TTX", "QYX", "", "YXX"])
def test_wrong_axes(tmp_path: Path, axes: str) -> None:
    path = save(tmp_path / "a.npy", ramp((5, 9, 11)))
    if axes == "":
        assert len(read_series(path, axes=axes)) == 1
        return
    with pytest.raises(ArgumentError, match="axes"):
        read_series(path, axes=axes)


@pytest.mark.parametrize("spacing", [(1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0,), (1.0, float("inf"))])
def test_spacing_given_by_the_caller(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="spacing must be 2 or 3 positive finite"):
        read_series(save(tmp_path / "a.npy", ramp((5, 9, 11))), spacing=spacing)


@pytest.mark.parametrize("shape", [(0, 9, 11), (5, 0, 11), (5, 9, 0)])
def test_no_frame_or_no_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ReadError, match="no frame or no pixel"):
        read_series(save(tmp_path / "a.npy", np.zeros(shape)))


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 90, 99])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_truncated(tmp_path: Path, name: str, percent: int) -> None:
    path = tmp_path / name
    np.save(path, ramp((5, 9, 11))) if name == "a.npy" else np.savez(path, array=ramp((5, 9, 11)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=name):
        read_series(path)


def test_forged_shape(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", ramp((5, 9, 11)))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(5, 9, 11), }   ", b"(5, 9999, 11), }"))
    with pytest.raises(ReadError, match="declares 1099890 bytes of pixels and the file holds 990"):
        read_series(path)


def test_npz_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, array=np.zeros((100, 512, 512), np.uint8))
    with pytest.raises(ResourceError, match=r"25 MiB would have to be held in memory, 1 MiB are allowed; raise --max-bytes"):
        read_series(path, max_bytes=2**20)


def test_npy_larger_than_the_limit_is_mapped(tmp_path: Path) -> None:
    (series,) = read_series(save(tmp_path / "a.npy", ramp((5, 90, 110))), max_bytes=100)
    assert series.frame(4)[0, 0, 0] == ramp((5, 90, 110))[4, 0, 0]


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object))
    np.savez(tmp_path / "a.npz", array=np.array([{"a": 1}, None], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ReadError, match="pixels must be numbers, got object"):
            read_series(tmp_path / name)


def test_npz_of_unknown_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels=ramp((5, 9, 11)), more=ramp((6, 9, 11)), spacing=(2.0, 0.5))
    with pytest.raises(ReadError, match="holds several arrays; pass --series with the name of one of pixels, more"):
        read_series(tmp_path / "a.npz")
    with pytest.raises(ArgumentError, match="--series 'other' is none of its arrays; choose one of pixels, more"):
        read_series(tmp_path / "a.npz", series="other")
    assert describe(tmp_path / "a.npz", series="more")[0].frames == 6
    (series,) = read_series(tmp_path / "a.npz", series="more")
    assert (len(series), series.grid.spacing) == (6, (2.0, 0.5))
    np.savez(tmp_path / "b.npz", pixels=ramp((5, 9, 11)), labels=ramp((4,)))
    assert len(read_series(tmp_path / "b.npz")[0]) == 5


def test_npz_keys_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=ramp((9, 11, 5)), axes="YXT", spacing=(2.0, 0.5), times_s=np.arange(5) * 0.1)
    (series,) = read_series(tmp_path / "a.npz")
    assert series.grid == Grid((9, 11), (2.0, 0.5))
    assert series.times_s == tuple(np.arange(5) * 0.1)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("round")
    kind = data.draw(st.sampled_from(["npy", "npz"]))
    dtype = data.draw(st.sampled_from(REAL_TYPES))
    shape = (
        data.draw(st.integers(1, 4)),
        data.draw(st.sampled_from([1, 3])),
        data.draw(st.integers(5, 9)),
        data.draw(st.integers(5, 9)),
    )
    frames = data.draw(hnp.arrays(np.dtype(dtype), shape))
    spacing = data.draw(st.tuples(*[st.floats(1e-3, 1e3)] * 2))
    times = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=shape[0], max_size=shape[0]).map(tuple))
    series = ImageSeries(frames, Grid(shape[2:], spacing, (1.5, -2.0), ((0, -1), (1, 0))), times_s=times, source={"format": kind})
    path = write_series(folder, "out", series, iter([series.frame(t) for t in range(len(series))]))
    assert path.suffix == f".{kind}"
    axes = None if kind == "npz" else "TYX" if shape[1] == 1 else "TCYX"
    (back,) = read_series(path, axes=axes)
    assert back.dtype == series.dtype.newbyteorder("=")
    for t in range(len(series)):
        np.testing.assert_array_equal(back.frame(t), series.frame(t))
    if kind == "npz":
        assert back.grid == series.grid
        assert back.times_s == times


def test_npz_keeps_the_place_in_the_patient(tmp_path: Path) -> None:
    frames = ramp((6, 1, 5, 7))
    patient = Grid((1, 5, 7), (8.0, 2.0, 0.5), (10.0, 20.0, 30.0), ((0, -1, 0), (1, 0, 0), (0, 0, 1)))
    series = ImageSeries(frames, Grid((5, 7), (2.0, 0.5)), patient_grid=patient, source={"format": "npz"})
    (back,) = read_series(write_series(tmp_path, "out", series, iter(frames)))
    assert (back.grid, back.patient_grid) == (series.grid, patient)


def test_wrong_frames_are_not_written(tmp_path: Path) -> None:
    series = ImageSeries(ramp((3, 1, 5, 7)), Grid((5, 7)), source={"format": "npy"})
    frame = series.frame(0)
    for frames, words in [
        ([frame] * 2, "2 frames were given, the series has 3"),
        ([frame] * 4, "more frames than the 3"),
        ([frame[:, :4]] * 3, r"frame 0 must be int16 of shape \(1, 5, 7\)"),
        ([frame.astype(np.float32)] * 3, "frame 0 must be int16"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            write_series(tmp_path, "out", series, iter(frames))
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArgumentError, match="reserved"):
        write_series(tmp_path, "CON", replace(series), iter([]))


def test_an_npz_member_with_a_path_is_not_extracted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", array=ramp((5, 9, 11)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("../canary.npy", b"x")
    read_series(tmp_path / "a.npz")
    assert not (tmp_path.parent / "canary.npy").exists()


def test_real_molli(real_data: Path) -> None:
    path = real_data / "mdreg-abdomen" / "MOLLI.npz"
    with pytest.raises(ReadError, match="pass --axes"):
        read_series(path)
    first, second = read_series(path, axes="XYZT")
    stored = np.load(path)["array"]
    np.testing.assert_array_equal(second.frame(6)[0], stored[:, :, 1, 6].T)
    assert len(first) == 8
    assert first.grid.spacing == (1.5, 1.5)
    assert any("may have wrapped" in note for note in first.notes)
