"""``r2n2 benchmark``: what it prints and writes, and which mistakes it names before anything is computed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_factory import moved, scene, smooth_motion

from r2n2.benchmark import case, contestants
from r2n2.cli import main
from r2n2.geometry import Grid, Space
from r2n2.io import write_landmarks, write_series
from r2n2.series import ImageSeries, LandmarkSet

GRID = Grid((48, 64), (2.0, 1.5))


def run(*arguments: object) -> int:
    return main(["benchmark", *(str(argument) for argument in arguments)])


def save(path: Path, stack: np.ndarray) -> Path:
    series = ImageSeries(stack[:, None], GRID, source={"format": "mha", "path": str(path)})
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_series(path.parent, path.stem, series, (series.frame(k) for k in range(len(series))))


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """Frame 0 shows frame 1 moved by the known motion, frame 2 the same as frame 1."""
    image = scene(GRID.shape)
    return save(tmp_path / "in" / "movie.mha", np.stack([moved(image, smooth_motion(GRID.shape)), image, image]).astype(np.float32))


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    fixed = np.array([[20.0, 20.0], [30.0, 45.0]])
    there = fixed + smooth_motion(GRID.shape)[:, [20, 30], [20, 45]].T
    landmarks = LandmarkSet(("a", "b") * 2, np.array([0, 0, 1, 1]), np.concatenate([fixed, there]), Space.INDEX)
    path = tmp_path / "marks.csv"
    write_landmarks(path, landmarks, GRID)
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("r2n2: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_series_with_landmarks_and_labels(movie, marks, tmp_path, capsys) -> None:
    area = np.zeros((3, *GRID.shape), np.uint8)
    area[:, 15:30, 20:50] = 2
    labels = save(tmp_path / "labels.mha", area)
    options = ["--against", "tvl1", "--methods", "fit", "--rounds", 2, "--threads", 1, "--reference", 0]
    assert run(movie, "-o", tmp_path / "out", "--landmarks", marks, "--labels", labels, *options) == 0
    shown = capsys.readouterr()
    assert "TRE mean mm" in shown.out
    assert "Dice" in shown.out
    assert "movie.mha: 1 of 3 frames" in shown.err
    with (tmp_path / "out" / "benchmark.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["not registered", "fit", "TV-L1"]
    assert float(rows["TV-L1"]["tre_mean_mm"]) < 0.7 < 4 < float(rows["not registered"]["tre_mean_mm"])
    assert float(rows["not registered"]["dice"]) == 1
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["settings"] == {"threads": 1, "device": "cpu", "weights": "general", "rounds": 2}
    assert record["series"][0]["frames"] == [1]
    assert len(record["series"][0]["methods"][0]["seconds_a_frame"]) == 2
    assert "movie.mha" in (tmp_path / "out" / "benchmark.html").read_text()
    assert run(movie, "-o", tmp_path / "out", *options) == 2
    assert "--overwrite" in one_line(capsys)


def test_without_input_a_sample_and_without_truth_no_column_of_it(monkeypatch, movie, tmp_path, capsys) -> None:
    quick = ["--methods", "none", "--against", "tvl1", "--rounds", 1, "--quiet"]
    sample = case.sample_case
    monkeypatch.setattr(case, "sample_case", lambda frames: replace(sample(frames, shape=(48, 64)), name="tiny thorax"))
    assert run("--frames", 2, *quick) == 0
    shown = capsys.readouterr()
    assert "tiny thorax: 2 frames" in shown.out
    assert "TRE" in shown.out
    assert shown.err == ""
    assert run(movie, movie, *quick) == 0
    shown = capsys.readouterr().out
    assert "2 series: 4 frames" in shown
    assert "TRE" not in shown


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, movie, capsys) -> None:
    real = contestants.absence
    monkeypatch.setattr(
        contestants, "absence", lambda one: "antspyx is not installed: pip install antspyx" if one.choice == "ants" else real(one)
    )
    assert run(movie, "--methods", "none", "--against", "ants,tvl1", "--rounds", 1, "--frames", 1) == 0
    shown = capsys.readouterr()
    assert "ANTs SyN took no part: antspyx is not installed: pip install antspyx" in shown.out
    assert "ANTs SyN takes no part" in shown.err
    assert run(movie, "--methods", "none", "--against", "ants") == 2
    assert "pip install antspyx" in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--against", "demon"], 2, "did you mean demons?"),
        (["--methods", "network,elastix"], 2, "--methods: 'elastix' is not known"),
        (["--methods", "none", "--against", "none"], 2, "nothing is left to compare"),
        (["--weights", "brain"], 4, "no weights are called 'brain'"),
        (["--device", "tpu"], 4, "device"),
        (["--spacing", "0,1"], 2, "--spacing"),
        (["--reference", "x"], 2, "--reference"),
        (["--landmarks", "absent.csv"], 3, "--landmarks absent.csv: no such file"),
        (["--labels", "a.mha", "--labels", "b.mha"], 2, "--labels: given 2 times for 1 INPUTs"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(options, code, words, movie, capsys) -> None:
    assert run(movie, *options) == code
    assert words in one_line(capsys)


def test_help_loads_nothing_heavy() -> None:
    code = "import r2n2.cli.benchmark, sys; print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
