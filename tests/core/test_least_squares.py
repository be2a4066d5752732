"""What images say about the next Gaussian, against brute force and least squares: moments, gains, amplitudes, their limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import registration_factory as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from r2n2.config import NetworkConfig
from r2n2.geometry import Grid
from r2n2.network import GaussianParameters, MatchingPursuit
from r2n2.network.least_squares import (
    ROUGHNESS,
    WIDTHS,
    LeastSquares,
    Pooling,
    gather_moments,
    limit_steepness,
    solve_amplitude,
    solve_everywhere,
)
from r2n2.registration import Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.registration.recurrent_steps import Comparison, advance, begin, compare, prepare
from r2n2.similarity import mean_squared_error
from r2n2.transform import GaussianSequence, jacobian_determinant, precision_matrix, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

LATTICE = 16
STEEPEST = 1.4
FRAME = Grid((61, 83), (1.7, 0.9), (3.0, -8.0))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _images(size: int, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed and warped (B, 3, m, m), and which pixels count: not those of a corner that differs between the pairs."""
    counted = torch.ones(batch, 1, size, size, dtype=torch.bool)
    for k in range(batch):
        counted[k, :, : 3 + k, : 5 - k] = False
    return 2 * _random(batch, 3, size, size, seed=seed), 2 * _random(batch, 3, size, size, seed=seed + 1), counted


def _axis(size: int) -> NDArray[np.float64]:
    return np.linspace(-1, 1, size)


def _moments(seed: int = 0, scales: tuple[int, ...] = (23, LATTICE)) -> tuple[Tensor, Pooling]:
    pooling = Pooling.build(scales, LATTICE, torch.zeros(1, dtype=torch.float64))
    gathered = [gather_moments(*_images(size, seed + 7 * size), pooling, scale) for scale, size in enumerate(scales)]
    return torch.stack(gathered, 1), pooling


def test_pixels_are_shared_among_the_nearest_points_at_their_place() -> None:
    for size in (LATTICE, 23, 64):
        (matrix,) = Pooling.build((size,), LATTICE, torch.zeros(1, dtype=torch.float64)).matrices
        np.testing.assert_allclose(matrix.sum(0), 1)
        np.testing.assert_allclose(matrix.mT @ torch.from_numpy(_axis(LATTICE)), _axis(size), atol=1e-12)
        assert int((matrix > 1e-12).sum(0).max()) <= 2
    np.testing.assert_allclose(Pooling.build((LATTICE,), LATTICE, matrix).matrices[0], np.eye(LATTICE), atol=1e-12)
    (spread,) = Pooling.build((9,), LATTICE, matrix).matrices
    np.testing.assert_allclose(spread.sum(0), 1)
    assert (spread.sum(1) > 0).all()


@pytest.mark.parametrize("size", [9, LATTICE, 23])
def test_moments_are_sums_over_the_pixels_that_count(size: int) -> None:
    fixed, warped, counted = _images(size)
    pooling = Pooling.build((size,), LATTICE, fixed)
    (matrix,) = pooling.matrices
    found = gather_moments(fixed, warped, counted, pooling, 0)
    expected = np.zeros((2, 5, LATTICE, LATTICE))
    for pair in range(2):
        for row in range(size):
            for column in range(size):
                if not counted[pair, 0, row, column]:
                    continue
                f, w = (images[pair, :, row, column].numpy() for images in (fixed, warped))
                residual, (y, x) = w[0] - f[0], (w[1:] + f[1:]) / 2
                # Derivative of r^2 / (1 + r^2 / 9) in r^2.
                weight = 1 / (1 + residual**2 / 9) ** 2 / int(counted[pair].sum())
                values = weight * np.array([residual * y, residual * x, y * y, y * x, x * x])
                share = np.outer(matrix[:, row], matrix[:, column])
                expected[pair] += values[:, None, None] * share
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_pixels_that_do_not_count_may_hold_anything_and_a_pair_without_any_says_nothing() -> None:
    fixed, warped, counted = _images(23)
    pooling = Pooling.build((23,), LATTICE, fixed)
    spoilt = [torch.where(counted, images, 1e3 * images - 50) for images in (fixed, warped)]
    assert torch.equal(gather_moments(*spoilt, counted, pooling, 0), gather_moments(fixed, warped, counted, pooling, 0))
    assert not gather_moments(fixed, warped, torch.zeros_like(counted), pooling, 0).any()


