"""The engine's motions never fold and are what they are called; its settings refuse nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2n2.config import Config
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.simulation.engine_config import AppearanceConfig, EngineConfig, MotionConfig
from r2n2.simulation.lattice import random_field, spline_matrix
from r2n2.simulation.random_motion import KINDS, central_determinant, draw_motion, without_folding
from r2n2.transform import jacobian_determinant


def only(kind: str, **others: Any) -> MotionConfig:
    return MotionConfig(**{name: float(name == kind) for name in KINDS}, none_share=0, factor=(1.0, 1.0), **others)


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), sums=st.booleans())
def test_no_motion_folds(kind: str, seed: int, sums: bool) -> None:
    config = only(kind, sum_share=float(sums), gaussian_amplitude=0.5, smooth_amplitude=0.3)
    displacement, name = draw_motion(np.random.default_rng(seed), 48, config)
    assert name == (f"{kind}+{kind}" if sums else kind)
    assert displacement.shape == (2, 48, 48)
    assert displacement.abs().max() > 0
    determinants = jacobian_determinant(displacement[None].double(), Grid((48, 48)))
    assert determinants.min() > 0.24


def test_folding_is_undone_no_more_than_needed() -> None:
    axis = torch.linspace(-1, 1, 31)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    # Squeezed along y alone: the determinant is 1 - 2 s.
    mended = without_folding(torch.stack((-2 * y, 0 * x)), 0.25)
    torch.testing.assert_close(mended[0], -0.75 * y, atol=2e-3, rtol=0)
    # Both axes: (1 - 2 s)^2 = 0.25.
    mended = without_folding(torch.stack((-2 * y, -2 * x)), 0.25)
    torch.testing.assert_close(mended[1], -0.5 * x, atol=2e-3, rtol=0)
    # A shear keeps areas, however strong.
    shear = torch.stack((3 * x, 0 * y))
    assert torch.equal(without_folding(shear, 0.25), shear)


def test_central_determinant_of_a_linear_map() -> None:
    axis = torch.linspace(-1, 1, 31)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    displacement = torch.stack((0.2 * y + 0.1 * x, 0.3 * y - 0.1 * x))
    torch.testing.assert_close(central_determinant(displacement), torch.full((31, 31), 1.2 * 0.9 - 0.3 * 0.1), atol=1e-4, rtol=0)


def test_breathing_is_mostly_along_y() -> None:
    config = only("breathing", sum_share=0)
    ratios = []
    for seed in range(40):
        along_y, along_x = draw_motion(np.random.default_rng(seed), 32, config)[0].abs().amax(dim=(1, 2))
        ratios.append(float(along_y / along_x))
    assert np.median(ratios) > 2


def test_a_beating_heart_leaves_the_rest_alone() -> None:
    for seed in range(20):
        displacement, _ = draw_motion(np.random.default_rng(seed), 64, only("cardiac", sum_share=0))
        length = displacement.norm(dim=0)
        assert length.median() < 0.35 * length.max()


def test_a_share_does_not_move() -> None:
    rng = np.random.default_rng(1)
    names = [draw_motion(rng, 16, MotionConfig(none_share=0.3, sum_share=0.5))[1] for _ in range(300)]
    assert 0.22 < names.count("none") / 300 < 0.38
    assert 0.27 < sum("+" in name for name in names) / 300 < 0.43


def test_spline_weights_sum_to_one_and_reproduce_a_line() -> None:
    matrix = spline_matrix(23, 7)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(23))
    torch.testing.assert_close(matrix @ torch.arange(7.0), torch.linspace(1, 5, 23), atol=1e-5, rtol=0)


def test_random_field_has_unit_deviation() -> None:
    field = random_field(np.random.default_rng(1), 200, 60, 3)
    assert abs(float(field.std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        (EngineConfig, {"real_share": 1.5}, "real_share"),
        (EngineConfig, {"zoom": (2.0, 1.0)}, "zoom must be"),
        (EngineConfig, {"zoomm": (1.0, 2.0)}, "did you mean 'zoom'"),
        (EngineConfig, {"motion": {"gaussian_sigma": (0.0, 0.2)}}, "gaussian_sigma must be"),
        (MotionConfig, {"gaussians": -1.0}, "gaussians"),
        (MotionConfig, dict.fromkeys(KINDS, 0.0), "at least one kind"),
        (MotionConfig, {"gaussian_count": (0, 3)}, "gaussian_count"),
        (MotionConfig, {"smooth_controls": (3, 5)}, "smooth_controls"),
        (MotionConfig, {"smallest_jacobian": 0.0}, "smallest_jacobian"),
        (AppearanceConfig, {"noise": float("nan")}, "noise"),
        (AppearanceConfig, {"noise_strength": (0.1, 0.01)}, "noise_strength must be"),
        (AppearanceConfig, {"blur_px": (0.3, 2.0)}, "blur_px"),
    ],
)
def test_wrong_settings_are_refused(model: type[Config], values: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        model.parse(values)


def test_settings_survive_a_round_trip() -> None:
    config = EngineConfig(real_share=0.5, motion=MotionConfig(sum_share=0.4))
    assert EngineConfig.parse(config.model_dump(mode="json")) == config
