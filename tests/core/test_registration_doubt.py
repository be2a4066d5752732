"""Results that are wrong are doubtful, and those that are right are not: known displacements, and bad frames of a series."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.registration import FrameStatus, register_series, warp_frame
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.measures import left_where_longest
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((61, 83), (1.7, 0.9))


def _field(shift_px: tuple[float, float], grid: Grid = GRID) -> Tensor:
    vectors = torch.tensor(shift_px)[:, None, None].expand(2, *grid.shape).clone()
    return DisplacementField(vectors, grid, Space.INDEX).to_space(Space.NORMALISED).vectors[None]


def _reasons(
    fixed: Tensor, moving: Tensor, vectors: Tensor, grid: Grid = GRID, fixed_hole: Tensor | None = None, hole: Tensor | None = None
) -> str:
    whole = torch.ones_like(fixed, dtype=torch.bool)
    valid = [whole if part is None else ~part for part in (fixed_hole, hole)]
    return "; ".join(reasons_for_doubt(fixed, moving, *valid, vectors, grid))


def _shifted(image: Tensor, share: float) -> Tensor:
    """Along x, new tissue from the other side."""
    return image.roll(round(share * image.shape[-1]), -1)


@pytest.mark.parametrize("noise", [0.0, 20.0])
@pytest.mark.parametrize("grid", [GRID, Grid((40, 33), (1.0, 3.0)), Grid((300, 200))])
def test_the_exact_displacement_is_not_doubted(grid: Grid, noise: float) -> None:
    moving = make.texture(grid.shape, 2)
    exact = make.motion(grid, 0.08, seed=1)
    generator = torch.Generator().manual_seed(0)
    images = [image + noise * torch.randn(image.shape, generator=generator) for image in (warp_image(moving, exact), moving)]
    assert _reasons(*images, exact.displacement_field().vectors[None], grid) == ""


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scale_and_offset_of_the_intensities_do_not_matter(scale: float) -> None:
    image = make.texture(GRID.shape, 2)
    nothing = _field((0.0, 0.0))
    assert _reasons(image, scale * (3 * image + 1000), nothing) == ""
    assert _reasons(scale * image, scale * _shifted(image, 0.4), nothing) == _reasons(image, _shifted(image, 0.4), nothing) != ""


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_frame_that_was_not_followed_has_no_counterpart(share: float) -> None:
    image = make.texture(GRID.shape, 2)
    assert "has no counterpart" in _reasons(image, _shifted(image, share), _field((0.0, 0.0)))


def test_a_far_motion_that_was_found_is_named_with_what_has_left_the_frame() -> None:
    image = make.texture((61, 120), 2)
    grid = Grid((61, 120), (1.7, 0.9))
    said = _reasons(image, _shifted(image, 0.3), _field((0.0, 36.0), grid), grid)
    assert "something moves by 30 % of the frame's longer side" in said
    assert "has left the frame" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u: 1 - u, "bright in the one is dark in the other"),
        (lambda u: (12 * (u - 0.5)).sigmoid(), "the contrast between tissues changes"),
        (lambda u: u**3, "the contrast between tissues changes"),
        (lambda u: (u - 0.45).abs(), "has no counterpart"),
    ],
)
def test_another_contrast_is_named(change: Callable[[Tensor], Tensor], words: str) -> None:
    image = make.texture(GRID.shape, 2)
    assert words in _reasons(image, 100 * change(image / image.max()), _field((0.0, 0.0)))


@pytest.mark.parametrize("holed", [("fixed_hole",), ("hole",), ("fixed_hole", "hole")])
def test_what_is_not_measured_raises_no_doubt(holed: tuple[str, ...]) -> None:
    image = make.texture(GRID.shape, 2)
    hole = torch.zeros_like(image, dtype=torch.bool)
    hole[..., 15:40, 20:55] = True
    filled = {name: torch.where(hole, 300.0, image) if name in holed else image for name in ("fixed_hole", "hole")}
    masks = dict.fromkeys(holed, hole)
    assert _reasons(filled["fixed_hole"], filled["hole"], _field((0.0, 0.0)), **masks) == ""
    assert _reasons(filled["fixed_hole"], filled["hole"], _field((0.0, 0.0))) != "" or len(holed) == 2


def test_volumes_are_looked_at_too() -> None:
    grid = Grid((20, 30, 24), (2.0, 1.0, 1.0))
    image = make.texture(grid.shape, 2)
    nothing = torch.zeros(1, 3, *grid.shape)
    assert _reasons(image, image.clone(), nothing, grid) == ""
    assert "has no counterpart" in _reasons(image, image.roll(10, -1), nothing, grid)


def _with_bad_frames() -> ImageSeries:
    """Four frames that move a little, one of them shifted by 40 % of the width, and the same with reversed contrast."""
    good, _ = make.moving_series(4, size=0.03)
    frames = [good.frame(k) for k in range(4)]
    frames += [_shifted(torch.from_numpy(frames[1]), 0.4).numpy(), 200 - frames[1]]
    return ImageSeries(np.stack(frames), make.GRID)


@pytest.mark.parametrize(("similarity", "bad"), [("ssd", (4, 5)), ("auto", (4,))])
def test_a_series_with_bad_frames_is_flagged_where_it_is_wrong_and_nowhere_else(similarity: str, bad: tuple[int, ...]) -> None:
    """Without an initial stage frame 4 is too far; frame 5 is a negative, which ``auto`` can align and intensities cannot."""
    series = _with_bad_frames()
    config = make.FAST.model_copy(update={"reference": 0, "batch_size": 8, "similarity": similarity, "initial": "none"})
    results = {result.frame: result for progress in register_series(series, config) for result in progress.finished}
    assert [results[k].status for k in range(4)] == [FrameStatus.REFERENCE, *[FrameStatus.OK] * 3]
    for k in bad:
        assert results[k].status in (FrameStatus.DOUBTFUL, FrameStatus.FOLDED)
        assert results[k].message.startswith(f"frame {k}: ")
        assert results[k].message.endswith("; look at it before using it")
        assert not np.array_equal(warp_frame(series, results[k]), series.frame(k)), "the transform found is applied"


def test_by_itself_it_is_not_wrong_there() -> None:
    """The shift is found first, and a measure that reversed contrast does not matter to is chosen."""
    config = make.FAST.model_copy(update={"reference": 0, "batch_size": 8})
    results = {result.frame: result for progress in register_series(_with_bad_frames(), config) for result in progress.finished}
    fields = {k: results[k].transform.displacement_field() for k in (1, 4, 5)}
    once, shifted, reversed_ = (
        field.grid.convert_vectors(field.vectors.movedim(0, -1), field.space, Space.INDEX) for field in fields.values()
    )
    # What was moved out on one side came in on the other: the larger part decides.
    middle = (shifted - once)[10:-10, 10:40].flatten(0, 1).median(0).values
    assert float((middle - torch.tensor([0.0, round(0.4 * make.GRID.shape[1])])).norm()) < 0.5
    assert float((reversed_ - once).norm(dim=-1).max()) < 0.01
    assert all(results[k].similarity_measure == "ngf" for k in range(6))
    assert [results[k].status for k in (1, 2, 3, 5)] == [FrameStatus.OK] * 4


def test_pixels_that_hold_no_number_are_counted_in_every_frame() -> None:
    good, _ = make.moving_series(3, size=0.03)
    frames = np.stack([good.frame(k) for k in range(3)])
    frames[0, 0, 4, 5] = np.inf
    frames[2, 0, 10:20, 20:25] = np.nan
    config = make.FAST.model_copy(update={"reference": 0})
    results = {r.frame: r for p in register_series(ImageSeries(frames, make.GRID), config) for r in p.finished}
    assert results[0].message == "frame 0: 1 pixel (0.02 %) is NaN or infinite and does not count"
    assert results[1].message == ""
    assert results[2].message == "frame 2: 50 pixels (0.99 %) are NaN or infinite and do not count"
    assert results[2].status is FrameStatus.OK
    assert results[2].transform.displacement_field().vectors.isfinite().all()


def _left(noise: float, vanishes: bool) -> tuple[float, float]:
    """Of a frame in noise whose displacement is right, or of one in which a bright square is not there any more."""
    grid, generator = Grid((96, 112)), torch.Generator().manual_seed(1)
    fixed = make.texture(grid.shape, 6)
    square = torch.zeros_like(fixed)
    square[:, 40:56, 50:66] = 150.0
    exact = make.motion(grid, 0.12, seed=2)
    moving = fixed if vanishes else make.texture(grid.shape, 6)
    fixed = fixed + square if vanishes else warp_image(moving, exact)
    images = [image + noise * torch.randn(image.shape, generator=generator) for image in (fixed, moving)]
    whole = torch.ones_like(fixed, dtype=torch.bool)
    return left_where_longest(*images, whole, whole, exact.displacement_field().vectors[None], grid)


def test_noise_hides_the_fine_edges_of_what_is_right_but_not_the_plain_ones() -> None:
    fine, plain = _left(10.0, vanishes=False)
    assert fine > 0.36
    assert plain < 0.25
    assert min(_left(10.0, vanishes=True)) > 0.36
