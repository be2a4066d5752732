"""The output folder: every file against known answers, SimpleITK as an independent reader, and what faults leave behind."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.geometry import Grid, Space
from r2n2.io import read_field, read_series
from r2n2.registration import resolve_device
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.report import page
from r2n2.results.journal import JOURNAL_NAME
from r2n2.results.manifest import RunFacts, input_sha256, load_manifest, run_sha256
from r2n2.results.output_folder import UNFINISHED_NAME
from r2n2.results.writer import ResultWriter, check_folder, check_space, is_same_run, read_result, read_sequences
from r2n2.runtime.folder_lock import LOCK_NAME
from r2n2.runtime.memory import peak_memory_mib
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import BSplineField, DisplacementField, GaussianSequence, Transform, map_points

TURN = ((0.8, -0.6), (0.6, 0.8))
GRID = Grid((37, 52), (1.8, 0.7), (12.0, -30.0), TURN)
FRAMES = 4


def smooth_image(shape: tuple[int, int], phase: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 500 + 200 * np.sin(x / 5 + phase) * np.cos(y / 4) + 3 * x


def make_series(path: Path, grid: Grid = GRID, frames: int = FRAMES, dtype: str = "int16") -> ImageSeries:
    images = np.stack([smooth_image(grid.shape, 0.1 * k) for k in range(frames)])
    source = {"format": "mha", "path": str(path), "time_tag": "TriggerTime", "PatientName": "CANARY^NAME"}
    return ImageSeries(images[:, None].astype(dtype), grid, tuple(0.5 * k for k in range(frames)), "series", "MR", source=source)


def shift(rows: float, columns: float, grid: Grid = GRID) -> DisplacementField:
    vectors = torch.tensor([float(rows), float(columns)])[:, None, None].expand(2, *grid.shape).clone()
    return DisplacementField(vectors, grid, Space.INDEX)


def gaussians(frame: int, grid: Grid = GRID, steps: int = 5) -> GaussianSequence:
    generator = torch.Generator().manual_seed(frame)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    sigmas = 0.1 + 0.2 * draw(steps, 2)
    return GaussianSequence(draw(steps, 2) - 0.5, sigmas, 3.1 * draw(steps, 1), 0.08 * draw(steps, 2) - 0.04, grid)


def result(frame: int, transform: Transform, status: FrameStatus = FrameStatus.OK) -> FrameResult:
    message = "" if status in (FrameStatus.OK, FrameStatus.REFERENCE) else "why not"
    return FrameResult(frame, transform, status, message, 0.9, 0.99, 0.0, 0.8, 3.0, 0.1)


def results(transform=gaussians, frames: int = FRAMES) -> list[FrameResult]:
    rest = [result(frame, transform(frame)) for frame in range(1, frames)]
    return [result(0, GaussianSequence.identity(GRID), FrameStatus.REFERENCE), *rest]


def write(folder: Path, series: ImageSeries, found: list[FrameResult], **options):
    with ResultWriter(folder, series, RegistrationConfig(), **options) as writer:
        for item in found:
            writer.add(item)
        return writer.finish(page.render_report)


def read_table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere and take a second each; ``finished`` is made before this and has a real one."""
    monkeypatch.setattr("r2n2.report.page.render_report", lambda series, registered, errors: f"errors: {errors is not None}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageSeries, list[FrameResult]]:
    """A folder of Gaussian sequences, written once and only read."""
    folder = tmp_path_factory.mktemp("finished") / "é 数据 a b"
    series = make_series(folder / "in.mha")
    found = results()
    found[3] = result(3, GaussianSequence.identity(GRID), FrameStatus.WORSE)
    # Out of order on purpose: batches may finish as they like.
    write(folder, series, [found[k] for k in (2, 0, 3, 1)])
    return folder, series, found


def test_the_folder_holds_exactly_what_the_contract_says(finished) -> None:
    folder, _, _ = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    fields = {f"{folder}/frame_{k:04d}.mha" for k in range(FRAMES) for folder in ("fields", "uncertainty")}
    assert names == fields | {"registered.mha", "sequence.csv", "sequence.npz", "metrics.csv", "report.html", "run.json"}


def test_metrics_have_the_columns_of_the_contract(finished) -> None:
    folder, _, _ = finished
    rows = read_table(folder / "metrics.csv")
    assert ",".join(rows[0]) == (
        "frame,time_s,similarity_before,similarity_after,folding_percent,min_jacobian,"
        "min_jacobian_proven,max_displacement_mm,gaussians,seconds,status,similarity_measure,uncertainty_mm,uncertainty_95_mm"
    )
    assert [row["status"] for row in rows] == ["reference", "ok", "ok", "worse"]
    assert [float(row["time_s"]) for row in rows] == [0, 0.5, 1, 1.5]


def test_the_table_in_mm_gives_the_field_by_a_formula_of_its_own(finished) -> None:
    folder, _, found = finished
    rows = read_table(folder / "sequence.csv")
    assert ",".join(rows[0]) == "frame,step,y_mm,x_mm,sigma1_mm,sigma2_mm,angle_deg,vy_mm,vx_mm"
    # World position of every pixel, in numpy: origin + direction @ (spacing * index).
    index = np.stack(np.mgrid[: GRID.shape[0], : GRID.shape[1]], -1) * np.array(GRID.spacing)
    world = index @ np.array(TURN).T + np.array(GRID.origin)
    for frame in (1, 2):
        total = np.zeros((*GRID.shape, 2))
        steps = [row for row in rows if row["frame"] == str(frame)]
        assert [int(row["step"]) for row in steps] == [1, 2, 3, 4, 5]
        for row in steps:
            number = {name: float(value) for name, value in row.items()}
            angle = np.radians(number["angle_deg"])
            first, second = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
            offset = world - [number["y_mm"], number["x_mm"]]
            distance = (offset @ first / number["sigma1_mm"]) ** 2 + (offset @ second / number["sigma2_mm"]) ** 2
            total += np.exp(-distance / 2)[..., None] * [number["vy_mm"], number["vx_mm"]]
        expected = found[frame].transform.displacement_field().to_space(Space.WORLD).vectors.movedim(0, -1).numpy()
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(total, expected, atol=1e-4)


def test_the_archive_is_exact(finished) -> None:
    folder, _, found = finished
    read = read_sequences(folder / "sequence.npz")
    assert sorted(read) == [0, 1, 2, 3]
    assert [len(read[k]) for k in range(FRAMES)] == [0, 5, 5, 0]
    for part in ("centres", "sigmas", "orientation", "amplitudes"):
        assert torch.equal(getattr(read[2], part), getattr(found[2].transform, part))
    assert read[2].grid == GRID


def test_a_result_is_read_back_as_it_was(finished) -> None:
    folder, series, found = finished
    registered = read_result(folder)
    assert registered.grid == GRID
    assert registered.reference == 0
    assert registered.manifest.settings == RegistrationConfig()
    assert list(registered.transforms) == [0, 1, 2, 3]
    again = registered.result(3)
    assert (again.status, again.message, again.similarity_after) == (FrameStatus.WORSE, "why not", 0.99)
    points = torch.rand(7, 2, dtype=torch.float64) - 0.5
    assert torch.equal(registered.transforms[1].displacement_at(points), found[1].transform.displacement_at(points))
    assert len(series) == len(registered.metrics)


def test_run_json_says_what_is_needed_and_names_no_patient(finished) -> None:
    folder, series, _ = finished
    values = json.loads((folder / "run.json").read_text())
    assert values["input"]["sha256"] == input_sha256(series)
    assert values["input"]["source"] == {"format": "mha", "time_tag": "TriggerTime"}
    assert values["similarity"] == "correlation coefficient"
    assert values["convention"]["outside"] == "edge pixels repeated"
    assert "pull-back" in values["convention"]["displacement"]
    assert values["status_counts"] == {"reference": 1, "ok": 2, "worse": 1}
    assert values["messages"] == {"3": "why not"}
    assert values["reference"] == 0
    assert values["weights_sha256"] is None
    assert values["peak_memory_mib"] > 10
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"CANARY" not in path.read_bytes(), path


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell")
def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(200 * 2**17)
    code = "from r2n2.runtime.memory import peak_memory_mib; print(peak_memory_mib()); x = b'1' * 2**26; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    before, after = map(float, done.stdout.split())
    own = peak_memory_mib()
    assert own is not None
    assert held.nbytes / 2**20 == 200
    assert before < own - 100
    assert after - before == pytest.approx(64, abs=8)


def test_a_dense_field_of_a_shift_holds_the_shift(tmp_path: Path) -> None:
    series = make_series(tmp_path / "in.mha", dtype="float32")
    found = [result(0, shift(0, 0), FrameStatus.REFERENCE), result(1, shift(3, -4))]
    series = dataclasses.replace(series, frames=series.frames[:2], times_s=None)
    registered = write(tmp_path / "out", series, found)
    field = sitk.ReadImage(str(tmp_path / "out" / "fields" / "frame_0001.mha"))
    expected_mm = np.array(TURN) @ (np.array([3, -4]) * np.array(GRID.spacing))
    np.testing.assert_allclose(sitk.GetArrayFromImage(field)[20, 20], expected_mm[::-1], atol=1e-5)
    aligned = read_series(tmp_path / "out" / "registered.mha")[0].frame(1)
    np.testing.assert_allclose(aligned[0, 5:30, 10:40], series.frame(1)[0, 8:33, 6:36], rtol=1e-5)
    again = registered.transforms[1].displacement_at(torch.zeros(1, 2, dtype=torch.float64))
    expected = shift(3, -4).displacement_at(torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)
    # A dense transform has no sequence; its tables are there and empty.
    assert (tmp_path / "out" / "sequence.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("kind", ["gaussians", "bspline"])
def test_simpleitk_reproduces_the_registered_frames_from_the_fields_alone(tmp_path: Path, kind: str) -> None:
    series = make_series(tmp_path / "in.mha", dtype="float32")

    def spline(frame: int) -> BSplineField:
        return BSplineField(0.06 * torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(frame)), GRID)

    found = results(gaussians if kind == "gaussians" else spline)
    write(tmp_path / "out", series, found)
    aligned = read_series(tmp_path / "out" / "registered.mha")[0]
    assert aligned.grid.spacing == pytest.approx(GRID.spacing)
    for frame in (1, 3):
        field = sitk.ReadImage(str(tmp_path / "out" / "fields" / f"frame_{frame:04d}.mha"), sitk.sitkVectorFloat64)
        moving = sitk.GetImageFromArray(series.frame(frame)[0].astype(np.float64))
        moving.SetSpacing(GRID.spacing[::-1])
        moving.SetOrigin(GRID.origin[::-1])
        moving.SetDirection(np.array(TURN)[::-1, ::-1].ravel())
        resample = sitk.ResampleImageFilter()
        resample.SetReferenceImage(moving)
        resample.SetInterpolator(sitk.sitkLinear)
        # Our policy outside the image: edge pixels repeated.
        resample.UseNearestNeighborExtrapolatorOn()
        resample.SetTransform(sitk.DisplacementFieldTransform(field))
        expected = sitk.GetArrayFromImage(resample.Execute(moving))
        ours = aligned.frame(frame)[0]
        tolerance = 1e-3 * np.ptp(expected)
        assert np.abs(ours - series.frame(frame)[0]).max() > 20 * tolerance
        # Beyond the outermost half pixel both repeat the edge, but ITK rounds along the edge too where ours interpolates.
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in GRID.shape), indexing="ij"), -1).flatten(0, 1)
        places = map_points(found[frame].transform, index.double(), Space.INDEX).numpy().reshape(*GRID.shape, 2)
        inside = np.all((places > -0.499) & (places < np.array(GRID.shape) - 0.501), axis=-1)
        assert inside.mean() > 0.8
        assert np.abs(ours - expected)[inside].max() < tolerance


