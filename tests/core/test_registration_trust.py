"""What stays different in all aligned frames counts less in the last steps, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid
from r2n2.mask import Mask, Masks
from r2n2.registration import FrameResult, FrameStatus, Pairs, RegistrationStep, SeriesProgress, build_method, register_series
from r2n2.registration.fit.trust import Leftover, trust_of
from r2n2.registration.initial import GoingOn
from r2n2.registration.measures import SquaredDifference
from r2n2.registration.trusting import Trusting, fewer_steps, last_steps
from r2n2.report.page import render_report
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence, Transform
from r2n2.workflow import register_to_folder

pytestmark = pytest.mark.usefixtures("one_thread")

# As many steps as the two goes take together.
FIT = make.FAST_FIT.model_copy(update={"final_steps": 8, "trust_steps": 5, "refine_steps": (2, 8)})
ON = make.FAST.model_copy(update={"fit": FIT, "reference": 0, "similarity": "ssd", "uncertainty": "off", "initial": "none"})
OFF = ON.model_copy(update={"fit": FIT.model_copy(update={"trust": False})})
PATCH = (slice(20, 36), slice(30, 52))


def _flickering(frames: int = 8) -> tuple[ImageSeries, tuple[GaussianSequence, ...]]:
    """A moving series with a patch that shows something else in every frame but the first."""
    series, exact = make.moving_series(frames, size=0.03)
    images = np.array(series.frames)
    for frame in range(1, frames):
        images[frame, 0][PATCH] += 0.6 * (make.texture(make.GRID.shape, 70 + frame).numpy()[0][PATCH] - 100)
    return ImageSeries(images, make.GRID), exact


def _run(series: ImageSeries, config: RegistrationConfig = ON, **options: object) -> list[SeriesProgress]:
    return list(register_series(series, config, **options))  # type: ignore[arg-type]


def _results(progress: Sequence[SeriesProgress]) -> dict[int, FrameResult]:
    found = [result for step in progress for result in step.finished]
    assert len({result.frame for result in found}) == len(found)
    return {result.frame: result for result in found}


def _field(result: FrameResult) -> Tensor:
    return result.transform.displacement_field().vectors


def _pairs(frames: int) -> tuple[Pairs, tuple[GaussianSequence, ...]]:
    """Of frames that share their fixed image, and the exact transforms."""
    series, exact = _flickering(frames + 1)
    moving = torch.from_numpy(np.array(series.frames[1:]))
    valid = torch.ones(1, dtype=torch.bool).expand_as(moving)
    return Pairs(torch.from_numpy(np.array(series.frames[:1])).expand_as(moving), moving, valid, valid, make.GRID), exact[1:]


def test_weights_are_the_fourth_power_of_noise_over_what_is_left() -> None:
    spread, slope = torch.full((1, 1, 9, 14), 0.04), torch.ones(1, 1, 9, 14)
    spread[..., :3, :] = 0.16
    weight, noise = trust_of(spread, slope, torch.ones_like(spread, dtype=torch.bool), 0.0)
    assert noise == pytest.approx(0.2)
    torch.testing.assert_close(weight, torch.where(spread > 0.1, 1 / 16, 1.0))


def test_neither_air_nor_what_does_not_count_says_how_large_noise_is() -> None:
    spread, slope = torch.full((1, 1, 9, 14), 0.04), torch.ones(1, 1, 9, 14)
    spread[..., :9], slope[..., :9] = 1e-4, 0.0
    counted = torch.ones_like(spread, dtype=torch.bool)
    counted[..., -1] = False
    spread[..., -1] = torch.inf
    weight, noise = trust_of(spread, slope, counted, 0.5)
    assert noise == pytest.approx(0.2, rel=0.1)
    assert float(weight.amin()) > 0.6
    torch.testing.assert_close(weight[..., -1], torch.ones(1, 1, 9))


def test_differences_of_rounding_make_no_pixel_better_than_another() -> None:
    spread = 1e-8 * torch.rand(1, 1, 9, 14, generator=torch.Generator().manual_seed(0))
    weight, _ = trust_of(spread, torch.ones_like(spread), torch.ones_like(spread, dtype=torch.bool), 0.0)
    assert bool((weight == 1).all())


def test_the_map_shows_where_all_frames_differ() -> None:
    pairs, exact = _pairs(7)
    leftover = Leftover(FIT, SquaredDifference())
    leftover.estimate(pairs, exact)
    found = leftover.map()
    assert found is not None
    assert found.frames == 7
    shown = found.on(make.GRID)
    inside = torch.zeros(make.GRID.shape, dtype=torch.bool)
    inside[PATCH] = True
    assert float(shown[inside].mean()) < 0.1
    assert float(shown[~inside].mean()) > 0.4


def test_sums_are_the_same_whatever_the_batches() -> None:
    pairs, exact = _pairs(7)
    whole, parts = (Leftover(FIT, SquaredDifference()) for _ in range(2))
    whole.estimate(pairs, exact)
    for some in (slice(0, 3), slice(3, 7)):
        parts.estimate(pairs.part(some), exact[some])
    first, second = whole.map(), parts.map()
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-4, atol=1e-5)
    assert second.frames == 7


def test_frames_that_lie_far_away_have_no_say() -> None:
    pairs, exact = _pairs(7)
    some, every = (Leftover(FIT, SquaredDifference()) for _ in range(2))
    some.estimate(pairs.part(slice(0, 5)), exact[:5])
    moved = [replace(one, linear=torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.0, 0.0]])) for one in exact[5:]]
    assert every.estimate(pairs, [*exact[:5], *moved]) == (None,) * 7
    first, second = some.map(), every.map()
    assert first is not None
    assert second is not None
    assert second.frames == 5
    torch.testing.assert_close(first.weight, second.weight)


def test_few_frames_say_nothing() -> None:
    pairs, exact = _pairs(4)
    leftover = Leftover(FIT, SquaredDifference())
    leftover.estimate(pairs, exact)
    assert leftover.map() is None


def test_motion_is_found_better_beside_what_changes() -> None:
    series, exact = _flickering()
    inside = (slice(10, 46), slice(20, 62))  # the patch and around it

    def error(config: RegistrationConfig) -> float:
        found = _results(_run(series, config))
        wrong = [(_field(found[k]) - exact[k].displacement_field().vectors).norm(dim=0)[inside].mean() for k in range(1, 8)]
        return float(torch.stack(wrong).mean())

    assert error(ON) < 0.8 * error(OFF)


def test_both_goes_together_take_the_usual_steps() -> None:
    assert fewer_steps(FIT).final_steps + last_steps(FIT).refine_steps[1] == FIT.final_steps
    assert fewer_steps(FIT).refine_steps[1] + last_steps(FIT).refine_steps[1] == FIT.refine_steps[1]
    short = FIT.model_copy(update={"final_steps": 3})
    assert (fewer_steps(short).final_steps, last_steps(short).refine_steps) == (1, (0, 2))


def test_a_batch_that_is_all_there_is_takes_both_goes_and_counts_its_steps() -> None:
    pairs, _ = _pairs(7)
    method = build_method(ON)
    assert isinstance(method, Trusting)
    steps = list(method.register(pairs))
    plain = list(method.whole.register(pairs))
    assert [step.index for step in steps] == list(range(1, len(plain) + 1))
    assert {step.total for step in steps} == {len(plain)}
    series, _ = _flickering()
    found = _results(_run(series))
    torch.testing.assert_close(steps[-1].transforms()[2].displacement_field().vectors, _field(found[3]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [2, 5])
def test_few_frames_are_registered_as_without(frames: int) -> None:
    series, _ = _flickering(frames)
    first, second = (_run(series, config) for config in (ON, OFF))
    assert all(step.trust is None for step in first)
    assert all(torch.equal(_field(_results(first)[k]), _field(_results(second)[k])) for k in range(frames))


def test_the_map_comes_once_and_batches_hardly_matter() -> None:
    series, _ = _flickering()
    whole, parts = (_run(series, ON.model_copy(update={"batch_size": size})) for size in (16, 3))
    for progress in (whole, parts):
        assert [step.trust.frames for step in progress if step.trust is not None] == [7]
        fractions = [step.fraction for step in progress]
        assert fractions == sorted(fractions)
        assert (fractions[-1], progress[-1].frames_done) == (1.0, 8)
    first, second = _results(whole), _results(parts)
    torch.testing.assert_close(_field(first[5]), _field(second[5]), rtol=0, atol=2e-3)


def test_a_run_that_goes_on_finds_the_same_to_the_bit() -> None:
    series, _ = _flickering()
    config = ON.model_copy(update={"batch_size": 3})
    whole = _results(_run(series, config))
    done = {k: whole[k] for k in (0, 1, 2, 3)}
    left = _run(series, config, done=done)
    found = _results(left)
    assert sorted(found) == [4, 5, 6, 7]
    assert all(torch.equal(_field(found[k]), _field(whole[k])) for k in found)
    assert left[-1].frames_done == 8


def test_a_frame_that_cannot_be_registered_is_told_once() -> None:
    series, _ = _flickering()
    images = np.array(series.frames)
    images[3] = 5.0
    found = _results(_run(ImageSeries(images, make.GRID), ON.model_copy(update={"batch_size": 3})))
    assert sorted(found) == list(range(8))
    assert found[3].status is FrameStatus.CONSTANT
    assert "every pixel has the same value" in found[3].message
    assert found[4].seconds > 0


def test_what_a_mask_leaves_out_changes_nothing() -> None:
    series, _ = _flickering()
    images = np.array(series.frames)
    weights = np.ones((1, *make.GRID.shape), np.float32)
    weights[0][PATCH] = 0
    masks = Masks(Mask.of(weights, "mask"), Mask.of(weights, "moving mask"))
    images[1:, 0, PATCH[0], PATCH[1]] = 900.0
    first, second = (_results(_run(s, ON, masks=masks)) for s in (series, ImageSeries(images, make.GRID)))
    torch.testing.assert_close(_field(first[4]), _field(second[4]), rtol=0, atol=1e-4)


def test_frames_keep_their_own_number_of_gaussians() -> None:
    series, _ = _flickering()
    numbers = []
    for config in (ON, OFF):
        found = _results(_run(series, config.model_copy(update={"steps": "auto", "batch_size": 16})))
        numbers.append([found[k].gaussians for k in range(1, 8)])
    pairs = [(first, second) for first, second in zip(*numbers, strict=True) if first is not None and second is not None]
    assert len(pairs) >= 5
    assert all(first == second for first, second in pairs)
    assert len(set(pairs)) > 1


@pytest.mark.parametrize("changes", [{"uncertainty": "full"}, {"warm_start": True, "batch_size": 3}, {"no_folding": True}])
def test_other_ways_to_register_go_along(changes: dict[str, object]) -> None:
    series, exact = _flickering(7)
    found = _results(_run(series, ON.model_copy(update=changes)))
    good = [k for k in range(1, 7) if found[k].status in (FrameStatus.OK, FrameStatus.DOUBTFUL, FrameStatus.LIMITED)]
    assert len(good) >= 5
    for k in good:
        assert float(make.error_px(found[k].transform, exact[k]).median()) < 0.6
        assert (found[k].uncertainty is not None) == ("uncertainty" in changes)


@pytest.mark.parametrize("changes", [{"target": "median", "target_rounds": 1}, {"target": "previous"}, {"similarity": "ngf"}])
def test_other_targets_and_measures_are_as_without(changes: dict[str, object]) -> None:
    series, _ = _flickering(7)
    first, second = (_results(_run(series, config.model_copy(update=changes))) for config in (ON, OFF))
    assert all(torch.equal(_field(first[k]), _field(second[k])) for k in range(7))


class _Watching:
    """Takes down what it is given."""

    name = "watching"

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool]] = []

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        assert start is not None
        self.seen.append((len(pairs), pairs.fixed_weight is not None))
        yield RegistrationStep(1, 1, pairs.moving.new_zeros(len(pairs)), lambda: tuple(start))


def test_what_is_out_of_view_of_a_frame_that_was_moved_does_not_count_later_either() -> None:
    pairs, exact = _pairs(5)
    starts = list(exact)
    starts[2] = replace(exact[2], linear=torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.0]]))
    watching = _Watching()
    *_, last = GoingOn(watching).register(pairs, start=starts)
    assert watching.seen == [(4, False), (1, True)]
    assert [t.linear is not None for t in last.transforms() if isinstance(t, GaussianSequence)] == [k == 2 for k in range(5)]


def test_volumes_can_be_registered_in_two_goes() -> None:
    grid = Grid((9, 17, 18), (2.0, 1.0, 1.1))
    series, _ = make.moving_series(6, grid)
    volume = RegistrationConfig().volume_fit.model_copy(
        update={"sizes": (16, 16, 16), "final_steps": 3, "steps_a_round": 1, "trust_steps": 2, "folding_size": 16}
    )
    config = ON.model_copy(update={"volume_fit": volume.model_copy(update={"trust": True}), "volume_steps": 3})
    (trust,) = [step.trust for step in _run(series, config) if step.trust is not None]
    assert trust.on(grid).shape == grid.shape
    assert all(step.trust is None for step in _run(series, config.model_copy(update={"volume_fit": volume})))


def test_the_folder_holds_the_map_and_the_report_shows_it(tmp_path: Path) -> None:
    series, _ = _flickering()
    for name, config in (("on", ON), ("off", OFF)):
        *_, last = register_to_folder(series, tmp_path / name, config)
        assert last.result is not None
    registered = read_result(tmp_path / "on")
    record, shown = registered.manifest.trust, registered.trust()
    assert record is not None
    assert shown is not None
    assert record.frames == 7
    assert record.less_than_half_percent == pytest.approx(100 * float((shown < 0.5).mean()), abs=0.01)
    assert float(shown[PATCH].mean()) < 0.3 * float(shown.mean())
    page = render_report(series, registered)
    assert "What was trusted" in page
    assert "all 7 aligned frames" in page
    without = read_result(tmp_path / "off")
    assert without.manifest.trust is None
    assert without.trust() is None
    assert not (tmp_path / "off" / "trust.mha").exists()
    assert "What was trusted" not in render_report(series, without)
