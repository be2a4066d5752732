"""What a result folder names is read and written inside it, and nonsense in run.json is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_factory import GRID, ROWS, fake_register, one_line, run, scene

from r2n2.errors import ReadError
from r2n2.io import write_series
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    stack = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    series = ImageSeries(stack, GRID, source={"format": "mha", "path": "movie.mha"})
    movie = write_series(tmp_path, "movie", series, iter(stack))
    assert run("register", movie, "-o", tmp_path / "victim", "--quiet") == 0
    return tmp_path / "victim"


def acquisition(folder: Path, *names: str) -> Path:
    folder.mkdir()
    values = {"kind": "acquisition", "created": "x", "versions": {}, "slices": names, "failed": {}, "wall_time_s": 1.0}
    (folder / "run.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("name", ["../victim", "..", "/etc", "a/b", "a\\b", "C:x", ".hidden", "", "a\0b"])
def test_slices_outside_the_folder_are_neither_read_nor_written(result: Path, tmp_path: Path, capsys, name: str) -> None:
    forged = acquisition(tmp_path / "forged", name)
    marks = tmp_path / "marks"
    marks.mkdir()
    (marks / "victim.csv").write_text("id,frame,y_px,x_px\na,0,1,2\na,1,1,2\n")
    capsys.readouterr()
    assert run("evaluate", forged, "--landmarks", marks) == 3
    assert "slices.0: Value error, expected the name of an entry of this folder" in one_line(capsys)
    assert not (result / "tre.csv").exists()
    assert run("info", forged) == 3


def test_links_that_lead_out_of_the_folder_are_refused(result: Path, tmp_path: Path, capsys) -> None:
    forged = acquisition(tmp_path / "forged", "slice_00")
    (forged / "slice_00").symlink_to(result)
    capsys.readouterr()
    assert run("info", forged) == 3
    assert "leads out of" in one_line(capsys)
    inside = result / "fields" / "frame_0002.mha"
    inside.rename(tmp_path / "elsewhere.mha")
    inside.symlink_to(tmp_path / "elsewhere.mha")
    registered = read_result(result)
    assert registered.transforms[1] is not None
    with pytest.raises(ReadError, match=r"frame_0002\.mha: leads out of"):
        _ = registered.transforms[2]


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        (("input", "grid", "spacing"), [0.0, 1.0], "input.grid: .*spacing must be positive"),
        (("input", "grid", "shape"), [0, 49], "input.grid: .*at least 1 pixel"),
        (("input", "grid", "direction"), [[1, 0], [1, 0]], "input.grid: .*orthonormal"),
        (("reference",), 4, "reference: expected a frame from 0 to 3, got 4"),
        (("input", "frames"), 3, "expected the frames 0 to 2 in order"),
        (("input", "frames"), 10**12, "expected the frames 0 to 999999999999 in order"),
        (("files",), ["../x"], "files.0: .*expected the name of an entry"),
        (("input", "times_s"), [0.0], "input.times_s: expected 4 times, got 1"),
        (("input", "grid", "spacing"), [2.0, 1.0], "lies on another grid"),
    ],
)
def test_nonsense_in_run_json_is_named(result: Path, tmp_path: Path, capsys, entry, value, words) -> None:
    values = json.loads((result / "run.json").read_text())
    inner = values
    for name in entry[:-1]:
        inner = inner[name]
    inner[entry[-1]] = value
    (result / "run.json").write_text(json.dumps(values))
    capsys.readouterr()
    (tmp_path / "points.csv").write_text("id,frame,y_px,x_px\na,0,10,20\na,1,11,20\n")
    assert run("evaluate", result, "--landmarks", tmp_path / "points.csv") == 3
    assert re.search(words, one_line(capsys))


def test_deeply_nested_json_is_damaged(result: Path, capsys) -> None:
    (result / "run.json").write_text("[" * 100_000)
    capsys.readouterr()
    assert run("info", result) == 3
    assert "nested too deeply" in one_line(capsys)
