"""Registration by the network on non-square, anisotropic frames: exact bookkeeping, no memory, every pair on its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.network import R2N2, GaussianParameters, State, Step, Unchanging
from r2n2.network.joint import Placed
from r2n2.network.least_squares import LeastSquares
from r2n2.preprocessing import normalise, to_square
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.transform import DisplacementField, GaussianSequence, Transform, normalised_lattice, warp

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((23, 37), (2.5, 1.25), (10.0, -4.0), ((0.0, -1.0), (1.0, 0.0)))
NAMES = ("centres", "sigmas", "orientation", "amplitudes")


def _network(ndim: int = 2, size: int = 32) -> R2N2:
    torch.manual_seed(0)
    network = R2N2(NetworkConfig(channels=(2, 3, 4, 6), working_size=size), ndim).eval()
    torch.nn.init.normal_(network.parameter_head.output.weight, std=0.05)
    return network


def _pairs(batch: int = 2, grid: Grid = GRID, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    fixed, moving = (100 + 20 * torch.randn(batch, 1, *grid.shape, generator=generator) for _ in range(2))
    valid = torch.ones(fixed.shape, dtype=torch.bool)
    return Pairs(fixed, moving, valid, valid, grid)


def _part(pairs: Pairs, keep: slice) -> Pairs:
    return Pairs(pairs.fixed[keep], pairs.moving[keep], pairs.fixed_valid[keep], pairs.moving_valid[keep], pairs.grid)


def _register(method: RecurrentMethod, pairs: Pairs, start: list[GaussianSequence] | None = None) -> list[RegistrationStep]:
    return list(method.register(pairs, start=start))


def _sequences(step: RegistrationStep) -> tuple[GaussianSequence, ...]:
    found = step.transforms()
    assert all(isinstance(transform, GaussianSequence) for transform in found)
    return found  # type: ignore[return-value]


def _same(a: GaussianSequence, b: GaussianSequence, tolerance: float = 0.0) -> None:
    for name in NAMES:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance)


class _Scripted(R2N2):
    """A network that says what it is told, and remembers what it saw (the test's own memory, not the method's)."""

    def __init__(self, script: list[GaussianParameters], size: int = 32) -> None:
        super().__init__(NetworkConfig(channels=(1, 1, 1, 2), working_size=size))
        self.script = script
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.eval()

    def step(
        self,
        fixed: Tensor,
        warped: Tensor,
        state: State,
        *,
        least_squares: LeastSquares | None = None,
        placed: Placed | None = None,
        generator: torch.Generator | None = None,
        unchanging: Unchanging | None = None,
    ) -> Step:
        self.seen.append((fixed.clone(), warped.clone()))
        given = self.script[len(self.seen) - 1]
        return Step(GaussianParameters(*(values[: len(fixed)] for values in given)), state, None)


def _gaussian(batch: int, amplitude: tuple[float, float], sigma: float = 0.3) -> GaussianParameters:
    def repeat(*values: float) -> Tensor:
        return torch.tensor([values]).repeat(batch, 1)

    return GaussianParameters(repeat(0.1, -0.2), repeat(sigma, sigma / 2), repeat(0.4), repeat(*amplitude))


def test_it_is_a_method() -> None:
    method: Method = RecurrentMethod(_network(), steps=1)
    assert method.name == "r2n2"


def test_it_yields_after_every_step_and_each_step_keeps_its_own_transforms() -> None:
    pairs = _pairs()
    steps = _register(RecurrentMethod(_network(), steps=4), pairs)
    assert [(step.index, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    last = _sequences(steps[-1])
    for step in steps:
        assert step.loss.shape == (2,)
        for pair, sequence in enumerate(_sequences(step)):
            assert len(sequence) == step.index
            assert sequence.grid == pairs.grid
            _same(sequence, last[pair].select(slice(0, step.index)))


def test_steps_are_summed_and_the_original_moving_image_is_warped() -> None:
    script = [_gaussian(1, (0.2, -0.1)), _gaussian(1, (-0.05, 0.3), 0.2), _gaussian(1, (0.1, 0.1))]
    network = _Scripted(script)
    pairs = _pairs(1)
    steps = _register(RecurrentMethod(network, steps=3), pairs)
    square = to_square(pairs.moving, pairs.moving_valid, GRID, 32)
    moving = normalise(square.images, square.valid)
    torch.testing.assert_close(network.seen[0][1], moving, rtol=0, atol=1e-4)
    for index in (1, 2):
        sequence = replace(_sequences(steps[index - 1])[0], grid=square.grid)
        expected = warp(moving, sequence.displacement_field().vectors[None], square.grid).image
        torch.testing.assert_close(network.seen[index][1], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(expected, moving, atol=0.1)
        assert torch.equal(network.seen[index][0], network.seen[0][0])


def test_the_loss_is_the_masked_error_on_the_square() -> None:
    pairs = _pairs(1)
    fixed_valid = pairs.fixed_valid.clone()
    fixed_valid[..., :, 30:] = False
    pairs = replace(pairs, fixed_valid=fixed_valid)
    (step,) = _register(RecurrentMethod(_Scripted([_gaussian(1, (0.0, 0.0))]), steps=1), pairs)
    fixed, moving = to_square(pairs.fixed, fixed_valid, GRID, 32), to_square(pairs.moving, pairs.moving_valid, GRID, 32)
    both = fixed.valid & moving.valid
    assert 0.3 < both.float().mean() < 0.95
    difference = normalise(fixed.images, fixed.valid) - normalise(moving.images, moving.valid)
    torch.testing.assert_close(step.loss, difference[both].square().mean()[None], rtol=1e-3, atol=1e-4)


def test_pixels_of_the_moving_frame_without_measurement_do_not_count_wherever_they_are_moved_to() -> None:
    grid = Grid((32, 32))
    valid = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    hole = valid.clone()
    hole[..., 10:14, 20:24] = False
    # A shift by 4 pixels along x everywhere: the hole is seen 4 pixels before its place.
    shift = GaussianParameters(torch.zeros(1, 2), torch.full((1, 2), 50.0), torch.zeros(1, 1), torch.tensor([[0.0, 8 / 31]]))
    fixed = image.roll(-4, dims=3)
    (step,) = _register(RecurrentMethod(_Scripted([shift]), steps=1), Pairs(fixed, image, valid, valid, grid))
    spoilt = image.clone()
    spoilt[~hole] = image.mean()
    (masked,) = _register(RecurrentMethod(_Scripted([shift]), steps=1), Pairs(fixed, spoilt, valid, hole, grid))
    (counted,) = _register(RecurrentMethod(_Scripted([shift]), steps=1), Pairs(fixed, spoilt, valid, valid, grid))
    assert float(step.loss) < 1e-3
    assert float(masked.loss) < 2e-3
    assert float(counted.loss) > 10 * float(masked.loss)


def test_it_is_the_networks_steps_with_the_state_handed_on() -> None:
    network, pairs = _network(), _pairs(2)
    sequences = _sequences(_register(RecurrentMethod(network, steps=3), pairs)[-1])
    squares = [to_square(images, pairs.fixed_valid, GRID, 32) for images in (pairs.fixed, pairs.moving)]
    fixed, moving = (normalise(square.images, square.valid) for square in squares)
    grid = squares[0].grid
    state, displacement, warped = network.initial_state(2, 32), torch.zeros(2, 2, 32, 32), moving
    for step in range(3):
        parameters, state, *_ = network.step(fixed, warped, state)
        displacement = displacement + parameters.displacement(normalised_lattice(grid, fixed))
        warped = warp(moving, displacement, grid).image
        for name in NAMES:
            found = torch.stack([getattr(sequence, name)[step] for sequence in sequences])
            torch.testing.assert_close(found, getattr(parameters, name).detach(), rtol=1e-6, atol=1e-6)


def test_what_is_moved_in_from_outside_does_not_count_as_agreement() -> None:
    """A moving image whose only difference lies where fixed points map to outside of it."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:24, 8:24] = 1.0
    fixed = image.clone()
    fixed[..., :, 26:] = 5.0
    grid = Grid((32, 32))
    valid = torch.ones(image.shape, dtype=torch.bool)
    wide = GaussianParameters(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.1]]), torch.tensor([[math.pi / 2]]), torch.tensor([[0.0, 1.0]])
    )
    losses = []
    for amplitude in (0.0, 1.0):
        script = [wide._replace(amplitudes=amplitude * wide.amplitudes)]
        losses.append(_register(RecurrentMethod(_Scripted(script), steps=1), Pairs(fixed, image, valid, valid, grid))[0].loss)
    assert losses[1] < 0.8 * losses[0]


