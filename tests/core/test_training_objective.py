"""Losses of training against answers computed in another way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from r2n2.geometry import Grid
from r2n2.network.least_squares import WIDTHS, Pooling
from r2n2.registration.recurrent_steps import Scale
from r2n2.training.objective import Truth, end_point_error, placement_loss, step_loss
from r2n2.training.settings import ObjectiveConfig
from r2n2.transform import normalised_lattice

N = 16


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scale(batch: int, size: int = N, *, still: bool = False) -> Scale:
    grid = Grid((size, size))
    fixed = _random(batch, 1, size, size, seed=1)
    moving = fixed.clone() if still else _random(batch, 1, size, size, seed=2)
    valid = torch.ones(batch, 1, size, size, dtype=torch.bool)
    valid[:, :, :3] = False
    return Scale(grid, fixed, moving, valid, None, normalised_lattice(grid, fixed))


def _truth(displacement: torch.Tensor, weight: torch.Tensor) -> Truth:
    return Truth(displacement, weight, torch.ones(len(displacement), dtype=displacement.dtype))


def test_the_end_point_error_is_the_weighted_mean_length() -> None:
    truth = torch.zeros(2, 2, 5, 7, dtype=torch.float64)
    found = truth.clone()
    found[0, 0], found[0, 1] = 0.03, 0.04
    found[1, 1, :, 3:] = 0.5
    weight = torch.zeros(2, 1, 5, 7, dtype=torch.float64)
    weight[0, 0, 1:3, 1:3] = 0.25
    weight[1, 0, 2, 2:4] = torch.tensor([0.75, 0.25])
    assert end_point_error(found, _truth(truth, weight)).tolist() == pytest.approx([0.05, 0.125], rel=2e-3)


def test_places_count_where_both_images_show_them() -> None:
    scale = _scale(3, still=True)
    displacement = torch.zeros(3, 2, N, N, dtype=torch.float64)
    displacement[:, 1] = 0.4  # three pixels
    known = torch.tensor([True, True, False])
    truth = Truth.weigh(displacement, known, scale, structure=0.6)
    assert truth.weight.flatten(1).sum(1).tolist() == pytest.approx([1, 1, 0])
    assert float(truth.weight[:, :, :3].abs().max()) == 0
    assert float(truth.weight[:, :, :, -3:].abs().max()) == 0
    assert float(truth.weight[:2, :, 3:, :-3].min()) > 0
    assert truth.scale.tolist() == pytest.approx([0.42, 0.42, 0.02])
    even = Truth.weigh(displacement, known, scale, structure=0.0).weight[0, 0, 3:, :-3]
    assert float(even.max()) == pytest.approx(1 / (13 * 13)) == float(even.min())


def _by_hand(field: np.ndarray, fixed: np.ndarray, warped: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    step = 2 / (len(fixed) - 1)
    y, x = (np.diff(field, axis=1)[:, :, :-1] / step, np.diff(field, axis=2)[:, :-1] / step)
    squared = (y**2 + x**2).sum(0)
    determinant = np.array(
        [
            np.linalg.det(np.eye(2) + np.array([[y[0, i, j], x[0, i, j]], [y[1, i, j], x[1, i, j]]]))
            for i in range(y.shape[1])
            for j in range(y.shape[2])
        ]
    )
    return {
        "similarity": float(((fixed - warped) ** 2)[valid].mean()),
        "total_variation": float(np.sqrt(squared).mean()),
        "diffusion": float(squared.mean()),
        "folding": float((np.clip(0.2 - determinant, 0, None) ** 2).mean()),
    }


@pytest.mark.parametrize("last", [False, True])
def test_a_step_costs_what_is_computed_by_hand(last: bool) -> None:
    scale = _scale(2)
    field = 0.05 * _random(2, 2, N, N, seed=3)
    known = torch.tensor([True, False])
    lengths = [0.5, 2.0]
    truth = _truth(0.1 * _random(2, 2, N, N, seed=4), torch.full((2, 1, N, N), 1 / N**2, dtype=torch.float64))
    truth = truth._replace(scale=torch.tensor(lengths, dtype=torch.float64))
    warped, valid = scale.sample(field)
    weights = {"similarity": 0.7, "total_variation": 0.1, "diffusion": 0.3, "folding": 5.0}
    config = ObjectiveConfig(**weights, similarity_with_truth=0.2, supervised=2.0, distance=3.0, roughness_with_truth=0.5)
    found = step_loss(config, field, truth, scale, known, last=last, length=7)
    for pair in range(2):
        terms = _by_hand(*(part.numpy() for part in (field[pair], scale.fixed[pair, 0], warped[pair, 0], valid[pair, 0])))
        assert min(terms.values()) > 0
        rough = 0.3 * terms["diffusion"] + 5 * terms["folding"] + (0.1 * 7 * terms["total_variation"] if last else 0)
        error = float((field[pair] - truth.displacement[pair]).norm(dim=0).mean())
        expected = 2 * error / lengths[pair] + 3 * error + (0.2, 0.7)[pair] * terms["similarity"] + (0.5, 1.0)[pair] * rough
        assert float(found.total[pair]) == pytest.approx(expected, rel=1e-6)
        assert float(found.error[pair]) == pytest.approx(error, rel=1e-6)
        assert float(found.similarity[pair]) == pytest.approx(terms["similarity"], rel=1e-9)


def test_images_are_not_warped_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = _scale(1)
    field = torch.zeros(1, 2, N, N, dtype=torch.float64)
    truth = _truth(field, torch.full((1, 1, N, N), 1 / N**2, dtype=torch.float64))

    def fail(*_: Any) -> Any:
        raise AssertionError("sampled")

    monkeypatch.setattr(Scale, "sample", fail)
    config = ObjectiveConfig(similarity_with_truth=0, supervised=1)
    step_loss(config, field, truth, scale, torch.tensor([True]), last=False)
    with pytest.raises(AssertionError, match="sampled"):
        step_loss(config, field, truth, scale, torch.tensor([False]), last=False)


def test_the_placement_loss_by_trying_every_place() -> None:
    lattice = normalised_lattice(Grid((N, N)), torch.zeros(1, dtype=torch.float64))
    pooling = Pooling.build((N,), N, lattice)
    half = N // 2
    amplitudes = 0.1 * _random(2, 1, len(WIDTHS), 2, half, half, seed=5)
    scores = _random(2, 1, len(WIDTHS), half, half, seed=6)
    exact, before = 0.1 * _random(2, 2, N, N, seed=7), 0.05 * _random(2, 2, N, N, seed=8)
    # A smooth field, or no Gaussian would be worth anything.
    exact[:, 0] += 0.2
    weight = _random(2, 1, N, N, seed=9).abs()
    weight[0] /= weight[0].sum()
    weight[1] = 0  # unknown
    solved: Any = SimpleNamespace(amplitudes=amplitudes)
    found = placement_loss(scores, solved, pooling, _truth(exact, weight), before)
    worth = np.zeros((len(WIDTHS), half, half))
    error = ((exact - before)[0].square().sum(0) * weight[0, 0]).sum()
    for k, sigma in enumerate(WIDTHS):
        for i in range(half):
            for j in range(half):
                centre = lattice[:, 2 * i, 2 * j, None, None]
                gaussian = torch.exp(-0.5 * ((lattice - centre) / sigma).square().sum(0))
                after = before[0] + gaussian * amplitudes[0, 0, k, :, i, j, None, None]
                worth[k, i, j] = error - ((exact[0] - after).square().sum(0) * weight[0, 0]).sum()
    assert worth.max() > 0.001
    assert worth.min() < -worth.max()  # harm counts up to as much as the best would help
    chance = np.exp(scores[0, 0].numpy())
    chance /= chance.sum()
    assert float(found[0]) == pytest.approx(-(chance * (worth / worth.max()).clip(-1)).sum(), rel=1e-6)
    assert float(found[1]) == 0
