"""From settings to a method: the network by default, refined or not, with progress that is right from the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import registration_factory as make
import torch

from r2n2.config import FitConfig, NetworkConfig, RegistrationConfig
from r2n2.errors import ArgumentError, ResourceError
from r2n2.geometry import Grid
from r2n2.network import MatchingPursuit
from r2n2.network.checkpoint import save_network
from r2n2.registration import FitMethod, Pairs, RegistrationStep, build_method, register_series
from r2n2.registration.initial import Initialised
from r2n2.registration.trusting import Trusting
from r2n2.transform import DisplacementField, GaussianSequence

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("centres", "sigmas", "orientation", "amplitudes")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network that was never trained: it takes the best Gaussian of those tried."""
    torch.manual_seed(0)
    config = NetworkConfig(channels=(2, 3, 4, 6), least_squares_sizes=(16, 32), working_size=32)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_network(path, MatchingPursuit(config), half=True)
    return path


FIT = make.FAST_FIT.model_copy(update={"refine_steps": (4, 6), "refine_rounds": 1})


def _config(weights: Path, **changes: object) -> RegistrationConfig:
    """All four Gaussians by the network unless told otherwise."""
    values = {"method": "r2n2", "weights": str(weights), "steps": 4, "network_share": 1.0, "fit": FIT, **changes}
    return make.FAST.model_copy(update=values)


def _pairs(batch: int = 1) -> Pairs:
    return make.pairs_of(*(make.moved_pair(seed=seed)[:2] for seed in range(batch)))


def _sequence(step: RegistrationStep) -> GaussianSequence:
    found = step.transforms()[0]
    assert isinstance(found, GaussianSequence)
    return found


def _run(config: RegistrationConfig, **start: object) -> list[RegistrationStep]:
    return list(build_method(config).register(_pairs(), **start))  # type: ignore[arg-type]


def _same(first: GaussianSequence, second: GaussianSequence) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in NAMES)


def test_the_default_is_a_network_that_ships_and_is_refined() -> None:
    whole = build_method(RegistrationConfig(device="cpu"))
    assert isinstance(whole, Trusting)
    assert isinstance(whole.whole, Initialised)
    method = build_method(RegistrationConfig(device="cpu", initial="none"))
    assert method.name == "r2n2"
    assert type(method) is not type(build_method(RegistrationConfig(device="cpu", initial="none", refine=False)))
    plain = RegistrationConfig(method="fit", initial="none", fit=FitConfig(trust=False))
    assert isinstance(build_method(plain), FitMethod)


def test_refinement_goes_on_from_the_networks_gaussians(weights: Path) -> None:
    alone, refined = _run(_config(weights, refine=False)), _run(_config(weights))
    assert len(alone) == 4
    assert _same(_sequence(alone[-1]), _sequence(refined[3]))
    expected = list(FitMethod(FIT, gaussians=4).register(_pairs(), start=alone[-1].transforms()))
    assert _same(_sequence(expected[-1]), _sequence(refined[-1]))
    exact = make.moved_pair()[2]
    errors = [
        float(make.error_px(found, exact).mean())
        for found in (GaussianSequence.identity(make.GRID), _sequence(alone[-1]), _sequence(refined[-1]))
    ]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * errors[1]


@pytest.mark.parametrize(("share", "leading"), [(0.64, 3), (0.5, 2), (0.01, 1)])
def test_fit_adds_the_gaussians_that_the_network_leaves_to_it(weights: Path, share: float, leading: int) -> None:
    alone, refined = _run(_config(weights, refine=False)), _run(_config(weights, network_share=share))
    assert [len(_sequence(step)) for step in refined] == [*range(1, leading + 1), *[4] * 10]
    assert _same(_sequence(alone[leading - 1]), _sequence(refined[leading - 1]))
    assert [(step.index, step.total) for step in refined] == [(k, leading + 10) for k in range(1, leading + 11)]


@pytest.mark.parametrize(("refine", "total"), [(False, 4), (True, 4 + 4 + 6)])
def test_every_step_knows_how_many_there_will_be(weights: Path, refine: bool, total: int) -> None:
    steps = _run(_config(weights, refine=refine))
    assert [(step.index, step.total) for step in steps] == [(k, total) for k in range(1, total + 1)]


def test_every_step_knows_how_many_there_will_be_from_a_start(weights: Path) -> None:
    short = GaussianSequence(*(getattr(make.motion(make.GRID), name) for name in NAMES), make.GRID)
    steps = _run(_config(weights), start=[short])
    assert [(step.index, step.total) for step in steps] == [(k, 14) for k in range(1, 15)]
    assert len(_sequence(steps[-1])) == 2 + 4


def test_a_full_start_is_refined_only_so_that_sequences_do_not_grow(weights: Path) -> None:
    begun = _sequence(_run(_config(weights))[-1])
    steps = _run(_config(weights), start=[begun])
    assert [(step.index, step.total) for step in steps] == [(k, 10) for k in range(1, 11)]
    assert len(_sequence(steps[-1])) == len(begun) == 4
    config = _config(weights, warm_start=True, batch_size=1, reference=0)
    results = [r for progress in register_series(make.moving_series(4)[0], config) for r in progress.finished]
    sequences = [result.transform for result in results if result.frame != 0]
    assert all(isinstance(sequence, GaussianSequence) and len(sequence) == 4 for sequence in sequences)


def test_from_a_start_the_network_alone_renews_a_third_so_that_sequences_do_not_grow(weights: Path) -> None:
    config = _config(weights, refine=False, steps=6)
    begun = _sequence(_run(config)[-1])
    begun = replace(begun, amplitudes=begun.amplitudes * torch.tensor([[1.0]] * 4 + [[-1.0]] * 2))
    steps = _run(config, start=[begun])
    assert [(step.index, step.total) for step in steps] == [(1, 2), (2, 2)]
    found = _sequence(steps[-1])
    assert len(begun) == len(found) == 6
    assert _same(found.select(slice(0, 4)), begun.select(slice(0, 4)))
    assert not _same(found, begun)
    assert _same(_sequence(_run(config, start=[GaussianSequence.identity(make.GRID)])[-1]), _sequence(_run(config)[-1]))
    results = [
        r
        for progress in register_series(
            make.moving_series(5)[0], config.model_copy(update={"warm_start": True, "batch_size": 1, "reference": 0})
        )
        for r in progress.finished
    ]
    assert [len(r.transform) for r in results if r.frame] == [6, 6, 6, 6]  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="GaussianSequence only, got DisplacementField"):
        _run(config, start=[DisplacementField.identity(make.GRID)])


def test_progress_of_a_series_rises_evenly(weights: Path) -> None:
    config = _config(weights, batch_size=2, reference=0)
    fractions = [progress.fraction for progress in register_series(make.moving_series(5)[0], config)]
    growth = torch.tensor(fractions).diff()
    assert fractions[-1] == 1
    # 14 steps for two frames of five.
    assert float(growth[:-1].max()) == pytest.approx(2 / 5 / 14, rel=1e-3)


def test_weights_that_are_not_there_and_volumes_are_refused_with_a_remedy(weights: Path) -> None:
    with pytest.raises(ResourceError, match=r"no weights are called 'brain': there are: .*general"):
        build_method(RegistrationConfig(weights="brain"))
    cube = Pairs(*torch.ones(2, 1, 1, 16, 17, 18), *torch.ones(2, 1, 1, 16, 17, 18, dtype=torch.bool), Grid((16, 17, 18)))
    with pytest.raises(ArgumentError, match="for 2D images, got 3D pairs; choose other weights or use --method fit"):
        next(iter(build_method(_config(weights)).register(cube)))
