"""The B-spline baseline at few iterations: it lowers the error on anisotropic frames and keeps to the protocol."""

from __future__ import annotations

from typing import Any

import pytest
import registration_factory as make
import torch

from r2n2.config import BSplineConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import BSplineMethod, Pairs, RegistrationStep
from r2n2.registration.measures import measure_of
from r2n2.transform import BSplineField, GaussianSequence, warp

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = BSplineConfig(control_points=12, iterations=20, learning_rate=1e-2)


def _run(pairs: Pairs, config: BSplineConfig = FAST, **start: Any) -> list[RegistrationStep]:
    return list(BSplineMethod(config).register(pairs, **start))


def _spline(step: RegistrationStep, pair: int = 0) -> BSplineField:
    found = step.transforms()[pair]
    assert isinstance(found, BSplineField)
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_known_motion_is_recovered(seed: int) -> None:
    fixed, moving, exact = make.moved_pair(seed=seed)
    found = _spline(_run(make.pairs_of((fixed, moving)))[-1])
    before = float(make.error_px(GaussianSequence.identity(make.GRID), exact).mean())
    assert float(make.error_px(found, exact).mean()) < min(0.3, 0.3 * before)


def test_a_volume_is_registered() -> None:
    grid = Grid((20, 24, 28), (2.0, 1.3, 1.0))
    fixed, moving, exact = make.moved_pair(grid, 0.12, width=0.6)
    found = _spline(
        _run(make.pairs_of((fixed, moving), grid=grid), BSplineConfig(volume_control_points=8, iterations=8, learning_rate=2e-2))[
            -1
        ]
    )
    before = float(make.error_px(GaussianSequence.identity(grid), exact, margin=3).mean())
    assert float(make.error_px(found, exact, margin=3).mean()) < 0.5 * before


def test_the_papers_control_grid_has_2312_numbers() -> None:
    image = make.texture((64, 64))
    config = BSplineConfig(iterations=1)
    found = _spline(_run(make.pairs_of((image, image), grid=Grid((64, 64))), config)[-1])
    assert found.control.numel() == 2312
    # On a wide frame the control points lie equally far apart in mm along both axes (31 cells along the longer).
    wide = _spline(_run(make.pairs_of((make.texture((61, 83)),) * 2), config)[-1])
    assert wide.control.shape == (2, 34, 3 + round(31 * 73.8 / 102))


def test_every_iteration_yields_a_transform_of_its_own() -> None:
    fixed, moving, exact = make.moved_pair()
    errors, kept = [], []
    for step in BSplineMethod(FAST).register(make.pairs_of((fixed, moving))):
        errors.append(float(make.error_px(_spline(step), exact).mean()))
        kept.append(step)
    assert [step.index for step in kept] == list(range(1, 61))
    assert {step.total for step in kept} == {60}
    assert [float(make.error_px(_spline(step), exact).mean()) for step in kept] == errors
    assert errors[-1] < 0.5 * errors[0]


def test_the_loss_falls_on_every_level() -> None:
    losses = [float(step.loss) for step in _run(make.pairs_of(make.moved_pair()[:2]))]
    for level in range(3):
        assert losses[20 * level + 19] < losses[20 * level]


def test_the_levels_are_a_quarter_half_and_all_of_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spied(*arguments: Any, **options: Any) -> Any:
        seen.append(tuple(arguments[0].shape[2:]))
        return warp(*arguments, **options)

    monkeypatch.setattr("r2n2.registration.bspline.warp", spied)
    grid = Grid((64, 96))
    image = make.texture(grid.shape)
    _run(make.pairs_of((image, image), grid=grid), BSplineConfig(control_points=12, iterations=2))
    assert seen == [(16, 24)] * 2 + [(32, 48)] * 2 + [(64, 96)] * 2


def test_stopping_in_the_middle_keeps_what_was_found() -> None:
    pairs = make.pairs_of(make.moved_pair()[:2])
    whole = _run(pairs)
    running = BSplineMethod(FAST).register(pairs)
    for _ in range(25):
        step = next(running)
    running.close()
    assert torch.equal(_spline(step).control, _spline(whole[24]).control)


