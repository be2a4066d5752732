"""A cohort on a real dask scheduler with workers as processes: killed workers, damaged files, a scheduler that goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cli_factory import run, table
from cohort_factory import no_figures, scheduler_process, worker_process, write_series, write_settings

__all__ = ["no_figures"]

pytest.importorskip("distributed")

_SAME = ("registered.mha", "sequence.npz", "sequence.csv", *(f"fields/frame_{k:04d}.mha" for k in range(4)))


pytestmark = pytest.mark.usefixtures("no_figures", "one_thread")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Scheduler file of two workers, and the folder in which files tell them what to do."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler_process(folder))
        for name in ("one", "two"):
            stack.enter_context(worker_process(folder, file, name))
        yield file, folder


def results(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {f"{name}/{file}": (folder / name / file).read_bytes() for name in names for file in _SAME}


def test_a_killed_worker_costs_a_batch_and_changes_no_file(cluster, tmp_path, capsys) -> None:
    scheduler, orders = cluster
    inputs, settings = write_series(tmp_path / "in", 4), write_settings(tmp_path)
    inputs[2].write_bytes(inputs[2].read_bytes()[:600])
    (orders / "kill-s1").touch()
    out = tmp_path / "out"
    assert run("batch", *inputs, "-o", out, "--config", settings, "--scheduler", scheduler) == 3
    told = capsys.readouterr()
    assert (orders / "killed").exists(), "no worker was killed"
    assert "3 of 4 slice positions registered" in told.out
    assert "failed: s2: " in told.out
    log = (out / "s1" / "log.txt").read_text()
    assert "begun" in log
    assert log.count("begun") == 2
    assert "continuing: 2 of 4 frames are there already" in log
    states = {row["name"]: (row["state"], row["attempts"]) for row in table(out / "status.csv")}
    assert states == {"s0": ("done", "1"), "s1": ("done", "2"), "s2": ("failed", "1"), "s3": ("done", "1")}

    alone = tmp_path / "alone"
    good = [inputs[k] for k in (0, 1, 3)]
    assert run("batch", *good, "-o", alone, "--config", settings) == 0
    assert results(out, ["s0", "s1", "s3"]) == results(alone, ["s0", "s1", "s3"])

    write_series(tmp_path / "in", 4)  # the damaged file is restored, and the others are as they were
    before = {name: (out / name / "run.json").read_bytes() for name in ("s0", "s1", "s3")}
    assert run("batch", *inputs, "-o", out, "--config", settings, "--scheduler", scheduler) == 0
    assert {name: (out / name / "run.json").read_bytes() for name in before} == before
    assert (out / "s2" / "run.json").exists()


def test_a_scheduler_that_goes_is_told_and_a_second_command_completes(tmp_path, capsys) -> None:
    inputs, settings = write_series(tmp_path / "in", 2), write_settings(tmp_path)
    out = tmp_path / "out"
    with scheduler_process(tmp_path) as (file, process):

        def kill_once_begun() -> None:
            deadline = time.monotonic() + 60
            while not (out / "status.csv").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()

        thread = threading.Thread(target=kill_once_begun)
        thread.start()
        code = run("batch", *inputs, "-o", out, "--config", settings, "--scheduler", file)
        thread.join()
    told = capsys.readouterr().err
    assert code == 4
    assert "scheduler" in told
    assert "is gone" in told
    assert "Traceback" not in told
    assert run("batch", *inputs, "-o", out, "--config", settings) == 0
    assert [row["state"] for row in table(out / "summary.csv")] == ["done", "done"]


def test_workers_of_this_machine_come_and_go_with_the_command(tmp_path, capsys) -> None:
    inputs, settings = write_series(tmp_path / "in", 2), write_settings(tmp_path)
    out = tmp_path / "out"
    assert run("batch", inputs[0], "-o", out, "--config", settings) == 0
    log = (out / "s0" / "log.txt").read_text()
    inputs[1].write_bytes(b"")
    assert run("batch", *inputs, "-o", out, "--config", settings, "--workers", 1) == 3
    assert "1 of 2 slice positions registered" in capsys.readouterr().out
    assert (out / "s0" / "log.txt").read_text() == log
    rows = table(out / "status.csv")
    assert [(row["name"], row["state"], row["attempts"]) for row in rows] == [("s0", "done", "1"), ("s1", "failed", "1")]
