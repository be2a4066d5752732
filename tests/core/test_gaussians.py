"""Sums of Gaussians against their closed form: values, gradients, principal axes, lengths in mm, folding of one step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform import (
    GaussianSequence,
    gaussian_displacement,
    gaussian_weights,
    orientation_of_axes,
    precision_matrix,
    principal_axes,
)

WIDE = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.6, -0.8), (0.8, 0.6)))
VOLUME = Grid((7, 9, 8), (3.0, 1.5, 0.8))


def _sequence(grid: Grid, count: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> GaussianSequence:
    def uniform(width: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, width, generator=generator, dtype=dtype)

    generator = torch.Generator().manual_seed(seed)
    ndim = grid.ndim
    angles = uniform(1, 0, math.pi) if ndim == 2 else uniform(3, -1.5, 1.5)
    return GaussianSequence(uniform(ndim, -0.7, 0.7), uniform(ndim, 0.1, 0.3), angles, uniform(ndim, -0.2, 0.2), grid)


def test_value_of_one_gaussian_by_hand() -> None:
    # Axis 1 is turned by 30 deg from x towards y; the place lies 0.1 along axis 1 and -0.2 along axis 2 from the centre.
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    centre = torch.tensor([[0.2, -0.3]], dtype=torch.float64)
    first, second = torch.tensor([sin, cos], dtype=torch.float64), torch.tensor([cos, -sin], dtype=torch.float64)
    place = centre + 0.1 * first - 0.2 * second
    one = GaussianSequence(
        centre,
        torch.tensor([[0.25, 0.1]]).double(),
        torch.tensor([[math.pi / 6]]).double(),
        torch.tensor([[0.3, -0.05]]).double(),
        WIDE,
    )
    height = math.exp(-0.5 * ((0.1 / 0.25) ** 2 + (0.2 / 0.1) ** 2))
    torch.testing.assert_close(one.displacement_at(place), torch.tensor([[0.3 * height, -0.05 * height]]).double())
    torch.testing.assert_close(one.displacement_at(centre), one.amplitudes)


def test_value_of_one_gaussian_in_3d_by_hand() -> None:
    # A rotation of 90 deg about z takes axis 1 from x to y, axis 2 from y to -x and leaves axis 3 along z.
    one = GaussianSequence(
        torch.zeros(1, 3).double(),
        torch.tensor([[0.1, 0.2, 0.4]]).double(),
        torch.tensor([[math.pi / 2, 0.0, 0.0]]).double(),
        torch.tensor([[0.1, 0.2, 0.3]]).double(),
        VOLUME,
    )
    steps = torch.diag(torch.tensor([0.4, 0.1, 0.2]).double())  # one standard deviation along z, y and x
    torch.testing.assert_close(one.displacement_at(steps), math.exp(-0.5) * one.amplitudes.expand(3, 3))


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_gradient_in_closed_form(grid: Grid) -> None:
    one = _sequence(grid, 1)
    place = (one.centres[0] + 0.1).requires_grad_(True)
    jacobian = torch.autograd.functional.jacobian(lambda p: one.displacement_at(p[None])[0], place)
    inverse = precision_matrix(one.sigmas, one.orientation)[0]
    offset = (place - one.centres[0]).detach()
    height = torch.exp(-0.5 * offset @ inverse @ offset)
    torch.testing.assert_close(jacobian, -height * torch.outer(one.amplitudes[0], inverse @ offset))


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck(ndim: int) -> None:
    sequence = _sequence(WIDE if ndim == 2 else VOLUME, 2)
    positions = torch.rand(ndim, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5

    def displacement(centres: Tensor, sigmas: Tensor, orientation: Tensor, amplitudes: Tensor) -> Tensor:
        return gaussian_displacement(positions, centres[None], precision_matrix(sigmas, orientation)[None], amplitudes[None])

    names = ("centres", "sigmas", "orientation", "amplitudes")
    assert torch.autograd.gradcheck(displacement, tuple(getattr(sequence, n).clone().requires_grad_(True) for n in names))


def test_weights_of_a_batch_are_those_of_each_pair() -> None:
    first, second = _sequence(WIDE, seed=1), _sequence(WIDE, seed=2)
    positions = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centres = torch.stack((first.centres, second.centres))
    precision = torch.stack([precision_matrix(s.sigmas, s.orientation) for s in (first, second)])
    both = gaussian_weights(positions, centres, precision)
    for k in range(2):
        torch.testing.assert_close(both[k], gaussian_weights(positions[k], centres[k : k + 1], precision[k : k + 1])[0])


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_the_sequence_is_the_sum_of_its_parts(grid: Grid) -> None:
    sequence = _sequence(grid, 5)
    parts = [sequence.select(slice(k, k + 1)).displacement_field().vectors for k in range(5)]
    torch.testing.assert_close(sequence.displacement_field().vectors, sum(parts, torch.zeros_like(parts[0])))
    torch.testing.assert_close(sequence.displacement_field(upto=2).vectors, parts[0] + parts[1])
    switched = sequence.select(torch.tensor([True, False, False, True, False]))
    torch.testing.assert_close(switched.displacement_field().vectors, parts[0] + parts[3])
    assert not sequence.displacement_field(upto=0).vectors.any()


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_partial_sums_are_the_fields_after_every_step(grid: Grid) -> None:
    sequence = _sequence(grid, 4)
    sums = sequence.partial_sums()
    assert len(sums) == 5
    for step, vectors in enumerate(sums):
        torch.testing.assert_close(vectors, sequence.displacement_field(upto=step).vectors)
    assert not GaussianSequence.identity(grid).partial_sums().any()


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_the_field_holds_the_exact_value_of_every_pixel(grid: Grid) -> None:
    sequence = _sequence(grid)
    index = torch.stack(
        [torch.zeros(grid.ndim), torch.tensor([n - 1.0 for n in grid.shape]), torch.arange(1.0, grid.ndim + 1)]
    ).double()
    at = sequence.displacement_at(grid.convert_points(index, Space.INDEX, Space.NORMALISED))
    field = sequence.displacement_field().vectors
    for row, place in zip(at, index.long().tolist(), strict=True):
        torch.testing.assert_close(row, field[(slice(None), *place)])


@given(angle=st.floats(0, math.pi, exclude_max=True))
@settings(max_examples=50, deadline=None)
def test_angles_survive_a_round_trip(angle: float) -> None:
    axes = principal_axes(torch.tensor([[angle]], dtype=torch.float64))
    back = float(orientation_of_axes(axes))
    assert min(abs(back - angle), math.pi - abs(back - angle)) < 1e-9
    # An axis has no sign.
    turned = float(orientation_of_axes(-axes))
    assert min(abs(turned - angle), math.pi - abs(turned - angle)) < 1e-9


@given(vector=st.tuples(*[st.floats(-1, 1)] * 3), angle=st.floats(0, math.pi), signs=st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
@settings(max_examples=80, deadline=None)
def test_rotation_vectors_give_back_the_same_gaussian(
    vector: tuple[float, float, float], angle: float, signs: tuple[float, float, float]
) -> None:
    direction = np.array(vector) / max(float(np.linalg.norm(vector)), 1e-9)
    orientation = torch.tensor([(angle * direction).tolist()], dtype=torch.float64)
    axes = principal_axes(orientation)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3, dtype=torch.float64)[None], rtol=0, atol=1e-9)
    back = orientation_of_axes(axes * torch.tensor(signs, dtype=torch.float64)[:, None])
    sigmas = torch.tensor([[0.1, 0.2, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(precision_matrix(sigmas, back), precision_matrix(sigmas, orientation), rtol=1e-6, atol=1e-5)
    assert float(back.norm()) <= math.pi + 1e-9


def test_a_rotation_vector_itself_survives_where_it_is_unique() -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.2, 0.9], [-2.0, 1.0, 1.5], [0.0, 3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(orientation_of_axes(principal_axes(vectors)), vectors, rtol=0, atol=1e-7)


def test_a_flat_angle_is_the_rotation_about_z() -> None:
    angle = 0.7
    flat = principal_axes(torch.tensor([[angle]]))[0]
    solid = principal_axes(torch.tensor([[angle, 0.0, 0.0]]))[0]
    torch.testing.assert_close(solid[:2, 1:], flat)
    torch.testing.assert_close(solid[2], torch.tensor([1.0, 0.0, 0.0]))


def test_drawn_axes_are_the_eigenvectors_of_the_covariance_in_mm() -> None:
    sequence = _sequence(WIDE, 6)
    # Covariance of the Gaussian in mm, from where its normalised principal deviations lie in the world.
    deviations = principal_axes(sequence.orientation) * sequence.sigmas.unsqueeze(-1)
    world = WIDE.convert_vectors(deviations, Space.NORMALISED, Space.WORLD)
    covariance = (world.mT @ world).numpy()
    for k in range(6):
        values, vectors = np.linalg.eigh(covariance[k])
        order = np.argsort(sequence.sigmas_mm()[k].numpy())
        np.testing.assert_allclose(np.sqrt(values), sequence.sigmas_mm()[k].numpy()[order], rtol=1e-9)
        angle = math.radians(float(sequence.angles_deg()[k]))
        drawn = np.array([math.sin(angle), math.cos(angle)])  # y, x in the world
        assert abs(drawn @ vectors[:, int(np.flatnonzero(order == 0)[0])]) == pytest.approx(1, abs=1e-9)


def test_an_angle_in_mm_is_the_angle_asked_for_on_a_wide_anisotropic_frame() -> None:
    straight = replace(WIDE, direction=((1.0, 0.0), (0.0, 1.0)))
    thirty = replace(_sequence(straight, 1), orientation=torch.tensor([[math.pi / 6]]).double())
    assert float(thirty.angles_deg()) == pytest.approx(30)


def test_lengths_in_mm() -> None:
    sequence = _sequence(WIDE)
    torch.testing.assert_close(sequence.amplitudes_mm().norm(dim=1), sequence.amplitudes.norm(dim=1) * WIDE.unit_mm)
    middle = replace(sequence, centres=torch.zeros(4, 2).double())
    expected = WIDE.convert_points(torch.tensor([[15.0, 23.0]]).double(), Space.INDEX, Space.WORLD)
    torch.testing.assert_close(middle.centres_mm(), expected.expand(4, 2))


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
@pytest.mark.parametrize(("factor", "folds"), [(0.97, False), (1.03, True)])
def test_one_step_folds_just_where_the_jacobian_says(grid: Grid, factor: float, folds: bool) -> None:
    one = _sequence(grid, 1, seed=4)
    axes, ndim = principal_axes(one.orientation)[0], grid.ndim
    # |S^-1/2 v| = factor exp(1/2), along no principal axis.
    whitened = torch.nn.functional.normalize(torch.arange(1.0, ndim + 1).double(), dim=0) * factor * math.exp(0.5)
    one = replace(one, amplitudes=((whitened * one.sigmas[0]) @ axes)[None])
    assert bool(one.single_step_folds()) is folds
    around = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 31).double()] * ndim)
    places = one.centres + (around * one.sigmas[0]) @ axes
    width = 1e-5
    columns = [one.displacement_at(places + width * e) - one.displacement_at(places - width * e) for e in torch.eye(ndim).double()]
    determinants = torch.linalg.det(torch.eye(ndim).double() + torch.stack(columns, -1) / (2 * width))
    assert float(determinants.min()) == pytest.approx(1 - factor, abs=0.005)
    assert bool((determinants <= 0).any()) is folds


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_no_step_is_the_identity(grid: Grid) -> None:
    none = GaussianSequence.identity(grid)
    assert len(none) == 0
    assert not none.displacement_field().vectors.any()
    assert none.displacement_at(torch.zeros(3, grid.ndim)).tolist() == [[0.0] * grid.ndim] * 3
    assert none.single_step_folds().shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": torch.zeros(4, 2)}, "sigma must be positive"),
        ({"sigmas": torch.ones(4, 1)}, r"sigmas must have shape \(4, 2\)"),
        ({"orientation": torch.zeros(4, 3)}, r"orientation must have shape \(4, 1\)"),
        ({"amplitudes": torch.full((4, 2), math.nan)}, "amplitudes holds a number that is not finite"),
        ({"centres": torch.full((4, 2), math.inf)}, "centres holds a number that is not finite"),
    ],
)
def test_what_is_no_gaussian_is_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(_sequence(WIDE), **change)


def test_a_volume_has_no_single_angle() -> None:
    with pytest.raises(ValueError, match="only a 2D Gaussian"):
        _sequence(VOLUME).angles_deg()
