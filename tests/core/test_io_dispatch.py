from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import zarr

import r2n2.io
from r2n2.errors import ArgumentError, MissingExtraError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import describe, read_series, write_series
from r2n2.io.dispatch import detect_format
from r2n2.series import ImageSeries

ARRAY = (np.arange(6 * 9 * 11).reshape(6, 9, 11) % 250).astype(np.uint8)


def save_npz(path: Path) -> None:
    np.savez(path, frames=ARRAY, axes="TYX")


def save_gif(path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in ARRAY]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


def save_stack(path: Path) -> None:
    from PIL import Image

    path.mkdir()
    for k, frame in enumerate(ARRAY):
        Image.fromarray(frame).save(path / f"{k}.png")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a.npy": ("npy", lambda path: np.save(path, ARRAY)),
    "a.npz": ("npz", save_npz),
    "a.gif": ("gif", save_gif),
    "stack": ("pictures", save_stack),
    "a.mha": ("mha", lambda path: sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))),
    "a.nii": ("nifti", lambda path: nib.save(nib.Nifti1Image(ARRAY.T[:, :, None], np.eye(4)), path)),
    "a.nii.gz": ("nifti", lambda path: nib.save(nib.Nifti1Image(ARRAY.T[:, :, None], np.eye(4)), path)),
    "a.tif": ("tiff", lambda path: tifffile.imwrite(path, ARRAY, metadata={"axes": "TYX"})),
    "a.zarr": ("zarr", lambda path: zarr.create_array(path, data=ARRAY, dimension_names=["t", "y", "x"])),
}


def asked(name: str) -> str | None:
    return "TYX" if name == "a.mha" else None


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    kind, write = WRITERS[name]
    write(tmp_path / name)
    assert detect_format(tmp_path / name) == kind
    (series,) = read_series(tmp_path / name, axes=asked(name), spacing=(2.0, 0.5))
    assert (len(series), series.channels, series.grid) == (6, 1, Grid((9, 11), (2.0, 0.5)) if "nii" not in name else series.grid)
    assert series.grid.spacing == (2.0, 0.5)
    for t in range(6):
        np.testing.assert_array_equal(series.frame(t)[0], ARRAY[t])
    (found,) = describe(tmp_path / name, axes=asked(name))
    assert (found.frames, found.shape, found.dtype, found.problems) == (6, (9, 11), "uint8", ())


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_written_back_in_its_family(tmp_path: Path, name: str) -> None:
    WRITERS[name][1](tmp_path / name)
    (series,) = read_series(tmp_path / name, axes=asked(name), spacing=(2.0, 0.5))
    path = write_series(tmp_path, "registered", series, (series.frame(t)[:, ::-1] for t in range(6)))
    assert path.name == {"a.gif": "registered", "stack": "registered"}.get(name, name.replace("a.", "registered."))
    (back,) = read_series(path, axes="TYX" if name == "a.npy" else None)
    assert back.dtype == series.dtype
    for t in range(6):
        np.testing.assert_array_equal(back.frame(t)[0], ARRAY[t, ::-1])
    if name not in ("a.npy", "a.gif", "stack"):
        assert back.grid.spacing == pytest.approx((2.0, 0.5))
        assert back.spacing_known
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("kind", ["mha", "nifti", "tiff", "imagej", "ome-tiff", "npz", "ome-zarr", "png"])
def test_a_3d_series_is_written_as_its_slices(tmp_path: Path, kind: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 1, 3, 5, 7), dtype=np.uint8)
    grid = Grid((3, 5, 7), (3.0, 2.0, 0.5))
    series = ImageSeries(frames, grid, times_s=(0.0, 1.0, 2.0, 4.5), source={"format": kind})
    every = read_series(write_series(tmp_path, "out", series, iter(frames)), volumes=False)
    assert [len(s) for s in every] == [4] * 3
    for z, t in ((0, 3), (2, 1)):
        np.testing.assert_array_equal(every[z].frame(t)[0], frames[t, 0, z])
        assert every[z].grid.spacing == pytest.approx((2.0, 0.5))
        assert every[z].times_s == (0, 1, 2, 4.5)


def test_unknown_formats_name_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"what is this")
    with pytest.raises(ReadError, match=r"a\.xyz: unknown format; known are DICOM file or folder, NIfTI"):
        read_series(tmp_path / "a.xyz")
    (tmp_path / "b.nii").write_bytes(b"what is this")
    with pytest.raises(ReadError, match=r"b\.nii: named \.nii but damaged or not a nifti file"):
        read_series(tmp_path / "b.nii")
    (tmp_path / "c.mha").write_bytes(b"")
    with pytest.raises(ReadError, match="the file is empty"):
        read_series(tmp_path / "c.mha")


