"""Both networks on volumes: a known motion recovered, gradients everywhere, weights kept with their number of axes."""

from __future__ import annotations

from pathlib import Path

import pytest
import registration_factory as make
import torch

from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.network import R2N2, MatchingPursuit
from r2n2.network.checkpoint import load_network, save_network
from r2n2.registration import Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.registration.recurrent_steps import advance, begin, compare, prepare
from r2n2.transform import GaussianSequence, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

VOLUME = Grid((15, 31, 26), (3.0, 1.5, 2.0), (5.0, -8.0, 2.0))
CONFIG = NetworkConfig(channels=(2, 3, 4, 6), least_squares_sizes=(16, 32), working_size=32, keep_probability=1.0)


def network_of(*, orthogonal: bool = False, seed: int = 0) -> MatchingPursuit:
    torch.manual_seed(seed)
    return MatchingPursuit(CONFIG.model_copy(update={"orthogonal": orthogonal}), ndim=3).eval()


def moved(seed: int = 0) -> tuple[Pairs, GaussianSequence]:
    """A textured volume moved by two Gaussians, one of them turned; fixed(x) = moving(x + f(x))."""
    exact = GaussianSequence(
        torch.tensor([[0.1, -0.3, 0.2], [-0.1, 0.4, -0.2]]),
        torch.tensor([[0.4, 0.25, 0.3], [0.25, 0.3, 0.35]]),
        torch.tensor([[0.4, -0.2, 0.3], [0.0, 0.0, 0.0]]),
        torch.tensor([[0.03, -0.08, 0.05], [-0.04, 0.05, 0.06]]),
        VOLUME,
    )
    moving = make.texture(VOLUME.shape, seed)
    return make.pairs_of((warp_image(moving, exact), moving), grid=VOLUME), exact


@pytest.mark.parametrize("orthogonal", [False, True])
def test_an_untrained_network_recovers_a_known_motion_by_least_squares(orthogonal: bool) -> None:
    pairs, exact = moved()
    steps = list(RecurrentMethod(network_of(orthogonal=orthogonal), steps=8).register(pairs))
    still = float(make.error_px(GaussianSequence.identity(VOLUME), exact).mean())
    errors = [float(make.error_px(steps[k].transforms()[0], exact).mean()) for k in (0, 3, 7)]
    assert errors[1] < errors[0] < still
    assert max(errors[1:]) < 0.5 * still
    assert len(steps[-1].transforms()[0].orientation[0]) == 3


@pytest.mark.parametrize("orthogonal", [False, True])
def test_gradients_reach_every_weight(orthogonal: bool) -> None:
    pairs, _ = moved()
    network = network_of(orthogonal=orthogonal)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    squares = prepare(network.config, pairs, network.entry.weight)
    progress = begin(network, squares)
    loss = torch.zeros(())
    for _ in range(2):
        step, progress = advance(network, squares, progress, compare(squares, progress.displacements))
        assert step.scores is not None
        loss = loss + sum(value.square().sum() for value in step.parameters) + step.scores.square().mean()
    loss.backward()
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


def test_the_place_is_the_one_of_three_axes() -> None:
    """One narrow Gaussian far off the middle on every axis: its place is found on each."""
    centre = (0.3, -0.5, 0.45)
    exact = GaussianSequence(
        torch.tensor([centre]), torch.full((1, 3), 0.17), torch.zeros(1, 3), torch.tensor([[0.0, 0.05, 0.03]]), VOLUME
    )
    moving = make.texture(VOLUME.shape, 4)
    pairs = make.pairs_of((warp_image(moving, exact), moving), grid=VOLUME)
    found = next(iter(RecurrentMethod(network_of(), steps=1).register(pairs))).transforms()[0]
    assert float((found.centres[0] - torch.tensor(centre)).norm()) < 0.15


@pytest.mark.parametrize("kind", [R2N2, MatchingPursuit])
def test_weights_know_their_number_of_axes(kind: type, tmp_path: Path) -> None:
    config = CONFIG if kind is MatchingPursuit else CONFIG.model_copy(update={"least_squares_sizes": ()})
    torch.manual_seed(1)
    network = kind(config, 3).eval()
    save_network(tmp_path / "volumes.safetensors", network)
    again = load_network(tmp_path / "volumes.safetensors", ndim=3)
    pairs, _ = moved()
    first, second = (
        next(iter(RecurrentMethod(each, steps=1).register(pairs))).transforms()[0].displacement_field().vectors
        for each in (network, again)
    )
    torch.testing.assert_close(first, second)
    with pytest.raises(ArgumentError, match="for 3D images, got 2D"):
        load_network(tmp_path / "volumes.safetensors", ndim=2)
