"""Tiny series, settings that register them in no time, and a dask scheduler with workers as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_factory import ROWS, save, scene

SETTINGS = """
method = "fit"
steps = 1
uncertainty = "off"
initial = "none"
reference = 0
similarity = "ssd"
batch_size = 1
[fit]
sizes = [16, 16, 16]
final_steps = 1
rounds = 1
steps_a_round = 1
far_steps = 0
folding_size = 16
"""


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a tiny cohort."""
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    monkeypatch.setattr("r2n2.cohort.page.cohort_figure", lambda *_: "")


def write_settings(folder: Path) -> Path:
    path = folder / "fast.toml"
    path.write_text(SETTINGS)
    return path


def write_series(folder: Path, count: int) -> list[Path]:
    """s0.mha and so on, each a little different."""
    stacks = [np.stack([scene(rows + 0.2 * k) for rows in ROWS])[:, None].astype(np.float32) for k in range(count)]
    return [save(folder / f"s{k}.mha", stack) for k, stack in enumerate(stacks)]


@contextlib.contextmanager
def scheduler_process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """File that says where the scheduler is, and its process."""
    file = folder / "scheduler.json"
    arguments = ["-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard"]
    with _process([*arguments, "--scheduler-file", str(file)], folder / "scheduler.log") as process:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None, (folder / "scheduler.log").read_text()
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.05)
        yield str(file), process


@contextlib.contextmanager
def worker_process(folder: Path, scheduler: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of one thread without a nanny, so that who is killed stays dead."""
    preload = Path(__file__).with_name("cohort_preload.py")
    arguments = ["-m", "distributed.cli.dask_worker", "--scheduler-file", scheduler, "--nthreads", "1", "--no-nanny"]
    arguments += ["--no-dashboard", "--name", name, "--local-directory", str(folder), "--preload", str(preload)]
    with _process(arguments, folder / f"{name}.log", R2N2_TEST_ORDERS=str(folder)) as process:
        yield process


@contextlib.contextmanager
def _process(arguments: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, env=variables)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
