"""The radius of error from a series to its folder and back: files, columns, records, older folders, runs that go on."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import SimpleITK as sitk  # noqa: N813
import torch

from r2n2 import workflow
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid
from r2n2.io.scalar_maps import read_scalar_map, write_scalar_map
from r2n2.registration import FrameResult, FrameStatus, register_series
from r2n2.registration.uncertainty import FrameUncertainty
from r2n2.report.page import describe_uncertainty, render_report
from r2n2.results.reader import read_result, uncertainty_path
from r2n2.series import ImageSeries
from r2n2.workflow import register_to_folder, save_to_folder

pytestmark = pytest.mark.usefixtures("one_thread")

TURN = ((0.8, -0.6), (0.6, 0.8))
GRID = Grid((37, 52), (1.8, 0.7), (12.0, -30.0), TURN)
CONFIG = make.FAST.model_copy(update={"batch_size": 2, "reference": 1})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "render_report", lambda series, registered, errors: "report")


@pytest.fixture(scope="module")
def series() -> ImageSeries:
    return make.moving_series(5, GRID, reference=1)[0]


@pytest.fixture(scope="module")
def found(series: ImageSeries) -> list[FrameResult]:
    return sorted((r for step in register_series(series, CONFIG) for r in step.finished), key=lambda r: r.frame)


@pytest.fixture
def folder(series: ImageSeries, tmp_path: Path) -> Path:
    list(register_to_folder(series, tmp_path / "out", CONFIG))
    return tmp_path / "out"


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_map_lies_on_the_frame_for_others_too(tmp_path: Path) -> None:
    values = np.arange(37 * 52, dtype=np.float32).reshape(37, 52)
    values[3, 4] = np.nan
    image = sitk.ReadImage(str(write_scalar_map(tmp_path / "map.mha", values, GRID)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    index = torch.tensor([[11.0, 29.0]], dtype=torch.float64)
    from r2n2.geometry import Space

    world = GRID.convert_points(index, Space.INDEX, Space.WORLD)[0].tolist()
    np.testing.assert_allclose(image.TransformPhysicalPointToContinuousIndex(world[::-1]), (29, 11), atol=1e-6)
    np.testing.assert_array_equal(read_scalar_map(tmp_path / "map.mha", (37, 52)), values)
    with pytest.raises(ReadError, match=r"\(52, 37\)|in shape"):
        read_scalar_map(tmp_path / "map.mha", (52, 37))
    with pytest.raises(ValueError, match="the grid"):
        write_scalar_map(tmp_path / "map.mha", values.T, GRID)


def test_every_frame_has_a_radius_and_the_reference_none_to_fear(found: list[FrameResult]) -> None:
    for result in found:
        assert result.uncertainty is not None
        values = result.uncertainty.on(GRID)
        assert values.shape == GRID.shape
        if result.status is FrameStatus.REFERENCE:
            assert float(values.max()) == result.uncertainty.q95_mm == 0
        else:
            assert 0 < float(values.min()) < result.uncertainty.median_mm < result.uncertainty.q95_mm
            assert "usual steps, fit" in result.uncertainty.uncalibrated, "fewer Gaussians than in the calibration"


def test_files_columns_and_records_read_back(series: ImageSeries, found: list[FrameResult], folder: Path) -> None:
    read = read_result(folder)
    assert "uncertainty" in read.manifest.files
    for result, row, metrics in zip(found, _rows(folder), read.metrics, strict=True):
        assert result.uncertainty is not None
        again = read.result(result.frame).uncertainty
        assert again is not None
        np.testing.assert_array_equal(again.on(GRID), result.uncertainty.on(GRID))
        assert float(row["uncertainty_mm"]) == pytest.approx(result.uncertainty.median_mm, rel=1e-6, abs=1e-12)
        assert float(row["uncertainty_95_mm"]) == pytest.approx(again.q95_mm)
        assert metrics.uncalibrated == result.uncertainty.uncalibrated == again.uncalibrated
    record = read.manifest.uncertainty
    assert record is not None
    assert (record.probability, record.both_ways) == (0.9, False)
    assert sorted(record.uncalibrated) == [0, 2, 3, 4]


def test_off_writes_none_and_the_registration_is_the_same(series: ImageSeries, found: list[FrameResult], tmp_path: Path) -> None:
    off = CONFIG.model_copy(update={"uncertainty": "off"})
    *_, last = register_to_folder(series, tmp_path / "off", off)
    assert last.result is not None
    assert not (tmp_path / "off" / "uncertainty").exists()
    assert last.result.manifest.uncertainty is None
    assert {row["uncertainty_mm"] for row in _rows(tmp_path / "off")} == {""}
    for result in found:
        plain = last.result.result(result.frame)
        assert plain.uncertainty is None
        torch.testing.assert_close(plain.transform.amplitudes, result.transform.amplitudes, rtol=0, atol=0)


def test_both_ways_take_twice_the_steps_and_are_recorded(series: ImageSeries, tmp_path: Path) -> None:
    once, full = (CONFIG.model_copy(update={"uncertainty": mode}) for mode in ("on", "full"))
    one, two = (list(register_series(series, config)) for config in (once, full))
    fractions = [step.fraction for step in two]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(two) > 1.8 * len(one) - 5
    *_, last = register_to_folder(series, tmp_path / "full", full)
    assert last.result is not None
    assert last.result.manifest.uncertainty.both_ways


def test_a_folder_without_maps_is_read(folder: Path) -> None:
    """As an earlier version wrote it: no column, no record, no setting, no map."""
    manifest = json.loads((folder / "run.json").read_text())
    del manifest["uncertainty"], manifest["settings"]["uncertainty"]
    manifest["files"].remove("uncertainty")
    (folder / "run.json").write_text(json.dumps(manifest))
    rows = [{k: v for k, v in row.items() if not k.startswith("uncertainty")} for row in _rows(folder)]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    read = read_result(folder)
    assert read.result(2).uncertainty is None
    assert np.isnan(read.metrics[2].uncertainty_mm)


def test_what_is_not_known_is_nan(series: ImageSeries, found: list[FrameResult], tmp_path: Path) -> None:
    results = {r.frame: r for r in found} | {3: dataclasses.replace(found[3], status=FrameStatus.EDITED, uncertainty=None)}
    list(save_to_folder(series, results, tmp_path / "out", CONFIG, facts=workflow.RunFacts()))
    assert np.isnan(read_scalar_map(uncertainty_path(tmp_path / "out", 3), GRID.shape)).all()
    read = read_result(tmp_path / "out")
    assert read.result(3).uncertainty is None
    assert read.result(4).uncertainty is not None


def test_a_run_goes_on_and_a_damaged_map_is_made_again(series: ImageSeries, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    running = register_to_folder(series, out, CONFIG)
    for progress in running:
        if any(result.frame == 2 for result in progress.finished):
            break
    running.close()
    damaged = uncertainty_path(out, 0)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-4] + b"\0\0\0\0")
    steps = list(register_to_folder(series, out, CONFIG))
    assert any("registered again" in note for step in steps for note in step.notes)
    for frame in range(5):
        assert uncertainty_path(out, frame).read_bytes() == uncertainty_path(folder, frame).read_bytes()


def test_an_uncertain_frame_is_doubtful(series: ImageSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    from r2n2.registration.uncertainty import estimate

    monkeypatch.setattr(estimate, "reasons_for_uncertainty", lambda radius, *_: [("it may be anywhere",)] * len(radius))
    results = {r.frame: r for step in register_series(series, CONFIG) for r in step.finished}
    assert results[1].status is FrameStatus.REFERENCE
    for frame in (0, 2, 3, 4):
        assert results[frame].status is FrameStatus.DOUBTFUL
        assert results[frame].message == f"frame {frame}: it may be anywhere; look at it before using it"


def test_a_frame_that_is_kept_back_has_no_radius(found: list[FrameResult]) -> None:
    from r2n2.registration.batch import LoadedFrame, assess

    fixed, moving, exact = make.moved_pair()
    valid = torch.ones_like(fixed, dtype=torch.bool)
    frames = (LoadedFrame(0, fixed, valid), LoadedFrame(1, moving, valid))
    wrong = dataclasses.replace(exact, amplitudes=-exact.amplitudes)
    radius = found[0].uncertainty
    assert isinstance(radius, FrameUncertainty)
    assert assess(*frames, wrong, 0.1, 1.0, uncertainty=radius).uncertainty is None
    assert assess(*frames, exact, 0.1, 1.0, uncertainty=radius).uncertainty is radius


def test_the_report_shows_and_says_it(series: ImageSeries, folder: Path) -> None:
    read = read_result(folder)
    text = render_report(series, read)
    assert "How far it may be off" in text
    assert "Uncertainty (90 % radius)" in text
    assert "Uncalibrated for all frames" in text
    record = read.manifest.uncertainty
    assert record is not None
    some = record.model_copy(update={"uncalibrated": {2: "it is odd"}})
    told = describe_uncertainty(dataclasses.replace(read, manifest=read.manifest.model_copy(update={"uncertainty": some})))
    assert told.endswith("Uncalibrated for 1 of 4 frames, where it is a hint and no probability: it is odd.")


def test_the_command_line_offers_it(series: ImageSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from r2n2.cli.app import app

    seen: list[Any] = []
    monkeypatch.setattr("r2n2.cli.running.show_registration", lambda found, output, config, **options: seen.append(config) or False)
    np.save(tmp_path / "in.npy", np.asarray(series.frames)[:, 0])
    words = ["register", str(tmp_path / "in.npy"), "-o", str(tmp_path / "out"), "--axes", "TYX", "--quiet"]
    assert CliRunner().invoke(app, [*words, "--uncertainty", "full"]).exit_code == 0
    assert CliRunner().invoke(app, words).exit_code == 0
    assert [config.uncertainty for config in seen] == ["full", "on"]
    wrong = CliRunner().invoke(app, [*words, "--uncertainty", "maybe"]).exception
    assert isinstance(wrong, ArgumentError)
    assert "'on', 'off' or 'full'" in str(wrong)
    assert RegistrationConfig().uncertainty == "on"


def test_a_reversed_contrast_does_not_matter_where_edges_were_compared() -> None:
    from r2n2.registration.uncertainty import uncertainty_estimator

    fixed, moving, exact = make.moved_pair()
    radii = {}
    for measure in ("ssd", "ngf"):
        estimator = uncertainty_estimator(RegistrationConfig(method="fit", similarity=measure))
        assert estimator is not None
        for name, image in (("as it is", moving), ("reversed", 300 - moving)):
            (found,) = estimator.estimate(make.pairs_of((fixed, image)), (exact,))
            radii[measure, name] = found.median_mm
            assert "similarity" not in found.uncalibrated
            assert bool(found.reasons) is (measure == "ssd" and name == "reversed")
    assert radii["ngf", "reversed"] == pytest.approx(radii["ngf", "as it is"], rel=1e-3)
    assert radii["ssd", "reversed"] > 3 * radii["ssd", "as it is"]


def test_where_edges_were_compared_the_radius_judges_by_ngf_alone() -> None:
    from r2n2.registration.uncertainty import uncertainty_estimator

    fixed, _, exact = make.moved_pair()
    stranger = make.texture(fixed.shape[1:], 9)
    for method, measure, judges in (("fit", "ngf", True), ("r2n2", "ngf", True), ("fit", "mind", False), ("bspline", "ngf", False)):
        estimator = uncertainty_estimator(RegistrationConfig(method=method, similarity=measure))
        assert estimator is not None
        (found,) = estimator.estimate(make.pairs_of((fixed, 300 - stranger)), (exact,))
        assert (found.judged, bool(found.reasons)) == (judges, judges)
        assert ("similarity" in found.uncalibrated) is not judges
