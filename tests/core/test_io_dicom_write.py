"""What the DICOM writer makes of a registered series: values, geometry and times come back, patient data does not."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io.dicom.reader import read_dicom
from r2n2.io.dicom.uids import stand_in
from r2n2.io.dicom.write import write_dicom_series
from r2n2.series import ImageSeries


def _load_factory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_factory", Path(__file__).with_name("dicom_factory.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load_factory()
CANARY = "CANARY"


def _frames(series):
    return [(k, series.frame(k)) for k in range(len(series))]


def _round_trip(series, folder, **options):
    folder.mkdir()
    paths = write_dicom_series(folder, series, _frames(series), **options)
    assert [path.name for path in paths] == [f"frame_{k:04d}.dcm" for k in range(len(series))]
    assert sorted(folder.iterdir()) == list(paths)
    (again,) = read_dicom(folder)
    return again


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ImageOrientationPatient": [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]},
        {"pixels": make.pixels_of(1, dtype=np.uint8)},
        {"pixels": make.pixels_of(1, dtype=np.uint16), "BitsStored": 12, "HighBit": 11, "RescaleSlope": "0.37"},
        {"pixels": make.pixels_of(3, dtype=np.uint16), "Modality": "CT", "RescaleSlope": "2", "RescaleIntercept": "-1024"},
        {"pixels": make.pixels_of(3), "Modality": "XA", "ImagePositionPatient": None},
        {"pixels": np.stack([make.pixels_of(0, dtype=np.uint8) + c for c in range(3)], axis=-1), "Modality": "US"},
        {"TriggerTime": None},
        {"TriggerTime": None, "AcquisitionTime": None, "ContentTime": None},
        {"PixelSpacing": None},
        {"PhotometricInterpretation": "MONOCHROME1"},
    ],
    ids=["oblique", "axial", "uint8", "slope", "ct", "no position", "colour", "clock", "no times", "no spacing", "monochrome1"],
)
def test_what_is_written_reads_back_the_same(tmp_path, values):
    pixels = values.get("pixels", make.pixels_of(0))
    (tmp_path / "in").mkdir()
    for k in range(3):
        make.save(make.dataset_of(k, **{**values, "pixels": pixels + np.array(k, pixels.dtype)}), tmp_path / "in" / f"{k}.dcm")
    (series,) = read_dicom(tmp_path / "in")
    again = _round_trip(series, tmp_path / "out")
    assert again.dtype == series.dtype
    assert_array_equal(again.frames, series.frames)
    assert (again.times_s is None) == (series.times_s is None)
    if series.times_s is not None:
        assert_allclose(again.times_s, series.times_s, atol=1e-9)
        assert again.source["time_tag"] == series.source["time_tag"]
    assert again.source["stored_dtype"] == series.source["stored_dtype"]
    assert again.spacing_known == series.spacing_known
    assert again.modality == series.modality
    assert (again.patient_grid is None) == (series.patient_grid is None)
    assert again.grid == series.grid
    if series.patient_grid is not None:
        assert again.patient_grid.same_space(series.patient_grid)
        assert_allclose(again.patient_grid.spacing, series.patient_grid.spacing)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.01, 50)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_geometry_survives_for_any_pose(angles, spacing, origin):
    source = {"format": "dicom", "stored_dtype": "int16", "bits_stored": 16, "rescale": [[1, 0]], "files": []}
    patient = Grid((1, 5, 7), spacing, origin, _rotation(angles))
    series = ImageSeries(
        make.pixels_of(0)[None, None], Grid((5, 7), spacing[1:]), (0.0,), modality="MR", patient_grid=patient, source=source
    )
    with tempfile.TemporaryDirectory() as folder:
        write_dicom_series(Path(folder), series, _frames(series))
        (again,) = read_dicom(Path(folder))
    assert again.patient_grid.same_space(patient, tolerance=1e-5)
    assert_allclose(again.patient_grid.spacing, spacing)


def _rotation(angles):
    matrix = np.eye(3)
    for (i, j), angle in zip(((0, 1), (1, 2), (0, 1)), angles, strict=True):
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    # the file holds the slice normal as row x column only: the handedness that those give
    normal = np.cross(matrix[::-1, 2], matrix[::-1, 1])[::-1]
    return tuple(map(tuple, np.stack([normal, matrix[:, 1], matrix[:, 2]], axis=1).tolist()))


def test_enhanced_input_is_written_frame_by_frame_with_its_own_rescale(tmp_path):
    path = make.save(make.enhanced(1, 3), tmp_path / "enhanced.dcm")
    (series,) = read_dicom(path)
    again = _round_trip(series, tmp_path / "out")
    assert_array_equal(again.frames, series.frames)
    assert_allclose(again.times_s, series.times_s)
    assert again.source["rescale"] == [[1, -5], [2, -5], [3, -5]]
    assert again.patient_grid.same_space(series.patient_grid)


def test_values_are_rounded_and_clipped_to_the_stored_range(tmp_path):
    make.write_series(tmp_path / "in", 1, pixels=make.pixels_of(0, dtype=np.uint16), BitsStored=12, HighBit=11)
    (series,) = read_dicom(tmp_path / "in")
    frame = np.zeros((1, 5, 7))
    frame[0, 0, :4] = (-3.0, 5000.0, 1.6, 2.4)
    (path,) = write_dicom_series(tmp_path, series, [(0, frame)])
    assert_array_equal(pydicom.dcmread(path).pixel_array[0, :4], [0, 4095, 2, 2])


def test_derived_headers(tmp_path):
    make.write_series(tmp_path / "in", 2)
    (series,) = read_dicom(tmp_path / "in")
    first, second = (pydicom.dcmread(path) for path in write_dicom_series(tmp_path, series, _frames(series)))
    source = pydicom.dcmread(tmp_path / "in" / "00.dcm")
    assert list(first.ImageType) == ["DERIVED", "SECONDARY"]
    assert first.SeriesDescription == "R2N2 registered"
    assert first.PhotometricInterpretation == "MONOCHROME2"
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != source.SeriesInstanceUID
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, source.SOPInstanceUID}) == 3
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert first.StudyInstanceUID == second.StudyInstanceUID != source.StudyInstanceUID
    assert (second.TriggerTime, second.InstanceNumber) == (50, 2)


def test_two_slices_of_a_study_stay_in_one_study_and_frame_of_reference(tmp_path):
    written = []
    for k in range(2):
        make.write_series(tmp_path / str(k), 1, ImagePositionPatient=[0.0, 0.0, 8.0 * k])
        (series,) = read_dicom(tmp_path / str(k))
        written.append(pydicom.dcmread(write_dicom_series(tmp_path / str(k), series, _frames(series))[0]))
    assert written[0].StudyInstanceUID == written[1].StudyInstanceUID
    assert written[0].FrameOfReferenceUID == written[1].FrameOfReferenceUID != "1.2.826.0.1.3680043.8.498.2"
    assert written[0].SeriesInstanceUID != written[1].SeriesInstanceUID


def _with_patient(folder):
    folder.mkdir()
    for k in range(2):
        dataset = make.dataset_of(k, RescaleSlope="2", RescaleIntercept="1")
        for keyword in ("PatientName", "PatientID", "InstitutionName", "SeriesDescription", "ImageComments", "StationName"):
            setattr(dataset, keyword, CANARY)
        dataset.StudyDate = dataset.PatientBirthDate = "19510203"
        dataset.EchoTime = "1.5"
        dataset.private_block(0x0011, CANARY, create=True).add_new(0x01, "LO", CANARY)
        dataset.add_new(0x60003000, "OW", b"\1\2")
        make.save(dataset, folder / f"{k}.dcm")


def test_nothing_outside_the_allow_list_is_written(tmp_path):
    _with_patient(tmp_path / "in")
    (series,) = read_dicom(tmp_path / "in")
    for path in write_dicom_series(tmp_path, series, _frames(series)):
        data = path.read_bytes()
        assert CANARY.encode() not in data
        assert b"19510203" not in data
        assert not any(uid in data for uid in (make.SERIES.encode(), b"1.2.826.0.1.3680043.8.498.2\0"))
        header = pydicom.dcmread(path)
        assert header.PatientName == ""
        assert header.PatientID == ""


def test_headers_are_kept_on_request(tmp_path):
    _with_patient(tmp_path / "in")
    (series,) = read_dicom(tmp_path / "in")
    again = _round_trip(series, tmp_path / "out", keep_headers=True)
    assert_array_equal(again.frames, series.frames)
    header = pydicom.dcmread(tmp_path / "out" / "frame_0001.dcm")
    assert header.PatientName == CANARY
    assert header.EchoTime == 1.5
    assert header.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.1"
    assert header.SeriesInstanceUID != make.SERIES
    assert 0x60003000 not in header
    (tmp_path / "in" / "0.dcm").unlink()
    with pytest.raises(ReadError, match=r"0\.dcm: its headers cannot be copied"):
        write_dicom_series(tmp_path, series, _frames(series), keep_headers=True)


@pytest.mark.parametrize("axial", [True, False])
def test_simpleitk_reads_what_is_written_with_the_same_geometry(tmp_path, axial):
    sitk = pytest.importorskip("SimpleITK")
    make.write_series(tmp_path / "in", 3, ImageOrientationPatient=make.AXIAL if axial else make.OBLIQUE, RescaleSlope="2")
    (series,) = read_dicom(tmp_path / "in")
    paths = write_dicom_series(tmp_path, series, _frames(series))
    image = sitk.ReadImage(str(paths[2]))
    assert_array_equal(sitk.GetArrayFromImage(image)[0], series.frames[2, 0])
    patient = series.patient_grid
    assert image.GetSize() == (7, 5, 1)
    assert_allclose(image.GetSpacing(), patient.spacing[::-1])
    assert_allclose(image.GetOrigin(), patient.origin[::-1])
    assert_allclose(np.reshape(image.GetDirection(), (3, 3)), np.array(patient.direction)[::-1, ::-1], atol=1e-6)
    original = sitk.ReadImage(str(tmp_path / "in" / "02.dcm"))
    assert_allclose(original.GetDirection(), image.GetDirection(), atol=1e-9)
    assert_allclose(original.TransformIndexToPhysicalPoint((6, 2, 0)), image.TransformIndexToPhysicalPoint((6, 2, 0)))
    assert_array_equal(sitk.GetArrayFromImage(original), sitk.GetArrayFromImage(image))


def test_frames_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    make.write_series(tmp_path / "in", 2)
    (series,) = read_dicom(tmp_path / "in")
    for frame in (np.zeros((1, 7, 5)), np.full((1, 5, 7), np.nan)):
        with pytest.raises(ArgumentError, match="frame 0"):
            write_dicom_series(tmp_path, series, [(0, frame)])
    with pytest.raises(ArgumentError, match="0 to 1"):
        write_dicom_series(tmp_path, series, [(2, np.zeros((1, 5, 7)))])
    with pytest.raises(ResourceError, match="does not exist"):
        write_dicom_series(tmp_path / "absent", series, _frames(series))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_series_of_another_format_is_refused(tmp_path):
    series = ImageSeries(np.zeros((2, 1, 5, 7), np.int16), Grid((5, 7)), source={"format": "npy"})
    with pytest.raises(ArgumentError, match="not read from DICOM"):
        write_dicom_series(tmp_path, series, _frames(series))


def test_real_series_survives_a_round_trip(real_data, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder = real_data / "sunnybrook-cine" / "final_data" / "dicoms" / "SCD0000301"
    if not folder.is_dir():
        pytest.skip("no sunnybrook-cine here")
    (series,) = read_dicom(folder, slice_index=2)
    again = _round_trip(series, tmp_path / "out", keep_headers=True)
    assert_array_equal(again.frames, series.frames)
    assert again.times_s == series.times_s
    assert again.patient_grid.same_space(series.patient_grid)
    original, image = (sitk.ReadImage(str(path)) for path in (series.source["files"][3], tmp_path / "out" / "frame_0003.dcm"))
    assert_allclose(image.GetOrigin(), original.GetOrigin())
    assert_allclose(image.GetDirection(), original.GetDirection(), atol=1e-5)  # the header has six digits
    assert_allclose(image.GetSpacing(), original.GetSpacing())


@pytest.mark.parametrize("keep_headers", [False, True])
def test_equal_results_are_equal_bytes_and_other_results_have_other_uids(tmp_path, keep_headers):
    make.write_series(tmp_path / "in", 3)
    (series,) = read_dicom(tmp_path / "in")
    frames = [series.frame(k) for k in range(3)]
    written = []
    for name, shift in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        changed = [frames[0], frames[1] + shift, frames[2]]
        written.append(write_dicom_series(tmp_path / name, series, enumerate(changed), keep_headers=keep_headers))
    first, again, other = ([path.read_bytes() for path in paths] for paths in written)
    assert first == again
    headers = [pydicom.dcmread(path) for paths in (written[0], written[2]) for path in paths]
    assert len({header.SOPInstanceUID for header in headers}) == 6
    assert len({header.SeriesInstanceUID for header in headers}) == 2
    assert all(header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID for header in headers)
    assert first[0] != other[0]


def test_a_series_without_study_gets_one_of_its_content(tmp_path):
    make.write_series(tmp_path / "in", 2, StudyInstanceUID=None)
    (series,) = read_dicom(tmp_path / "in")
    (tmp_path / "out").mkdir()
    paths = write_dicom_series(tmp_path / "out", series, enumerate([series.frame(0), series.frame(1)]))
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in paths}
    assert len(studies) == 1
    assert studies != {stand_in("study")}


@pytest.mark.parametrize(
    "change", [(b"\x08\0\x33\0TM", b"\x08\0\x33\0T\x06"), (b"\x08\0\x33\0TM", b"\x02\0\x33\0TM")], ids=["type", "group"]
)
def test_headers_that_cannot_be_written_again_are_a_typed_error_or_left_out(tmp_path, change):
    path = make.write_series(tmp_path / "in", 1)[0]
    path.write_bytes(path.read_bytes().replace(*change))
    (series,) = read_dicom(path)
    (tmp_path / "out").mkdir()
    with contextlib.suppress(ReadError):
        write_dicom_series(tmp_path / "out", series, [(0, series.frame(0))], keep_headers=True)
    write_dicom_series(tmp_path / "out", series, [(0, series.frame(0))])
    assert_array_equal(read_dicom(tmp_path / "out")[0].frames[0], series.frames[0])
