"""Pairs of the simulated thorax that join the engine's stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from r2n2.geometry import Grid
from r2n2.simulation import thorax_pairs
from r2n2.simulation.people import acquisition, acquisition_pairs
from r2n2.training.data.file import read_data_file
from r2n2.training.data.thorax import write_thorax_data
from r2n2.transform import warp


def test_thorax_pairs_hold_the_exact_displacement() -> None:
    pairs = thorax_pairs([1000, 1003], 2, size=96)
    assert [item.patient for item in pairs] == ["thorax-1000", "thorax-1000", "thorax-1003", "thorax-1003"]
    grid = Grid((96, 96))
    for item in pairs[::2]:
        assert item.displacement is not None
        assert item.displacement.norm(dim=0).max() > 0.015
        warped = warp(item.moving[None], item.displacement[None], grid)
        # Noise, coil and blood stay different: the motion's part goes.
        before, after = ((image - item.fixed).square()[..., 10:-10, 10:-10].mean() for image in (item.moving, warped.image[0]))
        assert after < 0.6 * before
    again = thorax_pairs([1003], 1, size=96)[0]
    assert torch.equal(again.fixed, pairs[2].fixed)


def test_pairs_of_an_acquisition_are_of_all_its_slice_positions(tmp_path: Path) -> None:
    count = write_thorax_data(tmp_path / "people.safetensors", range(2007, 2008), pairs=1, size=32, acquisitions=True)
    pairs = read_data_file(tmp_path / "people.safetensors").pairs
    assert count == len(pairs) == len(acquisition(2007))
    assert {item.patient for item in pairs} == {"thorax-2007"}
    assert len({float(item.fixed.mean()) for item in pairs}) == count
    for item in pairs:
        assert item.displacement is not None
        assert item.displacement.norm(dim=0).max() > 0.01


def test_at_least_one_pair_is_wanted() -> None:
    with pytest.raises(ValueError, match="frames_each"):
        thorax_pairs([1000], 0)
    with pytest.raises(ValueError, match="pairs_a_slice"):
        acquisition_pairs([1000], 0)
