from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2n2.errors import ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries

AFFINE = np.array([[-0.5, 0, 0, 30], [0, -2.0, 0, -20], [0, 0, 8.0, 7], [0, 0, 0, 1]])


def ramp(shape: tuple[int, ...], dtype: Any = "<i2") -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 1000).astype(dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = AFFINE, change: Callable[[Any], None] | None = None) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    if change is not None:
        change(image.header)
    nib.save(image, path)
    return path


def edit(path: Path, **fields: Any) -> Path:
    """Change header fields of an uncompressed file in place, without nibabel's own mending."""
    data = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(data[348:]))
    return path


@pytest.mark.parametrize("name", ["a.nii", "é a.nii.gz"])
def test_four_axes_one_series_for_each_slice(tmp_path: Path, name: str) -> None:
    array = ramp((11, 9, 3, 5))

    def step(header: Any) -> None:
        header["pixdim"][4] = 0.25
        header["toffset"] = 2.0

    every = read_series(save(tmp_path / name, array, change=step))
    assert [len(s) for s in every] == [5] * 3
    np.testing.assert_array_equal(every[2].frame(4)[0], array[:, :, 2, 4].T)
    assert every[1].grid == Grid((9, 11), (2.0, 0.5), (20.0, -30.0))  # LPS = -RAS in x and y
    assert every[1].patient_grid == Grid((1, 9, 11), (8.0, 2.0, 0.5), (15.0, 20.0, -30.0))
    assert every[0].times_s == (2.0, 2.25, 2.5, 2.75, 3.0)


def test_one_slice_over_time_and_a_single_picture(tmp_path: Path) -> None:
    (series,) = read_series(save(tmp_path / "a.nii", ramp((11, 9, 1, 5))))
    assert (len(series), series.grid.shape) == (5, (9, 11))
    assert len(read_series(tmp_path / "a.nii", axes="TYX")[0]) == 5
    (single,) = read_series(save(tmp_path / "b.nii", ramp((11, 9, 1))))
    assert len(single) == 1


@pytest.mark.parametrize(("unit", "factor"), [("sec", 1.0), ("msec", 1e-3), ("usec", 1e-6)])
def test_units_of_time_and_length(tmp_path: Path, unit: str, factor: float) -> None:
    def change(header: Any) -> None:
        header.set_xyzt_units("micron", unit)
        header["pixdim"][4] = 40

    (series,) = read_series(save(tmp_path / "a.nii", ramp((11, 9, 1, 3)), change=change))
    assert series.times_s == pytest.approx((0, 40 * factor, 80 * factor))
    assert series.grid.spacing == pytest.approx((2e-3, 5e-4))
    assert series.patient_grid is not None
    assert series.patient_grid.origin == pytest.approx((7e-3, 20e-3, -30e-3))


def test_three_axes_are_asked_for(tmp_path: Path) -> None:
    array = ramp((11, 9, 5))
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(ReadError, match=r"a\.nii: its third axis of 5 may be time or slices; pass --axes TYX"):
        read_series(path)
    (series,) = read_series(path, axes="TYX")
    np.testing.assert_array_equal(series.frame(3)[0], array[:, :, 3].T)
    assert series.grid == Grid((9, 11), (2.0, 0.5), (20.0, -30.0))
    assert series.patient_grid is None
    assert [len(s) for s in read_series(path, axes="ZYX")] == [1] * 5


def test_oblique_slices_are_in_plane(tmp_path: Path) -> None:
    c, s = math.cos(0.5), math.sin(0.5)
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    (series,) = read_series(save(tmp_path / "a.nii", ramp((11, 9, 1, 5)), tilt @ AFFINE))
    assert series.grid.origin == (0.0, 0.0)
    assert series.grid.direction == ((1.0, 0.0), (0.0, 1.0))
    assert series.patient_grid is not None
    far = (tilt @ AFFINE @ [10, 8, 0, 1])[:3] * [-1, -1, 1]
    got = np.array(series.patient_grid.origin) + np.array(series.patient_grid.direction) @ (
        np.array(series.patient_grid.spacing) * [0, 8, 10]
    )
    assert got[::-1] == pytest.approx(far, abs=1e-4)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("percent", [*range(0, 100, 9), 99])
def test_truncated(tmp_path: Path, name: str, percent: int) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (31, 30, 1, 5)).astype(np.int16)
    path = save(tmp_path / name, noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=r"a\.nii"):
        read_series(path)


