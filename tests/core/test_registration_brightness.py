"""Smooth changes of brightness are taken out of what fit makes small, its derivative follows, and motion is found beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Grid
from r2n2.registration import FitMethod, Pairs
from r2n2.registration.fit.brightness import SmoothBrightness
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.proposal import propose_with_gains
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import SquaredDifference, measure_of
from r2n2.registration.measures.window import Window
from r2n2.transform import GaussianSequence, normalised_lattice

pytestmark = pytest.mark.usefixtures("one_thread")

GRIDS = {2: Grid((13, 17), (1.4, 0.9)), 3: Grid((7, 9, 5), (1.0, 1.3, 2.1))}
FULL, PLAIN = (make.FAST_FIT.model_copy(update={"brightness": strength}) for strength in (1.0, 0.0))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _projection(grid: Grid, strength: float = 0.8, width: float = 0.4) -> tuple[SmoothBrightness, Tensor]:
    """With weights (2, 1, P) of which a third is 0."""
    pixels = torch.Size(grid.shape).numel()
    weight = (_random(2, 1, pixels, seed=5) - 1 / 3).clamp_min(0) / pixels
    return SmoothBrightness(strength, Window.build(grid, width, weight), grid.shape), weight


def _bump(grid: Grid, centre: tuple[float, float], width: float) -> Tensor:
    """(1, *shape), 1 at a NORMALISED place."""
    places = normalised_lattice(grid, torch.zeros(0))
    squared = (places - torch.tensor(centre).view(2, 1, 1)).square().sum(0, keepdim=True)
    return torch.exp(-0.5 * squared / width**2)


def _found(pairs: Pairs, config: FitConfig, gaussians: int = 8) -> GaussianSequence:
    *_, last = FitMethod(config, gaussians=gaussians).register(pairs)
    found = last.transforms()[0]
    assert isinstance(found, GaussianSequence)
    return found


@pytest.mark.parametrize("ndim", [2, 3])
def test_means_are_transposed(ndim: int) -> None:
    grid = GRIDS[ndim]
    window = Window.build(grid, 0.5, torch.zeros(0).double())
    a, b = _random(2, 3, *grid.shape, seed=1), _random(2, 3, *grid.shape, seed=2)
    torch.testing.assert_close((window.means(a) * b).sum(), (a * window.transposed(b)).sum())


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_is_the_same_everywhere_is_taken_out_by_the_strength(ndim: int) -> None:
    brightness, weight = _projection(GRIDS[ndim], strength=0.8)
    left = brightness.over(weight).left(torch.full((2, 2, weight.shape[2]), 3.0, dtype=torch.float64))
    torch.testing.assert_close(left, 3.0 * 0.2 * (weight > 0).double().expand_as(left))


def test_what_alternates_from_pixel_to_pixel_is_left() -> None:
    grid = Grid((31, 41))
    brightness = SmoothBrightness(1.0, Window.build(grid, 0.4, torch.zeros(0).double()), grid.shape)
    chequered = (torch.arange(31)[:, None] + torch.arange(41)[None]).remainder(2).double().flatten()[None, None] - 0.5
    left = brightness.over(torch.ones_like(chequered)).left(chequered)
    torch.testing.assert_close(left, chequered, rtol=0, atol=0.02)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_derivative_is_that_of_what_is_left(ndim: int) -> None:
    grid = GRIDS[ndim]
    brightness, weight = _projection(grid)
    residual = (4 * _random(2, 2, weight.shape[2]) - 2).requires_grad_()
    projection = brightness.over(weight)
    left = projection.left(residual)
    squared = left.square().sum(1, keepdim=True)
    (slope,) = torch.autograd.grad((weight * squared / (1 + squared)).sum(), residual)
    doubt = (1 + squared.detach()).square()
    torch.testing.assert_close(2 * weight / doubt * projection.felt(left.detach(), doubt), slope)


def test_a_step_goes_down_the_objective_itself() -> None:
    """On ramps, whose gradient is the same in both images and everywhere, the right side is the slope to the last digit."""
    ramp = normalised_lattice(make.GRID, torch.zeros(0).double())
    image = (2 * ramp[0] - 3 * ramp[1])[None]
    pairs = make.pairs_of((image, image))
    config = FULL.model_copy(update={"regularisation": 0.0, "folding_weight": 0.0, "brightness": 0.9, "clamp": 100.0})
    ways = torch.tensor([[[0.05, -0.02], [0.0, 0.06]]], dtype=torch.float64)
    centres = torch.tensor([[[0.05, 0.1], [-0.1, -0.2]]], dtype=torch.float64)
    model = WhitenedGaussians(centres, torch.eye(2, dtype=torch.float64).expand(1, 2, 2, 2) / 0.2, ways)
    level = Level.build(pairs, 48, config, SquaredDifference(config.clamp), model)
    # Near the edge a displaced pixel may or may not be measured, and gradients are others.
    inner = torch.zeros_like(level.fixed_valid)
    inner[..., 14:-14, 8:-8] = True
    level = replace(level, fixed_valid=inner)
    current = level.assess(model)
    slope = model.pulled_back(level.lattice.positions, level.lattice.gathered(current.force))[..., :2]
    for gaussian in range(2):
        for axis in range(2):
            step = torch.zeros_like(ways)
            step[0, gaussian, axis] = 1e-5
            up, down = (level.assess(WhitenedGaussians(centres, model.factors, ways + s * step)).objective for s in (1, -1))
            torch.testing.assert_close(2 * slope[0, gaussian, axis], ((up - down) / 2e-5)[0], rtol=2e-3, atol=1e-7)


def test_motion_is_found_where_brightness_changes() -> None:
    fixed, moving, exact = make.moved_pair()
    pairs = make.pairs_of((fixed, moving * (1 + 0.5 * _bump(make.GRID, (0.2, 0.1), 0.4))))
    plain, projected = (float(make.error_px(_found(pairs, config), exact).mean()) for config in (PLAIN, FULL))
    assert projected < 0.7 * plain


def test_where_brightness_alone_changes_less_moves() -> None:
    image = make.texture(make.GRID.shape)
    pairs = make.pairs_of((image, image * (1 + 0.4 * _bump(make.GRID, (-0.1, 0.2), 0.5))))
    still = GaussianSequence.identity(make.GRID)
    plain, projected = (float(make.error_px(_found(pairs, config), still).mean()) for config in (PLAIN, FULL))
    assert projected < 0.6 * plain


def test_a_change_of_brightness_promises_new_gaussians_nothing() -> None:
    image = make.texture(make.GRID.shape)
    pairs = make.pairs_of((image, image * (1 + 0.6 * _bump(make.GRID, (-0.1, 0.2), 0.35))))
    none = WhitenedGaussians.none(1, image[None], 2)
    promised = []
    for config in (PLAIN, FULL):
        level = Level.build(pairs, 48, config, SquaredDifference(), none)
        current = level.assess(none)
        given = (level.grid, current.felt, current.slope, current.weight)
        _, gains = propose_with_gains(*given, count=1, sigmas=config.proposed_sigmas, regularisation=config.regularisation)
        promised.append(float(gains))
    assert promised[1] < 0.3 * promised[0]


@pytest.mark.parametrize("name", ["lncc", "curve", "ngf"])
def test_measures_that_compare_no_plain_intensities_are_left_as_they_are(name: str) -> None:
    pairs, measure = make.pairs_of(make.moved_pair()[:2]), measure_of(name)
    losses = [[step.loss for step in FitMethod(config, gaussians=3, measure=measure).register(pairs)] for config in (PLAIN, FULL)]
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_nothing_is_taken_out_on_the_coarsest_square() -> None:
    pairs = make.pairs_of(make.moved_pair()[:2])
    none = WhitenedGaussians.none(1, pairs.moving, 2)
    found = [Level.build(pairs, size, FULL, SquaredDifference(), none).brightness is not None for size in FULL.sizes]
    assert found == [False, True, True]
