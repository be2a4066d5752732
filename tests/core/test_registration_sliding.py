"""What fit needs where organs slide: curvature of local Gaussians, roughness that lets the displacement jump, flat proposals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r2n2.config import FitConfig, VolumeFitConfig
from r2n2.geometry import Grid, Space
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.fit import plan_rounds
from r2n2.registration.fit.local import local_data_matrix
from r2n2.registration.fit.normal_equations import data_matrix, regulariser_equations
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.volume import sampled_roughness_equations, sliding_roughness
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.volumes import measure_rows
from r2n2.similarity import diffusion
from r2n2.transform import DisplacementField, compose, displacement, normalised_lattice

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((23, 45, 38), (3.1, 1.7, 2.1))


def _model(sigma: float, count: int = 7) -> WhitenedGaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(2, count, *shape, generator=generator, dtype=torch.float64) - 0.5

    return WhitenedGaussians(1.4 * uniform(3), (torch.eye(3).double() + 0.4 * uniform(3, 3)) / sigma, 0.3 * uniform(3))


def _sample(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    positions = 2 * torch.rand(3, count, generator=generator, dtype=torch.float64) - 1
    slope = torch.randn(2, 3, count, generator=generator, dtype=torch.float64)
    return positions, slope, torch.rand(2, 1, count, generator=generator, dtype=torch.float64)


def test_curvature_of_local_gaussians_is_that_of_all_of_them() -> None:
    positions, slope, weight = _sample(1500)
    model = _model(0.14)
    exact, found = data_matrix(model, positions, slope, weight), local_data_matrix(model, positions, slope, weight)
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-3 * float(exact.abs().max()))
    assert not torch.equal(found, exact)
    wide = _model(2.0)
    torch.testing.assert_close(local_data_matrix(wide, positions, slope, weight), data_matrix(wide, positions, slope, weight))


def test_gaussians_that_are_felt_nowhere_add_nothing() -> None:
    positions, slope, weight = _sample(300)
    model = _model(0.2)
    model.centres[:, 2] = 9.0
    found = local_data_matrix(model, positions, slope, weight).view(2, 7, model.freedom, 7, model.freedom)
    assert not bool(found[:, 2].any())
    assert bool(found[:, 3].any())


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_equations_of_the_roughness_are_its_derivatives(slope: float) -> None:
    model, coarse = _model(0.3), GRID.resized((6, 9, 8))
    positions = normalised_lattice(coarse, model.centres).flatten(1)
    _, vector = sampled_roughness_equations(model, positions, coarse, count=50, step=0, slope=slope)
    unit = 1e-6

    def energy(number: int, sign: float) -> Tensor:
        change = torch.zeros(2, 7 * model.freedom, dtype=torch.float64)
        change[:, number] = sign * unit
        changed = model.changed(change.unflatten(1, (7, model.freedom)), (1e-3, 10.0), 2.0)
        return sliding_roughness(changed.displacement(positions).unflatten(2, coarse.shape), coarse, slope)

    slopes = [(energy(k, 1) - energy(k, -1)) / (2 * unit) for k in range(7 * model.freedom)]
    torch.testing.assert_close(vector, torch.stack(slopes, 1) / 2, rtol=1e-5, atol=1e-8)


def test_roughness_is_the_diffusion_of_small_slopes_and_the_variation_of_a_jump() -> None:
    field = torch.randn(1, 3, *GRID.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(sliding_roughness(field, GRID, 0.0), diffusion(field, GRID))
    torch.testing.assert_close(sliding_roughness(field, GRID, 1e5), diffusion(field, GRID), rtol=1e-4, atol=0)
    # y jumps by 0.4 at once, or over ten voxels: the same roughness, which the diffusion takes for a tenth.
    steep, slow = (torch.zeros(1, 3, *GRID.shape, dtype=torch.float64) for _ in range(2))
    steep[:, 1, :, 20:] = 0.4
    slow[:, 1] = 0.4 * ((torch.arange(45) - 14.0) / 10).clamp(0, 1)[:, None]
    costs = [float(sliding_roughness(one, GRID, 1e-4)) for one in (steep, slow)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-2)
    assert float(diffusion(steep, GRID)) == pytest.approx(10 * float(diffusion(slow, GRID)), rel=1e-6)


def test_its_curvature_is_that_of_a_diffusion_where_slopes_are_small() -> None:
    model, coarse = _model(0.3), GRID.resized((12, 13, 11))
    positions = normalised_lattice(coarse, model.centres).flatten(1)
    exact, _ = regulariser_equations(model, positions, coarse)
    flat, _ = sampled_roughness_equations(model, positions, coarse, count=4000, step=3, slope=1e4)
    torch.testing.assert_close(flat, exact, rtol=0, atol=0.05 * float(exact.abs().max()))
    steep, _ = sampled_roughness_equations(model, positions, coarse, count=4000, step=3, slope=0.1)
    assert float(steep.diagonal(dim1=1, dim2=2).sum()) < 0.5 * float(flat.diagonal(dim1=1, dim2=2).sum())


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_a_flat_gaussian_is_proposed_where_a_layer_moves(thin: int) -> None:
    grid = Grid((25, 33, 31), (2.0, 1.7, 2.1))
    place, widths = torch.tensor([0.2, -0.1, 0.3]), torch.full((3,), 0.3)
    widths[thin] = 0.1
    offset = (normalised_lattice(grid, place) - place.view(3, 1, 1, 1)) / widths.view(3, 1, 1, 1)
    wanted = torch.exp(-0.5 * offset.square().sum(0)).flatten()
    slope = torch.randn(1, 1, 3, wanted.numel(), generator=torch.Generator().manual_seed(0))
    weight = torch.full((1, 1, wanted.numel()), 1 / wanted.numel())
    residual = -0.1 * slope[:, :, 1] * wanted
    found = propose(grid, residual, slope, weight, count=2, sigmas=(0.3,), regularisation=1e-4, flatness=3.0)
    torch.testing.assert_close(1 / found.factors[0, 0].diagonal(), widths)
    assert (found.centres[0, 0] - place).abs().max() < 0.1
    # The second lies elsewhere, as the first explains its surroundings.
    assert ((found.centres[0, 1] - place) / widths).norm() > 1


def test_some_gaussians_of_volumes_are_placed_on_the_finest_lattice() -> None:
    config = VolumeFitConfig(sizes=(24, 48, 96), coarse_share=0.4, fine_share=0.3, rounds=2, steps_a_round=3, final_steps=5)
    added = [(plan.size, plan.add, plan.steps) for plan in plan_rounds(config, 100, 0) if not plan.far_only]
    assert added == [(24, 40, 6), (48, 15, 3), (48, 15, 3), (96, 15, 3), (96, 15, 3), (96, 0, 5)]
    assert sum(plan.add for plan in plan_rounds(config, 1, 0)) == 1
    assert [plan.add for plan in plan_rounds(FitConfig(), 25, 0) if not plan.far_only] == [10, 8, 7, 0]


def test_what_moves_in_air_is_not_the_longest_motion() -> None:
    image = torch.full((1, *GRID.shape), 3.0)
    image[:, :, 10:30] = 100.0
    vectors = torch.zeros(3, *GRID.shape)
    vectors[1, :, :5], vectors[2, :, 15:20] = 9.0, 4.0
    counted = torch.ones_like(image, dtype=torch.bool)
    images = ((image, counted, None), (image, counted, None))
    assert measure_rows(*images, DisplacementField(vectors, GRID, Space.WORLD)).longest_mm == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize(("shift", "left"), [(0.7, False), (2.6, True)])
def test_a_slab_may_move_by_part_of_a_slice(shift: float, left: bool) -> None:
    grid = Grid((6, 40, 44), (5.0, 1.7, 1.5))
    image = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.avg_pool3d(image, (1, 5, 5), 1, (0, 2, 2))
    vectors = torch.zeros(1, 3, *grid.shape)
    vectors[:, 0] = shift * grid.spacing[0] / grid.unit_mm
    valid = torch.ones_like(image, dtype=torch.bool)
    said = "; ".join(reasons_for_doubt(image, image, valid, valid, vectors, grid))
    assert ("has left the frame" in said) is left


def test_volumes_are_composed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    first, then = (
        DisplacementField(0.1 * torch.randn(3, *GRID.shape, generator=generator), GRID, Space.NORMALISED) for _ in range(2)
    )
    whole = compose(first, then)
    monkeypatch.setattr(displacement, "_planes_at_once", lambda grid: 4)
    torch.testing.assert_close(compose(first, then).vectors, whole.vectors)
    places = normalised_lattice(GRID, first.vectors) + first.vectors
    exact = first.vectors + then.displacement_at(places.flatten(1).mT).mT.unflatten(1, GRID.shape)
    torch.testing.assert_close(whole.vectors, exact)