def _steps(moments: NDArray[np.float64], sigma: float, row: int, column: int) -> tuple[NDArray[np.float64], float, float]:
    """Amplitude, gain and steepness of the round Gaussian about the second points of that row and column, by brute force."""
    axis = _axis(LATTICE)
    window = np.exp(-0.5 * ((axis[:, None] - axis[2 * row]) ** 2 + (axis[None] - axis[2 * column]) ** 2) / sigma**2)
    force = (moments[:2] * window).sum((1, 2))
    yy, yx, xx = (moments[2:] * window**2).sum((1, 2))
    matrix = np.array([[yy, yx], [yx, xx]]) + ROUGHNESS * math.pi / 4 * np.eye(2)
    amplitude = np.linalg.solve(matrix, -force)
    return amplitude, float(-0.5 * amplitude @ force), float(np.linalg.norm(amplitude) / sigma)


def test_gains_and_amplitudes_are_those_of_every_place_and_width() -> None:
    moments, pooling = _moments()
    moments = 30 * moments  # so that some amplitudes are too steep
    moments[:, :, 2:] /= 30
    seen = solve_everywhere(moments, pooling)
    half = LATTICE // 2
    assert seen.gains.shape == (2, 2, len(WIDTHS), half, half)
    steep = 0.0
    for pair, scale, k, row, column in np.random.default_rng(0).integers(0, [2, 2, len(WIDTHS), half, half], (60, 5)):
        amplitude, gain, steepness = _steps(moments[pair, scale].numpy(), WIDTHS[k], row, column)
        assert float(seen.gains[pair, scale, k, row, column]) == pytest.approx(gain, rel=1e-9)
        limited = amplitude / math.sqrt(1 + (steepness / STEEPEST) ** 2)
        np.testing.assert_allclose(seen.amplitudes[pair, scale, k, :, row, column], limited, rtol=1e-9)
        steep = max(steep, steepness)
    assert steep > STEEPEST
    widths = torch.tensor(WIDTHS).view(-1, 1, 1)
    assert float((seen.amplitudes.norm(dim=3) / widths).max()) < STEEPEST


def test_channels_show_gains_as_shares_of_the_largest_and_how_large_that_is() -> None:
    moments, pooling = _moments()
    seen = solve_everywhere(moments, pooling)
    count = len(WIDTHS) + 2
    assert seen.channels.shape[1] == LeastSquares.channel_count(2) == 2 * count + 1
    shown = seen.channels[:, :-1].unflatten(1, (2, count))
    largest = seen.gains.flatten(1).amax(1)
    torch.testing.assert_close(shown[:, :, : len(WIDTHS)].square() * largest.view(-1, 1, 1, 1, 1), seen.gains.clamp_min(0))
    torch.testing.assert_close(shown[:, :, len(WIDTHS) :], torch.tanh(seen.amplitudes[:, :, -1] / WIDTHS[-1]))
    overall = torch.log10(largest) / 4 + 0.5
    torch.testing.assert_close(seen.channels[:, -1], overall.view(-1, 1, 1).expand_as(seen.channels[:, -1]))


