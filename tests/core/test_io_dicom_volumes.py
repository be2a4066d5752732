"""DICOM stacks as volumes: which slices make one, in which order, on which lattice; and what makes no volume, told plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_factory as make
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Space
from r2n2.io import describe, read_series
from r2n2.io.dicom.phases import described_phase
from r2n2.io.writing import output_name

ORIENTATION = [0.6, 0.0, 0.8, 0.0, 1.0, 0.0]
NORMAL = np.cross(ORIENTATION[:3], ORIENTATION[3:])
START = np.array([10.0, 20.0, 30.0])
SLICES, PHASES, GAP = 5, 3, 3.1
QUIET: dict[str, Any] = {"TriggerTime": None, "AcquisitionTime": None, "ContentTime": None, "TemporalPositionIdentifier": None}


def values_of(s: int, p: int) -> np.ndarray:
    return make.pixels_of(10 * p + s)


def volume(p: int, slices: int = SLICES) -> np.ndarray:
    return np.stack([values_of(s, p) for s in range(slices)])


def write(
    folder: Path,
    tags: Callable[[int, int], dict[str, Any]],
    *,
    place: Callable[[int], np.ndarray] = lambda s: START + GAP * s * NORMAL,
    keep: Callable[[int, int], bool] = lambda s, p: True,
    slices: int = SLICES,
) -> Path:
    """A file for every slice and phase, whose names and instance numbers tell nothing, the stack counted from the other end."""
    folder.mkdir(exist_ok=True)
    for p in range(PHASES):
        for s in range(slices):
            number = (7 * (p * slices + s)) % (PHASES * slices)
            values = {"InstanceNumber": 100 - s - 30 * p, "SOPInstanceUID": f"{make.SERIES}.9.{p}.{s}", **QUIET, **tags(s, p)}
            position = [float(value) for value in place(s)]
            dataset = make.dataset_of(0, values_of(s, p), ImagePositionPatient=position, **values)
            if keep(s, p):
                make.save(dataset, folder / f"{number:03d}.dcm")
    return folder


def check(series: Any, order: tuple[int, ...] = (0, 1, 2)) -> None:
    assert series.frames.shape == (len(order), 1, SLICES, 5, 7)
    for t, p in enumerate(order):
        np.testing.assert_array_equal(series.frame(t)[0], volume(p))


CARRIERS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "TemporalPositionIdentifier": lambda s, p: {"TemporalPositionIdentifier": p + 1},
    "TriggerTime": lambda s, p: {"TriggerTime": f"{40 * p}"},
    "AcquisitionNumber": lambda s, p: {"AcquisitionNumber": p + 4},
    "AcquisitionTime": lambda s, p: {"AcquisitionTime": f"0841{10 + p:02d}.250000"},
    "phase in SeriesDescription": lambda s, p: {
        "SeriesDescription": f"DOE^JANE 4DCT, {30 * p}% B30f",
        "SeriesInstanceUID": f"{make.SERIES}.{[5, 9, 2][p]}",
        "SeriesNumber": [5, 90, 2][p],
    },
}


@pytest.mark.parametrize("tag", CARRIERS)
def test_the_slices_of_a_volume_share_a_value(tmp_path: Path, tag: str) -> None:
    (series,) = read_series(write(tmp_path / "in", CARRIERS[tag]), volumes=True)
    check(series)
    assert output_name("aligned", series) == "aligned.nii.gz"
    assert series.source["time_tag"] == tag
    assert any(f"those of one {tag}, in its order" in note for note in series.notes)
    expected = {"TriggerTime": (0, 0.04, 0.08), "AcquisitionTime": (0, 1, 2)}.get(tag)
    assert series.times_s == (None if expected is None else pytest.approx(expected))
    assert "DOE" not in repr(series)


def test_the_lattice_is_that_of_itk(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"], keep=lambda s, p: p == 1)
    (series,) = read_series(folder, volumes=True)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    assert series.grid.spacing == pytest.approx(image.GetSpacing()[::-1], rel=1e-6)
    index = np.array([[4.0, 3.0, 6.0], [0.0, 0.5, 1.0], [2.0, 0.0, 0.0]])
    world = series.grid.convert_points(torch.from_numpy(index), Space.INDEX, Space.WORLD).numpy()
    for point, expected in zip(world, index, strict=True):
        found = np.array(image.TransformPhysicalPointToContinuousIndex(point[::-1].tolist()))[::-1]
        expected = (
            expected
            if np.dot(np.array(image.GetDirection()).reshape(3, 3)[:, 2], NORMAL) > 0
            else (4, 0, 0) + expected * (-1, 1, 1)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(series.frame(0)[0], volume(1))


def test_slices_are_stacked_along_their_normal_whatever_their_numbers(tmp_path: Path) -> None:
    """Numbers and names run from the other end of the stack: only the positions count."""
    backwards = write(tmp_path / "in", lambda s, p: {**CARRIERS["TriggerTime"](s, p), "InstanceNumber": 20 - s})
    (series,) = read_series(backwards, volumes=True)
    check(series)
    np.testing.assert_allclose(series.grid.origin, START[::-1], atol=1e-6)
    np.testing.assert_allclose(np.array(series.grid.direction)[:, 0], NORMAL[::-1], atol=1e-6)


def test_orientations_that_differ_by_rounding_do_not_shuffle_the_slices(tmp_path: Path) -> None:
    def tags(s: int, p: int) -> dict[str, Any]:
        turned = [value + (1e-6 if k == 0 else 0) * (s * 3 % 5) for k, value in enumerate(ORIENTATION)]
        return {**CARRIERS["TriggerTime"](s, p), "ImageOrientationPatient": turned}

    (series,) = read_series(write(tmp_path / "in", tags), volumes=True)
    check(series)
    assert series.grid.spacing[0] == pytest.approx(GAP)


def test_no_value_is_shared_but_every_slice_is_in_time(tmp_path: Path) -> None:
    """Cine slice by slice: the trigger times differ a little from slice to slice; the mean of a volume is its time."""
    (series,) = read_series(write(tmp_path / "in", lambda s, p: {"TriggerTime": f"{40 * p + s}"}), volumes=True)
    check(series)
    assert series.times_s == pytest.approx((0.002, 0.042, 0.082))
    assert any("counted in the order of TriggerTime" in note for note in series.notes)


def test_an_enhanced_file(tmp_path: Path) -> None:
    make.save(make.enhanced(4, 3), tmp_path / "a.dcm")
    (series,) = read_series(tmp_path / "a.dcm", volumes=True)
    expected = [[(p + 1) * make.pixels_of(10 * s + p).astype(int) - 5 for s in range(4)] for p in range(3)]
    np.testing.assert_array_equal(np.stack([series.frame(t)[0] for t in range(3)]), expected)
    assert series.grid.spacing == pytest.approx((9, 1.2, 2.5))
    assert series.times_s == pytest.approx((0, 0.05, 0.1))


def test_one_file_stands_for_its_stack(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"])
    make.write_series(tmp_path / "in" / "other", 2, SeriesInstanceUID=f"{make.SERIES}.77")
    (series,) = read_series(next(folder.glob("*.dcm")), volumes=True)
    check(series)


def test_without_an_option_the_geometry_decides(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"])
    found = read_series(folder, volumes=False)
    assert [item.grid.ndim for item in found] == [2] * SLICES
    np.testing.assert_array_equal(found[3].frame(1)[0], values_of(3, 1))
    (thin,) = read_series(folder)  # 3.1 mm are not over 2.5 pixels of 2.5 mm
    check(thin)
    gapped = write(tmp_path / "gapped", CARRIERS["TriggerTime"], place=lambda s: START + 8 * s * NORMAL)
    assert len(read_series(gapped)) == SLICES
    check(read_series(gapped, volumes=True)[0])
    tilted = write(tmp_path / "tilted", CARRIERS["TriggerTime"], place=lambda s: START + np.array([0.0, 0.5, GAP]) * s)
    slices = read_series(tilted)
    assert len(slices) == SLICES
    assert any("as it makes no volume" in note and "tilt" in note for note in slices[0].notes)


def uneven(s: int) -> np.ndarray:
    return START + (GAP * s + (0.4 if s == 3 else 0)) * NORMAL


def tilted(s: int) -> np.ndarray:
    return START + GAP * s * NORMAL + [0, 0.2 * GAP * s, 0]


def beside(s: int) -> np.ndarray:
    return START + GAP * s * NORMAL + [0, 0.3 if s == 2 else 0, 0]


def level(s: int) -> np.ndarray:
    return START + GAP * min(s, 3) * NORMAL + [0, 9.0 if s == 4 else 0, 0]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a slice is missing": (
        {"keep": lambda s, p: s != 2},
        r"1 slice is missing between positions 1 and 2 \(6.2 mm\), where the others lie 3.1 mm apart.*--slices",
    ),
    "uneven gaps": ({"place": uneven}, r"lie unevenly, 2.7 to 3.5 mm apart .*resample.*--slices"),
    "gantry tilt": (
        {"place": tilted},
        r"shifted along y of the image by 0.2 mm for each mm .*gantry tilt of 11.3 degrees.*--slices",
    ),
    "a slice beside the others": ({"place": beside}, r"slice position 2 lies 0.\d+ mm beside the others.*--slices"),
    "two slices side by side": ({"place": level}, r"beside the others|at the same height"),
    "one file lost": (
        {"keep": lambda s, p: (s, p) != (3, 1)},
        r"told by TriggerTime, have different numbers of slices: volume 1 lacks slice position 3; .*--drop-damaged.*--slices",
    ),
    "a phase with fewer slices": (
        {"keep": lambda s, p: p < 2 or s < 3},
        r"volume 2 lacks slice position 3, 4; restore",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_makes_no_volume_is_told(tmp_path: Path, fault: str) -> None:
    how, message = FAULTS[fault]
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"], **how)
    with pytest.raises(ReadError, match=message) as caught:
        read_series(folder, volumes=True)
    assert str(folder) in str(caught.value)
    listed = describe(folder, volumes=True)
    assert any(str(caught.value) in problem for problem in listed[0].problems)
    assert len(read_series(folder, volumes=False)) in (SLICES, SLICES - 1)


def test_phases_of_different_length_by_their_description(tmp_path: Path) -> None:
    tags = CARRIERS["phase in SeriesDescription"]
    folder = write(tmp_path / "in", tags, keep=lambda s, p: (s, p) != (4, 2))
    with pytest.raises(ReadError, match=r"phase in SeriesDescription.*volume 2 lacks slice position 4"):
        read_series(folder, volumes=True)
    (series,) = read_series(folder, volumes=True, drop_damaged=True)
    check(series, (0, 1))
    assert any("1 of 3 volumes were left out" in note for note in series.notes)


def test_nothing_tells_which_frames_belong_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", lambda s, p: {"TriggerTime": f"{40 * p + s}"}, keep=lambda s, p: (s, p) != (1, 0))
    with pytest.raises(ReadError, match=r"different numbers of frames \(3, but position 1 has 2\).*--slices"):
        read_series(folder, volumes=True)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    for s in range(3):
        make.save(make.dataset_of(s, SliceLocation=f"{s}", ImagePositionPatient=None, **QUIET), nowhere / f"{s}.dcm")
    with pytest.raises(ReadError, match="do not say where the slices lie"):
        read_series(nowhere, volumes=True)


def test_small_unevenness_is_noted_and_a_wrong_distance_told(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in",
        lambda s, p: {**CARRIERS["TriggerTime"](s, p), "SpacingBetweenSlices": "5"},
        place=lambda s: START + (GAP * s + (0.03 if s == 2 else 0)) * NORMAL,
    )
    (series,) = read_series(folder, volumes=True)
    assert series.grid.spacing[0] == pytest.approx(GAP)
    assert any("up to 0.03 mm beside even distances of 3.1 mm" in note for note in series.notes)
    assert any("SpacingBetweenSlices is 5 mm, by their positions the slices lie 3.1 mm apart" in note for note in series.notes)
    (given,) = read_series(folder, volumes=True, spacing=(4.0, 1.0, 2.0))
    assert given.grid.spacing == (4, 1, 2)
    assert any("--spacing gives slices 4 mm apart" in note for note in given.notes)


def test_positions_of_thin_slices_may_be_rounded_but_not_be_missing(tmp_path: Path) -> None:
    """Slices 0.3 mm apart whose files keep two decimals."""
    thin = write(tmp_path / "in", CARRIERS["TriggerTime"], place=lambda s: START + (0.3 * s + (0.012 if s == 2 else 0)) * NORMAL)
    (series,) = read_series(thin, volumes=True)
    assert series.grid.spacing[0] == pytest.approx(0.3)
    off = write(tmp_path / "off", CARRIERS["TriggerTime"], place=lambda s: START + (0.3 * s + (0.018 if s == 2 else 0)) * NORMAL)
    with pytest.raises(ReadError, match="lie unevenly"):
        read_series(off, volumes=True)


def test_one_slice_position_and_a_slice_of_a_volume(tmp_path: Path) -> None:
    (series,) = read_series(write(tmp_path / "one", CARRIERS["TriggerTime"], slices=1), volumes=True)
    assert (series.grid.ndim, len(series)) == (2, PHASES)
    assert any("one slice position: read as a 2D series" in note for note in series.notes)
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"])
    with pytest.raises(ArgumentError, match="--slice 1 picks one slice of a volume"):
        read_series(folder, volumes=True, slice_index=1)


def test_a_damaged_slice_takes_its_volume_along(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"])
    broken = folder / f"{(7 * (1 * SLICES + 2)) % (PHASES * SLICES):03d}.dcm"
    data = broken.read_bytes()
    broken.write_bytes(data[:-20])
    with pytest.raises(ReadError, match=broken.name):
        read_series(folder, volumes=True)
    (series,) = read_series(folder, volumes=True, drop_damaged=True)
    check(series, (0, 2))
    assert series.times_s == pytest.approx((0, 0.08))
    assert any("volume 1 was left out" in note or "1 of 3 volumes were left out" in note for note in series.notes)


def test_one_volume_is_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2n2.io.dicom.volumes._HELD_BYTES", 100)
    folder = write(
        tmp_path / "in", lambda s, p: {**CARRIERS["TriggerTime"](s, p), "RescaleSlope": f"{p + 1}", "RescaleIntercept": "0"}
    )
    (series,) = read_series(folder, volumes=True, max_bytes=2 * 4 * 5 * 7 * SLICES)  # two copies of one volume, scaled
    assert series.frames.held == ()
    for p in range(PHASES):
        np.testing.assert_array_equal(series.frame(p)[0], (p + 1) * volume(p))
        assert series.frame(p).dtype == series.dtype


def test_a_folder_of_volumes_is_described(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CARRIERS["TriggerTime"])
    make.write_series(tmp_path / "in" / "scout", 2, SeriesInstanceUID=f"{make.SERIES}.77")
    stack, scout = describe(folder, volumes=True)
    assert (stack.shape, stack.frames, stack.times_s) == ((SLICES, 5, 7), PHASES, pytest.approx((0, 0.08)))
    assert stack.spacing_mm == pytest.approx((GAP, 1.2, 2.5))
    assert stack.orientation.endswith("oblique by 36.9 deg")
    assert (scout.shape, scout.orientation) == ((5, 7), "")
    (only,) = describe(folder, volumes=True, series="77")
    assert only.frames == 2


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("4DCT 30%", 30),
        ("Gated, 50.0%A", 50),
        ("T=10%", 10),
        ("thorax T40", 40),
        ("Phase 3 of the cycle", 3),
        ("20% In", 20),
        ("20% Ex", 180),
        ("CT 5.0 B31f", None),
        ("30% and 40%", None),
        ("T1 weighted, T2", None),
        ("", None),
    ],
)
def test_the_phase_that_a_description_names(text: str, phase: float | None) -> None:
    found = described_phase(text)
    assert (found[0] if found else None) == phase
    assert described_phase("A 10% B") == (10, described_phase("A 20% B")[1])  # type: ignore[index]
    assert described_phase("A 10% B")[1] != described_phase("A 10% C")[1]  # type: ignore[index]
