"""What the DICOM reader makes of damaged, hostile and odd input; rows are those of the table of faults."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from r2n2.errors import ArgumentError, MissingExtraError, ReadError, ResourceError
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom


def _load_factory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_factory", Path(__file__).with_name("dicom_factory.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load_factory()


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_three_good_one_random_one_empty(tmp_path):
    make.write_series(tmp_path, 3)
    (tmp_path / "random.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.dcm").touch()
    listing = list_dicom(tmp_path)
    assert listing.groups[0].frames == 3
    assert [(path.name, reason) for path, reason in listing.skipped] == [
        ("empty.dcm", "empty"),
        ("random.dcm", "not DICOM: neither a DICM mark nor a first element of DICOM"),
    ]
    (series,) = read_dicom(tmp_path)
    assert len(series) == 3
    assert any("2 files were skipped" in note and "random.dcm" in note for note in series.notes)


def test_only_bad_files_is_an_error_with_exit_code_3(tmp_path):
    (tmp_path / "random.dcm").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.dcm").touch()
    assert list_dicom(tmp_path).groups == ()
    with pytest.raises(ReadError, match=r"no readable DICOM image among 2 files") as caught:
        read_dicom(tmp_path)
    assert caught.value.exit_code == 3
    with pytest.raises(ReadError, match=r"random\.dcm: not DICOM"):
        read_dicom(tmp_path / "random.dcm")
    with pytest.raises(ReadError, match="no such"):
        read_dicom(tmp_path / "absent")


def test_dicom_without_an_image_is_skipped(tmp_path):
    make.write_series(tmp_path, 2)
    report = make.dataset_of(5, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    del report.PixelData
    make.save(report, tmp_path / "report.dcm")
    (series,) = read_dicom(tmp_path)
    assert len(series) == 2
    assert any("report.dcm: no image: Basic Text SR Storage without pixels" in note for note in series.notes)


def test_cut_at_every_64_bytes_of_the_header(tmp_path):
    path = make.write_series(tmp_path, 1)[0]
    whole = path.read_bytes()
    for size in range(0, make.pixel_offset(path), 64):
        path.write_bytes(whole[:size])
        with pytest.raises(ReadError, match=r"00\.dcm"):
            read_dicom(path)
        with pytest.raises(ReadError, match=r"00\.dcm"):
            read_dicom(tmp_path)


def test_unknown_value_type_in_a_file_without_pixels(tmp_path):
    path = make.write_series(tmp_path, 1)[0]
    data = path.read_bytes()[: make.pixel_offset(path) - 12]
    path.write_bytes(data.replace(b"\x20\0\x0e\0UI", b"\x20\0\x0e\0U\xff"))
    with pytest.raises(ReadError, match=r"00\.dcm: the header cannot be parsed"):
        read_dicom(path)


def test_one_file_cut_in_its_header_never_shortens_silently(tmp_path):
    paths = make.write_series(tmp_path, 4)
    _cut(paths[2], 600)
    assert list_dicom(tmp_path).damaged[0][0] == paths[2]
    with pytest.raises(ReadError, match=r"02\.dcm: truncated in the header.*--drop-damaged"):
        read_dicom(tmp_path)
    (series,) = read_dicom(tmp_path, drop_damaged=True)
    assert_array_equal(series.frames[:, 0, 0, 0], [0, 100, 300])
    assert any("02.dcm was left out as damaged" in note for note in series.notes)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_cut_in_the_pixels(tmp_path, share):
    paths = make.write_series(tmp_path, 4)
    start, size = make.pixel_offset(paths[1]), paths[1].stat().st_size
    _cut(paths[1], start + int(share * (size - start)))
    assert list_dicom(tmp_path).groups[0].problems
    with pytest.raises(ReadError, match=r"01\.dcm \(InstanceNumber 2\): truncated in the pixels"):
        read_dicom(tmp_path)
    (series,) = read_dicom(tmp_path, drop_damaged=True)
    assert_array_equal(series.frames[:, 0, 0, 0], [0, 200, 300])
    assert series.times_s == pytest.approx((0.01, 0.09, 0.13))
    assert any("InstanceNumber 2) was left out as damaged" in note for note in series.notes)


def test_all_frames_damaged_is_an_error_even_when_dropping(tmp_path):
    for path in make.write_series(tmp_path, 2):
        _cut(path, path.stat().st_size - 10)
    with pytest.raises(ReadError, match="all 2 frames"):
        read_dicom(tmp_path, drop_damaged=True)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.98])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["rle", "jpeg2000"])
def test_cut_in_compressed_pixels(tmp_path, syntax, share):
    pixels = np.random.default_rng(1).integers(0, 4000, (65, 47)).astype(np.uint16)
    dataset = make.dataset_of(0, pixels)
    dataset.compress(syntax, generate_instance_uid=False)
    path = make.save(dataset, tmp_path / "a.dcm")
    start = path.read_bytes().rindex(b"\xe0\x7f\x10\x00OB\0\0")
    _cut(path, start + int(share * (path.stat().st_size - start)))
    with pytest.raises(ReadError, match=r"a\.dcm \(InstanceNumber 1\): truncated"):
        read_dicom(path)


def test_forged_run_lengths_are_a_damaged_frame_and_no_panic(tmp_path):
    dataset = make.dataset_of(0, np.arange(65 * 47, dtype=np.uint16).reshape(65, 47))
    dataset.compress(RLELossless, generate_instance_uid=False)
    path = make.save(dataset, tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    start = data.rindex(b"\xfe\xff\x00\xe0") + 8 + 64
    data[start : start + 60] = b"\x7f" * 60
    path.write_bytes(data)
    with pytest.raises(ReadError, match=r"a\.dcm \(InstanceNumber 1\): the pixels cannot be decoded"):
        read_dicom(path)


def test_forged_fragment_length(tmp_path):
    dataset = make.dataset_of(0, np.arange(65 * 47, dtype=np.uint16).reshape(65, 47))
    dataset.compress(RLELossless, generate_instance_uid=False)
    path = make.save(dataset, tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"\xfe\xff\x00\xe0") + 4
    for length, reason in ((0xFFFFFF00, "truncated"), (64, "forged")):
        struct.pack_into("<L", data, place, length)
        path.write_bytes(data)
        with pytest.raises(ReadError, match=rf"{reason} in the compressed pixels"):
            read_dicom(path)


def _forge(path: Path, what: str) -> None:
    data = bytearray(path.read_bytes())
    if what == "pixel length":
        struct.pack_into("<L", data, make.pixel_offset(path) - 4, 0xFFFFFFF0)
    elif what == "rows and columns":
        for tag in (b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US"):
            struct.pack_into("<H", data, data.index(tag) + 8, 65535)
    elif what == "header length":  # an element in a sequence of undefined length, which pydicom reads at once
        place = data.index(b"\x08\x00\x60\x00CS") + 10
        item = struct.pack("<HH2sHL", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        data[place:place] = item + struct.pack("<HH2sHL", 0x0008, 0x1199, b"OB", 0, 0xFFFFFF00)
    elif what == "number of frames":
        place = data.index(b"\x28\x00\x10\x00US")
        data[place:place] = struct.pack("<HH2sH", 0x0028, 0x0008, b"IS", 10) + b"2000000000"
    path.write_bytes(data)


FORGERIES = ["pixel length", "rows and columns", "header length", "number of frames"]


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_lengths_are_refused(tmp_path, what):
    path = make.write_series(tmp_path, 1)[0]
    _forge(path, what)
    with pytest.raises(ReadError, match=r"00\.dcm"):
        read_dicom(path)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_AS")
def test_forged_lengths_allocate_nothing(tmp_path):
    for k, what in enumerate(FORGERIES):
        _forge(make.write_series(tmp_path / str(k), 1)[0], what)
    script = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import pydicom, pydicom.pixels
        from r2n2.errors import ReadError
        from r2n2.io.dicom.reader import read_dicom
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
        for folder in sorted(Path(sys.argv[1]).iterdir()):
            try:
                read_dicom(folder)
            except ReadError as error:
                assert "MemoryError" not in str(error), error
            else:
                raise SystemExit(f"{folder} was read")
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_codestream_larger_than_the_header_is_refused(tmp_path):
    dataset = make.dataset_of(0, np.arange(65 * 47, dtype=np.uint16).reshape(65, 47))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = make.save(dataset, tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    struct.pack_into(">LL", data, data.index(b"\xff\x4f\xff\x51") + 8, 60000, 60000)
    path.write_bytes(data)
    with pytest.raises(ReadError, match="compressed stream is 60000 x 60000"):
        read_dicom(path)


def test_sizes_beyond_the_limit_are_refused_before_decoding(tmp_path):
    make.write_series(tmp_path, 3)
    with pytest.raises(ResourceError, match="max"):
        read_dicom(tmp_path, max_bytes=200)


def test_a_deflate_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("r2n2.io.dicom.bounded._MAX_INFLATED_BYTES", 2**20)
    dataset = make.dataset_of(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = make.save(dataset, tmp_path / "small.dcm")
    assert_array_equal(read_dicom(path)[0].frames[0, 0], make.pixels_of(0))
    make.save(make.with_text(dataset, "ImageComments", "LT", ["a" * 8_000_000]), path)
    with pytest.raises(ReadError, match="inflates to more"):
        read_dicom(path)


@pytest.mark.parametrize("levels", [250, 2000])
def test_deeply_nested_sequences(tmp_path, levels):
    path = make.insert_nested(make.write_series(tmp_path, 1)[0], levels)
    if levels == 2000:
        with pytest.raises(ReadError, match="nested too deeply"):
            read_dicom(path)
        return
    # 250 levels fit where the stack is nearly empty and are refused like 2000 where it is not
    with contextlib.suppress(ReadError):
        assert_array_equal(read_dicom(path)[0].frames[0, 0], make.pixels_of(0))


def test_dicomdir_never_leads_out_of_its_folder(tmp_path):
    canary = make.write_series(tmp_path / "outside", 1)[0]
    inside = tmp_path / "inside"
    make.write_series(inside / "sub", 2)
    (inside / "link").symlink_to(tmp_path / "outside")
    named = [["sub", "00.dcm"], ["sub", "01.dcm"], ["..", "outside", "00.dcm"], [str(canary)], ["link", "00.dcm"]]
    path = make.dicomdir(inside, [*named, ["..\\outside\\00.dcm"]])
    listing = list_dicom(path)
    assert [group.frames for group in listing.groups] == [2]
    refused = [reason for _, reason in listing.skipped]
    assert len(refused) >= 4
    assert all("outside its folder: refused" in reason for reason in refused)
    (series,) = read_dicom(path)
    assert not any("outside" in Path(name).parts for name in series.source["files"])


def test_damaged_dicomdir_is_an_error(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"nonsense" * 100)
    with pytest.raises(ReadError, match="not a readable DICOMDIR"):
        read_dicom(tmp_path / "DICOMDIR")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["rle", "jpeg2000"])
def test_lossless_compression_is_read_exactly(tmp_path, syntax):
    frames = [np.random.default_rng(k).integers(0, 4000, (33, 47)).astype(np.uint16) for k in range(2)]
    for k, frame in enumerate(frames):
        dataset = make.dataset_of(k, frame)
        dataset.compress(syntax, generate_instance_uid=False)
        make.save(dataset, tmp_path / f"{k}.dcm")
    (series,) = read_dicom(tmp_path)
    assert_array_equal(series.frames[:, 0], frames)


def test_baseline_jpeg_is_read(tmp_path):
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    ramp = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 2
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG", quality=95)
    dataset = make.dataset_of(0, ramp)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    path = make.save(dataset, tmp_path / "a.dcm")
    assert np.abs(read_dicom(path)[0].frames[0, 0].astype(int) - ramp).max() < 8


def test_missing_decoder_names_what_to_install(tmp_path, monkeypatch):
    from pydicom.pixels import get_decoder

    dataset = make.dataset_of(0, np.zeros((32, 48), np.uint16))
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = make.save(dataset, tmp_path / "a.dcm")
    monkeypatch.setattr(get_decoder(JPEG2000Lossless), "_available", {})
    with pytest.raises(MissingExtraError, match=r"JPEG 2000.*pip install pylibjpeg-openjpeg") as caught:
        read_dicom(path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["é 数据 a b", "x" * 240, "CON"])
def test_odd_folder_and_file_names(tmp_path, name):
    folder = tmp_path / name
    make.write_series(folder, 2)
    (folder / "00.dcm").rename(folder / f"{name[:236]}.dcm")
    (series,) = read_dicom(folder)
    assert len(series) == 2
    assert series.name == f"{name} slice 0"


def test_loops_of_links_are_walked_once(tmp_path):
    make.write_series(tmp_path / "a", 3)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (series,) = read_dicom(tmp_path)
    assert len(series) == 3
    assert not any("left out" in note for note in series.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_a_pipe_does_not_block(tmp_path):
    make.write_series(tmp_path, 2)
    os.mkfifo(tmp_path / "pipe.dcm")
    assert dict(list_dicom(tmp_path).skipped) == {tmp_path / "pipe.dcm": "not a regular file"}


def test_too_many_files_is_an_error(tmp_path):
    make.write_series(tmp_path, 4)
    with pytest.raises(ResourceError, match="more than 3 files"):
        list_dicom(tmp_path, max_files=3)


@pytest.mark.slow
def test_hundred_thousand_empty_files_in_ten_seconds(tmp_path):
    for k in range(99_998):
        os.close(os.open(f"{tmp_path}/{k}.dcm", os.O_CREAT))
    make.write_series(tmp_path / "good", 2)
    seen = []
    start = time.process_time()
    listing = list_dicom(tmp_path, progress=seen.append)
    seconds = time.process_time() - start
    shutil.rmtree(tmp_path)  # else pytest keeps them for three runs
    assert seconds < 10
    assert listing.groups[0].frames == 2
    assert len(listing.skipped) == 99_998
    assert seen[-1] == 100_000


CANARY = "CANARY"


def _with_patient(index: int, **values: object) -> object:
    dataset = make.dataset_of(index, **values)
    text = ("PatientName", "PatientID", "InstitutionName", "StudyDescription", "SeriesDescription", "OperatorsName", "StudyID")
    more = ("ProtocolName", "ImageComments", "StationName", "ReferringPhysicianName", "AccessionNumber", "DeviceSerialNumber")
    for keyword in (*text, *more, "PatientComments", "InstitutionAddress", "AcquisitionComments"):
        setattr(dataset, keyword, CANARY)
    dataset.PatientBirthDate = dataset.StudyDate = dataset.AcquisitionDate = dataset.ContentDate = "19510203"
    dataset.private_block(0x0011, CANARY, create=True).add_new(0x01, "LO", CANARY)
    return dataset


def _check_no_patient(text: str) -> None:
    assert CANARY not in text
    assert "19510203" not in text


def test_no_patient_data_in_series_notes_messages_or_logs(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "study"
    folder.mkdir()
    for k in range(3):
        make.save(_with_patient(k), folder / f"{k}.dcm")
    make.save(make.with_text(_with_patient(0), "Modality", "CS", ["CANARY^x,.."]), folder / "0.dcm")
    caplog.clear()  # the writer of these files may quote them
    _check_no_patient(repr(list_dicom(folder)))
    for series in read_dicom(folder):
        _check_no_patient(repr(series))
        assert not any(uid in repr(series.source) for uid in ("1.2.826.0.1.3680043.8.498.1'", "1.2.826.0.1.3680043.8.498.2'"))
    whole = (folder / "1.dcm").read_bytes()
    for size in range(200, len(whole), 101):
        (folder / "1.dcm").write_bytes(whole[:size])
        with pytest.raises(ReadError) as caught:
            read_dicom(folder)
        _check_no_patient(str(caught.value))
    _check_no_patient(caplog.text)
    path = make.save(_with_patient(1, PixelSpacing=["111111", "222222"]), folder / "1.dcm")
    path.write_bytes(path.read_bytes().replace(b"111111\\222222", b"CANARY\\CANARY"))
    caplog.clear()  # the writer of these files may quote them
    with pytest.raises(ReadError) as caught:
        read_dicom(folder)
    _check_no_patient(str(caught.value))
    _check_no_patient(caplog.text)


def test_a_uid_that_is_a_name_is_not_shown(tmp_path):
    for k in range(2):
        dataset = make.with_text(make.dataset_of(k), "SeriesInstanceUID", "UI", [f"{CANARY}\nx"])
        make.save(dataset, tmp_path / f"{k}.dcm")
    _check_no_patient(repr(list_dicom(tmp_path)))
    (series,) = read_dicom(tmp_path)
    _check_no_patient(repr(series))
    with pytest.raises(ArgumentError) as caught:
        read_dicom(tmp_path, series="none")
    _check_no_patient(str(caught.value))
    path = tmp_path / "0.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", CANARY.encode() + b"\n.............", 1))
    with pytest.raises(ReadError, match="no valid transfer syntax") as caught:
        read_dicom(tmp_path)
    _check_no_patient(str(caught.value))


def test_study_uid_in_source_is_a_new_one(tmp_path):
    make.write_series(tmp_path, 2)
    source = read_dicom(tmp_path)[0].source
    assert source["study_uid"] != "1.2.826.0.1.3680043.8.498.1"
    assert source["study_uid"] == read_dicom(tmp_path)[0].source["study_uid"]


def test_excess_bytes_behind_the_frames_are_noted(tmp_path):
    dataset = make.dataset_of(0)
    dataset.PixelData += b"\0" * 140
    make.save(dataset, tmp_path / "a.dcm")
    (series,) = read_dicom(tmp_path)
    assert_array_equal(series.frames[0, 0], make.pixels_of(0))
    assert any("140 bytes behind" in note for note in series.notes)


def test_damage_in_another_series_does_not_matter(tmp_path):
    make.write_series(tmp_path / "a", 2)
    other = make.write_series(tmp_path / "b", 2, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.1.200")[0]
    _cut(other, other.stat().st_size - 10)
    assert len(read_dicom(tmp_path, series=".100")[0]) == 2
    with pytest.raises(ReadError, match="truncated"):
        read_dicom(tmp_path)


def test_of_several_copies_the_undamaged_one_is_kept(tmp_path):
    paths = make.write_series(tmp_path, 2)
    whole = paths[0].read_bytes()
    for name in ("0a", "0b", "z"):
        (tmp_path / f"{name}.dcm").write_bytes(whole)
    _cut(paths[0], len(whole) - 9)
    _cut(tmp_path / "0a.dcm", len(whole) - 7)
    assert_array_equal(read_dicom(tmp_path)[0].frames[:, 0, 0, 0], [0, 100])