def test_splines_are_kept_as_control_points(tmp_path: Path) -> None:
    splines = {k: BSplineField(0.05 * torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(k)), GRID) for k in range(4)}
    found = [result(k, t, FrameStatus.OK if k else FrameStatus.REFERENCE) for k, t in splines.items()]
    write(tmp_path / "out", make_series(tmp_path / "in.mha"), found)
    assert not (tmp_path / "out" / "sequence.npz").exists()
    read = read_result(tmp_path / "out").transforms[2]
    assert isinstance(read, BSplineField)
    assert torch.equal(read.control, splines[2].control)


def test_landmarks_add_errors_to_the_metrics(tmp_path: Path) -> None:
    found = [result(0, shift(0, 0), FrameStatus.REFERENCE), *(result(k, shift(2, 1)) for k in (1, 2, 3))]
    landmarks = LandmarkSet(("a", "a", "a"), np.array([0, 1, 2]), np.array([[9, 9], [11, 10], [13, 11]]), Space.INDEX)
    write(tmp_path / "out", make_series(tmp_path / "in.mha"), found, landmarks=landmarks)
    rows = read_table(tmp_path / "out" / "metrics.csv")
    assert list(rows[0])[-3:] == ["tre_before_mm", "tre_mm", "tre_max_mm"]
    assert float(rows[1]["tre_mm"]) == pytest.approx(0, abs=1e-4)
    assert float(rows[2]["tre_mm"]) == pytest.approx(float(rows[2]["tre_before_mm"]) / 2, rel=1e-4)
    assert rows[3]["tre_mm"] == ""
    assert (tmp_path / "out" / "report.html").read_text() == "errors: True"


