"""What the DICOM reader makes of sound files: values, order in time, slice positions, geometry, spacing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from r2n2.errors import ArgumentError, ReadError
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom


def _load_factory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_factory", Path(__file__).with_name("dicom_factory.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load_factory()


def test_values_times_and_type_of_a_series(tmp_path):
    make.write_series(tmp_path, 4)
    (series,) = read_dicom(tmp_path)
    assert series.dtype == np.int16
    assert_array_equal(series.frames[:, 0], np.stack([make.pixels_of(k) for k in range(4)]))
    assert_allclose(series.times_s, (0.01, 0.05, 0.09, 0.13))
    assert series.modality == "MR"
    assert series.name == f"{tmp_path.name} slice 0"
    assert series.source["time_tag"] == "TriggerTime"
    assert any("TriggerTime" in note for note in series.notes)


def test_single_file_stands_for_its_slice_position(tmp_path):
    make.write_series(tmp_path, 3)
    other = [make.dataset_of(k, ImagePositionPatient=[0.0, 20.0, 38.0], SOPInstanceUID=f"1.2.9.{k}") for k in range(2)]
    files = [make.save(dataset, tmp_path / f"other{k}.dcm") for k, dataset in enumerate(other)]
    (series,) = read_dicom(files[1])
    assert len(series) == 2
    (series,) = read_dicom(tmp_path / "01.dcm")
    assert len(series) == 3


def test_two_slices_of_twenty_phases_share_a_series_uid(tmp_path):
    for position in range(2):
        for phase in range(20):
            number = 20 * position + phase
            place = [10.0 - 7.2 * position, 20.0, 30.0 + 5.4 * position]
            dataset = make.dataset_of(number, TriggerTime=str(40 * phase), ImagePositionPatient=place)
            make.save(dataset, tmp_path / f"{(number * 7) % 40:02d}.dcm")
    listing = list_dicom(tmp_path)
    assert [(group.key, group.frames, group.slice_index) for group in listing.groups] == [("100/0", 20, 0), ("100/1", 20, 1)]
    first, second = read_dicom(tmp_path)
    assert first.frames[3, 0, 0, 0] == 300
    assert second.frames[3, 0, 0, 0] == 2300
    assert read_dicom(tmp_path, slice_index=1)[0].frames[0, 0, 0, 0] == 2000
    assert read_dicom(tmp_path, series="100/1")[0].frames[0, 0, 0, 0] == 2000
    with pytest.raises(ArgumentError, match="slice position 5"):
        read_dicom(tmp_path, slice_index=5)


@pytest.mark.parametrize(
    "change",
    [
        {"SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.1.200"},
        {"ImageOrientationPatient": [0.6, 0.0, -0.8, 0.0, 1.0, 0.0]},
        {"ImagePositionPatient": [10.0, 20.0, 30.5]},
        {"PixelSpacing": [1.2, 2.4]},
        {"pixels": np.zeros((5, 8), np.int16)},
        {"ImageType": ["ORIGINAL", "PRIMARY", "P"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_frames_that_differ_are_never_stacked(tmp_path, change):
    make.write_series(tmp_path / "a", 3)
    for k in range(3):
        make.save(make.dataset_of(k + 3, **change), tmp_path / f"b{k}.dcm")
    assert [len(series) for series in read_dicom(tmp_path)] == [3, 3]


def test_series_is_picked_by_part_of_its_uid(tmp_path):
    make.write_series(tmp_path / "a", 2)
    make.write_series(tmp_path / "b", 3, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.1.200")
    assert len(read_dicom(tmp_path, series=".200")[0]) == 3
    with pytest.raises(ArgumentError, match="fits 2 series"):
        read_dicom(tmp_path, series="1.2.826")
    with pytest.raises(ArgumentError, match="choose one of 100/0, 200/0"):
        read_dicom(tmp_path, series="nonsense")


def test_rounding_of_positions_does_not_split_a_slice(tmp_path):
    make.write_series(tmp_path, 2)
    make.save(make.dataset_of(2, ImagePositionPatient=[10.0004, 20.0, 29.9996]), tmp_path / "02.dcm")
    assert len(read_dicom(tmp_path)) == 1


@pytest.mark.parametrize(
    ("blank", "expected", "times"),
    [
        ((), "TriggerTime", (0.01, 0.05, 0.09, 0.13)),
        (("TriggerTime",), "AcquisitionTime", (0, 1, 2, 3)),
        (("TriggerTime", "AcquisitionTime"), "ContentTime", (0, 1, 2, 3)),
        (("TriggerTime", "AcquisitionTime", "ContentTime"), "InstanceNumber", None),
    ],
)
def test_each_time_tag_blanked_in_turn_with_shuffled_names(tmp_path, blank, expected, times):
    for k in range(4):
        make.save(make.dataset_of(k, **dict.fromkeys(blank)), tmp_path / f"{(3 * k + 1) % 4}.dcm")
    (series,) = read_dicom(tmp_path)
    assert series.source["time_tag"] == expected
    assert_array_equal(series.frames[:, 0, 0, 0], [0, 100, 200, 300])
    assert series.times_s is None if times is None else np.allclose(series.times_s, times)
    assert any(note.startswith(f"frames are in the order of {expected}") for note in series.notes)


def test_a_tag_that_two_frames_share_is_not_used(tmp_path):
    make.write_series(tmp_path, 3, TriggerTime="0")
    assert read_dicom(tmp_path)[0].source["time_tag"] == "AcquisitionTime"


def test_temporal_position_has_times_only_with_a_resolution(tmp_path):
    nothing = dict.fromkeys(("TriggerTime", "AcquisitionTime", "ContentTime", "InstanceNumber"))
    for k in range(3):
        make.save(make.dataset_of(k, **nothing, **{"TemporalPositionIdentifier": 3 - k}), tmp_path / f"{k}.dcm")
    (series,) = read_dicom(tmp_path)
    assert_array_equal(series.frames[:, 0, 0, 0], [200, 100, 0])
    assert series.times_s is None
    for k in range(3):
        values = {**nothing, "TemporalPositionIdentifier": 3 - k, "TemporalResolution": "250"}
        make.save(make.dataset_of(k, **values), tmp_path / f"{k}.dcm")
    assert_allclose(read_dicom(tmp_path)[0].times_s, (0, 0.25, 0.5))


def test_nothing_that_orders_is_an_error(tmp_path):
    nothing = ("TriggerTime", "AcquisitionTime", "ContentTime", "InstanceNumber", "TemporalPositionIdentifier")
    make.write_series(tmp_path, 3, **dict.fromkeys(nothing))
    assert list_dicom(tmp_path).groups[0].problems
    with pytest.raises(ReadError, match="nothing in the headers orders its 3 frames"):
        read_dicom(tmp_path)


def test_dates_carry_acquisitions_over_midnight(tmp_path):
    for k, (date, time) in enumerate([("20200131", "235959.5"), ("20200201", "000000.25")]):
        make.save(make.dataset_of(k, TriggerTime=None, AcquisitionDate=date, AcquisitionTime=time), tmp_path / f"{1 - k}.dcm")
    (series,) = read_dicom(tmp_path)
    assert series.times_s == (0, 0.75)


def test_missing_instance_keeps_real_times_and_is_named(tmp_path):
    make.write_series(tmp_path, 10)
    (tmp_path / "06.dcm").unlink()
    (series,) = read_dicom(tmp_path)
    assert len(series) == 9
    assert_allclose(np.diff(series.times_s)[5], 0.08)
    assert any("InstanceNumber 7 may be missing" in note for note in series.notes)
    assert any("time is not regular: 0.08 s between frames 5 and 6" in note for note in series.notes)


def test_copy_of_an_instance_is_dropped_with_a_note(tmp_path):
    make.write_series(tmp_path, 5)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "02.dcm").read_bytes())
    (series,) = read_dicom(tmp_path)
    assert_array_equal(series.frames[:, 0, 0, 0], [0, 100, 200, 300, 400])
    assert any("copy.dcm was left out: the same SOPInstanceUID" in note for note in series.notes)


def test_different_frames_that_share_a_sop_uid_are_all_kept(tmp_path):
    make.write_series(tmp_path, 4, SOPInstanceUID="1.2.3.4")
    (series,) = read_dicom(tmp_path)
    assert len(series) == 4
    assert any("both were kept" in note for note in series.notes)


def test_a_slice_position_shorter_than_the_others_is_noted(tmp_path):
    for position in range(3):
        place = [0.0, 0.0, 9.0 * position]
        make.write_series(tmp_path / str(position), 3 if position == 1 else 4, ImagePositionPatient=place, SOPInstanceUID=None)
    middle = read_dicom(tmp_path, slice_index=1)[0]
    assert any("3 frames, where most slice positions of the series have 4" in note for note in middle.notes)


@pytest.mark.parametrize("measures", [True, False])
def test_enhanced_multiframe_with_and_without_pixel_measures(tmp_path, measures):
    path = make.save(make.enhanced(2, 3, measures=measures), tmp_path / "enhanced.dcm")
    assert [group.frames for group in list_dicom(path).groups] == [3, 3]
    first, second = read_dicom(path)
    assert_allclose(first.times_s, (0, 0.05, 0.1))
    assert first.source["time_tag"] == "NominalCardiacTriggerDelayTime"
    for series, slice_index in ((first, 0), (second, 1)):
        expected = [make.pixels_of(10 * slice_index + p).astype(int) * (p + 1) - 5 for p in range(3)]
        assert_array_equal(series.frames[:, 0], expected)
    assert first.spacing_known is measures
    assert first.grid.spacing == ((1.2, 2.5) if measures else (1, 1))
    assert first.patient_grid.spacing[0] == (9 if measures else 1)
    assert any("--spacing" in note for note in first.notes) is not measures
    assert_allclose(np.subtract(second.patient_grid.origin, first.patient_grid.origin), (5.4, 0, -7.2))


def test_multiframe_cine_takes_its_times_from_frame_time(tmp_path):
    path = make.save(make.ultrasound(4), tmp_path / "us.dcm")
    (series,) = read_dicom(path)
    assert series.frames.shape == (4, 3, 5, 7)
    assert_array_equal(series.frames[2, 1], make.pixels_of(2, dtype=np.uint8) // 2)
    assert_allclose(series.times_s, (0, 0.0335, 0.067, 0.1005))
    assert_allclose(series.grid.spacing, (0.4, 0.5))
    assert any("ultrasound region" in note for note in series.notes)
    assert any("burnt-in text" in note for note in series.notes)


def test_frame_time_vector_holds_the_steps_before_each_frame(tmp_path):
    path = make.save(make.ultrasound(4, FrameTimeVector=["5", "10", "30", "20"]), tmp_path / "us.dcm")
    assert_allclose(read_dicom(path)[0].times_s, (0, 0.01, 0.04, 0.06))


def test_slopes_one_and_two_give_equal_real_values(tmp_path):
    real = make.pixels_of(0) * 2
    make.save(make.dataset_of(0, real, RescaleSlope="1", RescaleIntercept="-10"), tmp_path / "a.dcm")
    make.save(make.dataset_of(1, real // 2, RescaleSlope="2", RescaleIntercept="-10"), tmp_path / "b.dcm")
    (series,) = read_dicom(tmp_path)
    assert_array_equal(series.frames[0], series.frames[1])
    assert_array_equal(series.frames[0, 0], real - 10)
    assert series.dtype == np.int16
    assert series.source["rescale"] == [[1.0, -10.0], [2.0, -10.0]]


def test_fractional_slope_gives_float_and_large_integers_fit(tmp_path):
    make.write_series(tmp_path / "a", 2, RescaleSlope="0.5", RescaleIntercept="0")
    (series,) = read_dicom(tmp_path / "a")
    assert series.dtype == np.float32
    assert_array_equal(series.frames[1, 0], make.pixels_of(1) * 0.5)
    make.write_series(tmp_path / "b", 2, RescaleSlope="1000", RescaleIntercept="0")
    (series,) = read_dicom(tmp_path / "b")
    assert series.dtype == np.int32
    assert series.frames.max() == 134000


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.uint8, 8), (np.int16, 16)])
def test_monochrome1_is_inverted_in_the_range_of_its_bits(tmp_path, dtype, bits):
    pixels = make.pixels_of(0, dtype=dtype)
    values = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": bits, "HighBit": bits - 1}
    make.save(make.dataset_of(0, pixels, **values), tmp_path / "a.dcm")
    (series,) = read_dicom(tmp_path)
    assert series.dtype == dtype
    expected = -1 - pixels.astype(int) if np.dtype(dtype).kind == "i" else 2**bits - 1 - pixels.astype(int)
    assert_array_equal(series.frames[0, 0], expected)
    assert series.source["inverted"]
    assert any("MONOCHROME1" in note for note in series.notes)


def test_signed_values_stay_negative(tmp_path):
    make.save(make.dataset_of(0, make.pixels_of(0) - 20), tmp_path / "a.dcm")
    assert read_dicom(tmp_path)[0].frames.min() == -20


def test_slope_zero_is_damage(tmp_path):
    make.write_series(tmp_path, 2, RescaleSlope="0", RescaleIntercept="0")
    with pytest.raises(ReadError, match="RescaleSlope is 0"):
        read_dicom(tmp_path)


def test_pixel_spacing_is_row_distance_first(tmp_path):
    make.write_series(tmp_path, 2)
    (series,) = read_dicom(tmp_path)
    assert series.grid.shape == (5, 7)
    assert series.grid.spacing == (1.2, 2.5)  # y, x
    assert series.patient_grid.spacing == (8, 1.2, 2.5)


@pytest.mark.parametrize("spacing", [[0, 2.5], [-1.2, 2.5], ["nan", 2.5], [1.2]])
def test_useless_spacing_asks_for_the_option(tmp_path, spacing):
    for k in range(2):
        make.save(make.with_text(make.dataset_of(k), "PixelSpacing", "DS", spacing), tmp_path / f"{k}.dcm")
    assert "--spacing" in list_dicom(tmp_path).groups[0].problems[0]
    with pytest.raises(ReadError, match="--spacing"):
        read_dicom(tmp_path)
    (series,) = read_dicom(tmp_path, spacing=(3.0, 4.0))
    assert series.grid.spacing == (3, 4)
    with pytest.raises(ArgumentError, match="spacing"):
        read_dicom(tmp_path, spacing=(0.0, 4.0))


def test_slices_without_position_are_told_apart_by_slice_location(tmp_path):
    for k in range(4):
        make.save(make.dataset_of(k, ImagePositionPatient=None, SliceLocation=str(8 * (k % 2))), tmp_path / f"{k}.dcm")
    first, second = read_dicom(tmp_path)
    assert_array_equal(first.frames[:, 0, 0, 0], [0, 200])
    assert_array_equal(second.frames[:, 0, 0, 0], [100, 300])


def test_palette_colour_becomes_rgb(tmp_path):
    dataset = make.dataset_of(0, make.pixels_of(0, dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR", Modality="US")
    for c, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(256) * 250 + c).astype("<u2")
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    (series,) = read_dicom(make.save(dataset, tmp_path / "a.dcm"))
    assert series.channels == 3
    assert_array_equal(series.frames[0, 2], make.pixels_of(0).astype(int) * 250 + 2)
    assert series.source["bits_stored"] == 16


def test_three_spacings_give_the_slice_distance_too(tmp_path):
    make.write_series(tmp_path, 2)
    (series,) = read_dicom(tmp_path, spacing=(5.0, 3.0, 4.0))
    assert series.patient_grid.spacing == (5, 3, 4)
    assert any("was given; the headers say (1.2, 2.5)" in note for note in series.notes)


def test_spacing_from_the_detector_is_noted(tmp_path):
    make.write_series(tmp_path, 2, PixelSpacing=None, ImagerPixelSpacing=[0.3, 0.4])
    (series,) = read_dicom(tmp_path)
    assert series.grid.spacing == (0.3, 0.4)
    assert any("ImagerPixelSpacing" in note for note in series.notes)


def test_oblique_slice_is_placed_in_the_patient(tmp_path):
    make.write_series(tmp_path, 2)
    (series,) = read_dicom(tmp_path)
    assert series.grid.origin == (0, 0)
    assert series.grid.direction == ((1, 0), (0, 1))
    # along a row (column index grows): LPS x,y,z = 0.6, 0, 0.8; along a column: 0, 1, 0; normal: row x column = -0.8, 0, 0.6
    assert_allclose(series.patient_grid.direction, [[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]], atol=1e-12)
    assert series.patient_grid.origin == (30, 20, 10)


def test_axial_slice_has_the_patients_origin_and_direction(tmp_path):
    make.write_series(tmp_path, 2, ImageOrientationPatient=[0.0, 1.0, 0.0, -1.0, 0.0, 0.0])
    (series,) = read_dicom(tmp_path)
    assert series.grid.origin == (20, 10)
    # rows grow towards -x, columns towards +y; matrix rows are world y, x and its columns the axes y, x
    assert_allclose(series.grid.direction, [[0, 1], [-1, 0]], atol=1e-12)


def test_without_position_there_is_no_patient_grid(tmp_path):
    make.write_series(tmp_path, 2, ImagePositionPatient=None, ImageOrientationPatient=None)
    (series,) = read_dicom(tmp_path)
    assert series.patient_grid is None
    assert any("where the slice lies" in note for note in series.notes)


def test_real_cine_series(real_data):
    folder = real_data / "sunnybrook-cine" / "final_data" / "dicoms"
    if not folder.is_dir():
        pytest.skip("no sunnybrook-cine here")
    listing = list_dicom(folder)
    assert len(listing.groups) == 19
    assert not listing.damaged
    assert all(group.frames == 20 and group.time_tag == "TriggerTime" and not group.problems for group in listing.groups)
    (series,) = read_dicom(folder / "SCD0000101", slice_index=4)
    assert series.frames.shape == (20, 1, 256, 256)
    assert series.dtype == np.int16
    assert (np.diff(series.times_s) > 0).all()
    numbers = [int(Path(name).stem) for name in series.source["files"]]
    assert numbers == series.source["instance_numbers"]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert (numbers[0] - 1) % 20 == 0
    assert sum("leading zero" in note for note in series.notes) == 1
    import pydicom

    raw = np.frombuffer(pydicom.dcmread(series.source["files"][7]).PixelData, "<i2").reshape(256, 256)
    assert_array_equal(series.frames[7, 0], raw)
