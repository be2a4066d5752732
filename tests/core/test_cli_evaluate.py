"""``evaluate`` and the landmarks of ``register``: what is printed, written, doubted and refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_factory import GRID, ROWS, movie_in, one_line, run, save, scene, table, without_registration

from r2n2.geometry import Grid, Space
from r2n2.io import write_landmarks, write_series
from r2n2.registration.results import FrameStatus
from r2n2.series import ImageSeries, LandmarkSet

START = [(8.0, 12.0), (12.0, 40.0), (20.0, 30.0), (25.0, 21.0)]
NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_registration(monkeypatch)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return movie_in(tmp_path / "in")


@pytest.fixture
def result(movie: Path, tmp_path: Path) -> Path:
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    return tmp_path / "result"


def marks(names: tuple[str, ...] = NAMES) -> LandmarkSet:
    """In INDEX space, exactly where the known registration puts them."""
    points = [(y + rows, x) for rows in ROWS for y, x in START[: len(names)]]
    return LandmarkSet(names * 4, np.repeat(np.arange(4), len(names)), np.array(points), Space.INDEX)


def csv_of(path: Path, points: np.ndarray, unit: str, frames: np.ndarray, ids: tuple[str, ...]) -> Path:
    rows = zip(ids, frames.tolist(), points.tolist(), strict=True)
    path.write_text(f"id,frame,y_{unit},x_{unit}\n" + "".join(f"{i},{f},{y!r},{x!r}\n" for i, f, (y, x) in rows))
    return path


MISTAKES = {
    "columns swapped": (lambda s: (s.points[:, ::-1], "px", s.frames), "x and y were exchanged: are the columns swapped?"),
    "px named mm": (lambda s: (s.points, "mm", s.frames), "the numbers were pixels: is the unit right?"),
    "mm named px": (lambda s: (s.to_space(Space.WORLD, GRID).points, "px", s.frames), "mm given in columns named px"),
    "frames from 1": (lambda s: (s.points, "px", s.frames + 1), "are frames counted from 1?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_on_a_known_set_are_told_with_the_remedy(result: Path, tmp_path: Path, capsys, mistake: str) -> None:
    change, words = MISTAKES[mistake]
    points, unit, frames = change(marks())
    capsys.readouterr()
    # Without a landmark in the reference there is nothing to go on with.
    code = 3 if mistake == "frames from 1" else 0
    assert run("evaluate", result, "--landmarks", csv_of(tmp_path / "l.csv", points, unit, frames, NAMES * 4)) == code
    assert words in capsys.readouterr().err


def test_right_landmarks_are_not_doubted(result: Path, tmp_path: Path, capsys) -> None:
    write_landmarks(tmp_path / "l.csv", marks())
    write_landmarks(tmp_path / "mm.csv", marks().to_space(Space.WORLD, GRID))
    capsys.readouterr()
    for name in ("l.csv", "mm.csv"):
        assert run("evaluate", result, "--landmarks", tmp_path / name) == 0
    assert capsys.readouterr().err == ""


def test_landmarks_frames_and_the_series_are_shown_and_ids_without_partner_listed(result: Path, tmp_path: Path, capsys) -> None:
    found = marks()
    kept = [k for k in range(16) if k != 2]  # c has no partner in the reference
    text = csv_of(tmp_path / "l.csv", found.points[kept], "px", found.frames[kept], tuple(found.ids[k] for k in kept))
    capsys.readouterr()
    assert run("evaluate", result, "--landmarks", text) == 0
    shown = capsys.readouterr().out
    assert "by landmark" in shown
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["a", "b", "d"]
    assert "unmatched id 'c': no partner in frame 1, 2, 3" in shown
    assert shown.splitlines()[2].split()[1:4] == ["3", "4.00", "6.00"]


def test_points_outside_the_mask_are_left_out_and_counted(result: Path, tmp_path: Path, capsys) -> None:
    write_landmarks(tmp_path / "l.csv", marks())
    mask = np.ones((1, 1, *GRID.shape), np.uint8)
    mask[..., 18:23, 28:33] = 0  # over c
    place = save(tmp_path / "mask.mha", mask)
    options = ["--landmarks", tmp_path / "l.csv", "--mask", place]
    capsys.readouterr()
    assert run("evaluate", result, *options) == 0
    shown = capsys.readouterr().out
    assert "3 of 12 landmark pairs have a point outside the image or mask: left out" in shown
    assert [row["n"] for row in table(result / "tre_summary.csv")] == ["3", "3", "3", "9"]
    assert {row["id"] for row in table(result / "tre.csv") if row["inside"] == "0"} == {"c"}
    assert run("evaluate", result, *options, "--include-outside") == 0
    assert table(result / "tre_summary.csv")[-1]["n"] == "12"
    assert run("evaluate", result, "--mask", place) == 2


def test_edited_registrations_are_named(result: Path, tmp_path: Path, capsys) -> None:
    write_landmarks(tmp_path / "l.csv", marks())
    text = (result / "metrics.csv").read_text().splitlines()
    text[3] = text[3].replace(",ok", f",{FrameStatus.EDITED}")
    (result / "metrics.csv").write_text("\n".join(text) + "\n")
    values = json.loads((result / "run.json").read_text())
    values["status_counts"] = {"reference": 1, "ok": 2, "edited": 1}
    (result / "run.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert run("evaluate", result, "--landmarks", tmp_path / "l.csv") == 0
    assert "The registration of frames 2 was edited by hand (status edited)" in capsys.readouterr().out
    assert run("evaluate", result) == 0
    assert "edited by hand" in capsys.readouterr().out


def test_two_observers_of_every_slice_are_compared(tmp_path: Path, capsys) -> None:
    stack = np.stack([np.stack([scene(rows) for rows in ROWS])] * 2, axis=1).astype(np.float32)
    np.save(tmp_path / "two.npy", stack)
    assert run("register", tmp_path / "two.npy", "-o", tmp_path / "out", "--axes", "TZYX", "--spacing", "2,1.5", "-q") == 0
    for observer, moved in (("one", 0.0), ("two", 2.0)):
        (tmp_path / observer).mkdir()
        for name in ("slice_00.csv", "slice_01.tsv"):
            found = marks()
            write_landmarks(
                tmp_path / observer / name, LandmarkSet(found.ids, found.frames, found.points + np.array([0, moved]), Space.INDEX)
            )
    capsys.readouterr()
    assert run("evaluate", tmp_path / "out", "--landmarks", tmp_path / "one", "--observer", tmp_path / "two") == 0
    shown = capsys.readouterr().out
    assert "Mean TRE in mm (and the largest of a frame)" in shown
    assert "slice_01: inter-observer error: mean 3.00 mm, median 3.00 mm" in shown


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("id,frame,z_mm,y_mm,x_mm\na,0,1,20,10\na,1,7,21,10\n", 3, "landmarks have 3 coordinates with z from 1 to 7"),
        ("id,frame,y_px,x_px\na,7,1,1\na,9,1,1\n", 3, "frames 7, 9 do not exist: the series has frames 0 to 3"),
        ("id,frame,y_px,x_px\na,0,1,1\nb,1,1,1\n", 3, "no two frames share an id"),
        ("id,frame,y_px,x_px\na,1,1,1\na,2,1,1\n", 3, "none in the reference frame 0"),
        ("id,frame,y_px,x_px\na,0,1,oops\n", 3, "line 2, column x_px: expected a finite number, got 'oops'"),
    ],
)
def test_landmarks_are_refused_before_anything_is_registered(
    movie: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, text: str, code: int, words: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("registered before the landmarks were checked")

    monkeypatch.setattr("r2n2.workflow.register_series", never)
    (tmp_path / "l.csv").write_text(text)
    assert run("register", movie, "-o", tmp_path / "out", "--landmarks", tmp_path / "l.csv", "--reference", 0) == code
    assert words in one_line(capsys)


def test_small_pixels_are_shown_in_um_and_written_in_mm(tmp_path: Path, capsys) -> None:
    grid = Grid(GRID.shape, (1.083e-4, 0.9e-4))
    stack = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    series = ImageSeries(stack, grid, source={"format": "mha", "path": "cells.mha"})
    source = write_series(tmp_path, "cells", series, iter(stack))
    write_landmarks(tmp_path / "l.csv", marks().to_space(Space.WORLD, grid))
    capsys.readouterr()
    assert run("register", source, "-o", tmp_path / "out", "--landmarks", tmp_path / "l.csv") == 0
    shown = capsys.readouterr().out
    assert "TRE before um" in shown
    assert "0.32 " in shown
    (before,) = {row["tre_before_mm"] for row in table(tmp_path / "out" / "metrics.csv")[2:3]}
    assert float(before) == pytest.approx(3 * 1.083e-4, rel=1e-6)
    assert float(table(tmp_path / "out" / "tre.csv")[4]["before_mm"]) == pytest.approx(3 * 1.083e-4, rel=1e-6)
    assert run("info", tmp_path / "out") == 0
    assert "spacing 0.1083 x 0.09 um" in capsys.readouterr().out
    assert run("info", source) == 0
    assert "0.1083 x 0.09 um" in capsys.readouterr().out
    assert run("evaluate", tmp_path / "out") == 0
    assert "error in um" in capsys.readouterr().out
    assert float(table(tmp_path / "out" / "tre_summary.csv")[1]["before_mean_mm"]) == pytest.approx(3 * 1.083e-4, rel=1e-6)


def test_frames_counted_from_one_are_told_by_the_motion_alone(movie: Path, tmp_path: Path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "one", "--reference", 1, "-q") == 0
    found = marks().select_frames({0, 1, 2})
    write_landmarks(tmp_path / "l.csv", LandmarkSet(found.ids, found.frames + 1, found.points, Space.INDEX))
    capsys.readouterr()
    assert run("evaluate", tmp_path / "one", "--landmarks", tmp_path / "l.csv") == 0
    assert "instead of 3.00 mm if every frame number were one less: are frames counted from 1?" in one_line(capsys)
    assert run("register", movie, "-o", tmp_path / "two", "--reference", 1, "--landmarks", tmp_path / "l.csv") == 0
    assert "if every frame number were one less" in one_line(capsys)
    assert "if every frame number were one less" in (tmp_path / "two" / "run.json").read_text()
