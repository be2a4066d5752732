from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries

TYPES = ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<f4", "<f8"]


def ramp(shape: tuple[int, ...], dtype: str = "<i2") -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 1000).astype(dtype)


def itk(array: np.ndarray, **geometry: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(array) if array.ndim < 4 else sitk.JoinSeries([sitk.GetImageFromArray(a) for a in array])
    for name, value in geometry.items():
        getattr(image, f"Set{name.capitalize()}")(value)
    return image


def save(path: Path, image: sitk.Image, compress: bool = False) -> Path:
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_pixels_written_by_itk(tmp_path: Path, suffix: str, compress: bool) -> None:
    array = ramp((5, 9, 11))
    (series,) = read_series(save(tmp_path / f"é a{suffix}", itk(array, spacing=(0.5, 2.0, 1.0)), compress), axes="TYX")
    assert (len(series), series.channels) == (5, 1)
    assert series.grid == Grid((9, 11), (2.0, 0.5))
    np.testing.assert_array_equal(series.frame(3)[0], array[3])


def test_three_axes_are_asked_for(tmp_path: Path) -> None:
    array = ramp((5, 9, 11))
    path = save(tmp_path / "a.mha", itk(array))
    with pytest.raises(ReadError, match=r"a\.mha: its third axis of 5 may be time or slices; pass --axes TYX .* --axes ZYX"):
        read_series(path)
    slices = read_series(path, axes="ZYX", volumes=False)
    assert [len(s) for s in slices] == [1] * 5
    np.testing.assert_array_equal(slices[3].frame(0)[0], array[3])
    with pytest.raises(ArgumentError, match="axes 'TZYX' must have 3 letters"):
        read_series(path, axes="TZYX")


def test_a_rotated_2d_geometry_is_the_one_itk_sees(tmp_path: Path) -> None:
    c, s = math.cos(0.5), math.sin(0.5)
    image = itk(ramp((5, 9, 11)), spacing=(0.5, 2.0, 1.0), origin=(3.0, -7.0, 1.0), direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    (series,) = read_series(save(tmp_path / "a.mha", image), axes="TYX")
    x, y, _ = image.TransformIndexToPhysicalPoint((4, 6, 0))
    import torch

    from r2n2.geometry import Space

    world = series.grid.convert_points(torch.tensor([[6.0, 4.0]], dtype=torch.float64), Space.INDEX, Space.WORLD)[0].tolist()
    assert world == pytest.approx([y, x], abs=1e-9)


def test_four_axes_place_every_slice_in_the_patient(tmp_path: Path) -> None:
    array = ramp((3, 4, 9, 11))
    image = sitk.JoinSeries([itk(a, spacing=(0.5, 2.0, 8.0), origin=(3.0, -7.0, 100.0)) for a in array])
    every = read_series(save(tmp_path / "a.mha", image))
    assert [len(s) for s in every] == [3] * 4
    np.testing.assert_array_equal(every[2].frame(1)[0], array[1, 2])
    assert every[2].grid == Grid((9, 11), (2.0, 0.5), (-7.0, 3.0))
    assert every[2].patient_grid == Grid((1, 9, 11), (8.0, 2.0, 0.5), (116.0, -7.0, 3.0))


def test_an_oblique_slice_is_in_plane(tmp_path: Path) -> None:
    coronal = (1, 0, 0, 0, 0, 1, 0, -1, 0)
    volume = itk(ramp((4, 9, 11)), spacing=(0.5, 2.0, 8.0), origin=(3.0, -7.0, 100.0), direction=coronal)
    path = save(tmp_path / "a.mha", volume)
    second = read_series(path, axes="ZYX")[1]
    assert second.grid == Grid((9, 11), (2.0, 0.5))
    assert second.patient_grid is not None
    corner = volume.TransformIndexToPhysicalPoint((0, 0, 1))
    assert second.patient_grid.origin == pytest.approx(corner[::-1])
    far = volume.TransformIndexToPhysicalPoint((10, 8, 1))
    direction, spacing = np.array(second.patient_grid.direction), np.array(second.patient_grid.spacing)
    assert second.patient_grid.origin + direction @ (spacing * [0, 8, 10]) == pytest.approx(np.array(far[::-1]))


def test_components_are_channels(tmp_path: Path) -> None:
    array = ramp((5, 9, 11, 3), "u1")
    image = sitk.GetImageFromArray(array, isVector=True)
    (series,) = read_series(save(tmp_path / "a.mha", image), axes="TYX")
    assert series.channels == 3
    np.testing.assert_array_equal(series.frame(4), np.moveaxis(array[4], -1, 0))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("percent", [0, 1, 3, 50, 90, 99])
def test_truncated_is_refused_where_itk_gives_zeros(tmp_path: Path, percent: int, compress: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (5, 30, 31)).astype(np.int16)
    path = save(tmp_path / "a.mha", itk(noise), compress)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=r"a\.mha"):
        read_series(path, axes="TYX")


@pytest.mark.parametrize("lost", [1, 4])
def test_a_cut_checksum_is_refused(tmp_path: Path, lost: int) -> None:
    path = save(tmp_path / "a.mha", itk(ramp((5, 9, 11))), True)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ReadError, match="the header declares 990; get a complete copy"):
        read_series(path, axes="TYX")


