"""Cut, flipped, forged and retyped DICOM files give a series or a typed error, never another exception."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import dicom_factory as make
import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from r2n2.errors import R2N2Error
from r2n2.io.dicom.reader import read_dicom
from r2n2.io.dicom.segmentation import is_segmentation, read_segmentation
from r2n2.io.dispatch import describe, read_series

ROUNDS = 2
SMALL = 2**24


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    ramp = np.arange(20 * 17, dtype=np.uint16).reshape(20, 17)
    run_lengths = make.dataset_of(0, ramp)
    run_lengths.compress(RLELossless, generate_instance_uid=False)
    jpeg_ls = make.dataset_of(0, ramp)
    jpeg_ls.PixelData = encapsulate([imagecodecs.jpegls_encode(ramp)])
    jpeg_ls["PixelData"].VR = "OB"
    jpeg_ls.file_meta.TransferSyntaxUID = JPEGLSLossless
    implicit = make.dataset_of(0, RescaleSlope="2")
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    mosaic = make.dataset_of(0, ramp[:, :16], ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    mosaic.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)
    datasets = {
        "classic": make.dataset_of(0, RescaleSlope="2", EchoTime="3", DiffusionBValue=5.0),
        "enhanced": make.enhanced(2, 2),
        "cine": make.ultrasound(2, FrameTimeVector=["0", "30"]),
        "run lengths": run_lengths,
        "jpeg-ls": jpeg_ls,
        "implicit": implicit,
        "mosaic": mosaic,
        "labels": make.segmentation({2: np.ones((2, 5, 7), np.uint8)}, {2: "a"}),
    }
    files = {name: make.save(dataset, folder / f"{k}.dcm").read_bytes() for k, (name, dataset) in enumerate(datasets.items())}
    return {**files, "without preamble": files["classic"][132:]}


def _cut(data: bytearray, random_of: random.Random) -> None:
    del data[random_of.randrange(len(data)) :]


def _flip(data: bytearray, random_of: random.Random) -> None:
    for _ in range(random_of.randrange(1, 7)):
        data[random_of.randrange(len(data))] = random_of.randrange(256)


def _forge_length(data: bytearray, random_of: random.Random) -> None:
    place = random_of.randrange(max(1, len(data) - 4))
    data[place : place + 4] = random_of.choice(
        [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xfe\xff\xff\xff", b"\0\0\0\0"]
    )


def _change_type(data: bytearray, random_of: random.Random) -> None:
    heads = [match.start() for match in re.finditer(rb"(CS|DS|FD|FL|IS|LO|OB|OW|SH|SQ|TM|UI|UL|US)[\0-\x40]\0", bytes(data))]
    if heads:
        place = random_of.choice(heads)
        data[place : place + 2] = random_of.choice([b"SQ", b"DS", b"US", b"FD", b"OB", b"UN", b"AT", b"UT", b"\0\0", b"zz"])


def _change_number(data: bytearray, random_of: random.Random) -> None:
    numbers = list(re.finditer(rb"[0-9.]+", bytes(data)))
    if numbers:
        found = random_of.choice(numbers)
        text = random_of.choice([b"-9", b"1e999", b"nan", b"0", b"999999999", b"\\", b"--", b"1e-320"])[: len(found[0])]
        data[found.start() : found.end()] = text.ljust(len(found[0]))


CHANGES: list[Callable[[bytearray, random.Random], None]] = [_cut, _flip, _forge_length, _change_type, _change_number]


def _try_all(path: Path) -> None:
    calls = [lambda: describe(path), lambda: read_series(path, max_bytes=SMALL, spacing=(1.0, 1.0))]
    calls += [lambda: describe(path, volumes=True), lambda: read_series(path, max_bytes=SMALL, volumes=True)]
    if is_segmentation(path):
        calls.append(lambda: read_segmentation(path, max_bytes=SMALL))
    for call in calls:
        with contextlib.suppress(R2N2Error):
            call()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changed_files_give_a_series_or_a_typed_error(tmp_path, sound_files, change):
    random_of = random.Random(change.__name__)
    path = tmp_path / "a.dcm"
    for _ in range(ROUNDS):
        for whole in sound_files.values():
            data = bytearray(whole)
            change(data, random_of)
            path.write_bytes(data)
            _try_all(path)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_changed_slice_of_a_volume_is_told_or_makes_no_difference(tmp_path, change):
    """One of nine files of three volumes: a typed error, or volumes on an even lattice."""
    random_of = random.Random(change.__name__)
    files = []
    for p in range(3):
        for s in range(3):
            place = [10.0, 20.0, 30.0 + 4 * s]
            dataset = make.dataset_of(
                10 * p + s, ImagePositionPatient=place, ImageOrientationPatient=make.AXIAL, TriggerTime=f"{40 * p}"
            )
            files.append(make.save(dataset, tmp_path / f"{p}{s}.dcm"))
    for _ in range(8):
        chosen = random_of.choice(files)
        data = chosen.read_bytes()
        changed = bytearray(data)
        change(changed, random_of)
        chosen.write_bytes(changed)
        for drop_damaged in (False, True):
            with contextlib.suppress(R2N2Error):
                for series in read_series(tmp_path, volumes=True, drop_damaged=drop_damaged, max_bytes=SMALL):
                    assert series.frames.shape[2:] == series.grid.shape
                    series.frame(len(series) - 1)
        chosen.write_bytes(data)


def test_one_sample_with_and_without_palette_are_not_stacked(tmp_path):
    make.write_series(tmp_path, 2)
    dataset = make.dataset_of(5, make.pixels_of(0, dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    make.save(dataset, tmp_path / "palette.dcm")
    for k in range(2):
        assert sorted(series.channels for series in read_dicom(tmp_path, contrast_series=bool(k))) == [1, 3]


def test_nonsense_as_transfer_syntax_warns_nobody(tmp_path):
    path = make.write_series(tmp_path, 1)[0]
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"nan.................", 1))
    assert "no valid transfer syntax" in describe(path)[0].problems[0]
