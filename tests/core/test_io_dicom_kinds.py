"""Frames that are images of different kinds are never one series in time: set apart, refused by name, or joined on purpose."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import dicom_factory as make
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from r2n2.errors import ReadError
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom

CONTRASTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"EchoTime": "1.2"}, {"EchoTime": "2.4"}, "EchoTime 2.4 ms"),
    ({"InversionTime": "110"}, {"InversionTime": "900"}, "InversionTime 900 ms"),
    ({"FlipAngle": "5"}, {"FlipAngle": "15"}, "FlipAngle 15 degrees"),
    ({"RepetitionTime": "500"}, {"RepetitionTime": "2000"}, "RepetitionTime 2000 ms"),
    ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}, "DiffusionBValue 800"),
    ({"SequenceName": "*ep_b0"}, {"SequenceName": "*ep_b1000#4"}, "DiffusionBValue 1000"),
    (
        {"DiffusionGradientOrientation": [1.0, 0, 0]},
        {"DiffusionGradientOrientation": [0.0, 1, 0]},
        "DiffusionGradientOrientation no. 2",
    ),
    ({"ContrastBolusAgentPhase": "PRE_CONTRAST"}, {"ContrastBolusAgentPhase": "ARTERIAL"}, "ContrastBolusAgentPhase ARTERIAL"),
    ({"SequenceName": "fl2d_v150in"}, {"SequenceName": "fl2d_v150ap"}, "SequenceName no. 2"),
    ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, "AcquisitionNumber 2"),
    ({"ScanOptions": "PFP"}, {"ScanOptions": ["PFP", "FS"]}, "ScanOptions FS"),
    ({"VelocityEncodingMaximumValue": 100.0}, {"VelocityEncodingMaximumValue": 150.0}, "VelocityEncodingMaximumValue 150 cm per s"),
    ({"PixelBandwidth": "500"}, {"PixelBandwidth": "1000"}, "PixelBandwidth 1000 Hz"),
]
KINDS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"ComplexImageComponent": "MAGNITUDE"}, {"ComplexImageComponent": "PHASE"}, "ComplexImageComponent PHASE"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "ImageType P"),
    (
        {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]},
        {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]},
        "ImageType WATER",
    ),
    ({"ImageType": ["DERIVED", "PRIMARY", "M"]}, {"ImageType": ["DERIVED", "PRIMARY", "M", "IN_PHASE"]}, "ImageType IN_PHASE"),
    ({"ReceiveCoilName": "H1"}, {"ReceiveCoilName": "H2"}, "ReceiveCoilName no. 2"),
]


def _write_two(folder: Path, first: dict[str, Any], second: dict[str, Any], count: int = 3) -> None:
    folder.mkdir(exist_ok=True)
    for k in range(2 * count):
        dataset = make.dataset_of(k, TriggerTime=None, AcquisitionTime=f"0841{k:02d}.0", **(second if k % 2 else first))
        make.save(dataset, folder / f"{k}.dcm")


@pytest.mark.parametrize(("first", "second", "label"), CONTRASTS + KINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_kinds_are_set_apart_and_named(tmp_path, first, second, label):
    _write_two(tmp_path, first, second)
    found = read_dicom(tmp_path)
    assert sorted(series.frames[:, 0, 0, 0].tolist() for series in found) == [[0, 200, 400], [100, 300, 500]]
    assert any(series.name.endswith(f"slice 0, {label}") for series in found)
    assert all(any("were set apart" in note for note in series.notes) for series in found)
    groups = list_dicom(tmp_path).groups
    (chosen,) = [group for group in groups if group.label == label]
    for key in (chosen.key, chosen.series_key):
        (series,) = read_dicom(tmp_path, series=key)
        assert series.name.endswith(label)


@pytest.mark.parametrize(("first", "second", "label"), CONTRASTS, ids=lambda value: value if isinstance(value, str) else "")
def test_contrasts_are_joined_on_purpose(tmp_path, first, second, label):
    _write_two(tmp_path, first, second)
    (series,) = read_dicom(tmp_path, contrast_series=True)
    assert series.frames[:, 0, 0, 0].tolist() == [0, 100, 200, 300, 400, 500]


def test_kinds_of_pixel_are_never_joined(tmp_path):
    for first, second, _ in KINDS:
        _write_two(tmp_path, first, second)
        assert len(read_dicom(tmp_path, contrast_series=True)) == 2


def _molli(folder: Path) -> None:
    folder.mkdir()
    for k, inversion in enumerate((110, 190, 270, 1010, 1090, 2010)):
        make.save(make.dataset_of(k, TriggerTime="600", InversionTime=str(inversion)), folder / f"{k}.dcm")


def test_frames_that_all_differ_are_refused_by_name_and_joined_on_purpose(tmp_path):
    _molli(tmp_path / "molli")
    with pytest.raises(ReadError, match=r"6 frames are no series in time.*InversionTime \(110 ms, 190 ms.*--contrast-series"):
        read_dicom(tmp_path / "molli")
    assert "--contrast-series" in list_dicom(tmp_path / "molli").groups[0].problems[0]
    (series,) = read_dicom(tmp_path / "molli", contrast_series=True)
    assert len(series) == 6
    assert any("InversionTime" in note and "--contrast-series asks" in note for note in series.notes)


VARYING = [
    {"TriggerTime": lambda k: str(40 * k), "NominalInterval": lambda k: str(900 + 13 * k), "HeartRate": lambda k: 60 + k % 5},
    {"WindowCenter": lambda k: str(400 + k), "WindowWidth": lambda k: str(900 - k), "RescaleSlope": lambda k: str(1 + k)},
    {"SAR": lambda k: f"0.{k}", "LargestImagePixelValue": lambda k: 900 + k, "ExposureTime": lambda k: str(100 + k)},
    {"EchoTime": lambda k: f"{1.2 + 0.001 * (k % 3):.3f}", "RepetitionTime": lambda k: f"{930 + 7 * (k % 4)}"},
    {"DiffusionBValue": lambda k: 1000.0 + 5 * (k % 3), "FlipAngle": lambda k: f"{60 + 0.05 * (k % 2)}"},
    {"AcquisitionNumber": lambda k: k + 1, "ContentTime": lambda k: f"1200{k:02d}", "SliceLocation": lambda k: "3"},
    {"TemporalPositionIdentifier": lambda k: k + 1, "DiffusionGradientOrientation": lambda k: [0.6, 0.8, 1e-4 * k]},
]


@pytest.mark.parametrize("values", VARYING, ids=lambda values: "-".join(values))
def test_what_varies_in_any_series_splits_none(tmp_path, values):
    for k in range(6):
        make.save(make.dataset_of(k, **{name: value(k) for name, value in values.items()}), tmp_path / f"{k}.dcm")
    (series,) = read_dicom(tmp_path)
    assert len(series) == 6
    assert list_dicom(tmp_path).groups[0].label == ""


def test_an_attribute_that_differs_between_slices_alone_splits_none(tmp_path):
    for position in range(2):
        place = [10.0 - 7.2 * position, 20.0, 30.0 + 5.4 * position]
        values = {"ImagePositionPatient": place, "EchoTime": str(1 + position), "SOPInstanceUID": None}
        make.write_series(tmp_path / str(position), 3, **values)
    assert [(group.key, group.frames) for group in list_dicom(tmp_path).groups] == [("100/0", 3), ("100/1", 3)]


def test_slices_are_counted_anew_for_every_kind(tmp_path):
    for position in range(2):
        for echo in range(2):
            place = [10.0 - 7.2 * position, 20.0, 30.0 + 5.4 * position]
            values = {"ImagePositionPatient": place, "EchoTime": str(1 + echo), "SOPInstanceUID": None}
            make.write_series(tmp_path / f"{position}{echo}", 3, **values)
    keys = [group.key for group in list_dicom(tmp_path).groups]
    assert keys == ["100 EchoTime 1 ms/0", "100 EchoTime 1 ms/1", "100 EchoTime 2 ms/0", "100 EchoTime 2 ms/1"]
    assert len(read_dicom(tmp_path, slice_index=1)) == 2


@pytest.mark.parametrize(
    ("group", "creator", "element", "vr", "values"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", ("0", "1000")),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", (["1000000000", "8", "0", "0"], ["1000000700", "8", "0", "0"])),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", (0.0, 600.0)),
        (0x0065, "Image Private Header", 0x09, "FD", (50.0, 800.0)),
    ],
    ids=["siemens", "ge", "philips", "uih"],
)
def test_vendors_own_b_values_are_known(tmp_path, group, creator, element, vr, values):
    for k in range(6):
        dataset = make.dataset_of(k, TriggerTime=None)
        dataset.private_block(group, creator, create=True).add_new(element, vr, values[k % 2])
        make.save(dataset, tmp_path / f"{k}.dcm")
    labels = [item.label for item in list_dicom(tmp_path).groups]
    low, high = (float(np.ravel(v)[0]) % 1e9 for v in values)
    assert labels == [f"DiffusionBValue {low:g}", f"DiffusionBValue {high:g}"]


PER_FRAME = [
    ("MRImageFrameTypeSequence", {"ComplexImageComponent": ("MAGNITUDE", "PHASE")}),
    ("MRImageFrameTypeSequence", {"FrameType": (["ORIGINAL", "PRIMARY", "M", "WATER"], ["ORIGINAL", "PRIMARY", "M", "FAT"])}),
    ("MREchoSequence", {"EffectiveEchoTime": (1.5, 4.5)}),
    ("MRDiffusionSequence", {"DiffusionBValue": (0.0, 500.0)}),
    ("MRTimingAndRelatedParametersSequence", {"FlipAngle": (5.0, 20.0)}),
    ("MRModifierSequence", {"InversionTimes": (100.0, 900.0)}),
    ("MRVelocityEncodingSequence", {"VelocityEncodingDirection": ([1.0, 0, 0], [0.0, 1, 0])}),
]


@pytest.mark.parametrize(("sequence", "values"), PER_FRAME, ids=lambda value: "-".join(value) if isinstance(value, dict) else value)
def test_functional_groups_of_single_frames_are_looked_into(tmp_path, sequence, values):
    dataset = make.enhanced(1, 6)
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        setattr(group, sequence, [make._item(**{name: pair[k % 2] for name, pair in values.items()})])
    path = make.save(dataset, tmp_path / "enhanced.dcm")
    assert [len(series) for series in read_dicom(path)] == [3, 3]


def test_cardiac_cycles_of_several_temporal_positions_are_set_apart(tmp_path):
    dataset = make.enhanced(1, 6)
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence = [make._item(TemporalPositionIndex=1 + k // 3)]
        group.CardiacSynchronizationSequence = [make._item(NominalCardiacTriggerDelayTime=50.0 * (k % 3))]
    path = make.save(dataset, tmp_path / "enhanced.dcm")
    found = read_dicom(path)
    assert [series.name.rpartition(", ")[2] for series in found] == ["temporal position 1", "temporal position 2"]
    assert_allclose([series.times_s for series in found], [(0, 0.05, 0.1)] * 2)


def test_a_cine_acquired_twice_is_known_by_its_times_alone(tmp_path):
    for k in range(6):
        values = {"TriggerTime": str(40 * (k % 3)), "AcquisitionTime": f"10050{k // 3}", "ContentTime": None}
        make.save(make.dataset_of(k, **values), tmp_path / f"{k}.dcm")
    groups = list_dicom(tmp_path).groups
    assert [(group.label, group.frames, group.time_tag) for group in groups] == [
        ("repetition 1", 3, "TriggerTime"),
        ("repetition 2", 3, "TriggerTime"),
    ]
    (series,) = read_dicom(tmp_path, contrast_series=True)
    assert len(series) == 6


@pytest.mark.parametrize("pointer", [0x00211188, 0x0048_0106], ids=["private", "optical path"])
def test_a_dimension_of_unknown_meaning_is_no_time(tmp_path, pointer):
    dataset = make.enhanced(1, 6)
    tags = (0x00209056, 0x00209128, pointer)
    dataset.DimensionIndexSequence = [make._item(DimensionIndexPointer=tag) for tag in tags]
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence = [make._item(DimensionIndexValues=[1, 1 + k // 2, 1 + k % 2], TemporalPositionIndex=1 + k // 2)]
    path = make.save(dataset, tmp_path / "enhanced.dcm")
    assert [len(series) for series in read_dicom(path)] == [3, 3]


def test_a_dimension_that_counts_single_frames_splits_none(tmp_path):
    dataset = make.enhanced(1, 4)
    dataset.DimensionIndexSequence = [make._item(DimensionIndexPointer=0x00211188)]
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence = [make._item(DimensionIndexValues=[1 + k])]
    assert [len(series) for series in read_dicom(make.save(dataset, tmp_path / "enhanced.dcm"))] == [4]


def test_ge_tells_the_component_in_an_element_of_its_own(tmp_path):
    for k in range(6):
        dataset = make.dataset_of(k, TriggerTime=None)
        dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", 2 * (k % 2))
        make.save(dataset, tmp_path / f"{k}.dcm")
    labels = [group.label for group in list_dicom(tmp_path).groups]
    assert labels == ["ComplexImageComponent MAGNITUDE", "ComplexImageComponent REAL"]


@pytest.mark.parametrize("same_size", [True, False])
def test_loops_of_one_series_stay_loops(tmp_path, same_size):
    for k in range(3):
        dataset = make.ultrasound(4, InstanceNumber=3 - k, SOPInstanceUID=f"1.2.3.{k}")
        if not same_size:
            region = dataset.SequenceOfUltrasoundRegions[0]
            region.PhysicalDeltaX = region.PhysicalDeltaY = 0.01 * (k + 1)
        make.save(dataset, tmp_path / f"clip{k}.dcm")
    groups = list_dicom(tmp_path).groups
    assert [(group.label, group.frames, group.slice_index) for group in groups] == [(f"loop {k}", 4, 0) for k in (1, 2, 3)]
    assert any("one of 3 loops of the series: clip2.dcm" in note for note in groups[0].notes)


def test_two_multiframe_files_of_different_planes_are_slices(tmp_path):
    for k in range(2):
        place = {"ImagePositionPatient": [0.0, 0.0, 8.0 * k], "ImageOrientationPatient": make.AXIAL}
        make.save(make.ultrasound(4, SOPInstanceUID=f"1.2.3.{k}", Modality="MR", **place), tmp_path / f"{k}.dcm")
    assert [(group.key, group.frames) for group in list_dicom(tmp_path).groups] == [("100/0", 4), ("100/1", 4)]


def test_detectors_of_nuclear_medicine_are_set_apart(tmp_path):
    vectors = {"DetectorVector": [1, 1, 1, 2, 2, 2], "TimeSlotVector": [1, 2, 3, 1, 2, 3]}
    path = make.save(make.ultrasound(6, Modality="NM", **vectors), tmp_path / "nm.dcm")
    assert [(series.name.rpartition(", ")[2], len(series)) for series in read_dicom(path)] == [
        ("DetectorVector 1", 3),
        ("DetectorVector 2", 3),
    ]


def _csa(count: int, normal: tuple[float, ...]) -> bytes:
    """The part of Siemens' own header that describes a MOSAIC."""

    def tag(name: bytes, vr: bytes, values: list[str]) -> bytes:
        items = b""
        for value in values:
            data = value.encode() + b"\0" * (-len(value) % 4)
            items += struct.pack("<4i", len(value), len(value), 77, len(value)) + data
        return struct.pack("<64si4s3i", name, len(values), vr, 6, len(values), 77) + items

    tags = [tag(b"NumberOfImagesInMosaic", b"US", [str(count)]), tag(b"SliceNormalVector", b"FD", [str(v) for v in normal])]
    return b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77) + b"".join(tags)


