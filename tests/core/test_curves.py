"""Curves of labels against displacements whose area and strain are known in closed form."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_factory import GRID, ROWS, fake_register, one_line, run, save, scene

from r2n2.curves import LabelCurve, deformation_gradient, label_curves
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.transform import DisplacementField


def linear(grid: Grid, matrix: np.ndarray) -> DisplacementField:
    """x -> (I + matrix) x about the middle, in mm along the axes of the image."""
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in grid.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    spacing = torch.tensor(grid.spacing, dtype=torch.float64).reshape(-1, *[1] * grid.ndim)
    along = torch.einsum("ij,j...->i...", torch.from_numpy(matrix), index * spacing)
    return DisplacementField(along / spacing, grid, Space.INDEX)


def whole(running: object) -> tuple[LabelCurve, ...]:
    while True:
        try:
            next(running)  # type: ignore[call-overload]
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("shape", [(21, 34), (9, 12, 15)])
def test_a_linear_map_has_the_strain_of_its_matrix(shape: tuple[int, ...]) -> None:
    ndim = len(shape)
    # Turned in the patient, so that a gradient along the wrong axes would show.
    direction = np.eye(ndim)[::-1] * np.array([1.0] * (ndim - 1) + [-1.0])
    grid = Grid(shape, (2.0, 1.5, 3.0)[:ndim], tuple([5.0] * ndim), tuple(map(tuple, direction)))
    matrix = np.random.default_rng(3).normal(0, 0.1, (ndim, ndim))
    labels = np.zeros(shape, np.int64)
    labels[tuple(slice(2, 7) for _ in shape)] = 4
    curve = whole(label_curves(labels, grid, {0: linear(grid, matrix)}, lambda _frame: np.full(shape, 7.0)))[0]
    gradient = matrix + np.eye(ndim)
    np.testing.assert_allclose(deformation_gradient(linear(grid, matrix))[(3,) * ndim], gradient, atol=1e-12)
    np.testing.assert_allclose(curve.strain[0], (gradient.T @ gradient - np.eye(ndim)) / 2, atol=1e-12)
    assert curve.size_strain[0] == pytest.approx(np.linalg.det(gradient) - 1)
    assert curve.size[0] == pytest.approx(5**ndim * np.prod(grid.spacing) * np.linalg.det(gradient))
    np.testing.assert_allclose(curve.principal[0], sorted(np.linalg.eigvalsh(curve.strain[0]), reverse=True))
    assert curve.after.tolist() == [7.0]
    assert np.isnan(curve.before).all()


def test_a_turn_is_no_strain_and_changes_no_area() -> None:
    grid = Grid((25, 31), (1.0, 2.0))
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) - np.eye(2)
    labels = np.ones(grid.shape, np.int64)
    curve = whole(label_curves(labels, grid, {3: linear(grid, turn)}, lambda _frame: np.zeros(grid.shape)))[0]
    np.testing.assert_allclose(curve.strain, 0, atol=1e-12)
    assert curve.size_strain[0] == pytest.approx(0, abs=1e-12)


def test_intensities_leave_out_what_is_not_known_and_labels_must_fit() -> None:
    grid = Grid((6, 8))
    labels = np.zeros(grid.shape, np.int64)
    labels[1:3, 1:4], labels[4, 2:6] = 1, 2
    image = np.where(labels == 1, 10.0, 3.0)
    image[1, 1] = np.nan
    still = DisplacementField.identity(grid)
    first, second = whole(label_curves(labels, grid, {0: still, 5: still}, lambda k: image + k, lambda k: image - k, frames=[5, 0]))
    assert (first.label, second.label, first.frames.tolist()) == (1, 2, [5, 0])
    assert first.after.tolist() == [15, 10]
    assert second.before.tolist() == [-2, 3]
    with pytest.raises(ArgumentError, match="nothing but 0"):
        whole(label_curves(0 * labels, grid, {0: still}, lambda k: image))
    with pytest.raises(ArgumentError, match="shape of the reference"):
        whole(label_curves(labels[1:], grid, {0: still}, lambda k: image))


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    movie = save(tmp_path / "movie.mha", np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32))
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    return tmp_path / "result"


def test_the_command_reads_the_same_tissue_once_aligned(result: Path, tmp_path: Path, capsys) -> None:
    labels = np.zeros((1, 1, *GRID.shape), np.uint8)
    labels[..., 10:20, 15:30] = 1
    drawn = save(tmp_path / "labels.mha", labels)
    out = tmp_path / "out"
    assert run("curves", result, "--labels", drawn, "-o", out, "--quiet") == 0
    rows = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    inside = labels[0, 0] == 1
    for row, shift in zip(rows, ROWS, strict=True):
        assert float(row["intensity_before"]) == pytest.approx(scene(shift)[inside].mean(), rel=1e-5)
        assert float(row["intensity_after"]) == pytest.approx(scene(0)[inside].mean(), rel=1e-3)
        assert float(row["area_mm2"]) == pytest.approx(150 * 3.0)
        assert float(row["area_strain"]) == pytest.approx(0, abs=1e-6)
    assert [row["status"] for row in rows] == ["reference", "ok", "ok", "ok"]
    assert (out / "curves.png").stat().st_size > 5000
    assert "Green-Lagrange" in (out / "curves.svg").read_text()
    # Drawn in frame 2, three rows lower, it is the same tissue.
    moved = save(tmp_path / "moved.mha", np.roll(labels, 3, axis=2))
    assert run("curves", result, "--labels", moved, "-o", tmp_path / "two", "--from", 2, "--quiet") == 0
    other = list(csv.DictReader((tmp_path / "two" / "curves.csv").read_text().splitlines()))
    assert [row["intensity_after"] for row in other] == [row["intensity_after"] for row in rows]
    capsys.readouterr()
    assert run("curves", result, "--labels", drawn, "-o", out) == 2
    assert "--overwrite" in one_line(capsys)
    (tmp_path / "movie.mha").unlink()
    assert run("curves", result, "--labels", drawn, "-o", tmp_path / "three") == 0
    assert "no curves before alignment (--input FILE)" in capsys.readouterr().err
    third = list(csv.DictReader((tmp_path / "three" / "curves.csv").read_text().splitlines()))
    assert {row["intensity_before"] for row in third} == {""}
    assert float(third[2]["intensity_after"]) == pytest.approx(float(rows[2]["intensity_after"]), rel=1e-5)
