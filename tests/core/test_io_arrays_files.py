"""MATLAB and HDF5: which variable, in which order, with what beside it; damage and pixels elsewhere are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from r2n2.errors import ArgumentError, MissingExtraError, ReadError, ResourceError
from r2n2.io import read_series

FRAMES = (np.arange(6 * 18 * 20).reshape(6, 18, 20) % 250).astype(np.int16)
MATLAB = np.ascontiguousarray(FRAMES.transpose(1, 2, 0))
BESIDE = {"spacing": [1.5, 1.2], "times_s": [0.0, 0.1, 0.3, 0.4, 0.5, 0.7]}


def version5(path: Path, **more: Any) -> Path:
    scipy.io.savemat(path, {"img": MATLAB, **more}, do_compression=True)
    return path


def version73(path: Path, **more: Any) -> Path:
    """As MATLAB writes: axes reversed, a block of text before, letters as numbers."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in {"img": MATLAB, **more}.items():
            text = isinstance(value, str)
            array = np.array([[ord(letter) for letter in value]], np.uint16) if text else np.atleast_2d(np.asarray(value))
            file.create_dataset(name, data=array.T)
            file[name].attrs["MATLAB_class"] = np.bytes_("char" if text else str(array.dtype))
        file.create_group("#refs#")["a"] = np.zeros((9, 9, 9))
    with path.open("r+b") as start:
        start.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    return path


def hdf5(path: Path, **more: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("exp/frames", data=FRAMES, chunks=(1, 18, 20), compression="gzip")
        for name, value in more.items():
            file[f"exp/{name}"] = value
    return path


WRITERS = {"v5.mat": version5, "v73.mat": version73, "a.h5": hdf5}


@pytest.mark.parametrize("name", WRITERS)
def test_frames_with_what_stands_beside_them(tmp_path: Path, name: str) -> None:
    (series,) = read_series(WRITERS[name](tmp_path / name, **BESIDE))
    assert (len(series), series.grid.spacing, series.times_s) == (6, (1.5, 1.2), (0.0, 0.1, 0.3, 0.4, 0.5, 0.7))
    for t in (3, 0):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_may_name_its_axes(tmp_path: Path, name: str) -> None:
    letters = "TYX" if name == "a.h5" else "YXT"
    (series,) = read_series(WRITERS[name](tmp_path / name, axes=letters))
    assert len(series) == 6
    assert not any("as usual" in note for note in series.notes)


@pytest.mark.parametrize("name", WRITERS)
def test_which_of_several_is_asked(tmp_path: Path, name: str) -> None:
    other = FRAMES + 1 if name == "a.h5" else MATLAB + 1
    path = WRITERS[name](tmp_path / name, other=other, note=[1.0, 2.0])
    with pytest.raises(ReadError, match=r"holds several .*; pass --series with the name of one of .*other"):
        read_series(path)
    (series,) = read_series(path, series="other")
    np.testing.assert_array_equal(series.frame(2)[0], FRAMES[2] + 1)
    with pytest.raises(ArgumentError, match="--series 'else' is none of its"):
        read_series(path, series="else")


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"spacing": [0.0, 1.0]}, "key spacing: spacing must be 2 or 3 positive finite numbers"),
        ({"spacing": [1.0]}, "key spacing: spacing must be 2 or 3 positive finite numbers"),
        ({"times_s": [0.0, 1.0]}, "key times_s: holds 2 times for 6 frames"),
        ({"times_s": [0.0, 1.0, np.nan, 2.0, 3.0, 4.0]}, "key times_s: the time of frame 2 is nan"),
        ({"origin": [0.0], "direction": np.eye(2)}, "keys origin and direction must be"),
    ],
)
@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_is_named(tmp_path: Path, name: str, beside: dict[str, Any], words: str) -> None:
    with pytest.raises(ReadError, match=words):
        read_series(WRITERS[name](tmp_path / name, **beside))


def test_a_matlab_file_of_structures_names_them(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"s": {"img": MATLAB}, "n": 3.0})
    with pytest.raises(ReadError, match=r"holds s \(struct\), n \(double\), and no array of frames; save the array itself"):
        read_series(tmp_path / "a.mat")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("percent", [0, 20, 60, 95])
def test_truncated(tmp_path: Path, name: str, percent: int) -> None:
    path = WRITERS[name](tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=name):
        read_series(path)


def test_chunks_that_were_never_written_are_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("frames", FRAMES.shape, "i2", chunks=(1, 18, 20), fillvalue=7)
        data[:5] = FRAMES[:5]
    with pytest.raises(ReadError, match=r"1 chunks of frames were never written; .*--allow-missing"):
        read_series(tmp_path / "a.h5")
    (series,) = read_series(tmp_path / "a.h5", allow_missing=True)
    assert (series.frame(5) == 7).all()


def test_a_forged_shape_is_refused_before_allocating(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", (2**27, 64, 64), "i2", chunks=(1, 64, 64))
        file["frames"][0] = 1
    with pytest.raises(ReadError, match="134217727 chunks of frames were never written"):
        read_series(tmp_path / "a.h5")


def test_pixels_in_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(FRAMES.nbytes))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", FRAMES.shape, "i2", external=[(str(tmp_path / "secret"), 0, FRAMES.nbytes)])
    with pytest.raises(ReadError, match="the pixels of x lie in other files"):
        read_series(tmp_path / "a.h5")
    hdf5(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "exp/frames")
    with pytest.raises(ReadError, match="holds no data sets that can be an image series"):
        read_series(tmp_path / "c.h5")


def test_an_unknown_filter_names_the_package(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5")
    data = path.read_bytes()
    entry = b"\x01\0\x08\0\x01\0\x01\0deflate\0"
    assert entry in data
    path.write_bytes(data.replace(entry, b"\x01\x7d\x08\0\x01\0\x01\0zzz\0\0\0\0\0"))
    with pytest.raises(MissingExtraError, match="pip install hdf5plugin"):
        read_series(path)


def test_a_large_data_set_is_read_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in (("a.h5", hdf5), ("v73.mat", version73)):
        monkeypatch.setattr("r2n2.io.arrays.hdf5._HELD_BYTES", 100)
        (series,) = read_series(write(tmp_path / name))
        np.testing.assert_array_equal(series.frame(2)[0], FRAMES[2])
        with pytest.raises(ResourceError, match="--max-bytes"):
            read_series(tmp_path / name, max_bytes=100)


def test_names_of_axes_and_pixel_size_at_the_data_set(tmp_path: Path) -> None:
    with h5py.File(hdf5(tmp_path / "a.h5"), "r+") as file:
        data = file["exp/frames"]
        for axis, label in zip(data.dims, "tyx", strict=True):
            axis.label = label
        data.attrs["element_size_um"] = [0.5, 0.25]
    (series,) = read_series(tmp_path / "a.h5")
    assert series.grid.spacing == pytest.approx((0.0005, 0.00025))
    assert not any("as usual" in note for note in series.notes)
