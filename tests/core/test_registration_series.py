"""Registering a series: references, statuses, frames that cannot be used, and that nothing is ever made worse unnoticed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch
from numpy.typing import NDArray

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.geometry import Grid, Space
from r2n2.registration import (
    FitMethod,
    FrameResult,
    FrameStatus,
    Pairs,
    RegistrationStep,
    SeriesProgress,
    automatic_reference,
    edited_result,
    register_series,
    resolve_device,
    resolve_reference,
    unregistered,
    warp_frame,
    warp_pixels,
)
from r2n2.registration import series as series_module
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField, GaussianSequence, Transform

pytestmark = pytest.mark.usefixtures("one_thread")

FAST: RegistrationConfig = make.FAST.model_copy(update={"reference": 0})
GRID: Grid = make.GRID


def _register(series: ImageSeries, config: RegistrationConfig = FAST, **change: Any) -> dict[int, FrameResult]:
    progress = list(register_series(series, config.model_copy(update=change)))
    results = {r.frame: r for p in progress for r in p.finished}
    assert len(results) == len(series) == sum(len(p.finished) for p in progress)
    return results


def _changed(series: ImageSeries, frame: int, values: NDArray[Any]) -> ImageSeries:
    frames = np.array(series.frames)
    frames[frame] = values
    return ImageSeries(frames, series.grid)


def _is_identity(result: FrameResult) -> bool:
    return not result.transform.displacement_field().vectors.any() and result.max_displacement_mm == 0


@pytest.mark.parametrize("method", ["fit", "bspline"])
def test_frames_come_to_lie_on_the_reference(method: str) -> None:
    series, exact = make.moving_series()
    results = _register(series, method=method)
    assert results[0].status is FrameStatus.REFERENCE
    assert _is_identity(results[0])
    still, seen = GaussianSequence.identity(GRID), []
    for k in range(1, 5):
        result = results[k]
        assert (result.frame, result.status, result.message) == (k, FrameStatus.OK, "")
        assert result.similarity_after > max(result.similarity_before, 0.99)
        error = make.error_px(result.transform, exact[k])
        assert float(error.mean()) < 0.5 * float(make.error_px(still, exact[k]).mean())
        assert result.max_displacement_mm == pytest.approx(float(result.transform.displacement_field().magnitude_mm().max()))
        assert 0 < result.min_jacobian < 1
        seen.append([np.abs(series.frame(0) - frame).mean() for frame in (series.frame(k), warp_frame(series, result))])
    before, after = np.mean(seen, axis=0)
    assert after < 0.6 * before


def test_progress_rises_to_one_and_names_every_frame_once() -> None:
    series, _ = make.moving_series()
    progress = list(register_series(series, FAST.model_copy(update={"batch_size": 2, "reference": 2})))
    fractions = [p.fraction for p in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [[r.frame for r in p.finished] for p in progress if p.finished] == [[2], [0, 1], [3, 4]]
    assert [p.frames_done for p in progress if p.finished] == [1, 3, 5]
    assert {(p.frames_total, p.reference) for p in progress} == {(5, 2)}


def test_stopping_keeps_the_frames_that_were_finished() -> None:
    series, _ = make.moving_series()
    running = register_series(series, FAST.model_copy(update={"batch_size": 1}))
    finished: list[FrameResult] = []
    for progress in running:
        finished.extend(progress.finished)
        if len(finished) == 3:
            break
    running.close()
    whole = _register(series, batch_size=1)
    for result in finished:
        torch.testing.assert_close(
            result.transform.displacement_field().vectors,
            whole[result.frame].transform.displacement_field().vectors,
            rtol=0,
            atol=0,
        )


def test_the_batch_size_does_not_matter() -> None:
    series, _ = make.moving_series()
    alone, together = (_register(series, batch_size=size) for size in (1, 4))
    for k in range(5):
        torch.testing.assert_close(
            alone[k].transform.displacement_field().vectors, together[k].transform.displacement_field().vectors, rtol=0, atol=3e-3
        )


def test_one_frame_is_nothing_to_register() -> None:
    with pytest.raises(ReadError, match="nothing to register: the series has one frame"):
        list(register_series(make.moving_series(1)[0], FAST))


def test_a_constant_frame_is_flagged_and_keeps_its_place() -> None:
    series, _ = make.moving_series()
    results = _register(_changed(series, 3, np.full((1, *GRID.shape), 7.0)))
    assert results[3].status is FrameStatus.CONSTANT
    assert "frame 3: every pixel has the same value" in results[3].message
    assert _is_identity(results[3])
    assert [results[k].status for k in (1, 2, 4)] == [FrameStatus.OK] * 3


def test_some_pixels_that_are_no_number_do_not_matter_and_too_many_fail_that_frame_only() -> None:
    series, exact = make.moving_series()
    frames = np.array(series.frames)
    generator = np.random.default_rng(0)
    frames[1, 0, 30, 40] = np.nan
    frames[2, 0][generator.random(GRID.shape) < 0.01] = np.inf
    frames[3, 0][generator.random(GRID.shape) < 0.6] = np.nan
    results = _register(ImageSeries(frames, GRID))
    for k in (1, 2, 4):
        assert results[k].status is FrameStatus.OK, results[k].message
        field = results[k].transform.displacement_field().vectors
        assert bool(field.isfinite().all())
        still = GaussianSequence.identity(GRID)
        assert float(make.error_px(results[k].transform, exact[k]).mean()) < 0.6 * float(make.error_px(still, exact[k]).mean())
    assert results[3].status is FrameStatus.FAILED
    assert "% of the pixels are NaN or infinite" in results[3].message
    assert _is_identity(results[3])


@pytest.mark.parametrize("error", [OSError("disk gone"), ReadError("frame 2: cut short"), RuntimeError("codec")])
def test_a_frame_that_cannot_be_read_fails_alone(error: Exception) -> None:
    class Broken:
        shape = (4, 1, *GRID.shape)
        dtype = np.dtype("float32")

        def __getitem__(self, index: int, /) -> Any:
            if index == 2:
                raise error
            return frames[index]

    frames = np.array(make.moving_series(4)[0].frames)
    for reference in (0, "auto"):
        results = _register(ImageSeries(Broken(), GRID), reference=reference)
        assert results[2].status is FrameStatus.FAILED
        assert str(error) in results[2].message
        assert sum(r.status is FrameStatus.OK for r in results.values()) == 2
    with pytest.raises(ReadError, match=r"reference: frame 2.*choose another reference"):
        _register(ImageSeries(Broken(), GRID), reference=2)


class _Stub:
    """A method that displaces every frame by what the test says, with the losses it says."""

    name = "stub"

    def __init__(self, transforms: list[Transform], losses: list[float]) -> None:
        self.transforms, self.losses = transforms, losses
        self.starts: list[Any] = []
        self.batches: list[int] = []

    def register(self, pairs: Pairs, *, start: Any = None) -> Iterator[RegistrationStep]:
        self.starts.append(start)
        self.batches.append(len(pairs))
        yield RegistrationStep(1, 1, torch.tensor(self.losses[: len(pairs)]), lambda: tuple(self.transforms[: len(pairs)]))


def _with_stub(monkeypatch: pytest.MonkeyPatch, transforms: list[Transform], losses: list[float] | None = None) -> _Stub:
    stub = _Stub(transforms, losses or [0.1] * len(transforms))
    monkeypatch.setattr(series_module, "build_method", lambda config, **_: stub)
    return stub


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_fails_its_frame_only(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    series, exact = make.moving_series(4)
    _with_stub(monkeypatch, list(exact[1:]), [0.1, loss, 0.1])
    results = _register(series)
    assert [results[k].status for k in range(4)] == [FrameStatus.REFERENCE, FrameStatus.OK, FrameStatus.FAILED, FrameStatus.OK]
    assert _is_identity(results[2])


def test_a_transform_that_lowers_the_similarity_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    series, exact = make.moving_series(3)
    opposite = GaussianSequence(exact[1].centres, exact[1].sigmas, exact[1].orientation, -exact[1].amplitudes, GRID)
    _with_stub(monkeypatch, [opposite, exact[2]])
    results = _register(series)
    assert results[1].status is FrameStatus.WORSE
    assert "the similarity fell from" in results[1].message
    assert _is_identity(results[1])
    assert results[1].similarity_after == results[1].similarity_before
    assert results[2].status is FrameStatus.OK


def test_folding_is_flagged_with_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    # The frame shows the reference; a fold where the image is flat costs no similarity but is no anatomy.
    image = np.zeros((2, 1, *GRID.shape), np.float32)
    image[:, 0, :, :20] = make.texture((61, 20))[0].numpy()
    pixels = torch.zeros(2, *GRID.shape)
    pixels[1, 10:50:2, 40:70:2] = 1.5
    _with_stub(monkeypatch, [DisplacementField(pixels, GRID, Space.INDEX)])
    result = _register(ImageSeries(image, GRID))[1]
    assert result.status is FrameStatus.FOLDED
    assert result.folding_percent > 10
    assert result.min_jacobian == pytest.approx(-0.5, abs=1e-3)
    assert "folds in" in result.message


def test_a_still_volume_does_not_count_as_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((16, 17, 18), (2.0, 1.0, 0.5))
    frames = np.stack([make.texture(grid.shape).numpy()] * 2)
    _with_stub(monkeypatch, [DisplacementField.identity(grid)])
    result = _register(ImageSeries(frames, grid))[1]
    assert (result.status, result.folding_percent) == (FrameStatus.OK, 0)
    assert result.min_jacobian == pytest.approx(1, abs=1e-4)


def test_what_left_the_view_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of the frame is pushed out of view: the border that is shown there is no agreement.
    series, _ = make.moving_series(2)
    away = DisplacementField(torch.full((2, *GRID.shape), 500.0), GRID, Space.INDEX)
    _with_stub(monkeypatch, [away])
    result = _register(series)[1]
    assert result.status is FrameStatus.FAILED
    assert _is_identity(result)


@pytest.mark.parametrize(("shift", "status"), [(40, FrameStatus.DOUBTFUL), (75, FrameStatus.FAILED)])
def test_agreement_of_a_last_strip_is_no_success(monkeypatch: pytest.MonkeyPatch, shift: int, status: FrameStatus) -> None:
    # What stays in view agrees perfectly, but that is 8 of 83 columns for the larger shift.
    wide = make.texture((61, 2 * 83), 5).numpy()
    frames = np.stack([wide[..., shift : shift + 83], wide[..., :83]])
    pixels = torch.zeros(2, *GRID.shape)
    pixels[1] = shift
    _with_stub(monkeypatch, [DisplacementField(pixels, GRID, Space.INDEX)])
    result = _register(ImageSeries(frames, GRID))[1]
    assert result.status is status
    if status is FrameStatus.FAILED:
        assert "only 10 % of it would stay in view" in result.message
        assert _is_identity(result)


@pytest.mark.parametrize("percent", range(10, 100, 20))
def test_a_shift_is_found_or_not_ok(percent: int) -> None:
    wide = make.texture((61, 2 * 83), 5).numpy()
    shift = round(83 * percent / 100)
    frames = np.stack([wide[..., :83], wide[..., shift : shift + 83]])
    result = _register(ImageSeries(frames, GRID))[1]
    if result.status in (FrameStatus.OK, FrameStatus.FOLDED, FrameStatus.DOUBTFUL):
        assert result.similarity_after >= result.similarity_before - 1e-4
    else:
        assert _is_identity(result)
    field = result.transform.displacement_field().to_space(Space.INDEX).vectors[1]
    found = float((field[10:-10, shift + 5 : -5] if shift < 60 else field[10:-10]).median())
    assert abs(found + shift) < 1 or result.status is not FrameStatus.OK
    assert abs(found + shift) < 1 or percent > 20


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_every_type_is_registered_and_kept(dtype: str) -> None:
    series, _ = make.moving_series(2)
    values = np.array(series.frames)
    values = values > values.mean() if dtype == "?" else values / 2
    series = ImageSeries(values.astype(dtype), GRID)
    result = _register(series)[1]
    assert result.status is FrameStatus.OK
    warped = warp_frame(series, result)
    assert warped.dtype == np.dtype(dtype)
    assert warped.min() >= series.frame(1).min()
    assert warped.max() <= series.frame(1).max()


def test_counts_beyond_float32_are_registered_like_small_ones() -> None:
    series, _ = make.moving_series(2)
    small = np.rint(np.array(series.frames)).astype(np.int32)
    expected = _register(ImageSeries(small, GRID))[1]
    for large in (small + 2**30, small * 2**22):
        found = _register(ImageSeries(large.astype(np.int32), GRID))[1]
        assert found.status is FrameStatus.OK
        assert found.similarity_after == pytest.approx(expected.similarity_after, abs=1e-3)
        torch.testing.assert_close(
            found.transform.displacement_field().vectors, expected.transform.displacement_field().vectors, rtol=0, atol=5e-3
        )


@pytest.mark.parametrize(
    ("shape", "fits"), [((15, 200), False), ((200, 15), False), ((8, 8), False), ((1, 64), False), ((16, 200), True)]
)
def test_the_smallest_side_is_stated(shape: tuple[int, int], fits: bool) -> None:
    frames = np.stack([make.texture(shape, k).numpy() for k in (0, 0)])
    series = ImageSeries(frames, Grid(shape))
    if fits:
        assert len(_register(series)) == 2
    else:
        with pytest.raises(ArgumentError, match=f"at least 16 pixels is needed, got {shape[0]} x {shape[1]}"):
            list(register_series(series, FAST))


def test_the_automatic_reference_has_the_mean_intensity_nearest_the_mean() -> None:
    base = make.texture(GRID.shape).numpy()
    frames = np.stack([base + offset for offset in (0, 30, 11, 5, 3)])  # mean of the offsets: 9.8
    assert automatic_reference(ImageSeries(frames, GRID)) == 2
    frames[2] = frames[2].mean()
    assert automatic_reference(ImageSeries(frames, GRID)) == 3
    with pytest.raises(ArgumentError, match="no frame has any contrast"):
        automatic_reference(ImageSeries(np.zeros((3, 1, *GRID.shape)), GRID))


def test_the_automatic_reference_looks_at_what_is_registered_not_at_alpha() -> None:
    grey = np.random.default_rng(0).integers(0, 100, (1, *GRID.shape))
    frames = np.stack([np.concatenate([grey + shade] * 3 + [np.full_like(grey, alpha)]) for shade, alpha in ALPHAS])
    # With alpha counted in, frame 0 would lie nearest the mean.
    assert automatic_reference(ImageSeries(frames.astype(np.uint8), GRID)) == 2


ALPHAS = ((0, 180), (120, 0), (60, 255))


def test_why_no_frame_can_be_the_reference_is_told() -> None:
    frames = np.full((2, 1, *GRID.shape), np.nan)
    with pytest.raises(ArgumentError, match=r"frame 1: 100\.0 % of the pixels are NaN"):
        automatic_reference(ImageSeries(frames, GRID))


def test_a_frame_that_will_be_refused_is_not_chosen_as_reference() -> None:
    base = make.texture(GRID.shape).numpy()
    frames = np.stack([base, base + 10, base + 20])
    frames[1, 0][np.random.default_rng(0).random(GRID.shape) < 0.6] = np.nan
    series = ImageSeries(frames, GRID)
    assert automatic_reference(series) != 1
    results = _register(series, reference="auto")
    assert results[1].status is FrameStatus.FAILED


@pytest.mark.parametrize("reference", [-1, 5])
def test_a_reference_that_does_not_exist_is_refused(reference: int) -> None:
    series, _ = make.moving_series()
    with pytest.raises(ArgumentError, match=rf"frame {reference} does not exist; the series has frames 0 to 4"):
        resolve_reference(series, reference)
    assert resolve_reference(series, 4) == 4


def test_a_constant_reference_is_refused() -> None:
    series, _ = make.moving_series(3)
    with pytest.raises(ReadError, match=r"every pixel has the same value.*choose another reference"):
        _register(_changed(series, 0, np.zeros((1, *GRID.shape))))


def test_a_warm_start_goes_outward_from_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    series, _ = make.moving_series(6)
    order: list[list[int]] = []
    none = GaussianSequence.identity(GRID)
    stub = _with_stub(monkeypatch, [none, none])
    progress: list[SeriesProgress] = list(
        register_series(series, FAST.model_copy(update={"warm_start": True, "batch_size": 2, "reference": 2}))
    )
    order = [[r.frame for r in p.finished] for p in progress if p.finished]
    assert order == [[2], [1, 3], [0, 4], [5]]
    assert stub.starts[0] is None
    assert [len(start) for start in stub.starts[1:]] == [2, 1]


def test_a_warm_start_begins_at_the_neighbours_result(monkeypatch: pytest.MonkeyPatch) -> None:
    series, exact = make.moving_series(4)
    stub = _with_stub(monkeypatch, [exact[1]])
    list(register_series(series, FAST.model_copy(update={"warm_start": True, "batch_size": 1})))
    assert stub.starts[0] is None
    assert stub.starts[1] == (exact[1],)
    plain = _with_stub(monkeypatch, [exact[1]])
    list(register_series(series, FAST.model_copy(update={"batch_size": 1})))
    assert plain.starts == [None, None, None]


def test_a_warm_started_series_is_registered() -> None:
    results = _register(make.moving_series()[0], warm_start=True, batch_size=2)
    assert [results[k].status for k in range(1, 5)] == [FrameStatus.OK] * 4


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "cpu0", "", "cuda:", "cuda:²", "cuda:-1", "CUDA", "cuda:0:1", "auto:0"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ResourceError, match="is not known; choose auto, cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu:0", "cpu:3"])
def test_the_processor_has_no_number(name: str) -> None:
    with pytest.raises(ResourceError, match=f"'{name}' is not known, as the processor is one device; choose cpu"):
        resolve_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ResourceError, match="r2n2 doctor"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ResourceError, match="cuda:99 does not exist, there are 1"):
        resolve_device("cuda:99")


def test_a_batch_that_raises_is_done_again_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 35: what one frame does to a method does not cost the others their result."""
    series, _ = make.moving_series()
    bad = torch.from_numpy(series.frame(2).astype("float32"))
    register = FitMethod.register

    def moody(self: FitMethod, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        for step in register(self, pairs, start=start):
            if any(torch.equal(image, bad) for image in pairs.moving):
                raise RuntimeError("singular matrix")
            yield step

    monkeypatch.setattr(FitMethod, "register", moody)
    results = _register(series)
    assert results[2].status is FrameStatus.FAILED
    assert "frame 2" in results[2].message
    assert "singular matrix" in results[2].message
    assert all(results[k].status is FrameStatus.OK for k in range(1, len(series)) if k != 2)


def test_a_chosen_transform_is_measured_and_taken_even_where_it_is_worse() -> None:
    series, exact = make.moving_series(3)
    found = [result for progress in register_series(series, make.FAST) for result in progress.finished]
    before = next(result for result in found if result.frame == 1)
    opposite = GaussianSequence(exact[1].centres, exact[1].sigmas, exact[1].orientation, -exact[1].amplitudes, series.grid)
    edited = edited_result(series, 0, before, opposite, "turned round")
    assert (edited.status, edited.message, edited.frame, edited.seconds) == (FrameStatus.EDITED, "turned round", 1, before.seconds)
    assert edited.similarity_after < edited.similarity_before < before.similarity_after
    assert edited.similarity_before == pytest.approx(before.similarity_before)
    np.testing.assert_array_equal(warp_frame(series, edited), warp_pixels(series.frame(1), opposite))
    longest = float(opposite.displacement_field().magnitude_mm().max())
    assert edited.max_displacement_mm == pytest.approx(longest)
    same = edited_result(series, 0, before, before.transform, "")
    for name in ("similarity_after", "folding_percent", "min_jacobian", "max_displacement_mm"):
        assert getattr(same, name) == pytest.approx(getattr(before, name)), name


def test_a_chosen_transform_of_a_frame_that_is_gone_is_refused() -> None:
    series, exact = make.moving_series(3)
    broken = replace(series, frames=np.where(np.arange(3)[:, None, None, None] == 1, np.nan, np.asarray(series.frames)))
    before = unregistered(1, series.grid, FrameStatus.OK, "")
    with pytest.raises(ReadError, match="frame 1"):
        edited_result(broken, 0, before, exact[1], "")
