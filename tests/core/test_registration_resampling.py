"""The registered frame: exact whole-pixel shifts, the pixel type kept and clipped, frames that keep their place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from r2n2.geometry import Grid, Space
from r2n2.registration import FrameResult, FrameStatus, sample_pixels, warp_frame, warp_pixels
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField, normalised_lattice

GRID = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))


def _shift(shift_px: tuple[float, ...], grid: Grid = GRID) -> DisplacementField:
    vectors = torch.tensor(shift_px).view(-1, *[1] * grid.ndim).expand(grid.ndim, *grid.shape)
    return DisplacementField(vectors, grid, Space.INDEX)


def _result(status: FrameStatus, shift_px: tuple[float, float] = (2.0, -5.0)) -> FrameResult:
    return FrameResult(1, _shift(shift_px), status, "", 0.5, 0.9, 0.0, 1.0, 0.0, 0.0)


def _noise(dtype: str, channels: int = 1) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return generator.random((channels, 31, 47)) > 0.5
    if kind.kind == "f":
        return generator.normal(size=(channels, 31, 47)).astype(kind)
    limits = np.iinfo(kind)
    low, high = max(limits.min, -(2**50)), min(limits.max, 2**50)
    return generator.integers(low, high, (channels, 31, 47), endpoint=True).astype(kind)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("nearest", [False, True])
def test_a_whole_pixel_shift_moves_every_value_of_every_type_exactly(dtype: str, nearest: bool) -> None:
    image = _noise(dtype, channels=2)
    warped = warp_pixels(image, _shift((2.0, -5.0)), nearest=nearest)
    assert warped.dtype == image.dtype
    expected = image[:, 2:, :-5]
    if dtype in ("u1", "i1", "u2", "i2", "?") or nearest:
        np.testing.assert_array_equal(warped[:, :-2, 5:], expected)
    else:
        # Positions are known to about 1e-5 of a pixel, so a value is blended with its neighbours by that much.
        spread = float(image.astype(np.float64).max() - image.astype(np.float64).min())
        assert float(np.abs(warped[:, :-2, 5:].astype(np.float64) - expected.astype(np.float64)).max()) < 1e-3 * spread


def test_no_displacement_changes_no_value_of_any_size() -> None:
    large = np.full((1, 31, 47), 2**31 - 1, np.int32) - np.arange(47, dtype=np.int32)
    np.testing.assert_array_equal(warp_pixels(large, _shift((0.0, 0.0))), large)
    labels = np.full((1, 31, 47), 2**53 - 1, np.int64) - np.arange(47)
    np.testing.assert_array_equal(warp_pixels(labels, _shift((0.0, 0.0)), nearest=True), labels)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", "i8", "u8"])
def test_the_whole_range_of_a_type_is_kept_and_never_wraps(dtype: str) -> None:
    limits = np.iinfo(dtype)
    image = np.full((1, 31, 47), limits.max, dtype)
    image[..., ::2] = limits.min
    for shift in ((0.0, 0.0), (0.3, 0.4)):
        warped = warp_pixels(image, _shift(shift))
        assert warped.dtype == image.dtype
        # Every value is between its two neighbours: halfway at 0.4 of a pixel, and no jump to the other end.
        low, high = float(limits.min), float(limits.max)
        share = (warped.astype(np.float64) - low) / (high - low)
        expected = (image.astype(np.float64) - low) / (high - low)
        ahead = np.concatenate([expected[..., 1:], expected[..., -1:]], -1)
        fraction = shift[1]
        np.testing.assert_allclose(share, (1 - fraction) * expected + fraction * ahead, atol=0.01)


def test_values_between_are_rounded_not_cut() -> None:
    image = np.zeros((1, 31, 47), np.uint8)
    image[..., 10:] = 3
    warped = warp_pixels(image, _shift((0.0, 0.6)))
    assert warped[0, 15, 8:12].tolist() == [0, 2, 3, 3]
    mask = image > 0
    assert warp_pixels(mask, _shift((0.0, 0.6)))[0, 15, 8:12].tolist() == [False, True, True, True]


def test_label_maps_take_the_nearest_label_only() -> None:
    labels = np.random.default_rng(1).choice(np.array([0, 7, 70000], np.uint32), (1, 31, 47))
    warped = warp_pixels(labels, _shift((0.4, 1.3)), nearest=True)
    np.testing.assert_array_equal(warped[:, :, :-2], labels[:, :, 1:-1])
    assert set(np.unique(warped)) <= {0, 7, 70000}


def test_a_volume_moves_along_each_axis() -> None:
    grid = Grid((5, 8, 6), (3.0, 1.0, 0.5))
    image = np.random.default_rng(2).integers(0, 255, (1, 5, 8, 6), dtype=np.uint8)
    warped = warp_pixels(image, _shift((1.0, -2.0, 3.0), grid))
    np.testing.assert_array_equal(warped[:, :-1, 2:, :-3], image[:, 1:, :-2, 3:])


@pytest.mark.parametrize("status", [FrameStatus.WORSE, FrameStatus.CONSTANT, FrameStatus.FAILED, FrameStatus.REFERENCE])
def test_a_frame_that_keeps_its_place_is_returned_bit_for_bit(status: FrameStatus) -> None:
    frames = np.random.default_rng(0).normal(size=(3, 2, 31, 47))
    frames[1, 0, 3, 4] = math.nan
    warped = warp_frame(ImageSeries(frames, GRID), _result(status))
    np.testing.assert_array_equal(warped, frames[1])


@pytest.mark.parametrize("status", [FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.FOLDED, FrameStatus.DOUBTFUL])
def test_a_registered_frame_is_resampled_once_in_all_channels(status: FrameStatus) -> None:
    frames = np.random.default_rng(0).integers(0, 4000, (3, 3, 31, 47), dtype=np.int16)
    warped = warp_frame(ImageSeries(frames, GRID), _result(status))
    assert warped.dtype == np.int16
    np.testing.assert_array_equal(warped[:, :-2, 5:], frames[1][:, 2:, :-5])
    # Beyond the frame its nearest edge pixel is shown.
    np.testing.assert_array_equal(warped[:, :-2, 0], frames[1][:, 2:, 0])


@pytest.mark.parametrize("status", FrameStatus)
def test_only_a_transform_to_be_used_moves_a_frame(status: FrameStatus) -> None:
    frames = _noise("i2", channels=2)[:, None]
    warped = warp_frame(ImageSeries(frames, GRID), _result(status))
    moved = status in (FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.FOLDED, FrameStatus.DOUBTFUL, FrameStatus.EDITED)
    np.testing.assert_array_equal(warped[:, :-2, 5:], frames[1, :, 2:, :-5] if moved else frames[1, :, :-2, 5:])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, 0.4), (-0.5, 1.5), (2.2, -3.7)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_pixel_that_is_not_finite_stays_one_and_its_neighbours_keep_their_values(
    shift: tuple[float, float], bad: float
) -> None:
    image = np.full((2, 31, 47), 5.0, np.float32)
    image[1, 15, 20] = bad
    warped = warp_pixels(image, _shift(shift))
    where = np.argwhere(~np.isfinite(warped))
    assert len(where) <= 1 or shift == (-0.5, 1.5), "halfway between two pixels both may be the nearest"
    assert len(where) <= 4
    for channel, row, column in where:
        assert channel == 1
        assert abs(row + shift[0] - 15) <= 0.51
        assert abs(column + shift[1] - 20) <= 0.51
        assert warped[channel, row, column] == bad or math.isnan(bad)
    assert np.allclose(warped[np.isfinite(warped)], 5.0), "a value beside it is made of measured pixels alone"
    if shift != (-0.5, 1.5):
        assert len(where) == 1, "and it is not lost either"


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_a_part_of_an_image_is_sampled_as_the_whole_is(dtype: str) -> None:
    image, field = _noise(dtype, channels=2), _shift((0.3, -1.6)).to_space(Space.NORMALISED)
    places = normalised_lattice(GRID, field.vectors) + field.vectors
    part = (slice(None), slice(4, 9), slice(20, 21))
    found, expected = sample_pixels(image, places[part], GRID), warp_pixels(image, field)[part]
    assert found.dtype == expected.dtype
    # Of float64 the places here are of float32.
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype[0] == "f" else 0)
