"""The sampler: exact identity, exact shifts, known ramps, validity, gradients; on odd, non-square, anisotropic lattices."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform import normalised_lattice, resample, sample_masked, sample_normalised, warp

ODD = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))
VOLUME = Grid((7, 12, 9), (3.0, 1.5, 0.8))


def _noise(grid: Grid, *, batch: int = 1, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, channels, *grid.shape, generator=torch.Generator().manual_seed(seed))


def _constant(grid: Grid, shift_px: tuple[float, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    vector = grid.convert_vectors(torch.tensor([shift_px], dtype=dtype), Space.INDEX, Space.NORMALISED)[0]
    return vector.view(1, -1, *[1] * grid.ndim).expand(1, grid.ndim, *grid.shape)


@pytest.mark.parametrize("grid", [Grid((32, 48)), ODD, VOLUME])
def test_zero_displacement_is_the_identity(grid: Grid) -> None:
    image = _noise(grid, batch=2, channels=3)
    warped, valid = warp(image, torch.zeros(1, grid.ndim, *grid.shape), grid)
    assert (warped - image).abs().max() < 1e-5
    assert valid.shape == (2, 1, *grid.shape)
    assert valid.all()


@pytest.mark.parametrize("shift", [(2, 0), (0, 5), (-3, 4)])
def test_one_bright_pixel_is_pulled_from_where_the_displacement_points(shift: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, 31, 47)
    image[0, 0, 11, 20] = 1
    warped, _ = warp(image, _constant(ODD, shift), ODD)
    expected = torch.zeros_like(image)
    expected[0, 0, 11 - shift[0], 20 - shift[1]] = 1
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -3, 0), (0, 0, 2)])
def test_one_bright_voxel_is_pulled_along_each_axis(shift: tuple[int, int, int]) -> None:
    image = torch.zeros(1, 1, 7, 12, 9)
    image[0, 0, 3, 6, 4] = 1
    warped, _ = warp(image, _constant(VOLUME, shift), VOLUME)
    expected = torch.zeros_like(image)
    expected[0, 0, 3 - shift[0], 6 - shift[1], 4 - shift[2]] = 1
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("axis", "shift"), [(0, (3.0, 0.0)), (1, (0.0, 3.0)), (1, (0.0, -2.5))])
def test_a_ramp_moves_by_exactly_the_pixels_asked(axis: int, shift: tuple[float, float]) -> None:
    ramp = torch.arange(ODD.shape[axis], dtype=torch.float64)
    image = (ramp[:, None] if axis == 0 else ramp[None]).expand(ODD.shape)[None, None]
    warped, valid = warp(image, _constant(ODD, shift, torch.float64), ODD)
    moved = warped - image
    torch.testing.assert_close(moved[valid], torch.full_like(moved[valid], shift[axis]), rtol=0, atol=1e-9)
    lost = math.ceil(abs(shift[axis])) * ODD.shape[1 - axis]
    assert int((~valid).sum()) == lost


@pytest.mark.parametrize("shape", [(31, 47), (32, 48), (31, 48), (2, 2)])
def test_half_a_turn_equals_two_flips_for_even_and_odd_sizes(shape: tuple[int, int]) -> None:
    grid = Grid(shape, (1.7, 0.9))
    image = _noise(grid)
    turned, valid = warp(image, -2 * normalised_lattice(grid, image)[None], grid)
    torch.testing.assert_close(turned, image.flip(2, 3), rtol=0, atol=1e-4)
    assert valid.all()


@pytest.mark.parametrize("shape", [(17, 24), (61, 93), (2, 150)])
def test_a_linear_map_in_mm_survives_resampling_up_and_down(shape: tuple[int, int]) -> None:
    def linear(grid: Grid) -> Tensor:
        world = grid.convert_points(normalised_lattice(grid, torch.zeros(0).double()).movedim(0, -1), Space.NORMALISED, Space.WORLD)
        return (0.3 * world[..., 0] - 1.1 * world[..., 1] + 4)[None, None]

    target = ODD.resized(shape)
    got, valid = resample(linear(ODD), ODD, target)
    torch.testing.assert_close(got, linear(target), rtol=0, atol=1e-9)
    assert valid.all()


def test_what_comes_from_outside_is_not_valid_though_the_edge_is_shown() -> None:
    # A constant image looks unchanged wherever it goes: only the validity tells.
    image = torch.full((1, 1, 31, 47), 5.0)
    warped, valid = warp(image, _constant(ODD, (0.0, 40.0)), ODD)
    assert torch.equal(warped, image)
    assert int(valid.sum()) == 31 * 7
    gone, none_valid = warp(image, _constant(ODD, (0.0, 100.0)), ODD)
    assert torch.equal(gone, image)
    assert not none_valid.any()


def test_each_image_of_a_batch_takes_its_own_displacement_and_one_serves_all() -> None:
    images = _noise(ODD, batch=2)
    fields = torch.cat((_constant(ODD, (2.0, 0.0)), _constant(ODD, (0.0, 5.0))))
    both = warp(images, fields, ODD).image
    for k in range(2):
        torch.testing.assert_close(both[k], warp(images[k : k + 1], fields[k : k + 1], ODD).image[0])
    torch.testing.assert_close(warp(images[:1], fields, ODD).image[1], warp(images[:1], fields[1:], ODD).image[0])


def test_nearest_keeps_labels_and_rounds_to_the_nearer_pixel() -> None:
    labels = torch.randint(0, 9, (1, 1, 31, 47), generator=torch.Generator().manual_seed(1)).float()
    warped = warp(labels, _constant(ODD, (0.4, -1.6)), ODD, mode="nearest").image
    assert torch.equal(warped[..., 2:], labels[..., :-2])


def test_values_between_pixels_are_linear() -> None:
    image = torch.zeros(1, 1, 31, 47, dtype=torch.float64)
    image[0, 0, 4, 6] = 8
    place = Grid.convert_points(ODD, torch.tensor([[4.25, 6.5]], dtype=torch.float64), Space.INDEX, Space.NORMALISED)
    value = sample_normalised(image, place.mT.view(1, 2, 1, 1), ODD).image
    assert float(value) == pytest.approx(8 * 0.75 * 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coarse_images_are_still_sampled_at_fine_positions(dtype: torch.dtype) -> None:
    # float16 holds positions near 1 to half a pixel of 1024 at best; the ramp of 0 to 1 shows where each value came from.
    grid = Grid((3, 1024))
    field = _constant(grid, (0.0, 0.5)).clone()
    image = torch.zeros(1, 1, 3, 1024, dtype=dtype)
    image[..., ::2] = 1
    warped, valid = warp(image, field, grid)
    assert warped.dtype == dtype
    error_px = (warped.float() - 0.5)[valid].abs().max()
    assert error_px < 0.01


@pytest.mark.parametrize("grid", [Grid((5, 7), (1.3, 0.7)), Grid((3, 4, 5), (2.0, 1.0, 1.5))])
def test_gradients_off_the_pixel_lattice(grid: Grid) -> None:
    image = _noise(grid).double().requires_grad_(True)
    # Between 0.2 and 0.8 of a pixel away from every pixel, where the interpolation has no kink, and inside the image.
    generator = torch.Generator().manual_seed(3)
    offset = 0.2 + 0.6 * torch.rand(*grid.shape, grid.ndim, generator=generator, dtype=torch.float64)
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in grid.shape), indexing="ij"), -1)
    offset = torch.where(index == torch.tensor([n - 1.0 for n in grid.shape]), -offset, offset)
    field = grid.convert_vectors(offset, Space.INDEX, Space.NORMALISED).movedim(-1, 0)[None].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, f: warp(a, f, grid).image, (image, field))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected displacement"):
        warp(torch.zeros(1, 1, 31, 47), torch.zeros(1, 2, 47, 31), ODD)
    with pytest.raises(ValueError, match="expected displacement"):
        warp(torch.zeros(1, 1, 47, 31), torch.zeros(1, 2, 31, 47), ODD)
    with pytest.raises(ValueError, match="do not share one normalised space"):
        resample(torch.zeros(1, 1, 31, 47), ODD, Grid((31, 47)))


def test_a_mask_moves_with_its_image() -> None:
    image = _noise(ODD, channels=2)
    mask = torch.ones(1, 1, *ODD.shape, dtype=torch.bool)
    mask[0, 0, 10:14, 20:25] = False
    warped, measured = warp(image, _constant(ODD, (2, -5)), ODD, mask=mask)
    plain, inside = warp(image, _constant(ODD, (2, -5)), ODD)
    torch.testing.assert_close(warped, plain)
    assert (inside & ~measured).nonzero()[:, 2:].tolist() == [[row, column] for row in range(8, 12) for column in range(25, 30)]
    assert not (measured & ~inside).any()


def test_a_value_interpolated_from_a_pixel_that_is_not_measured_does_not_count() -> None:
    mask = torch.ones(1, 1, *ODD.shape, dtype=torch.bool)
    mask[0, 0, 12, 20] = False
    _, measured = warp(_noise(ODD), _constant(ODD, (0.5, 0.5)), ODD, mask=mask)
    assert (~measured[..., :-1, :-1]).nonzero()[:, 2:].tolist() == [[11, 19], [11, 20], [12, 19], [12, 20]]


def test_without_a_mask_only_the_edge_of_the_image_counts() -> None:
    positions = normalised_lattice(ODD, torch.zeros(1))[None] + _constant(ODD, (0, 3))
    sampled, expected = sample_masked(_noise(ODD), None, positions, ODD), sample_normalised(_noise(ODD), positions, ODD)
    assert torch.equal(sampled.image, expected.image)
    assert torch.equal(sampled.valid, expected.valid)


def test_going_back_through_positions_that_are_no_numbers_touches_nothing_but_the_image() -> None:
    """Torch's own sampler writes outside of its memory there: in a process of its own, as that may end it."""
    code = """
import torch
from r2n2.geometry import Grid
from r2n2.transform import warp
grid = Grid((64, 64))
for bad in (float("nan"), float("inf"), -float("inf")):
    displacement = torch.full((4, 2, 64, 64), bad)
    displacement[:, :, :32] = 0.01
    displacement.requires_grad_()
    image = torch.rand(4, 3, 64, 64, requires_grad=True)
    warped, valid = warp(image, displacement, grid)
    assert not valid[:, :, 33:].any()
    warped.sum().backward()
    assert displacement.grad.isfinite().all() and image.grad.isfinite().all()
    assert abs(float(image.grad.double().sum()) - image.numel()) < 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
