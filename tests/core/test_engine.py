"""The data engine: its stream is reproducible and its displacement is the exact pull-back of its images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.simulation import AppearanceConfig, EngineConfig, MotionConfig, PairEngine, RealPair, RealSlice, SimulatedBatch
from r2n2.transform import warp

PLAIN = AppearanceConfig(
    invert=0, gamma=0, mapping=0, texture=0, vessels=0, bias=0, density=0, drift=0, pulse=0, blur=0, noise=0
)  # fmt: skip
STRAIGHT = {"zoom": (1.0, 1.0), "rotation_deg": 0.0, "quarter_turns": 0.0, "flips": 0.0, "shift": 0.0}
ROWS, COLUMNS, SPACING = 121, 157, (2.0, 1.0)  # odd, not square, anisotropic: y reaches 120 mm, x 78 mm


def analytic(y: Tensor, x: Tensor) -> Tensor:
    """A smooth picture without any symmetry, from 0.1 to 0.9."""
    return 0.5 + 0.2 * torch.sin(3 * y + 0.4) + 0.2 * torch.cos(4 * x + y)


def source() -> RealSlice:
    # The longer physical side, y, runs over [-1, 1].
    y, x = torch.linspace(-1, 1, ROWS)[:, None], torch.linspace(-0.65, 0.65, COLUMNS)[None]
    return RealSlice(analytic(y, x)[None], None, SPACING, "a", "analytic")


def same(a: SimulatedBatch, b: SimulatedBatch, of_a: int, of_b: int) -> bool:
    names = ("fixed", "moving", "fixed_valid", "moving_valid", "displacement", "has_truth")
    return all(torch.equal(getattr(a, name)[of_a], getattr(b, name)[of_b]) for name in names) and a.kinds[of_a] == b.kinds[of_b]


def pair(displacement: Tensor | None) -> RealPair:
    generator = torch.Generator().manual_seed(3)
    fixed, moving = torch.rand(2, 1, 41, 33, generator=generator)
    return RealPair(fixed, moving, (1.0, 1.5), "b", "noise", displacement)


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    engine = PairEngine([source()], [pair(None)], EngineConfig(), seed=4)
    many = engine.batch(10, 12, 33)
    assert len(set(many.kinds)) > 3
    for k in (0, 5, 11):
        assert same(many, engine.batch(10 + k, 1, 33), k, 0)
    again = PairEngine([source()], [pair(None)], EngineConfig(), seed=4).batch(14, 2, 33)
    assert same(many, again, 4, 0)
    other = PairEngine([source()], [pair(None)], EngineConfig(), seed=5).batch(10, 12, 33)
    assert not any(same(many, other, k, k) for k in range(12))
    assert not any(same(many, many, j, k) for j in range(12) for k in range(j))


@pytest.mark.parametrize("kind", ["gaussians", "breathing", "cardiac", "smooth", "affine"])
def test_displacement_is_the_pull_back_in_array_order(kind: str) -> None:
    only = {name: float(name == kind) for name in ("gaussians", "breathing", "cardiac", "smooth", "affine")}
    motion = MotionConfig(**only, none_share=0, sum_share=0)
    config = EngineConfig(synthetic_share=0, motion=motion, appearance=PLAIN, **STRAIGHT)
    batch = PairEngine([source()], [], config, seed=1).batch(0, 6, 111)
    axis = torch.linspace(-1, 1, 111)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    y, x = y + batch.displacement[:, :1], x + batch.displacement[:, 1:]
    low, high = np.quantile(source().image.numpy(), (0.005, 0.995))
    expected = (analytic(y, x) - low) / (high - low)
    assert batch.fixed_valid.float().mean() > 0.4
    error = (batch.fixed - expected).abs()[batch.fixed_valid]
    assert error.max() < 0.01
    assert (batch.moving - batch.fixed).abs()[batch.fixed_valid].max() > 0.03
    assert set(batch.kinds) == {kind}
    assert bool(batch.has_truth.all())


def test_fixed_is_moving_warped_through_any_view() -> None:
    grid = Grid((97, 97))
    batch = PairEngine([source()], [], EngineConfig(synthetic_share=0, appearance=PLAIN), seed=2).batch(0, 24, 97)
    warped = warp(torch.cat((batch.moving, batch.moving_valid.float()), dim=1), batch.displacement, grid)
    known = batch.fixed_valid & warped.valid & (warped.image[:, 1:] > 0.99)
    assert known.float().mean() > 0.3
    assert (warped.image[:, :1] - batch.fixed).abs()[known].max() < 0.01


def test_texture_and_vessels_move_with_the_tissue() -> None:
    grey = RealSlice(torch.linspace(0.4, 0.6, 64 * 64).view(1, 64, 64), None, (1.0, 1.0), "a", "grey")
    painted = PLAIN.model_copy(update={"texture": 1.0, "vessels": 1.0})
    motion = MotionConfig(gaussians=0, breathing=0, cardiac=0, smooth=0, none_share=0, affine_strength=0.2)
    config = EngineConfig(synthetic_share=0, zoom=(1.6, 1.6), motion=motion, appearance=painted)
    batch = PairEngine([grey], [], config, seed=3).batch(0, 8, 97)
    warped = warp(batch.moving, batch.displacement, Grid((97, 97)))
    before = (batch.moving - batch.fixed).abs()[warped.valid].mean()
    after = (warped.image - batch.fixed).abs()[warped.valid].mean()
    assert after < 0.2 * before


def test_validity_marks_what_the_source_holds() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 41, 81, generator=generator)
    valid = torch.ones(1, 41, 81, dtype=torch.bool)
    valid[:, :, :30] = False
    config = EngineConfig(synthetic_share=0, motion=MotionConfig(none_share=1), appearance=PLAIN, **STRAIGHT)
    batch = PairEngine([RealSlice(image, valid, (1.0, 1.0), "a", "noise")], [], config, seed=1).batch(0, 1, 81)
    expected = torch.zeros(1, 1, 81, 81, dtype=torch.bool)
    expected[:, :, 20:61, 30:] = True
    assert torch.equal(batch.fixed_valid, expected)
    assert torch.equal(batch.moving_valid, expected)
    shown = batch.moving[0, 0, 20:61, 30:]
    # Intensity is stretched, nothing else: pixel for pixel.
    slope = (shown[10, 40] - shown[20, 7]) / (image[0, 10, 70] - image[0, 20, 37])
    torch.testing.assert_close(shown - shown[0, 0], slope * (image[0, :, 30:] - image[0, 0, 30]), atol=1e-4, rtol=0)
    assert batch.kinds == ("none",)
    assert not batch.displacement.any()


def test_displacement_of_a_known_pair_goes_through_the_view_exactly() -> None:
    # Everything is linear, so that linear interpolation is exact: two ramps see both components.
    y, x = torch.linspace(-1, 1, 61)[:, None], torch.linspace(-0.55, 0.55, 67)[None]
    vectors = torch.stack((0.05 * y - 0.12 * x + 0.02, 0.08 * y + 0.03 * x - 0.06))
    config = EngineConfig(real_share=1, appearance=PLAIN)
    for ramp in ((1.0, 0.0), (0.0, 1.0)):
        moving, fixed = (ramp[0] * (y + v[0]) + ramp[1] * (x + v[1]) for v in (torch.zeros_like(vectors), vectors))
        # y reaches 60 mm; x 33 mm.
        item = RealPair(fixed[None], moving[None], (2.0, 1.0), "a", "ramp", vectors)
        batch = PairEngine([], [item], config, seed=6).batch(0, 16, 65)
        warped = warp(torch.cat((batch.moving, batch.moving_valid.float()), dim=1), batch.displacement, Grid((65, 65)))
        known = batch.fixed_valid & warped.valid & (warped.image[:, 1:] > 0.999)
        assert known.float().mean() > 0.2
        assert (warped.image[:, :1] - batch.fixed).abs()[known].max() < 1e-4
        assert (batch.moving - batch.fixed).abs()[known].max() > 0.05
    assert bool(batch.has_truth.all())
    assert set(batch.kinds) == {"known pair"}


def test_a_pair_without_truth_says_so() -> None:
    batch = PairEngine([source()], [pair(None)], EngineConfig(real_share=0.5), seed=1).batch(0, 24, 24)
    real = [kind == "real pair" for kind in batch.kinds]
    assert 4 < sum(real) < 20
    assert batch.has_truth.tolist() == [not r for r in real]
    assert not batch.displacement[~batch.has_truth].any()


def test_no_real_image_is_needed() -> None:
    batch = PairEngine([], [], EngineConfig(), seed=1).batch(0, 12, 32)
    for images in (batch.fixed, batch.moving):
        assert images.shape == (12, 1, 32, 32)
        assert images.dtype == torch.float32
        assert bool(torch.isfinite(images).all())
        assert (images.flatten(1).std(dim=1) > 0.005).all()


@pytest.mark.parametrize(("side", "size"), [(512, 100), (200, 60)], ids=["reduced when prepared", "reduced for a small square"])
def test_fine_detail_of_a_large_source_does_not_turn_into_structure(side: int, size: int) -> None:
    rows = (torch.arange(side) % 2).float()
    stripes = rows[:, None].expand(side, side)[None].contiguous()
    config = EngineConfig(synthetic_share=0, motion=MotionConfig(none_share=1), appearance=PLAIN, **STRAIGHT)
    batch = PairEngine([RealSlice(stripes, None, (1.0, 1.0), "a", "stripes")], [], config, seed=1).batch(0, 1, size)
    assert batch.moving[..., 5:-5, :].std() < 0.02


@pytest.mark.parametrize(
    ("image", "valid", "said"),
    [
        (torch.zeros(4, 5), None, "shape"),
        (torch.zeros(1, 4, 5, dtype=torch.float64), None, "float32"),
        (torch.full((1, 4, 5), torch.nan), None, "finite"),
        (torch.zeros(1, 4, 5), torch.zeros(1, 4, 5, dtype=torch.bool), "everywhere"),
        (torch.zeros(1, 4, 5), torch.ones(1, 5, 4, dtype=torch.bool), "valid must be bool"),
    ],
)
def test_a_wrong_slice_is_refused(image: Tensor, valid: Tensor | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RealSlice(image, valid, (1.0, 1.0), "a", "b")


def test_a_wrong_pair_is_refused() -> None:
    image = torch.zeros(1, 4, 5)
    with pytest.raises(ValueError, match="one shape"):
        RealPair(image, torch.zeros(1, 5, 4), (1.0, 1.0), "a", "b", None)
    with pytest.raises(ValueError, match="displacement"):
        RealPair(image, image, (1.0, 1.0), "a", "b", torch.zeros(2, 5, 4))


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        PairEngine([], [], EngineConfig(), seed=-1)
    with pytest.raises(ValueError, match="count"):
        PairEngine([], [], EngineConfig(), seed=1).batch(0, 0, 32)


def test_the_engine_needs_no_drawing_tools() -> None:
    code = (
        "import sys\n"
        "for name in ('skimage', 'scipy', 'pydicom', 'SimpleITK', 'matplotlib'): sys.modules[name] = None\n"
        "from r2n2.simulation import PairEngine, EngineConfig\n"
        "PairEngine([], [], EngineConfig(), seed=1).batch(0, 1, 16)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
