"""The report: self-contained, small, honest, and drawn from the right numbers."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from manifest_factory import manifest_of
from PIL import Image

from r2n2.evaluation import target_registration_error
from r2n2.geometry import Grid, Space
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.report.data import gather
from r2n2.report.page import render_report, verdict
from r2n2.report.planes import Plane
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.manifest import GridRecord
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import BSplineField, DisplacementField, GaussianSequence

GRID = Grid((40, 61), (2.0, 1.0))
FRAMES = 5
ROWS = (0, 2, 4, 2, 1)
"""The scene of frame t lies this many rows lower."""


def scene(rows: float) -> np.ndarray:
    y, x = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    return 100 + 80 * np.exp(-((y - 18 - rows) ** 2) / 30 - (x - 35) ** 2 / 200)


def shift(rows: float) -> DisplacementField:
    vectors = torch.zeros(2, *GRID.shape)
    vectors[0] = rows
    return DisplacementField(vectors, GRID, Space.INDEX)


def gaussian(rows: float, steps: int = 25) -> GaussianSequence:
    amplitude = torch.tensor([[rows * 2.0 / GRID.unit_mm / steps, 0.0]]).expand(steps, 2)
    return GaussianSequence(torch.zeros(steps, 2), torch.full((steps, 2), 0.4), torch.zeros(steps, 1), amplitude, GRID)


def make(transforms, times: bool = True, path: str = "/home/x/Doe^Jane/a & <b>.mha") -> tuple[ImageSeries, RegisteredSeries]:
    frames = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    times_s = tuple(0.4 * k for k in range(FRAMES)) if times else None
    series = ImageSeries(frames, GRID, times_s, source={"format": "mha", "path": path}, notes=("a note <i>",))
    statuses = [FrameStatus.REFERENCE, FrameStatus.OK, FrameStatus.OK, FrameStatus.FOLDED, FrameStatus.OK]
    metrics = tuple(
        FrameMetrics.of(
            FrameResult(k, transforms[k], statuses[k], "it folds" if k == 3 else "", 0.9, 0.98, 0.0, 0.9, 2.0 * ROWS[k], 0.2),
            0.4 * k,
        )
        for k in range(FRAMES)
    )
    manifest = manifest_of(series)
    return series, RegisteredSeries(Path("nowhere"), manifest, metrics, dict(enumerate(transforms)))


@pytest.fixture(scope="module")
def page() -> str:
    series, registered = make([gaussian(rows) for rows in ROWS])
    ids, frames = ("a",) * 5, np.arange(5)
    points = np.array([[18.0 + rows, 35.0] for rows in ROWS])
    marks = LandmarkSet(ids, frames, points, Space.INDEX)
    errors = target_registration_error(registered.transforms, marks, 0, GRID)
    return render_report(series, registered, errors)


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert not re.search(r"https?:|<script|@import|url\(", page)
    assert len(page) < 3_000_000


def test_text_of_files_is_escaped_and_no_folder_is_named(page: str) -> None:
    assert "a &amp; &lt;b&gt;.mha" in page
    assert "a note &lt;i&gt;" in page
    assert "Doe" not in page


def test_the_page_says_what_was_found(page: str) -> None:
    assert "1 of 5 frames needs a look (1 with folds)." in page
    assert "it folds" in page
    assert "25 Gaussians, 175 numbers" in page
    assert "edge pixels repeated" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_every_image_is_whole(page: str) -> None:
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"src=\"data:image/\w+;base64,([^\"]+)", page)]
    kinds = [image.format for image in images]
    assert kinds.count("PNG") == 5
    for image in images:
        image.load()
        assert np.ptp(np.asarray(image.convert("L"))) > 100


def test_mean_and_deviation_are_those_of_the_frames() -> None:
    series, registered = make([shift(rows) for rows in ROWS])
    data = gather(series, registered)
    stack = series.frames[:, 0]
    np.testing.assert_allclose(data.mean_before, stack.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.deviation_before, stack.std(0), atol=1e-3)
    inner = np.s_[:34]
    assert data.deviation_after[inner].max() < 1e-2
    assert data.deviation_before[inner].max() > 10


def test_the_line_runs_along_the_motion_and_straightens() -> None:
    series, registered = make([gaussian(rows) for rows in ROWS])
    data = gather(series, registered)
    # The motion is along rows and largest in the middle column.
    assert data.line_axis == 0
    assert abs(data.line_index - 30) <= 1
    assert data.line_before.shape == (40, FRAMES)
    np.testing.assert_allclose(data.line_before[:, 2], series.frame(2)[0][:, data.line_index])


def test_the_example_is_the_frame_with_the_largest_motion() -> None:
    series, registered = make([shift(rows) for rows in ROWS])
    data = gather(series, registered)
    assert data.examples[0].frame == 2
    np.testing.assert_allclose(data.examples[0].displacement_mm[0], 8.0, rtol=1e-5)


def test_displacement_after_some_steps_is_the_sum_of_these() -> None:
    whole, half = (Plane(GRID).displacement_mm(gaussian(4, steps=4), upto=upto) for upto in (None, 2))
    np.testing.assert_allclose(half, whole / 2, atol=1e-5)
    assert whole[0].max() == pytest.approx(8.0, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bspline", "dense", "short", "none"])
def test_every_kind_of_transform_can_be_drawn(kind: str) -> None:
    made = {
        "bspline": lambda rows: BSplineField(torch.full((2, 4, 5), 0.01 * rows), GRID),
        "dense": shift,
        "short": lambda rows: gaussian(rows, steps=3),
        "none": lambda rows: GaussianSequence.identity(GRID),
    }[kind]
    series, registered = make([made(rows) for rows in ROWS], times=False)
    text = render_report(series, registered)
    assert ("cubic B-spline of 40 numbers" in text) == (kind == "bspline")
    assert "Landmarks" not in text


@pytest.mark.slow
def test_even_noise_makes_a_small_page() -> None:
    series, registered = make([shift(rows) for rows in ROWS])
    grid = Grid((256, 256))
    noise = np.random.default_rng(0).normal(size=(FRAMES, 1, *grid.shape)).astype(np.float32)
    record = registered.manifest.input.model_copy(update={"grid": GridRecord.of(grid)})
    still = {k: DisplacementField.identity(grid) for k in range(FRAMES)}
    manifest = registered.manifest.model_copy(update={"input": record})
    registered = dataclasses.replace(registered, manifest=manifest, transforms=still)
    text = render_report(dataclasses.replace(series, frames=noise, grid=grid), registered)
    assert len(text) < 3_000_000


def test_a_clean_result_says_so() -> None:
    row = FrameMetrics(0, math.nan, 1, 1, 0, 1, 0, 0, FrameStatus.REFERENCE)
    assert verdict((row,)).flagged == 0
    assert "none is flagged" in verdict((row,)).sentence


def test_small_pixels_are_shown_in_um_on_page_and_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "GRID", Grid(GRID.shape, (1.083e-4, 0.8e-4)))
    labelled: list[str] = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_ylabel", lambda self, text, *_, **__: labelled.append(text) or self.yaxis.set_label_text(text)
    )
    series, registered = make([shift(rows) for rows in ROWS])
    metrics = tuple(
        dataclasses.replace(row, max_displacement_mm=row.max_displacement_mm * 1.083e-4 / 2) for row in registered.metrics
    )
    registered = dataclasses.replace(registered, metrics=metrics)
    points = np.array([[18.0 + 1.25 * rows, 35.0] for rows in ROWS])
    errors = target_registration_error(registered.transforms, LandmarkSet(("a",) * 5, np.arange(5), points, Space.INDEX), 0, GRID)
    text = render_report(series, registered, errors)
    assert ">0.43 um<" in text  # 4 pixels
    assert "5.4 pixels" in text  # of the finer side
    assert "0.1083 x 0.08 um" in text
    assert ">0.061 um<" in text  # a quarter of 2.25 pixels
    assert "displacement (um)" in text
    assert not re.search(r"\d mm|\(mm\)|in mm", re.sub(r"base64,[^\"]+", "", text))
    lengths = {"displacement (um)", "y (um)", "largest\ndisplacement (um)", "landmark error (um)"}
    assert {label for label in labelled if "(" in label} == lengths
