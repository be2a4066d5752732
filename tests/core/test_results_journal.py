"""A run that was stopped or killed goes on where it stopped, and ends with the very files of one that was not."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch

from r2n2.cli import main
from r2n2.config import NetworkConfig
from r2n2.io import write_series
from r2n2.network import R2N2, MatchingPursuit
from r2n2.network.checkpoint import save_network
from r2n2.registration import FitMethod, Pairs, RegistrationStep, batch_size, register_series
from r2n2.results.journal import JOURNAL_NAME, read_journal
from r2n2.results.reader import read_result
from r2n2.results.run_record import RunRecord
from r2n2.runtime.signals import Interrupted
from r2n2.series import ImageSeries

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = 11
PURSUIT = NetworkConfig(channels=(2, 3, 4, 6), least_squares_sizes=(16, 32), working_size=32)
SETTINGS = """
method = "fit"
steps = 6
reference = 4
batch_size = 3
device = "cpu"
[fit]
sizes = [16, 32, 48]
rounds = 2
steps_a_round = 3
final_steps = 3
regulariser_size = 12
trust = false  # whose first go takes all frames again: test_registration_trust.py goes on with it
[bspline]
control_points = 12
iterations = 4
learning_rate = 0.01
"""


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2n2.workflow.render_report", lambda series, registered, errors: "report")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series in which frame 6 has no contrast, so that batches hold a frame that is not registered."""
    folder = tmp_path_factory.mktemp("source")
    series, _ = make.moving_series(FRAMES, dtype=np.uint16, reference=4)
    frames = np.array(series.frames)
    frames[6] = 7
    with_times = ImageSeries(frames, series.grid, tuple(0.1 * k for k in range(FRAMES)), source={"format": "mha"})
    (folder / "settings.toml").write_text(SETTINGS)
    torch.manual_seed(0)
    save_network(folder / "small.safetensors", MatchingPursuit(PURSUIT))
    return write_series(folder, "in", with_times, iter(frames))


def command(source: Path, out: Path, *options: object) -> list[str]:
    return [str(part) for part in ("register", source, "-o", out, "--config", source.with_name("settings.toml"), *options)]


def run(source: Path, out: Path, *options: object) -> int:
    return main(command(source, out, *options))


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, *options: object) -> None:
    """Register until so many batches more are written."""

    def stopped(series: ImageSeries, config: Any, **more: Any) -> Iterator[Any]:
        registered = 0
        for progress in register_series(series, config, **more):
            yield progress
            registered += any(result.frame != progress.reference for result in progress.finished)
            if registered == batches:
                raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("r2n2.workflow.register_series", stopped)
        assert run(source, out, *options) == 130
    assert not (out / "run.json").exists()


def files(out: Path) -> dict[str, bytes]:
    """Every file of a result but run.json and the report, the seconds in metrics.csv left out."""
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "report.html")
    }
    rows = list(csv.DictReader(found["metrics.csv"].decode().splitlines()))
    found["metrics.csv"] = json.dumps([{key: value for key, value in row.items() if key != "seconds"} for row in rows]).encode()
    return found


def assert_same(out: Path, whole: Path) -> None:
    ours, theirs = files(out), files(whole)
    assert sorted(ours) == sorted(theirs)
    assert len(ours) >= FRAMES + 3
    assert [name for name in theirs if ours[name] != theirs[name]] == []


