"""How many Gaussians a pair gets: what they promise, what noise would give, pairs that stop one by one, and what is told of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.preprocessing import blur
from r2n2.registration import FrameStatus, Pairs, RegistrationStep, build_method, register_series
from r2n2.registration.fit import GrowingFit
from r2n2.registration.fit.growing import correlation_area, worthwhile
from r2n2.registration.fit.proposal import propose_with_gains
from r2n2.registration.methods import _Refined
from r2n2.registration.trusting import Trusting
from r2n2.transform import GaussianSequence, normalised_lattice, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = FitConfig(**(make.FAST_FIT.model_dump() | {"most_gaussians": 20, "added_at_once": 4, "most_coarse": 8, "worth": 0.5}))


def _noise(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _still() -> tuple[Tensor, Tensor]:
    """A pair without motion, of other noise."""
    image = make.texture(make.GRID.shape, 5)
    return image, image + _noise(1, make.GRID.shape)[0].float()


def _complex() -> tuple[Tensor, Tensor]:
    """A pair moved by seven Gaussians."""
    generator = torch.Generator().manual_seed(3)
    centres = 1.2 * torch.rand(7, 2, generator=generator) - 0.6
    exact = GaussianSequence(
        centres, torch.full((7, 2), 0.17), torch.zeros(7, 1), 0.05 * torch.randn(7, 2, generator=generator), make.GRID
    )
    moving = make.texture(make.GRID.shape, 6)
    return warp_image(moving, exact), moving


def _grow(pairs: Pairs, config: FitConfig = FAST, **start: Any) -> list[RegistrationStep]:
    return list(GrowingFit(config).register(pairs, **start))


def _counts(step: RegistrationStep) -> list[int]:
    return [len(one) for one in step.transforms() if isinstance(one, GaussianSequence)]


@pytest.mark.parametrize("shape", [(97, 130), (60, 58, 65)])
def test_the_area_over_which_noise_correlates(shape: tuple[int, ...]) -> None:
    white = _noise(2, shape)
    torch.testing.assert_close(correlation_area(white.flatten(2), shape), torch.ones(2).double(), rtol=0.1, atol=0)
    # Of noise blurred to a width s the squared autocorrelation is exp(-d^2 / 2 s^2), whose sum is (2 pi s^2)^(n / 2).
    smooth = blur(white, (1.0,) * len(shape))
    expected = torch.full((2,), (2 * math.pi) ** (len(shape) / 2)).double()
    torch.testing.assert_close(correlation_area(smooth.flatten(2), shape), expected, rtol=0.15, atol=0)


def test_numbers_are_worth_it_by_schwarz() -> None:
    shape = (80, 90)
    residual = 0.3 * _noise(1, shape).flatten(2)
    weight = torch.full_like(residual, 1 / 7200)
    level = float(residual.square().mean())
    independent = 7200 / float(correlation_area(residual, shape)[0])
    least = 7 * math.log(independent) / independent * level
    for factor in (0.98, 1.02):
        for worth in (1.0, 0.2):
            gains = torch.tensor([factor * worth * least]).double()
            assert bool(worthwhile(gains, residual, weight, shape, worth, 7)) is (factor > 1)


def test_a_promise_is_what_the_best_amplitude_of_one_gaussian_keeps() -> None:
    grid = Grid((48, 48))
    generator = torch.Generator().manual_seed(1)
    residual, slope = torch.randn(1, 1, 2304, generator=generator), torch.randn(1, 2, 2304, generator=generator)
    weight = torch.full((1, 1, 2304), 1 / 2304)
    new, gains = propose_with_gains(grid, residual, slope[:, None], weight, count=2, sigmas=(0.2,), regularisation=0.0)
    positions = normalised_lattice(grid, residual).flatten(1)
    height = torch.exp(-0.5 * ((positions - new.centres[0, 0, :, None]) / 0.2).square().sum(0))
    columns = (height * slope[0] / 48).double().mT
    right = (residual[0, 0] / 48).double()
    left = right - columns @ torch.linalg.lstsq(columns, right[:, None]).solution[:, 0]
    lowered = float(right.square().sum() - left.square().sum())
    assert float(gains[0, 0]) == pytest.approx(lowered, rel=0.03)
    assert float(gains[0, 0]) > float(gains[0, 1]) > 0


def test_pairs_stop_one_by_one_and_none_changes_another() -> None:
    images = [_still(), _complex(), make.moved_pair()[:2]]
    steps = _grow(make.pairs_of(*images))
    counts = _counts(steps[-1])
    assert counts[0] == FAST.added_at_once
    assert counts[1] > counts[0]
    assert max(counts) <= FAST.most_gaussians
    together = steps[-1].transforms()
    for row, image in enumerate(images):
        alone = _grow(make.pairs_of(image))[-1].transforms()[0]
        assert isinstance(alone, GaussianSequence)
        assert len(alone) == counts[row]
        assert float(steps[-1].loss[row]) == pytest.approx(float(_grow(make.pairs_of(image))[-1].loss[0]), rel=0.02)
        torch.testing.assert_close(
            together[row].displacement_field().vectors, alone.displacement_field().vectors, rtol=0, atol=2e-3
        )


def test_less_is_promised_by_a_higher_price() -> None:
    pairs = make.pairs_of(_complex(), make.moved_pair()[:2])
    cheap, dear = (sum(_counts(_grow(pairs, FAST.model_copy(update={"worth": worth}))[-1])) for worth in (1e-6, 50.0))
    assert cheap > 2 * FAST.added_at_once + 2
    assert dear == 2 * FAST.added_at_once


def test_every_step_gives_all_pairs_and_is_counted() -> None:
    steps = _grow(make.pairs_of(_still(), _complex()))
    assert all(len(step.transforms()) == 2 for step in steps[:: len(steps) // 4])
    indices = [step.index for step in steps]
    assert indices == sorted(indices)
    assert 1 <= indices[0] <= indices[-1] <= steps[0].total == GrowingFit(FAST).step_count(0)
    assert bool(steps[-1].loss.isfinite().all())


def test_a_start_is_grown_from_and_short_ones_are_not_filled_up() -> None:
    start = [make.motion(make.GRID, 0.001), GaussianSequence.identity(make.GRID), make.motion(make.GRID, 0.02)]
    steps = _grow(make.pairs_of(_still(), _still(), _complex()), start=start)
    assert 1 <= steps[0].index <= steps[-1].index <= steps[0].total
    counts = _counts(steps[-1])
    # Two Gaussians are enough for the first; the second has none and gets some; those of the third meet them at a multiple.
    assert counts[:2] == [2, FAST.added_at_once]
    assert counts[2] % FAST.added_at_once == 0


def test_promises_that_are_not_kept_end_the_growth() -> None:
    still = FAST.model_copy(update={"longest_step_px": 1e-7, "worth": 0.01})
    assert _counts(_grow(make.pairs_of(_complex()), still)[-1]) == [2 * FAST.added_at_once]
    with pytest.raises(ArgumentError, match="one GaussianSequence a pair"):
        _grow(make.pairs_of(_complex()), start=[])


def test_the_share_of_the_network_stays_and_fit_adds_what_is_missing() -> None:
    class Stub:
        name = "r2n2"

        def register(self, pairs: Pairs, *, start: Any = None) -> Any:
            yield RegistrationStep(1, 1, torch.zeros(len(pairs)), lambda: (make.motion(make.GRID, 0.02),) * len(pairs))

    *_, last = _Refined(Stub(), GrowingFit(FAST)).register(make.pairs_of(_complex()))
    assert 2 < _counts(last)[0] <= FAST.most_gaussians


def test_a_series_tells_how_many_each_frame_took() -> None:
    series, _ = make.moving_series(4)
    config = RegistrationConfig(method="fit", steps="auto", fit=FAST, device="cpu", reference=0)
    results = [result for progress in register_series(series, config) for result in progress.finished]
    for result in results:
        if result.status is not FrameStatus.REFERENCE:
            assert isinstance(result.transform, GaussianSequence)
            assert result.gaussians == len(result.transform) > 0


def test_the_network_alone_cannot_tell_how_many() -> None:
    with pytest.raises(ArgumentError, match="steps auto needs fit"):
        RegistrationConfig.parse({"steps": "auto", "refine": False})
    method = build_method(RegistrationConfig(method="fit", steps="auto", initial="none"))
    assert isinstance(method, Trusting)
    assert isinstance(method.whole, GrowingFit)
