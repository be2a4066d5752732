"""What a mask leaves out changes nothing inside it: not the displacement, not the intensities, not a figure or a doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import registration_factory as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay
from torch import Tensor

from r2n2.config import BSplineConfig, FitConfig, NetworkConfig
from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.mask import Mask, Masks
from r2n2.preprocessing import Square, intensity_of, reduce_masked, score_together, to_square
from r2n2.registration import (
    BSplineMethod,
    FitMethod,
    FrameResult,
    FrameStatus,
    Method,
    Pairs,
    edited_result,
    register_pair,
    register_series,
)
from r2n2.registration.recurrent_steps import compare, prepare
from r2n2.series import ImageSeries
from r2n2.similarity import correlation, mean_squared_error
from r2n2.simulation import ThoraxConfig, thorax_series
from r2n2.transform import GaussianSequence, Transform, resample, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

FIT = FitMethod(make.FAST_FIT, gaussians=8)
SPLINE = BSplineMethod(BSplineConfig(control_points=12, iterations=20, learning_rate=1e-2))
METHODS = pytest.mark.parametrize("method", [FIT, SPLINE], ids=["fit", "bspline"])
INSIDE = (slice(18, 45), slice(20, 62))


def _box(grid: Grid = make.GRID, inside: tuple[slice, ...] = INSIDE) -> Tensor:
    weight = torch.zeros(1, 1, *grid.shape)
    weight[(0, 0, *inside)] = 1
    return weight


def _found(method: Method, pairs: Pairs) -> Transform:
    *_, last = method.register(pairs)
    return last.transforms()[0]


def _vectors(method: Method, pairs: Pairs) -> Tensor:
    return _found(method, pairs).displacement_field().vectors


def _painted(images: Tensor, weight: Tensor, seed: int = 0) -> Tensor:
    """Something bright and rough wherever a mask is 0."""
    noise = 1e4 * torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 3e3
    return torch.where(weight > 0, images, noise)


@METHODS
def test_whatever_lies_outside_both_masks_changes_nothing(method: Method) -> None:
    pairs = make.pairs_of(make.moved_pair()[:2])
    masked = replace(pairs, fixed_weight=_box(), moving_weight=_box(inside=(slice(12, 50), slice(11, 70))))
    assert masked.moving_weight is not None
    other = replace(
        masked,
        fixed=_painted(masked.fixed, _box(), 1),
        moving=_painted(masked.moving, masked.moving_weight, 2),
    )
    first = _vectors(method, masked)
    assert float(first.abs().max()) > 0.01
    assert torch.equal(_vectors(method, other), first)


@METHODS
def test_with_a_mask_of_the_reference_alone_what_is_far_from_it_changes_nothing(method: Method) -> None:
    grid = Grid((96, 131), (1.3, 0.9))
    fixed, moving, _ = make.moved_pair(grid, 0.04)
    weight = _box(grid, (slice(40, 60), slice(20, 50)))
    pairs = replace(make.pairs_of((fixed, moving), grid=grid), fixed_weight=weight)
    spoilt = moving.clone()
    spoilt[0, :, 95:] = 1e4
    other = replace(pairs, fixed=_painted(pairs.fixed, weight), moving=spoilt[None])
    assert torch.equal(_vectors(method, other), _vectors(method, pairs))


def test_a_volume_too() -> None:
    grid = Grid((20, 24, 28), (2.0, 1.3, 1.0))
    fixed, moving, exact = make.moved_pair(grid, 0.12, width=0.6)
    weight = _box(grid, (slice(3, 17), slice(3, 21), slice(2, 25)))
    pairs = replace(make.pairs_of((fixed, moving), grid=grid), fixed_weight=weight, moving_weight=torch.ones_like(weight))
    method = FitMethod(make.FAST_FIT.model_copy(update={"sizes": (16, 20, 24)}), gaussians=6)
    found = _found(method, pairs)
    assert torch.equal(_vectors(method, replace(pairs, fixed=_painted(pairs.fixed, weight))), found.displacement_field().vectors)
    error, motion = (make.error_px(t, exact, margin=5) for t in (found, GaussianSequence.identity(grid)))
    assert float(error.mean()) < 0.6 * float(motion.mean())


@METHODS
def test_a_bright_object_that_moves_outside_does_not_pull(method: Method) -> None:
    """A bar crosses the frame beside what counts: with the mask the motion inside is found as if it were not there."""
    fixed, moving, exact = make.moved_pair()
    fixed, moving = fixed.clone(), moving.clone()
    fixed[0, 8:14, 10:70] = 900
    moving[0, 3:9, 10:70] = 900
    pairs = make.pairs_of((fixed, moving))
    inside = (slice(18, 54), slice(8, 75))
    weight = _box(inside=inside)
    with_mask, without = (
        (_vectors(method, p) - exact.displacement_field().vectors)[(slice(None), *inside)].norm(dim=0).mean()
        for p in (replace(pairs, fixed_weight=weight), pairs)
    )
    unit_px = make.GRID.unit_mm / min(make.GRID.spacing)
    assert float(with_mask) * unit_px < (0.5 if method is FIT else 0.9)
    assert float(with_mask) < 0.6 * float(without)


def test_what_a_mask_leaves_out_makes_nothing_inside_rougher() -> None:
    """The landmarks' hull of a simulated thorax, 30 % of the frame, in deep breath: none of them is lost."""
    truth = thorax_series(ThoraxConfig(seed=100, frames=7, shape=(128, 128)))
    grid, frame = truth.series.grid, 4
    marks = truth.landmarks.to_space(Space.INDEX, grid)
    start = marks.in_frame(0)
    middle = start.points.mean(0)
    hull = Delaunay(middle + 1.1 * (start.points - middle)).find_simplex(np.moveaxis(np.indices(grid.shape), 0, -1)) >= 0
    images = [torch.from_numpy(truth.series.frame(k).astype(np.float32)) for k in (0, frame)]
    pairs = replace(make.pairs_of((images[0], images[1]), grid=grid), fixed_weight=torch.from_numpy(hull).float()[None, None])
    places = grid.convert_points(torch.from_numpy(start.points), Space.INDEX, Space.NORMALISED)
    found = places + _found(FitMethod(FitConfig()), pairs).displacement_at(places)
    exact = marks.in_frame(frame).select(list(start.ids)).points
    error = (grid.convert_points(found, Space.NORMALISED, Space.INDEX).numpy() - exact) * np.array(grid.spacing)
    assert np.linalg.norm(error, axis=1).max() < 2.5


