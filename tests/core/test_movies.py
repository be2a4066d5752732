"""Movies read back frame by frame, and what is drawn on their pictures."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_factory import GRID, ROWS, fake_register, one_line, run, save, scene
from PIL import Image

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.movies.drawing import Canvas, Panel, bar_length
from r2n2.movies.pictures import MovieSeries, before_after, step_by_step
from r2n2.movies.writing import write_movie
from r2n2.report.view_figure import view_figure
from r2n2.transform import DisplacementField, GaussianSequence


def moving_square() -> MovieSeries:
    """A bright square of 8 x 6 mm that moves right by a pixel a frame; aligned it stands still."""
    frames = np.zeros((5, 1, 20, 30), np.uint16)
    for k in range(5):
        frames[k, 0, 6:10, 8 + k : 12 + k] = 1000
    return MovieSeries(5, lambda k: frames[k], lambda _k: frames[0], (2.0, 1.5), tuple(0.4 * k for k in range(5)))


def bright(picture: np.ndarray, left: int, right: int) -> tuple[float, float]:
    """Middle (y, x) of what is bright between two columns."""
    grey = picture[24:-24, left:right].astype(float).mean(axis=-1)
    y, x = np.nonzero(grey > 128)
    return float(y.mean()), float(x.mean())


def test_panels_have_true_proportions_and_the_bar_the_length_it_says() -> None:
    canvas = Canvas((20, 30), (2.0, 1.5), 2, height=120)
    width, height = canvas.size
    assert (height - 48, (width - 6) / 2) == (120, pytest.approx(120 * 45 / 40, abs=1)), "40 x 45 mm"
    picture = canvas.draw([Panel("one", np.zeros((20, 30))), Panel("two", np.zeros((20, 30)))])
    lit = picture[24 + 120 + 11, ::-1].min(axis=-1)[4:] > 220
    bar = int(np.argmin(lit))
    # 45 mm are 135 pixels; a bar of 10 mm is 30.
    assert bar == pytest.approx(10 * 3, abs=2)
    assert Canvas((20, 30), (2.0, 1.5), 1, spacing_known=False).draw([Panel("", np.zeros((20, 30)))])[-14:].max() < 40


@pytest.mark.parametrize(("width", "length"), [(45.0, 10), (300.0, 50), (0.9, 0.2), (1.1, 0.2)])
def test_bars_are_round(width: float, length: float) -> None:
    assert bar_length(width) == pytest.approx(length)


def test_before_moves_and_aligned_stands_still() -> None:
    series = moving_square()
    pictures = list(before_after(series, frames=[0, 2, 4], height=80))
    middle = (pictures[0].shape[1] - 6) // 2
    places = [bright(picture, 0, middle) for picture in pictures]
    steps = np.diff([x for _, x in places])
    np.testing.assert_allclose(steps, 2 * 1.5 / 0.5, atol=0.6)
    still = [bright(picture, middle + 6, pictures[0].shape[1]) for picture in pictures]
    assert np.ptp(still, axis=0).max() == 0


def test_steps_show_the_reference_what_is_reached_and_the_difference() -> None:
    grid = Grid((40, 50), (1.0, 1.0))
    y, x = np.mgrid[:40, :50]
    images = [100 * np.exp(-((y - 20 - row) ** 2 + (x - 25) ** 2) / 30)[None].astype(np.float32) for row in (0, 4)]
    # One wide Gaussian in the middle that points 4 pixels down.
    unit = grid.unit_mm
    sequence = GaussianSequence(
        torch.zeros(1, 2), torch.full((1, 2), 10 / unit), torch.zeros(1, 1), torch.tensor([[4 / unit, 0.0]]), grid
    )
    series = MovieSeries(2, lambda k: images[k], lambda k: images[0], (1.0, 1.0))
    first, last = step_by_step(series, 1, 0, sequence, height=40)
    side = 50
    panels = [[p[24:64, k * (side + 6) : k * (side + 6) + side].astype(float) for k in range(3)] for p in (first, last)]
    assert np.abs(panels[0][0] - panels[1][0]).max() == 0, "the reference"
    before, after = (np.abs(255 - row[2]).mean() for row in panels)
    assert after < 0.5 * before, "what is left of the difference"
    yellow = (panels[1][1][..., 0] > 200) & (panels[1][1][..., 2] < 150)
    ring = np.argwhere(yellow) - [19.5, 24.5]
    assert np.hypot(*ring.T).mean() == pytest.approx(10, abs=0.5), "one standard deviation"
    np.testing.assert_allclose(np.hypot(*ring.T), 10, atol=2.2)
    (still,) = [p for k, p in enumerate(step_by_step(series, 0, 0, DisplacementField.identity(grid), height=40)) if k == 1]
    assert np.abs(255.0 - still[24:64, 2 * (side + 6) : 2 * (side + 6) + side]).max() == 0, "no difference is white"


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_movie_is_read_back_as_it_was_drawn(tmp_path: Path, suffix: str) -> None:
    pictures = list(before_after(moving_square(), height=96))
    path = tmp_path / f"movie{suffix}"
    assert list(write_movie(path, iter(pictures), rate_hz=5)) == [1, 2, 3, 4, 5]
    if suffix == ".gif":
        with Image.open(path) as movie:
            assert movie.n_frames == 5
            assert movie.info["duration"] == 200
            found = []
            for k in range(5):
                movie.seek(k)
                found.append(np.asarray(movie.convert("RGB")))
    else:
        cv2 = pytest.importorskip("cv2")
        reader = cv2.VideoCapture(str(path))
        assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
        found = [reader.read()[1][..., ::-1] for _ in range(5)]
        assert not reader.read()[0]
    for read, drawn in zip(found, pictures, strict=True):
        assert np.abs(read.astype(int) - drawn).mean() < 5
    assert sorted(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_what_cannot_be_written_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"end the name in one of them"):
        next(write_movie(tmp_path / "movie.avi", iter([])))
    with pytest.raises(ArgumentError, match="no picture"):
        list(write_movie(tmp_path / "movie.gif", iter([])))
    with pytest.raises(ArgumentError, match="pictures a second"):
        list(write_movie(tmp_path / "movie.gif", iter([]), rate_hz=0))
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run("movie", tmp_path, "-o", tmp_path / "movie.mp4") == 4
    assert not list(tmp_path.iterdir())


def test_a_movie_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    running = write_movie(tmp_path / "movie.gif", before_after(moving_square(), height=40))
    next(running)
    running.close()
    assert not list(tmp_path.iterdir())


def test_the_command_writes_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    movie = save(tmp_path / "movie.mha", np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32))
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    assert run("movie", tmp_path / "result", "-o", tmp_path / "all.gif", "--frames", "1-3", "--height", 64) == 0
    with Image.open(tmp_path / "all.gif") as found:
        assert found.n_frames == 3
    assert run("movie", tmp_path / "result", "-o", tmp_path / "one.gif", "--steps", 2, "--height", 64) == 0
    with Image.open(tmp_path / "one.gif") as found:
        assert found.n_frames == 2, "a field has no steps but before and after"
    capsys.readouterr()
    assert run("movie", tmp_path / "result", "-o", tmp_path / "one.gif") == 2
    assert "--overwrite" in one_line(capsys)
    assert run("movie", tmp_path / "result", "-o", tmp_path / "two.gif", "--steps", 9) == 2
    assert "--steps" in one_line(capsys)
    assert GRID.ndim == 2


def test_a_view_has_a_bar_of_the_length_it_says() -> None:
    figure = view_figure(np.zeros((200, 300, 4), np.uint8), 0.5)
    (bar,) = [patch for patch in figure.axes[0].patches if patch.get_gid() == "scale bar"]
    (text,) = figure.axes[0].texts
    assert text.get_text() == "20 mm"
    assert bar.get_width() == pytest.approx(20 / 0.5)
    assert not view_figure(np.zeros((20, 30, 3), np.uint8)).axes[0].patches
    assert view_figure(np.zeros((200, 300, 3), np.uint8), 1e-4).axes[0].texts[0].get_text() == "5 µm"
