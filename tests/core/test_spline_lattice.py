"""The spline through a coarse lattice: cubics are exact, the network's narrowest Gaussian nearly so, axes are not mixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from r2n2.transform import precision_matrix
from r2n2.transform.gaussians import gaussian_on_lattice
from r2n2.transform.spline_lattice import on_lattice, spline_matrix

DOUBLE = torch.zeros((), dtype=torch.float64)


def _lattice(size: int) -> Tensor:
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))


@pytest.mark.parametrize(("size", "coarse"), [(23, 9), (7, 12), (10, 5), (5, 5)])
def test_polynomials_of_the_third_degree_are_exact_up_to_the_edges(size: int, coarse: int) -> None:
    def field(lattice: Tensor) -> Tensor:
        y, x = lattice
        return torch.stack((y**3 - 2 * x * y + 0.3, x**3 * y**2 - 0.5 * y))[None]

    found = on_lattice(field(_lattice(coarse)), spline_matrix(size, coarse, DOUBLE))
    torch.testing.assert_close(found, field(_lattice(size)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [192, 128, 32])
def test_the_networks_narrowest_gaussian_is_kept(size: int) -> None:
    """From its square of 64: a standard deviation of 0.06, narrowed by exp(0.7), whose pixels are 0.032."""
    narrowest = 0.06 * math.exp(-0.7)
    centres, orientation = torch.tensor([[0.013, -0.4]]).double(), torch.tensor([[0.6]]).double()
    for sigmas, off in ((narrowest, 0.02), (0.06, 1e-3)):
        precision = precision_matrix(torch.tensor([[sigmas, 2 * sigmas]]).double(), orientation)
        coarse, exact = (gaussian_on_lattice(_lattice(n), centres, precision)[:, None] for n in (64, size))
        found = on_lattice(coarse, spline_matrix(size, 64, DOUBLE))
        assert float((found - exact).abs().max()) < off


def test_three_axes_are_each_multiplied() -> None:
    field = torch.randn(2, 3, 6, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = spline_matrix(9, 6, DOUBLE)
    expected = torch.einsum("ia,jb,kc,npabc->npijk", matrix, matrix, matrix, field)
    torch.testing.assert_close(on_lattice(field, matrix), expected, rtol=0, atol=1e-12)


def test_a_lattice_without_room_for_a_cubic_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 points, got 4"):
        spline_matrix(9, 4, DOUBLE)