def _mosaic(index: int, **private: Any) -> Any:
    tiles = [make.pixels_of(10 * k + index) for k in range(3)] + [np.zeros((5, 7), np.int16)]
    image = np.block([tiles[:2], tiles[2:]])
    values = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "SpacingBetweenSlices": "9"}
    dataset = make.dataset_of(index, image, ImageOrientationPatient=make.AXIAL, **values)
    if "count" in private:
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", private["count"])
    if "csa" in private:
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", private["csa"])
    return dataset


@pytest.mark.parametrize(
    ("private", "step"),
    [({"count": 3}, 9.0), ({"csa": _csa(3, (0.0, 0.0, -1.0))}, -9.0)],
    ids=["count-only", "siemens-header"],
)
def test_mosaic_is_taken_apart_exactly(tmp_path, private, step):
    for k in range(4):
        make.save(_mosaic(k, **private), tmp_path / f"{k}.dcm")
    found = read_dicom(tmp_path)
    order = range(3) if step > 0 else reversed(range(3))  # slices are counted along the normal of rows and columns
    for series, tile in zip(found, order, strict=True):
        assert_array_equal(series.frames[:, 0], np.stack([make.pixels_of(10 * tile + k) for k in range(4)]))
        # the header's position belongs to the corner of an image of 10 x 14 pixels around the slice of 5 x 7
        assert_allclose(series.patient_grid.origin, (30 + step * tile, 20 + 2.5 * 1.2, 10 + 3.5 * 2.5))
    assert all(any("MOSAIC" in note and "taken apart into its 3 slices" in note for note in series.notes) for series in found)
    assert any("does not tell in which direction" in note for note in found[0].notes) is (step > 0)


