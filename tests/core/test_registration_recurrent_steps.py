"""The network's quick path gives what its plain path gives, frames that have stopped take no time, and a step can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from r2n2.config import NetworkConfig, RegistrationConfig, StoppingConfig
from r2n2.evaluation import target_registration_error
from r2n2.geometry import Grid
from r2n2.network import MatchingPursuit, RecurrentNetwork, create_network
from r2n2.network.blocks import ConvGRU, bounded
from r2n2.network.checkpoint import load_network
from r2n2.registration import Pairs, RegistrationStep, build_method, recurrent_steps
from r2n2.registration.cuda_graph import Recorded, TensorFunction, Tensors
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.registration.recurrent_steps import advance, begin, compare, prepare
from r2n2.similarity import mean_squared_error
from r2n2.simulation import SimulatedSeries, ThoraxConfig, thorax_series
from r2n2.transform import GaussianSequence, precision_matrix, resample
from r2n2.transform.gaussians import gaussian_on_lattice, gaussian_weights, squared_steepness
from r2n2.transform.warp import normalised_lattice

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = Grid((37, 53), (1.7, 0.9), (3.0, -8.0))
PURSUIT = NetworkConfig(channels=(3, 5, 6, 8), working_size=32, least_squares_sizes=(32, 48))
ORTHOGONAL = PURSUIT.model_copy(update={"orthogonal": True})
PAPER = NetworkConfig(channels=(3, 5, 6, 8), working_size=32)


def _network(config: NetworkConfig) -> RecurrentNetwork:
    torch.manual_seed(3)
    network = create_network(config).eval()
    torch.nn.init.normal_(network.parameter_head.output.weight, std=0.05)
    if isinstance(network, MatchingPursuit):
        for head in network.placement.heads:
            torch.nn.init.normal_(head.weight, std=0.02)
    return network


def _pairs(batch: int = 3, *, shared: bool = True, seed: int = 0) -> Pairs:
    """Smooth images, each moving one another shifted and changed copy of the fixed one."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in ODD.shape), indexing="ij")

    def scene(k: float) -> Tensor:
        return 100 + 20 * torch.sin(9 * (y + 0.03 * k)) + 15 * torch.cos(7 * (x - 0.04 * k) + 3 * y)

    moving = torch.stack([scene(k + 1 + seed)[None] for k in range(batch)])
    fixed = scene(0)[None].expand_as(moving) if shared else torch.stack([scene(0.1 * k)[None] for k in range(batch)])
    valid = torch.ones((), dtype=torch.bool).expand_as(moving)
    return Pairs(fixed, moving, valid, valid, ODD)


def _fields(step: RegistrationStep) -> Tensor:
    return torch.stack([transform.displacement_field().vectors for transform in step.transforms()])


