"""Pairs of the simulated thorax that join the engine's stream."""

from __future__ import annotations

import pytest
import torch

from r2n2.geometry import Grid
from r2n2.simulation import thorax_pairs
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


def test_at_least_one_pair_is_wanted() -> None:
    with pytest.raises(ValueError, match="frames_each"):
        thorax_pairs([1000], 0)