@pytest.mark.parametrize("private", [{}, {"csa": b"SV10" + b"\xff" * 200}, {"count": 26}], ids=["nothing", "damaged", "too many"])
def test_mosaic_of_unknown_make_is_refused_by_name(tmp_path, private):
    make.save(_mosaic(0, **private), tmp_path / "0.dcm")
    with pytest.raises(ReadError, match=r"Siemens MOSAIC.*convert the files first"):
        read_dicom(tmp_path)
    assert "MOSAIC" in list_dicom(tmp_path).groups[0].problems[0]


def test_register_records_that_contrasts_were_joined(tmp_path, capsys):
    from r2n2.cli import main
    from r2n2.io import read_series
    from r2n2.results.manifest import input_sha256
    from r2n2.results.reader import read_result

    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(1).integers(0, 900, (3, 24, 30)).astype(np.int16)
    for k, echo in enumerate(("1", "5", "9")):
        make.save(make.dataset_of(k, pixels[k], EchoTime=echo), tmp_path / "in" / f"{k}.dcm")
    (tmp_path / "quick.toml").write_text('method = "bspline"\n[bspline]\niterations = 1\n')
    command = ["register", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--config", str(tmp_path / "quick.toml")]
    assert main(command) == 3
    assert "EchoTime (1 ms, 5 ms, 9 ms); pass --contrast-series" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "in")]) == 3
    assert main(["info", str(tmp_path / "in"), "--contrast-series"]) == 0
    assert main([*command, "--contrast-series"]) == 0
    record = read_result(tmp_path / "out").manifest.input
    assert record.selection == {"contrast_series": True}
    (again,) = read_series(record.path, **record.selection)
    assert input_sha256(again) == record.sha256


def test_free_texts_are_compared_and_never_shown(tmp_path):
    _write_two(tmp_path, {"SequenceName": "CANARY one"}, {"SequenceName": "CANARY two"})
    listing, found = list_dicom(tmp_path), read_dicom(tmp_path)
    assert [group.label for group in listing.groups] == ["SequenceName no. 1", "SequenceName no. 2"]
    assert "CANARY" not in repr([listing, found])