def _gaussian(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, unequal standard deviations and angle, (1, ...)."""
    draw = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1.4 * draw[None, :2] - 0.7, torch.stack((0.1 + 0.3 * draw[2], 0.05 + 0.1 * draw[3]))[None], math.pi * draw[None, 4:]


def _lattice(size: int = LATTICE) -> Tensor:
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))


def _weight(places: Tensor, centre: Tensor, sigmas: Tensor, angle: Tensor) -> Tensor:
    """Of places (2, ...), from the axes: axis 1 is turned by the angle from x towards y."""
    y, x = places - centre[0].view(2, *[1] * (places.ndim - 1))
    along, across = x * torch.cos(angle[0]) + y * torch.sin(angle[0]), y * torch.cos(angle[0]) - x * torch.sin(angle[0])
    return torch.exp(-0.5 * ((along / sigmas[0, 0]) ** 2 + (across / sigmas[0, 1]) ** 2))


@pytest.mark.parametrize("seed", range(6))
def test_the_amplitude_is_the_least_squares_solution(seed: int) -> None:
    centre, sigmas, angle = _gaussian(seed)
    mixture, caution = torch.tensor([[0.3, 0.7]], dtype=torch.float64), torch.tensor([[1.7]], dtype=torch.float64)
    pooling = Pooling.build((LATTICE, LATTICE), LATTICE, centre)
    scales = [_images(LATTICE, 10 * seed + k, batch=1) for k in (2, 5)]
    moments = torch.stack([gather_moments(*images, pooling, 0) for images in scales], 1)
    found = solve_amplitude(moments, _lattice(), centre, sigmas, angle, mixture, caution)
    window = _weight(_lattice(), centre, sigmas, angle)
    rows, right = [], []
    for (fixed, warped, counted), share in zip(scales, mixture[0], strict=True):
        residual = (warped - fixed)[0, 0]
        root = (share * counted[0, 0] / counted.sum()).sqrt() / (1 + residual**2 / 9)
        slope = 0.5 * (fixed + warped)[0, 1:]
        rows.append((root * window * slope).flatten(1).mT)
        right.append((-root * residual).flatten())
    # Mean squared gradient of the Gaussian, over all of space but as a share of the square's area 4.
    step = 0.01
    far = torch.arange(-4, 4, step, dtype=torch.float64)
    wide = _weight(torch.stack(torch.meshgrid(far, far, indexing="ij")), centre, sigmas, angle)
    rough = sum(float((wide.diff(dim=axis) / step).square().sum()) * step**2 / 4 for axis in (0, 1))
    rows.append(math.sqrt(ROUGHNESS * 1.7 * rough) * torch.eye(2, dtype=torch.float64))
    right.append(torch.zeros(2, dtype=torch.float64))
    expected, *_ = np.linalg.lstsq(torch.cat(rows).numpy(), torch.cat(right).numpy(), rcond=None)
    assert np.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(found[0], expected, rtol=2e-3, atol=1e-5)


def test_the_amplitude_is_differentiable_in_all_the_network_gives() -> None:
    moments, _ = _moments(3)
    parts = [torch.cat(values) for values in zip(_gaussian(1), _gaussian(2), strict=True)]
    mixture = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    caution = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (*parts, mixture, caution)]
    assert torch.autograd.gradcheck(lambda *values: solve_amplitude(moments, _lattice(), *values), inputs)
    amplitudes = _random(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(limit_steepness, (amplitudes, *inputs[1:3]))


def test_more_caution_makes_a_shorter_amplitude() -> None:
    moments, _ = _moments(3)
    parts = [value.expand(2, -1) for value in _gaussian(1)]
    mixture = torch.full((2, 2), 0.5, dtype=torch.float64)
    lengths = [
        solve_amplitude(moments, _lattice(), *parts, mixture, torch.full((2, 1), factor, dtype=torch.float64)).norm(dim=1)
        for factor in (0.01, 1.0, 100.0, 1e6)
    ]
    assert all((longer > shorter).all() for longer, shorter in itertools.pairwise(lengths))
    assert float(lengths[-1].max()) < 1e-3 * float(lengths[0].min())


@given(
    st.floats(0.03, 0.6),
    st.floats(0.03, 0.6),
    st.floats(0, math.pi),
    st.floats(0, 2 * math.pi),
    st.floats(1e-6, 1e3),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_no_gaussian_folds(first: float, second: float, angle: float, direction: float, length: float, tiny: bool) -> None:
    sigmas, orientation = torch.tensor([[first, second]]).double(), torch.tensor([[angle]]).double()
    given_amplitude = torch.tensor([[math.cos(direction), math.sin(direction)]]).double() * length * (1e-6 if tiny else 1)
    kept = limit_steepness(given_amplitude, sigmas, orientation)
    before, steepness = (float((v @ precision_matrix(sigmas, orientation)[0] @ v.mT).sqrt()) for v in (given_amplitude, kept))
    assert steepness < STEEPEST
    assert steepness == pytest.approx(before / math.sqrt(1 + (before / STEEPEST) ** 2), rel=1e-6)
    # The smallest Jacobian determinant of one Gaussian is 1 - |S^-1/2 v| e^-1/2.
    assert 1 - steepness * math.exp(-0.5) > 0.15
    torch.testing.assert_close(kept / kept.norm(), given_amplitude / given_amplitude.norm())


def test_the_steepest_gaussian_is_steep_but_does_not_fold() -> None:
    grid = Grid((201, 201))
    shape = (torch.zeros(1, 2).double(), torch.tensor([[0.3, 0.15]]).double(), torch.tensor([[0.6]]).double())
    amplitude = limit_steepness(torch.tensor([[5.0, -9.0]]).double(), *shape[1:])
    smallest = [
        float(
            jacobian_determinant(GaussianSequence(*shape, factor * amplitude, grid).displacement_field().vectors[None], grid).min()
        )
        for factor in (1.0, 1.3)
    ]
    assert 0 < smallest[0] < 0.3
    assert smallest[1] < 0


CONFIG = NetworkConfig(channels=(2, 3, 4, 6), least_squares_sizes=(16, 32, 64), working_size=64, keep_probability=1.0)


def _network(seed: int = 0, spread: float = 0.0, config: NetworkConfig = CONFIG) -> MatchingPursuit:
    """Untrained, or with every number random."""
    torch.manual_seed(seed)
    network = MatchingPursuit(config).eval()
    for parameter in network.parameters() if spread else ():
        torch.nn.init.normal_(parameter, std=spread)
    return network


def _one_gaussian(
    centre: tuple[float, float], amplitude: tuple[float, float], sigma: float = 0.17
) -> tuple[Pairs, GaussianSequence]:
    """A textured frame moved by one round Gaussian; fixed(x) = moving(x + f(x))."""
    exact = GaussianSequence(torch.tensor([centre]), torch.full((1, 2), sigma), torch.zeros(1, 1), torch.tensor([amplitude]), FRAME)
    moving = make.texture(FRAME.shape, 4)
    return make.pairs_of((warp_image(moving, exact), moving), grid=FRAME), exact


def _compared(pairs: Pairs, config: NetworkConfig = CONFIG) -> Comparison:
    squares = prepare(config, pairs, torch.zeros(1))
    return compare(squares, begin(_network(config=config), squares).displacements)


@pytest.mark.parametrize(("centre", "amplitude"), [((0.2, -0.3), (0.05, 0.02)), ((-0.35, 0.4), (-0.02, 0.05))])
def test_the_best_place_is_where_one_known_gaussian_moved_the_image(
    centre: tuple[float, float], amplitude: tuple[float, float]
) -> None:
    pairs, exact = _one_gaussian(centre, amplitude)
    seen = _compared(pairs).least_squares
    assert seen is not None
    best = int(seen.gains[0].argmax())
    _, width, row, column = np.unravel_index(best, seen.gains[0].shape)
    place = torch.linspace(-1, 1, CONFIG.working_size)[::2][torch.tensor([row, column])]
    assert float((place - exact.centres[0]).norm()) < 0.1
    assert WIDTHS[width] in (0.17, 0.1)
    found = seen.amplitudes[0].flatten(0, 1)[best // seen.gains[0, 0, 0].numel(), :, row, column]
    assert float((found - exact.amplitudes[0]).norm()) < 0.4 * float(exact.amplitudes[0].norm())


def test_images_that_are_equal_ask_for_no_motion() -> None:
    image = make.texture(FRAME.shape)
    pairs = make.pairs_of((image, image), grid=FRAME)
    seen = _compared(pairs)
    assert seen.least_squares is not None
    assert float(seen.least_squares.gains.abs().max()) < 1e-9
    assert float(seen.least_squares.amplitudes.abs().max()) < 1e-5
    assert seen.least_squares.channels.isfinite().all()
    (last,) = RecurrentMethod(_network(), steps=1).register(pairs)
    moved = last.transforms()[0].displacement_field()
    assert float(moved.magnitude_mm().max()) < 1e-3 * min(FRAME.spacing)


def test_pixels_that_are_not_measured_do_not_count_wherever_they_lie() -> None:
    pairs, _ = _one_gaussian((0.2, -0.3), (0.05, 0.02))
    valid = pairs.fixed_valid.clone()
    valid[..., 10:25, 30:60] = False
    found = []
    for filling in (-1e4, 0.0, 123.0):
        moving = torch.where(valid, pairs.moving, filling)
        fixed = torch.where(valid.flip(-1), pairs.fixed, -filling)
        seen = _compared(Pairs(fixed, moving, valid.flip(-1), valid, FRAME)).least_squares
        assert seen is not None
        found.append(seen.moments)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_a_hole_in_one_of_two_equal_images_asks_for_no_motion_if_it_is_masked(which: str) -> None:
    image = make.texture(FRAME.shape)[None]
    whole = torch.ones_like(image, dtype=torch.bool)
    valid = whole.clone()
    valid[..., 20:40, 25:60] = False
    holed = torch.where(valid, image, image[valid].mean())
    largest = []
    for mask in (valid, whole):
        images, masks = ((holed, image), (mask, whole)) if which == "fixed" else ((image, holed), (whole, mask))
        seen = _compared(Pairs(*images, *masks, FRAME)).least_squares
        assert seen is not None
        largest.append(float(seen.gains.max()))
    assert largest[0] < 0.3 * largest[1]


def test_an_untrained_network_recovers_a_known_motion_by_least_squares() -> None:
    fixed, moving, exact = make.moved_pair(FRAME, 0.06, seed=1)
    steps = list(RecurrentMethod(_network(), steps=12).register(make.pairs_of((fixed, moving), grid=FRAME)))
    still = float(make.error_px(GaussianSequence.identity(FRAME), exact).mean())
    errors = [float(make.error_px(steps[k].transforms()[0], exact).mean()) for k in (0, 3, 11)]
    assert still > 0.8
    assert errors[0] < 0.8 * still
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.35 * still
    before = _compared(make.pairs_of((fixed, moving), grid=FRAME))
    assert float(steps[-1].loss[0]) < 0.1 * float(mean_squared_error(before.fixed, before.warped, before.valid))


def _parameters(network: MatchingPursuit, pairs: Pairs, steps: int = 3) -> list[GaussianParameters]:
    squares = prepare(network.config, pairs, network.entry.weight)
    progress, found = begin(network, squares), []
    with torch.no_grad():
        for _ in range(steps):
            step, progress = advance(network, squares, progress, compare(squares, progress.displacements))
            found.append(step.parameters)
    return found


def test_every_pair_is_on_its_own_and_their_order_does_not_matter() -> None:
    images = [make.moved_pair(FRAME, 0.04, seed=seed)[:2] for seed in range(3)]
    network = _network(spread=0.15)
    together = _parameters(network, make.pairs_of(*images, grid=FRAME))
    turned = _parameters(network, make.pairs_of(*(images[k] for k in (2, 0, 1)), grid=FRAME))
    for pair in range(3):
        alone = _parameters(network, make.pairs_of(images[pair], grid=FRAME))
        for step in range(3):
            for one, several, moved in zip(alone[step], together[step], turned[step], strict=True):
                torch.testing.assert_close(several[pair], one[0], rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(moved[(pair + 1) % 3], one[0], rtol=1e-3, atol=1e-5)
    # And the pairs do differ.
    assert float((together[-1].centres[0] - together[-1].centres[1]).norm()) > 0.01
