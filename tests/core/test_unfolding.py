"""Results that provably do not fold: what limiting changes and what it leaves, refitting, the inverse, and what a frame says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameStatus, build_method, register_series
from r2n2.registration.fit import FitMethod
from r2n2.registration.measures import SquaredDifference
from r2n2.registration.unfolding import SMALLEST_PROVEN, Unfolding, limited
from r2n2.series import ImageSeries
from r2n2.transform import BSplineField, DisplacementField, GaussianSequence, inverse, jacobian_bound, warp_image

GRID = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.6, -0.8), (0.8, 0.6)))
VOLUME = Grid((7, 9, 8), (3.0, 1.5, 0.8))


def _gaussians(grid: Grid, count: int, size: float, seed: int) -> GaussianSequence:
    generator = torch.Generator().manual_seed(seed)
    ndim = grid.ndim
    return GaussianSequence(
        2 * torch.rand(count, ndim, generator=generator) - 1,
        0.08 + 0.2 * torch.rand(count, ndim, generator=generator),
        torch.rand(count, 1 if ndim == 2 else 3, generator=generator),
        size * torch.randn(count, ndim, generator=generator),
        grid,
    )


def test_only_the_gaussians_at_a_fold_are_made_smaller() -> None:
    centres = torch.tensor([[-0.4, -0.6], [0.3, 0.55], [0.35, 0.6]])
    amplitudes = torch.tensor([[0.02, 0.03], [0.0, 0.12], [0.0, 0.12]])
    folds = GaussianSequence(centres, torch.full((3, 2), 0.1), torch.zeros(3, 1), amplitudes, GRID)
    assert jacobian_bound(folds).proven < -0.2
    found, how = limited(folds)
    assert isinstance(found, GaussianSequence)
    assert how == "limited at 1 place"
    assert SMALLEST_PROVEN <= jacobian_bound(found, everywhere=True).proven < 0.1
    torch.testing.assert_close(found.amplitudes[0], amplitudes[0], rtol=1e-5, atol=0)
    kept = found.amplitudes[1:, 1] / 0.12
    assert bool(((kept > 0.4) & (kept < 0.95)).all())
    torch.testing.assert_close(found.centres, centres)


def test_what_does_not_fold_is_left() -> None:
    sequence = _gaussians(GRID, 4, 0.01, 0)
    assert limited(sequence) == (sequence, "")


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([GRID, VOLUME]), st.floats(0.05, 0.3))
def test_whatever_folds_is_one_to_one_in_the_end_and_has_an_inverse(seed: int, grid: Grid, size: float) -> None:
    found, _ = limited(_gaussians(grid, 5, size, seed))
    assert jacobian_bound(found, everywhere=True, enough=SMALLEST_PROVEN).proven >= SMALLEST_PROVEN
    assert inverse(found).residual_mm <= 0.01 * min(grid.spacing)


@pytest.mark.parametrize("grid", [GRID, VOLUME])
def test_a_spline_is_smoothed_where_it_folds(grid: Grid) -> None:
    counts = (14, 19) if grid.ndim == 2 else (6, 8, 7)
    control = 0.005 * torch.randn(grid.ndim, *counts, generator=torch.Generator().manual_seed(1))
    control[(slice(None), *(3,) * grid.ndim)] += 0.6
    found, how = limited(BSplineField(control, grid))
    assert isinstance(found, BSplineField)
    assert "place" in how
    assert jacobian_bound(found).proven >= SMALLEST_PROVEN
    far = (slice(None), -1, -1)
    torch.testing.assert_close(found.control[far], control[far], rtol=0, atol=1e-4)


def test_a_dense_field_is_smoothed_where_it_folds_and_nowhere_else() -> None:
    vectors = torch.zeros(2, *GRID.shape)
    vectors[:, 10, 20] = 4.0
    vectors[0, :, -8:] = 0.5
    found, how = limited(DisplacementField(vectors, GRID, Space.INDEX))
    assert how.startswith("limited at ")
    assert jacobian_bound(found).proven >= SMALLEST_PROVEN
    changed = found.displacement_field().vectors
    assert 0.1 < float(changed[:, 10, 20].max()) < 4
    torch.testing.assert_close(changed[:, :, -4:], vectors[:, :, -4:], rtol=0, atol=1e-3)


def _folding_pairs() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], FitConfig]:
    """One pair with a step in it that a fit without regularisation folds at, and one with little motion."""
    little = make.moved_pair(size=0.01)[:2]
    image = make.texture(make.GRID.shape, 4)
    moved = image.clone()
    moved[:, 20:45, 30:60] = image[:, 20:45, 44:74]
    loose = FitConfig(**(make.FAST_FIT.model_dump() | {"folding_weight": 0.0, "regularisation": 0.0, "final_steps": 8}))
    return [(moved, image), little], loose


def test_a_fold_is_fitted_again_and_the_other_pair_is_left() -> None:
    images, loose = _folding_pairs()
    pairs = make.pairs_of(*images)
    fit = FitMethod(loose, gaussians=10)
    *_, plain = fit.register(pairs)
    before = plain.transforms()
    assert jacobian_bound(before[0]).found < SMALLEST_PROVEN < jacobian_bound(before[1]).proven
    *steps, last = Unfolding(fit, loose).register(pairs)
    assert (last.index, last.total) == (steps[-1].index + 1, steps[-1].total)
    after = last.transforms()
    assert jacobian_bound(after[0], everywhere=True, enough=SMALLEST_PROVEN).proven >= SMALLEST_PROVEN
    assert "fitted again" in last.notes[0]
    assert last.notes[1] == ""
    torch.testing.assert_close(after[1].displacement_field().vectors, before[1].displacement_field().vectors)
    # The motion is still found: a limited map is no identity.
    fixed, moving = images[0]
    left = (warp_image(moving, after[0]) - fixed).square().mean() / (moving - fixed).square().mean()
    assert float(left) < 0.95


def test_a_fold_is_fitted_again_by_the_measure_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    images, loose = _folding_pairs()
    seen: list[str] = []

    class Recorded(SquaredDifference):
        def compare(self, *given: Any, **options: Any) -> Any:
            seen.append("compared")
            return super().compare(*given, **options)

    monkeypatch.setattr("r2n2.registration.methods._measure", lambda config: Recorded(config.fit.clamp))
    config = RegistrationConfig(method="fit", steps=10, fit=loose, device="cpu")
    before = len(seen)
    _ = list(build_method(config).register(make.pairs_of(images[0])))
    plain = len(seen) - before
    *_, last = build_method(config.model_copy(update={"no_folding": True})).register(make.pairs_of(images[0]))
    assert "fitted again" in last.notes[0]
    assert len(seen) - plain > plain


def test_a_limited_frame_says_so() -> None:
    images, loose = _folding_pairs()
    stack = np.stack([images[0][0].numpy(), images[0][1].numpy()])
    series = ImageSeries(stack, make.GRID)
    config = RegistrationConfig(method="fit", steps=10, fit=loose, device="cpu", reference=0, no_folding=True)
    *_, last = register_series(series, config)
    result = last.finished[0]
    assert result.status in (FrameStatus.LIMITED, FrameStatus.DOUBTFUL)
    assert "Jacobian determinant found fell to" in result.message
    assert "proven to stay above 0.02" in result.message
    assert result.min_jacobian_proven >= SMALLEST_PROVEN
    assert result.gaussians == 10


def test_a_bspline_that_folds_is_limited_too() -> None:
    images, _ = _folding_pairs()
    bspline = make.FAST.bspline.model_copy(update={"regularisation": 0.0, "learning_rate": 0.05, "iterations": 30})
    config = RegistrationConfig(method="bspline", bspline=bspline, device="cpu", no_folding=True)
    *_, plain = build_method(config.model_copy(update={"no_folding": False})).register(make.pairs_of(images[0]))
    assert jacobian_bound(plain.transforms()[0]).found < 0
    *_, last = build_method(config).register(make.pairs_of(images[0]))
    assert jacobian_bound(last.transforms()[0]).proven >= SMALLEST_PROVEN
    assert "fitted again" not in last.notes[0]
