"""The network against the paper's equations, and that nothing of a call stays behind."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from r2n2.config import NetworkConfig
from r2n2.geometry import Grid
from r2n2.network.blocks import ConvGRU, ParameterHead, PositionHead, expected_position, multiplicative_noise, spatial_softmax
from r2n2.network.gaussian import coordinate_lattice
from r2n2.network.initialisation import initialise_for_tanh
from r2n2.network.r2n2 import R2N2
from r2n2.network.trunk import State
from r2n2.transform import gaussian_displacement, normalised_lattice, precision_matrix, warp

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (2, 3, 4, 5)


def _awake(network: R2N2, seed: int = 0) -> R2N2:
    """Give the zero last layer weights, as a trained network has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameter_head.output.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def _network(*, ndim: int = 2, channels: tuple[int, int, int, int] = TINY, seed: int = 0) -> R2N2:
    torch.manual_seed(seed)
    return _awake(R2N2(NetworkConfig(channels=channels), ndim).eval())


def _images(batch: int, size: int, ndim: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 1, *(size,) * ndim)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def _run(network: R2N2, fixed: Tensor, warped: Tensor, steps: int = 1) -> tuple[list[tuple[Tensor, ...]], State]:
    state = network.initial_state(len(fixed), fixed.shape[-1])
    found = []
    with torch.no_grad():
        for _ in range(steps):
            parameters, state, *_ = network.step(fixed, warped, state)
            found.append(tuple(parameters))
    return found, state


def test_the_papers_network_has_3593611_parameters() -> None:
    with torch.device("meta"):
        network = R2N2(NetworkConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_593_611


def test_it_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    network = R2N2(NetworkConfig(channels=TINY, sigma_max=0.4)).eval()
    parameters, _, *_ = network.step(*_images(3, 16), network.initial_state(3, 16))
    assert torch.equal(parameters.amplitudes, torch.zeros(3, 2))
    torch.testing.assert_close(parameters.sigmas, torch.full((3, 2), 0.2))
    torch.testing.assert_close(parameters.orientation, torch.full((3, 1), math.pi / 2))
    assert not parameters.displacement(coordinate_lattice(16, 2, parameters.centres)).any()


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_output_ranges_of_equation_18(scale: float) -> None:
    network = _network(channels=(4, 6, 8, 10))
    with torch.no_grad():
        network.parameter_head.output.weight.mul_(scale)
    fixed, warped = _images(16, 24)
    parameters, _, *_ = network.step(fixed * 2, warped * 2, network.initial_state(16, 24))
    assert (parameters.sigmas >= 0).all()
    assert (parameters.sigmas <= 0.3).all()
    assert (parameters.amplitudes.abs() <= 1).all()
    assert (parameters.orientation >= 0).all()
    assert (parameters.orientation <= math.pi + 1e-6).all()
    assert (parameters.centres.abs() <= 1).all()


def test_outputs_are_squashed_as_in_equation_18() -> None:
    network = _network()
    values = torch.tensor([[0.5, -1.0, 0.25, -2.0, 0.75]])
    with torch.no_grad():
        network.parameter_head.output.weight.zero_()
        network.parameter_head.output.bias.copy_(values[0])
    parameters, _, *_ = network.step(*_images(1, 8), network.initial_state(1, 8))
    logistic = 1 / (1 + torch.exp(-values))
    torch.testing.assert_close(parameters.sigmas, 0.3 * logistic[:, :2])
    torch.testing.assert_close(parameters.amplitudes, torch.tanh(values[:, 2:4]))
    torch.testing.assert_close(parameters.orientation, math.pi * logistic[:, 4:])


def test_output_ranges_are_narrowed_where_the_settings_say_so() -> None:
    torch.manual_seed(0)
    network = _awake(R2N2(NetworkConfig(channels=TINY, sigma_min=0.05, amplitude_scale=0.25)).eval())
    for values, sigma, amplitude in (((-50.0,) * 4, 0.05, -0.25), ((0.0,) * 4, 0.175, 0.0), ((50.0,) * 4, 0.3, 0.25)):
        with torch.no_grad():
            network.parameter_head.output.weight.zero_()
            network.parameter_head.output.bias[:4] = torch.tensor(values)
        parameters, _, *_ = network.step(*_images(1, 8), network.initial_state(1, 8))
        torch.testing.assert_close(parameters.sigmas, torch.full((1, 2), sigma))
        torch.testing.assert_close(parameters.amplitudes, torch.full((1, 2), amplitude))


def test_initialisation_for_tanh_takes_every_gate_for_a_convolution_of_its_own() -> None:
    torch.manual_seed(0)
    network = R2N2(NetworkConfig(channels=(16, 24, 32, 40)))
    initialise_for_tanh(network)

    def deviation(weight: Tensor, gain: float) -> float:
        """Measured over Xavier's: 1 where the layer is drawn as told."""
        field = weight[0, 0].numel()
        return float(weight.detach().std()) / (gain * math.sqrt(2 / (field * sum(weight.shape[:2]))))

    level = network.levels[1]
    for part in (*level.recurrent.of_input.weight.chunk(3), *level.recurrent.of_state.weight.chunk(2)):
        assert deviation(part, 1.0) == pytest.approx(1, abs=0.06)
    assert deviation(level.recurrent.of_reset_state.weight, 1.0) == pytest.approx(1, abs=0.06)
    for part in (network.entry.weight, level.residual[0].first.weight, level.down.weight, network.parameter_head.hidden.weight):
        assert deviation(part, 5 / 3) == pytest.approx(1, abs=0.06)
    assert float(network.parameter_head.output.weight.detach().std()) == pytest.approx(1e-3, rel=0.1)
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bool(bias.any()) for bias in biases)