def stop_after_two(interrupted: ResultWriter) -> None:
    with interrupted as writer:
        for item in results()[:2]:
            writer.add(item)
        raise KeyboardInterrupt


def test_leaving_early_keeps_the_frames_but_no_run_json(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    interrupted = ResultWriter(folder, make_series(tmp_path / "in.mha"), RegistrationConfig())
    with pytest.raises(KeyboardInterrupt):
        stop_after_two(interrupted)
    names = {path.name for path in folder.iterdir()}
    assert names == {"fields", "uncertainty", "sequence.csv", "sequence.npz", "metrics.csv", "unfinished.txt"}
    assert "2 of 4 frames" in (folder / "unfinished.txt").read_text()
    with pytest.raises(ReadError, match="did not finish"):
        read_result(folder)
    # A new run completes it without --overwrite.
    write(folder, make_series(tmp_path / "in.mha"), results())
    assert not (folder / "unfinished.txt").exists()
    assert read_result(folder).manifest.reference == 0


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_results_writer import *
folder = Path({folder!r})
with ResultWriter(folder, make_series(folder / "in.mha"), RegistrationConfig()) as writer:
    for item in results()[:3]:
        writer.add(item)
    temporary = folder / "fields" / "x"
    with __import__("r2n2.io.atomic").io.atomic.atomic_write(folder / "metrics.csv") as path:
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_run_json_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code = _KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert not (folder / "run.json").exists()
    assert not (folder / "metrics.csv").exists()
    assert (folder / LOCK_NAME).exists()
    write(folder, make_series(tmp_path / "in.mha"), results())
    leftovers = [path.name for path in folder.rglob(".*")]
    assert leftovers == []
    assert len(read_result(folder).metrics) == FRAMES


def test_a_finished_result_is_only_replaced_when_asked(finished, tmp_path: Path) -> None:
    series = make_series(tmp_path / "in.mha")
    write(tmp_path / "out", series, results())
    before = (tmp_path / "out" / "run.json").read_bytes()
    with pytest.raises(ArgumentError, match="--overwrite"):
        write(tmp_path / "out", series, results())
    assert (tmp_path / "out" / "run.json").read_bytes() == before
    (tmp_path / "out" / "registered.notes").write_text("mine")
    write(tmp_path / "out", series, results(shift_of_frame), overwrite=True)
    assert (tmp_path / "out" / "registered.notes").read_text() == "mine"
    assert isinstance(read_result(tmp_path / "out").transforms[1], DisplacementField)


def shift_of_frame(frame: int) -> DisplacementField:
    return shift(frame, 0)


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("mine")
    with pytest.raises(ArgumentError, match=r"report\.html"):
        write(tmp_path / "out", make_series(tmp_path / "in.mha"), results())
    assert (tmp_path / "out" / "report.html").read_text() == "mine"


def test_the_same_run_is_recognised_and_others_are_not(finished) -> None:
    folder, series, _ = finished
    config, digest = RegistrationConfig(), input_sha256(series)
    assert is_same_run(folder, run_sha256(config, digest, {}))
    assert is_same_run(folder, run_sha256(config.model_copy(update={"batch_size": 3}), digest, {}))
    assert not is_same_run(folder, run_sha256(config.model_copy(update={"steps": 3}), digest, {}))
    assert not is_same_run(folder, run_sha256(config, digest, {"slice_index": 1}))
    assert not is_same_run(folder.parent, run_sha256(config, digest, {}))


def test_the_precision_computed_in_tells_runs_apart_and_auto_does_not(finished) -> None:
    folder, series, _ = finished
    config, digest = RegistrationConfig(), input_sha256(series)
    assert not is_same_run(folder, run_sha256(config, digest, {}, precision="bfloat16"))
    assert is_same_run(folder, run_sha256(RegistrationConfig(precision="float32"), digest, {}, precision="float32"))


def test_what_was_used_is_recorded_as_it_was_when_it_ran(tmp_path: Path) -> None:
    used = RunFacts(device="cuda:1", weights_sha256="abc", precision="bfloat16", threads=3, wall_time_s=12.5)
    write(tmp_path / "out", make_series(tmp_path / "in.mha"), results(), facts=used)
    found = load_manifest(tmp_path / "out")
    assert (found.device, found.weights_sha256, found.precision, found.threads) == ("cuda:1", "abc", "bfloat16", 3)
    assert found.wall_time_s == 12.5, "an export takes its own time, which is not the run's"


def test_a_run_is_held_to_what_it_recorded() -> None:
    config = RegistrationConfig(method="fit")
    facts = RunFacts.of(config)
    assert facts == RunFacts(device=str(resolve_device("auto")), threads=torch.get_num_threads())
    held = facts.held_to(config)
    assert (held.device, held.precision) == (facts.device, "float32")


def test_a_manifest_of_an_older_version_still_reads(tmp_path: Path, finished) -> None:
    values = json.loads((finished[0] / "run.json").read_text())
    del values["precision"], values["threads"]
    (tmp_path / "run.json").write_text(json.dumps(values))
    found = load_manifest(tmp_path)
    assert (found.precision, found.threads) == (None, None)


def test_the_input_hash_sees_pixels_geometry_and_times_but_not_byte_order(tmp_path: Path) -> None:
    series = make_series(tmp_path / "a.mha")
    swapped = dataclasses.replace(series, frames=series.frames.astype(">i2"), source={})
    assert input_sha256(swapped) == input_sha256(series)
    changed = series.frames.copy()
    changed[2, 0, 5, 5] += 1
    others = [
        dataclasses.replace(series, frames=changed),
        dataclasses.replace(series, times_s=None),
        dataclasses.replace(series, grid=Grid(GRID.shape, (1.8, 0.8), GRID.origin, TURN)),
    ]
    assert len({input_sha256(item) for item in [series, *others]}) == 4


def test_a_batch_is_on_disk_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[int, int]] = []
    fsync = os.fsync

    def spied(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spied)
    with ResultWriter(tmp_path / "out", make_series(tmp_path / "in.mha"), RegistrationConfig(), batch_size=2) as writer:
        for first in (0, 2):
            writer.add(*results()[first : first + 2])
            journal = (tmp_path / "out" / JOURNAL_NAME).stat()
            assert flushed[-1] == (journal.st_ino, journal.st_size), "all of the journal, and nothing after it"
        writer.finish(page.render_report)


