"""The one public way from series to folder: what it yields, leaves behind, takes up again, and records of the run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch

import r2n2
from r2n2 import workflow
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameStatus, register_series
from r2n2.results.manifest import RunFacts, load_manifest
from r2n2.results.reader import RegisteredSeries, read_result
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import GaussianSequence
from r2n2.workflow import (
    FolderProgress,
    Stage,
    register_slices_to_folder,
    register_to_folder,
    save_slices_to_folder,
    save_to_folder,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = make.FAST.model_copy(update={"batch_size": 2, "reference": 1})
SMALL = Grid((37, 50), (1.7, 0.9))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "render_report", lambda series, registered, errors: "report")


@pytest.fixture(scope="module")
def series() -> ImageSeries:
    return make.moving_series(5, SMALL, reference=1)[0]


def _all(series: ImageSeries, folder: Path, **options: Any) -> list[FolderProgress]:
    return list(register_to_folder(series, folder, CONFIG, **options))


def _result(steps: list[FolderProgress]) -> RegisteredSeries:
    assert [step.result is not None for step in steps] == [False] * (len(steps) - 1) + [True]
    result = steps[-1].result
    assert result is not None
    return result


def test_it_is_public_and_gives_what_register_series_gives(series: ImageSeries, tmp_path: Path) -> None:
    assert r2n2.register_to_folder is register_to_folder
    steps = _all(series, tmp_path / "out")
    expected = {r.frame: r for p in register_series(series, CONFIG) for r in p.finished}
    found = {r.frame: r for step in steps for r in step.finished}
    assert sorted(found) == sorted(expected) == list(range(5))
    result = _result(steps)
    for frame, one in expected.items():
        stored = result.transforms[frame]
        fields = [t.displacement_field().vectors for t in (found[frame].transform, stored, one.transform)]
        torch.testing.assert_close(fields[0], fields[2], rtol=0, atol=0)
        torch.testing.assert_close(fields[1], fields[2], rtol=0, atol=1e-6)
    assert (tmp_path / "out" / "report.html").read_text() == "report"
    assert read_result(tmp_path / "out").reference == 1


def test_progress_rises_through_its_stages(series: ImageSeries, tmp_path: Path) -> None:
    steps = _all(series, tmp_path / "out")
    stages = [step.stage for step in steps]
    assert stages == sorted(stages, key=list(Stage).index)
    assert set(stages) == set(Stage)
    shares = [step.fraction for step in steps if step.stage is Stage.REGISTERING]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))


def test_closed_in_the_middle_it_keeps_what_is_done_and_goes_on_from_there(series: ImageSeries, tmp_path: Path) -> None:
    done: list[int] = []
    with contextlib.closing(register_to_folder(series, tmp_path / "out", CONFIG)) as running:
        for step in running:
            done += [result.frame for result in step.finished]
            if len(done) > 2:
                break
    assert not (tmp_path / "out" / "run.json").exists()
    assert "stopped, 3 of 5 frames done" in (tmp_path / "out" / "unfinished.txt").read_text()
    steps = _all(series, tmp_path / "out")
    assert "continuing: 3 of 5 frames" in " ".join(note for step in steps for note in step.notes)
    again = {result.frame for step in steps for result in step.finished}
    assert again == set(range(5)) - set(done)
    whole = _result(_all(series, tmp_path / "whole"))
    for frame in range(5):
        one, other = (r.transforms[frame].displacement_field().vectors for r in (_result(steps), whole))
        assert torch.equal(one, other)


def test_the_very_same_result_is_left_alone_and_another_one_refused(series: ImageSeries, tmp_path: Path) -> None:
    _all(series, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    steps = _all(series, tmp_path)
    assert steps[-1].was_there
    assert _result(steps).reference == 1
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    other = CONFIG.model_copy(update={"reference": 2})
    with pytest.raises(ArgumentError, match="another run"):
        list(register_to_folder(series, tmp_path, other))
    assert _result(list(register_to_folder(series, tmp_path, other, overwrite=True))).reference == 2


def test_what_the_run_used_is_recorded(series: ImageSeries, tmp_path: Path) -> None:
    _all(series, tmp_path)
    manifest = load_manifest(tmp_path)
    assert (manifest.device, manifest.precision, manifest.threads) == ("cpu", "float32", torch.get_num_threads())  # type: ignore[union-attr]
    assert manifest.wall_time_s > 0


def test_landmarks_give_errors(series: ImageSeries, tmp_path: Path) -> None:
    points = np.array([[10.0, 20.0], [20.0, 30.0]])
    marks = LandmarkSet(("a", "b", "a", "b"), np.array([1, 1, 3, 3]), np.concatenate([points, points + 0.5]), Space.INDEX)
    result = _result(_all(series, tmp_path, landmarks=marks))
    assert (tmp_path / "tre.csv").is_file()
    (row,) = [row for row in result.metrics if row.frame == 3]
    assert row.tre_before_mm == pytest.approx(0.5 * np.hypot(1.7, 0.9), rel=1e-6)


def test_one_frame_is_nothing_to_register(tmp_path: Path) -> None:
    alone = ImageSeries(np.zeros((1, 1, 20, 30), np.float32), Grid((20, 30)), name="alone")
    with pytest.raises(ReadError, match="alone: holds one frame"):
        list(register_to_folder(alone, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_slices_fail_one_by_one(series: ImageSeries, tmp_path: Path) -> None:
    alone = ImageSeries(np.zeros((1, 1, 37, 50), np.float32), SMALL, name="alone")
    steps = list(register_slices_to_folder([series, alone, series], tmp_path, CONFIG))
    assert [step.name for step in steps if step.failure] == ["slice_01"]
    assert [step.index for step in steps] == sorted(step.index for step in steps)
    manifest = load_manifest(tmp_path)
    assert manifest.slices == ("slice_00", "slice_02")  # type: ignore[union-attr]
    assert "one frame" in manifest.failed["slice_01"]  # type: ignore[union-attr]
    with pytest.raises(ArgumentError, match="one item a slice position, 3, got 2"):
        list(register_slices_to_folder([series, alone, series], tmp_path, CONFIG, landmarks=[None, None]))


def test_what_was_registered_in_memory_is_saved_with_the_facts_of_its_run(series: ImageSeries, tmp_path: Path) -> None:
    facts = RunFacts(device="cuda:1", precision="bfloat16", threads=7, wall_time_s=12.5)
    results = {r.frame: r for p in register_series(series, CONFIG) for r in p.finished}
    del results[4]
    steps = list(save_to_folder(series, results, tmp_path, CONFIG, facts=facts))
    assert [step.fraction for step in steps if step.stage is Stage.WRITING] == pytest.approx([k / 5 for k in range(1, 6)])
    manifest, found = load_manifest(tmp_path), read_result(tmp_path)
    recorded = (manifest.device, manifest.precision, manifest.threads, manifest.wall_time_s)  # type: ignore[union-attr]
    assert recorded == ("cuda:1", "bfloat16", 7, 12.5)
    assert [row.status for row in found.metrics if row.frame == 4] == [FrameStatus.FAILED]
    for frame in (0, 2, 3):
        stored, given = found.transforms[frame], results[frame].transform
        assert isinstance(stored, GaussianSequence)
        assert isinstance(given, GaussianSequence)
        torch.testing.assert_close(stored.amplitudes, given.amplitudes, rtol=0, atol=1e-6)


def test_slices_that_were_not_reached_are_told(series: ImageSeries, tmp_path: Path) -> None:
    results = {r.frame: r for p in register_series(series, CONFIG) for r in p.finished}
    list(save_slices_to_folder([series, series], [results, {}], tmp_path, CONFIG, facts=RunFacts()))
    manifest = load_manifest(tmp_path)
    assert manifest.slices == ("slice_00",)  # type: ignore[union-attr]
    assert "before this slice position was reached" in manifest.failed["slice_01"]  # type: ignore[union-attr]


def test_the_defaults_are_those_of_the_settings(series: ImageSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RegistrationConfig] = []

    def spied(series: ImageSeries, config: RegistrationConfig, **options: Any) -> Any:
        seen.append(config)
        return register_series(series, CONFIG, **options)

    monkeypatch.setattr(workflow, "register_series", spied)
    list(register_to_folder(series, tmp_path))
    assert seen[0].model_dump(exclude={"device", "precision", "batch_size"}) == RegistrationConfig().model_dump(
        exclude={"device", "precision", "batch_size"}
    )


def test_weights_that_are_not_for_every_image_say_what_they_are_for(series: ImageSeries, tmp_path: Path) -> None:
    for weights, said in (("paper", True), ("general", False)):
        config = RegistrationConfig(weights=weights, device="cpu")
        with contextlib.closing(register_to_folder(series, tmp_path / weights, config)) as running:
            notes = next(running).notes
        assert any(note.startswith(f"weights {weights}: for coronal thorax images") for note in notes) is said, notes
        assert any("weights" in note for note in notes) is said
