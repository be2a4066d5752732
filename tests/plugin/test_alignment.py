"""What is aligned and in which order: slices, the frames on the screen first, one reference for all; without a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import r2n2.registration
from napari_r2n2.models.alignment import Choice, align
from napari_r2n2.models.registration import FrameKey
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.registration import FrameStatus, unregistered
from r2n2.registration.results import SeriesProgress
from r2n2.series import ImageSeries

CONFIG = RegistrationConfig(method="fit", device="cpu")


def _with_means(series: ImageSeries, means: list[float]) -> ImageSeries:
    """Frames of a ramp with these mean intensities."""
    ramp = np.linspace(-1, 1, 27 * 35).reshape(1, 27, 35)
    frames = np.array([ramp + mean for mean in means], dtype=np.float32)
    return replace(series, frames=frames, times_s=None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, int | str, list[int]]]:
    """Calls of the registration: series, batch size, reference, frames; it gives every frame at once, as the real one does."""
    calls: list[tuple[str, Any, int | str, list[int]]] = []

    def register(series: ImageSeries, config: Any, done: Any = None, **_masks: Any) -> Iterator[SeriesProgress]:
        known = done or {}
        reference = r2n2.registration.resolve_reference(series, config.reference)
        left = [k for k in range(len(series)) if k not in known and k != reference]
        calls.append((series.name, config.batch_size, config.reference, left))
        own = unregistered(reference, series.grid, FrameStatus.REFERENCE, "")
        total, ready = len(series), len({reference, *known})
        yield SeriesProgress(reference, ready, total, ready / total, () if reference in known else (own,), ("why",))
        yield SeriesProgress(reference, ready, total, (ready + len(left) / 2) / total, ())
        results = tuple(unregistered(k, series.grid, FrameStatus.OK, "") for k in left)
        yield SeriesProgress(reference, total, total, 1.0, results)

    monkeypatch.setattr(r2n2.registration, "register_series", register)
    return calls


def _several(series: ImageSeries, frames: int = 20) -> list[ImageSeries]:
    return [replace(_with_means(series, list(range(5, 5 + frames))), name=f"s{k}") for k in range(4)]


def test_the_slice_on_the_screen_comes_first_and_others_are_left_out(series: ImageSeries, asked: list[Any]) -> None:
    slices = _several(series, 4)
    seen = [p.slice_index for p in align(slices, CONFIG, Choice((0, 1, 3), FrameKey(3, 2)))]
    assert list(dict.fromkeys(seen)) == [3, 0, 1]
    assert [call[0] for call in asked] == ["s3", "s0", "s1"]


def test_frames_around_the_screen_come_first_in_a_small_batch(series: ImageSeries, asked: list[Any]) -> None:
    progress = list(align(_several(series)[:1], CONFIG, Choice((0,), FrameKey(0, 12))))
    (_, size, reference, first), (_, rest_size, rest_reference, rest) = asked
    assert (size, rest_size) == (4, "auto")
    assert sorted(first) == [10, 11, 12, 13]
    assert reference == rest_reference
    assert sorted([*first, *rest, reference]) == list(range(20)), "every frame once"
    finished = [result.frame for p in progress for result in p.finished]
    assert sorted(finished) == list(range(20))
    shares = [p.fraction for p in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert progress[-1].frames_done == progress[-1].frames_total == 20


def test_what_is_said_of_a_series_is_said_once(series: ImageSeries, asked: list[Any]) -> None:
    said = [p.notes for p in align(_several(series)[:1], CONFIG, Choice((0,), FrameKey(0, 12)))]
    assert len(asked) == 2
    assert said[0] == ("why",)
    assert not any(said[1:])
    several = [note for p in align(_several(series), CONFIG, Choice((1, 3))) for note in p.notes]
    assert several == ["slice 1: why", "slice 3: why"]


@pytest.mark.parametrize("change", [{"batch_size": 7}, {"warm_start": True}])
def test_who_chose_an_order_gets_it(series: ImageSeries, asked: list[Any], change: dict[str, Any]) -> None:
    list(align(_several(series)[:1], CONFIG.model_copy(update=change), Choice((0,), FrameKey(0, 12))))
    assert len(asked) == 1


def test_one_phase_is_the_reference_of_all_slices(series: ImageSeries, asked: list[Any]) -> None:
    # Alone, their usual frames would be 1 and 2; together it is the one between.
    slices = [_with_means(series, [10, 12, 18, 8]), _with_means(series, [100, 190, 130, 60])]
    alone = [r2n2.registration.resolve_reference(item, "auto") for item in slices]
    assert alone == [1, 2]
    together = _common(slices)
    progress = list(align(slices, CONFIG, Choice((0, 1))))
    assert {p.reference for p in progress} == {together}
    assert {p.settings.reference for p in progress} == {together}, "so that the command does the same"
    list(align(slices, CONFIG, Choice((0, 1), one_reference=False)))
    assert [call[2] for call in asked[2:]] == ["auto", "auto"]
    with pytest.raises(ArgumentError, match="frame 9 does not exist"):
        list(align(slices, CONFIG.model_copy(update={"reference": 9})))
    assert len(asked) == 4, "told before anything is registered"


def _common(slices: list[ImageSeries]) -> int:
    return r2n2.registration.common_reference([r2n2.registration.survey_series(item) for item in slices])


def test_frames_without_contrast_or_numbers_are_no_reference_for_all(series: ImageSeries) -> None:
    broken = _with_means(series, [10, 12, 13, 40])
    frames = np.asarray(broken.frames)
    frames[1] = np.nan
    frames[2] = 7
    assert _common([broken, _with_means(series, [10, 12, 13, 40])]) not in (1, 2)


def test_what_a_run_uses_is_taken_down_while_it_runs(series: ImageSeries, asked: list[Any]) -> None:
    import torch

    last = list(align(_several(series)[:2], CONFIG))[-1]
    assert last.facts.device == "cpu"
    assert last.facts.threads == torch.get_num_threads()
    assert last.facts.wall_time_s is not None
    assert 0 <= last.facts.wall_time_s < 60
    assert asked
