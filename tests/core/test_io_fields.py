from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from torch.nn import functional

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.fields import read_field, write_field
from r2n2.transform import DisplacementField, warp_image


def rotation(*angles: float) -> tuple[tuple[float, ...], ...]:
    """In 2D one angle, in 3D two: about the first, then the second axis."""
    c, s = math.cos(angles[0]), math.sin(angles[0])
    if len(angles) == 1:
        return ((c, -s), (s, c))
    d, r = math.cos(angles[1]), math.sin(angles[1])
    first = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    second = np.array([[d, 0, r], [0, 1, 0], [-r, 0, d]])
    return tuple(map(tuple, (first @ second).tolist()))


GRIDS = [
    Grid((37, 52), (1.7, 0.9), (-31.5, 12.25), rotation(0.4)),
    Grid((40, 23), (0.5, 2.0)),
    Grid((33, 20), (1.2, 2.5), (5.0, -3.0), ((0.0, 1.0), (-1.0, 0.0))),
    Grid((9, 17, 22), (3.0, 1.4, 0.8), (10.0, -20.0, 7.5), rotation(0.3, -0.5)),
]


def smooth(channels: int, grid: Grid, seed: int) -> torch.Tensor:
    """Random and smooth: a coarse lattice enlarged."""
    coarse = torch.randn(1, channels, *[max(3, n // 6) for n in grid.shape], generator=torch.Generator().manual_seed(seed))
    mode = "bicubic" if grid.ndim == 2 else "trilinear"
    return functional.interpolate(coarse, size=grid.shape, mode=mode, align_corners=True)[0]


def as_itk(image: torch.Tensor, grid: Grid) -> sitk.Image:
    itk = sitk.GetImageFromArray(image.numpy().astype(np.float32))
    itk.SetSpacing(grid.spacing[::-1])
    itk.SetOrigin(grid.origin[::-1])
    itk.SetDirection(np.array(grid.direction)[::-1, ::-1].ravel().tolist())
    return itk


@pytest.mark.parametrize("grid", GRIDS, ids=["rotated", "straight", "quarter turn", "3D"])
def test_itk_resamples_the_written_field_to_our_warped_image(grid: Grid, tmp_path: Path) -> None:
    moving = smooth(1, grid, 1)
    field = DisplacementField(0.08 * smooth(grid.ndim, grid, 2), grid, Space.NORMALISED)
    path = write_field(tmp_path / "é field.mha", field)
    ours = warp_image(moving, field)[0].numpy()

    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(as_itk(moving[0], grid))
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetTransform(sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64)))
    resample.SetDefaultPixelValue(math.nan)
    inside = sitk.GetArrayFromImage(resample.Execute(as_itk(moving[0], grid)))
    limit = 1e-3 * float(moving.max() - moving.min())
    seen = np.isfinite(inside)
    assert seen.mean() > 0.5
    assert np.abs(inside - ours)[seen].max() < limit
    assert np.abs(ours - moving[0].numpy()).max() > 50 * limit  # the field moves something

    # Outside, ITK's nearest neighbour is our edge pixel only where the position leaves across one side beyond a pixel centre.
    resample.UseNearestNeighborExtrapolatorOn()
    everywhere = sitk.GetArrayFromImage(resample.Execute(as_itk(moving[0], grid)))
    assert np.isfinite(everywhere).all()
    assert np.median(np.abs(everywhere - ours)) < limit


@pytest.mark.parametrize("grid", GRIDS)
def test_round_trip_keeps_vectors_and_geometry(grid: Grid, tmp_path: Path) -> None:
    field = DisplacementField(0.1 * smooth(grid.ndim, grid, 3), grid, Space.NORMALISED)
    back = read_field(write_field(tmp_path / "f.mha", field))
    assert back.space is Space.WORLD
    assert back.grid.shape == grid.shape
    assert back.grid.same_space(grid)
    torch.testing.assert_close(back.to_space(Space.NORMALISED).vectors, field.vectors, atol=1e-6, rtol=1e-4)


def test_a_known_vector_is_written_x_first(tmp_path: Path) -> None:
    grid = Grid((5, 7), (2.0, 3.0))
    vectors = torch.zeros(2, 5, 7)
    vectors[0, 1, 4] = 2.5  # y
    vectors[1, 1, 4] = -1.5  # x
    path = write_field(tmp_path / "f.mha", DisplacementField(vectors, grid, Space.WORLD))
    itk = sitk.ReadImage(str(path))
    assert itk.GetPixel(4, 1) == (-1.5, 2.5)
    assert itk.GetSpacing() == (3.0, 2.0)


def test_read_field_takes_what_itk_wrote(tmp_path: Path) -> None:
    itk = sitk.Image([6, 4], sitk.sitkVectorFloat64, 2)
    itk.SetPixel(5, 2, (1.25, -0.5))
    sitk.WriteImage(itk, str(tmp_path / "f.mha"), useCompression=True)
    field = read_field(tmp_path / "f.mha")
    assert field.vectors[:, 2, 5].tolist() == [-0.5, 1.25]


@pytest.mark.parametrize("keep", [0, 40, 120, 500, -1])
def test_truncated_field(tmp_path: Path, keep: int) -> None:
    path = write_field(tmp_path / "f.mha", DisplacementField.identity(Grid((9, 11))))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ReadError, match=r"f\.mha"):
        read_field(path)


def test_an_image_is_no_field(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(6, 4, sitk.sitkInt16), str(tmp_path / "i.mha"))
    with pytest.raises(ReadError, match="as many components as axes"):
        read_field(tmp_path / "i.mha")
