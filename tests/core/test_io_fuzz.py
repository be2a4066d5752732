"""Damaged copies of a small file of every format: read, or refused with a message that names the file; never anything else."""

from __future__ import annotations

import random
import re
import zlib
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
from PIL import Image

from r2n2.errors import R2N2Error
from r2n2.io import read_series

FRAMES = (np.arange(4 * 18 * 20).reshape(4, 18, 20) % 250).astype(np.uint16)
VOLUMES = (np.arange(3 * 5 * 18 * 20).reshape(3, 5, 18, 20) % 250).astype(np.uint16)
NUMBERS = [0, 1, 255, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
WORDS = [
    b"0",
    b"-1",
    b"nan",
    b"1e400",
    b"99999999999",
    b"18446744073709551616",
    b"a",
    b"",
    b"..",
    b"LIST",
    b"\xff\xfe",
    b"[" * 2000,
]
DAMAGES = 14


def animated(path: Path) -> None:
    pictures = [Image.fromarray(frame.astype(np.uint8)) for frame in FRAMES]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=FRAMES, chunks=(1, 18, 20), compression="gzip")


def tracked(path: Path) -> None:
    fields = "".join(f"Seq_Frame{k:04d}_Timestamp = {k / 10}\nSeq_Frame{k:04d}_ImageStatus = OK\n" for k in range(4))
    head = f"NDims = 3\nDimSize = 20 18 4\nElementType = MET_USHORT\nElementSpacing = 0.2 0.3 1\n{fields}ElementDataFile = LOCAL\n"
    path.write_bytes(head.encode() + FRAMES.tobytes())


def sequence(path: Path) -> None:
    kinds = ["domain", "domain", "list"]
    nrrd.write(
        str(path), FRAMES.T, {"kinds": kinds, "labels": ["", "", "time"], "axis 2 index values": "0 1 2 3", "encoding": "raw"}
    )


def matlab(path: Path) -> None:
    scipy.io.savemat(path, {"img": FRAMES.transpose(1, 2, 0), "times_s": np.arange(4.0)}, do_compression=True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.npy": lambda path: np.save(path, FRAMES),
    "a.npz": lambda path: np.savez_compressed(path, frames=FRAMES, axes="TYX", times_s=np.arange(4.0), spacing=(1.0, 2.0)),
    "a.nii": lambda path: nib.save(nib.Nifti1Image(FRAMES.T[:, :, None], np.eye(4)), path),
    "a.nii.gz": lambda path: nib.save(nib.Nifti1Image(FRAMES.T[:, :, None], np.eye(4)), path),
    "a.mha": lambda path: sitk.WriteImage(sitk.GetImageFromArray(FRAMES), str(path), True),
    "a.igs.mha": tracked,
    "a.seq.nrrd": sequence,
    "a.nrrd": lambda path: nrrd.write(str(path), FRAMES.T, {"kinds": ["domain", "domain", "time"], "encoding": "gzip"}),
    "a.ome.tif": lambda path: tifffile.imwrite(path, FRAMES, ome=True, photometric="minisblack", metadata={"axes": "TYX"}),
    "b.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", compression="lzw", metadata={"axes": "TYX"}),
    "a.gif": animated,
    "a.png": animated,
    "a.jpg": lambda path: Image.fromarray(FRAMES[0].astype(np.uint8)).save(path),
    "a.bmp": lambda path: Image.fromarray(FRAMES[0].astype(np.uint8)).save(path),
    "a.h5": hdf5,
    "a.mat": matlab,
}


def volumes(path: Path) -> None:
    images = [sitk.GetImageFromArray(volume) for volume in VOLUMES]
    for image in images:
        image.SetSpacing((0.7, 1.1, 2.3))
        image.SetDirection((0, 1, 0, 0, 0, -1, 1, 0, 0))
    sitk.WriteImage(sitk.JoinSeries(images), str(path))


def volume_sequence(path: Path) -> None:
    header = {"kinds": ["domain"] * 3 + ["list"], "space": "left-posterior-superior", "space origin": [1, 2, 3], "encoding": "raw"}
    directions = [[0, 0.7, 0], [1.1, 0, 0], [0, 0, 2.3], [np.nan] * 3]
    nrrd.write(str(path), VOLUMES.T, {**header, "space directions": np.array(directions)}, index_order="F")


