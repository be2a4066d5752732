"""Which header value orders frames in time: the plausible one, told in a note."""

from __future__ import annotations

from typing import Any

import dicom_factory as make
import pytest
from numpy.testing import assert_allclose

from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom

DELAYS = (412, 35, 280, 610, 120, 505)


def _write(folder, count: int = 6, **values: Any) -> None:
    """Frames whose values are functions of their index; file names run backwards."""
    for k in range(count):
        own = {name: value(k) if callable(value) else value for name, value in values.items()}
        make.save(make.dataset_of(k, **own), folder / f"{count - k}.dcm")


def _order(folder) -> tuple[str, list[int], Any]:
    (series,) = read_dicom(folder)
    return series.source["time_tag"], (series.frames[:, 0, 0, 0] // 100).tolist(), series


def test_a_delay_after_the_r_wave_is_no_time(tmp_path):
    _write(tmp_path, TriggerTime=lambda k: str(DELAYS[k]), AcquisitionTime=lambda k: f"1005{k:02d}.5")
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("AcquisitionTime", list(range(6)))
    assert_allclose(series.times_s, range(6))
    assert (
        "AcquisitionTime was taken because the order of TriggerTime is uneven and does not run along InstanceNumber" in series.notes
    )


def test_one_moment_for_all_frames_is_passed_over(tmp_path):
    _write(tmp_path, TriggerTime="600", AcquisitionDateTime="20240101100500", AcquisitionTime=lambda k: f"1005{2 * k:02d}")
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("AcquisitionTime", list(range(6)))
    assert_allclose(series.times_s, range(0, 12, 2))


def test_acquisition_date_and_time_in_one_element(tmp_path):
    moments = [f"2024010{1 + k // 3}{'235958' if k < 3 else '000001'}.{k % 3}" for k in range(6)]
    _write(tmp_path, TriggerTime=None, AcquisitionTime=None, ContentTime=None, AcquisitionDateTime=lambda k: moments[k])
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("AcquisitionDateTime", list(range(6)))
    assert_allclose(series.times_s, (0, 0.1, 0.2, 3, 3.1, 3.2))


def test_without_numbers_a_delay_is_held_against_the_clock(tmp_path):
    seconds = (0, 1, 2, 9, 10, 31)
    numbers = {"InstanceNumber": None, "TemporalPositionIdentifier": None, "ContentTime": None}
    _write(tmp_path, TriggerTime=lambda k: str(DELAYS[k]), AcquisitionTime=lambda k: f"1005{seconds[k]:02d}", **numbers)
    assert _order(tmp_path)[:2] == ("AcquisitionTime", list(range(6)))


def test_a_sawtooth_of_delays_is_no_time(tmp_path):
    delays = [35, 85, 135, 41, 92, 143]
    _write(tmp_path, TriggerTime=lambda k: str(delays[k]), AcquisitionTime=None, ContentTime=None)
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("InstanceNumber", list(range(6)))
    assert series.times_s is None


def test_even_trigger_times_win_over_numbers_that_were_shuffled(tmp_path):
    _write(tmp_path, InstanceNumber=lambda k: (5 * k) % 6 + (k == 3) * 7 + 1, AcquisitionTime="100500", ContentTime="100500")
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("TriggerTime", list(range(6)))
    assert "the order of TriggerTime is not the order of InstanceNumber" in series.notes


def test_a_missing_frame_leaves_times_even(tmp_path):
    _write(tmp_path, InstanceNumber=lambda k: (17 * k) % 7, AcquisitionTime=None, ContentTime=None)
    (tmp_path / "3.dcm").unlink()
    assert _order(tmp_path)[:2] == ("TriggerTime", [0, 1, 2, 4, 5])


def test_of_two_frames_the_acquisition_time_decides(tmp_path):
    _write(tmp_path, 2, TriggerTime=lambda k: str(DELAYS[k]))
    assert _order(tmp_path)[:2] == ("AcquisitionTime", [0, 1])


@pytest.mark.parametrize("dated", [False, True])
def test_a_clock_that_passes_midnight_goes_on(tmp_path, dated):
    clock = ("235958.8", "235959.3", "235959.8", "000000.3", "000000.8")
    values = {"TriggerTime": None, "ContentTime": None, "AcquisitionDate": "20240101" if dated else None}
    _write(tmp_path, 5, AcquisitionTime=lambda k: clock[k], **values)
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("AcquisitionTime", list(range(5)))
    assert_allclose(series.times_s, (0, 0.5, 1, 1.5, 2))
    assert any("passes midnight" in note for note in series.notes)


def test_morning_and_evening_of_a_day_are_not_midnight(tmp_path):
    clock = ("060000", "060100", "200000", "200100")
    _write(tmp_path, 4, TriggerTime=None, ContentTime=None, AcquisitionTime=lambda k: clock[k])
    assert _order(tmp_path)[1] == [0, 1, 2, 3]
    assert_allclose(read_dicom(tmp_path)[0].times_s, (0, 60, 50400, 50460))


CINE = [
    ({"FrameTime": "33.5"}, (0, 0.0335, 0.067, 0.1005), ""),
    ({"FrameTimeVector": ["9", "10", "30", "20"]}, (0, 0.01, 0.04, 0.06), ""),
    ({"FrameTimeVector": ["10", "30", "20"]}, (0, 0.01, 0.04, 0.06), "one entry short"),
    (
        {"FrameTimeVector": ["10", "30"], "FrameTime": "20"},
        (0, 0.02, 0.04, 0.06),
        "FrameTimeVector was not used: it holds 2 entries",
    ),
    ({"FrameTimeVector": ["0", "10", "-5", "20"], "FrameTime": "20"}, (0, 0.02, 0.04, 0.06), "FrameTimeVector was not used"),
    ({"ActualFrameDuration": "500"}, (0, 0.5, 1, 1.5), ""),
    ({"CineRate": "25"}, (0, 0.04, 0.08, 0.12), "from CineRate, 25 frames a second"),
    ({"FrameTime": "0", "RecommendedDisplayFrameRate": "50"}, (0, 0.02, 0.04, 0.06), "RecommendedDisplayFrameRate"),
    ({}, None, ""),
]


@pytest.mark.parametrize(("values", "times", "told"), CINE, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_times_of_a_multiframe_file(tmp_path, values, times, told):
    dataset = make.ultrasound(4)
    del dataset.FrameTime
    for name, value in values.items():
        setattr(dataset, name, value)
    (series,) = read_dicom(make.save(dataset, tmp_path / "us.dcm"))
    if times is None:
        assert series.times_s is None
    else:
        assert_allclose(series.times_s, times)
    assert not told or any(told in note for note in series.notes)


def test_series_of_one_frame_each_are_joined(tmp_path):
    own = {"SeriesInstanceUID": lambda k: f"1.2.3.{k + 5}", "SeriesNumber": lambda k: k + 5, "InstanceNumber": 1}
    _write(tmp_path, TriggerTime=None, AcquisitionTime=None, ContentTime=None, **own)
    tag, order, series = _order(tmp_path)
    assert (tag, order) == ("SeriesNumber", list(range(6)))
    assert any("6 series of one frame each were joined" in note for note in series.notes)
    (alone,) = read_dicom(tmp_path / "3.dcm")
    assert len(alone) == 6


def test_volumes_of_one_moment_each_are_joined_slice_by_slice(tmp_path):
    for moment in range(3):
        for position in range(2):
            place = [10.0 - 7.2 * position, 20.0, 30.0 + 5.4 * position]
            uids = {
                "SeriesInstanceUID": f"1.2.3.{moment}",
                "SeriesNumber": moment + 1,
                "SOPInstanceUID": f"1.2.4.{moment}.{position}",
            }
            dataset = make.dataset_of(moment, ImagePositionPatient=place, **uids)
            make.save(dataset, tmp_path / f"{position}{moment}.dcm")
    assert [(group.key, group.frames) for group in list_dicom(tmp_path).groups] == [("0/0", 3), ("0/1", 3)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"SeriesNumber": lambda k: (3, 8, 20)[k], "InstanceNumber": 1}, "neither their SeriesNumbers"),
        ({"SeriesNumber": lambda k: k, "StudyInstanceUID": lambda k: f"1.2.{k}"}, "they differ in study"),
        (
            {"SeriesNumber": lambda k: k, "ImagePositionPatient": lambda k: [0.0, 0.0, 5.0 * k]},
            "they differ in place in the patient",
        ),
    ],
    ids=["numbers", "study", "place"],
)
def test_single_frames_that_are_no_series_say_so_once(tmp_path, values, reason, capsys):
    from r2n2.cli import main

    _write(tmp_path, 3, SeriesInstanceUID=lambda k: f"1.2.3.{k + 5}", **values)
    assert main(["register", str(tmp_path), "-o", str(tmp_path.parent / f"{tmp_path.name}_out")]) == 3
    said = capsys.readouterr().err
    assert said.count("nothing to register") == 1
    assert "3 series of one frame each were not joined" in said
    assert reason in said


def test_times_beyond_all_measure_are_no_reason_to_fail(tmp_path):
    values = ("0", "1e-300", "2e-300", "3e-300", "1e300", "2e300")
    _write(tmp_path, TriggerTime=lambda k: values[k])
    assert _order(tmp_path)[1] == list(range(6))
