"""Transforms written for other programs: SimpleITK maps points as we do, in 2D and 3D, oblique and anisotropic."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from r2n2.errors import ArgumentError, ResourceError
from r2n2.geometry import Grid, Space
from r2n2.io.itk_transforms import lattice_of, write_itk_transform
from r2n2.transform import BSplineField, GaussianSequence, Transform, map_points

COS, SIN = math.cos(0.4), math.sin(0.4)
PLANE = Grid((31, 46), (1.7, 0.9), (-31.5, 12.25), ((COS, -SIN), (SIN, COS)))
VOLUME = Grid((9, 23, 18), (4.0, 1.5, 2.0), (10.0, -20.0, 7.5), ((COS, -SIN, 0.0), (SIN, COS, 0.0), (0.0, 0.0, 1.0)))


def gaussians(grid: Grid, count: int = 2) -> GaussianSequence:
    generator = torch.Generator().manual_seed(3)
    ndim = grid.ndim

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, ndim, generator=generator)

    turns = torch.rand(count, 1 if ndim == 2 else 3, generator=generator)
    return GaussianSequence(uniform(-0.4, 0.4), uniform(0.4, 0.7), turns, uniform(-0.1, 0.1), grid)


def places(grid: Grid) -> torch.Tensor:
    """(20, ndim) WORLD, inside."""
    index = torch.rand(20, grid.ndim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return grid.convert_points(index * (torch.tensor(grid.shape) - 1), Space.INDEX, Space.WORLD)


def assert_same(path: Path, transform: Transform, tolerance_mm: float) -> None:
    read = sitk.ReadTransform(str(path))
    points = places(transform.grid)
    theirs = np.array([read.TransformPoint(point[::-1].tolist())[::-1] for point in points.numpy()])
    ours = map_points(transform, points, Space.WORLD).numpy()
    assert np.abs(ours - points.numpy()).max() > 5 * tolerance_mm
    np.testing.assert_allclose(theirs, ours, atol=tolerance_mm)


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["2D", "3D"])
def test_itk_maps_points_as_we_do(grid: Grid, tmp_path: Path) -> None:
    assert_same(write_itk_transform(tmp_path / "é 1.h5", gaussians(grid)), gaussians(grid), 0.1)
    spline = BSplineField(0.1 * torch.randn(grid.ndim, *(5,) * grid.ndim, generator=torch.Generator().manual_seed(0)), grid)
    assert_same(write_itk_transform(tmp_path / "spline.h5", spline), spline, 0.1)
    dense = gaussians(grid).displacement_field()
    assert_same(write_itk_transform(tmp_path / "dense.h5", dense), dense, 1e-4)


@pytest.mark.parametrize("grid", [PLANE, VOLUME], ids=["2D", "3D"])
def test_a_linear_map_is_exact_everywhere(grid: Grid, tmp_path: Path) -> None:
    ndim = grid.ndim
    linear = 0.1 * torch.randn(ndim, ndim + 1, generator=torch.Generator().manual_seed(1))
    transform = dataclasses.replace(GaussianSequence.identity(grid), linear=linear)
    read = sitk.ReadTransform(str(write_itk_transform(tmp_path / "a.h5", transform)))
    # Far outside, where a field would be zero.
    points = places(grid) + 500
    theirs = np.array([read.TransformPoint(point[::-1].tolist())[::-1] for point in points.numpy()])
    np.testing.assert_allclose(theirs, map_points(transform, points, Space.WORLD).numpy(), atol=1e-4)


def test_it_is_one_composite_transform(tmp_path: Path) -> None:
    read = sitk.ReadTransform(str(write_itk_transform(tmp_path / "a.h5", gaussians(VOLUME))))
    assert read.GetTransformEnum() == sitk.sitkComposite
    assert sitk.CompositeTransform(read).GetNumberOfTransforms() == 1


def test_a_coarser_lattice_covers_the_same_place_and_is_a_smaller_file(tmp_path: Path) -> None:
    coarse = lattice_of(VOLUME, 6.0)
    assert coarse.shape == (7, 7, 7)
    assert max(coarse.spacing) <= 6.0
    assert coarse.half_extent_mm == pytest.approx(VOLUME.half_extent_mm)
    assert lattice_of(VOLUME, 1.0).shape == VOLUME.shape, "never finer than the voxels"
    assert lattice_of(VOLUME, 4.0).shape[0] == 9
    assert lattice_of(VOLUME, 1000.0).shape == (2, 2, 2)
    path = write_itk_transform(tmp_path / "coarse.h5", gaussians(VOLUME), coarse)
    assert_same(path, gaussians(VOLUME), 0.25)
    assert path.stat().st_size < write_itk_transform(tmp_path / "fine.h5", gaussians(VOLUME)).stat().st_size / 2


@pytest.mark.parametrize("spacing", [0.0, -1.0, math.nan, math.inf])
def test_no_such_spacing(spacing: float) -> None:
    with pytest.raises(ArgumentError, match="positive number of mm"):
        lattice_of(VOLUME, spacing)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"ends in \.h5"):
        write_itk_transform(tmp_path / "a.tfm", gaussians(PLANE))
    with pytest.raises(ResourceError, match="no_folder"):
        write_itk_transform(tmp_path / "no_folder" / "a.h5", gaussians(PLANE))
    assert not list(tmp_path.iterdir())