def test_a_batch_of_two_is_two_single_runs_whatever_came_before() -> None:
    images = [make.moved_pair(seed=seed)[:2] for seed in (0, 5)]
    both = _run(make.pairs_of(*images))[-1]
    for k in range(2):
        alone = _spline(_run(make.pairs_of(images[k]))[-1])
        torch.testing.assert_close(_spline(both, k).control, alone.control, rtol=0, atol=1e-3)
        again = _spline(_run(make.pairs_of(images[k]))[-1])
        assert torch.equal(again.control, alone.control)


def test_a_frame_and_itself_stay_where_they_are() -> None:
    image = make.texture(make.GRID.shape)
    # At the paper's learning rate; Adam's steps are as long as the rate however small the gradient.
    found = _spline(_run(make.pairs_of((image, image)), BSplineConfig(iterations=20))[-1])
    assert float(found.displacement_field().magnitude_mm().max()) < 0.05 * 0.9


def test_images_without_contrast_stay_where_they_are() -> None:
    flat = torch.full((1, *make.GRID.shape), 7.0)
    found = _spline(_run(make.pairs_of((flat, flat)))[-1])
    assert float(found.displacement_field().magnitude_mm().max()) == 0


@pytest.mark.parametrize("space", list(Space))
def test_a_start_in_any_unit_is_followed(space: Space) -> None:
    fixed, moving, exact = make.moved_pair()
    start = exact.displacement_field().to_space(space)
    config = BSplineConfig(control_points=16, iterations=1, learning_rate=1e-6)
    found = _spline(_run(make.pairs_of((fixed, moving)), config, start=[start])[-1])
    # Lost is only what the coarsest control grid cannot follow.
    before = float(make.error_px(GaussianSequence.identity(make.GRID), exact).mean())
    assert float(make.error_px(found, exact).mean()) < 0.3 * before


def test_pixels_that_are_not_measured_do_not_count() -> None:
    fixed, moving, exact = make.moved_pair()
    pairs = make.pairs_of((fixed, moving))
    spoilt = moving.clone()
    spoilt[0, 20:30, 30:45] = 1e4
    holes = torch.ones_like(pairs.moving_valid)
    holes[0, 0, 20:30, 30:45] = False
    masked = Pairs(pairs.fixed, spoilt[None], pairs.fixed_valid, holes, make.GRID)
    good, bad = (float(make.error_px(_spline(_run(p)[-1]), exact).mean()) for p in (masked, make.pairs_of((fixed, spoilt))))
    assert good < 0.6
    assert good < 0.5 * bad


@pytest.mark.parametrize(("measure", "loss"), [("ngf", "measure"), ("mind", "measure"), ("curve", "measure"), ("ssd", "mi")])
def test_known_motion_is_recovered_from_a_negative(measure: str, loss: str) -> None:
    fixed, moving, exact = make.moved_pair()
    config = FAST.model_copy(update={"loss": loss, "iterations": 30})
    method = BSplineMethod(config, measure=measure_of(measure))
    found = _spline(list(method.register(make.pairs_of((fixed, 200 - moving))))[-1])
    before = float(make.error_px(GaussianSequence.identity(make.GRID), exact).mean())
    assert float(make.error_px(found, exact).mean()) < 0.6 * before


@pytest.mark.parametrize(("measure", "loss"), [("lncc", "measure"), ("ssd", "ssim")])
def test_known_motion_is_recovered_by_what_needs_the_same_contrast(measure: str, loss: str) -> None:
    fixed, moving, exact = make.moved_pair()
    method = BSplineMethod(FAST.model_copy(update={"loss": loss, "iterations": 30}), measure=measure_of(measure))
    found = _spline(list(method.register(make.pairs_of((fixed, moving))))[-1])
    before = float(make.error_px(GaussianSequence.identity(make.GRID), exact).mean())
    assert float(make.error_px(found, exact).mean()) < 0.4 * before
