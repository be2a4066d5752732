"""Losses and regularisers: known answers, valid pixels only, sampling independent, right gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.similarity import (
    correlation,
    diffusion,
    local_correlation_loss,
    mean_squared_error,
    mutual_information_loss,
    structural_similarity_loss,
    total_variation,
)
from r2n2.transform import normalised_lattice, warp

GRID = Grid((31, 47), (1.7, 0.9))


def _images(shape: tuple[int, ...] = (13, 17), batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fixed, moving = torch.rand(2, batch, 1, *shape, generator=generator, dtype=torch.float64)
    return fixed, moving, torch.rand(batch, 1, *shape, generator=generator) > 0.3


def test_mean_squared_error_by_hand() -> None:
    fixed = torch.tensor([[[[1.0, 2.0, 5.0]]], [[[0.0, 0.0, 0.0]]]])
    warped = torch.tensor([[[[2.0, 4.0, 99.0]]], [[[1.0, 1.0, 1.0]]]])
    valid = torch.tensor([[[[True, True, False]]], [[[False, False, False]]]])
    assert mean_squared_error(fixed, warped, valid).tolist() == [2.5, 0.0]


def test_correlation_by_hand_ignores_scale_offset_and_what_is_not_valid() -> None:
    fixed, _, valid = _images()
    warped = torch.where(valid, -3 * fixed + 7, torch.full_like(fixed, 1e3))
    torch.testing.assert_close(correlation(fixed, warped, valid), torch.tensor([-1.0, -1.0], dtype=torch.float64))
    fixed, moving, valid = _images(batch=1)
    expected = torch.corrcoef(torch.stack((fixed[valid], moving[valid])))[0, 1]
    torch.testing.assert_close(correlation(fixed, moving, valid)[0], expected)


def test_correlation_of_a_constant_is_not_a_number() -> None:
    fixed, _, valid = _images()
    assert correlation(fixed, torch.full_like(fixed, 4), valid).isnan().all()
    assert correlation(fixed, fixed, torch.zeros_like(valid)).isnan().all()


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e7, 1e18])
def test_correlation_holds_for_faint_and_for_huge_intensities(scale: float) -> None:
    # The product of both sums of squares leaves float32 long before the images do.
    fixed, moving, valid = _images((64, 64))
    expected = correlation(fixed, moving, valid)
    got = correlation((fixed * scale).float(), (moving * scale).float(), valid)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)


def test_a_constant_image_moved_out_of_view_is_not_counted_as_agreement() -> None:
    # Fixed and moving are both dark on the left; beyond the edge the border shows dark again, which is no measurement.
    fixed = torch.zeros(1, 1, *GRID.shape, dtype=torch.float64)
    fixed[..., 30:] = 1
    shifted = torch.zeros(1, 2, *GRID.shape, dtype=torch.float64)
    shifted[:, 1] = -40 * 0.9 / GRID.unit_mm
    warped, valid = warp(fixed, shifted, GRID)
    assert torch.equal(warped[..., :40], torch.zeros_like(warped[..., :40]))
    assert int(valid.sum()) == 31 * 7
    # All that is left are 7 columns of fixed 1 against warped 0.
    assert mean_squared_error(fixed, warped, valid).tolist() == [1.0]


def test_local_correlation_is_blind_to_a_local_change_of_contrast() -> None:
    fixed, _, _ = _images((31, 47))
    everywhere = torch.ones_like(fixed, dtype=torch.bool)
    gain = torch.linspace(0.5, 4, 47, dtype=torch.float64)
    perfect = local_correlation_loss(fixed, fixed, everywhere, floor=1e-9)
    torch.testing.assert_close(perfect, torch.zeros_like(perfect), rtol=0, atol=1e-6)
    assert (local_correlation_loss(fixed, -gain * fixed + 3, everywhere, floor=1e-9) < 0.08).all()
    _, other, _ = _images((31, 47), seed=1)
    assert (local_correlation_loss(fixed, other, everywhere) > 0.9).all()


def test_local_correlation_by_hand_in_one_window() -> None:
    fixed, moving, _ = _images((3, 3), batch=1)
    only_middle = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    only_middle[0, 0, 1, 1] = True
    everywhere = torch.ones_like(only_middle)
    a, b = fixed.flatten() - fixed.mean(), moving.flatten() - moving.mean()
    squared = (a * b).mean() ** 2 / ((a.square().mean() + 0.01) * (b.square().mean() + 0.01))
    # Every window of side 5 around the nine pixels is cut to the same nine pixels.
    torch.testing.assert_close(local_correlation_loss(fixed, moving, everywhere, window=5)[0], 1 - squared)
    # A window with a single valid pixel has no variance and so no correlation.
    assert local_correlation_loss(fixed, moving, only_middle, window=3).tolist() == [1.0]


@pytest.mark.parametrize("window", [1, 4])
def test_an_even_or_too_small_window_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="odd and at least 3"):
        local_correlation_loss(*_images(), window=window)


@pytest.mark.parametrize("grid", [GRID, Grid((5, 7, 6), (3.0, 1.0, 0.5))])
def test_roughness_of_a_linear_field_in_closed_form(grid: Grid) -> None:
    matrix = torch.rand(grid.ndim, grid.ndim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    field = torch.einsum("ij,j...->i...", matrix, normalised_lattice(grid, matrix))[None]
    squared = float(matrix.square().sum())
    assert float(diffusion(field, grid)) == pytest.approx(squared)
    assert float(total_variation(field, grid)) == pytest.approx(math.sqrt(squared))


def test_a_constant_field_is_not_rough() -> None:
    constant = torch.full((2, 2, *GRID.shape), 0.3, dtype=torch.float64, requires_grad=True)
    assert diffusion(constant, GRID).tolist() == [0.0, 0.0]
    variation = total_variation(constant, GRID)
    assert variation.tolist() == pytest.approx([1e-6, 1e-6])
    variation.sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize("loss", [diffusion, total_variation])
def test_the_same_physical_field_is_as_smooth_on_any_lattice(loss: Callable[[Tensor, Grid], Tensor]) -> None:
    def field(grid: Grid) -> Tensor:
        y, x = normalised_lattice(grid, torch.zeros(0).double())
        return torch.stack((torch.sin(3 * x) * y, torch.cos(2 * y + x)))[None]

    values = [float(loss(field(g), g)) for g in (GRID.resized((401, 401)), GRID.resized((203, 307)), GRID.resized((150, 611)))]
    assert values == pytest.approx([values[0]] * 3, rel=0.01)
    # In another unit of length it is the same field.
    metres = Grid(GRID.shape, tuple(s / 1000 for s in GRID.spacing))
    assert float(loss(field(metres), metres)) == pytest.approx(float(loss(field(GRID), GRID)))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradcheck_of_the_similarities(shape: tuple[int, ...]) -> None:
    fixed, moving, valid = _images(shape)
    for loss in (mean_squared_error, correlation, lambda f, m, v: local_correlation_loss(f, m, v, window=3)):
        assert torch.autograd.gradcheck(
            lambda f, m, loss=loss: loss(f, m, valid), (fixed.clone().requires_grad_(True), moving.clone().requires_grad_(True))
        )


@pytest.mark.parametrize("grid", [Grid((4, 5), (1.7, 0.9)), Grid((3, 4, 3), (3.0, 1.0, 0.5))])
def test_gradcheck_of_the_regularisers(grid: Grid) -> None:
    field = torch.rand(2, grid.ndim, *grid.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for loss in (diffusion, total_variation):
        assert torch.autograd.gradcheck(lambda f, loss=loss: loss(f, grid), (field.clone().requires_grad_(True),))


def test_mutual_information_of_independent_equal_and_remapped_images() -> None:
    generator = torch.Generator().manual_seed(2)
    image, other = torch.rand(2, 1, 1, 97, 89, generator=generator, dtype=torch.float64)
    image, other = image[None], other[None]
    valid = torch.ones_like(image, dtype=torch.bool)
    # Evenly spread intensities in n bins would know log n of one another; a cubic spline spreads each over four.
    own = float(mutual_information_loss(image, image, valid))
    assert -math.log(32) < own < -math.log(32) + 1.3
    assert abs(float(mutual_information_loss(image, other, valid))) < 0.1
    assert float(mutual_information_loss(image, 5 - 2 * image, valid)) == pytest.approx(own)
    spoilt = torch.where(image > 0.9, torch.full_like(image, 50.0), image)
    assert float(mutual_information_loss(image, spoilt, image <= 0.9)) == pytest.approx(
        float(mutual_information_loss(image, image, image <= 0.9))
    )


def test_structural_similarity_is_one_for_equal_images_and_as_scikit_image_has_it() -> None:
    from skimage.metrics import structural_similarity

    fixed, warped, _ = _images((31, 37), batch=1)
    valid = torch.ones_like(fixed, dtype=torch.bool)
    assert float(structural_similarity_loss(fixed, fixed, valid)) == pytest.approx(0, abs=1e-9)
    ours = 1 - structural_similarity_loss(fixed, warped, valid, dynamic_range=1.0)
    _, theirs = structural_similarity(
        fixed[0, 0].numpy(), warped[0, 0].numpy(), data_range=1.0, use_sample_covariance=False, full=True
    )
    # At the edge they repeat pixels and we count fewer.
    assert float(ours) == pytest.approx(float(theirs.mean()), abs=0.01)
    with pytest.raises(ValueError, match="odd and at least 3 pixels, got 4"):
        structural_similarity_loss(fixed, warped, valid, window=4)


@pytest.mark.parametrize("loss", [mutual_information_loss, structural_similarity_loss])
@pytest.mark.parametrize("shape", [(9, 11), (8, 7, 9)])
def test_new_losses_have_the_right_gradient(loss: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    fixed, warped, valid = _images(shape, batch=1)
    # The range of the bins follows the brightest and darkest pixel, which therefore must not move.
    low, high = (
        getattr(torch.where(valid, warped, fill).flatten(1), f"arg{name}")(1) for name, fill in (("min", 2.0), ("max", -1.0))
    )
    free = torch.ones_like(warped).flatten(1)
    free[0, low] = free[0, high] = 0
    free = free.view_as(warped)

    def of(change: Tensor) -> Tensor:
        return loss(fixed, warped + change * free, valid)

    assert torch.autograd.gradcheck(of, torch.zeros_like(warped, requires_grad=True), fast_mode=True)
