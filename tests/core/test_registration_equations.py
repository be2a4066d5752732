"""Derivatives and normal equations of the Gaussian fit against automatic differentiation, and where new Gaussians are put."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.fit.folding import folding_equations, folding_penalty
from r2n2.registration.fit.normal_equations import data_matrix, regulariser_equations, solve_damped
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.steepness import steepness_equations, steepness_penalty
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.similarity import diffusion
from r2n2.transform import GaussianSequence, jacobian_determinant, normalised_lattice

GRIDS = {2: Grid((9, 9), (1.5, 1.5)), 3: Grid((5, 5, 5))}
WIDE_RANGE = (1e-3, 1e3)


def _model(ndim: int, batch: int = 2, count: int = 3, seed: int = 0) -> WhitenedGaussians:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, count, *shape, generator=generator, dtype=torch.float64) - 0.5

    factors = 4 * torch.eye(ndim, dtype=torch.float64) + 2 * uniform(ndim, ndim)
    return WhitenedGaussians(1.4 * uniform(ndim), factors, 0.4 * uniform(ndim))


def _positions(ndim: int, count: int = 11) -> Tensor:
    return 2 * torch.rand(ndim, count, generator=torch.Generator().manual_seed(9), dtype=torch.float64) - 1


def _displacement(model: WhitenedGaussians, change: Tensor, positions: Tensor) -> Tensor:
    """Displacement after a small change (B, K q), differentiable: A <- exp(T) A, c <- c + A^-1 d, v <- v + dv."""
    ndim = model.ndim
    parts = change.unflatten(1, (len(model), model.freedom))
    amplitude, move, shape = parts.split((ndim, ndim, model.freedom - 2 * ndim), dim=-1)
    rows, columns = torch.triu_indices(ndim, ndim)
    upper = torch.zeros(*shape.shape[:-1], ndim, ndim, dtype=shape.dtype).index_put(
        (torch.arange(len(shape))[:, None, None], torch.arange(len(model))[None, :, None], rows, columns), shape
    )
    symmetric = upper + upper.mT - torch.diag_embed(upper.diagonal(dim1=-2, dim2=-1))
    factors = torch.linalg.matrix_exp(symmetric) @ model.factors
    centres = model.centres + torch.linalg.solve(model.factors, move.unsqueeze(-1)).squeeze(-1)
    whitened = factors @ (positions - centres.unsqueeze(-1))
    return (model.amplitudes + amplitude).mT @ torch.exp(-0.5 * whitened.square().sum(2))


@pytest.mark.parametrize("ndim", [2, 3])
def test_whitened_gaussians_are_the_sequences_they_came_from(ndim: int) -> None:
    model, positions = _model(ndim), _positions(ndim)
    sequences = model.sequences(GRIDS[ndim])
    field = model.displacement(positions)
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(sequence.displacement_at(positions.mT).mT, field[row], rtol=1e-6, atol=1e-9)
    back = WhitenedGaussians.from_sequences(sequences, positions)
    torch.testing.assert_close(back.displacement(positions), field, rtol=1e-6, atol=1e-9)


def test_a_shorter_sequence_is_filled_up_with_gaussians_of_no_amplitude() -> None:
    long = _model(2, batch=1).sequences(GRIDS[2])[0]
    short = long.select(slice(0, 1))
    model = WhitenedGaussians.from_sequences((short, long, GaussianSequence.identity(GRIDS[2])), long.centres)
    assert len(model) == 3
    expected = [s.displacement_at(_positions(2).mT).mT for s in (short, long)]
    torch.testing.assert_close(model.displacement(_positions(2))[:2], torch.stack(expected))
    assert not model.displacement(_positions(2))[2].any()
    assert model.factors.isfinite().all()


def test_joined_and_chosen_pairs() -> None:
    first, second = _model(2, seed=1), _model(2, seed=2)
    positions = _positions(2)
    torch.testing.assert_close(
        first.joined(second).displacement(positions), first.displacement(positions) + second.displacement(positions)
    )
    mixed = first.where(torch.tensor([True, False]), second).displacement(positions)
    torch.testing.assert_close(mixed, torch.stack((first.displacement(positions)[0], second.displacement(positions)[1])))
    none = WhitenedGaussians.none(2, positions, 2)
    assert (len(none), len(none.joined(first))) == (0, 3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_derivatives_equal_automatic_differentiation(ndim: int) -> None:
    model, positions = _model(ndim), _positions(ndim)
    assert model.freedom == {2: 7, 3: 12}[ndim]
    change = torch.zeros(2, 3 * model.freedom, dtype=torch.float64)
    automatic = torch.autograd.functional.jacobian(lambda c: _displacement(model, c, positions), change)
    parts = model.derivatives(positions)
    for pair in range(2):
        jacobian = automatic[pair][:, :, pair].unflatten(-1, (3, model.freedom))  # (ndim, P, K, q)
        for axis in range(ndim):
            torch.testing.assert_close(jacobian[axis, :, :, axis].mT, parts[pair, :, 0])
        along = torch.einsum("kqp,kd->dpkq", parts[pair, :, 1:], model.amplitudes[pair])
        torch.testing.assert_close(jacobian[..., ndim:], along, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_small_change_does_what_the_derivatives_say(ndim: int) -> None:
    model, positions = _model(ndim), _positions(ndim)
    step = 1e-5
    for k in range(model.freedom):
        change = torch.zeros(2, 3, model.freedom, dtype=torch.float64)
        change[:, 1, k] = step
        up, down = (model.changed(s * change, WIDE_RANGE, 2.0).displacement(positions) for s in (1, -1))
        measured = (up - down) / (2 * step)
        part = model.derivatives(positions)[:, 1, max(0, k - ndim + 1)]
        direction = torch.eye(ndim).double()[k].expand(2, ndim) if k < ndim else model.amplitudes[:, 1]
        torch.testing.assert_close(measured, direction[:, :, None] * part[:, None], rtol=1e-6, atol=1e-8)


def test_a_change_is_kept_sensible() -> None:
    model = _model(2)
    moved = model.changed(torch.full((2, 3, 7), 50.0).double(), (0.1, 0.5), 1.1)
    assert moved.centres.abs().max() <= 1.1
    sigmas = 1 / torch.linalg.svdvals(moved.factors)
    assert sigmas.min() >= 0.1 - 1e-9
    assert sigmas.max() <= 0.5 + 1e-9
    far = model.centres + torch.linalg.solve(model.factors, torch.full((2, 3, 2, 1), 0.5).double()).squeeze(-1)
    torch.testing.assert_close(moved.centres, far.clamp(-1.1, 1.1))


def _slope_residual_weight(ndim: int, count: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    slope = torch.randn(2, ndim, count, generator=generator, dtype=torch.float64)
    residual = torch.randn(2, 1, count, generator=generator, dtype=torch.float64)
    return slope, residual, torch.rand(2, 1, count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
def test_matrix_and_right_side_are_gauss_newton(ndim: int) -> None:
    model, positions = _model(ndim), _positions(ndim)
    slope, residual, weight = _slope_residual_weight(ndim)
    matrix = data_matrix(model, positions, slope, weight)
    vector = model.pulled_back(positions, slope * residual * weight).flatten(1)
    start = model.displacement(positions)

    def weighted(change: Tensor) -> Tensor:
        new = residual + (slope * (_displacement(model, change, positions) - start)).sum(1, keepdim=True)
        return weight.sqrt() * new

    change = torch.zeros(2, 3 * model.freedom, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(weighted, change)
    for pair in range(2):
        mine = jacobian[pair, 0, :, pair]
        torch.testing.assert_close(matrix[pair], mine.mT @ mine, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(vector[pair], mine.mT @ weighted(change)[pair, 0], rtol=1e-6, atol=1e-9)


def test_the_matrix_of_many_pairs_is_that_of_each() -> None:
    generator = torch.Generator().manual_seed(6)
    slope, weight = (torch.rand(9, count, 11, generator=generator, dtype=torch.float64) for count in (2, 1))
    model, one = _model(2), torch.arange(9) % 2
    many = WhitenedGaussians(model.centres[one], model.factors[one], model.amplitudes[one])
    positions = _positions(2)
    together = data_matrix(many, positions, slope, weight)
    for k in range(9):
        alone = data_matrix(many.part(slice(k, k + 1)), positions, slope[k : k + 1], weight[k : k + 1])
        torch.testing.assert_close(together[k], alone[0])


@pytest.mark.parametrize("ndim", [2, 3])
def test_regulariser_equations_are_gauss_newton_of_the_diffusion(ndim: int) -> None:
    model, grid = _model(ndim), GRIDS[ndim]
    positions = normalised_lattice(grid, model.centres).flatten(1)
    matrix, vector = regulariser_equations(model, positions, grid)

    def field(change: Tensor) -> Tensor:
        return _displacement(model, change, positions).unflatten(2, grid.shape)

    change = torch.zeros(2, 3 * model.freedom, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(0.5 * diffusion(field(change), grid).sum(), change)
    torch.testing.assert_close(vector, gradient, rtol=1e-6, atol=1e-9)
    # The diffusion is quadratic in the field, so d' matrix d is the diffusion of the field's derivative along d.
    torch.testing.assert_close(matrix, matrix.mT)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        direction = torch.randn(2, 3 * model.freedom, generator=generator, dtype=torch.float64)
        step = 1e-6 * direction
        slope = (field(step) - field(-step)).detach() / 2e-6
        along = torch.einsum("bi,bij,bj->b", direction, matrix, direction)
        torch.testing.assert_close(along, diffusion(slope, grid), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_folding_equations_are_gauss_newton_of_the_penalty(ndim: int) -> None:
    # Few enough cells that all of them count, and a margin that most fall below.
    model, grid, margin = _model(ndim), Grid((5,) * ndim), 1.4
    positions = normalised_lattice(grid, model.centres).flatten(1)

    def penalty(change: Tensor) -> Tensor:
        return folding_penalty(_displacement(model, change, positions).unflatten(2, grid.shape), grid, margin)

    change = torch.zeros(2, 3 * model.freedom, dtype=torch.float64, requires_grad=True)
    assert (penalty(change) > 0).all()
    (gradient,) = torch.autograd.grad(0.5 * penalty(change).sum(), change)
    field = model.displacement(positions).unflatten(2, grid.shape)
    found = folding_equations(model, field, positions, grid, margin)
    assert found is not None
    matrix, vector = found
    torch.testing.assert_close(vector, gradient, rtol=1e-6, atol=1e-9)
    # J' J is half the Hessian of the penalty less the curvature of the determinant; along any direction d, d' J' J d is the
    # squared change of the shortfall.
    direction = torch.randn(2, 3 * model.freedom, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step = 1e-6
    shortfall = [
        (margin - _determinants(_displacement(model, s * step * direction, positions).unflatten(2, grid.shape), grid))
        for s in (1, -1)
    ]
    falling = _determinants(field, grid) < margin
    expected = (((shortfall[0] - shortfall[1]) / (2 * step)).square() * falling).flatten(1).mean(1)
    torch.testing.assert_close(torch.einsum("bi,bij,bj->b", direction, matrix, direction), expected, rtol=1e-4, atol=1e-6)
    assert folding_equations(model, field, positions, grid, -50.0) is None


def _determinants(displacement: Tensor, grid: Grid) -> Tensor:
    """By forward differences at the first corner of every cell: the first of the ways of ``jacobian_determinant``."""
    return jacobian_determinant(displacement, grid)[:, 0]


def test_a_damped_step_solves_its_equations_and_leaves_hopeless_ones_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    matrix, vector = root @ root.mT + torch.eye(6), torch.randn(3, 6, generator=generator, dtype=torch.float64)
    change = solve_damped(matrix, vector, torch.zeros(3).double())
    torch.testing.assert_close((matrix @ change.unsqueeze(-1)).squeeze(-1), -vector, rtol=1e-3, atol=1e-3)
    shorter = solve_damped(matrix, vector, torch.full((3,), 100.0).double())
    assert (shorter.norm(dim=1) < 0.1 * change.norm(dim=1)).all()
    matrix[1] = math.nan
    matrix[2] = 0
    broken = solve_damped(matrix, vector * torch.tensor([[1.0], [1.0], [0.0]]), torch.full((3,), 0.1).double())
    assert broken[0].any()
    assert not broken[1:].any()


@pytest.mark.parametrize(("ndim", "size"), [(2, 41), (3, 21)])
@pytest.mark.parametrize("sigma", [0.15, 0.3])
def test_a_new_gaussian_is_put_on_a_single_displaced_blob(ndim: int, size: int, sigma: float) -> None:
    grid = Grid((size,) * ndim)
    lattice = normalised_lattice(grid, torch.zeros(0, dtype=torch.float64)).flatten(1)
    centre = torch.tensor([0.3, -0.4, 0.2][:ndim], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(1, ndim, size**ndim, generator=generator, dtype=torch.float64)
    bump = torch.exp(-0.5 * ((lattice - centre[:, None]) / sigma).square().sum(0))
    # A displacement v bump explains this residual exactly.
    residual = -(slope * torch.arange(1.0, ndim + 1).double().view(1, -1, 1)).sum(1, keepdim=True) * 0.05 * bump
    weight = torch.full_like(residual, 1 / size**ndim)
    found = propose(grid, residual, slope[:, None], weight, count=1, sigmas=(0.08, 0.15, 0.3), regularisation=1e-6)
    assert (found.centres[0, 0] - centre).abs().max() < 2.1 * 2 / (size - 1)
    torch.testing.assert_close(found.factors[0, 0], torch.eye(ndim, dtype=torch.float64) / sigma)
    assert not found.amplitudes.any()


def test_two_blobs_get_one_gaussian_each_and_pairs_do_not_mix() -> None:
    grid = Grid((41, 41))
    lattice = normalised_lattice(grid, torch.zeros(0, dtype=torch.float64)).flatten(1)
    places = torch.tensor([[-0.5, 0.5], [0.4, -0.3]], dtype=torch.float64)
    bumps = [torch.exp(-0.5 * ((lattice - c[:, None]) / 0.15).square().sum(0)) for c in places]
    slope = torch.randn(2, 2, 41 * 41, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    residual = torch.stack((bumps[0] + 0.6 * bumps[1], bumps[1]))[:, None] * slope.sum(1, keepdim=True) * 0.05
    found = propose(grid, residual, slope[:, None], torch.ones_like(residual), count=2, sigmas=(0.15,), regularisation=0.0)
    torch.testing.assert_close(found.centres[0], places, rtol=0, atol=0.12)
    torch.testing.assert_close(found.centres[1, 0], places[1], rtol=0, atol=0.12)


def test_the_place_lowers_the_objective_most_of_all_places() -> None:
    # Edges of very different strength: a strong one with a small residual beside a weak one with a large residual.
    grid = Grid((31, 31))
    lattice = normalised_lattice(grid, torch.zeros(0, dtype=torch.float64)).flatten(1)
    generator = torch.Generator().manual_seed(2)
    weak, strong = (torch.exp(-0.5 * ((lattice - c) / 0.12).square().sum(0)) for c in (-0.25, 0.2))
    slope = torch.randn(1, 2, 31 * 31, generator=generator, dtype=torch.float64) * (weak + 30 * strong)
    residual = slope.sum(1, keepdim=True) * (weak + 0.02 * strong)
    weight = torch.full_like(residual, 1 / 31**2)
    found = propose(grid, residual, slope[:, None], weight, count=1, sigmas=(0.15,), regularisation=1e-4)
    bumps = torch.exp(-0.5 * (lattice[:, :, None] - lattice[:, None]).square().sum(0) / 0.15**2)
    force = torch.einsum("cp,ip->ci", bumps, (slope * residual * weight)[0])
    stiffness = torch.einsum("cp,ip,jp->cij", bumps.square(), slope[0], slope[0] * weight[0])
    stiffness = stiffness + 1e-4 * math.pi / 4 * torch.eye(2, dtype=torch.float64)
    gain = 0.5 * (force * torch.linalg.solve(stiffness, force.unsqueeze(-1)).squeeze(-1)).sum(1)
    place = int((lattice - found.centres[0, 0][:, None]).square().sum(0).argmin())
    assert float(gain[place]) > 0.98 * float(gain.max())


def test_the_most_telling_gaussians_come_first_and_the_sum_stays() -> None:
    """A wide and a narrow Gaussian and one that half cancels: told by what each adds to the whole."""
    grid = Grid((24, 24)).enclosing_cube(24)
    centres = torch.tensor([[[0.5, 0.5], [-0.3, -0.2], [0.5, 0.45]]], dtype=torch.float64)
    sigmas = torch.tensor([0.08, 0.4, 0.1], dtype=torch.float64)
    factors = torch.eye(2, dtype=torch.float64) / sigmas[None, :, None, None]
    amplitudes = torch.tensor([[[0.02, 0.0], [0.1, 0.05], [-0.01, 0.0]]], dtype=torch.float64)
    model = WhitenedGaussians(centres, factors, amplitudes)
    positions = normalised_lattice(grid, centres).flatten(1)
    ordered = model.ordered_by_importance(positions)
    torch.testing.assert_close(ordered.displacement(positions), model.displacement(positions))
    whole = model.displacement(positions)
    parts = [WhitenedGaussians(ordered.centres[:, :k], ordered.factors[:, :k], ordered.amplitudes[:, :k]) for k in range(4)]
    gaps = [float((whole - part.displacement(positions)).norm()) for part in parts]
    assert ordered.centres[0, 0].tolist() == [-0.3, -0.2]
    assert ordered.centres[0, 1].tolist() == [0.5, 0.5]
    assert gaps[1] < 0.05 * gaps[0]
    assert gaps[3] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("cap", [0.2, 0.5])
def test_steepness_equations_are_the_derivatives_of_the_penalty(ndim: int, cap: float) -> None:
    model = _model(ndim)

    def excess(change: Tensor) -> Tensor:
        """Of every Gaussian, (B, K), after a change (B, K q): what is squared and summed."""
        amplitude, _, shape = change.unflatten(1, (len(model), model.freedom)).split((ndim, ndim, model.freedom - 2 * ndim), dim=-1)
        rows, columns = torch.triu_indices(ndim, ndim)
        strain = torch.zeros(*shape.shape[:-1], ndim, ndim, dtype=shape.dtype)
        strain = strain.index_put((torch.arange(2)[:, None, None], torch.arange(3)[None, :, None], rows, columns), shape)
        strain = strain + strain.mT - torch.diag_embed(strain.diagonal(dim1=-2, dim2=-1))
        steepness = torch.linalg.matrix_exp(strain) @ model.factors @ (model.amplitudes + amplitude).unsqueeze(-1)
        return (steepness.norm(dim=(-2, -1)) - cap).clamp_min(0)

    still = torch.zeros(2, len(model) * model.freedom, dtype=torch.float64)
    penalty = steepness_penalty(model, cap)
    assert bool((penalty > 0).any())
    torch.testing.assert_close(penalty, excess(still).square().sum(1))
    found = steepness_equations(model, cap)
    assert found is not None
    slope = torch.autograd.functional.jacobian(lambda c: excess(c).square().sum(), still)
    torch.testing.assert_close(found[1], 0.5 * slope)
    each = torch.autograd.functional.jacobian(excess, still)
    assert isinstance(each, Tensor)
    rows = each[torch.arange(2), :, torch.arange(2)]
    torch.testing.assert_close(found[0], rows.mT @ rows)


def test_no_steepness_no_equations() -> None:
    model = _model(2)
    assert steepness_equations(model, 100.0) is None
    assert not steepness_penalty(model, 100.0).any()