def test_flipped_byte_in_a_packed_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (31, 30, 1, 5)).astype(np.int16)
    data = save(tmp_path / "a.nii.gz", noise).read_bytes()
    refused = 0
    for where in np.random.default_rng(1).integers(0, len(data), 200):
        (tmp_path / "b.nii.gz").write_bytes(data[:where] + bytes([data[where] ^ 0x10]) + data[where + 1 :])
        try:
            (series,) = read_series(tmp_path / "b.nii.gz")
        except ReadError:
            refused += 1
        else:
            np.testing.assert_array_equal(np.stack([series.frame(t)[0] for t in range(5)]), noise[:, :, 0].T)
    assert refused > 180


def test_forged_dimensions(tmp_path: Path) -> None:
    path = edit(save(tmp_path / "a.nii", ramp((11, 9, 1, 5))), dim=[4, 32767, 32767, 1, 100, 1, 1, 1])
    with pytest.raises(ReadError, match="truncated or forged, the header declares 214735257800 bytes"):
        read_series(path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ReadError, match="truncated or forged"):
        read_series(tmp_path / "a.nii.gz")
    for dim in ([0, 11, 9, 1, 5, 1, 1, 1], [9, 11, 9, 1, 5, 1, 1, 1], [4, -11, 9, 1, 5, 1, 1, 1]):
        with pytest.raises(ReadError, match="header is damaged"):
            read_series(edit(path, dim=dim))