@METHODS
def test_another_brightness_is_no_hindrance(method: Method) -> None:
    fixed, moving, exact = make.moved_pair()
    errors = []
    for gain, offset in ((1.0, 0.0), (0.03, 12.0), (1.2, 0.0)):
        pairs = replace(make.pairs_of((fixed, gain * moving + offset)), fixed_weight=_box())
        vectors = _vectors(method, pairs) - exact.displacement_field().vectors
        errors.append(float(vectors[(slice(None), *INSIDE)].norm(dim=0).mean()))
    assert max(errors) < errors[0] + 0.003
    assert max(errors) < 0.015


@METHODS
def test_a_mask_that_counts_everything_alike_is_no_mask(method: Method) -> None:
    fixed, moving, exact = make.moved_pair()
    pairs = make.pairs_of((fixed, moving))
    plain = float(make.error_px(_found(method, pairs), exact).mean())
    for share in (1.0, 0.25):
        everywhere = torch.full_like(pairs.fixed, share)
        masked = replace(pairs, fixed_weight=everywhere, moving_weight=everywhere)
        assert float(make.error_px(_found(method, masked), exact).mean()) < plain + 0.12


def test_what_counts_little_pulls_little() -> None:
    """Of two halves that move apart, the one of the larger weight decides where a wide motion must choose."""
    image = make.texture((48, 48), 5)
    grid = Grid((48, 48))
    fixed, moving = image, torch.cat((image.roll(3, 1)[:, :, :24], image.roll(-3, 1)[:, :, 24:]), 2)
    wide = FitMethod(make.FAST_FIT.model_copy(update={"sigma_range": (0.9, 2.0), "regularisation": 0.2}), gaussians=1)
    found = []
    for left in (1.0, 0.02):
        weight = torch.ones(1, 1, 48, 48)
        weight[..., :24] = left
        weight[..., 24:] = 1.02 - left
        vectors = _vectors(wide, replace(make.pairs_of((fixed, moving), grid=grid), fixed_weight=weight))
        found.append(float(vectors[0, 16:32, 20:28].mean()))
    assert found[0] > 0.03
    assert found[1] < -0.03


