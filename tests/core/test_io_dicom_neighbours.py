"""Files beside good ones that have no pixels, are broken or have no preamble; pixel sizes that must be looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dicom_factory as make
import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from r2n2.errors import ReadError
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom
from r2n2.io.dispatch import describe, detect_format, read_series

NO_IMAGES = {
    "Basic Text SR Storage": "1.2.840.10008.5.1.4.1.1.88.11",
    "Grayscale Softcopy Presentation State Storage": "1.2.840.10008.5.1.4.1.1.11.1",
    "RT Plan Storage": "1.2.840.10008.5.1.4.1.1.481.5",
    "12-lead ECG Waveform Storage": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "MR Image Storage": make.MR,
    "a DICOM data set": "",
}


def _without_pixels(path: Path, sop_class: str) -> Path:
    dataset = make.dataset_of(9, SOPClassUID=sop_class or "1.2.3", Rows=None, Columns=None, BitsAllocated=None)
    del dataset.PixelData
    if sop_class:
        return make.save(dataset, path)
    del dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPClassUID = ""
    dataset.save_as(path, enforce_file_format=False)
    return path


@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_file_without_pixels_is_no_image_and_not_damaged(tmp_path, name):
    path = _without_pixels(tmp_path / "other.dcm", NO_IMAGES[name])
    expected = f"{path}: no image: {name} without pixels; choose a DICOM image"
    assert list_dicom(path).problems == (expected,)
    with pytest.raises(ReadError) as caught:
        read_dicom(path)
    assert str(caught.value) == expected
    make.write_series(tmp_path, 3)
    for place in (tmp_path, tmp_path / "01.dcm"):
        assert list_dicom(place).groups[0].problems == list_dicom(place).problems == ()
        (series,) = read_dicom(place)
        assert len(series) == 3
        note = f"1 file was skipped (other.dcm: no image: {name} without pixels)"
        assert note in series.notes
        assert note in list_dicom(place).notes


def _break(path: Path, how: str) -> None:
    data = path.read_bytes()
    cut = {"header": 600, "pixels": len(data) - 9, "nothing left": 140}[how]
    path.write_bytes(data[:cut])


@pytest.mark.parametrize("how", ["header", "pixels", "nothing left"])
def test_a_broken_neighbour_does_not_stop_a_good_file(tmp_path, how):
    paths = make.write_series(tmp_path, 4)
    _break(paths[2], how)
    listing = list_dicom(paths[0])
    assert listing.problems == listing.groups[0].problems == ()
    (series,) = read_dicom(paths[0])
    assert len(series) == 3
    for notes in (series.notes, listing.notes):
        assert any(note.startswith("02.dcm was left out as damaged: truncated") for note in notes)
    with pytest.raises(ReadError, match=r"02\.dcm.*truncated"):
        read_dicom(paths[2])
    assert list_dicom(paths[2]).problems or list_dicom(paths[2]).groups[0].problems


def test_a_neighbour_whose_compressed_pixels_are_broken_is_left_out(tmp_path):
    from pydicom.uid import RLELossless

    for k in range(3):
        dataset = make.dataset_of(k, np.arange(65 * 47, dtype=np.uint16).reshape(65, 47))
        dataset.compress(RLELossless, generate_instance_uid=False)
        path = make.save(dataset, tmp_path / f"{k}.dcm")
    data = bytearray(path.read_bytes())
    start = data.rindex(b"\xfe\xff\x00\xe0") + 8 + 64
    data[start : start + 60] = b"\x7f" * 60
    path.write_bytes(data)
    (series,) = read_dicom(tmp_path / "0.dcm")
    assert len(series) == 2
    assert any("2.dcm (InstanceNumber 3) was left out as damaged" in note for note in series.notes)
    with pytest.raises(ReadError, match=r"2\.dcm: the pixels cannot be decoded"):
        read_dicom(path)


def test_neighbours_that_nothing_orders_leave_a_file_alone(tmp_path):
    nothing = ("TriggerTime", "AcquisitionTime", "ContentTime", "InstanceNumber", "TemporalPositionIdentifier")
    paths = make.write_series(tmp_path, 3, **dict.fromkeys(nothing))
    (series,) = read_dicom(paths[1])
    assert len(series) == 1
    assert series.frames[0, 0, 0, 0] == 100
    assert any("the other 2 images of its series beside it were left out: nothing in the headers orders" in n for n in series.notes)
    assert list_dicom(paths[1]).groups[0].frames == 1


def test_info_and_register_agree_on_every_path(tmp_path):
    good = make.write_series(tmp_path / "good", 3)
    _without_pixels(tmp_path / "good" / "report.dcm", NO_IMAGES["RT Plan Storage"])
    broken = make.write_series(tmp_path / "broken", 3)
    _break(broken[1], "pixels")
    other = make.write_series(tmp_path / "other" / "a", 3)
    damaged = make.write_series(tmp_path / "other" / "b", 1, SeriesInstanceUID="1.2.9.77")[0]
    _break(damaged, "header")
    paths = [tmp_path, *(file.parent for file in (good[0], broken[0], other[0])), *good, *broken, damaged, damaged.parent.parent]
    for path in [*paths, tmp_path / "good" / "report.dcm"]:
        described = describe(path)
        if any(item.problems for item in described):
            with pytest.raises(ReadError):
                read_series(path)
            continue
        told = {note for item in described for note in item.notes}
        assert told == {note for item in read_series(path) for note in item.notes}


SYNTAXES = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian, "big": ExplicitVRBigEndian}


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_files_without_preamble_are_read(tmp_path, syntax, meta):
    for k in range(3):
        dataset = make.dataset_of(k)
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        if syntax == "big":
            dataset.PixelData = make.pixels_of(k).byteswap().tobytes()
        path = make.save(dataset, tmp_path / f"IM{k}")
        data = path.read_bytes()
        start = 132 if meta else 144 + int.from_bytes(data[140:144], "little")
        path.write_bytes(data[start:])
    assert detect_format(path) == "dicom"
    (series,) = read_series(tmp_path)
    assert series.frames[:, 0].tolist() == [make.pixels_of(k).tolist() for k in range(3)]
    assert any("no preamble" in note for note in series.notes)


@pytest.mark.parametrize("start", [b"\x08\0\x05\0CS\x0a\0ISO_IR 100", b"\x08\0\0\0\x04\0\0\0"])
def test_what_starts_like_dicom_and_is_none_is_a_typed_error(tmp_path, start):
    path = tmp_path / "x"
    path.write_bytes(start + np.random.default_rng(5).bytes(4000))
    with pytest.raises(ReadError, match="x: "):
        read_series(path)
    assert describe(path)[0].problems


def test_links_are_walked_once_and_do_not_leave_the_folder(tmp_path):
    elsewhere = make.write_series(tmp_path / "elsewhere", 2, SeriesInstanceUID="1.2.3.9")
    inside = make.write_series(tmp_path / "in" / "a", 3)
    (tmp_path / "in" / "again.dcm").symlink_to(inside[0])
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    listing = list_dicom(tmp_path / "in")
    assert [group.frames for group in listing.groups] == [3]
    assert {path.name: reason for path, reason in listing.skipped} == dict.fromkeys(
        ("out", "up"), "a link to a folder elsewhere: not followed, choose that folder"
    )
    assert not any("left out" in note for note in listing.groups[0].notes)
    (tmp_path / "in" / "kept_elsewhere.dcm").symlink_to(elsewhere[0])
    assert sorted(group.frames for group in list_dicom(tmp_path / "in").groups) == [1, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_odd_file_names_stay_in_their_line(tmp_path):
    paths = make.write_series(tmp_path, 3)
    (tmp_path / "line\nbreak\x1b[31m.txt").write_text("no image")
    os.rename(paths[2], os.fsencode(tmp_path) + b"/\xff.dcm")
    text = repr([read_dicom(tmp_path, drop_damaged=True), list_dicom(tmp_path).notes])
    assert "\\n" not in text
    assert "\\x1b" not in text
    with pytest.raises(ReadError, match="bytes that are no text"):
        read_dicom(tmp_path)
    with pytest.raises(ReadError, match="not a usable path"):
        read_series(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.dcm")))


def test_files_looked_at_are_counted(tmp_path):
    make.write_series(tmp_path, 2)
    for k in range(250):
        (tmp_path / f"{k}.txt").touch()
    for call in (read_series, describe):
        seen: list[int] = []
        call(tmp_path, progress=seen.append)
        assert seen == [100, 200]


def _regions(*boxes: tuple[tuple[int, int, int, int], tuple[int, int], tuple[float, float]]) -> list[Any]:
    return [
        make._item(
            **dict(
                zip(("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1"), box, strict=True)
            ),
            PhysicalUnitsXDirection=units[1],
            PhysicalUnitsYDirection=units[0],
            PhysicalDeltaY=delta[0],
            PhysicalDeltaX=delta[1],
        )
        for box, units, delta in boxes
    ]


CM, SECONDS, WHOLE = (3, 3), (4, 4), (0, 0, 6, 4)
REGIONS = [
    ([((0, 0, 1, 1), CM, (0.1, 0.1)), ((1, 0, 6, 4), CM, (0.03, 0.02))], (0.3, 0.2), "86 % of the frame"),
    ([(WHOLE, CM, (-0.03, 0.02)), ((0, 0, 3, 4), CM, (-0.03, 0.02))], (0.3, 0.2), "100 % of the frame"),
    ([((0, 0, 1, 4), SECONDS, (1, 1)), ((2, 0, 6, 4), CM, (0.03, 0.02))], (0.3, 0.2), "71 % of the frame"),
    ([((0, 0, 4, 4), SECONDS, (1, 1)), ((5, 0, 6, 4), CM, (0.03, 0.02))], None, "--spacing"),
    ([((0, 0, 2, 4), CM, (0.1, 0.1)), ((3, 0, 6, 4), CM, (0.03, 0.02))], None, "--spacing"),
    ([(WHOLE, SECONDS, (1, 1))], None, "they give no pixel size"),
]


@pytest.mark.parametrize(
    ("regions", "spacing", "told"), REGIONS, ids=["inset", "equal", "trace", "mostly trace", "two", "none in cm"]
)
def test_the_region_that_covers_the_ultrasound_image_gives_its_pixel_size(tmp_path, regions, spacing, told):
    dataset = make.ultrasound(3)
    dataset.SequenceOfUltrasoundRegions = _regions(*regions)
    path = make.save(dataset, tmp_path / "us.dcm")
    (group,) = list_dicom(path).groups
    assert group.spacing_mm == spacing
    assert any(told in text for text in (*group.notes, *group.problems))
    if told == "--spacing":
        with pytest.raises(ReadError, match="--spacing"):
            read_dicom(path)
        assert read_dicom(path, spacing=(0.5, 0.5))[0].grid.spacing == (0.5, 0.5)


@pytest.mark.parametrize(
    "values",
    [{"EstimatedRadiographicMagnificationFactor": "1.5"}, {"DistanceSourceToDetector": "1200", "DistanceSourceToPatient": "800"}],
    ids=["factor", "distances"],
)
def test_magnification_takes_the_detectors_spacing_into_the_patient(tmp_path, values):
    make.write_series(tmp_path, 2, PixelSpacing=None, ImagerPixelSpacing=[0.3, 0.6], **values)
    (series,) = read_dicom(tmp_path)
    assert series.grid.spacing == (0.2, 0.4)
    assert any("ImagerPixelSpacing" in note and "1.5" in note for note in series.notes)


def test_video_streams_are_named_and_not_damaged(tmp_path):
    from pydicom.encaps import encapsulate

    dataset = make.ultrasound(4)
    dataset.PixelData = encapsulate([b"a stream of all frames"])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    path = make.save(dataset, tmp_path / "video.dcm")
    with pytest.raises(ReadError, match=r"pixels encoded as MPEG-4.*cannot be read; convert the files first"):
        read_dicom(path)
    assert "MPEG-4" in list_dicom(path).groups[0].problems[0]
