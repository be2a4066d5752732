"""A hole of pixels that are not measured moves with its frame: every method recovers a known shift around it."""

from __future__ import annotations

import numpy as np
import pytest
import registration_factory as make
import torch

from r2n2.config import BSplineConfig, FitConfig, RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import luminance
from r2n2.registration import register_pair
from r2n2.registration.batch import LoadedFrame, assess
from r2n2.transform import DisplacementField, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((80, 96), (1.2, 1.2))
SHIFT_PX = (3.0, -5.0)
HOLES = {"moving": (slice(28, 50), slice(36, 62)), "fixed": (slice(24, 46), slice(42, 68))}
METHODS = {
    "r2n2": RegistrationConfig(device="cpu"),
    "r2n2 alone": RegistrationConfig(refine=False, device="cpu"),
    # Its robust measure would forgive a hole that is taken for an image.
    "fit": RegistrationConfig(method="fit", steps=12, fit=FitConfig(outlier=50.0), device="cpu"),
    "bspline": RegistrationConfig(
        method="bspline", bspline=BSplineConfig(control_points=12, iterations=60, learning_rate=1e-2), device="cpu"
    ),
}
# Mean and largest error, absolute: at most about one and a half times what is found.
LIMITS_PX = {"r2n2": (0.3, 2.5), "r2n2 alone": (0.6, 3.0), "fit": (0.25, 0.8), "bspline": (0.3, 0.8)}


@pytest.mark.parametrize("side", ["moving", "fixed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_known_shift_is_found_around_a_hole(method: str, side: str) -> None:
    vectors = torch.tensor(SHIFT_PX)[:, None, None].expand(2, *GRID.shape).clone()
    exact = DisplacementField(vectors, GRID, Space.INDEX).to_space(Space.NORMALISED)
    moving = make.texture(GRID.shape, 5)
    images = {"moving": moving.numpy().copy(), "fixed": warp_image(moving, exact).numpy().copy()}
    images[side][(0, *HOLES[side])] = np.nan
    *_, last = register_pair(images["fixed"], images["moving"], GRID, METHODS[method])
    error = make.error_px(last.transforms()[0], exact, margin=10)
    mean, largest = float(error.mean()), float(error.max())
    assert mean < LIMITS_PX[method][0], f"mean {mean:.2f}, largest {largest:.2f} px"
    assert largest < LIMITS_PX[method][1], f"mean {mean:.2f}, largest {largest:.2f} px"


@pytest.mark.parametrize("holed", ["reference", "moving", "both"])
def test_similarity_is_that_of_the_pixels_measured_in_both(holed: str) -> None:
    vectors = torch.tensor((4.0, 0.0))[:, None, None].expand(2, *GRID.shape).clone()
    exact = DisplacementField(vectors, GRID, Space.INDEX).to_space(Space.NORMALISED)
    moving = make.texture(GRID.shape, 5)
    images = {"reference": warp_image(moving, exact).numpy().copy(), "moving": moving.numpy().copy()}
    for side in images:
        if holed in (side, "both"):
            images[side][0, 20:50, 30:70] = np.nan
    frames = [LoadedFrame(k, *luminance(image)) for k, image in enumerate(images.values())]
    result = assess(frames[0], frames[1], exact, 0.0, 0.0)
    assert result.similarity_after == pytest.approx(1.0, abs=1e-5), "every pixel measured in both is the same"
    assert result.similarity_before < 0.9
