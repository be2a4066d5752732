"""The radius at landmarks: read off the map where the landmark lies in the reference, written, read back and counted."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_factory import GRID, ROWS, fake_register, run, save, scene

from r2n2.evaluation import LandmarkError, TRETable, target_registration_error
from r2n2.geometry import Space
from r2n2.io import write_landmarks
from r2n2.io.scalar_maps import write_scalar_map
from r2n2.registration.results import FrameStatus
from r2n2.results.landmark_radius import with_radii
from r2n2.results.reader import uncertainty_path
from r2n2.results.tre_table import read_tre_table, tre_table_csv
from r2n2.series import LandmarkSet
from r2n2.transform import DisplacementField

POINTS = np.array([(8.0, 12.0), (12.5, 40.25), (20.0, 30.0)])
PLANE = 0.5 + 0.1 * torch.arange(GRID.shape[0])[:, None] + 0.03 * torch.arange(GRID.shape[1])[None, :]


def _marks(space: Space = Space.INDEX) -> LandmarkSet:
    return LandmarkSet(("a", "b", "c") * 2, np.repeat([0, 1], 3), np.concatenate((POINTS, POINTS + np.array((2.0, 0.0)))), space)


def _table(landmarks: LandmarkSet) -> TRETable:
    return target_registration_error({1: DisplacementField.identity(GRID)}, landmarks, 0, GRID)


@pytest.mark.parametrize("space", [Space.INDEX, Space.WORLD])
def test_the_radius_is_that_of_the_place_in_the_reference(space: Space) -> None:
    marks = _marks().to_space(space, GRID)
    found = with_radii(_table(marks), marks, GRID, lambda frame: PLANE if frame == 1 else None)
    expected = 0.5 + 0.1 * POINTS[:, 0] + 0.03 * POINTS[:, 1]
    np.testing.assert_allclose([row.radius_mm for row in found.rows], expected, rtol=1e-5)
    assert [row.id for row in found.rows] == ["a", "b", "c"]


def test_where_nothing_is_known_the_radius_is_not_a_number() -> None:
    marks = _marks()
    assert all(math.isnan(row.radius_mm) for row in with_radii(_table(marks), marks, GRID, lambda _: None).rows)
    beyond = LandmarkSet(("a", "b") * 2, np.repeat([0, 1], 2), np.array([(-9.0, 4.0), (4.0, 4.0)] * 2), Space.INDEX)
    first, second = with_radii(_table(beyond), beyond, GRID, lambda _: PLANE).rows
    assert math.isnan(first.radius_mm)
    assert second.radius_mm == pytest.approx(0.5 + 0.4 + 0.12, rel=1e-5)


def _errors() -> TRETable:
    inside = (LandmarkError("a", 1, 9.0, 1.0, True, 1.0), LandmarkError("b", 1, 9.0, 1.1, True, 1.0))
    rest = (LandmarkError("c", 1, 9.0, 0.1, False, 1.0), LandmarkError("a", 2, 9.0, 0.1, True))
    return TRETable(0, (*inside, *rest), (), ())


def test_those_within_their_radius_are_counted_where_they_count() -> None:
    assert _errors().within_radius() == (1, 2)
    assert _errors().within_radius(2) == (0, 0)


def test_the_column_reads_back_and_older_tables_without_it_too(tmp_path: Path) -> None:
    path = tmp_path / "tre.csv"
    path.write_text(tre_table_csv(_errors()), encoding="utf-8")
    np.testing.assert_array_equal([row.radius_mm for row in read_tre_table(path, 0).rows], [1, 1, 1, math.nan])
    path.write_text("id,frame,before_mm,tre_mm,inside\na,1,2,1,1\n", encoding="utf-8")
    (row,) = read_tre_table(path, 0).rows
    assert (row.after_mm, math.isnan(row.radius_mm)) == (1.0, True)


def test_evaluate_writes_the_column_and_says_how_many_lie_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    stack = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    movie, folder = save(tmp_path / "in" / "movie.mha", stack), tmp_path / "result"
    points = np.concatenate([POINTS + np.array((rows, 0.0)) for rows in ROWS])
    points[4, 1] += 2.0  # b in frame 1
    marks = LandmarkSet(("a", "b", "c") * 4, np.repeat(np.arange(4), 3), points, Space.INDEX)
    path = write_landmarks(tmp_path / "l.csv", marks)
    assert run("register", movie, "-o", folder, "--landmarks", path, "--quiet") == 0
    with (folder / "tre.csv").open() as file:
        assert {row["radius_mm"] for row in csv.DictReader(file)} == {""}, "this registration tells no radius"
    _tell_radii(folder)
    capsys.readouterr()
    assert run("evaluate", folder, "--landmarks", path) == 0
    said = capsys.readouterr().out
    assert "5 of 6 landmarks (83 %) lie within the radius" in " ".join(said.split())
    with (folder / "tre.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = {(row["frame"], row["id"]): float(row["radius_mm"]) for row in rows if row["radius_mm"]}
    assert {frame for frame, _ in known} == {"1", "2"}
    assert known["1", "b"] == pytest.approx(0.5 + 1.25 + 0.03 * 40.25, rel=1e-5)


def _tell_radii(folder: Path) -> None:
    """Frames 1 and 2 get a map, as if they had been registered with one."""
    for frame in (1, 2):
        uncertainty_path(folder, frame).parent.mkdir(exist_ok=True)
        write_scalar_map(uncertainty_path(folder, frame), PLANE.numpy(), GRID)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["uncertainty_mm"] = "1" if row["status"] == str(FrameStatus.OK) and row["frame"] in "12" else ""
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