def test_a_batch_equals_single_pairs_and_history_does_not_matter() -> None:
    method = RecurrentMethod(_network(), steps=6)
    pairs = _pairs(3)
    together = _register(method, pairs)
    list(zip(method.register(_pairs(1, seed=5)), range(2), strict=False))  # left unfinished
    again = _register(method, pairs)
    for first, second in zip(together, again, strict=True):
        assert torch.equal(first.loss, second.loss)
    for pair in range(3):
        alone = _register(method, _part(pairs, slice(pair, pair + 1)))
        torch.testing.assert_close(alone[-1].loss[0], together[-1].loss[pair], rtol=1e-3, atol=1e-4)
        _same(_sequences(alone[-1])[0], _sequences(together[-1])[pair], 1e-3)
        _same(_sequences(again[-1])[pair], _sequences(together[-1])[pair])


def test_two_registrations_can_be_interleaved() -> None:
    method = RecurrentMethod(_network(), steps=3)
    first, second = _pairs(1), _pairs(1, Grid((31, 18), (0.7, 3.0)), seed=1)
    expected = [_sequences(_register(method, pairs)[-1])[0] for pairs in (first, second)]
    *_, (a, b) = zip(method.register(first), method.register(second), strict=True)
    _same(_sequences(a)[0], expected[0])
    _same(_sequences(b)[0], expected[1])


