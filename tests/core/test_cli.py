"""The command line as a contract: exit codes, messages of one line, and what each command leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from cli_factory import (
    GRID,
    ROWS,
    fake_register,
    marks_in,
    movie_in,
    one_line,
    run,
    save,
    scene,
    shift,
    table,
    without_registration,
)

from r2n2.cli.options import parse_spacing
from r2n2.config import NetworkConfig
from r2n2.doctor import Check, examine
from r2n2.errors import ArgumentError, ResourceError
from r2n2.evaluation import warp_labels
from r2n2.geometry import Grid, Space
from r2n2.io import read_landmarks, read_series, write_series
from r2n2.network import shipped_weights
from r2n2.network.checkpoint import read_manifest, save_network
from r2n2.network.r2n2 import R2N2
from r2n2.registration.results import FrameStatus
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries
from r2n2.transform import map_points


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_registration(monkeypatch)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return movie_in(tmp_path / "in")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return marks_in(tmp_path)


def test_register_writes_a_result_and_prints_one_table(movie, marks, tmp_path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "out", "--landmarks", marks, "--reference", 1) == 0
    shown = capsys.readouterr()
    assert "4 of 4 frames ok; reference 1" in shown.out
    assert "registering" in shown.err
    registered = read_result(tmp_path / "out")
    assert registered.reference == 1
    assert registered.manifest.settings.reference == 1
    assert registered.manifest.landmarks_sha256
    assert [float(row["tre_mm"] or 0) for row in table(tmp_path / "out" / "metrics.csv")] == pytest.approx([0, 0, 0, 0], abs=1e-4)


def test_doubtful_frames_are_named_at_the_end_and_the_exit_code_stays(movie, tmp_path, capsys, monkeypatch) -> None:
    def doubting(*given, **options):
        for progress in fake_register(*given, **options):
            changed = (
                replace(r, status=FrameStatus.DOUBTFUL, message="why") if r.frame in (1, 3) else r for r in progress.finished
            )
            yield replace(progress, finished=tuple(changed))

    monkeypatch.setattr("r2n2.workflow.register_series", doubting)
    assert run("register", movie, "-o", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "doubtful frames, to be looked at before use: 1, 3" in shown
    assert "2 of 4 frames ok" in shown
    assert read_result(tmp_path / "out").manifest.status_counts == {"reference": 1, "doubtful": 2, "ok": 1}


def test_quiet_leaves_standard_error_empty(movie, tmp_path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "out", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_second_equal_run_changes_no_file_and_another_one_asks(movie, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("register", movie, "-o", out) == 0
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run("register", movie, "-o", out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run("register", movie, "-o", out, "--steps", 7) == 2
    assert "--overwrite" in one_line(capsys)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*") if path.is_file()} == before
    assert run("register", movie, "-o", out, "--steps", 7, "--overwrite") == 0
    assert read_result(out).manifest.settings.steps == 7


def test_run_json_names_the_network_and_its_weights(movie, tmp_path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "out") == 0
    manifest = read_result(tmp_path / "out").manifest
    assert (manifest.settings.method, manifest.settings.weights, manifest.settings.refine) == ("r2n2", "general", True)
    assert manifest.weights_sha256 == read_manifest("general").sha256
    # Other weights under the same name, the network alone, and another method are other runs.
    save_network(tmp_path / "own.safetensors", R2N2(NetworkConfig(channels=(2, 3, 4, 6))))
    for options in (["--no-refine"], ["--method", "fit"], ["--weights", tmp_path / "own.safetensors"]):
        capsys.readouterr()
        assert run("register", movie, "-o", tmp_path / "out", *options) == 2
        assert "--overwrite" in one_line(capsys)
    assert run("register", movie, "-o", tmp_path / "fit", "--method", "fit") == 0
    assert read_result(tmp_path / "fit").manifest.weights_sha256 is None
    assert run("register", movie, "-o", tmp_path / "own", "--weights", tmp_path / "own.safetensors", "--no-refine") == 0
    own = read_result(tmp_path / "own").manifest
    assert own.weights_sha256 == read_manifest(tmp_path / "own.safetensors").sha256
    assert not own.settings.refine


def test_weights_that_cannot_be_used_are_named_before_data_is_read(tmp_path, capsys) -> None:
    assert run("register", tmp_path / "absent.mha", "-o", tmp_path / "out", "--weights", "brain") == 4
    assert "no weights are called 'brain'" in one_line(capsys)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 9)
    assert run("register", tmp_path / "absent.mha", "-o", tmp_path / "out", "--weights", tmp_path / "junk.safetensors") == 3
    assert "junk.safetensors" in one_line(capsys)


def test_settings_of_a_file_give_way_to_options(movie, tmp_path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('method = "fit"\nsteps = 11\nbatch_size = 3\n[bspline]\niterations = 9\n')
    assert run("register", movie, "-o", tmp_path / "out", "--config", config, "--steps", 5, "--no-refine", "--warm-start") == 0
    settings = read_result(tmp_path / "out").manifest.settings
    assert (settings.steps, settings.batch_size, settings.bspline.iterations) == (5, 3, 9)
    assert settings.warm_start
    assert not settings.refine
    assert run("register", movie, "-o", tmp_path / "other", "--config", config, "--batch-size", "auto") == 0
    assert read_result(tmp_path / "other").manifest.settings.batch_size == "auto"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--method", "magic"], 2, "method"),
        (["--steps", "0"], 2, "steps"),
        (["--spacing", "0,1"], 2, "--spacing"),
        (["--spacing", "nan,1"], 2, "--spacing"),
        (["--spacing", "-1,1"], 2, "--spacing"),
        (["--reference", "x"], 2, "--reference"),
        (["--batch-size", "many"], 2, "--batch-size"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--reference", "99"], 2, "99"),
        (["--config", "absent.toml"], 2, "absent.toml"),
        (["--device", "tpu"], 4, "tpu"),
        (["--device", "cuda:99"], 4, "device"),
        (["--landmarks", "absent.csv"], 3, "absent.csv"),
        (["--slice", "7"], 2, "slice"),
        (["--axes", "QYX"], 2, "axes"),
    ],
)
def test_wrong_options_are_named_in_one_line(movie, tmp_path, capsys, options, code, words) -> None:
    assert run("register", movie, "-o", tmp_path / "out", *options) == code
    assert words in one_line(capsys)
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_typo_in_the_settings_is_guessed(movie, tmp_path, capsys) -> None:
    (tmp_path / "settings.toml").write_text("stepz = 3\n")
    assert run("register", movie, "-o", tmp_path / "out", "--config", tmp_path / "settings.toml") == 2
    assert "did you mean 'steps'" in one_line(capsys)


@pytest.mark.parametrize("arguments", [["register"], ["registr", "x"], ["register", "x", "-o", "y", "--unknown"], ["apply", "x"]])
def test_usage_errors_exit_2(arguments) -> None:
    assert run(*arguments) == 2


def test_devices_are_checked_before_data_is_read(tmp_path, capsys) -> None:
    assert run("register", tmp_path / "absent.mha", "-o", tmp_path / "out", "--device", "cuda:99") == 4
    assert "device" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_bad_inputs_exit_3(tmp_path, capsys) -> None:
    assert run("register", tmp_path / "absent.mha", "-o", tmp_path / "out") == 3
    assert "absent.mha" in one_line(capsys)
    (tmp_path / "junk.mha").write_bytes(b"\x00junk" * 40)
    assert run("register", tmp_path / "junk.mha", "-o", tmp_path / "out") == 3
    assert "junk.mha" in one_line(capsys)


def test_one_frame_is_nothing_to_register(tmp_path, capsys) -> None:
    single = save(tmp_path / "in" / "one.npy", scene(0)[None, None].astype(np.float32), "npy")
    assert run("register", single, "-o", tmp_path / "out", "--axes", "TYX") == 3
    assert "nothing to register" in one_line(capsys)


def test_an_output_inside_the_input_or_on_a_file_is_refused(movie, tmp_path, capsys) -> None:
    assert run("register", movie.parent, "-o", movie.parent / "out") == 2
    assert "inside the input" in one_line(capsys)
    assert run("register", movie, "-o", movie) == 2
    one_line(capsys)
    assert run("register", movie, "-o", "/proc/r2n2") == 4
    one_line(capsys)


def test_a_frame_that_failed_is_listed_and_exits_3(movie, tmp_path, capsys) -> None:
    bad = movie.rename(movie.with_name("fail.mha"))
    assert run("register", bad, "-o", tmp_path / "out") == 3
    assert "failed frames: 2" in capsys.readouterr().out
    assert read_result(tmp_path / "out").manifest.messages == {2: "broken"}


def several(tmp_path: Path) -> Path:
    stack = np.stack([scene(rows) for rows in ROWS]).astype(np.float32)
    path = tmp_path / "in" / "slices.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.stack([stack, stack + 5], axis=1))
    return path


def dicom_folder(folder: Path) -> Path:
    """Four frames whose every free text and date names the patient."""
    spec = importlib.util.spec_from_file_location("dicom_factory", Path(__file__).with_name("dicom_factory.py"))
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    folder.mkdir()
    for k, rows in enumerate(ROWS):
        dataset = make.dataset_of(k, scene(rows).astype(np.int16))
        for keyword in ("PatientName", "PatientID", "InstitutionName", "SeriesDescription", "ProtocolName", "ImageComments"):
            setattr(dataset, keyword, "CANARY")
        dataset.StudyDate = dataset.PatientBirthDate = "19510203"
        dataset.private_block(0x0011, "CANARY", create=True).add_new(0x01, "LO", "CANARY")
        make.save(dataset, folder / f"{k}.dcm")
    return folder


def test_no_output_and_no_message_names_the_patient(tmp_path, capsys) -> None:
    source = dicom_folder(tmp_path / "in")
    assert run("register", source, "-o", tmp_path / "out") == 0
    assert run("info", source) == 0
    assert run("info", tmp_path / "out") == 0
    shown = capsys.readouterr()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 10
    for content in (shown.out.encode(), shown.err.encode(), *(path.read_bytes() for path in files)):
        assert b"CANARY" not in content
        assert b"19510203" not in content
    assert "TriggerTime" in (tmp_path / "out" / "run.json").read_text()


def test_headers_are_kept_when_asked_and_where_they_can_be(movie, tmp_path, capsys) -> None:
    source = dicom_folder(tmp_path / "in2")
    assert run("register", source, "-o", tmp_path / "out", "--keep-headers") == 0
    kept = list((tmp_path / "out" / "registered").iterdir())
    assert len(kept) == 4
    assert all(b"CANARY" in path.read_bytes() for path in kept)
    assert b"CANARY" not in (tmp_path / "out" / "run.json").read_bytes()
    assert run("register", movie, "-o", tmp_path / "out2", "--keep-headers") == 2
    assert "DICOM" in one_line(capsys)


def test_several_slices_make_sub_folders_and_table_1(tmp_path, marks, capsys) -> None:
    source, out = several(tmp_path), tmp_path / "out"
    folder = tmp_path / "marks"
    folder.mkdir()
    for name in ("slice_00.csv", "slice_01.csv"):
        (folder / name).write_bytes(marks.read_bytes())
    options = ["--axes", "TZYX", "--spacing", "2,1.5"]
    assert run("register", source, "-o", out, *options) == 0
    assert {path.name for path in out.iterdir()} == {"slice_00", "slice_01", "summary.csv", "run.json"}
    assert [row["slice"] for row in table(out / "summary.csv")] == ["slice_00", "slice_01"]
    stamp = (out / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run("evaluate", out) == 3
    assert run("evaluate", out, "--landmarks", folder) == 0
    shown = capsys.readouterr().out
    assert "slice_00" in shown
    assert "slice_01" in shown
    rows = table(out / "tre_summary.csv")
    assert [row["slice"] for row in rows] == ["slice_00", "slice_01", "mean"]
    assert float(rows[0]["before_mean_mm"]) == pytest.approx(4.0, rel=1e-4)
    assert float(rows[0]["before_max_mm"]) == pytest.approx(6.0, rel=1e-4)
    assert float(rows[2]["tre_mean_mm"]) == pytest.approx(0, abs=1e-3)
    # Now the errors are kept: no file is needed again. And a second run touches nothing.
    assert run("evaluate", out) == 0
    assert run("register", source, "-o", out, *options) == 0
    assert (out / "run.json").stat().st_mtime_ns == stamp
    assert run("info", out) == 0
    assert run("register", source, "-o", tmp_path / "one", *options, "--slice", 1) == 0
    assert (tmp_path / "one" / "registered.npy").exists()


def test_a_slice_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch) -> None:
    def sometimes(series, config, done, **_):
        if series.frame(0).max() > scene(0).max() + 2:
            raise ResourceError("this slice is too much")
        yield from fake_register(series, config)

    monkeypatch.setattr("r2n2.workflow.register_series", sometimes)
    assert run("register", several(tmp_path), "-o", tmp_path / "out", "--axes", "TZYX") == 3
    assert "failed: slice_01: this slice is too much" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["slices"] == ["slice_00"]
    assert manifest["failed"] == {"slice_01": "this slice is too much"}


@pytest.fixture
def result(movie, tmp_path) -> Path:
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    return tmp_path / "result"


def test_evaluate_prints_and_writes_errors(result, marks, capsys) -> None:
    capsys.readouterr()
    assert run("evaluate", result, "--landmarks", marks, "--observer", marks) == 0
    shown = capsys.readouterr().out
    assert "series" in shown
    assert "inter-observer error: mean 0.00" in shown
    rows = table(result / "tre_summary.csv")
    assert [row["frame"] for row in rows] == ["1", "2", "3", "series"]
    assert float(rows[1]["before_mean_mm"]) == pytest.approx(6.0, rel=1e-4)
    assert float(rows[1]["tre_max_mm"]) == pytest.approx(0, abs=1e-3)
    assert len(table(result / "tre.csv")) == 9


def test_evaluate_refuses_what_is_no_result(tmp_path, marks, capsys) -> None:
    assert run("evaluate", tmp_path / "absent", "--landmarks", marks) == 3
    one_line(capsys)
    (tmp_path / "empty").mkdir()
    assert run("evaluate", tmp_path / "empty", "--landmarks", marks) == 3
    assert "did not finish" in one_line(capsys)


def test_apply_warps_each_frame_by_its_transform(result, movie, tmp_path) -> None:
    output = tmp_path / "again.mha"
    assert run("apply", result, "--to", movie, "-o", output) == 0
    again, first = read_series(output)[0], read_series(result / "registered.mha")[0]
    for frame in range(4):
        np.testing.assert_allclose(again.frame(frame), first.frame(frame), rtol=1e-6)


def test_dense_displacements_are_kept_whole_as_they_are_nothing_else(movie, tmp_path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "out", "--quiet", "--fields", "none") == 0
    assert len(list((tmp_path / "out" / "fields").iterdir())) == 4
    assert read_result(tmp_path / "out").transforms[2].grid.shape == read_series(movie)[0].grid.shape
    assert run("register", movie, "-o", tmp_path / "x", "--fields", "some") == 2
    assert "full, none or a distance" in one_line(capsys)


def test_export_writes_a_transform_a_frame_that_itk_resamples_by(result, movie, tmp_path, capsys) -> None:
    assert run("export", result, "-o", tmp_path / "out" / "t") == 0
    assert [path.name for path in sorted((tmp_path / "out" / "t").iterdir())] == [f"frame_000{k}.h5" for k in range(4)]
    moving = read_series(movie)[0]
    fixed = SimpleITK.ReadImage(str(result / "fields" / "frame_0002.mha"))
    image = SimpleITK.GetImageFromArray(np.asarray(moving.frame(2)[0], np.float32))
    image.SetSpacing(fixed.GetSpacing())
    image.SetOrigin(fixed.GetOrigin())
    transform = SimpleITK.ReadTransform(str(tmp_path / "out" / "t" / "frame_0002.h5"))
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, image, transform, SimpleITK.sitkLinear))
    ours = read_series(result / "registered.mha")[0].frame(2)[0]
    np.testing.assert_allclose(theirs[6:-6, 3:-3], ours[6:-6, 3:-3], atol=0.6)
    capsys.readouterr()
    assert run("export", result, "-o", tmp_path / "out" / "t", "--frame", 2) == 2
    assert "--overwrite" in one_line(capsys)
    assert run("export", result, "-o", tmp_path / "out" / "t", "--frame", 2, "--inverse") == 0
    told = capsys.readouterr()
    assert "frame_0002_inverse.h5" in told.out
    assert "the inverse is exact to" in told.err
    back = SimpleITK.ReadTransform(str(tmp_path / "out" / "t" / "frame_0002_inverse.h5"))
    point = image.TransformContinuousIndexToPhysicalPoint([20.0, 18.0])
    np.testing.assert_allclose(back.TransformPoint(transform.TransformPoint(point)), point, atol=0.02)
    assert run("export", result, "-o", tmp_path / "x", "--frame", 9) == 2
    assert "expected all or a frame from 0 to 3" in one_line(capsys)


def test_apply_moves_labels_whole(result, tmp_path) -> None:
    labels = np.zeros((1, 1, *GRID.shape), np.uint16)
    labels[..., 10:20, 15:30], labels[..., 12, 20] = 40000, 7
    source = save(tmp_path / "labels.mha", labels)
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--labels", "--frame", 2) == 0
    moved = read_series(tmp_path / "out.mha")[0].frame(0)
    assert np.array_equal(moved[0], warp_labels(labels[0, 0], shift(3)))
    assert np.array_equal(moved[0, 7:17], labels[0, 0, 10:20])


def test_apply_asks_which_frame_a_single_image_belongs_to(result, tmp_path, capsys) -> None:
    source = save(tmp_path / "one.mha", scene(3)[None, None].astype(np.float32))
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha") == 2
    assert "--frame" in one_line(capsys)
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", "all") == 0
    assert len(read_series(tmp_path / "out.mha")[0]) == 4
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 2
    assert "--overwrite" in one_line(capsys)
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2, "--overwrite") == 0
    np.testing.assert_allclose(read_series(tmp_path / "out.mha")[0].frame(0)[0, :28], scene(0)[:28], rtol=1e-5)


def test_apply_inverse_moves_an_image_of_the_reference_into_a_frame(result, tmp_path) -> None:
    source = save(tmp_path / "one.mha", scene(0)[None, None].astype(np.float32))
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2, "--inverse") == 0
    np.testing.assert_allclose(read_series(tmp_path / "out.mha")[0].frame(0)[0, 6:], scene(3)[6:], rtol=1e-4)


def test_apply_refuses_another_place(result, tmp_path, capsys) -> None:
    grid = Grid(GRID.shape, GRID.spacing, (400.0, 0.0))
    elsewhere = ImageSeries(np.zeros((1, 1, *GRID.shape), np.float32), grid, source={"format": "mha"})
    other = write_series(tmp_path, "other", elsewhere, iter([elsewhere.frame(0)]))
    assert run("apply", result, "--to", other, "-o", tmp_path / "out.mha", "--frame", 1) == 2
    assert "lies elsewhere" in one_line(capsys)
    np.save(tmp_path / "small.npy", np.zeros((30, 49), np.float32))
    assert run("apply", result, "--to", tmp_path / "small.npy", "-o", tmp_path / "out.mha", "--frame", 1) == 2
    assert "(30, 49)" in one_line(capsys)
    assert run("apply", result, "--to", other, "-o", tmp_path / "out.xyz", "--frame", 1) == 2
    assert not (tmp_path / "out.mha").exists()


def test_apply_maps_landmarks_there_and_back(result, marks, tmp_path, capsys) -> None:
    assert run("apply", result, "--to", marks, "-o", tmp_path / "there.csv") == 0
    there = read_landmarks(tmp_path / "there.csv", GRID).to_space(Space.INDEX, GRID)
    assert len(there) == 12
    start = read_landmarks(marks, GRID).to_space(Space.INDEX, GRID).in_frame(0)
    expected = map_points(shift(3), torch.from_numpy(start.points), Space.INDEX).numpy()
    np.testing.assert_allclose(there.in_frame(2).select(start.ids).points, expected, atol=1e-4)
    capsys.readouterr()
    assert run("apply", result, "--to", tmp_path / "there.csv", "-o", tmp_path / "back.csv", "--inverse", "--frame", 2) == 0
    assert "exact to" in capsys.readouterr().err
    back = read_landmarks(tmp_path / "back.csv", GRID).to_space(Space.INDEX, GRID)
    assert set(back.frames.tolist()) == {0}
    np.testing.assert_allclose(back.select(start.ids).points, start.points, atol=1e-3)


def test_info_describes_inputs_and_results(movie, result, tmp_path, capsys) -> None:
    capsys.readouterr()
    assert run("info", movie) == 0
    shown = capsys.readouterr().out
    assert "34 x 49" in shown
    assert "2 x 1.5" in shown
    assert run("info", result) == 0
    assert "All 4 frames" in capsys.readouterr().out
    (tmp_path / "junk.nii").write_bytes(b"junk")
    assert run("info", tmp_path / "junk.nii") == 3


def test_doctor_tells_what_is_here(capsys) -> None:
    assert run("doctor") in (0, 4)
    shown = capsys.readouterr().out
    for word in ("torch", "processor", "memory", "weights", "identity warp", "extra plugin", "device used by auto"):
        assert word in shown


def test_doctor_says_how_large_the_weights_are_and_whether_they_are_whole(monkeypatch, tmp_path, capsys) -> None:
    lines = {check.name: check for check in examine()}
    assert lines["weights general"].fine
    assert re.fullmatch(r"\d\.\d MiB, [\d,]+ numbers for 2D images, hash ok", lines["weights general"].value)
    whole = shipped_weights.shipped_file("general").read_bytes()
    (tmp_path / "general.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setattr(shipped_weights, "weights_folder", lambda: tmp_path)
    assert run("doctor") == 4
    assert "SHA-256" in capsys.readouterr().out
    (tmp_path / "general.safetensors").unlink()
    assert [(check.fine, check.value) for check in examine() if check.name == "weights"] == [(False, "none shipped")]


def test_doctor_exits_4_if_something_is_wrong(monkeypatch) -> None:
    monkeypatch.setattr("r2n2.doctor.examine", lambda: (Check("torch", "1.0", False, "install a newer one"),))
    assert run("doctor") == 4
    monkeypatch.setattr("r2n2.doctor.examine", lambda: (Check("torch", "9.0"),))
    assert run("doctor") == 0


def test_a_look_that_breaks_is_a_line_of_the_examination(monkeypatch) -> None:
    monkeypatch.setattr("r2n2.doctor._memory", lambda: 1 / 0)
    assert any("ZeroDivisionError" in check.value and not check.fine for check in examine())


def test_cuda_without_a_gpu_is_a_resource_error(movie, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("register", movie, "-o", tmp_path / "out", "--device", "cuda") == 4
    assert "doctor" in one_line(capsys)


def test_an_internal_error_is_one_line_and_a_log(movie, tmp_path, capsys, monkeypatch) -> None:
    def broken(series, config, done, **_):
        yield from ()
        raise RuntimeError("the unexpected\nhappened")

    monkeypatch.setattr("r2n2.workflow.register_series", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run("register", movie, "-o", tmp_path / "out") == 5
    line = one_line(capsys)
    assert "the unexpected happened" in line
    assert "Traceback" not in line
    logs = list(tmp_path.glob("r2n2-error-*.log"))
    assert len(logs) == 1
    assert "Traceback" in logs[0].read_text()
    assert run("--debug", "register", movie, "-o", tmp_path / "out") == 5
    assert "Traceback" in capsys.readouterr().err
    assert "R2N2_DEBUG" not in os.environ


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_step_and_keeps_the_frames(movie, tmp_path, capsys, monkeypatch, number, code) -> None:
    def signalled(series, config, done, **_):
        for progress in fake_register(series, config):
            if progress.frames_done == 2:
                os.kill(os.getpid(), number)
            yield progress

    monkeypatch.setattr("r2n2.workflow.register_series", signalled)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run("register", movie, "-o", tmp_path / "out") == code
    assert "stopped by" in one_line(capsys)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert "2 of 4 frames" in (tmp_path / "out" / "unfinished.txt").read_text()
    assert len(list((tmp_path / "out" / "fields").glob("*.mha"))) == 2
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_second_signal_ends_at_once(movie, tmp_path, monkeypatch) -> None:
    def stubborn(series, config, done, **_):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still running")
        yield

    monkeypatch.setattr("r2n2.workflow.register_series", stubborn)
    assert run("register", movie, "-o", tmp_path / "out") == 143


@pytest.mark.parametrize("text", ["1", "1,2,3,4", "a,b", "inf,1", ""])
def test_spacing_is_two_or_three_positive_numbers(text) -> None:
    with pytest.raises(ArgumentError, match="--spacing"):
        parse_spacing(text)
    assert parse_spacing("1.5, 2") == (1.5, 2.0)


@pytest.mark.slow
def test_help_loads_neither_torch_nor_qt() -> None:
    code = (
        "import sys, r2n2.cli as c; r = c.main(['--help']);"
        "print(sorted(m for m in ('torch', 'numpy', 'pydantic', 'matplotlib', 'qtpy', 'napari') if m in sys.modules)); sys.exit(r)"
    )
    environment = {**os.environ, "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kathmandu"}
    environment.pop("DISPLAY", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("[]")
    for name in ("register", "evaluate", "apply", "info", "simulate", "doctor"):
        assert name in done.stdout