def test_what_says_that_a_finished_result_is_not_is_cleared(finished, tmp_path: Path) -> None:
    """A run killed right after its last file."""
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    before = sorted(path.name for path in folder.iterdir())
    for name in (JOURNAL_NAME, UNFINISHED_NAME):
        (folder / name).write_text("left")
    check_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with (
        ResultWriter(folder, make_series(tmp_path / "in.mha"), RegistrationConfig()),
        pytest.raises(ResourceError, match=f"process {os.getpid()}"),
    ):
        write(folder, make_series(tmp_path / "in.mha"), results())
    assert not (folder / LOCK_NAME).exists()


@pytest.mark.parametrize(
    ("lock", "taken"),
    [
        ({"pid": 2**22 - 3, "host": None}, True),
        ({"pid": "self", "host": None}, True),
        ({"pid": 1, "host": "another.machine"}, False),
        ("garbage", True),
        ("", True),
    ],
)
def test_a_stale_lock_is_taken_over_and_a_foreign_one_is_not(tmp_path: Path, lock: dict | str, taken: bool) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    if isinstance(lock, dict):
        lock = {**lock, "host": lock["host"] or socket.gethostname(), "pid": os.getpid() if lock["pid"] == "self" else lock["pid"]}
        lock = json.dumps(lock)
    (folder / LOCK_NAME).write_text(lock)
    if taken:
        write(folder, make_series(tmp_path / "in.mha"), results())
        assert not (folder / LOCK_NAME).exists()
    else:
        with pytest.raises(ResourceError, match="delete"):
            write(folder, make_series(tmp_path / "in.mha"), results())
        assert (folder / LOCK_NAME).exists()


