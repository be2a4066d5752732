"""Amplitudes of all Gaussians together: the brute-force least squares, on a lattice that is no square."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r2n2.network.gaussian import GaussianParameters
from r2n2.network.joint import Placed, limit_each, solve_jointly
from r2n2.network.least_squares import limit_steepness, moments
from r2n2.transform import precision_matrix
from r2n2.transform.gaussians import squared_steepness

SHAPE = (17, 23)


def _lattice(shape: tuple[int, ...] = SHAPE) -> Tensor:
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _gaussians(batch: int, count: int, seed: int = 0, ndim: int = 2) -> GaussianParameters:
    generator = torch.Generator().manual_seed(seed)

    def uniform(last: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, count, last, generator=generator, dtype=torch.float64)

    return GaussianParameters(
        uniform(ndim, -0.6, 0.6), uniform(ndim, 0.15, 0.5), uniform(1 if ndim == 2 else 3, 0.0, 1.5), uniform(ndim, -0.1, 0.1)
    )


def _moments(batch: int, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual, slope, weight and their moments."""
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64)
    slope = 3 * torch.randn(batch, len(shape), *shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(batch, 1, *shape, generator=generator, dtype=torch.float64) / residual[0].numel()
    return residual, slope, weight, moments(residual, slope, weight)


def _by_rows(placed: Placed, residual: Tensor, slope: Tensor, weight: Tensor, rough: float) -> Tensor:
    """The same problem of one pair as rows of an ordinary least-squares problem, with numpy's order of unknowns (K, ndim)."""
    heights, amplitudes = placed.heights[0], placed.parameters.amplitudes[0]
    count, ndim = amplitudes.shape
    root = weight[0].flatten().sqrt()
    design = (heights.flatten(1)[:, None] * slope[0].flatten(1)[None]) * root  # (K, ndim, P)
    rows, right = [design.flatten(0, 1).mT], [-(residual[0].flatten() * root)]
    for axis in range(ndim):
        rise = heights.diff(dim=axis + 1).flatten(1) * (heights.shape[axis + 1] - 1) / 2
        rise = rise * (rough / rise.shape[1]) ** 0.5
        for component in range(ndim):
            block = torch.zeros(rise.shape[1], count, ndim, dtype=torch.float64)
            block[:, :, component] = rise.mT
            rows.append(block.flatten(1))
            right.append(-(amplitudes[:, component] @ rise))
    stacked, sides = torch.cat(rows), torch.cat(right)
    normal = stacked.mT @ stacked
    change = torch.linalg.solve(normal + torch.diag(0.1 * normal.diagonal() + 1e-9), stacked.mT @ sides)
    return amplitudes + change.view(count, ndim)


@pytest.mark.parametrize("caution", [0.2, 1.0, 30.0])
def test_it_is_the_damped_least_squares_of_all_amplitudes(caution: float) -> None:
    residual, slope, weight, gathered = _moments(2)
    placed = Placed.on(_lattice(), _gaussians(2, 4))
    found = solve_jointly(placed, gathered, torch.tensor([[caution], [7.0]], dtype=torch.float64))
    expected = _by_rows(placed, residual, slope, weight, 0.01 * caution)
    torch.testing.assert_close(found[0], expected, rtol=1e-8, atol=1e-10)
    assert float((found - placed.parameters.amplitudes).abs().max()) > 1e-3


def test_two_gaussians_at_one_place_share_what_one_would_take() -> None:
    """Solved one by one, both would take all of it."""
    lattice = _lattice()
    one = _gaussians(1, 1, seed=5)._replace(amplitudes=torch.zeros(1, 1, 2, dtype=torch.float64))
    twice = GaussianParameters(*(value.expand(1, 2, -1) for value in one))
    residual, slope, weight, _ = _moments(1)
    height = Placed.on(lattice, one).heights
    truth = torch.tensor([0.03, -0.05], dtype=torch.float64)
    residual = -(slope * truth.view(1, 2, 1, 1)).sum(1, keepdim=True) * height
    gathered, caution = moments(residual, slope, weight), torch.full((1, 1), 1e-6, dtype=torch.float64)
    alone = solve_jointly(Placed.on(lattice, one), gathered, caution)[0]
    both = solve_jointly(Placed.on(lattice, twice), gathered, caution)[0]
    torch.testing.assert_close(alone, truth[None] / 1.1, rtol=0.05, atol=1e-3)  # damped by a tenth
    torch.testing.assert_close(both[0], both[1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(both.sum(0), 2 * truth / 2.1, rtol=0.05, atol=1e-3)


def test_gaussians_one_after_another_are_all_at_once() -> None:
    lattice, parameters = _lattice(), _gaussians(2, 5)
    parts = [
        Placed.on(lattice, GaussianParameters(*(v[:, k] for v in parameters))) for k in (slice(0, 3), slice(3, 4), slice(4, 5))
    ]
    found, expected = parts[0].followed_by(parts[1]).followed_by(parts[2]), Placed.on(lattice, parameters)
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.heights, expected.heights, rtol=0, atol=0)
    rises = [expected.heights.diff(dim=axis + 2).flatten(2) * (SHAPE[axis] - 1) / 2 for axis in range(2)]
    means = sum(torch.einsum("bkp,blp->bkl", rise, rise) / rise.shape[2] for rise in rises)
    torch.testing.assert_close(found.gradients, means, rtol=1e-10, atol=1e-12)


def test_three_axes_are_solved_alike() -> None:
    shape = (6, 9, 7)
    residual, slope, weight, gathered = _moments(1, shape=shape)
    placed = Placed.on(_lattice(shape), _gaussians(1, 3, ndim=3))
    found = solve_jointly(placed, gathered, torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(found[0], _by_rows(placed, residual, slope, weight, 0.01), rtol=1e-8, atol=1e-10)


def test_it_is_differentiable_in_places_shapes_and_caution() -> None:
    _, _, _, gathered = _moments(1, shape=(7, 9))
    lattice, parameters = _lattice((7, 9)), _gaussians(1, 2, seed=3)

    def solved(centres: Tensor, sigmas: Tensor, orientation: Tensor, amplitudes: Tensor, caution: Tensor) -> Tensor:
        placed = Placed.on(lattice, GaussianParameters(centres, sigmas, orientation, amplitudes))
        return solve_jointly(placed, gathered, caution.exp())

    inputs = (*(value.requires_grad_() for value in parameters), torch.zeros(1, 1, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(solved, inputs)


def test_a_gaussian_that_no_measured_pixel_sees_stays_as_it_is() -> None:
    residual, slope, weight, _ = _moments(1)
    lattice, parameters = _lattice(), _gaussians(1, 2, seed=2)
    parameters.centres[0, 0], parameters.sigmas[0] = torch.tensor([-0.9, -0.9]), 0.05
    weight = weight * (lattice[0] > 0)
    before = parameters.amplitudes.clone()
    gathered = moments(residual, slope, weight)
    found = solve_jointly(Placed.on(lattice, parameters), gathered, torch.full((1, 1), 1e-12, dtype=torch.float64))
    assert found.isfinite().all()
    torch.testing.assert_close(found[0, 0], before[0, 0], rtol=1e-3, atol=1e-5)


def test_every_gaussian_is_limited_by_itself() -> None:
    parameters = _gaussians(2, 3)
    amplitudes = 9 * parameters.amplitudes
    found = limit_each(amplitudes, parameters)
    for pair in range(2):
        for k in range(3):
            sides = (value[pair, k, None] for value in (amplitudes, parameters.sigmas, parameters.orientation))
            torch.testing.assert_close(found[pair, k, None], limit_steepness(*sides))
    steepness = squared_steepness(found.flatten(0, 1), precision_matrix(*(v.flatten(0, 1) for v in parameters[1:3]))).sqrt()
    assert 0.5 < float(steepness.max()) < 1.4
