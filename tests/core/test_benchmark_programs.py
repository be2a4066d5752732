"""Other people's programs find a known motion: sign, order of axes, and pixel sizes that differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from benchmark_factory import GRID, moved, scene, smooth_motion

from r2n2.benchmark import programs
from r2n2.benchmark.programs import Image, Program

MARGIN = 12
# Made an error while a module of itk is being loaded, SWIG's warning would crash the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")


def pair(shape: tuple[int, int], motion: np.ndarray) -> tuple[Image, Image]:
    moving = scene(shape)
    every = np.ones(shape, bool)
    return programs.z_scored(moved(moving, motion), every), programs.z_scored(moving, every)


def error_px(program: Program, motion: np.ndarray) -> np.ndarray:
    """Distance of what is found and what is true at every pixel away from the edge."""
    found = program(*pair(motion.shape[1:], motion))
    assert found.vectors_px.dtype == np.float32
    margin = min(MARGIN, min(motion.shape[1:]) // 4)
    inside = (slice(None), slice(margin, -margin), slice(margin, -margin))
    return np.hypot(*(found.vectors_px - motion)[inside])


def installed(make: Callable[..., Program], module: str) -> object:
    reason = "not installed: pip install itk-elastix antspyx"

    def start(*arguments: object) -> Program:
        pytest.importorskip(module, reason=reason)
        return make(*arguments)

    return start


MAKERS = {
    "demons": programs.demons,
    "tvl1": programs.tvl1,
    "elastix": installed(partial(programs.elastix, control_px=16), "itk"),
    "ants": installed(programs.ants, "ants"),
    "ants fine": installed(partial(programs.ants, iterations=(100, 70, 50, 20)), "ants"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_smooth_motion_is_found_where_pixels_are_not_square(name: str) -> None:
    motion = smooth_motion()
    errors = error_px(MAKERS[name](GRID.spacing, 1), motion)
    assert errors.mean() < 0.3, f"{np.hypot(*motion).mean():.2f} px to find, missed by {errors.mean():.2f}"
    assert np.quantile(errors, 0.95) < 0.6


@pytest.mark.parametrize("name", ["demons", "tvl1"])
@pytest.mark.parametrize("shape", [(41, 58), (58, 41), (17, 26)])
def test_small_frames_are_registered_too(name: str, shape: tuple[int, int]) -> None:
    motion = np.stack([np.full(shape, 1.5), np.full(shape, -0.75)])
    assert error_px(MAKERS[name]((0.5, 2.0), 1), motion).mean() < 0.3


@pytest.mark.parametrize("name", ["demons", "tvl1"])
def test_brightness_makes_no_difference(name: str) -> None:
    every = np.ones(GRID.shape, bool)
    images = [image[:60, :80].astype(np.float64) for image in pair(GRID.shape, smooth_motion())]
    program = MAKERS[name]((1.0, 1.0), 1)
    found = [program(*(programs.z_scored(a * image + b, every[:60, :80]) for image in images)) for a, b in ((1, 0), (7, -3000))]
    assert np.abs(found[0].vectors_px - found[1].vectors_px).max() < 0.05


def test_z_scores_are_of_the_valid_pixels() -> None:
    image, valid = np.array([[1.0, 3.0, 900.0]]), np.array([[True, True, False]])
    assert programs.z_scored(image, valid).tolist() == [[-1.0, 1.0, 0.0]]
    assert programs.z_scored(np.full((2, 3), 5.0), np.ones((2, 3), bool)).tolist() == [[0.0] * 3] * 2


def test_elastix_says_how_many_numbers_it_found() -> None:
    pytest.importorskip("itk", reason="not installed: pip install itk-elastix")
    images = pair((64, 80), np.zeros((2, 64, 80)))
    coarse, fine = (programs.elastix((1.0, 1.0), 1, control_px=px)(*images) for px in (16, 8))
    # Each axis: as many spans as the frame needs, and three more control points than spans.
    assert coarse.numbers == 2 * (4 + 3) * (5 + 3)
    assert fine.numbers == 2 * (8 + 3) * (10 + 3)