def test_a_full_disk_leaves_an_unfinished_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import r2n2.results.transform_files

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(r2n2.results.transform_files, "sequence_archive", full)
    with pytest.raises((ResourceError, OSError)):
        write(tmp_path / "out", make_series(tmp_path / "in.mha"), results())
    assert not (tmp_path / "out" / "run.json").exists()
    assert "unfinished.txt" in {path.name for path in (tmp_path / "out").iterdir()}


def test_space_is_counted_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ResourceError, match="MiB are free"):
        check_space(tmp_path, make_series(tmp_path / "in.mha"))


def test_an_output_that_is_a_file_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="is a file"):
        check_folder(tmp_path / "file")
    with pytest.raises(ResourceError):
        check_folder(Path("/proc/r2n2-cannot-be-made"))


def test_frames_added_twice_or_missing_are_refused(tmp_path: Path) -> None:
    with ResultWriter(tmp_path / "out", make_series(tmp_path / "in.mha"), RegistrationConfig()) as writer:
        writer.add(results()[0])
        with pytest.raises(ValueError, match="added before"):
            writer.add(results()[0])
        with pytest.raises(ValueError, match=r"\[1, 2, 3\]"):
            writer.finish(page.render_report)


@pytest.mark.parametrize("damage", ["", "{", '{"kind": "series"}', '{"kind": 3}'])
def test_a_damaged_run_json_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(ReadError, match=r"run\.json"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("name", ["sequence.npz", "metrics.csv"])
def test_a_damaged_file_of_a_result_is_named(finished, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match=name):
        read_result(folder)
    (folder / name).unlink()
    with pytest.raises(ReadError, match=name):
        read_result(folder)


def test_fields_are_read_back_on_their_grid(finished) -> None:
    folder, _, found = finished
    field = read_field(folder / "fields" / "frame_0002.mha")
    expected = found[2].transform.displacement_field().to_space(Space.WORLD)
    torch.testing.assert_close(field.vectors, expected.vectors.float(), atol=1e-5, rtol=0)
    assert field.grid.same_space(GRID)
