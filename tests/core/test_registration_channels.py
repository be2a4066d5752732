"""The fit minimises a sum over channels: its force and curvature are those of all of them, however many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import Square
from r2n2.registration import FitMethod
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Compared, Difference, SquaredDifference
from r2n2.transform import GaussianSequence
from r2n2.transform.matrices import cholesky_rows, upper

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class _Mixed:
    """Channels that are multiples of the intensity; their squares sum to its square where those of the factors sum to 1."""

    factors: tuple[float, ...]
    strength: float = 1.0
    name: str = "ssd"  # so that smooth changes of brightness are taken out of all channels, as out of the intensity

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        return _MixedCompared(SquaredDifference().compare(fixed, moving, displacement, aligned=aligned), self.factors)


@dataclass(frozen=True, eq=False)
class _MixedCompared:
    inner: Compared
    factors: tuple[float, ...]

    @property
    def moving(self) -> Tensor:
        return self.inner.moving

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        one = self.inner.difference(warped, counted)
        return Difference(*(torch.cat([f * part for f in self.factors], 1) for part in one))

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        return self.inner.agreement(warped, counted)


@pytest.mark.parametrize("factors", [(0.6, -0.8), (0.5, 0.5, 0.5, 0.5), (0.1, 0.7, -0.1, 0.7)], ids=len)
def test_channels_whose_squares_sum_to_the_intensity_give_its_result(factors: tuple[float, ...]) -> None:
    fixed, moving, exact = make.moved_pair()
    pairs = make.pairs_of((fixed, moving))
    # As many pixels as there are, so that no method sees another sample of them.
    config = make.FAST_FIT.model_copy(update={"pixels_a_step": 2 * 64**2})
    expected, found = (
        list(FitMethod(config, gaussians=8, measure=measure).register(pairs))[-1].transforms()[0]
        for measure in (SquaredDifference(), _Mixed(factors))
    )
    assert isinstance(expected, GaussianSequence)
    difference = found.displacement_field().vectors - expected.displacement_field().vectors
    assert float(make.error_px(expected, exact).mean()) < 0.3
    assert float(difference.abs().max()) < 2e-3


class _Random:
    """Compares images by random numbers, the same at every call."""

    def __init__(self, channels: int, like: Tensor, grid: Grid) -> None:
        generator = torch.Generator().manual_seed(3)
        shape = (len(like), channels, *grid.shape)
        self.moving = like
        self.residual = torch.randn(shape, generator=generator, dtype=like.dtype)
        self.slope = torch.randn((*shape[:2], grid.ndim, *shape[2:]), generator=generator, dtype=like.dtype)

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        return Difference(self.residual, self.slope)

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("ndim", "channels"), [(2, 1), (2, 2), (2, 5), (3, 2), (3, 6)])
def test_force_and_matrix_are_the_sums_over_channels(ndim: int, channels: int) -> None:
    grid = Grid((17, 21, 19)[:ndim], (1.3, 0.9, 1.1)[:ndim])
    pairs = make.pairs_of(*[make.moved_pair(grid, seed=seed)[:2] for seed in range(2)], grid=grid)
    pairs = replace(pairs, fixed=pairs.fixed.double(), moving=pairs.moving.double())
    config, none = make.FAST_FIT.model_copy(update={"pixels_a_step": 3 * 16**ndim}), WhitenedGaussians.none(2, pairs.moving, ndim)
    built = Level.build(pairs, 16, config, SquaredDifference(), none)
    compared = _Random(channels, built.compared.moving, built.grid)
    level = replace(built, compared=compared)
    generator = torch.Generator().manual_seed(1)
    centres, amplitudes = 0.3 * torch.randn(2, 2, 3, ndim, generator=generator, dtype=torch.float64)
    factors = torch.eye(ndim, dtype=torch.float64).expand(2, 3, ndim, ndim) / 0.3
    model = WhitenedGaussians(centres, factors, 0.1 * amplitudes)
    current = level.assess(model)
    counted = current.weight > 0
    residual, slope = compared.residual.flatten(2) * counted, compared.slope.flatten(3)
    square = residual.square().sum(1, keepdim=True)
    weight = counted / counted.sum((1, 2), keepdim=True) / (1 + square).square()
    force = torch.einsum("bcp,bcip,bkp->bip", residual, slope, weight)
    torch.testing.assert_close(current.force, force)
    expected = sum(
        torch.einsum("bkqp,blrp,bsp->bkqlr", rows := model.projected(level.positions, slope[:, c]), rows, weight)
        for c in range(channels)
    )
    assert isinstance(expected, Tensor)
    matrix = level._data_matrix(model, current, 0)
    # Of volumes what a Gaussian adds beyond 3.4 standard deviations is left out.
    tolerance = 1e-9 if ndim == 2 else 2e-3 * float(expected.abs().max())
    torch.testing.assert_close(matrix, expected.flatten(3).flatten(1, 2), rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_the_rows_of_a_factor_multiply_to_the_matrix_also_where_it_is_singular(ndim: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Single precision, and slopes from 1e-8 to 1e8: a pivot that should be 0 is then rounding of any size.
    scale = 10 ** torch.linspace(-8, 8, 4001)
    slope = torch.randn(channels, ndim, 4001, generator=generator) * scale
    slope[:, :, 7] = 0
    tensor = torch.einsum("cip,cjp->ijp", slope, slope)
    rows = torch.stack([torch.stack(list(row)) for row in cholesky_rows([tensor[i, j] for i, j in upper(ndim)], ndim)])
    largest = tensor.diagonal().amax(1).clamp_min(1e-30)
    error = ((torch.einsum("kip,kjp->ijp", rows, rows) - tensor).abs() / largest).flatten(0, 1).amax(0)
    assert float(error.quantile(0.9)) < 1e-6
    # Curvature decides how fast a minimum is reached, not where it lies: near a singular one a per cent does no harm.
    assert float(error.max()) < 1e-2