def test_gzip_bomb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp((11, 9, 1, 5)))
    edit(path, dim=[4, 1000, 1000, 1, 20, 1, 1, 1])
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes() + bytes(40_000_000), 1))
    with pytest.raises(ResourceError, match="38 MiB would have to be held in memory, 10 MiB are allowed"):
        read_series(tmp_path / "a.nii.gz", max_bytes=10 * 2**20)
    small = save(tmp_path / "b.nii", ramp((11, 9, 1, 5)))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(small.read_bytes() + bytes(40_000_000), 1))
    with pytest.raises(ReadError, match="more than 1 MiB after the pixels"):
        read_series(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(("pixdim", "known"), [(0.0, False), (math.nan, False), (-2.0, True), (2.0, True)])
@pytest.mark.parametrize("qform", [0, 1])
def test_pixdim(tmp_path: Path, pixdim: float, known: bool, qform: int) -> None:
    array = ramp((11, 9, 1, 5))
    path = save(tmp_path / "a.nii", array)
    values = [1.0, 0.5, pixdim, 8.0, 1.0, 0, 0, 0]
    (series,) = read_series(edit(path, pixdim=values, sform_code=0, qform_code=qform))
    np.testing.assert_array_equal(series.frame(3)[0], array[:, :, 0, 3].T)
    assert series.spacing_known is known
    assert series.grid.spacing[0] == (2.0 if known else 1.0)
    words = "pass --spacing" if not known else "is negative" if pixdim < 0 else ""
    assert not words or any(words in note for note in series.notes)


@pytest.mark.parametrize("slope", [math.nan, 0.0])
def test_no_slope(tmp_path: Path, slope: float) -> None:
    array = ramp((11, 9, 1, 5))
    (series,) = read_series(edit(save(tmp_path / "a.nii", array), scl_slope=slope))
    np.testing.assert_array_equal(series.frame(2)[0], array[:, :, 0, 2].T)
    assert any(note.startswith("scl_slope is") for note in series.notes)


@pytest.mark.parametrize(
    ("stored", "slope", "inter", "dtype"),
    [
        ("<i2", 1, -1024, np.int32),
        ("u1", 2, 0, np.int16),
        ("<i2", 0.5, 3, np.float32),
        ("<f8", 0.5, 3, np.float64),
        ("u1", 257, 0, np.uint16),
    ],
)
def test_real_slopes_give_real_values(tmp_path: Path, stored: str, slope: float, inter: float, dtype: Any) -> None:
    array = ramp((11, 9, 1, 5), stored)
    (series,) = read_series(edit(save(tmp_path / "a.nii", array), scl_slope=slope, scl_inter=inter))
    assert series.dtype == dtype
    np.testing.assert_array_equal(series.frame(4)[0], (array[:, :, 0, 4].T * np.float64(slope) + inter).astype(dtype))


def test_affines(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 5

    def disagree(header: Any) -> None:
        header.set_sform(moved, 1)
        header.set_qform(AFFINE, 1)

    (series,) = read_series(save(tmp_path / "a.nii", ramp((11, 9, 1, 5)), None, disagree))
    assert series.grid.origin == (20.0, -35.0)
    assert any(note.startswith("qform and sform disagree by up to ") for note in series.notes)
    singular = save(tmp_path / "b.nii", ramp((11, 9, 1, 5)))
    with pytest.raises(ReadError, match="singular"):
        read_series(edit(singular, srow_x=[0, 0, 0, 0]))
    sheared = save(tmp_path / "c.nii", ramp((11, 9, 1, 5)))
    with pytest.raises(ReadError, match="sheared"):
        read_series(edit(sheared, srow_x=[-0.5, 1, 0, 0]))


def test_no_frame(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no frame or no pixel"):
        read_series(edit(save(tmp_path / "a.nii", ramp((11, 9, 1, 5))), dim=[4, 11, 9, 1, 0, 1, 1, 1]))


def test_complex(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"complex64.*magnitude"):
        read_series(save(tmp_path / "a.nii", np.zeros((11, 9, 1, 5), np.complex64)))


def test_big_endian(tmp_path: Path) -> None:
    array = ramp((11, 9, 1, 5))
    image = nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii")
    (series,) = read_series(tmp_path / "a.nii")
    assert series.frame(0).dtype.isnative
    np.testing.assert_array_equal(series.frame(2)[0], array[:, :, 0, 2].T)


def test_colour(tmp_path: Path) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    array = np.random.default_rng(0).integers(0, 255, (11, 9, 1, 5, 3)).astype(np.uint8)
    for name in ("a.nii", "a.nii.gz"):
        (series,) = read_series(save(tmp_path / name, array.view(rgb)[..., 0]))
        assert (len(series), series.channels) == (5, 3)
        np.testing.assert_array_equal(series.frame(3), array[:, :, 0, 3].transpose(2, 1, 0))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    dtype = data.draw(st.sampled_from(["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<f4", "<f8"]))
    size = st.integers(1, 7)
    shape = (data.draw(size), data.draw(st.sampled_from([1, 2, 3])), data.draw(size), data.draw(size))
    frames = data.draw(hnp.arrays(np.dtype(dtype), shape))
    spacing = data.draw(st.tuples(*[st.floats(1e-3, 1e3)] * 2))
    times = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=shape[0], max_size=shape[0]).map(tuple))
    angle = data.draw(st.floats(-3, 3))
    c, s = math.cos(angle), math.sin(angle)
    patient = Grid((1, *shape[2:]), (4.0, *spacing), (9.0, 1.5, -2.0), ((c, 0, -s), (0, 1, 0), (s, 0, c)))
    axial = data.draw(st.booleans())
    if axial:
        patient = Grid((1, *shape[2:]), (4.0, *spacing), (9.0, 1.5, -2.0), ((1, 0, 0), (0, c, -s), (0, s, c)))
    codes = {"sform_code": data.draw(st.sampled_from([1, 2])), "qform_code": 1}
    path = data.draw(st.sampled_from(["in.nii", "in.nii.gz"]))
    series = ImageSeries(
        frames,
        Grid(shape[2:], spacing),
        times_s=times,
        patient_grid=patient,
        spacing_known=data.draw(st.booleans()),
        source={"format": "nifti", "path": path, **codes},
    )
    written = write_series(tmp_path_factory.mktemp("round"), "out", series, iter(frames))
    assert written.name == path.replace("in", "out")
    (back,) = read_series(written)
    assert back.dtype == series.dtype
    assert back.times_s == times
    assert back.spacing_known == series.spacing_known
    assert back.patient_grid is not None
    assert back.patient_grid.spacing == pytest.approx(patient.spacing, rel=1e-6)
    assert np.allclose(back.patient_grid.origin, patient.origin, atol=1e-5)
    assert np.allclose(back.patient_grid.direction, patient.direction, atol=1e-5)
    assert {k: back.source[k] for k in codes} == codes
    for t in range(len(series)):
        np.testing.assert_array_equal(back.frame(t), frames[t])
    image = nib.load(written)  # another reader agrees
    assert image.shape[:4] == (shape[3], shape[2], 1, shape[0])
    if shape[1] == 1:
        np.testing.assert_array_equal(np.asanyarray(image.dataobj)[:, :, 0].T, frames[:, 0])


def test_real_volume(real_data: Path) -> None:
    path = real_data / "tcia-4dlung-103" / "LungCT_0103_0005.nii.gz"
    slices = read_series(path, axes="ZYX", slice_index=40)
    image = nib.load(path)
    np.testing.assert_array_equal(slices[0].frame(0)[0], np.asanyarray(image.dataobj)[:, :, 40].T)
    assert slices[0].grid.spacing == pytest.approx((1.984252, 2.1574802))
    assert slices[0].patient_grid is not None
    ras = image.affine @ [0, 0, 40, 1]
    assert slices[0].patient_grid.origin == pytest.approx((ras[2], -ras[1], -ras[0]), abs=1e-4)