@pytest.mark.parametrize("moving_too", [False, True])
def test_pairs_of_the_network_that_stop_early_leave_the_others_their_masks(moving_too: bool) -> None:
    config = NetworkConfig(channels=(4, 4, 4, 4), working_size=32, least_squares_sizes=(32,))
    several = [make.moved_pair(seed=k)[:2] for k in range(3)]
    fixed = several[0][0].expand(3, 1, *make.GRID.shape)
    pairs = replace(make.pairs_of(*several), fixed=fixed, fixed_weight=_box()[0].expand_as(fixed))
    if moving_too:
        pairs = replace(pairs, moving_weight=torch.ones_like(pairs.moving))
    squares = prepare(config, pairs, pairs.fixed)
    rows = torch.tensor([2, 0])
    still = tuple(torch.zeros(2, 2, *scale.grid.shape) for scale in squares.scales)
    some = compare(squares.part(rows), still)
    every = compare(squares, tuple(torch.zeros(3, 2, *scale.grid.shape) for scale in squares.scales))
    torch.testing.assert_close(some.warped, every.warped[rows])
    torch.testing.assert_close(some.valid.float(), every.valid[rows].float())


def test_a_batch_with_masks_of_its_own_is_as_each_pair_alone() -> None:
    several = [make.moved_pair(seed=k)[:2] for k in range(2)]
    weights = torch.cat((_box(), _box(inside=(slice(5, 40), slice(30, 80)))))
    whole = replace(make.pairs_of(*several), moving_weight=weights)
    *_, last = FIT.register(whole)
    for k in range(2):
        alone = _vectors(FIT, whole.part(slice(k, k + 1)))
        torch.testing.assert_close(last.transforms()[k].displacement_field().vectors, alone, rtol=0, atol=1e-3)