def test_content_wins_over_the_suffix(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    (tmp_path / "a.npy").rename(tmp_path / "a.tif")
    assert detect_format(tmp_path / "a.tif") == "npy"


def test_archives_are_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../canary", "x")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.zip", "../canary")
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(ReadError, match="archives are not opened; unpack it yourself"):
            read_series(tmp_path / name)
    assert not (tmp_path.parent / "canary").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_random_bytes_are_an_error_never_a_crash(tmp_path: Path, name: str) -> None:
    if name in ("stack", "a.zarr"):
        pytest.skip("a folder")
    WRITERS[name][1](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        where, length = int(generator.integers(0, min(len(data), 600))), int(generator.integers(1, 9))
        (tmp_path / name).write_bytes(data[:where] + generator.bytes(length) + data[where + length :])
        try:
            for series in read_series(tmp_path / name, axes=asked(name)):
                series.frame(0)
        except (ReadError, ResourceError, ArgumentError, MissingExtraError) as error:
            assert name in str(error) or "spacing" in str(error)  # noqa: PT017 - readable or a clear error


def test_a_series_larger_than_the_memory_is_read_by_frame(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no RLIMIT_AS there")
    shape = (1024, 2048, 2048)  # 4 GiB, sparse on disk
    header = f"NDims = 3\nDimSize = {shape[2]} {shape[1]} {shape[0]}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    with (tmp_path / "big.mha").open("wb") as file:
        file.write(header.encode())
        file.truncate(len(header) + int(np.prod(shape)))
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from r2n2.io import read_series
(series,) = read_series({str(tmp_path / "big.mha")!r}, axes="TYX")
assert len(series) == 1024
assert series.frame(1023).shape == (1, 2048, 2048)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", ["mha", "npy", "npz", "tiff", "imagej", "ome-tiff", "ome-zarr", "nifti"])
def test_writing_holds_one_frame(tmp_path: Path, kind: str) -> None:
    frame = np.zeros((1, 1024, 1024), np.uint16)

    class Frames:
        shape = (60, 1, 1024, 1024)
        dtype = frame.dtype

        def __getitem__(self, index: int) -> np.ndarray:
            return frame

    process = psutil.Process()
    peak = 0

    def watched() -> Iterator[np.ndarray]:
        nonlocal peak
        for index in range(60):
            peak = max(peak, process.memory_info().rss - before) if index > 3 else peak
            yield frame + np.uint16(index)

    series = ImageSeries(Frames(), Grid((1024, 1024)), source={"format": kind})
    write_series(tmp_path, "warm", ImageSeries(frame[None], Grid((1024, 1024)), source={"format": kind}), iter([frame]))
    before = process.memory_info().rss
    write_series(tmp_path, "out", series, watched())
    assert peak < 60 * 2**20  # of 120 MiB


@pytest.mark.parametrize("name", ["é 数据 a b.npy", "x" * 240 + ".npy"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / name, ARRAY)
    (series,) = read_series(str(tmp_path / name))
    assert len(series) == 6


@pytest.mark.parametrize("path", ["no such file", "x" * 5000, "a\0b"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(ReadError, match="check the path"):
        read_series(path)


@pytest.mark.skipif(sys.platform == "win32", reason="symlinks need rights there")
def test_symlink_loops(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ReadError, match="check the path"):
        read_series(tmp_path / "loop")
    folder = tmp_path / "inside"
    save_stack(folder)
    (folder / "again").symlink_to(folder)
    assert len(read_series(folder)[0]) == 6


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2n2.io.detect._MOST_ENTRIES", 50)
    for k in range(60):
        (tmp_path / f"{k}.png").touch()
    with pytest.raises(ReadError, match="more than 50 entries"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("a.nii", "nibabel", "nibabel"),
        ("a.tif", "tifffile", "tifffile"),
        ("a.zarr", "zarr", "zarr"),
        ("a.gif", "PIL.Image", "pillow"),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str) -> None:
    WRITERS[name][1](tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"needs the package {package}, which is not installed: pip install {package}"):
        read_series(tmp_path / name)


def test_series_is_for_dicom_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(ArgumentError, match="--series picks a DICOM series or one of several images in a file, this is npy"):
        read_series(tmp_path / "a.npy", series="1.2.3")


def test_describe_lists_problems_instead_of_raising(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY[..., None])
    (found,) = describe(tmp_path / "a.npy")
    assert found.format == "npy"
    assert "pass --axes" in found.problems[0]
    with pytest.raises(ReadError, match="no such file"):
        describe(tmp_path / "b.npy")


def test_dicom_goes_through_the_same_door(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "sunnybrook-cine" / "final_data" / "dicoms" / "SCD0000101"
    described = describe(folder)
    assert len(described) > 5
    assert all(d.frames == 20 and d.shape == (256, 256) and d.modality == "MR" for d in described)
    (series,) = read_series(folder, slice_index=2)
    path = write_series(tmp_path, "registered", series, (series.frame(t) for t in range(len(series))))
    (back,) = read_series(path)
    assert len(back) == 20
    for t in (0, 19):
        np.testing.assert_array_equal(back.frame(t), series.frame(t))
    assert back.times_s is not None
    assert np.diff(back.times_s) == pytest.approx(np.diff(series.times_s or ()), abs=1e-3)


def test_the_package_is_light() -> None:
    code = """
import sys
import r2n2.io
r2n2.io.read_series, r2n2.io.write_series, r2n2.io.describe
heavy = {"torch", "nibabel", "tifffile", "zarr", "SimpleITK", "pydicom", "PIL", "skimage"} & set(sys.modules)
raise SystemExit(f"loaded {heavy}" if heavy else 0)
"""
    environment = {**os.environ, "PYTHONWARNINGS": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr


def test_every_public_name_exists() -> None:
    for name in r2n2.io.__all__:
        assert callable(getattr(r2n2.io, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = r2n2.io.nothing
