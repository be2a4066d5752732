"""How densely displacements are written: every pixel, fewer points, none; Gaussians and images are the same whichever it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.io import read_series
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.results.field_lattice import coarse_lattice, lattice_of
from r2n2.results.manifest import RunFacts
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence, map_points
from r2n2.workflow import register_to_folder, save_to_folder

PLANE = Grid((31, 46), (1.7, 0.9))
VOLUME = Grid((9, 23, 18), (4.0, 1.5, 2.0), (10.0, -20.0, 7.5))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")


def written(folder: Path, grid: Grid, fields: str | float) -> Path:
    """A result of two frames, the second moved by one Gaussian."""
    y = np.random.default_rng(0).normal(size=(2, 1, *grid.shape)).astype(np.float32)
    series = ImageSeries(y, grid, (0.0, 0.5), source={"format": "mha", "path": "movie.mha"})
    ndim = grid.ndim
    moved = GaussianSequence(
        torch.zeros(1, ndim), torch.full((1, ndim), 0.5), torch.zeros(1, 1 if ndim == 2 else 3), torch.full((1, ndim), 0.1), grid
    )
    transforms = (GaussianSequence.identity(grid), moved)
    results = {
        k: FrameResult(k, t, FrameStatus.OK if k else FrameStatus.REFERENCE, "", 0.9, 0.95, 0.0, 0.9, 2.0, 0.1)
        for k, t in enumerate(transforms)
    }
    config = RegistrationConfig.parse({"fields": fields, "uncertainty": "off"})
    for _ in save_to_folder(series, results, folder, config, facts=RunFacts.of(config)):
        pass
    return folder


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["2D", "3D"])
def test_without_fields_everything_else_is_there(grid: Grid, tmp_path: Path) -> None:
    none, full = (written(tmp_path / fields, grid, fields) for fields in ("none", "full"))
    assert not (none / "fields").exists()
    assert "fields" not in json.loads((none / "run.json").read_text())["files"]
    for name in ("registered.mha", "sequence.csv"):
        assert (none / name).read_bytes() == (full / name).read_bytes()
    points = torch.tensor([[5.0] * grid.ndim], dtype=torch.float64)
    one, other = (map_points(read_result(folder).transforms[1], points, Space.INDEX) for folder in (none, full))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["2D", "3D"])
def test_fields_of_fewer_points_lie_over_the_same_place(grid: Grid, tmp_path: Path) -> None:
    whole, coarse = (
        sitk.ReadImage(str(written(tmp_path / str(fields), grid, fields) / "fields" / "frame_0001.mha"), sitk.sitkVectorFloat64)
        for fields in ("full", 6.0)
    )
    assert np.prod(coarse.GetSize()) < 0.2 * np.prod(whole.GetSize())
    assert max(coarse.GetSpacing()) <= 6.0
    for corner in ([0] * grid.ndim, [n - 1 for n in whole.GetSize()]):
        last = [0] * grid.ndim if not any(corner) else [n - 1 for n in coarse.GetSize()]
        np.testing.assert_allclose(
            coarse.TransformIndexToPhysicalPoint(last), whole.TransformIndexToPhysicalPoint(corner), atol=1e-4
        )
    middle = whole.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in whole.GetSize()])
    sparse, dense = (sitk.DisplacementFieldTransform(field).TransformPoint(middle) for field in (coarse, whole))
    np.testing.assert_allclose(sparse, dense, atol=0.15)
    assert np.abs(np.subtract(dense, middle)).max() > 1.5


def test_a_volume_has_points_four_millimetres_apart_unless_told_otherwise(tmp_path: Path) -> None:
    field = sitk.ReadImage(str(written(tmp_path / "out", VOLUME, "auto") / "fields" / "frame_0001.mha"))
    assert field.GetSize() == (10, 10, 9)


def test_a_run_that_stopped_goes_on_without_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []

    def register(item: ImageSeries, _config: object = None, *, done: dict[int, object], **_others: object):
        from r2n2.registration import SeriesProgress

        calls.append(sorted(done))
        for k in range(len(item)):
            if k in done:
                continue
            status = FrameStatus.OK if k else FrameStatus.REFERENCE
            found = FrameResult(k, GaussianSequence.identity(item.grid), status, "", 0.9, 0.95, 0.0, 1.0, 0.0, 0.1)
            yield SeriesProgress(0, k + 1, len(item), (k + 1) / len(item), (found,))

    monkeypatch.setattr("r2n2.workflow.register_series", register)
    frames = np.random.default_rng(0).normal(size=(4, 1, *PLANE.shape)).astype(np.float32)
    series = ImageSeries(frames, PLANE, source={"format": "mha", "path": "movie.mha"})
    config = RegistrationConfig.parse({"fields": "none", "uncertainty": "off"})
    running = register_to_folder(series, tmp_path / "out", config)
    for progress in running:
        if any(result.frame == 1 for result in progress.finished):
            running.close()
            break
    for _ in register_to_folder(series, tmp_path / "out", config):
        pass
    assert calls == [[], [0, 1]]
    assert len(read_result(tmp_path / "out").transforms) == 4
    assert len(read_series(tmp_path / "out" / "registered.mha")[0]) == 4


def test_what_the_setting_means() -> None:
    assert lattice_of(PLANE, "auto") == lattice_of(PLANE, "full") == PLANE
    assert lattice_of(VOLUME, "full") == VOLUME
    assert lattice_of(PLANE, "none") is lattice_of(VOLUME, "none") is None
    assert lattice_of(PLANE, 5.0) == coarse_lattice(PLANE, 5.0)
    assert coarse_lattice(Grid((1, 9, 9)), 4.0) == Grid((1, 9, 9)), "one slice cannot be sampled otherwise"
    with pytest.raises(ArgumentError, match="fields"):
        RegistrationConfig.parse({"fields": -1.0})
