"""A moving scene whose registration is known, and the command line run on it in this process."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from r2n2.cli import main
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.io import write_landmarks, write_series
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import DisplacementField

GRID = Grid((34, 49), (2.0, 1.5), (4.0, -6.0))
ROWS = (0, 1, 3, 2)
"""The scene of frame t lies this many rows lower."""


def scene(rows: float) -> np.ndarray:
    y, x = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    return 100 + 800 * np.exp(-((y - 15 - rows) ** 2) / 40 - (x - 25) ** 2 / 150)


def shift(rows: float, grid: Grid = GRID) -> DisplacementField:
    vectors = torch.zeros(2, *grid.shape, dtype=torch.float64)
    vectors[0] = rows
    return DisplacementField(vectors, grid, Space.INDEX)


def fake_register(series, config, done=None, masks=None, survey=None, guides=None):
    """Knows the answer, so that the command line alone is tested; frame 3 is yielded before frame 2."""
    reference = 0 if config.reference == "auto" else config.reference
    if len(series) <= reference:
        raise ArgumentError(f"reference {reference} does not exist; the series has frames 0 to {len(series) - 1}")
    for done, frame in enumerate((0, 1, 3, 2), start=1):
        status = FrameStatus.REFERENCE if frame == reference else FrameStatus.OK
        if "fail" in series.name and frame == 2:
            status = FrameStatus.FAILED
        transform = shift(ROWS[frame] - ROWS[reference], series.grid)
        result = FrameResult(frame, transform, status, "broken" if status is FrameStatus.FAILED else "", 0.9, 0.99, 0, 1, 2, 0.1)
        yield SeriesProgress(reference, done, len(series), done / len(series), (result,))


def save(path: Path, stack: np.ndarray, kind: str = "mha") -> Path:
    stem = path.name.split(".")[0]
    series = ImageSeries(stack, GRID, source={"format": kind, "path": str(path)})
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_series(path.parent, stem, series, (series.frame(k) for k in range(len(series))))


def without_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with ``fake_register``, and a page of one word."""
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")


def movie_in(folder: Path) -> Path:
    """The scene in all its frames."""
    return save(folder / "movie.mha", np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32))


def marks_in(folder: Path) -> Path:
    """Three landmarks of every frame, that move with the scene."""
    points = [[12.0 + rows, 20.0 + k] for rows in ROWS for k in range(3)]
    landmarks = LandmarkSet(("a", "b", "c") * 4, np.repeat(np.arange(4), 3), np.array(points), Space.INDEX)
    path = folder / "marks.csv"
    write_landmarks(path, landmarks, GRID)
    return path


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("r2n2: ")]
    assert len(lines) == 1, lines
    return lines[0]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])