class Counted:
    """How many pairs each call of a method registers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: type = FitMethod) -> None:
        self.pairs: list[int] = []
        register = method.register  # type: ignore[attr-defined]

        def counted(itself: Any, pairs: Pairs, *, start: Sequence[Any] | None = None) -> Iterator[RegistrationStep]:
            self.pairs.append(len(pairs))
            yield from register(itself, pairs, start=start)

        monkeypatch.setattr(method, "register", counted)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run that nothing interrupts, made once for the same options."""
    made: dict[tuple[str, ...], Path] = {}

    def give(*options: object) -> Path:
        key = tuple(map(str, options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "out"
            assert run(source, made[key], *options) == 0
        return made[key]

    return give


VARIANTS = {
    "fit": ("--method", "fit"),
    "fit, warm": ("--method", "fit", "--warm-start"),
    "bspline": ("--method", "bspline"),
    "bspline, warm": ("--method", "bspline", "--warm-start"),
    "network": ("--method", "r2n2", "--no-refine", "--weights"),
    "network, refined, warm": ("--method", "r2n2", "--refine", "--warm-start", "--weights"),
}


def variant(name: str, source: Path) -> tuple[object, ...]:
    options = VARIANTS[name]
    return (*options, source.with_name("small.safetensors")) if options[-1] == "--weights" else options


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("batches", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_files(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, batches: int
) -> None:
    out, options = tmp_path / "out", variant(name, source)
    stop_after(batches, monkeypatch, source, out, *options)
    done = 1 + 3 * batches
    assert f"{done} of {FRAMES} frames done. The same command goes on from there." in (out / "unfinished.txt").read_text()
    assert run(source, out, *options) == 0
    assert_same(out, whole(*options))


def test_what_is_there_is_not_registered_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    stop_after(2, monkeypatch, source, out)
    found = read_journal(out)
    assert found is not None
    head, records = found
    assert (head.batch_size, head.parts) == (3, 1)
    assert [[row.frame for row in record.metrics] for record in records] == [[4], [0, 1, 2], [3, 5, 6]]
    stamps = {k: (out / "fields" / f"frame_{k:04d}.mha").stat().st_mtime_ns for k in (0, 1, 2, 3, 4, 5, 6)}
    counted = Counted(monkeypatch)
    capsys.readouterr()
    assert run(source, out) == 0
    assert f"{out}: continuing: 7 of {FRAMES} frames are there already" in capsys.readouterr().err
    assert counted.pairs == [3, 1]
    assert {k: (out / "fields" / f"frame_{k:04d}.mha").stat().st_mtime_ns for k in stamps} == stamps
    result = read_result(out)
    # As the table holds them, which rounds.
    known = {row.frame: row.seconds for record in records for row in record.metrics}
    assert {row.frame: row.seconds for row in result.metrics if row.frame in known} == pytest.approx(known, rel=1e-6)
    assert result.manifest.parts == 2
    assert result.manifest.wall_time_s > records[-1].elapsed_s
    assert not (out / JOURNAL_NAME).exists()
    assert not (out / "unfinished.txt").exists()
    assert run(source, out) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_may_be_stopped_as_often_as_one_likes(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = 0.0
    for part in range(1, 5):
        stop_after(0 if part == 1 else 1, monkeypatch, source, out, "--warm-start")
        found = read_journal(out)
        assert found is not None
        assert found[0].parts == part
        assert len(found[1]) == part
        assert found[1][-1].elapsed_s > before
        before = found[1][-1].elapsed_s
    assert run(source, out, "--warm-start") == 0
    assert read_result(out).manifest.parts == 5
    assert_same(out, whole("--warm-start"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network, refined, warm", "bspline"])
def test_a_killed_process_is_continued_by_another(source: Path, tmp_path: Path, name: str) -> None:
    settings = (
        source.with_name("settings.toml")
        .read_text()
        .replace("iterations = 4", "iterations = 30")
        .replace("= 3\nfinal", "= 9\nfinal")
    )
    (tmp_path / "settings.toml").write_text(settings)
    options = (*variant(name, source), "--batch-size", "2", "--config", tmp_path / "settings.toml")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", "import sys; from r2n2.cli import main; sys.exit(main())"]
        return subprocess.Popen(
            [*program, *command(source, out, *options)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    out, other = tmp_path / "out", tmp_path / "whole"
    killed = start(out)
    deadline = time.monotonic() + 60
    while killed.poll() is None and time.monotonic() < deadline:
        # A head, the reference and two batches.
        if (out / JOURNAL_NAME).exists() and (out / JOURNAL_NAME).read_bytes().count(b"\n") >= 4:
            killed.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert not (out / "unfinished.txt").exists()
    for folder in (out, other):
        again = start(folder)
        errors = again.communicate(timeout=120)[1]
        assert again.returncode == 0, errors
        found = re.search(rf"continuing: (\d+) of {FRAMES} frames are there already", errors)
        assert (found is not None) == (folder == out)
        assert found is None or 5 <= int(found[1]) < FRAMES
    assert_same(out, other)


@pytest.mark.parametrize("letters", [1, 40, 700])
def test_a_torn_last_line_counts_as_not_written(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: int
) -> None:
    out = tmp_path / "out"
    stop_after(2, monkeypatch, source, out)
    journal = out / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-letters])
    counted = Counted(monkeypatch)
    assert run(source, out) == 0
    assert counted.pairs == [2, 3, 1]
    assert_same(out, whole())


def test_a_damaged_line_costs_its_batch_alone(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop_after(3, monkeypatch, source, out, "--warm-start")
    journal = out / JOURNAL_NAME
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b'"similarity_after": 0.', b'"similarity_after": 1.')
    journal.write_bytes(b"\n".join(lines))
    counted = Counted(monkeypatch)
    assert run(source, out, "--warm-start") == 0
    # Outward from frame 4: 3, 5, 2; 6, 1, 7 of which 6 has no contrast; 0, 8, 9; 10.
    assert counted.pairs == [2, 1]
    assert_same(out, whole("--warm-start"))


@pytest.mark.parametrize("head", [b"", b"garbage\n", b'0123456789abcdef {"run_sha256": "x"}\n'])
def test_a_journal_without_its_head_is_no_journal(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    out = tmp_path / "out"
    stop_after(1, monkeypatch, source, out)
    journal = out / JOURNAL_NAME
    journal.write_bytes(head + journal.read_bytes().partition(b"\n")[2])
    assert run(source, out) == 0
    assert read_result(out).manifest.parts == 1
    assert_same(out, whole())


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
@pytest.mark.parametrize("options", [(), ("--warm-start",)])
def test_a_damaged_field_is_never_trusted(
    source: Path,
    whole: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    options: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    stop_after(3, monkeypatch, source, out, *options)
    field = out / "fields" / "frame_0002.mha"
    content = field.read_bytes()
    if damage == "gone":
        field.unlink()
    else:
        field.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "changed" else b""))
    counted = Counted(monkeypatch)
    capsys.readouterr()
    assert run(source, out, *options) == 0
    shown = capsys.readouterr().err
    assert (
        f"continuing: 7 of {FRAMES} frames are there already; 3 are registered again, as a field of their batch is damaged" in shown
    )
    assert counted.pairs == [3, 1]
    assert_same(out, whole(*options))


def test_a_run_that_is_another_begins_anew(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    stop_after(2, monkeypatch, source, out)
    assert run(source, out, "--steps", "5") == 0
    assert "starting anew: what is there is of another run" in capsys.readouterr().err
    assert read_result(out).manifest.parts == 1
    assert_same(out, whole("--steps", "5"))


@pytest.mark.parametrize("what", ["input", "weights", "version", "device", "precision"])
def test_what_makes_a_run_another(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    out, mine = tmp_path / "out", tmp_path / "in.mha"
    options = variant("network", source)
    monkeypatch.setattr("r2n2.registration.precision._remembered", lambda config, device: "float32")
    mine.write_bytes(source.read_bytes())
    (tmp_path / "settings.toml").write_text(SETTINGS)
    stop_after(1, monkeypatch, mine, out, *options)
    if what == "input":
        content = mine.read_bytes()
        mine.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif what == "weights":
        save_network(tmp_path / "other.safetensors", R2N2(NetworkConfig(channels=(2, 3, 4, 6), working_size=32)))
        options = (*options[:-1], tmp_path / "other.safetensors")
    elif what == "version":
        monkeypatch.setattr("r2n2.results.run_record.versions", lambda: {"r2n2": "0.1.0", "torch": "other"})
    elif what == "precision":
        # The settings say "auto" in both parts, and the machine's memory was lost between them.
        monkeypatch.setattr("r2n2.registration.precision._remembered", lambda config, device: "bfloat16")
    else:
        plain = RunRecord.head
        monkeypatch.setattr(RunRecord, "head", lambda *given: plain(*given).model_copy(update={"device": "cuda:1"}))
    capsys.readouterr()
    assert run(mine, out, *options) == 0
    assert "starting anew" in capsys.readouterr().err
    assert read_result(out).manifest.parts == 1


def test_overwrite_begins_anew_and_can_be_continued(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    stop_after(3, monkeypatch, source, out)
    stop_after(1, monkeypatch, source, out, "--overwrite")
    found = read_journal(out)
    assert found is not None
    assert (found[0].parts, len(found[1])) == (1, 2)
    assert not (out / "fields" / "frame_0005.mha").exists()
    assert run(source, out) == 0
    assert "continuing: 4 of" in capsys.readouterr().err
    assert_same(out, whole())


def test_auto_keeps_the_size_of_the_first_part_and_another_number_is_taken(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reckoned = 2**30
    monkeypatch.setattr(batch_size, "bytes_a_frame", lambda config, grid: reckoned)
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        stop_after(1, monkeypatch, source, folder, "--batch-size", "auto")
    reckoned = 2**28
    counted = Counted(monkeypatch)
    assert run(source, out, "--batch-size", "auto") == 0
    assert counted.pairs == [2, 1, 2, 2]
    counted.pairs.clear()
    assert run(source, other, "--batch-size", "5") == 0
    assert counted.pairs == [3, 4]
    assert_same(out, whole("--batch-size", "2"))


def test_of_several_slices_the_finished_ones_are_skipped(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series, _ = make.moving_series(7)
    stack = np.array(series.frames)[:, 0]
    np.save(tmp_path / "in.npy", np.stack([stack, stack[::-1]], axis=1))
    (tmp_path / "settings.toml").write_text(SETTINGS)
    out, options = tmp_path / "out", ("--axes", "TZYX", "--spacing", "1.7,0.9")
    calls = []

    def stopped(series: ImageSeries, config: Any, **more: Any) -> Iterator[Any]:
        calls.append(series.name)
        for progress in register_series(series, config, **more):
            yield progress
            if len(calls) == 2 and len(progress.finished) == 3:
                raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("r2n2.workflow.register_series", stopped)
        assert run(tmp_path / "in.npy", out, *options) == 130
    stamp = (out / "slice_00" / "run.json").stat().st_mtime_ns
    counted = Counted(monkeypatch)
    capsys.readouterr()
    assert run(tmp_path / "in.npy", out, *options) == 0
    shown = capsys.readouterr()
    assert "slice_00: holds this very result already" in shown.out
    assert "slice_01: continuing: 4 of 7 frames are there already" in shown.err
    assert counted.pairs == [3]
    assert (out / "slice_00" / "run.json").stat().st_mtime_ns == stamp
    times = [read_result(out / name).manifest.wall_time_s for name in ("slice_00", "slice_01")]
    assert json.loads((out / "run.json").read_text())["wall_time_s"] == pytest.approx(sum(times))


def test_a_run_killed_while_it_writes_the_end_registers_nothing_again(
    source: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("r2n2.workflow.render_report", lambda *_: (_ for _ in ()).throw(Interrupted(signal.SIGTERM)))
        assert run(source, out) == 143
    counted = Counted(monkeypatch)
    assert run(source, out) == 0
    assert counted.pairs == []
    assert_same(out, whole())
