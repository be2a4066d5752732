"""The Gaussian fit recovers known motion on odd, anisotropic frames, never makes a pair worse, and keeps nothing of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.registration import FitMethod, Pairs, RegistrationStep, register_pair
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.method import plan_rounds
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import SquaredDifference
from r2n2.transform import DisplacementField, GaussianSequence, Transform

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = make.FAST_FIT
NAMES = ("centres", "sigmas", "orientation", "amplitudes")


def _fit(pairs: Pairs, config: FitConfig = FAST, gaussians: int = 8, **start: Any) -> list[RegistrationStep]:
    return list(FitMethod(config, gaussians=gaussians).register(pairs, **start))


def _sequence(step: RegistrationStep, pair: int = 0) -> GaussianSequence:
    found = step.transforms()[pair]
    assert isinstance(found, GaussianSequence)
    return found


def _equal(first: GaussianSequence, second: GaussianSequence) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in NAMES)


@pytest.mark.parametrize("seed", [0, 1])
def test_known_motion_is_recovered_at_the_default_settings(seed: int) -> None:
    fixed, moving, exact = make.moved_pair(seed=seed)
    steps = _fit(make.pairs_of((fixed, moving)), FitConfig(), 25)
    found = _sequence(steps[-1])
    assert float(make.error_px(GaussianSequence.identity(make.GRID), exact).max()) > 2
    error = make.error_px(found, exact)
    assert float(error.mean()) < 0.1
    assert float(error.max()) < 0.6
    assert len(found) == 25
    assert found.grid == make.GRID


SHAPES = [(16, 200), (17, 23), (19, 61), (23, 31), (29, 64), (31, 47), (32, 48), (37, 41), (40, 17), (43, 97), (47, 31), (53, 59)]
SHAPES += [(61, 16), (64, 64), (67, 128), (71, 33), (79, 83), (89, 50), (97, 101), (101, 29)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_known_motion_is_recovered_on_every_shape_where_it_lies(shape: tuple[int, int]) -> None:
    grid = Grid(shape, (1.4, 0.9))
    shortest = min(grid.half_extent_mm) / grid.unit_mm
    fixed, moving, exact = make.moved_pair(grid, 0.12 * shortest, seed=sum(shape))
    # The shorter side must have enough pixels on the working square; there the motion is as narrow as a Gaussian may be, and
    # the last of it comes slowly.
    narrow = shortest <= 0.25
    config = FAST.model_copy(update={"sizes": (24, 48, 160 if narrow else 64), "final_steps": 40 if narrow else FAST.final_steps})
    found = _sequence(_fit(make.pairs_of((fixed, moving), grid=grid), config)[-1])
    motion, error = (make.error_px(t, exact, margin=1) for t in (GaussianSequence.identity(grid), found))
    moved = motion > 0.5 * motion.max()
    assert float(error[moved].mean()) < 0.55 * float(motion[moved].mean())
    assert float(error.mean()) < 0.3


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_the_spacing_does_not_matter(scale: float) -> None:
    fixed, moving, _ = make.moved_pair()
    scaled = replace(make.GRID, spacing=tuple(s * scale for s in make.GRID.spacing))
    expected = _sequence(_fit(make.pairs_of((fixed, moving)))[-1]).displacement_field().vectors
    found = _sequence(_fit(make.pairs_of((fixed, moving), grid=scaled))[-1])
    torch.testing.assert_close(found.displacement_field().vectors, expected, rtol=0, atol=2e-3)
    assert found.grid == scaled


def test_a_scale_and_an_offset_of_the_intensities_do_not_matter() -> None:
    fixed, moving, _ = make.moved_pair()
    expected = _sequence(_fit(make.pairs_of((fixed, moving)))[-1]).displacement_field().vectors
    found = _sequence(_fit(make.pairs_of((fixed, 0.01 * moving + 5)))[-1]).displacement_field().vectors
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_the_loss_never_rises_on_a_level() -> None:
    images = [make.moved_pair(seed=seed)[:2] for seed in range(3)]
    config = FAST.model_copy(update={"steps_a_round": 6, "final_steps": 8, "far_steps": 0})
    steps = _fit(make.pairs_of(*images), config)
    rounds = plan_rounds(config, 8, 0)
    assert len(steps) == sum(r.steps for r in rounds) == steps[0].total
    assert [s.index for s in steps] == list(range(1, len(steps) + 1))
    first = 0
    for plan in rounds:
        losses = torch.stack([step.loss for step in steps[first : first + plan.steps]])
        assert (losses.diff(dim=0) <= 0).all()
        assert (losses[-1] < losses[0]).all()
        first += plan.steps


def test_forces_are_summed_where_displacements_are() -> None:
    """The sum of force times displacement over a large square is the same on the smaller lattice it is interpolated from."""
    pairs = make.pairs_of(make.moved_pair()[:2])
    config = FAST.model_copy(update={"field_size": 21})
    doubled = replace(pairs, moving=pairs.moving.double(), fixed=pairs.fixed.double())
    model = WhitenedGaussians.from_sequences((_sequence(_fit(pairs)[-1]),), doubled.moving)
    level = Level.build(doubled, 48, config, SquaredDifference(), model)
    assert level.lattice.enlarging is not None
    force = torch.randn(1, 2, 48 * 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (level.lattice.displacement(model).flatten(2) * force).sum()
    found = (model.displacement(level.lattice.positions) * level.lattice.gathered(force)).sum()
    torch.testing.assert_close(found, expected)


def test_every_step_keeps_a_valid_transform_of_its_own() -> None:
    fixed, moving, exact = make.moved_pair()
    errors, kept = [], []
    for step in FitMethod(FAST, gaussians=8).register(make.pairs_of((fixed, moving))):
        errors.append(float(make.error_px(_sequence(step), exact).mean()))
        kept.append(step)
    # Asked again after the end every step still answers for itself.
    assert [float(make.error_px(_sequence(step), exact).mean()) for step in kept] == errors
    assert errors[-1] < 0.5 * errors[0]


def test_a_result_can_be_edited_and_used_by_autograd() -> None:
    step = _fit(make.pairs_of(make.moved_pair()[:2]))[-1]
    found = _sequence(step)
    factor = torch.ones(1, requires_grad=True)
    replace(found, amplitudes=factor * found.amplitudes).displacement_field().vectors.sum().backward()
    assert factor.grad is not None
    assert not any(getattr(found, name).is_inference() for name in NAMES)
    found.amplitudes[0] += 1
    found.centres[0] = 0
    assert not torch.equal(_sequence(step).amplitudes, found.amplitudes)


def test_stopping_in_the_middle_keeps_what_was_found() -> None:
    fixed, moving, _ = make.moved_pair()
    whole = _fit(make.pairs_of((fixed, moving)))
    running = FitMethod(FAST, gaussians=8).register(make.pairs_of((fixed, moving)))
    for _ in range(4):
        step = next(running)
    running.close()
    assert _equal(_sequence(step), _sequence(whole[3]))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_batch_of_two_is_two_single_runs() -> None:
    images = [make.moved_pair(seed=seed)[:2] for seed in (0, 5)]
    both = _fit(make.pairs_of(*images))[-1]
    for k in range(2):
        alone = _fit(make.pairs_of(images[k]))[-1]
        # The same to rounding: matrix products of a batch add in another order.
        torch.testing.assert_close(
            _sequence(both, k).displacement_field().vectors, _sequence(alone).displacement_field().vectors, rtol=0, atol=2e-3
        )
        assert float(both.loss[k]) == pytest.approx(float(alone.loss), rel=0.02)


def test_the_same_pair_gives_the_same_bits_whatever_was_registered_before() -> None:
    fixed, moving, _ = make.moved_pair()
    method = FitMethod(FAST, gaussians=8)
    first = list(method.register(make.pairs_of((fixed, moving))))[-1]
    torch.rand(7)
    list(method.register(make.pairs_of(make.moved_pair(seed=4)[:2])))
    again = list(method.register(make.pairs_of((fixed, moving))))[-1]
    assert _equal(_sequence(first), _sequence(again))
    assert torch.equal(first.loss, again.loss)


def test_the_number_of_threads_changes_the_result_by_less_than_a_twentieth_of_a_pixel() -> None:
    pairs = make.pairs_of(make.moved_pair()[:2])
    before = torch.get_num_threads()
    fields: list[Tensor] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fields.append(_sequence(_fit(pairs)[-1]).displacement_field().vectors)
    finally:
        torch.set_num_threads(before)
    difference_px = (fields[0] - fields[1]).norm(dim=0) * make.GRID.unit_mm / min(make.GRID.spacing)
    assert float(difference_px.max()) < 0.05


def test_a_frame_and_itself_stay_where_they_are() -> None:
    image = make.texture(make.GRID.shape)
    found = _sequence(_fit(make.pairs_of((image, image)), FitConfig(), 25)[-1])
    still = replace(make.motion(make.GRID), amplitudes=torch.zeros(2, 2))
    assert float(make.error_px(found, still, margin=1).max()) < 0.05


def test_images_without_contrast_stay_where_they_are() -> None:
    flat = torch.full((1, *make.GRID.shape), 7.0)
    step = _fit(make.pairs_of((flat, flat)))[-1]
    assert step.loss.tolist() == [0.0]
    assert float(_sequence(step).displacement_field().magnitude_mm().max()) == 0


def test_pixels_that_are_not_measured_do_not_count() -> None:
    fixed, moving, exact = make.moved_pair()
    pairs = make.pairs_of((fixed, moving))
    spoilt = moving.clone()
    spoilt[0, 20:30, 30:45] = 1e4
    holes = torch.ones_like(pairs.moving_valid)
    holes[0, 0, 20:30, 30:45] = False
    masked = Pairs(pairs.fixed, spoilt[None], pairs.fixed_valid, holes, make.GRID)
    good = float(make.error_px(_sequence(_fit(masked)[-1]), exact).mean())
    bad = float(make.error_px(_sequence(_fit(make.pairs_of((fixed, spoilt)))[-1]), exact).mean())
    assert good < 0.4
    assert good < 0.5 * bad


def test_a_volume_is_registered() -> None:
    grid = Grid((20, 24, 28), (2.0, 1.3, 1.0))
    fixed, moving, exact = make.moved_pair(grid, 0.12, width=0.6)
    config = FAST.model_copy(update={"sizes": (14, 20, 24)})
    found = _sequence(_fit(make.pairs_of((fixed, moving), grid=grid), config)[-1])
    motion, error = (make.error_px(t, exact, margin=2) for t in (GaussianSequence.identity(grid), found))
    assert float(motion.mean()) > 0.6
    assert float(error.mean()) < 0.55 * float(motion.mean())
    assert found.orientation.shape == (8, 3)


def test_a_start_is_gone_on_from() -> None:
    fixed, moving, exact = make.moved_pair()
    begun = _sequence(_fit(make.pairs_of((fixed, moving)))[-1])
    steps = _fit(make.pairs_of((fixed, moving)), start=[begun])
    total = sum(FAST.refine_steps)
    assert [(step.index, step.total) for step in steps] == [(k, total) for k in range(1, total + 1)]
    assert len(_sequence(steps[0])) == 8
    assert float(make.error_px(_sequence(steps[0]), exact).mean()) < 0.2
    assert len(_sequence(_fit(make.pairs_of((fixed, moving)), start=[begun.select(slice(0, 3))])[-1])) == 8


def test_a_far_pair_takes_steps_of_its_own_and_leaves_the_others_as_they_are() -> None:
    near, far = make.moved_pair(seed=2), make.moved_pair(size=0.4, seed=1, width=0.5)
    config = FitConfig(far_steps=30)
    poor = [GaussianSequence.identity(make.GRID)] * 2

    def error(steps: list[RegistrationStep], pair: int, exact: Transform) -> float:
        return float(make.error_px(_sequence(steps[-1], pair), exact).mean())

    assert float(make.error_px(GaussianSequence.identity(make.GRID), far[2]).mean()) > 10
    with_steps = _fit(make.pairs_of(near[:2], far[:2]), config, 25, start=poor)
    without = _fit(make.pairs_of(near[:2], far[:2]), config.model_copy(update={"far_steps": 0}), 25, start=poor)
    assert error(with_steps, 1, far[2]) < 0.5 < 2 < error(without, 1, far[2])
    assert [s.index for s in with_steps] == list(range(1, with_steps[0].total + 1))
    assert _equal(_sequence(with_steps[-1]), _sequence(without[-1]))


def test_a_start_that_does_not_fit_is_refused() -> None:
    pairs = make.pairs_of(make.moved_pair()[:2])
    elsewhere = GaussianSequence.identity(Grid((20, 30)))
    for start in ([DisplacementField.identity(make.GRID)], [elsewhere], [], [GaussianSequence.identity(make.GRID)] * 2):
        with pytest.raises(ArgumentError, match="one GaussianSequence a pair"):
            _fit(pairs, start=start)


def test_at_least_one_gaussian() -> None:
    with pytest.raises(ArgumentError, match="at least 1 Gaussian"):
        FitMethod(FAST, gaussians=0)
    assert len(_sequence(_fit(make.pairs_of(make.moved_pair()[:2]), gaussians=1)[-1])) == 1


@pytest.mark.parametrize(("gaussians", "present"), [(1, 0), (2, 0), (25, 0), (25, 25), (25, 10), (3, 7), (500, 0)])
def test_the_plan_adds_up(gaussians: int, present: int) -> None:
    rounds = plan_rounds(FitConfig(), gaussians, present)
    assert sum(r.add for r in rounds) == max(gaussians - present, 0)
    assert all(r.steps > 0 for r in rounds)
    assert [r.size for r in rounds] == sorted(r.size for r in rounds)
    assert [r.size for r in rounds if r.far_only] == [32]
    assert FitMethod(FitConfig(), gaussians=gaussians).step_count(present) == sum(r.steps for r in rounds if not r.far_only)


@pytest.mark.parametrize(("steps", "expected"), [((4, 6), [(96, 4), (256, 6)]), ((0, 6), [(256, 6)]), ((2, 0), [(96, 2)])])
@pytest.mark.parametrize("present", [25, 31])
def test_a_full_start_is_refined_in_the_steps_asked_for(
    steps: tuple[int, int], expected: list[tuple[int, int]], present: int
) -> None:
    rounds = plan_rounds(FitConfig(refine_steps=steps, far_steps=0), 25, present)
    assert [(r.size, r.steps) for r in rounds] == expected


def test_what_a_start_lacks_is_added_in_rounds_on_the_second_square() -> None:
    rounds = plan_rounds(FitConfig(refine_rounds=2, refine_steps=(5, 8)), 25, 16)
    assert [(r.size, r.add, r.steps) for r in rounds] == [(32, 0, 30), (96, 5, 5), (96, 4, 5), (256, 0, 8)]
    assert [r.add for r in plan_rounds(FitConfig(refine_rounds=3), 25, 24)] == [0, 1, 0]


def test_a_pair_by_the_public_function() -> None:
    fixed, moving, exact = make.moved_pair()
    config: RegistrationConfig = make.FAST
    last = list(register_pair(fixed[0].numpy(), moving[0].numpy(), make.GRID, config))[-1]
    assert float(make.error_px(_sequence(last), exact).mean()) < 0.3
    with pytest.raises(ArgumentError, match=r"moving: has shape \(60, 83\)"):
        list(register_pair(fixed.numpy(), moving[0, :60].numpy(), make.GRID, config))
    with pytest.raises(ArgumentError, match="at least 16 pixels is needed, got 15 x 200"):
        list(register_pair(torch.zeros(15, 200).numpy(), torch.zeros(15, 200).numpy(), Grid((15, 200)), config))
