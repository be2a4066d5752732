"""Volumes of every format: values, lattice and times as the library that wrote them has them, frames read one at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import torch
import zarr

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import describe, read_series, volume_choice, write_series
from r2n2.io.orientation import orientation_text
from r2n2.series import ImageSeries

SHAPE = (3, 17, 6, 9)  # T, Z, Y, X
FRAMES = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3001 - 700).astype(np.int16)
SPACING = (2.3, 1.1, 0.7)
ORIGIN = (-31.0, 12.5, 40.25)


def oblique() -> np.ndarray:
    """A rotation about no axis of the world, x first, its third axis turned round (left-handed)."""
    a, b, c = 0.3, -0.5, 0.2
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z @ np.diag([1, 1, -1]))


def itk(values: np.ndarray, path: Path, *, compress: bool = False) -> sitk.Image:
    """Written by SimpleITK, oblique."""
    if values.ndim == 3:
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin(ORIGIN[::-1])
        image.SetDirection(oblique().ravel())
    else:
        image = sitk.JoinSeries([itk(volume, path) for volume in values])
        image.SetSpacing((*SPACING[::-1], 0.4))
    if path.name:
        sitk.WriteImage(image, str(path), compress)
    return image


def nifti(path: Path, values: np.ndarray = FRAMES, turn: np.ndarray | None = None) -> None:
    """Written by nibabel, in RAS."""
    affine = np.eye(4)
    affine[:3, :3] = (oblique() if turn is None else turn) * SPACING[::-1]
    affine[:3, 3] = ORIGIN[::-1]
    affine = np.diag([-1, -1, 1, 1]) @ affine
    image = nib.Nifti1Image(values.T, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 0.4
    nib.save(image, path)


def nrrd_sequence(path: Path, encoding: str = "raw") -> None:
    """As Slicer writes a sequence of volumes: the frames along the fast axis."""
    columns = oblique() * SPACING[::-1]
    header = {
        "space": "left-posterior-superior",
        "space origin": ORIGIN[::-1],
        "space directions": np.vstack([[np.nan] * 3, columns.T]),
        "kinds": ["list", "domain", "domain", "domain"],
        "labels": ["time", "", "", ""],
        "axis 0 index type": "numeric",
        "axis 0 index values": "0 0.4 0.8",
        "units": ["s", "mm", "mm", "mm"],
        "encoding": encoding,
    }
    nrrd.write(str(path), np.moveaxis(FRAMES.transpose(3, 2, 1, 0), -1, 0), header, index_order="F")


ORIENTED: dict[str, Callable[[Path], object]] = {
    "a.nii": nifti,
    "a.nii.gz": nifti,
    "a.mha": lambda path: itk(FRAMES, path),
    "packed.mha": lambda path: itk(FRAMES, path, compress=True),
    "a.mhd": lambda path: itk(FRAMES, path),
    "a.nrrd": lambda path: itk(FRAMES[:1], path) and nrrd_sequence(path),
    "packed.seq.nrrd": lambda path: nrrd_sequence(path, "gzip"),
}


@pytest.mark.parametrize("name", ORIENTED)
def test_an_oblique_series_of_volumes(tmp_path: Path, name: str) -> None:
    ORIENTED[name](tmp_path / name)
    (series,) = read_series(tmp_path / name, volumes=True)
    assert series.frames.shape == (3, 1, *SHAPE[1:])
    for t in range(3):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])
    expected = itk(FRAMES[0], Path())
    np.testing.assert_allclose(series.grid.spacing, SPACING, rtol=1e-5)
    index = np.array([[16.0, 2.0, 7.0], [0.5, 5.0, 0.0]])
    world = [expected.TransformContinuousIndexToPhysicalPoint(point[::-1].tolist())[::-1] for point in index]
    found = series.grid.convert_points(torch.from_numpy(index), Space.INDEX, Space.WORLD)
    np.testing.assert_allclose(found.numpy(), world, atol=2e-4)
    if not name.endswith((".mha", ".mhd")):  # which do not say the unit of their times
        np.testing.assert_allclose(series.times_s or (), (0, 0.4, 0.8), atol=1e-6)
    assert any("read as a volume of 17 slices, as --volumes asks" in note for note in series.notes)
    slices = read_series(tmp_path / name, volumes=False)
    assert (len(slices), slices[4].grid.ndim) == (17, 2)
    np.testing.assert_array_equal(slices[4].frame(2)[0], FRAMES[2, 4])
    (automatic,) = read_series(tmp_path / name)
    assert any("17 slices 2.3 mm apart" in note and "--slices reads slice by slice" in note for note in automatic.notes)


def imagej(path: Path) -> None:
    values = np.repeat(FRAMES[:, :, None] + 700, 2, axis=2).astype(np.uint16)
    values[:, :, 1] += 1
    metadata = {"axes": "TZCYX", "spacing": 2.3, "unit": "um", "finterval": 0.4}
    tifffile.imwrite(path, values, imagej=True, resolution=(1 / 0.7, 1 / 1.1), metadata=metadata)


def ome(path: Path) -> None:
    """Stored slice by slice, so that a volume is many pages apart."""
    values = np.repeat((FRAMES + 700).astype(np.uint16)[:, None], 2, axis=1)
    values[:, 1] += 1
    sizes = {"PhysicalSizeX": 0.7, "PhysicalSizeY": 1.1, "PhysicalSizeZ": 2.3, "TimeIncrement": 0.4}
    metadata = {"axes": "ZTCYX", **sizes, **{f"PhysicalSize{a}Unit": "\u00b5m" for a in "XYZ"}}
    stored = values.transpose(2, 0, 1, 3, 4)
    tifffile.imwrite(path, stored, ome=True, photometric="minisblack", compression="zlib", metadata=metadata)


def ome_zarr(path: Path) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    values = np.repeat((FRAMES + 700).astype(np.uint16)[:, None], 2, axis=1)
    values[:, 1] += 1
    array = group.create_array(
        "0", shape=values.shape, chunks=(2, 1, 5, 6, 9), dtype="u2", chunk_key_encoding={"name": "v2", "separator": "/"}
    )
    array[...] = values
    kinds = ("time", "channel", "space", "space", "space")
    units = ("second", None, *("micrometer",) * 3)
    axes = [{"name": a, "type": k, **({"unit": u} if u else {})} for a, k, u in zip("tczyx", kinds, units, strict=True)]
    steps = [{"type": "scale", "scale": [0.4, 1, 2.3, 1.1, 0.7]}, {"type": "translation", "translation": [0, 0, 7, -3, 5]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]


MICROSCOPES: dict[str, Callable[[Path], None]] = {"a.tif": imagej, "a.ome.tif": ome, "a.zarr": ome_zarr}


@pytest.mark.parametrize("name", MICROSCOPES)
def test_channels_of_a_microscope_and_micrometres(tmp_path: Path, name: str) -> None:
    MICROSCOPES[name](tmp_path / name)
    (series,) = read_series(tmp_path / name, volumes=True)
    assert series.frames.shape == (3, 2, *SHAPE[1:])
    for t in range(3):
        np.testing.assert_array_equal(series.frame(t), [FRAMES[t] + 700, FRAMES[t] + 701])
    np.testing.assert_allclose(series.grid.spacing, np.array(SPACING) * 1e-3, rtol=1e-5)
    np.testing.assert_allclose(series.times_s or (), (0, 0.4, 0.8), atol=1e-6)
    expected = (0.007, -0.003, 0.005) if name == "a.zarr" else (0, 0, 0)
    np.testing.assert_allclose(series.grid.origin, expected, atol=1e-12)
    unplaced = any("does not say where the volume lies" in note for note in series.notes)
    assert unplaced is (name != "a.zarr")


def hdf5(path: Path, array: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["frames"] = array


BARE: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.npy": np.save,
    "a.npz": lambda path, array: np.savez(path, frames=array),
    "a.h5": hdf5,
    "a.nii": lambda path, array: nib.save(nib.Nifti1Image(array.T, np.diag([0.7, 1.1, 2.3, 1])), path),
    "a.mha": lambda path, array: sitk.WriteImage(sitk.GetImageFromArray(array), str(path)),
    "a.nrrd": lambda path, array: nrrd.write(str(path), array.T),
    "a.tif": lambda path, array: tifffile.imwrite(path, array, photometric="minisblack", metadata=None),
}


@pytest.mark.parametrize("name", BARE)
def test_a_third_axis_is_slices_where_volumes_are_asked_for(tmp_path: Path, name: str) -> None:
    """Frames or slices are asked about without --volumes, which answers that question and says so."""
    array = np.arange(20 * 19 * 18, dtype=np.int16).reshape(20, 19, 18)
    BARE[name](tmp_path / name, array)
    (series,) = read_series(tmp_path / name, volumes=True)
    assert series.frames.shape == (1, 1, 20, 19, 18)
    np.testing.assert_array_equal(series.frame(0)[0], array)
    assert any("Z, Y, X is taken, as --volumes asks" in note for note in series.notes)
    (frames,) = read_series(tmp_path / name, axes="TYX", volumes=True)
    assert (len(frames), frames.grid.ndim) == (20, 2)
    assert any("it has one slice" in note for note in frames.notes)


def test_arrays_without_metadata_by_their_axes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FRAMES.transpose(1, 0, 2, 3))
    with pytest.raises(ReadError, match="--axes TZYX"):
        read_series(tmp_path / "a.npy", volumes=True)
    (series,) = read_series(tmp_path / "a.npy", axes="ZTYX", volumes=True, spacing=SPACING)
    assert (series.frames.shape, series.grid.spacing, series.spacing_known) == ((3, 1, *SHAPE[1:]), SPACING, True)
    np.testing.assert_array_equal(series.frame(1)[0], FRAMES[1])
    with pytest.raises(ReadError, match="distance of its slices is not known; pass --spacing Z,Y,X"):
        read_series(tmp_path / "a.npy", axes="ZTYX", volumes=True, spacing=SPACING[1:])
    (bare,) = read_series(tmp_path / "a.npy", axes="ZTYX", volumes=True)
    assert (bare.grid.spacing, bare.spacing_known) == ((1, 1, 1), False)
    with pytest.raises(ArgumentError, match="--slice 2 picks one slice of a volume"):
        read_series(tmp_path / "a.npy", axes="ZTYX", volumes=True, slice_index=2)


@pytest.mark.parametrize("name", ["a.nii", "a.mha"])
def test_time_as_the_third_axis_is_no_distance_of_slices(tmp_path: Path, name: str) -> None:
    """(x, y, t, z): the size of the third axis is a step in time, and must not become that of a voxel."""
    stored = FRAMES.transpose(1, 0, 2, 3)  # Z, T, Y, X
    (nifti if name == "a.nii" else itk)(*((tmp_path / name, stored) if name == "a.nii" else (stored, tmp_path / name)))
    if name == "a.nii":
        with pytest.raises(ReadError, match="distance of its slices is not known"):
            read_series(tmp_path / name, axes="ZTYX", volumes=True)
    else:
        (series,) = read_series(tmp_path / name, axes="ZTYX", volumes=True)
        assert series.grid.spacing == pytest.approx((0.4, 1.1, 0.7)), "that of the file's fourth axis"
    (series,) = read_series(tmp_path / name, axes="ZTYX", volumes=True, spacing=(5.0, 1.1, 0.7))
    assert series.grid.spacing == (5.0, 1.1, 0.7)
    np.testing.assert_array_equal(series.frame(2)[0], FRAMES[2])


def test_times_that_do_not_fit_the_axes_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=FRAMES, times_s=np.arange(3.0))
    with pytest.raises(ReadError, match="holds 3 times for 17 frames"):
        read_series(tmp_path / "a.npz", axes="ZTYX", volumes=True)


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", FRAMES[:, :1])
    (series,) = read_series(tmp_path / "a.nii", volumes=True)
    assert (series.grid.ndim, len(series)) == (2, 3)
    assert any("2D series, though --volumes asks for volumes: it has one slice" in note for note in series.notes)


def test_geometry_that_is_none(tmp_path: Path) -> None:
    sheared = np.eye(3)
    sheared[0, 2] = 0.2
    nifti(tmp_path / "sheared.nii", turn=sheared)
    for volumes in (True, None):
        with pytest.raises(ReadError, match=r"axes are sheared by .*resample the image to perpendicular axes"):
            read_series(tmp_path / "sheared.nii", volumes=volumes)
    image = nib.Nifti1Image(FRAMES.T, np.diag([0.7, 1.1, 2.3, 1]))
    image.set_qform(np.diag([0.7, 1.1, 2.9, 1]), 1)
    image.set_sform(np.diag([0.7, 1.1, 2.3, 1]), 1)
    nib.save(image, tmp_path / "two.nii")
    (series,) = read_series(tmp_path / "two.nii", volumes=True)
    np.testing.assert_allclose(series.grid.spacing, SPACING, rtol=1e-6)
    # The furthest voxel is the seventeenth slice, 0.6 mm further with every slice.
    assert any("qform and sform disagree by up to 9.6 mm: the sform is used" in note for note in series.notes)
    image = nib.Nifti1Image(FRAMES.T, None)
    image.header["qform_code"], image.header["sform_code"] = 1, 0
    image.header["pixdim"][1:4] = (0.7, 1.1, 0)
    nib.save(image, tmp_path / "thin.nii")
    with pytest.raises(ReadError, match="distance of its slices is not known"):
        read_series(tmp_path / "thin.nii", volumes=True)
    assert read_series(tmp_path / "thin.nii")[3].grid.spacing == pytest.approx((1.1, 0.7))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".npy"])
def test_a_folder_of_volumes_is_a_series(tmp_path: Path, suffix: str) -> None:
    for t in range(3):
        path = tmp_path / f"phase{t}0{suffix}"
        np.save(path, FRAMES[t]) if suffix == ".npy" else itk(FRAMES[t], path)
    (series,) = read_series(tmp_path, volumes=True)
    assert series.frames.shape == (3, 1, *SHAPE[1:])
    for t in range(3):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])
    assert any("volumes, one a file" in note for note in series.notes)
    if suffix != ".npy":
        np.testing.assert_allclose(series.grid.origin, ORIGIN, atol=1e-4)
        np.testing.assert_allclose(np.array(series.grid.direction)[::-1, ::-1], oblique(), atol=1e-6)
        image = itk(FRAMES[1], Path())
        image.SetDirection(np.eye(3).ravel())
        sitk.WriteImage(image, str(tmp_path / f"phase10{suffix}"))
        with pytest.raises(ReadError, match=r"phase10.* run another way than those of phase00"):
            read_series(tmp_path, volumes=True)


@pytest.mark.parametrize("name", ["a.nii", "a.mha", "a.nrrd", "a.npy", "a.zarr", "a.ome.tif"])
def test_one_volume_is_in_memory_at_a_time(tmp_path: Path, name: str) -> None:
    """Ten volumes of 3 MB: reading one takes less than three."""
    values = np.zeros((10, 24, 250, 256), np.int16)
    values += np.arange(10, dtype=np.int16)[:, None, None, None]
    if name == "a.npy":
        np.save(tmp_path / name, values)
    elif name == "a.ome.tif":
        tifffile.imwrite(tmp_path / name, values, ome=True, photometric="minisblack", compression="zlib", metadata={"axes": "TZYX"})
    elif name == "a.zarr":
        source = ImageSeries(values[:, None], Grid(values.shape[1:], SPACING), source={"format": "ome-zarr"})
        write_series(tmp_path, "a", source, (volume[None] for volume in values))
    elif name == "a.nrrd":
        nrrd.write(str(tmp_path / name), values.T, {"kinds": ["domain"] * 3 + ["list"], "encoding": "raw"}, index_order="F")
    else:
        (nifti if name == "a.nii" else lambda path, array: itk(array, path))(tmp_path / name, values)
    whole = values.nbytes
    del values
    tracemalloc.start()
    (series,) = read_series(tmp_path / name, volumes=True, axes="TZYX" if name == "a.npy" else None)
    assert all(series.frame(t)[0, 3, 7, 5] == t for t in range(10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of a chunked array up to two runs are kept, which max_bytes bounds.
    assert peak < (0.35 if name != "a.zarr" else 1.5) * whole


@pytest.mark.parametrize("kind", ["nifti", "mha", "nrrd", "npz", "ome-zarr"])
def test_what_is_written_is_read_again(tmp_path: Path, kind: str) -> None:
    itk(FRAMES, tmp_path / "in.mha")
    (given,) = read_series(tmp_path / "in.mha", volumes=True)
    times = (0.0, 0.3, 1.1)
    source = ImageSeries(given.frames, given.grid, times_s=times, source={"format": kind, "path": "in.nii.gz"})
    path = write_series(tmp_path, "out", source, (given.frame(t) for t in range(3)))
    (series,) = read_series(path, volumes=True)
    np.testing.assert_array_equal(np.stack([series.frame(t) for t in range(3)])[:, 0], FRAMES)
    assert series.times_s == pytest.approx(times)
    np.testing.assert_allclose(series.grid.spacing, given.grid.spacing, rtol=1e-6)
    np.testing.assert_allclose(series.grid.origin, given.grid.origin, atol=1e-4)
    np.testing.assert_allclose(series.grid.direction, given.grid.direction, atol=1e-6)


def test_a_description_of_volumes(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    (found,) = describe(tmp_path / "a.nii", volumes=True)
    assert (found.frames, found.shape, found.problems) == (3, SHAPE[1:], ())
    assert found.spacing_mm == pytest.approx(SPACING)
    # Columns x, y, z of the rotation run mostly to L, P and, turned round, I; the furthest is turned by acos(0.838).
    turned = np.degrees(np.arccos(np.abs(oblique()).max(axis=0).min()))
    assert found.orientation == f"I P L, oblique by {turned:.1f} deg"
    assert len(describe(tmp_path / "a.nii", volumes=False)) == 17
    (asked,) = describe(tmp_path / "a.nii", volumes=True, spacing=(9.0, 1.0, 1.0))
    assert asked.spacing_mm == (9, 1, 1)


def test_orientations_in_words() -> None:
    coronal = Grid((4, 5, 6), direction=((0, -1, 0), (1, 0, 0), (0, 0, -1)))  # z runs to P, y to I, x to R
    assert orientation_text(coronal) == "P I R"
    assert orientation_text(Grid((4, 5, 6))) == "S P L"


@pytest.mark.parametrize(
    ("slices", "spacing", "volume", "why"),
    [
        (17, (2.3, 1.1, 0.7), True, "17 slices 2.3 mm apart, of pixels of 1.1 mm"),
        (10, (8.0, 1.4, 1.4), False, "over 2.5 pixels apart and fewer than 16"),
        (16, (8.0, 1.4, 1.4), True, "16 slices"),
        (15, (3.5, 1.4, 1.4), True, "15 slices"),  # exactly 2.5 pixels are not over
        (15, (3.51, 1.4, 1.0), False, "15 slices"),
        (30, (1.4, 1.4), False, "distance of the slices is not known"),
        (30, None, False, "distance of the slices is not known"),
        (2, (1.0, 1.0, 1.0), False, "too few"),
        (3, (1.0, 1.0, 1.0), True, "3 slices"),
    ],
)
def test_the_geometry_decides(slices: int, spacing: tuple[float, ...] | None, volume: bool, why: str) -> None:
    choice = volume_choice.choose_reading(None, slices, spacing)
    assert (choice.volume, why in choice.note) == (volume, True)
    assert ("--slices" if volume else "--volumes") in choice.note
    assert volume_choice.choose_reading(not volume, slices, spacing).volume is not volume
    told = volume_choice.told_reading(("times are unknown", choice.note, "one more; --axes"))
    assert told
    assert choice.note.startswith(f"{told}; --"), "the whole reason, without the option of the command"
    asked = volume_choice.choose_reading(True, slices, spacing)
    assert volume_choice.told_reading((asked.note,)) == f"read as a volume of {slices} slices"
    assert volume_choice.told_reading(("times are unknown",)) == ""


def test_one_slice_of_a_volume_may_be_picked(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    (series,) = read_series(tmp_path / "a.nii")
    assert series.grid.shape == SHAPE[1:]
    assert len(read_series(tmp_path / "a.nii", volumes=False)) == 17
    (one,) = read_series(tmp_path / "a.nii", slice_index=4)
    np.testing.assert_array_equal(one.frame(1)[0], FRAMES[1, 4])