def volume_pages(path: Path) -> None:
    metadata = {"axes": "TZYX", "spacing": 2.3, "unit": "mm", "finterval": 0.4}
    tifffile.imwrite(path, VOLUMES, imagej=True, resolution=(1.0, 2.0), metadata=metadata)


STACKS: dict[str, Callable[[Path], object]] = {
    "v.nii": volumes,
    "v.mha": volumes,
    "v.nrrd": volume_sequence,
    "v.tif": volume_pages,
    "v.npz": lambda path: np.savez(path, frames=VOLUMES, axes="TZYX", spacing=(2.3, 1.1, 0.7), times_s=np.arange(3.0)),
}


def damaged(chance: random.Random, data: bytes) -> bytes:
    """A copy cut, with a byte flipped, a number or a word forged, a part lost, doubled or zeroed."""
    head = min(len(data), chance.choice([400, 1200, len(data)]))
    place, kind = chance.randrange(head), chance.randrange(7)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        length = chance.choice([1, 2, 4, 8])
        forged = (chance.choice(NUMBERS) % 256**length).to_bytes(length, chance.choice(["little", "big"]))
        return data[:place] + forged + data[place + length :]
    if kind in (3, 4):
        found = list(re.finditer(rb"-?\d+(\.\d+)?" if kind == 3 else rb"[A-Za-z]{3,}", data[:head]))
        if found:
            match = chance.choice(found)
            return data[: match.start()] + chance.choice(WORDS) + data[match.end() :]
    length = chance.randrange(1, 64)
    if kind == 5:
        return data[:place] + data[place + length :]
    return data[:place] + data[place : place + length] * 2 + data[place + length :]


def read_all(path: Path) -> None:
    """Every frame, as given and with the axes named; what is refused must name the file and be short."""
    for axes in (None, "TYX"):
        try:
            for series in read_series(path, axes=axes, max_bytes=2**27):
                assert len(series) <= 10_000
                for index in range(min(len(series), 6)):
                    series.frame(index)
        except R2N2Error as error:
            assert error.exit_code in (2, 3, 4)  # noqa: PT017
            assert path.name in str(error)  # noqa: PT017 - read, or refused so
            assert len(str(error)) < 2000  # noqa: PT017


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_copy_is_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    read_all(path)
    chance = random.Random(name)
    for _ in range(DAMAGES):
        path.write_bytes(damaged(chance, data))
        read_all(path)


def read_volumes(path: Path) -> None:
    """As volumes: on a lattice of three axes, or refused as ``read_all`` says."""
    try:
        for series in read_series(path, volumes=True, max_bytes=2**27):
            assert series.frames.shape[2:] == series.grid.shape
            assert np.linalg.det(series.grid.direction) != 0
            for index in range(min(len(series), 4)):
                assert series.frame(index).shape == series.frames.shape[1:]
    except R2N2Error as error:
        assert error.exit_code in (2, 3, 4)  # noqa: PT017
        assert path.name in str(error)  # noqa: PT017
        assert len(str(error)) < 2000  # noqa: PT017


@pytest.mark.parametrize("name", STACKS)
def test_damaged_volumes_are_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    STACKS[name](path)
    data = path.read_bytes()
    (series,) = read_series(path, volumes=True)
    np.testing.assert_array_equal(series.frame(2)[0], VOLUMES[2])
    chance = random.Random(name)
    for _ in range(4 * DAMAGES):
        path.write_bytes(damaged(chance, data))
        read_volumes(path)


def test_a_packed_matlab_variable_that_ends_in_zeros(tmp_path: Path) -> None:
    """Handed to scipy as it is, this ends the process."""
    path = tmp_path / "a.mat"
    matlab(path)
    data = path.read_bytes()
    size = int.from_bytes(data[132:136], "little")
    for kept in range(20, size, max(size // 12, 1)):
        path.write_bytes(data[: 136 + kept] + bytes(size - kept) + data[136 + size :])
        read_all(path)


def test_a_matlab_variable_that_unpacks_to_more_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    matlab(path)
    data = path.read_bytes()
    packed = zlib.compress(bytes(2**24), 9)
    path.write_bytes(data[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(R2N2Error, match="MiB are allowed"):
        read_series(path, max_bytes=2**20)