@pytest.mark.parametrize("grid", [Grid((7, 61), (0.3, 4.0)), Grid((64, 9)), Grid((40, 40), (1.5, 1.5)), Grid((1, 17), (2.0, 1.0))])
def test_any_frame_shape(grid: Grid) -> None:
    pairs = _pairs(2, grid)
    last = _register(RecurrentMethod(_network(), steps=2), pairs)[-1]
    for sequence in _sequences(last):
        field = sequence.displacement_field()
        assert field.vectors.shape == (2, *grid.shape)
        assert (sequence.centres.abs() <= 1).all()
    assert bool(last.loss.isfinite().all())


def test_the_same_tissue_in_other_pixels_gives_the_same_deformation_in_mm() -> None:
    """A frame and its transposed sampling density hold the same scene, so the network must see the same square."""
    method = RecurrentMethod(_network(), steps=3)

    def scene(grid: Grid) -> Pairs:
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid.shape), indexing="ij"), -1)
        y, x = grid.convert_points(index, Space.INDEX, Space.WORLD).unbind(-1)
        fixed, moving = torch.sin(y / 9) + torch.cos(x / 13), torch.sin((y + 3) / 9) + torch.cos((x - 4) / 13)
        valid = torch.ones(1, 1, *grid.shape, dtype=torch.bool)
        return Pairs(fixed[None, None], moving[None, None], valid, valid, grid)

    coarse_y, coarse_x = Grid((41, 161), (2.0, 0.5)), Grid((161, 41), (0.5, 2.0))
    found = [_sequences(_register(method, scene(grid))[-1])[0] for grid in (coarse_y, coarse_x)]
    torch.testing.assert_close(found[0].centres_mm(), found[1].centres_mm(), rtol=0, atol=2.0)
    torch.testing.assert_close(found[0].sigmas_mm(), found[1].sigmas_mm(), rtol=0.1, atol=0.1)
    torch.testing.assert_close(found[0].amplitudes_mm(), found[1].amplitudes_mm(), rtol=0.1, atol=1.0)


def test_intensity_scale_and_offset_do_not_matter() -> None:
    method, pairs = RecurrentMethod(_network(), steps=3), _pairs(1)
    scaled = replace(pairs, moving=7 * pairs.moving - 300, fixed=0.01 * pairs.fixed)
    first, second = (_sequences(_register(method, p)[-1])[0] for p in (pairs, scaled))
    _same(first, second, 1e-2)


def test_start_is_where_it_begins_and_comes_first_in_the_result() -> None:
    network = _network()
    pairs = _pairs(2)
    first = _sequences(_register(RecurrentMethod(network, steps=3), pairs)[-1])
    last = _register(RecurrentMethod(network, steps=2), pairs, list(first))[-1]
    for sequence, start in zip(_sequences(last), first, strict=True):
        assert len(sequence) == 5
        _same(sequence.select(slice(0, 3)), start)
    scripted = _Scripted([_gaussian(2, (0.0, 0.0))])
    _register(RecurrentMethod(scripted, steps=1), pairs, list(first))
    square = to_square(pairs.moving, pairs.moving_valid, GRID, 32)
    vectors = torch.stack([replace(start, grid=square.grid).displacement_field().vectors for start in first])
    expected = warp(normalise(square.images, square.valid), vectors, square.grid).image
    torch.testing.assert_close(scripted.seen[0][1], expected, rtol=0, atol=1e-5)