def test_two_fresh_calls_are_identical_whatever_came_between() -> None:
    network = _network()
    images = _images(2, 16)
    first, first_state = _run(network, *images, steps=3)
    _run(network, *_images(5, 24, seed=9), steps=2)
    second, second_state = _run(network, *images, steps=3)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(first_state, second_state, strict=True))


def test_the_state_matters_and_is_not_changed_in_place() -> None:
    network = _network()
    fixed, warped = _images(1, 16)
    fresh = network.initial_state(1, 16)
    first, state, *_ = network.step(fixed, warped, fresh)
    assert all(not part.any() for part in fresh)
    second, _, *_ = network.step(fixed, warped, state)
    assert not torch.allclose(first.amplitudes, second.amplitudes, atol=1e-6)


def test_the_order_of_steps_matters() -> None:
    network = _network()
    (a, b), (c, _) = _images(1, 16), _images(1, 16, seed=2)
    results = []
    for order in ((b, c), (c, b)):
        state = network.initial_state(1, 16)
        for warped in order:
            _, state, *_ = network.step(a, warped, state)
        results.append(network.step(a, a, state)[0].amplitudes)
    assert not torch.allclose(results[0], results[1], atol=1e-6)


def test_fixed_and_warped_are_told_apart() -> None:
    network = _network()
    fixed, warped = _images(1, 16)
    state = network.initial_state(1, 16)
    there, back = network.step(fixed, warped, state)[0], network.step(warped, fixed, state)[0]
    assert not torch.allclose(there.amplitudes, back.amplitudes, atol=1e-6)


