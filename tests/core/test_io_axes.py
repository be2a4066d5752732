"""Which axis is time: taken where it is plain, asked for in one wording where it is not, whatever the format."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import scipy.io
import SimpleITK as sitk  # noqa: N813
import tifffile

from r2n2.errors import ArgumentError, AxesUnknownError
from r2n2.io import read_series
from r2n2.io.axes import check_axes, usual_axes


def hdf5(path: Path, array: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["frames"] = array


# Every way to save an array (slow to fast) without saying which axis is time.
SAVED: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.npy": np.save,
    "a.npz": lambda path, array: np.savez(path, frames=array),
    "a.mat": lambda path, array: scipy.io.savemat(path, {"frames": array}),
    "a.h5": hdf5,
    "a.nii": lambda path, array: nib.save(nib.Nifti1Image(array.T, np.eye(4)), path),
    "a.mha": lambda path, array: sitk.WriteImage(sitk.GetImageFromArray(array), str(path)),
    "a.nrrd": lambda path, array: nrrd.write(str(path), array.T),
    "a.tif": lambda path, array: tifffile.imwrite(path, array, photometric="minisblack", metadata=None),
}


@pytest.mark.parametrize("name", SAVED)
def test_an_array_that_may_be_frames_or_slices_is_asked_about(tmp_path: Path, name: str) -> None:
    array = np.arange(30 * 30 * 30, dtype=np.int16).reshape(30, 30, 30)
    SAVED[name](tmp_path / name, array)
    with pytest.raises(
        AxesUnknownError, match=r"may be time or slices.*; pass --axes TYX .*for a series or --axes ZYX for a volume"
    ):
        read_series(tmp_path / name)
    (series,) = read_series(tmp_path / name, axes="TYX")
    np.testing.assert_array_equal(series.frame(7)[0], array[7])
    assert [len(item) for item in read_series(tmp_path / name, axes="ZYX", volumes=False)] == [1] * 30


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_rows_columns_frames_are_asked_about_too(tmp_path: Path, name: str) -> None:
    array = np.arange(64 * 60 * 20, dtype=np.int32).reshape(64, 60, 20)
    SAVED[name](tmp_path / name, array)
    with pytest.raises(AxesUnknownError, match=r"its first axis of 64 or its last of 20 may be time") as caught:
        read_series(tmp_path / name)
    assert (caught.value.shape, [axes for axes, _ in caught.value.choices]) == ((64, 60, 20), ["TYX", "YXT", "ZYX"])
    (series,) = read_series(tmp_path / name, axes="YXT")
    np.testing.assert_array_equal(series.frame(7)[0], array[..., 7])


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "a.h5"])
def test_which_of_two_more_axes_is_time_is_asked(tmp_path: Path, name: str) -> None:
    array = np.arange(5 * 6 * 18 * 20).reshape(5, 6, 18, 20)
    SAVED[name](tmp_path / name, array)
    with pytest.raises(AxesUnknownError, match=r"shape \(5, 6, 18, 20\) is not known, which of them is time; pass --axes"):
        read_series(tmp_path / name)
    assert [len(item) for item in read_series(tmp_path / name, axes="ZTYX")] == [6] * 5


@pytest.mark.parametrize(
    ("shape", "numpy", "matlab"),
    [
        ((20, 64, 64), "TYX", ""),
        ((64, 64, 20), "", "YXT"),
        ((6, 48, 40), "TYX", ""),
        ((48, 40, 6), "", "YXT"),
        ((30, 30, 30), "", ""),
        ((200, 40, 400), "", "YXT"),
        ((12, 40, 400), "TYX", "YXT"),
        ((3, 64, 64), "", ""),
        ((64, 64, 3), "", ""),
        ((64, 48), "YX", "YX"),
        ((64,), "", ""),
        ((4, 5, 64, 64), "", ""),
    ],
)
def test_the_usual_order_is_taken_only_where_it_is_plain(shape: tuple[int, ...], numpy: str, matlab: str) -> None:
    assert (usual_axes(shape, "TYX"), usual_axes(shape, "YXT")) == (numpy, matlab)


def test_what_was_taken_as_usual_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((6, 18, 20), np.uint8))
    (series,) = read_series(tmp_path / "a.npy")
    assert (
        "the file does not name its axes: T, Y, X is taken as usual; pass --axes YXT or --axes ZYX if it is wrong" in series.notes
    )
    (series,) = read_series(tmp_path / "a.npy", axes="TYX")
    assert not any("as usual" in note for note in series.notes)


@pytest.mark.parametrize(
    ("axes", "shape", "full"),
    [("TYX", (1, 6, 9, 8), "ZTYX"), ("TYX", (6, 1, 1, 9, 8), "TZCYX"), ("tyx", (6, 9, 8), "TYX"), ("YX", (1, 9, 8), "ZYX")],
)
def test_axes_of_one_element_need_no_name(axes: str, shape: tuple[int, ...], full: str) -> None:
    assert check_axes(Path("a"), axes, shape, given=True) == full


def test_too_few_letters_are_refused() -> None:
    with pytest.raises(ArgumentError, match="must have 4 letters"):
        check_axes(Path("a"), "TYX", (6, 2, 9, 8), given=True)


def test_the_question_passes_between_processes() -> None:
    asked = AxesUnknownError("a.npy: which?", (6, 9, 8), (("TYX", "frames first"),))
    back = pickle.loads(pickle.dumps(asked))
    assert (str(back), back.shape, back.choices) == (str(asked), asked.shape, asked.choices)
