"""The loss of some steps of the network: the paper's by default, the same however it is computed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import training_factory as make
from torch import Tensor

from r2n2.training.chunk import Chunk, Sequences
from r2n2.training.loop import build_network
from r2n2.training.presets import PRESETS, preset
from r2n2.training.settings import ObjectiveConfig, Stage, TrainingConfig

TOLERANCE = 1e-3
"""Pixels outside the outermost centres that still count as inside."""


def _network(settings: TrainingConfig) -> Any:
    network = build_network(settings)
    make.shaken(network)
    return network


def _start(network: Any, settings: TrainingConfig) -> Sequences:
    stage = settings.stages[-1]
    batch = make.engine(settings).batch(0, settings.batch, settings.data_size)
    return Sequences.start(network, batch, settings, settings.network, first=0, length=stage.steps)


def _gradients(settings: TrainingConfig, seed: int = 0) -> tuple[float, Tensor, Any]:
    network = _network(settings).train()
    torch.manual_seed(seed)
    sequences = _start(network, settings)
    loss, progress, _ = Chunk(network, settings)(sequences, sequences.length)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()]), progress.detached()


def _warped(image: np.ndarray, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear values of image (n, n) at the displaced pixels, and which of them lie inside."""
    n = len(image)
    axis = np.linspace(-1, 1, n)
    index = [(d + c + 1) * (n - 1) / 2 for d, c in zip(displacement, np.meshgrid(axis, axis, indexing="ij"), strict=True)]
    inside = np.all([(i >= -TOLERANCE) & (i <= n - 1 + TOLERANCE) for i in index], axis=0)
    low = [np.clip(np.floor(i).astype(int), 0, n - 2) for i in index]
    part = [np.clip(i - k, 0, 1) for i, k in zip(index, low, strict=True)]
    (y, x), (b, a) = low, part
    value = (1 - b) * ((1 - a) * image[y, x] + a * image[y, x + 1]) + b * ((1 - a) * image[y + 1, x] + a * image[y + 1, x + 1])
    return value, inside


def test_the_papers_loss_is_the_mean_over_the_steps_plus_a_tenth_of_the_final_variation() -> None:
    settings = make.config(steps=3, batch=2)
    assert settings.objective == preset("paper-as-published").objective
    network = _network(settings).eval()
    sequences = _start(network, settings)
    with torch.no_grad():
        loss, progress, _ = Chunk(network, settings)(sequences, 3)
        # The fields of the steps by themselves, from the same start.
        fields, one = [], sequences
        for step in (1, 2, 3):
            _, after, _ = Chunk(network, settings)(one, 1)
            one = one.moved_on(after, step)
            fields.append(after.displacements[sequences.squares.working].double().numpy())
    scale = sequences.squares.seen
    expected = []
    for pair in range(2):
        fixed, moving = scale.fixed[pair, 0].double().numpy(), scale.moving[pair, 0].double().numpy()
        errors = []
        for field in fields:
            warped, inside = _warped(moving, field[pair])
            inside &= scale.fixed_valid[pair, 0].numpy()
            if scale.moving_valid is not None:
                inside &= _warped(scale.moving_valid[pair, 0].double().numpy(), field[pair])[0] > 0.99
            errors.append(((fixed - warped) ** 2)[inside].mean())
        slopes = np.stack([np.diff(fields[-1][pair], axis=1)[:, :, :-1], np.diff(fields[-1][pair], axis=2)[:, :-1]]) * 31 / 2
        variation = np.sqrt((slopes**2).sum((0, 1)) + 1e-12).mean()
        assert variation > 0.01
        expected.append(np.mean(errors) + 0.1 * variation)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-3)
    assert float(progress.displacements[0].abs().max()) > 0.01


@pytest.mark.parametrize("told", [True, False])
def test_a_stage_without_truth_judges_by_the_images_alone(told: bool) -> None:
    settings = make.config(steps=2, batch=2, objective={"distance": 8.0, "similarity_with_truth": 0.0, "total_variation": 0.0})
    trainer = make.trainer(settings.model_copy(update={"stages": (Stage(updates=2, working_size=32, steps=2, truth=told),)}))
    step = trainer.make_update()
    assert math.isnan(step.logged["relative_error"]) is not told
    # What the images earn counts where nothing is told, and was given no weight where something is.
    sequences = trainer.begin(0, 2, 32, told=told)
    loss, _, logged = trainer.chunk(sequences, 1)
    assert (float(loss.detach()) == pytest.approx(float(logged["similarity"]), rel=1e-5)) is not told


