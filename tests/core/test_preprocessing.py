"""Frames on their way to a method: types, invalid pixels, z-scores, blur, and the square around an anisotropic frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.preprocessing import blur, blur_measured, luminance, normalise, to_square
from r2n2.transform import normalised_lattice

GRID = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i2", ">f4"])
def test_every_real_type_becomes_the_same_float32(dtype: str) -> None:
    values = np.array([[[0, 1, 1], [1, 0, 1]]])
    image, valid = luminance(values.astype(dtype))
    assert image.dtype == torch.float32
    assert image.tolist() == values.tolist()
    assert valid.all()


def test_neighbours_above_two_to_the_24_stay_apart() -> None:
    image, _ = luminance(np.array([[[16777216, 16777217, 16777218]]], dtype=np.int32))
    assert torch.diff(image[0, 0]).tolist() == [1.0, 1.0]
    # Large but within 24 bits nothing is taken away.
    image, _ = luminance(np.array([[[16777214, 16777215]]], dtype=np.int32))
    assert image.tolist() == [[[16777214.0, 16777215.0]]]


def test_colour_is_weighed_alpha_ignored_and_other_channels_averaged() -> None:
    rgb = np.stack([np.full((2, 3), v, np.uint8) for v in (100, 50, 200)])
    expected = 0.2126 * 100 + 0.7152 * 50 + 0.0722 * 200
    for frame in (rgb, np.concatenate([rgb, np.zeros((1, 2, 3), np.uint8)])):
        image, valid = luminance(frame)
        assert image.shape == valid.shape == (1, 2, 3)
        np.testing.assert_allclose(image.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(luminance(rgb[:2])[0].numpy(), 75)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_invalid_pixels_are_marked_and_given_the_mean_of_the_others(bad: float) -> None:
    frame = np.full((1, 4, 5), 3.0)
    frame[0, 0] = 7
    frame[0, 2, 1] = frame[0, 0, 0] = bad
    image, valid = luminance(frame)
    assert (~valid).nonzero().tolist() == [[0, 0, 0], [0, 2, 1]]
    assert image.isfinite().all()
    assert float(image[0, 2, 1]) == pytest.approx((4 * 7 + 14 * 3) / 18)


def test_too_many_invalid_pixels_are_refused_with_their_share() -> None:
    frame = np.zeros((1, 10, 10))
    frame.reshape(-1)[:20] = np.nan
    assert luminance(frame)[1].sum() == 80
    frame.reshape(-1)[:60] = np.nan
    with pytest.raises(ValueError, match=r"60\.0 % of the pixels are NaN or infinite, at most 20 % can be masked"):
        luminance(frame)
    with pytest.raises(ValueError, match=r"100\.0 %"):
        luminance(np.full((1, 3, 3), np.nan))


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_values_beyond_float32_keep_their_contrast(scale: float) -> None:
    image, valid = luminance(scale * np.arange(12.0).reshape(1, 3, 4))
    assert valid.all()
    values = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(values.numpy().ravel(), np.arange(12) / 11, atol=1e-6)


def test_complex_frames_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"give its magnitude, numpy\.abs"):
        luminance(np.zeros((1, 3, 3), np.complex64))


def test_blurring_an_impulse_gives_the_gaussian() -> None:
    image = torch.zeros(1, 1, 31, 47, dtype=torch.float64)
    image[0, 0, 15, 20] = 1
    smooth = blur(image, (2.0, 3.5))[0, 0]
    assert float(smooth.sum()) == pytest.approx(1)
    y, x = torch.meshgrid(torch.arange(31).double() - 15, torch.arange(47).double() - 20, indexing="ij")
    expected = torch.exp(-0.5 * ((y / 2) ** 2 + (x / 3.5) ** 2)) / (2 * math.pi * 2 * 3.5)
    torch.testing.assert_close(smooth, expected, rtol=0, atol=2e-4)
    assert float((smooth * y**2).sum()) == pytest.approx(4, rel=0.05)
    assert float((smooth * x**2).sum()) == pytest.approx(12.25, rel=0.05)


def test_blur_keeps_constants_ramps_inside_and_an_axis_of_no_width() -> None:
    ramp = torch.arange(47.0).expand(1, 1, 31, 47)
    torch.testing.assert_close(blur(ramp, (3.0, 1.0))[..., 4:-4], ramp[..., 4:-4])
    noise = torch.rand(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blur(noise, (0.0, 0.0, 0.0)), noise)
    only_y = blur(noise, (0.0, 1.5, 0.0))
    torch.testing.assert_close(
        only_y.sum((2, 4)), blur(noise.sum((2, 4), keepdim=True), (0.0, 1.5, 0.0))[:, :, 0, :, 0], rtol=1e-4, atol=1e-4
    )


def test_a_pixel_that_is_not_measured_leaks_into_no_other() -> None:
    images = torch.full((1, 1, 31, 47), 3.0)
    valid = torch.ones_like(images, dtype=torch.bool)
    valid[0, 0, 10:14, 20:26] = False
    spoilt = torch.where(valid, images, torch.full_like(images, 1e6))
    torch.testing.assert_close(blur_measured(spoilt, valid, (2.0, 3.5)), images)
    square = to_square(spoilt, valid, GRID, 32)
    torch.testing.assert_close(square.images[square.valid], torch.full_like(square.images[square.valid], 3.0))
    # Where all is measured it is the plain blur.
    noise = torch.rand(1, 1, 31, 47, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blur_measured(noise, torch.ones_like(valid), (2.0, 3.5)), blur(noise, (2.0, 3.5)))


def test_z_scores_count_valid_pixels_only_and_are_clamped() -> None:
    generator = torch.Generator().manual_seed(1)
    images = 40 * torch.rand(2, 1, 31, 47, generator=generator, dtype=torch.float64) + 100
    valid = torch.rand(2, 1, 31, 47, generator=generator) > 0.4
    images = torch.where(valid, images, torch.full_like(images, 1e6))
    scored = normalise(images, valid)
    for k in range(2):
        inside = scored[k][valid[k]]
        assert float(inside.mean()) == pytest.approx(0, abs=1e-9)
        assert float(inside.std(correction=0)) == pytest.approx(1)
    assert scored.max() == 2
    assert float(normalise(images, valid, clamp=0.5).abs().max()) == 0.5


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-30, 1e7, 3e-7])
def test_a_constant_image_becomes_zero(value: float) -> None:
    images = torch.full((1, 1, 31, 47), value)
    assert not normalise(images, torch.ones_like(images, dtype=torch.bool)).any()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_z_scores_do_not_depend_on_the_unit_of_the_image(scale: float) -> None:
    images = torch.rand(1, 1, 31, 47, generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones_like(images, dtype=torch.bool)
    torch.testing.assert_close(normalise(scale * images, everywhere), normalise(images, everywhere), rtol=1e-4, atol=1e-4)


def _linear(grid: Grid) -> Tensor:
    positions = normalised_lattice(grid, torch.zeros(0))
    world = grid.convert_points(positions.movedim(0, -1), Space.NORMALISED, Space.WORLD)
    return (0.3 * world[..., 0] - 1.1 * world[..., 1] + 4)[None, None]


@pytest.mark.parametrize("size", [33, 64, 97])
def test_the_square_shows_the_frame_in_its_middle_true_to_scale(size: int) -> None:
    everywhere = torch.ones(1, 1, 31, 47, dtype=torch.bool)
    square = to_square(_linear(GRID), everywhere, GRID, size)
    assert square.images.shape == square.valid.shape == (1, 1, size, size)
    assert square.grid.same_space(GRID)
    # 51 mm along y fill the square, 41.4 mm along x lie in its middle.
    assert square.valid.any(3).all()
    x = torch.linspace(-1, 1, size)
    assert torch.equal(square.valid[0, 0, size // 2], x.abs() <= 41.4 / 51 + 1e-4)
    inner = square.valid[0, 0]
    border = max(2, round(2 * size / 64))
    inner[:, : int(size * 0.14)] = inner[:, -int(size * 0.14) :] = False
    inner[:border] = inner[-border:] = False
    # Low-pass filtering repeats the edge, so the ramp is exact away from it.
    torch.testing.assert_close(square.images[0, 0][inner], _linear(square.grid)[0, 0][inner], rtol=0, atol=1e-3)


def test_a_coarse_square_shows_no_false_structure() -> None:
    # A checkerboard of single pixels is grey from afar; without the low-pass filter it would beat against the square's lattice.
    board = ((torch.arange(128)[:, None] + torch.arange(128)) % 2).float()[None, None]
    square = to_square(board, torch.ones_like(board, dtype=torch.bool), Grid((128, 128)), 33)
    assert float((square.images[..., 3:-3, 3:-3] - 0.5).abs().max()) < 0.03


def test_pixels_that_are_not_measured_are_not_valid_on_the_square() -> None:
    valid = torch.ones(1, 1, 31, 47, dtype=torch.bool)
    valid[0, 0, 10:14, 20:26] = False
    square = to_square(torch.zeros(1, 1, 31, 47), valid, GRID, 64)
    whole = to_square(torch.zeros(1, 1, 31, 47), torch.ones_like(valid), GRID, 64)
    hole = whole.valid & ~square.valid
    places = GRID.convert_points(
        square.grid.convert_points(hole[0, 0].nonzero().float(), Space.INDEX, Space.WORLD), Space.WORLD, Space.INDEX
    )
    low, high = places.amin(0), places.amax(0)
    # Everything that a missing pixel contributes to, and nothing beyond.
    assert bool((low > torch.tensor([9.0, 19.0])).all())
    assert bool((high < torch.tensor([14.0, 26.0])).all())
    expected = 5 * 1.7 * 7 * 0.9 / float(np.prod(square.grid.spacing))
    assert int(hole.sum()) == pytest.approx(expected, rel=0.25)


def test_a_volume_becomes_a_cube() -> None:
    grid = Grid((6, 9, 7), (3.0, 1.5, 0.8))
    square = to_square(torch.rand(2, 1, 6, 9, 7), torch.ones(2, 1, 6, 9, 7, dtype=torch.bool), grid, 16)
    assert square.images.shape == (2, 1, 16, 16, 16)
    assert bool(square.valid[:, :, :, 8, 8].all())
    # 4.8 of 15 mm along x.
    assert int(square.valid[0, 0, 8, 8].sum()) == int((torch.linspace(-1, 1, 16).abs() <= 4.8 / 15).sum())


def test_nothing_is_changed_in_place() -> None:
    frame: Any = np.arange(15.0).reshape(1, 3, 5)
    image, valid = luminance(frame)
    before = image.clone()
    normalise(blur(image[None], (1.0, 1.0)), valid[None])
    assert torch.equal(image, before)
    np.testing.assert_array_equal(frame, np.arange(15.0).reshape(1, 3, 5))
