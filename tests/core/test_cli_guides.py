"""Guiding pairs on the command line: what is kept and told of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_factory import GRID, marks_in, movie_in, one_line, run, table, without_registration

from r2n2.geometry import Space
from r2n2.io import write_landmarks
from r2n2.results.guide_files import kept_guides
from r2n2.results.reader import read_result
from r2n2.results.tre_table import read_tre_table
from r2n2.series import LandmarkSet


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_registration(monkeypatch)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return movie_in(tmp_path / "in")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return marks_in(tmp_path)


def test_guiding_pairs_are_kept_told_and_never_measure(movie, marks, tmp_path, capsys) -> None:
    # A guiding pair at landmark "b" of frame 1, under another name, and one of its own in frame 2.
    points = np.array([[12.0, 21.0], [13.0, 21.0], [20.0, 30.0], [22.0, 31.0]])
    guides = LandmarkSet(("g", "g", "h", "h"), np.array([0, 1, 0, 2]), points, Space.INDEX)
    path = tmp_path / "guides.csv"
    write_landmarks(path, guides, GRID)
    out, given = tmp_path / "out", ("--guide", path, "--guide-strength", 0.5)
    assert run("register", movie, "-o", out, "--landmarks", marks, "--reference", 0, *given) == 0
    assert "1 landmark guides the registration" in capsys.readouterr().err
    registered = read_result(out)
    record = registered.manifest.guides
    assert record is not None
    assert (record.strength_mm, record.pairs) == (0.5, {1: 1, 2: 1})
    rows = table(out / "tre.csv")
    assert ("b", "1") not in {(row["id"], row["frame"]) for row in rows}
    assert {(row["frame"], row["guides"]) for row in rows} == {("1", "1"), ("2", "1"), ("3", "0")}
    assert [row.guides for row in read_tre_table(out / "tre.csv", 0).rows if row.frame == 3] == [0, 0, 0]
    kept = kept_guides(registered)
    assert kept is not None
    np.testing.assert_allclose(kept.landmarks.points, points)
    # Other pairs, or another strength, are another run.
    assert run("register", movie, "-o", out, "--landmarks", marks, "--reference", 0, "--guide", path) == 2
    assert run("register", movie, "-o", out, "--landmarks", marks, "--reference", 0, *given) == 0


def test_guiding_pairs_that_fit_nothing_are_refused_before_anything_is_done(movie, marks, tmp_path, capsys) -> None:
    lone = LandmarkSet(("g", "h"), np.array([0, 1]), np.array([[12.0, 21.0], [13.0, 21.0]]), Space.INDEX)
    path = tmp_path / "lone.csv"
    write_landmarks(path, lone, GRID)
    assert run("register", movie, "-o", tmp_path / "out", "--reference", 0, "--guide", path) == 3
    assert "--guide" in one_line(capsys)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
