"""Numbers of a validation where they are known beforehand, and what is drawn of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import training_factory as make

from r2n2.geometry import Grid, Space
from r2n2.registration.base import Pairs
from r2n2.simulation.engine import SimulatedBatch
from r2n2.training import validation as validation_module
from r2n2.training.data.contents import ContouredPair
from r2n2.training.loop import build_network
from r2n2.training.pictures import can_draw, example_figure
from r2n2.training.validation import validate
from r2n2.transform import GaussianSequence


def _shifted(pixels: int = 4, size: int = 33) -> SimulatedBatch:
    """fixed(x) = moving(x + shift) along x, of two pairs; the second has no truth."""
    y, x = np.mgrid[:size, :size]
    drawn = [np.exp(-((y - 15) ** 2) / 60 - (x - 14 - move) ** 2 / 30) for move in (0, pixels)]
    fixed, moving = (torch.tensor(image, dtype=torch.float32).expand(2, 1, size, size) for image in drawn)
    displacement = torch.zeros(2, 2, size, size)
    displacement[0, 1] = pixels * 2 / (size - 1)
    valid = torch.ones(2, 1, size, size, dtype=torch.bool)
    return SimulatedBatch(fixed, moving, valid, valid, displacement, torch.tensor([True, False]), ("affine", "real pair"))


def _contoured(pixels: int = 4) -> ContouredPair:
    fixed, moving = torch.zeros(2, 1, 30, 41)
    fixed[:, 10:20, 10:22] = 1
    moving[:, 10:20, 10 + pixels : 22 + pixels] = 1
    return ContouredPair(fixed, moving, fixed > 0.5, moving > 0.5, (1.0, 1.0), "a", "a")


def test_the_identity_leaves_everything_as_it_was() -> None:
    network = build_network(make.config()).eval()
    found = validate(network, _shifted(), [_contoured()], steps=2)
    assert found.error_before_percent == pytest.approx(100 * 4 / 32)
    assert found.error_percent == pytest.approx(found.error_before_percent, rel=1e-4)
    assert found.correlation == pytest.approx(found.correlation_before, abs=1e-4)
    assert found.dice == found.dice_before == pytest.approx(2 / 3)
    assert found.folding_percent == 0
    assert math.isnan(validate(network, _shifted(), steps=1).dice)


def test_the_truth_is_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(make.config()).eval()

    def perfect(_: object, pairs: Pairs) -> torch.Tensor:
        moved = torch.zeros(len(pairs), 2, *pairs.grid.shape)
        moved[:, 1] = 4 * 2 / (max(pairs.grid.shape) - 1)
        return moved

    monkeypatch.setattr(validation_module, "displacements", perfect)
    found = validate(network, _shifted(), [_contoured()])
    assert found.error_percent == pytest.approx(0, abs=1e-4)
    assert found.error_before_percent == pytest.approx(12.5)
    assert found.correlation > 0.999 > found.correlation_before
    assert found.dice == pytest.approx(1)
    monkeypatch.setattr(validation_module, "displacements", lambda *a: -2 * perfect(*a))
    assert validate(network, _shifted()).error_percent == pytest.approx(37.5, rel=1e-4)


def test_a_hole_of_the_moving_image_moves_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _shifted()
    valid = batch.moving_valid.clone()
    valid[:, :, 12:18, 12:20] = False
    holed = replace(batch, moving=torch.where(valid, batch.moving, 5.0), moving_valid=valid)

    def perfect(_: object, pairs: Pairs) -> torch.Tensor:
        moved = torch.zeros(len(pairs), 2, *pairs.grid.shape)
        moved[:, 1] = 4 * 2 / (max(pairs.grid.shape) - 1)
        return moved

    monkeypatch.setattr(validation_module, "displacements", perfect)
    assert validate(build_network(make.config()).eval(), holed).correlation > 0.999, "what is not measured does not count"


def test_folding_is_counted_in_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(make.config()).eval()

    def folded(_: object, pairs: Pairs) -> torch.Tensor:
        found = torch.zeros(len(pairs), 2, *pairs.grid.shape)
        found[0, 1] = -2 * torch.linspace(-1, 1, pairs.grid.shape[1])  # x -> -x
        return found

    monkeypatch.setattr(validation_module, "displacements", folded)
    assert validate(network, _shifted()).folding_percent == pytest.approx(50)


def test_where_is_tissue_counts_more() -> None:
    batch = _shifted()
    wrong = replace(batch, displacement=torch.zeros(2, 2, 33, 33), has_truth=torch.tensor([True, True]))
    wrong.displacement[0, 0, :, :8] = 0.2
    wrong.displacement[1, 0, 12:20, 11:19] = 0.2
    found = []
    for k in range(2):
        known = torch.tensor([k == 0, k == 1])
        found.append(validate(build_network(make.config()).eval(), replace(wrong, has_truth=known), steps=1).error_percent)
    assert found[1] / 64 > 2 * found[0] / (8 * 33)


@pytest.mark.skipif(not can_draw(), reason="no matplotlib")
def test_an_example_shows_the_gaussians_where_they_are() -> None:
    batch = _shifted()
    grid = Grid((33, 33))
    pairs = Pairs(batch.fixed, batch.moving, batch.fixed_valid, batch.moving_valid, grid)
    sequence = GaussianSequence(
        centres=torch.tensor([[-0.5, 0.25]]),
        sigmas=torch.tensor([[0.5, 0.125]]),
        orientation=torch.tensor([[0.0]]),
        amplitudes=torch.tensor([[0.25, -0.125]]),
        grid=grid,
    )
    figure = example_figure(pairs, 0, sequence)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["fixed", "moving", "warped"]
    ellipse = next(patch for patch in figure.axes[5].patches if type(patch).__name__ == "Ellipse")
    assert tuple(ellipse.center) == pytest.approx((20, 8))  # x, y
    # Axis 1 lies along x before it is rotated.
    assert (ellipse.width, ellipse.height) == pytest.approx((16, 4))
    y, x = grid.convert_points(sequence.centres.double(), Space.NORMALISED, Space.INDEX)[0].tolist()
    assert (x, y) == pytest.approx((20, 8))
