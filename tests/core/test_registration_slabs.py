"""What fit needs for many Gaussians in slabs: their curvature where they are felt, flat proposals, and what is told of slabs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration.contrast import ContrastFinding
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.fit.local import local_data_matrix
from r2n2.registration.fit.normal_equations import data_matrix
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.series import resolve_similarity
from r2n2.registration.volumes import measure_rows
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


def test_volumes_are_compared_locally_unless_contrast_changes() -> None:
    stays, changes = ContrastFinding(False, "", {}), ContrastFinding(True, "edges agree", {})
    auto = RegistrationConfig(method="fit")
    assert [resolve_similarity(auto, stays, ndim)[0].similarity for ndim in (2, 3)] == ["ssd", "lncc"]
    assert [resolve_similarity(auto, changes, ndim)[0].similarity for ndim in (2, 3)] == ["ngf", "ngf"]
    assert resolve_similarity(auto, stays, 2)[1] == ""
    assert resolve_similarity(auto, stays, 3)[1] == "similarity: lncc, as volumes are compared locally"
    assert resolve_similarity(RegistrationConfig(similarity="ssd"), stays, 3)[0].similarity == "ssd"
