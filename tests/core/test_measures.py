"""Each measure is blind to what it promises to be blind to, slopes the right way, and finds known motion under changed contrast."""

from __future__ import annotations

import math

import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Grid
from r2n2.preprocessing import Square
from r2n2.registration import FitMethod
from r2n2.registration.measures import Compared, agreement, measure_of
from r2n2.registration.measures.window import Window
from r2n2.transform import GaussianSequence, normalised_lattice, sample_normalised

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ssd", "lncc", "mind", "ngf", "curve")


def _waves(grid: Grid, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Tensor:
    """A smooth picture (1, 1, *shape) float64 moved by ``shift``, NORMALISED."""
    y, x, *z = (axis + s for axis, s in zip(normalised_lattice(grid, torch.zeros(0).double()), shift, strict=False))
    depth = z[0] if z else torch.zeros_like(y)
    return (torch.sin(3 * y + 1) + torch.cos(4 * x - y) + 0.5 * torch.sin(5 * (x + y)) + torch.cos(3 * depth + x))[None, None]


def _square(image: Tensor, grid: Grid) -> Square:
    return Square(image, torch.ones_like(image, dtype=torch.bool), grid)


def _compared(name: str, fixed: Tensor, moving: Tensor, grid: Grid) -> tuple[Compared, Tensor]:
    return measure_of(name).compare(_square(fixed, grid), _square(moving, grid)), torch.ones_like(fixed, dtype=torch.bool)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_central_differences_of_residuals(name: str, ndim: int) -> None:
    size = {2: 61, 3: 31}[ndim]
    grid = Grid((size,) * ndim).enclosing_cube(size)
    image = make.texture(grid.shape).double()[None] if name == "lncc" else _waves(grid)
    compared, counted = _compared(name, image, image, grid)
    places, pixel = normalised_lattice(grid, image)[None], 2 / (size - 1)
    slope = compared.difference(compared.moving, counted).slope
    assert slope.shape == (1, {"mind": (4, 12), "ngf": (3, 6)}.get(name, (1, 1))[ndim - 2], ndim, *grid.shape)
    inner = (slice(None), slice(None), *[slice(4, -4)] * ndim)
    for axis in range(ndim):
        step = torch.zeros(1, ndim, *[1] * ndim, dtype=torch.float64)
        step[:, axis] = pixel
        up, down = (
            compared.difference(sample_normalised(compared.moving, places + s * step, grid).image, counted).residual
            for s in (1, -1)
        )
        measured, expected = ((up - down) / (2 * pixel))[inner], slope[:, :, axis][inner]
        if name in ("lncc", "curve"):
            # Local means move with the image, and the curve is fitted anew: their slopes leave that out.
            assert float(torch.nn.functional.cosine_similarity(measured.flatten(), expected.flatten(), dim=0)) > (
                0.9 if ndim == 2 else 0.75
            )
        else:
            torch.testing.assert_close(measured, expected)


def _seen(name: str, change: object) -> float:
    """Share of a picture's own features by which those of the same picture in another contrast differ."""
    grid = Grid((64, 64), (1.0, 1.0)).enclosing_cube(64)
    image = make.texture(grid.shape).double()[None] / 100
    assert callable(change)
    compared, counted = _compared(name, image, change(image), grid)
    other, _ = _compared(name, image, image.flip(-1), grid)
    difference = compared.difference(compared.moving, counted).residual.square().mean()
    return float(difference / other.difference(other.moving, counted).residual.square().mean())


def _negative(image: Tensor) -> Tensor:
    return 3 - image


def _gamma(image: Tensor) -> Tensor:
    return image.clamp_min(0) ** 2.2


def _shaded(image: Tensor) -> Tensor:
    ramp = torch.linspace(0.7, 1.3, image.shape[-1]).double()
    return (image + 1) * ramp


@pytest.mark.parametrize(
    ("change", "blind", "sees"),
    [
        (_negative, {"mind", "ngf", "curve"}, {"ssd", "lncc"}),
        (_gamma, {"curve", "lncc", "mind", "ngf"}, set()),
        (_shaded, {"lncc", "mind", "ngf"}, {"ssd"}),
    ],
)
def test_measures_are_blind_to_what_they_promise(change: object, blind: set[str], sees: set[str]) -> None:
    found = {name: _seen(name, change) for name in blind | sees}
    assert {name for name, value in found.items() if value < 0.2} == blind, found


@pytest.mark.parametrize("name", ["mind", "ngf", "curve"])
def test_known_motion_is_recovered_from_a_negative(name: str) -> None:
    fixed, moving, exact = make.moved_pair()
    negative = 200 - moving
    found, by_ssd = (
        list(
            FitMethod(FitConfig(sizes=(24, 48, 96)), gaussians=12, measure=measure_of(m)).register(make.pairs_of((fixed, negative)))
        )
        for m in (name, "ssd")
    )
    error, wrong = (float(make.error_px(steps[-1].transforms()[0], exact).mean()) for steps in (found, by_ssd))
    before = float(make.error_px(GaussianSequence.identity(make.GRID), exact).mean())
    assert error < 0.35 * before < wrong


@pytest.mark.parametrize("name", ["mind", "ngf"])
def test_a_volume_is_registered_across_contrasts(name: str) -> None:
    grid = Grid((20, 24, 28), (2.0, 1.3, 1.0))
    fixed, moving, exact = make.moved_pair(grid, 0.12, width=0.6)
    config = make.FAST_FIT.model_copy(update={"sizes": (14, 20, 24), "final_steps": 8})
    *_, last = FitMethod(config, gaussians=8, measure=measure_of(name)).register(make.pairs_of((fixed, 200 - moving), grid=grid))
    motion, error = (make.error_px(t, exact, margin=2) for t in (GaussianSequence.identity(grid), last.transforms()[0]))
    assert float(error.mean()) < 0.6 * float(motion.mean())


def test_local_means_are_those_of_a_gaussian_window() -> None:
    grid = Grid((61, 47), (1.0, 1.7))
    image = torch.randn(1, 1, *grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lattice = normalised_lattice(grid, image).flatten(1)
    weight = torch.exp(-0.5 * ((lattice[:, :, None] - lattice[:, None]) / 0.2).square().sum(0))
    expected = (weight / weight.sum(1, keepdim=True)) @ image.flatten()
    found = Window.build(grid, 0.2, image).means(image).flatten()
    assert float((found - expected).abs().max()) < 0.06 * float(expected.std()) * math.sqrt(len(expected) / 300)


def test_agreement_rises_with_alignment_and_is_one_for_equal_frames() -> None:
    fixed, moving, exact = make.moved_pair()
    valid = torch.ones_like(fixed, dtype=torch.bool)
    right = exact.displacement_field().vectors[None]
    for name in NAMES:
        before, after = agreement(measure_of(name), fixed, moving, valid, valid, right, make.GRID)
        same = agreement(measure_of(name), fixed, fixed, valid, valid, torch.zeros_like(right), make.GRID)
        assert same == pytest.approx((1, 1), abs=1e-5)
        assert before < after < 1 + 1e-6
        if name in ("mind", "ngf", "curve"):
            assert agreement(measure_of(name), fixed, 200 - moving, valid, valid, right, make.GRID)[1] == pytest.approx(
                after, abs=0.02
            )


def test_an_unknown_measure_is_named() -> None:
    with pytest.raises(ValueError, match="'nmi' is not known; choose among ssd, lncc, mind, ngf, curve"):
        measure_of("nmi")