def test_flipped_byte_in_compressed_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (5, 30, 31)).astype(np.int16)
    data = save(tmp_path / "a.mha", itk(noise), True).read_bytes()
    start = data.index(b"LOCAL\n") + 6
    for where in np.random.default_rng(1).integers(start, len(data), 40):
        (tmp_path / "b.mha").write_bytes(data[:where] + bytes([data[where] ^ 0x55]) + data[where + 1 :])
        with pytest.raises(ReadError, match=r"b\.mha"):
            read_series(tmp_path / "b.mha", axes="TYX")


@pytest.mark.parametrize("compress", [False, True])
def test_forged_size(tmp_path: Path, compress: bool) -> None:
    path = save(tmp_path / "a.mha", itk(ramp((5, 9, 11))), compress)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 11 9 5", b"DimSize = 32767 32767 100"))
    with pytest.raises(ReadError, match="truncated or forged, the header declares 214735257800 bytes"):
        read_series(path, axes="TYX")


def test_compressed_larger_than_the_limit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", itk(np.zeros((50, 300, 300), np.uint8)), True)
    with pytest.raises(ResourceError, match="--max-bytes"):
        read_series(path, axes="TYX", max_bytes=2**20)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_spacing(tmp_path: Path, value: str) -> None:
    path = save(tmp_path / "a.mha", itk(ramp((5, 9, 11))))
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = {value} 1 1".encode()))
    with pytest.raises(ReadError, match="must be positive and finite mm"):
        read_series(path, axes="TYX")


def test_singular_orientation(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", itk(ramp((5, 9, 11))))
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix = 1 0 0", b"TransformMatrix = 0 0 0"))
    with pytest.raises(ReadError, match="singular"):
        read_series(path, axes="TYX")


def test_no_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", itk(ramp((5, 9, 11))))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 11 9 5", b"DimSize = 11 9 0"))
    with pytest.raises(ReadError, match="no frame"):
        read_series(path, axes="TYX")


def test_big_endian(tmp_path: Path) -> None:
    array = ramp((5, 9, 11), ">i2")
    header = b"NDims = 3\nDimSize = 11 9 5\nBinaryDataByteOrderMSB = True\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header + array.tobytes())
    (series,) = read_series(tmp_path / "a.mha", axes="TYX")
    np.testing.assert_array_equal(series.frame(2)[0], array[2])
    assert not series.spacing_known


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/etc/hostname", "../a%02d.raw 1 5 1", "LIST\n../secret.raw" + "\n../secret.raw" * 4]
)
def test_pixels_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(990))
    header = f"NDims = 3\nDimSize = 11 9 5\nElementType = MET_SHORT\nElementDataFile = {name}\n"
    (folder / "a.mhd").write_text(header)
    with pytest.raises(ReadError, match="outside the header's folder"):
        read_series(folder / "a.mhd", axes="TYX")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    dtype = data.draw(st.sampled_from(TYPES))
    size = st.integers(1, 7)
    shape = (data.draw(size), data.draw(st.sampled_from([1, 3])), data.draw(size), data.draw(size))
    frames = data.draw(hnp.arrays(np.dtype(dtype), shape))
    spacing = data.draw(st.tuples(*[st.floats(1e-3, 1e3)] * 2))
    times = data.draw(st.none() | st.lists(st.floats(0, 1e6), min_size=shape[0], max_size=shape[0]).map(tuple))
    angle = data.draw(st.floats(-3, 3))
    c, s = math.cos(angle), math.sin(angle)
    grid = Grid(shape[2:], spacing, (1.5, -2.0), ((c, -s), (s, c)))
    patient = None
    if data.draw(st.booleans()):
        patient = Grid((1, *shape[2:]), (4.0, *spacing), (9.0, 1.5, -2.0), ((1, 0, 0), (0, c, -s), (0, s, c)))
    series = ImageSeries(frames, grid, times_s=times, patient_grid=patient, source={"format": "mha"})
    path = write_series(tmp_path_factory.mktemp("round"), "out", series, iter(frames))
    (back,) = read_series(path)
    assert back.dtype == series.dtype
    assert back.times_s == times
    assert back.grid.same_space(grid, 1e-6)
    assert back.grid.spacing == grid.spacing
    assert (back.patient_grid is None) == (patient is None)
    assert patient is None or (back.patient_grid is not None and back.patient_grid.same_space(patient))
    for t in range(len(series)):
        np.testing.assert_array_equal(back.frame(t), frames[t])


def test_itk_reads_what_we_write_even_with_many_times(tmp_path: Path) -> None:
    frames = ramp((1500, 1, 3, 4), "<u2")
    series = ImageSeries(frames, Grid((3, 4), (2.0, 0.5)), times_s=tuple(np.cumsum(np.full(1500, 1 / 3))), source={"format": "mha"})
    path = write_series(tmp_path, "out", series, iter(frames))
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), frames[:, 0])
    assert image.GetSpacing() == pytest.approx((0.5, 2.0, 1 / 3))
    assert read_series(path)[0].times_s == series.times_s


def test_real_volume(real_data: Path) -> None:
    path = real_data / "plastimatch-4dct" / "t0.mha"
    slices = read_series(path, axes="ZYX", volumes=False)
    stored = sitk.ReadImage(str(path))
    assert len(slices) == 128
    np.testing.assert_array_equal(slices[60].frame(0)[0], sitk.GetArrayViewFromImage(stored)[60])
    assert slices[60].patient_grid is not None
    assert slices[60].patient_grid.origin == pytest.approx(stored.TransformIndexToPhysicalPoint((0, 0, 60))[::-1])