def test_a_batch_equals_single_pairs() -> None:
    network = _network()
    fixed, warped = _images(3, 24)
    together, _ = _run(network, fixed, warped, steps=3)
    for pair in range(3):
        alone, _ = _run(network, fixed[pair, None], warped[pair, None], steps=3)
        for a, b in zip(together, alone, strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x[pair, None], y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ndim", "size"), [(2, 8), (2, 16), (2, 40), (2, 72), (3, 16)])
def test_every_working_size_and_both_dimensions(ndim: int, size: int) -> None:
    network = _network(ndim=ndim)
    state = network.initial_state(2, size)
    assert [part.shape[-1] for part in state] == [size // 2, size // 4, size // 8]
    parameters, after, *_ = network.step(*_images(2, size, ndim), state)
    assert parameters.centres.shape == parameters.sigmas.shape == parameters.amplitudes.shape == (2, ndim)
    assert parameters.orientation.shape == (2, 1 if ndim == 2 else 3)
    assert [part.shape for part in after] == [part.shape for part in state]
    assert all(bool(part.isfinite().all()) for part in (*parameters, *after))


def test_the_same_scene_on_a_finer_square_gives_similar_numbers() -> None:
    network = _network(channels=(4, 6, 8, 10))

    def scene(size: int) -> tuple[Tensor, Tensor]:
        y, x = coordinate_lattice(size, 2, torch.zeros(1))
        return torch.sin(3 * y + x)[None, None], torch.cos(2 * x - y)[None, None]

    coarse, fine = (network.step(*scene(size), network.initial_state(1, size))[0] for size in (64, 128))
    # Receptive fields and borders differ, so only similar; dividing by the number of pixels would change them fourfold.
    torch.testing.assert_close(coarse.sigmas, fine.sigmas, rtol=0.15, atol=0.02)
    torch.testing.assert_close(coarse.amplitudes, fine.amplitudes, rtol=0.15, atol=0.1)


def test_displacement_of_the_parameters_is_that_of_the_transform_package() -> None:
    parameters, _, *_ = _network().step(*_images(2, 16), _network().initial_state(2, 16))
    lattice = normalised_lattice(Grid((5, 9), (2.0, 0.7)), parameters.centres)
    expected = [
        gaussian_displacement(
            lattice.flatten(1),
            parameters.centres[b, None, None],
            precision_matrix(s, o)[None, None],
            parameters.amplitudes[b, None, None],
        )[0].unflatten(1, (5, 9))
        for b, (s, o) in enumerate(zip(parameters.sigmas, parameters.orientation, strict=True))
    ]
    torch.testing.assert_close(parameters.displacement(lattice), torch.stack(expected))


@pytest.mark.parametrize("pixel", [(0, 0), (2, 5), (5, 1), (7, 7)])
@pytest.mark.parametrize("level", [1, 2])
def test_spatial_softmax_of_a_delta_is_its_position(pixel: tuple[int, int], level: int) -> None:
    size = 8 * 2**level
    features = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    features[0, 0, *pixel] = 1000.0
    coordinates = coordinate_lattice(size, 2, features)[:, :: 2**level, :: 2**level]
    found = expected_position(spatial_softmax(features), coordinates)
    expected = [2 * index * 2**level / (size - 1) - 1 for index in pixel]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


def test_spatial_softmax_is_one_distribution_a_map() -> None:
    features = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spatial_softmax(features)
    power = np.exp(features.numpy())
    np.testing.assert_allclose(found.numpy(), power / power.sum((2, 3), keepdims=True), rtol=1e-12)


def test_certainty_of_equation_17() -> None:
    head = PositionHead(2, 2).double()
    coordinates = coordinate_lattice(4, 2, torch.zeros(1, dtype=torch.float64))
    features = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    position, certainty = head(features, coordinates)
    maps = []
    for layer in (head.left, head.right):
        logits = np.einsum("bchw,c->bhw", features.numpy(), layer.weight.detach().numpy()[0, :, 0, 0])
        maps.append(np.exp(logits) / np.exp(logits).sum((1, 2), keepdims=True))
    np.testing.assert_allclose(certainty.detach().numpy()[:, 0], 2 - np.abs(maps[0] - maps[1]).sum((1, 2)), rtol=1e-10)
    np.testing.assert_allclose(position.detach().numpy(), np.einsum("bhw,dhw->bd", maps[0], coordinates.numpy()), atol=1e-12)
    head.right.load_state_dict(head.left.state_dict())
    torch.testing.assert_close(head(features, coordinates)[1], torch.full((2, 1), 2.0, dtype=torch.float64))


def test_the_final_position_is_the_weighted_mean_of_equation_16() -> None:
    network = _network()
    heard: list[tuple[Tensor, Tensor]] = []
    hooks = [level.position.register_forward_hook(lambda _m, _i, output: heard.append(output)) for level in network.levels]
    parameters, _, *_ = network.step(*_images(2, 32), network.initial_state(2, 32))
    for hook in hooks:
        hook.remove()
    assert len(heard) == 3
    assert len({round(certainty[0].item(), 6) for _, certainty in heard}) > 1
    expected = sum(p * w for p, w in heard) / sum(w for _, w in heard)
    torch.testing.assert_close(parameters.centres, expected)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_features_keep_their_place_through_the_levels(level: int) -> None:
    """One bright pixel lights up the level's pixel that has its coordinates."""
    network = _network()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()
        for layer in (network.entry, *(unit.down for unit in network.levels)):
            centre = layer.kernel_size[0] // 2
            layer.weight[:, 0, centre, centre] = 1.0
        for unit in network.levels:
            unit.position.left.weight[:, 0] = 1e4
            unit.position.right.weight[:, 0] = 1e4
    heard: list[tuple[Tensor, Tensor]] = []
    network.levels[level].position.register_forward_hook(lambda _m, _i, output: heard.append(output))
    pixel = (24, 40)
    fixed = torch.zeros(1, 1, 64, 64)
    fixed[0, 0, *pixel] = 1.0
    network.step(fixed, torch.zeros_like(fixed), network.initial_state(1, 64))
    torch.testing.assert_close(heard[0][0], torch.tensor([[2 * index / 63 - 1 for index in pixel]]), rtol=0, atol=1e-4)


def _convolve(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Cross-correlation (C, H, W) by (O, C, 3, 3), zero padding, written as four sums."""
    _, height, width = images.shape
    out = np.zeros((len(weight), height, width))
    for o, y, x in np.ndindex(out.shape):
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[o, y, x] += weight[o, :, dy + 1, dx + 1] @ images[:, y + dy, x + dx]
    return out


def test_conv_gru_is_equations_10_to_13() -> None:
    torch.manual_seed(3)
    cell = ConvGRU(2, 2, 0.5).double().eval()
    x, h = torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    w_r, w_z, w = np.split(cell.of_input.weight.detach().numpy(), 3)
    b_r, b_z, b = (part[:, None, None] for part in np.split(cell.of_input.bias.detach().numpy(), 3))
    u_r, u_z = np.split(cell.of_state.weight.detach().numpy(), 2)
    u = cell.of_reset_state.weight.detach().numpy()
    x0, h0 = x[0].numpy(), h[0].numpy()

    def logistic(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    r = logistic(_convolve(x0, w_r) + _convolve(h0, u_r) + b_r)
    z = logistic(_convolve(x0, w_z) + _convolve(h0, u_z) + b_z)
    proposal = np.tanh(_convolve(x0, w) + _convolve(r * h0, u) + b)
    expected = (1 - z) * h0 + z * proposal
    np.testing.assert_allclose(cell(x, h).detach().numpy()[0], expected, rtol=1e-12)


def test_parameter_head_takes_the_mean_feature_under_the_softmax() -> None:
    torch.manual_seed(5)
    head = ParameterHead(4, 5, 2).double()
    with torch.no_grad():
        head.output.weight.normal_()
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    arrays = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    shared = _convolve(features[0].numpy(), arrays["shared.weight"]) + arrays["shared.bias"][:, None, None]
    content = np.tanh(_convolve(np.tanh(shared[:2]), arrays["content.weight"]) + arrays["content.bias"][:, None, None])
    attention = np.exp(shared[2:]) / np.exp(shared[2:]).sum((1, 2), keepdims=True)
    pooled = (content * attention).sum((1, 2))
    expected = arrays["output.weight"] @ np.tanh(arrays["hidden.weight"] @ pooled + arrays["hidden.bias"])
    np.testing.assert_allclose(head(features).detach().numpy()[0], expected, rtol=1e-10)


@pytest.mark.parametrize(("keep", "deviation"), [(0.5, 1.0), (0.8, 0.5), (1.0, 0.0)])
def test_multiplicative_noise_has_mean_1_and_the_papers_deviation(keep: float, deviation: float) -> None:
    values = torch.full((200, 500), 3.0)
    noisy = multiplicative_noise(values, keep, torch.Generator().manual_seed(0))
    assert float(noisy.mean()) == pytest.approx(3.0, abs=0.04)
    assert float(noisy.std()) == pytest.approx(3 * deviation, abs=0.03)


def test_noise_is_drawn_in_training_only_and_from_the_generator() -> None:
    network = _network(channels=(4, 6, 8, 10))
    images = _images(1, 16)
    state = network.initial_state(1, 16)

    def amplitudes(seed: int) -> Tensor:
        return network.step(*images, state, generator=torch.Generator().manual_seed(seed))[0].amplitudes

    assert torch.equal(amplitudes(1), amplitudes(2))
    network.train()
    assert torch.equal(amplitudes(1), amplitudes(1))
    assert not torch.allclose(amplitudes(1), amplitudes(2), atol=1e-6)


def test_a_step_is_the_papers_figures_3_and_4() -> None:
    """The wiring written out once more: order of inputs, every tanh, the skip connections, the three levels."""
    network = _network()
    fixed, warped = _images(2, 32)
    state = tuple(torch.randn_like(part) for part in network.initial_state(2, 32))
    axis = torch.linspace(-1, 1, 32)
    y, x = (coordinate.expand(2, 1, 32, 32) for coordinate in (axis[:, None], axis[None, :]))
    features = torch.tanh(network.entry(torch.cat((fixed, warped, y, x), dim=1)))
    positions, weights, states = [], [], []
    for number, (unit, before) in enumerate(zip(network.levels, state, strict=True), start=1):
        for block in unit.residual:
            features = torch.tanh(features + block.second(torch.tanh(block.first(features))))
        states.append(unit.recurrent(features, before))
        features = features + states[-1]
        position, weight = unit.position(features, torch.stack((y[0, 0], x[0, 0]))[:, :: 2**number, :: 2**number])
        positions.append(position)
        weights.append(weight)
        features = torch.tanh(unit.down(features))
    values = network.parameter_head(features)
    parameters, after, *_ = network.step(fixed, warped, state)
    expected_centre = sum(p * w for p, w in zip(positions, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(parameters.centres, expected_centre)
    torch.testing.assert_close(parameters.amplitudes, torch.tanh(values[:, 2:4]))
    for found, wanted in zip(after, states, strict=True):
        torch.testing.assert_close(found, wanted)


def test_dropconnect_touches_the_proposal_only() -> None:
    torch.manual_seed(0)
    cell = ConvGRU(2, 2, 0.5).train()
    x, h = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        cell.of_input.bias[2:4] = -100.0  # z = 0: the state passes whatever the proposal is
    torch.testing.assert_close(cell(x, h), h)
    with torch.no_grad():
        cell.of_input.weight[2:4], cell.of_input.bias[2:4] = 0.0, 100.0  # z = 1: the proposal alone
    assert not torch.allclose(cell(x, h), cell(x, h), atol=1e-3)
    of_input, of_state = cell.of_input.weight[4:].clone(), cell.of_reset_state.weight.clone()
    for kept in ("input", "state"):
        with torch.no_grad():
            cell.of_input.weight[4:] = of_input if kept == "input" else 0.0
            cell.of_reset_state.weight[:] = of_state if kept == "state" else 0.0
        assert not torch.allclose(cell(x, h), cell(x, h), atol=1e-3), f"the weights of the {kept} are noisy by themselves"
    with torch.no_grad():
        cell.of_input.weight[4:], cell.of_reset_state.weight[:] = 0.0, 0.0
    assert torch.equal(cell(x, h), cell(x, h))


def test_the_state_stays_clean_of_the_noise_on_the_output() -> None:
    network = _network().train()
    with torch.no_grad():
        for level in network.levels:
            level.recurrent.of_input.weight[2 * level.recurrent.channels :] = 0.0
            level.recurrent.of_reset_state.weight.zero_()
    images = _images(1, 16)
    fresh = network.initial_state(1, 16)
    states = [network.step(*images, fresh, generator=torch.Generator().manual_seed(seed))[1] for seed in (1, 2)]
    torch.testing.assert_close(states[0][0], states[1][0])
    assert not torch.allclose(states[0][1], states[1][1], atol=1e-6)


def test_gradients_of_one_step() -> None:
    network = _network().double()
    fixed, warped = (image.double().requires_grad_() for image in _images(1, 16))
    state = tuple(torch.randn_like(part, requires_grad=True) for part in network.initial_state(1, 16))
    unit = network.levels[1]
    layers = (
        network.entry,
        unit.recurrent.of_reset_state,
        unit.recurrent.of_input,
        unit.position.right,
        network.parameter_head.shared,
    )
    weights = tuple(layer.weight for layer in layers)

    def step(fixed: Tensor, warped: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        parameters, after, *_ = network.step(fixed, warped, others[-3:])
        return (*parameters, after[-1])

    assert torch.autograd.gradcheck(step, (fixed, warped, *weights, *state), fast_mode=True)


@pytest.mark.parametrize(
    ("fixed", "warped", "message"),
    [
        ((1, 1, 16, 24), (1, 1, 16, 24), "one shape"),
        ((1, 1, 16, 16), (2, 1, 16, 16), "one shape"),
        ((1, 2, 16, 16), (1, 2, 16, 16), "one shape"),
        ((1, 1, 20, 20), (1, 1, 20, 20), "multiple of 8"),
        ((1, 1, 24, 24), (1, 1, 24, 24), "start from initial_state"),
    ],
)
def test_wrong_shapes_are_named(fixed: tuple[int, ...], warped: tuple[int, ...], message: str) -> None:
    network = _network()
    with pytest.raises(ValueError, match=message):
        network.step(torch.zeros(fixed), torch.zeros(warped), network.initial_state(1, 16))


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="ndim must be 2 or 3"):
        R2N2(NetworkConfig(), ndim=4)
    with pytest.raises(ValueError, match="channels"):
        R2N2(NetworkConfig(channels=(4, 0, 4, 4)))
    with pytest.raises(ValueError, match="multiple of 8"):
        _network().initial_state(1, 20)


@pytest.mark.slow
def test_it_learns_to_align_one_pair() -> None:
    torch.manual_seed(0)
    network = R2N2(NetworkConfig(channels=(4, 6, 8, 10), keep_probability=1.0))
    grid = Grid((32, 32))
    lattice = normalised_lattice(grid, torch.zeros(1))

    def blob(y: float, x: float) -> Tensor:
        return 3 * torch.exp(-((lattice[0] - y) ** 2 + (lattice[1] - x) ** 2) / 0.08)[None, None] - 0.5

    fixed, moving = blob(0.1, -0.2), blob(-0.05, 0.05)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3, amsgrad=True)
    errors = []
    for _ in range(60):
        state, displacement, warped, total = network.initial_state(1, 32), torch.zeros(1, 2, 32, 32), moving, torch.zeros(())
        for _ in range(3):
            parameters, state, *_ = network.step(fixed, warped, state)
            displacement = displacement + parameters.displacement(lattice)
            warped = warp(moving, displacement, grid).image
            total = total + (fixed - warped).square().mean() / 3
        errors.append(float((fixed - warped).detach().square().mean()))
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    assert max(errors[-5:]) < 0.45 * errors[0]