def test_an_identity_start_is_no_start() -> None:
    method, pairs = RecurrentMethod(_network(), steps=2), _pairs(1)
    _same(
        _sequences(_register(method, pairs, [GaussianSequence.identity(GRID)])[-1])[0], _sequences(_register(method, pairs)[-1])[0]
    )


@pytest.mark.parametrize(
    ("start", "match"),
    [
        ([], "expected one transform a pair, 1, got 0"),
        ([DisplacementField.identity(GRID)], "GaussianSequence only, got DisplacementField"),
        ([GaussianSequence.identity(Grid((23, 37)))], "does not share"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start: list[Transform], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        next(RecurrentMethod(_network(), steps=1).register(_pairs(1), start=start))


@pytest.mark.parametrize("bad", ["amplitudes", "centres", "sigmas", "zero sigma"])
def test_a_displacement_that_is_not_finite_stops_its_pair_only(bad: str) -> None:
    script = [_gaussian(2, (0.1, 0.05)) for _ in range(4)]
    broken = script[2]
    if bad == "zero sigma":
        broken.sigmas[1, 0] = 0.0
    else:
        getattr(broken, bad)[1, 1] = float("nan")
    network = _Scripted(script)
    steps = _register(RecurrentMethod(network, steps=4), _pairs(2))
    assert [len(warped) for _, warped in network.seen] == [2, 2, 2, 1]
    assert [step.loss.isfinite().tolist() for step in steps] == [[True, True], [True, True], [True, False], [True, False]]
    assert [[len(sequence) for sequence in _sequences(step)] for step in steps] == [[1, 1], [2, 2], [3, 2], [4, 2]]
    assert all(bool(s.displacement_field().vectors.isfinite().all()) for s in _sequences(steps[-1]))


def test_not_finite_state_of_one_pair_does_not_reach_the_others() -> None:
    network, pairs = _network(), _pairs(2)
    poisoned = replace(pairs, moving=torch.stack((pairs.moving[0], torch.full_like(pairs.moving[1], float("nan")))))
    clean = _register(RecurrentMethod(network, steps=3), _part(pairs, slice(0, 1)))[-1]
    mixed = _register(RecurrentMethod(network, steps=3), poisoned)[-1]
    _same(_sequences(clean)[0], _sequences(mixed)[0], 1e-4)
    assert mixed.loss.isnan().tolist() == [False, True]
    assert len(_sequences(mixed)[1]) == 0


def test_gradients_stay_on_for_the_caller_and_results_can_be_refined() -> None:
    for step in RecurrentMethod(_network(), steps=2).register(_pairs(1)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        amplitudes = _sequences(step)[0].amplitudes.requires_grad_()
        amplitudes.square().sum().backward()
        assert amplitudes.grad is not None
        assert not step.loss.is_inference()


def test_nothing_is_left_on_the_network_or_the_method() -> None:
    network = _network()
    method, before = RecurrentMethod(network, steps=2), {name: value.clone() for name, value in network.state_dict().items()}
    attributes = {name: id(value) for module in (method, *network.modules()) for name, value in vars(module).items()}
    _register(method, _pairs(1))
    assert {name: id(value) for module in (method, *network.modules()) for name, value in vars(module).items()} == attributes
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_cubes_work_as_squares_do() -> None:
    grid = Grid((5, 9, 7), (3.0, 1.0, 1.5))
    last = _register(RecurrentMethod(_network(3, size=32), steps=2), _pairs(1, grid))[-1]
    (sequence,) = _sequences(last)
    assert sequence.orientation.shape == (2, 3)
    assert sequence.displacement_field().vectors.shape == (3, 5, 9, 7)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 1 step, got 0"):
        RecurrentMethod(_network(), steps=0)
    with pytest.raises(ArgumentError, match=r"call network\.eval\(\) first"):
        RecurrentMethod(_network().train())
    with pytest.raises(ArgumentError, match="for 2D images, got 3D"):
        next(RecurrentMethod(_network()).register(_pairs(1, Grid((4, 5, 6)))))