def test_the_presets_are_what_they_are_called() -> None:
    paper = preset("paper-as-published")
    assert paper == TrainingConfig()
    assert (paper.optimiser.learning_rate, paper.optimiser.amsgrad, paper.optimiser.clip) == (1e-4, True, 1.0)
    assert (paper.stages[0].steps, paper.stages[0].working_size, paper.chunk, paper.network.least_squares_sizes) == (25, 256, 0, ())
    assert (paper.objective.measure, paper.objective.total_variation, paper.objective.supervised) == ("mse", 0.1, 0.0)
    for name in PRESETS:
        assert preset(name).name == name
        assert TrainingConfig.model_validate(preset(name).model_dump()) == preset(name)
    with pytest.raises(ValueError, match="choose paper, paper-gpu, paper-as-published, general"):
        preset("genral")


@pytest.mark.parametrize("sizes", [(), (32,)], ids=["paper", "matching pursuit"])
def test_activations_computed_again_give_the_same_gradients(sizes: tuple[int, ...]) -> None:
    network = make.network_config(keep_probability=0.7, least_squares_sizes=sizes)
    kept = _gradients(make.config(steps=3, network=network))
    again = _gradients(make.config(steps=3, network=network, recompute=True))
    other = _gradients(make.config(steps=3, network=network), seed=1)
    assert kept[0] == again[0]
    assert torch.allclose(kept[1], again[1], rtol=1e-5, atol=1e-7)
    assert kept[0] != other[0], "there was no noise to repeat"


@pytest.mark.parametrize("sizes", [(), (32,)], ids=["paper", "matching pursuit"])
@pytest.mark.parametrize("recompute", [False, True])
def test_bfloat16_stays_near_float32(sizes: tuple[int, ...], recompute: bool) -> None:
    network = make.network_config(least_squares_sizes=sizes)
    objective = ObjectiveConfig(supervised=1.0, placement=0.05 if sizes else 0.0)
    full = _gradients(make.config(steps=3, network=network, objective=objective))
    low = _gradients(make.config(steps=3, network=network, objective=objective, precision="bfloat16", recompute=recompute))
    assert low[0] == pytest.approx(full[0], rel=0.01)
    assert low[0] != full[0]
    assert float(torch.nn.functional.cosine_similarity(low[1], full[1], dim=0)) > 0.99
    for one, other in zip(low[2].displacements, full[2].displacements, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).abs().max()) < 0.02 * float(other.abs().max())


def test_chunks_add_up_to_the_whole_sequence() -> None:
    settings = make.config(steps=4)
    network = _network(settings).eval()
    chunk, sequences = Chunk(network, settings), _start(network, settings)
    with torch.no_grad():
        whole = chunk(sequences, 4)[0]
        first, progress, _ = chunk(sequences, 2)
        second, after, _ = chunk(sequences.moved_on(progress.detached(), 2), 2)
        expected = chunk(sequences, 4)[1]
    assert float(first + second) / 2 == pytest.approx(float(whole), rel=1e-5)
    for one, other in zip(after.displacements, expected.displacements, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_gradients_through_images_can_be_left_out() -> None:
    through, without = (_gradients(make.config(steps=3, through_images=choice)) for choice in (True, False))
    assert through[0] == pytest.approx(without[0], rel=1e-6)
    assert not torch.allclose(through[1], without[1], rtol=1e-2)
    # With one step there are no images in between.
    through, without = (_gradients(make.config(steps=1, through_images=choice)) for choice in (True, False))
    assert torch.allclose(through[1], without[1], rtol=1e-5, atol=1e-8)


def test_the_relative_error_is_logged_for_known_pairs_alone() -> None:
    settings = make.config(steps=1, batch=2)
    network = build_network(settings).eval()
    _, _, logged = Chunk(network, settings)(_start(network, settings), 1)
    # A network that has learnt nothing leaves all of the error, less the floor.
    assert 0.3 < float(logged["relative_error"]) <= 1.0
    sequences = _start(network, settings)
    unknown = Sequences(0, sequences.squares, sequences.truth, torch.zeros(2, dtype=torch.bool), sequences.progress, 0, 1)
    assert torch.isnan(Chunk(network, settings)(unknown, 1)[2]["relative_error"])