def _plainly(network: RecurrentNetwork, pairs: Pairs, steps: int) -> Tensor:
    """Displacement after some steps, one pair at a time, by the path that training takes."""
    found = []
    for k in range(len(pairs)):
        squares = prepare(network.config, pairs.part(slice(k, k + 1)), network.entry.weight)
        progress, parts = begin(network, squares), []
        for _ in range(steps):
            step, progress = advance(network, squares, progress, compare(squares, progress.displacements))
            progress = progress.detached()
            parts.append([values.detach()[0] for values in step.parameters])
        numbers = [torch.stack(column) for column in zip(*parts, strict=True)]
        if progress.placed is not None:
            numbers[-1] = progress.placed.parameters.amplitudes[0]
        found.append(GaussianSequence(*numbers, pairs.grid).displacement_field().vectors)
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_quick_tanh_is_tanh(dtype: torch.dtype) -> None:
    values = torch.cat((torch.linspace(-30, 30, 4001), torch.tensor([0.0, 1e-6, -1e-6]))).to(dtype)
    expected = torch.tanh(values)
    kept = values.clone()
    assert torch.equal(bounded(kept), expected)
    assert torch.equal(kept, values)  # with gradient, nothing is written over
    with torch.inference_mode():
        torch.testing.assert_close(bounded(values.clone()), expected, rtol=0, atol=3e-7)
        half = values.to(torch.bfloat16)
        torch.testing.assert_close(bounded(half.clone()), torch.tanh(half), rtol=0, atol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gates_of_input_and_state_together_are_the_gates_one_by_one(ndim: int) -> None:
    torch.manual_seed(0)
    unit = ConvGRU(3, ndim, 0.5).double().eval()
    shape = (2, 3, 7, 5, 4)[: ndim + 2]
    features, state = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    expected = unit(features, state).detach()
    with torch.inference_mode():
        found = unit(features, state)
        layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
        other = unit(features.contiguous(memory_format=layout), state.contiguous(memory_format=layout))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(other, expected, rtol=0, atol=1e-6)
    assert float((found - state).abs().max()) > 0.1


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_gaussian_on_a_lattice_is_the_gaussian_at_its_positions(ndim: int) -> None:
    grid = Grid((7, 11, 5)[:ndim], (2.0, 0.7, 1.3)[:ndim])
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(3, ndim, generator=generator, dtype=torch.float64) - 0.5
    sigmas = 0.1 + 0.4 * torch.rand(3, ndim, generator=generator, dtype=torch.float64)
    orientation = torch.rand(3, 1 if ndim == 2 else 3, generator=generator, dtype=torch.float64)
    lattice = normalised_lattice(grid, centres)
    precision = precision_matrix(sigmas, orientation)
    expected = gaussian_weights(lattice.flatten(1), centres[:, None], precision[:, None])[:, 0].unflatten(1, grid.shape)
    torch.testing.assert_close(gaussian_on_lattice(lattice, centres, precision), expected, rtol=1e-10, atol=1e-12)
    inputs = (centres.requires_grad_(), sigmas.requires_grad_(), orientation.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, s, o: gaussian_on_lattice(lattice, c, precision_matrix(s, o)), inputs)


@pytest.mark.parametrize("config", [PURSUIT, ORTHOGONAL, PAPER])
@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_quickly_is_every_pair_plainly(config: NetworkConfig, shared: bool) -> None:
    network, pairs = _network(config), _pairs(shared=shared)
    *_, last = RecurrentMethod(network, steps=5).register(pairs)
    expected = _plainly(network, pairs, 5)
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(_fields(last), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_scale_compared_some_pairs_at_a_time_is_compared_at_once(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = _pairs(5, shared=shared)
    moving_valid = pairs.moving_valid.clone()
    moving_valid[3, :, 9:20, 11:25] = False
    pairs = Pairs(pairs.fixed, pairs.moving, pairs.fixed_valid, moving_valid, ODD)
    squares = prepare(ORTHOGONAL, pairs, torch.zeros(1))
    displacements = tuple(
        0.1 * torch.randn(5, 2, *s.grid.shape, generator=torch.Generator().manual_seed(1)) for s in squares.scales
    )
    expected = compare(squares, displacements)
    monkeypatch.setattr(recurrent_steps, "_PIXELS_AT_ONCE", 2 * 48 * 48)
    found = compare(squares, displacements)
    assert found.least_squares is not None
    assert expected.least_squares is not None
    torch.testing.assert_close(found.least_squares.moments, expected.least_squares.moments, rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def thorax() -> SimulatedSeries:
    return thorax_series(ThoraxConfig(seed=103, frames=4, shape=(128, 144)))


def _all_pairs(series: Any) -> Pairs:
    frames = [torch.from_numpy(series.frame(k).astype("float32")) for k in range(len(series))]
    moving = torch.stack(frames[1:])
    valid = torch.ones_like(moving, dtype=torch.bool)
    return Pairs(frames[0].expand_as(moving), moving, valid, valid, series.grid)


def _mean_error_mm(thorax: SimulatedSeries, step: RegistrationStep) -> float:
    table = target_registration_error(dict(enumerate(step.transforms(), start=1)), thorax.landmarks, 0, thorax.series.grid)
    errors = [row.after_mm for frame in range(1, 4) for row in table.included(frame)]
    return sum(errors) / len(errors)


def test_the_shipped_weights_err_as_much_quickly_as_plainly(thorax: SimulatedSeries) -> None:
    """The stated tolerance: 0.02 mm of the mean landmark error, in float32; bfloat16 stays within 0.05 mm here."""
    pairs, network = _all_pairs(thorax.series), load_network("general").eval()
    plain = _plainly(network, pairs, 12)
    *_, quick = RecurrentMethod(network, steps=12).register(pairs)
    *_, low = RecurrentMethod(network, steps=12, dtype=torch.bfloat16).register(pairs)
    moved_mm = (_fields(quick) - plain).norm(dim=1) * thorax.series.grid.unit_mm
    assert float(moved_mm.mean()) < 0.02
    assert not torch.equal(_fields(low), _fields(quick))
    assert abs(_mean_error_mm(thorax, low) - _mean_error_mm(thorax, quick)) < 0.05


def test_a_pair_that_is_aligned_stops_and_the_others_go_on_as_if_it_were_not_there(thorax: SimulatedSeries) -> None:
    pairs = _all_pairs(thorax.series)
    moving = pairs.moving.clone()
    moving[1] = pairs.fixed[1] + 0.01 * moving[1]
    pairs = Pairs(pairs.fixed, moving, pairs.fixed_valid, pairs.moving_valid, pairs.grid)
    network = load_network("general").eval()
    *_, last = RecurrentMethod(network, steps=14, stopping=StoppingConfig(patience=2)).register(pairs)
    *_, whole = RecurrentMethod(network, steps=14).register(pairs)
    lengths = [len(sequence) for sequence in last.transforms()]  # type: ignore[arg-type]
    assert lengths[1] < 8 < min(lengths[0], lengths[2])
    for pair in (0, 2):
        stopped, all_steps = last.transforms()[pair], whole.transforms()[pair]
        assert isinstance(stopped, GaussianSequence)
        assert isinstance(all_steps, GaussianSequence)
        torch.testing.assert_close(stopped.amplitudes, all_steps.amplitudes[: len(stopped)], rtol=0, atol=2e-3)
    assert bool(last.loss.isfinite().all())


def test_when_all_have_stopped_the_run_ends() -> None:
    pairs = _pairs(2)
    still = Pairs(pairs.fixed, pairs.fixed.clone(), pairs.fixed_valid, pairs.moving_valid, pairs.grid)
    never = StoppingConfig(displacement=10, improvement=1, patience=3)
    steps = list(RecurrentMethod(_network(PURSUIT), steps=9, stopping=never).register(still))
    assert [(step.index, step.total) for step in steps] == [(1, 9), (2, 9), (3, 9)]
    assert [len(sequence) for sequence in steps[-1].transforms()] == [3, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["displacement", "improvement"])
def test_either_a_change_of_displacement_or_of_similarity_keeps_a_pair_going(setting: str) -> None:
    config = StoppingConfig(**{"displacement": 10.0, "improvement": 1.0, "patience": 1, setting: 0.0})
    first = next(RecurrentMethod(_network(PURSUIT), steps=3).register(_pairs(1)))
    steps = list(RecurrentMethod(_network(PURSUIT), steps=3, stopping=config).register(_pairs(1)))
    assert float(first.loss) < float(_loss_before(_pairs(1)))
    assert len(steps) == 3


def _loss_before(pairs: Pairs) -> Tensor:
    squares = prepare(PURSUIT, pairs, torch.zeros(1))
    seen = compare(squares, begin(_network(PURSUIT), squares).displacements)
    return (seen.fixed - seen.warped)[seen.valid].square().mean()


def test_the_settings_decide_whether_frames_stop() -> None:
    pairs = _pairs(2)
    still = Pairs(pairs.fixed, pairs.fixed.clone(), pairs.fixed_valid, pairs.moving_valid, pairs.grid)
    config = RegistrationConfig(refine=False, steps=8, device="cpu")
    assert len(list(build_method(config).register(still))) < 8
    assert len(list(build_method(config.model_copy(update={"stop_early": False})).register(still))) == 8


class _HostReads(TorchDispatchMode):
    """Notes what a CUDA graph could not record: values read on the host, shapes that depend on them, numbers from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(part in name for part in ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "item", "equal.default")):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _recorder(reads: _HostReads) -> Callable[[TensorFunction, Tensors], tuple[Callable[[], None], Tensors]]:
    """Does on the processor what a CUDA graph does: the same work on the same tensors, written where it was written at first."""

    def record(function: TensorFunction, arguments: Tensors) -> tuple[Callable[[], None], Tensors]:
        with reads:
            values = tuple(value.clone() for value in function(arguments))

        def replay() -> None:
            for kept, value in zip(values, function(arguments), strict=True):
                kept.copy_(value)

        return replay, values

    return record


@pytest.mark.parametrize("config", [PURSUIT, ORTHOGONAL, PAPER])
@pytest.mark.parametrize("stopping", [None, StoppingConfig(displacement=0.05, improvement=0.2, patience=2)])
def test_recorded_steps_are_the_same_steps(config: NetworkConfig, stopping: StoppingConfig | None) -> None:
    network, pairs, reads = _network(config), _pairs(3), _HostReads()
    *_, eager = RecurrentMethod(network, steps=7, stopping=stopping).register(pairs)
    *_, recorded = RecurrentMethod(network, steps=7, stopping=stopping, recorder=_recorder(reads)).register(pairs)
    assert not reads.found
    assert recorded.index == eager.index
    torch.testing.assert_close(recorded.loss, eager.loss, rtol=1e-4, atol=1e-6)
    for a, b in zip(recorded.transforms(), eager.transforms(), strict=True):
        assert isinstance(a, GaussianSequence)
        assert isinstance(b, GaussianSequence)
        assert len(a) == len(b)
        torch.testing.assert_close(a.amplitudes, b.amplitudes, rtol=0, atol=1e-4)


def test_a_host_read_would_be_noticed() -> None:
    reads = _HostReads()
    with reads:
        assert float(torch.ones(3).sum()) == 3
        torch.ones(3).new_tensor([1.0, 2.0])
    assert len(reads.found) >= 2


def test_a_recording_is_made_once_and_its_values_are_not_overwritten() -> None:
    made, replayed = [], []

    def record(function: TensorFunction, arguments: Tensors) -> tuple[Callable[[], None], Tensors]:
        made.append(arguments)
        values = tuple(torch.empty_like(argument) for argument in arguments)

        def replay() -> None:
            replayed.append(1)
            values[0].copy_(function(arguments)[0])

        return replay, values

    calls = []

    def double(arguments: Tensors) -> Tensors:
        calls.append(1)
        return (2 * arguments[0],)

    recorded = Recorded(double, record)
    given = [torch.tensor([float(k)]) for k in range(6)]
    found = [recorded((value,))[0] for value in given]
    assert [float(value) for value in found] == [0, 2, 4, 6, 8, 10]
    assert [float(value) for value in given] == [0, 1, 2, 3, 4, 5]
    assert len(made) == 1
    assert len(replayed) == 4


def test_a_pair_that_is_no_number_any_more_stays_alone_in_a_recording() -> None:
    pairs = _pairs(2)
    moving = pairs.moving.clone()
    moving[1] = float("nan")
    spoilt = Pairs(pairs.fixed, moving, pairs.fixed_valid, pairs.moving_valid, pairs.grid)
    method = RecurrentMethod(_network(PURSUIT), steps=5, recorder=_recorder(_HostReads()))
    *_, last = method.register(spoilt)
    *_, alone = RecurrentMethod(_network(PURSUIT), steps=5).register(pairs.part(slice(0, 1)))
    assert [len(sequence) for sequence in last.transforms()] == [5, 0]  # type: ignore[arg-type]
    assert last.loss.isnan().tolist() == [False, True]
    torch.testing.assert_close(_fields(last)[0], _fields(alone)[0], rtol=0, atol=1e-4)


def test_gaussians_that_are_solved_again_are_those_of_the_displacement_also_from_a_start() -> None:
    """The amplitudes of all steps change with every step, those of the start do not."""
    network, pairs = _network(ORTHOGONAL), _pairs(2)
    start = [
        GaussianSequence(
            torch.tensor([[0.2, -0.3]]),
            torch.tensor([[0.4, 0.2]]),
            torch.tensor([[0.7]]),
            torch.tensor([[0.01 * (k + 1), -0.02]]),
            ODD,
        )
        for k in range(2)
    ]
    found = [step.transforms() for step in RecurrentMethod(network, steps=4).register(pairs, start=start)]
    earlier, last = found[1][0], found[3][0]
    assert isinstance(earlier, GaussianSequence)
    assert isinstance(last, GaussianSequence)
    torch.testing.assert_close(last.amplitudes[0], start[0].amplitudes[0])
    torch.testing.assert_close(last.centres[:3], earlier.centres)
    assert float((last.amplitudes[1:3] - earlier.amplitudes[1:]).abs().max()) > 1e-4
    # The images that the network saw last are those of the sequence that it gives.
    squares = prepare(network.config, pairs, network.entry.weight)
    exact = torch.stack([one.displacement_field().vectors for one in found[3]])  # type: ignore[attr-defined]
    seen = compare(squares, tuple(resample(exact, ODD, scale.grid).image for scale in squares.scales))
    loss = mean_squared_error(seen.fixed, seen.warped, seen.valid)
    *_, step = RecurrentMethod(network, steps=4).register(pairs, start=start)
    torch.testing.assert_close(step.loss, loss, rtol=0.05, atol=2e-4)


def test_a_step_that_grows_is_not_recorded() -> None:
    pairs = _pairs(2)
    *_, plain = RecurrentMethod(_network(ORTHOGONAL), steps=5).register(pairs)
    *_, found = RecurrentMethod(_network(ORTHOGONAL), steps=5, recorder=_recorder(_HostReads())).register(pairs)
    torch.testing.assert_close(_fields(found), _fields(plain), rtol=0, atol=1e-4)


def test_gaussians_before_are_given_where_they_are_solved_again_and_nowhere_else() -> None:
    pairs = _pairs(1)
    for config, other, said in ((PURSUIT, ORTHOGONAL, "takes no placed"), (ORTHOGONAL, PURSUIT, "needs the Gaussians before")):
        network = _network(config)
        squares = prepare(config, pairs, network.entry.weight)
        progress = begin(_network(other), squares)
        with pytest.raises(ValueError, match=said):
            advance(network, squares, progress, compare(squares, progress.displacements))


def test_no_gaussian_that_is_solved_again_gets_too_steep() -> None:
    """Of images that have nothing in common, whose differences ask for anything."""
    generator = torch.Generator().manual_seed(4)
    fixed, moving = torch.randn(2, 3, 1, *ODD.shape, generator=generator).cumsum(-1).cumsum(-2)
    valid = torch.ones((), dtype=torch.bool).expand_as(moving)
    *_, last = RecurrentMethod(_network(ORTHOGONAL), steps=8).register(Pairs(fixed, moving, valid, valid, ODD))
    for sequence in last.transforms():
        assert isinstance(sequence, GaussianSequence)
        precision = precision_matrix(sequence.sigmas, sequence.orientation)
        steepness = squared_steepness(sequence.amplitudes, precision).sqrt()
        assert 0.6 < float(steepness.max()) < 1.4
