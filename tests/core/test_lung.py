"""Lung function against signals, phantoms and displacements whose rates, amplitudes and delays are known."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from cli_factory import one_line, run
from hypothesis import given, settings
from hypothesis import strategies as st

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import write_series
from r2n2.lung.amplitudes import Regression
from r2n2.lung.analysis import LungFunction, analyse
from r2n2.lung.breathing_region import propose_breathing_lung
from r2n2.lung.defects import defect_figures, defects, reference_value
from r2n2.lung.maps import fractional_ventilation, magnitude, normalised_perfusion, unbiased
from r2n2.lung.pencil import matrix_pencil
from r2n2.lung.region import propose_lung, sides
from r2n2.lung.rhythm import Rhythm, find_rhythm, uniform_step
from r2n2.lung.settings import LungConfig
from r2n2.lung.spectrum import signal_spectrum
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.results.aligned_series import AlignedSeries
from r2n2.results.lung_files import maps_of
from r2n2.results.lung_run import read_function, write_function
from r2n2.simulation import Label, ThoraxConfig, thorax_series
from r2n2.simulation.tissue_phantom import TissuePhantom, simulate_tissue
from r2n2.transform import DisplacementField, warp_image

STEP = 0.25


def whole(running: object) -> LungFunction:
    while True:
        try:
            next(running)  # type: ignore[call-overload]
        except StopIteration as end:
            return end.value


def analysed(phantom: TissuePhantom, config: LungConfig | None = None, **options: object) -> LungFunction:
    frames = phantom.series.frames
    return whole(analyse(lambda k: frames[k][0], phantom.series.times_s, phantom.lung, config, **options))  # type: ignore[arg-type]


def test_the_pencil_finds_damped_oscillations_exactly() -> None:
    t = np.arange(90) * STEP
    signal = 3 * np.exp(-0.01 * t) * np.cos(2 * math.pi * 0.21 * t + 0.4) + np.exp(0.005 * t) * np.cos(2 * math.pi * 1.07 * t - 1.0)
    first, second = matrix_pencil(signal - signal.mean() + 5.0, STEP)[:2]
    assert (first.frequency_hz, second.frequency_hz) == pytest.approx((0.21, 1.07), abs=1e-4)
    assert (first.damping_per_s, second.damping_per_s) == pytest.approx((0.01, -0.005), abs=1e-3)
    assert (first.amplitude, second.amplitude) == pytest.approx((3.0, 1.0), rel=0.02)
    assert (first.phase, second.phase) == pytest.approx((0.4, -1.0), abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 0.45), st.floats(0.7, 1.7), st.integers(0, 100))
def test_two_rates_are_found_under_noise(slow: float, fast: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(240) * STEP
    signal = 2 * np.cos(2 * math.pi * slow * t + rng.uniform(0, 6)) + np.cos(2 * math.pi * fast * t + rng.uniform(0, 6))
    rates = sorted(part.frequency_hz for part in matrix_pencil(signal + rng.normal(0, 0.2, len(t)), STEP)[:2])
    assert rates == pytest.approx([slow, fast], abs=2e-3)


def test_a_constant_signal_oscillates_not_and_a_short_one_is_refused() -> None:
    assert matrix_pencil(np.full(40, 7.0), STEP) == ()
    with pytest.raises(ValueError, match="at least 8"):
        matrix_pencil(np.zeros(7), STEP)


def test_a_drifting_rhythm_is_followed_to_both_ends() -> None:
    t = np.arange(240) * STEP
    phase = 2 * math.pi * (0.25 * t + 0.0004 * (t - 30) ** 2)
    found = find_rhythm(40 + 0.1 * t + 5 * np.cos(phase), STEP, (0.05, 0.5))
    assert found is not None
    assert found.frequency_hz == pytest.approx((phase[-1] - phase[0]) / (2 * math.pi * t[-1]), abs=1e-3)
    np.testing.assert_allclose(found.curve, np.exp(1j * phase), atol=0.1)
    np.testing.assert_allclose(found.curve[20:-20], np.exp(1j * phase)[20:-20], atol=0.03)
    assert found.cycles == pytest.approx((phase[-1] - phase[0]) / (2 * math.pi), abs=0.05)


def test_only_the_band_counts_and_what_is_known_is_taken_out_first() -> None:
    t = np.arange(200) * STEP
    signal = 9 * np.cos(2 * math.pi * 0.3 * t) + 2 * np.cos(2 * math.pi * 0.6 * t + 1) + 0.5 * np.cos(2 * math.pi * 0.93 * t)
    breathing = find_rhythm(signal, STEP, (0.05, 0.5))
    assert breathing is not None
    assert find_rhythm(signal, STEP, (1.2, 2.0)) is None
    # The second harmonic of breathing lies in the heart's band, and is none.
    heart = find_rhythm(signal, STEP, (0.55, 2.0), without=(breathing,))
    assert heart is not None
    assert heart.frequency_hz == pytest.approx(0.93, abs=5e-3)


@pytest.mark.parametrize(
    ("times", "problem"), [([0.0, 0.25, 0.5, 1.0, 1.25], "frames 2 and 3 are 0.5 s apart"), ([1.0, 0.5, 0.0], "order of time")]
)
def test_steps_must_be_equal(times: list[float], problem: str) -> None:
    with pytest.raises(ReadError, match=problem):
        uniform_step(np.array(times))


def rhythm(rate: float, count: int, phase: float = 0.0) -> Rhythm:
    t = np.arange(count) * STEP
    return Rhythm(np.exp(1j * (2 * math.pi * rate * t + phase)), rate, 0.0, rate * count * STEP)


def test_regression_gives_amplitude_delay_and_offset_beside_drift_and_harmonic() -> None:
    count = 120
    t = np.arange(count) * STEP
    slow, fast = rhythm(0.23, count), rhythm(1.1, count)
    regression = Regression((slow, fast), (1, 2))
    left_out = {3, 50, 51}
    for k in range(count):
        if k not in left_out:
            drift = 0.02 * (t[k] - t[-1] / 2)
            second = 0.7 * math.cos(2 * 2 * math.pi * 0.23 * t[k] + 1)
            beat = 2 * math.cos(2 * math.pi * 1.1 * (t[k] - 0.2))
            regression.add(k, np.array([[50 + 4 * math.cos(2 * math.pi * 0.23 * (t[k] - 0.5)) + second + beat + drift, 9.0]]))
    found = regression.solve()
    np.testing.assert_allclose(found.offset, [[50.0, 9.0]], atol=1e-6)
    np.testing.assert_allclose(np.abs(found.oscillations[0]), [[4.0, 0.0]], atol=1e-6)
    assert np.angle(found.oscillations[0][0, 0]) / (2 * math.pi * 0.23) == pytest.approx(0.5, abs=1e-6)
    assert np.angle(found.oscillations[1][0, 0]) / (2 * math.pi * 1.1) == pytest.approx(0.2, abs=1e-6)
    np.testing.assert_allclose(found.residual, 0, atol=1e-4)


def test_noise_alone_has_no_amplitude_left_in_the_mean_square() -> None:
    count, sigma = 100, 3.0
    rng = np.random.default_rng(0)
    regression = Regression((rhythm(0.23, count),), (60, 70))
    for k in range(count):
        regression.add(k, 20 + rng.normal(0, sigma, (60, 70)))
    found = regression.solve()
    squared = np.abs(found.oscillations[0]) ** 2
    assert squared.mean() == pytest.approx(2 * found.variances[0].mean(), rel=0.05)
    assert found.residual.mean() == pytest.approx(sigma, rel=0.02)
    assert magnitude(found, 0).mean() < 0.7 * np.sqrt(squared).mean()


def test_too_few_frames_for_the_unknowns() -> None:
    regression = Regression((rhythm(0.23, 40),), (1, 1))
    for k in range(5):
        regression.add(k, np.ones((1, 1)))
    with pytest.raises(ValueError, match="too few"):
        regression.solve()


def test_the_formulas() -> None:
    offset, amplitude = np.array([[100.0, 50.0, 0.0]]), np.array([[10.0, 0.0, 0.0]])
    found = fractional_ventilation(offset, amplitude)
    np.testing.assert_allclose(found[0, :2], [20 / 110, 0.0])
    assert np.isnan(found[0, 2])
    # Magnitudes of a signal of 30 under noise of 10 have the mean 31.7.
    rng = np.random.default_rng(1)
    mean = np.hypot(30 + rng.normal(0, 10, 200_000), rng.normal(0, 10, 200_000)).mean()
    assert mean > 31.5
    assert unbiased(np.array([mean]), 10.0)[0] == pytest.approx(30.0, abs=0.15)
    mask = np.ones((10, 100), bool)
    beat = np.arange(1000.0).reshape(10, 100)
    perfusion = normalised_perfusion(beat, mask, 90.0)
    assert perfusion.max() == 1.0
    assert perfusion[4, 50] == pytest.approx(450 / np.percentile(beat, 90))


def test_defects_by_the_stated_rule() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0, np.nan, 10.0]])
    mask = np.array([[True, True, True, True, True, False]])
    assert reference_value(values, mask, "median") == 2.5
    assert reference_value(values, mask, "p75") == 3.25
    np.testing.assert_array_equal(defects(values, mask, 0.6, "median"), [[True, False, False, False, True, False]])
    figures = defect_figures(np.array([True, True, False, False]), np.array([True, False, False, False]), np.ones(4, bool))
    assert (figures.vdp, figures.qdp, figures.vqm, figures.both) == (50, 25, 50, 25)


@pytest.mark.parametrize(
    ("snr", "frames", "bias", "rmse", "correlation"), [(50, 480, 0.002, 0.005, 0.99), (20, 120, 0.005, 0.02, 0.95)]
)
def test_the_phantom_is_read(snr: float, frames: int, bias: float, rmse: float, correlation: float) -> None:
    phantom = simulate_tissue(4, frames=frames, snr=snr)
    found = analysed(phantom)
    error = (found.ventilation - phantom.ventilation)[phantom.lung]
    assert abs(error.mean()) < bias
    assert math.sqrt((error**2).mean()) < rmse
    assert found.breathing.frequency_hz == pytest.approx(phantom.breathing_hz, abs=0.005)
    assert found.heart is not None
    assert found.perfusion is not None
    assert found.heart.frequency_hz == pytest.approx(phantom.heart_hz, abs=0.005)
    assert np.corrcoef(found.perfusion[phantom.lung], phantom.perfusion[phantom.lung])[0, 1] > correlation
    assert found.noise.source == "air"
    assert found.noise.sigma == pytest.approx(60 / snr, rel=0.15)


def test_defects_of_the_phantom_are_where_they_are() -> None:
    phantom = simulate_tissue(2, frames=240, snr=50)
    found = analysed(phantom, LungConfig(defect_share=0.5, defect_of="median"))
    for marked, truth in ((found.ventilation_defects, phantom.ventilation), (found.perfusion_defects, phantom.perfusion)):
        assert marked is not None
        missing = phantom.lung & (truth < 0.5 * np.median(truth[phantom.lung]))
        assert 2 * (marked & missing).sum() / (marked.sum() + missing.sum()) > 0.95


def test_frames_left_out_do_not_count() -> None:
    phantom = simulate_tissue(3, frames=160, snr=80)
    frames = phantom.series.frames.copy()
    frames[[30, 31, 90]] = 5000
    spoilt = replace(phantom, series=replace(phantom.series, frames=frames))
    found = analysed(spoilt, left_out=(30, 31, 90))
    error = (found.ventilation - phantom.ventilation)[phantom.lung]
    assert math.sqrt((error**2).mean()) < 0.01
    assert found.left_out == (30, 31, 90)
    assert "3 of 160 frames are left out: 30, 31, 90" in found.notes


def test_widening_is_that_of_the_displacements() -> None:
    phantom = simulate_tissue(5, frames=160, snr=100, drift=0.0)
    phase = np.unwrap(np.angle(analysed(phantom).breathing.curve))
    # The lung is bright at expiration, when its tissue is densest.
    found = analysed(phantom, jacobian=lambda k: np.full(phantom.lung.shape, 1.1 - 0.1 * math.cos(phase[k])))
    assert found.jacobian is not None
    np.testing.assert_allclose(found.jacobian[phantom.lung], 1.2 / 1.0 - 1, atol=0.01)


def test_what_cannot_be_analysed_is_said() -> None:
    phantom = simulate_tissue(0, frames=60)
    still = replace(phantom, series=replace(phantom.series, frames=np.full_like(phantom.series.frames, 40)))
    with pytest.raises(ReadError, match=r"no breathing between 0\.05 and 0\.5 Hz"):
        analysed(still)
    with pytest.raises(ReadError, match="at least 16 aligned frames"):
        analysed(phantom, left_out=tuple(range(50)))
    slow = replace(phantom, series=replace(phantom.series, times_s=tuple(2.0 * k for k in range(60))))
    with pytest.raises(ReadError, match=r"rates up to 0\.25 Hz"):
        analysed(slow)
    with pytest.raises(ArgumentError, match="set them apart"):
        LungConfig.parse({"breathing_hz": [0.1, 0.9]})


def test_lung_is_proposed_where_it_is_and_right_is_right() -> None:
    phantom = simulate_tissue(1, frames=40)
    proposed = propose_lung(np.asarray(phantom.series.frames[:, 0].mean(0), np.float64), phantom.series.grid.spacing)
    assert 2 * (proposed & phantom.lung).sum() / (proposed.sum() + phantom.lung.sum()) > 0.93
    plain, how = sides(phantom.lung, None)
    assert plain["right"][:, :60].any()
    assert not plain["right"][:, 70:].any()
    assert "right on the left of the picture" in how
    mirrored = Grid((1, 96, 120), direction=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)))
    turned, _ = sides(phantom.lung, mirrored)
    np.testing.assert_array_equal(turned["left"], plain["right"])
    sagittal = Grid((1, 96, 120), direction=((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    assert sides(phantom.lung, sagittal)[0] == {}
    with pytest.raises(ReadError, match="no contrast"):
        propose_lung(np.full((40, 40), 3.0), (1.0, 1.0))


@pytest.mark.parametrize("seed", [101, 103])
def test_lung_is_proposed_in_a_thorax_with_arms_airways_and_bright_blood(seed: int) -> None:
    made = thorax_series(ThoraxConfig(seed=seed, frames=8, shape=(144, 144)))
    mean = np.mean([made.series.frame(k)[0].astype(float) for k in range(8)], axis=0)
    proposed = propose_lung(mean, made.series.grid.spacing)
    lung = made.label_map(0) == Label.LUNG
    assert (proposed & lung).sum() > 0.6 * proposed.sum(), "mostly lung"
    assert (proposed & lung).sum() > 0.35 * lung.sum(), "a good part of it"


@pytest.mark.parametrize("seed", [102, 105])
def test_what_breathes_is_most_of_the_lung(seed: int) -> None:
    made = thorax_series(ThoraxConfig(seed=seed, frames=16, shape=(112, 112)))
    grid = made.series.grid
    exact = [
        warp_image(torch.from_numpy(made.series.frame(k).astype(np.float32)), made.displacement(0, k))[0].numpy() for k in range(16)
    ]
    proposed = propose_breathing_lung(exact.__getitem__, 16, grid.spacing)
    lung = made.label_map(0) == Label.LUNG
    assert (proposed & lung).sum() > 0.75 * lung.sum(), "most of it"
    assert (proposed & lung).sum() > 0.85 * proposed.sum(), "hardly anything else"


def test_what_does_not_breathe_leaves_the_proposal_of_the_mean() -> None:
    phantom = simulate_tissue(1, frames=4)
    still = np.asarray(phantom.series.frames[:, 0].mean(0), np.float64)
    proposed = propose_breathing_lung(lambda _k: still, 4, phantom.series.grid.spacing)
    np.testing.assert_array_equal(proposed, propose_lung(still, phantom.series.grid.spacing))


@pytest.fixture(scope="module")
def phantom_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[TissuePhantom, Path]:
    phantom = simulate_tissue(1, frames=120, snr=40)
    grid = Grid(phantom.series.grid.shape, (2.5, 3.0), (-20.0, 14.0))
    series = replace(phantom.series, grid=grid, source={"format": "nifti", "path": "breathing.nii.gz"})
    folder = tmp_path_factory.mktemp("lung")
    return phantom, write_series(folder, "breathing", series, (series.frame(k) for k in range(len(series))))


def test_the_command_writes_maps_on_the_grid_of_the_series(
    phantom_file: tuple[TissuePhantom, Path], tmp_path: Path, capsys
) -> None:
    phantom, path = phantom_file
    out = tmp_path / "out"
    assert run("lung", path, "-o", out, "--aligned", "--heart", "0.8,1.8", "--defect-of", "median") == 0
    told = capsys.readouterr()
    assert "The mask is a proposal" in told.err
    ventilation = nibabel.load(out / "fractional_ventilation.nii.gz")
    given = nibabel.load(path)
    np.testing.assert_allclose(ventilation.affine, given.affine, atol=1e-5)
    values = np.asarray(ventilation.dataobj).squeeze()
    inside = np.asarray(nibabel.load(out / "mask.nii.gz").dataobj).squeeze() > 0
    assert np.isnan(values[~inside]).all()
    truth = phantom.ventilation.T
    both = inside & (truth > 0.1)
    assert np.abs(values - truth)[both].mean() < 0.01
    rows = list(csv.DictReader((out / "lung.csv").read_text().splitlines()))
    assert [row["region"] for row in rows] == ["right", "left", "both"]
    assert float(rows[2]["area_mm2"]) == pytest.approx(inside.sum() * 7.5)
    assert float(rows[2]["ventilation"]) == pytest.approx(float(np.median(values[inside])), rel=1e-5)
    assert float(rows[2]["heart_hz"]) == pytest.approx(phantom.heart_hz, abs=0.005)
    record = json.loads((out / "lung.json").read_text())
    assert record["settings"]["heart_hz"] == [0.8, 1.8]
    assert "S_exp" in record["maps"]["fractional_ventilation"]["formula"]
    page = (out / "report.html").read_text()
    assert "60 % of the median" in page
    assert "http" not in page
    assert run("lung", path, "-o", out, "--aligned") == 2
    assert "--overwrite" in one_line(capsys)


def test_a_mask_from_a_file_counts(phantom_file: tuple[TissuePhantom, Path], tmp_path: Path, capsys) -> None:
    _, path = phantom_file
    mask = np.zeros((96, 120), np.uint8)
    mask[30:60, 20:40] = 1
    np.save(tmp_path / "mask.npy", mask)
    assert run("lung", path, "-o", tmp_path / "out", "--aligned", "--mask", tmp_path / "mask.npy", "--quiet") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "lung.csv").read_text().splitlines()))
    assert float(rows[-1]["area_mm2"]) == pytest.approx(600 * 7.5)
    capsys.readouterr()
    assert run("lung", path, "-o", tmp_path / "x", "--aligned", "--breathing", "fast") == 2
    assert "LOW,HIGH" in one_line(capsys)
    np.save(tmp_path / "movie.npy", np.random.default_rng(0).random((20, 40, 40)))
    assert run("lung", tmp_path / "movie.npy", "-o", tmp_path / "x", "--aligned", "--axes", "TYX") == 3
    assert "--frame-time" in one_line(capsys)


WIDENS = 0.04


def test_a_result_gives_ventilation_by_its_displacements_too(
    phantom_file: tuple[TissuePhantom, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Displacements that widen all tissue as the lung fills, and the phantom as aligned frames; frame 9 failed."""
    phantom, path = phantom_file
    phase = np.unwrap(np.angle(analysed(phantom).breathing.curve))

    def register(series, config, done=None, masks=None, survey=None, guides=None):
        y, x = np.mgrid[:96, :120].astype(float)
        centred = torch.from_numpy(np.stack([y - 47.5, x - 59.5]))
        for frame in range(len(series)):
            # The lung is brightest at expiration, when its tissue takes the least area.
            field = DisplacementField(-WIDENS * math.cos(phase[frame]) * centred, series.grid, Space.INDEX)
            status = {0: FrameStatus.REFERENCE, 9: FrameStatus.FAILED}.get(frame, FrameStatus.OK)
            result = FrameResult(frame, field, status, "broken" if frame == 9 else "", 0.9, 0.99, 0, 1, 2, 0.1)
            yield SeriesProgress(0, frame + 1, len(series), (frame + 1) / len(series), (result,))

    monkeypatch.setattr("r2n2.workflow.register_series", register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    run("register", path, "-o", tmp_path / "result", "--quiet")
    shutil.copy(path, tmp_path / "result" / "registered.nii.gz")
    np.save(tmp_path / "lung.npy", phantom.lung.astype(np.uint8))
    out = tmp_path / "out"
    assert run("lung", tmp_path / "result", "-o", out, "--mask", tmp_path / "lung.npy") == 0
    assert "1 of 120 frames are left out: 9" in capsys.readouterr().err
    (_, _, both) = csv.DictReader((out / "lung.csv").read_text().splitlines())
    # (1 - w cos)^2 has the mean 1 + w^2 / 2 and the amplitude 2 w; its second harmonic is fitted and left aside.
    offset = 1 + WIDENS**2 / 2
    assert float(both["jacobian_ventilation"]) == pytest.approx((offset + 2 * WIDENS) / (offset - 2 * WIDENS) - 1, abs=0.01)
    assert (float(both["frames"]), float(both["frames_left_out"])) == (120, 1)
    assert float(both["ventilation"]) == pytest.approx(float(np.median(phantom.ventilation[phantom.lung])), abs=0.01)
    assert "r2n2 register, " in json.loads((out / "lung.json").read_text())["aligned_by"]


def test_maps_of_a_dicom_series_are_dicom_too(tmp_path: Path) -> None:
    phantom = simulate_tissue(2, frames=90, snr=60, shape=(48, 60))
    grid = Grid((48, 60), (3.0, 2.5))
    source = {"format": "dicom", "stored_dtype": "uint16", "bits_stored": 12, "rescale": [(1.0, 0.0)] * 90, "study_uid": "1.2.3.4"}
    series = replace(phantom.series, grid=grid, source=source, patient_grid=Grid((1, 48, 60), (10.0, 3.0, 2.5)))
    part = AlignedSeries("slice", series)
    function = whole(read_function(part, phantom.lung, LungConfig()))
    write_function(tmp_path, part, function, "page", "drawn")
    for name, values in maps_of(function).items():
        (file,) = (tmp_path / "dicom" / name).iterdir()
        dataset = pydicom.dcmread(file)
        slope = float(getattr(dataset, "RescaleSlope", 1))
        np.testing.assert_allclose(dataset.pixel_array * slope, np.nan_to_num(values), atol=slope)
        assert dataset.SeriesDescription == f"R2N2 {name.replace('_', ' ')}"
        assert [float(v) for v in dataset.PixelSpacing] == [3.0, 2.5]
        assert dataset.StudyInstanceUID == "1.2.3.4"
        assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
        found = np.asarray(nibabel.load(tmp_path / f"{name}.nii.gz").dataobj).squeeze().T
        np.testing.assert_array_equal(found, values)
    assert "S_exp" in pydicom.dcmread(tmp_path / "dicom" / "fractional_ventilation" / "frame_0000.dcm").DerivationDescription


def test_the_spectrum_is_highest_at_the_rate() -> None:
    t = np.arange(200) * STEP
    rates, amplitude = signal_spectrum(40 - 0.3 * t + 2 * np.cos(2 * math.pi * 0.31 * t), t)
    assert rates[amplitude.argmax()] == pytest.approx(0.31, abs=0.01)
    assert amplitude.max() == 1.0
