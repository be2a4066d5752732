"""Simulate, register, evaluate and apply through the real command line: the way a person's first hour goes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from r2n2.cli import main
from r2n2.evaluation import target_registration_error
from r2n2.geometry import Space
from r2n2.io import read_field, read_landmarks, read_series
from r2n2.results.reader import read_result

FRAMES = 8


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def thorax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thorax")
    run("simulate", "-o", folder, "--frames", FRAMES, "--size", "64,80", "--spacing", "4,3.5", "--seed", 3)
    return folder


@pytest.fixture(scope="module")
def registered(thorax: Path) -> Path:
    output = thorax.parent / f"{thorax.name}-registered"
    options = ("--reference", 0, "--landmarks", thorax / "landmarks.csv", "--device", "cpu", "--quiet")
    run("register", thorax / "series.mha", "-o", output, *options)
    return output


def test_the_simulation_is_what_its_fields_say(thorax: Path) -> None:
    series = read_series(thorax / "series.mha")[0]
    assert (len(series), series.grid.shape) == (FRAMES, (64, 80))
    assert series.grid.spacing == pytest.approx((4.0, 3.5))
    fields = {frame: read_field(thorax / "true_fields" / f"frame_{frame:04d}.mha") for frame in range(1, FRAMES)}
    marks = read_landmarks(thorax / "landmarks.csv", series.grid)
    table = target_registration_error(fields, marks, 0, series.grid)
    assert table.before().max_mm > 8
    assert table.after().mean_mm < 0.3


@pytest.mark.slow
def test_registration_brings_landmarks_together(registered: Path, thorax: Path) -> None:
    run("evaluate", registered, "--landmarks", thorax / "landmarks.csv")
    with (registered / "tre_summary.csv").open() as file:
        series = list(csv.DictReader(file))[-1]
    assert series["frame"] == "series"
    assert float(series["tre_mean_mm"]) < 0.6 * float(series["before_mean_mm"])


@pytest.mark.slow
def test_the_result_opens_and_improves_similarity(registered: Path) -> None:
    result = read_result(registered)
    moved = [row for row in result.metrics if row.frame != result.reference]
    assert all(row.similarity_after > row.similarity_before for row in moved)
    assert (registered / "report.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_applying_the_result_repeats_it_and_maps_points_there_and_back(registered: Path, thorax: Path, tmp_path: Path) -> None:
    run("apply", registered, "--to", thorax / "series.mha", "-o", tmp_path / "again.mha")
    first, again = read_series(registered / "registered.mha")[0], read_series(tmp_path / "again.mha")[0]
    for frame in range(FRAMES):
        np.testing.assert_array_equal(first.frame(frame), again.frame(frame))
    run("apply", registered, "--to", thorax / "landmarks.csv", "-o", tmp_path / "there.csv", "--frame", 2)
    run("apply", registered, "--to", tmp_path / "there.csv", "-o", tmp_path / "back.csv", "--frame", 2, "--inverse")
    start = read_landmarks(thorax / "landmarks.csv", first.grid).to_space(Space.INDEX, first.grid).in_frame(0)
    back = read_landmarks(tmp_path / "back.csv", first.grid).to_space(Space.INDEX, first.grid)
    np.testing.assert_allclose(back.select(start.ids).points, start.points, atol=0.1)
