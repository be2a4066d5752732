"""A folder of files of one frame each is a series; what does not fit into one is refused, naming the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile

from r2n2.errors import ReadError
from r2n2.io import describe, read_series

FRAMES = (np.arange(12 * 18 * 20).reshape(12, 18, 20) % 999).astype(np.uint16)


def tif(path: Path, frame: np.ndarray, **options: object) -> None:
    tifffile.imwrite(
        path, frame, photometric="minisblack", resolution=(1e4 / 500, 1e4 / 250), resolutionunit="CENTIMETER", **options
    )


def mha(path: Path, frame: np.ndarray, z: float = 0.0) -> None:
    image = sitk.GetImageFromArray(frame[None])
    image.SetSpacing((0.5, 0.25, 3.0))
    image.SetOrigin((1.0, 2.0, z))
    sitk.WriteImage(image, str(path))


WRITERS: dict[str, Callable[..., object]] = {
    ".tif": tif,
    ".mha": mha,
    ".nrrd": lambda path, frame: nrrd.write(str(path), frame.T),
    ".nii.gz": lambda path, frame: nib.save(nib.Nifti1Image(frame.T[..., None], np.eye(4)), path),
    ".npy": np.save,
}


def fill(folder: Path, suffix: str, frames: np.ndarray = FRAMES) -> Path:
    folder.mkdir()
    for k, frame in enumerate(frames):
        WRITERS[suffix](folder / f"t{k}{suffix}", frame)
    return folder


@pytest.mark.parametrize("suffix", WRITERS)
def test_single_frames_in_natural_order(tmp_path: Path, suffix: str) -> None:
    folder = fill(tmp_path / "é a", suffix)
    (folder / "notes.txt").write_text("x")
    for place in (folder, folder / f"t*{suffix}"):
        (series,) = read_series(place, spacing=(2.0, 0.5))
        assert (len(series), series.channels, series.grid.spacing, series.dtype) == (12, 1, (2.0, 0.5), np.uint16)
        for t in (10, 2):
            np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])
    (found,) = describe(folder)
    assert (found.frames, found.problems) == (12, ())
    assert any("1 other entries of the folder were skipped (notes.txt)" in note for note in found.notes)


def test_size_and_place_are_those_of_the_files(tmp_path: Path) -> None:
    (series,) = read_series(fill(tmp_path / "t", ".tif"))
    assert series.grid.spacing == pytest.approx((0.25, 0.5))
    (series,) = read_series(fill(tmp_path / "m", ".mha"))
    assert series.patient_grid is not None
    assert (series.patient_grid.spacing, series.patient_grid.origin) == ((3.0, 0.25, 0.5), (0.0, 2.0, 1.0))


def test_pixels_beside_their_headers_are_no_other_entries(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for k, frame in enumerate(FRAMES):
        mha(tmp_path / "s" / f"t{k}.mhd", frame)
    (series,) = read_series(tmp_path / "s")
    np.testing.assert_array_equal(series.frame(11)[0], FRAMES[11])
    assert not any("skipped" in note for note in series.notes)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAMES[0, :17], r"different shape \(\(1, 18, 20\): frames 0, 1, 2, 4, 5, ... \(11 in all\); \(1, 17, 20\): frames 3\)"),
        (FRAMES[0].astype(np.float32), r"t3\.tif holds float32 and t0\.tif uint16"),
        (FRAMES[:2], r"t3\.tif: holds 2 frames, and a folder is read as one frame a file|t3\.tif: its 2 pages may be time"),
    ],
)
def test_a_frame_that_differs_is_named(tmp_path: Path, frame: np.ndarray, words: str) -> None:
    folder = fill(tmp_path / "s", ".tif")
    tif(folder / "t3.tif", frame)
    with pytest.raises(ReadError, match=words):
        read_series(folder)


def test_a_damaged_file_is_named_by_both(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", ".tif")
    (folder / "t3.tif").write_bytes((folder / "t3.tif").read_bytes()[:200])
    with pytest.raises(ReadError, match=r"t3\.tif"):
        read_series(folder)
    (found,) = describe(folder)
    assert "t3.tif" in found.problems[0]


def test_files_of_other_places_are_no_frames(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for k, frame in enumerate(FRAMES):
        mha(tmp_path / "s" / f"t{k}.mha", frame, z=3.0 * k)
    with pytest.raises(
        ReadError, match=r"t1\.mha lies at \(3\.0, 2\.0, 1\.0\) mm and t0\.mha at \(0\.0, .* no frames of one place"
    ):
        read_series(tmp_path / "s")


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    tifffile.imwrite(tmp_path / "s" / "a.tif", FRAMES, photometric="minisblack", metadata={"axes": "TYX"})
    assert len(read_series(tmp_path / "s")[0]) == 12


@pytest.mark.parametrize("equal", [True, False])
def test_colour_is_handled_as_for_other_pictures(tmp_path: Path, equal: bool) -> None:
    (tmp_path / "s").mkdir()
    colour = np.repeat((FRAMES[..., None] % 250).astype(np.uint8), 3, axis=-1)
    colour[5, 0, 0] = (1, 1, 1) if equal else (1, 2, 3)
    for k, frame in enumerate(colour):
        tifffile.imwrite(tmp_path / "s" / f"t{k}.tif", frame, photometric="rgb")
    (series,) = read_series(tmp_path / "s")
    assert series.channels == (1 if equal else 3)
    np.testing.assert_array_equal(series.frame(5), np.moveaxis(colour[5], -1, 0)[: series.channels])


def test_dicom_among_them_makes_the_folder_dicom(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", ".tif")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "IM1").write_bytes(bytes(128) + b"DICM" + bytes(20))
    (found,) = describe(folder)
    assert found.format == "dicom"
