"""Segmentation objects read as labels: numbers, names, places, fractions, overlaps."""

from __future__ import annotations

import re
from pathlib import Path

import dicom_factory as make
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from r2n2.errors import ReadError
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom
from r2n2.io.dicom.segmentation import is_segmentation, read_segmentation

SHAPE = (3, 5, 7)


def _mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        mask[box] = 1
    return mask


LIVER = _mask(np.s_[0:3, 1:3, 2:6])
LESION = _mask(np.s_[1:2, 4:5, 0:2])
NAMES = {2: "Liver", 7: "Lesion, left"}


def test_binary_segments_become_numbers_with_names_at_their_place(tmp_path):
    path = make.save(make.segmentation({7: LESION, 2: LIVER[::-1]}, NAMES), tmp_path / "seg.dcm")
    found = read_segmentation(path)
    assert found.names == NAMES
    assert_array_equal(np.stack([series.frame(0)[0] for series in found.slices]), 2 * LIVER + 7 * LESION)
    assert [series.dtype for series in found.slices] == [np.uint8] * 3
    assert_allclose([series.patient_grid.origin for series in found.slices], [(30 + 7.5 * k, 20, 10) for k in range(3)])
    assert {series.grid.spacing for series in found.slices} == {(1.2, 2.5)}


def test_a_slice_without_segment_is_left_out(tmp_path):
    path = make.save(make.segmentation({7: LESION}, NAMES), tmp_path / "seg.dcm")
    (only,) = read_segmentation(path).slices
    assert only.patient_grid.origin[0] == 37.5
    assert_array_equal(only.frame(0)[0], 7 * LESION[1])


def test_fractions_go_to_the_largest_of_at_least_one_half(tmp_path):
    weak, strong = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    weak[0, 0, :4] = (99, 100, 150, 120)
    strong[0, 0, 2:6] = (140, 180, 100, 90)
    path = make.save(make.segmentation({1: strong, 3: weak}, {1: "a", 3: "b"}, "FRACTIONAL"), tmp_path / "seg.dcm")
    found = read_segmentation(path)
    assert_array_equal(found.slices[0].frame(0)[0, 0], [0, 3, 3, 1, 1, 0, 0])
    assert any("fractions" in note for note in found.notes)


def test_label_map_holds_its_numbers_itself(tmp_path):
    labels = 2 * LIVER + 7 * LESION
    path = make.save(make.segmentation({0: labels}, {0: "Background", **NAMES}, "LABELMAP"), tmp_path / "seg.dcm")
    found = read_segmentation(path)
    assert found.names == NAMES
    assert_array_equal(np.stack([series.frame(0)[0] for series in found.slices]), labels)


def test_overlap_is_told(tmp_path):
    path = make.save(make.segmentation({2: LIVER, 5: _mask(np.s_[0:1, 2:5, 5:7])}, {2: "a", 5: "b"}), tmp_path / "seg.dcm")
    found = read_segmentation(path)
    assert found.slices[0].frame(0)[0, 2, 5] == 5
    assert any("overlap in 1 pixels" in note for note in found.slices[0].notes)


def test_a_segment_twice_at_one_place_is_refused(tmp_path):
    dataset = make.segmentation({2: LIVER}, NAMES)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    path = make.save(dataset, tmp_path / "seg.dcm")
    with pytest.raises(ReadError, match="segment 2 2 times at one place"):
        read_segmentation(path)


def test_moments_are_frames(tmp_path):
    dataset = make.segmentation({2: LIVER[:2]}, NAMES)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    for moment, group in zip((2, 1), groups, strict=True):
        group.FrameContentSequence = [make._item(TemporalPositionIndex=moment)]
    dataset.PixelData = np.packbits(np.stack([LIVER[0], LESION[1]]).ravel(), bitorder="little").tobytes() + b"\0"
    (series,) = read_segmentation(make.save(dataset, tmp_path / "seg.dcm")).slices
    assert_array_equal(series.frames[:, 0], np.stack([2 * LESION[1], 2 * LIVER[0]]))


def test_a_segmentation_is_no_series_and_an_image_no_segmentation(tmp_path):
    path = make.save(make.segmentation({2: LIVER}, NAMES), tmp_path / "seg.dcm")
    image = make.save(make.dataset_of(0), tmp_path / "image.dcm")
    assert is_segmentation(path)
    assert not is_segmentation(image)
    with pytest.raises(ReadError, match="no DICOM segmentation object"):
        read_segmentation(image)
    assert (
        list_dicom(path)
        .problems[0]
        .endswith("no image series but a segmentation: r2n2 apply takes it with --to; choose a DICOM image")
    )
    assert any("seg.dcm" in note for note in read_dicom(image)[0].notes)


def test_a_cut_segmentation_is_a_typed_error(tmp_path):
    path = make.save(make.segmentation({2: LIVER}, NAMES), tmp_path / "seg.dcm")
    whole = path.read_bytes()
    for size in range(300, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ReadError, match=r"seg\.dcm"):
            read_segmentation(path)


def test_the_code_of_the_page_on_dicom_runs(tmp_path, monkeypatch, capsys):
    make.save(make.segmentation({2: LIVER, 7: LESION}, NAMES), tmp_path / "segmentation.dcm")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "how-to" / "dicom.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "dicom.md", "exec"), {})
    assert capsys.readouterr().out.startswith("{2: 'Liver', 7: 'Lesion, left'}\n[(30.0, 20.0, 10.0)")