@given(size=st.integers(18, 70), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_coarse_pixel_averages_what_counts_alone(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.rand(1, 1, 31, 47, generator=generator) > 0.4).float()
    grid, valid = Grid((31, 47), (1.7, 0.9)), torch.ones(1, 1, 31, 47, dtype=torch.bool)
    flat = torch.where(weight > 0, 7.0, torch.inf)
    square = to_square(flat, valid, grid, size, weight=weight)
    assert square.weight is not None
    torch.testing.assert_close(square.images[square.valid], torch.full_like(square.images[square.valid], 7.0))
    assert bool((square.weight[~square.valid] == 0).all())
    assert bool(square.valid.any())


def test_a_thin_mask_is_left_on_a_coarse_lattice() -> None:
    grid = Grid((64, 90))
    weight = torch.zeros(1, 1, 64, 90)
    weight[..., 20:22, :] = 1
    image = torch.arange(90.0).expand(1, 1, 64, 90).clone()
    valid = torch.ones(1, 1, 64, 90, dtype=torch.bool)
    coarse = grid.resized((8, 12))
    found, counted, share = reduce_masked(image, valid, weight, grid, coarse, (4.0, 4.0))
    assert 0 < int(counted.sum()) <= 24
    expected = resample(image, grid, coarse).image
    torch.testing.assert_close(found[..., 2:-2][counted[..., 2:-2]], expected[..., 2:-2][counted[..., 2:-2]], rtol=1e-3, atol=1e-2)
    assert float(share.max()) <= 1


def _shifted(brighter: float) -> tuple[Square, Square, Tensor]:
    """Fixed, the same 6 pixels to the right and made brighter, and that displacement."""
    grid = Grid((40, 40))
    image = make.texture((40, 40), 2)[None]
    valid = torch.ones_like(image, dtype=torch.bool)
    fixed = to_square(image, valid, grid, 40, weight=_box(grid, (slice(10, 30), slice(10, 25))))
    shift = torch.zeros(1, 2, 40, 40)
    shift[:, 1] = 6 * 2 / 39
    return fixed, to_square(brighter * image.roll(6, 3) + 5 * (brighter - 1), valid, grid, 40), shift


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("brighter", [1.0, 3.0])
def test_intensities_are_compared_where_the_mask_lies_in_the_other_frame(brighter: float, aligned: bool) -> None:
    fixed, moving, shift = _shifted(brighter)
    scored = score_together(fixed, moving, shift, clamp=9.0, aligned=aligned)
    known = fixed.valid
    torch.testing.assert_close(scored[1].roll(-6, 3)[known], scored[0][known], rtol=1e-3, atol=1e-3)
    assert abs(float(scored[0][known].mean())) < 1e-4
    assert float(scored[0][known].std()) == pytest.approx(1, abs=0.01)


def test_a_series_of_one_brightness_is_compared_rightly_before_it_is_aligned() -> None:
    fixed, moving, shift = _shifted(1.0)
    before = score_together(fixed, moving, torch.zeros_like(shift), clamp=9.0, aligned=False)
    torch.testing.assert_close(before[1].roll(-6, 3)[fixed.valid], before[0][fixed.valid], rtol=1e-3, atol=1e-3)


def test_what_disagrees_does_not_decide_on_the_brightness() -> None:
    """A vessel lights up inside the mask of aligned images: the rest is scored as before."""
    fixed, moving, shift = _shifted(1.4)
    lit = moving.images.clone()
    lit[..., 12:18, 22:26] += 500
    scored = score_together(fixed, moving._replace(images=lit), shift, clamp=9.0, aligned=True)
    rest = fixed.valid.clone()
    rest[..., 12:18, 16:20] = False
    assert float((scored[1].roll(-6, 3)[rest] - scored[0][rest]).abs().mean()) < 0.06


def test_weighted_figures_by_hand() -> None:
    a, b = torch.tensor([[[[1.0, 2.0, 4.0, 9.0]]]]), torch.tensor([[[[2.0, 3.0, 3.0, -50.0]]]])
    weight = torch.tensor([[[[1.0, 0.5, 0.5, 0.0]]]])
    torch.testing.assert_close(mean_squared_error(a, b, weight), torch.tensor([(1 + 0.5 + 0.5) / 2]))
    mean = intensity_of(a, weight)
    torch.testing.assert_close(mean.mean.flatten(), torch.tensor([(1 + 1 + 2) / 2]))
    torch.testing.assert_close(mean.deviation.flatten(), torch.tensor([((1 + 0 + 2) / 2) ** 0.5]))
    columns = a[..., [0, 0, 1, 2]].flatten(), b[..., [0, 0, 1, 2]].flatten()
    torch.testing.assert_close(correlation(a, b, weight)[0], torch.corrcoef(torch.stack(columns))[0, 1])


@pytest.mark.parametrize("sizes", [(), (32, 24)], ids=["paper", "pursuit"])
def test_the_network_is_scored_and_compared_inside_the_masks(sizes: tuple[int, ...]) -> None:
    config = NetworkConfig(channels=(4, 4, 4, 4), working_size=32, least_squares_sizes=sizes)
    pairs = make.pairs_of(make.moved_pair()[:2])
    weights = {"fixed_weight": _box(inside=(slice(22, 40), slice(25, 55))), "moving_weight": _box()}
    masked = replace(pairs, **weights)
    one, two = (prepare(config, p, pairs.fixed) for p in (replace(masked, moving=gain * pairs.moving + 900) for gain in (4, 9)))
    for a, b in zip(one.scales, two.scales, strict=True):
        torch.testing.assert_close(a.moving, b.moving, rtol=0, atol=1e-3)
        assert a.fixed_weight is not None
        assert float(a.sample(torch.zeros_like(a.lattice)[None])[1].sum()) == pytest.approx(float(a.fixed_weight.sum()), rel=0.05)
    one = prepare(config, masked, pairs.fixed)
    spoilt = prepare(config, replace(masked, moving=_painted(pairs.moving, _box(inside=(slice(8, 53), slice(8, 74))))), pairs.fixed)
    still = tuple(torch.zeros(1, 2, *scale.grid.shape) for scale in one.scales)
    first, second = compare(one, still), compare(spoilt, still)
    kept = first.valid > 0
    torch.testing.assert_close(second.warped[kept], first.warped[kept], rtol=0, atol=1e-4)
    if sizes:
        assert first.least_squares is not None
        assert second.least_squares is not None
        torch.testing.assert_close(second.least_squares.moments, first.least_squares.moments, rtol=1e-3, atol=1e-5)


# A series


def _series() -> ImageSeries:
    return make.moving_series(4, dtype=np.float32)[0]


def _results(series: ImageSeries, masks: Masks) -> dict[int, FrameResult]:
    config = make.FAST.model_copy(update={"reference": 0, "uncertainty": "off"})
    return {r.frame: r for progress in register_series(series, config, masks=masks) for r in progress.finished}


def test_every_figure_of_a_series_is_of_the_mask() -> None:
    series = _series()
    mask = _box()[0, 0].numpy()
    masks = Masks(Mask.of(mask[None]), Mask.of(np.pad(np.ones((39, 56)), ((11, 11), (13, 14)))[None]))
    frames = np.asarray(series.frames).copy()
    frames[0, :, mask == 0] = 5e3
    assert masks.moving is not None
    noise = np.random.default_rng(0).uniform(-1e3, 1e3, frames[1:].shape)
    frames[1:] = np.where(masks.moving.inside(), frames[1:], noise)
    first, second = _results(series, masks), _results(ImageSeries(frames, series.grid), masks)
    for k in range(1, 4):
        a, b = first[k], second[k]
        assert a.status is FrameStatus.OK
        names = ("status", "similarity_before", "similarity_after", "folding_percent", "min_jacobian", "max_displacement_mm")
        assert [getattr(a, n) for n in names] == [getattr(b, n) for n in names]


def test_what_folds_outside_the_mask_is_not_counted() -> None:
    series = _series()
    steep = GaussianSequence(
        torch.tensor([[-0.6, 0.0]]), torch.full((1, 2), 0.05), torch.zeros(1, 1), torch.tensor([[0.2, 0.0]]), series.grid
    )
    before = next(iter(_results(series, Masks()).values()))
    whole = edited_result(series, 0, replace(before, frame=1), steep, "")
    low = Mask.of(np.repeat([[0.0], [1.0]], [38, 23], axis=0)[None] * np.ones((1, 1, 83)))
    part = edited_result(series, 0, replace(before, frame=1), steep, "", masks=Masks(low))
    assert whole.folding_percent > 0
    assert part.folding_percent == 0
    assert part.min_jacobian > 0.9
    assert part.max_displacement_mm < 0.1 * whole.max_displacement_mm


def test_a_pair_by_the_public_function() -> None:
    fixed, moving, _ = make.moved_pair()
    masks = Masks(Mask.of(_box()[0].numpy()))
    options = {"config": make.FAST, "masks": masks}
    first, second = (
        list(register_pair(image.numpy(), moving.numpy(), make.GRID, **options))[-1].transforms()[0].displacement_field().vectors
        for image in (fixed, _painted(fixed[None], _box())[0])
    )
    assert torch.equal(first, second)


def test_frames_that_a_mask_leaves_nothing_of_keep_their_place() -> None:
    series = _series()
    weights = np.ones((4, *series.grid.shape))
    weights[2] = 0
    weights[3] = _box()[0, 0].numpy()
    frames = np.asarray(series.frames).copy()
    frames[3, 0, 18:45, 20:62] = 4.0
    found = _results(ImageSeries(frames, series.grid), Masks(moving=Mask.of(weights, "movement.nii")))
    assert found[2].status is FrameStatus.FAILED
    assert "movement.nii" in found[2].message
    assert found[3].status is FrameStatus.CONSTANT
    assert found[1].status is FrameStatus.OK


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "empty": (lambda: Mask.of(np.zeros((1, 20, 30))), "every pixel is 0"),
    "false": (lambda: Mask.of(np.zeros((1, 20, 30), bool)), "every pixel is 0"),
    "nothing": (lambda: Mask.of(np.zeros((0, 20, 30))), "got shape"),
    "negative": (lambda: Mask.of(np.full((1, 20, 30), -1)), "negative"),
    "nan": (lambda: Mask.of(np.full((1, 20, 30), np.nan)), "NaN"),
    "large": (lambda: Mask.of(np.full((1, 20, 30), 2.5)), "holds 2.5"),
    "complex": (lambda: Mask.of(np.full((1, 20, 30), 1j)), "complex128"),
    "shape": (lambda: Masks(Mask.of(np.ones((1, 20, 30)))).check(_series()), "has 20 x 30 pixels, the frames have 61 x 83"),
    "count": (lambda: Masks(Mask.of(np.ones((4, 61, 83)))).check(_series()), "holds 4 masks, expected 1 mask;"),
    "moving": (lambda: Masks(None, Mask.of(np.ones((3, 61, 83)))).check(_series()), "1 mask, or 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mask_that_cannot_be_used_is_named(case: str) -> None:
    act, words = BAD[case]
    with pytest.raises(ReadError, match=r"^mask: .*;") as error:
        act()
    assert words in str(error.value)


def test_labels_and_weights() -> None:
    labels = np.array([[[0, 1], [7, 0]]], np.uint8)
    assert np.array_equal(Mask.of(labels).frame(3), [[0, 1], [1, 0]])
    assert np.array_equal(Mask.of(labels.astype(float)).frame(0), [[0, 1], [1, 0]])
    soft = Mask.of(np.array([[[0.0, 0.3], [1.0, 0.5]]]))
    torch.testing.assert_close(soft.frame(0), np.array([[0, 0.3], [1, 0.5]], np.float32))
    assert Mask.of(labels).sha256 == Mask.of((labels > 0).astype(np.float64)).sha256 != soft.sha256


def test_the_warped_frame_of_a_masked_registration_is_whole() -> None:
    fixed, moving, exact = make.moved_pair()
    found = _found(FIT, replace(make.pairs_of((fixed, moving)), fixed_weight=_box()))
    assert warp_image(moving, found).isfinite().all()
    assert float(make.error_px(found, exact, margin=22).mean()) < 0.5


def test_default_settings_find_the_motion_inside_a_small_mask() -> None:
    fixed, moving, exact = make.moved_pair(size=0.05)
    weight = _box(inside=(slice(22, 40), slice(28, 56)))
    found = _found(FitMethod(FitConfig(), gaussians=25), replace(make.pairs_of((fixed, moving)), fixed_weight=weight))
    error, motion = (
        (t.displacement_field().vectors - exact.displacement_field().vectors)[:, 22:40, 28:56].norm(dim=0).mean()
        for t in (found, GaussianSequence.identity(make.GRID))
    )
    assert float(error) < 0.25 * float(motion)
