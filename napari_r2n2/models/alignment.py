"""Registration of the chosen slice positions of a layer as one generator with progress, what is on the screen first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_r2n2.models.registration import FrameKey

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.geometry import Grid
    from r2n2.mask import Masks
    from r2n2.registration import FrameResult, Survey
    from r2n2.registration.results import SeriesProgress
    from r2n2.results.manifest import RunFacts
    from r2n2.series import ImageSeries

__all__ = ["AlignmentProgress", "Choice", "align", "bytes_at_once", "surveys_of"]

_FIRST_FRAMES = 4
"""Aligned before all others, so that something is seen within seconds."""


_BEGINNING = FrameKey(0, 0)


@dataclass(frozen=True)
class Choice:
    """What of an acquisition is aligned.

    Parameters
    ----------
    slices
        Slice positions.
    seen
        The frame on the screen: its slice position comes first, and in it the frames around it.
    one_reference
        One phase is the reference of all slice positions, instead of one found in each.
    """

    slices: tuple[int, ...]
    seen: FrameKey = _BEGINNING
    one_reference: bool = True

    @property
    def order(self) -> tuple[int, ...]:
        """The slice positions in the order they are aligned in."""
        return tuple(sorted(self.slices, key=lambda index: (index != self.seen.slice_index, index)))


@dataclass(frozen=True, eq=False)
class AlignmentProgress:
    """One step of the work.

    Parameters
    ----------
    slice_index, reference
        The slice position at work, and its reference frame.
    finished
        Its frames that became ready with this step.
    frames_done, frames_total
        Over all chosen slice positions.
    fraction
        Share of the whole work done, in [0, 1].
    facts
        What the run uses, with the time that this slice position has taken so far.
    settings
        The settings, with the reference frame that was found where it is that of all slice positions.
    notes
        Sentences a person should read, each once: what frames are compared by where that was chosen, and why.
    """

    slice_index: int
    reference: int
    finished: tuple[FrameResult, ...]
    frames_done: int
    frames_total: int
    fraction: float
    facts: RunFacts
    settings: RegistrationConfig
    notes: tuple[str, ...] = ()


def align(
    series: Sequence[ImageSeries], config: RegistrationConfig, choice: Choice | None = None, masks: Sequence[Masks] = ()
) -> Iterator[AlignmentProgress]:
    """Register the chosen slice positions, one after the other; stopping at a yield keeps the frames given so far.

    Parameters
    ----------
    masks
        What counts, one item a slice position; empty where all does.

    Raises
    ------
    R2N2Error
        As ``r2n2.registration.register_series``.
    """
    # Imported here, in the worker's thread: loading torch takes seconds.
    from r2n2.mask import NO_MASKS
    from r2n2.registration import chosen_reference, common_reference
    from r2n2.results.manifest import RunFacts

    choice = choice or Choice(tuple(range(len(series))))
    facts = RunFacts.of(config)
    surveys = surveys_of(series, config, choice, masks)
    if surveys:
        config = config.model_copy(update={"reference": common_reference(list(surveys.values()))})
    if config.reference != "auto":
        # Before the first slice position is registered, as it may be the last that lacks the frame.
        chosen_reference(config.reference, None, min(len(series[k]) for k in choice.slices))
    held = facts.held_to(config)
    total = sum(len(series[index]) for index in choice.slices)
    before = 0
    for index in choice.order:
        seen = choice.seen.frame if index == choice.seen.slice_index else None
        began, count, item = time.monotonic(), 0, series[index]
        where = f"slice {index}: " if len(choice.slices) > 1 else ""
        survey = surveys.get(index)
        if survey is not None and len(survey.means) < len(item):
            survey = None
        for step in _align_one(item, held, seen, masks[index] if masks else NO_MASKS, survey):
            count += len(step.finished)
            took = facts.model_copy(update={"wall_time_s": time.monotonic() - began})
            fraction = (before + step.fraction * len(item)) / total
            notes = tuple(f"{where}{note}" for note in step.notes)
            yield AlignmentProgress(index, step.reference, step.finished, before + count, total, fraction, took, config, notes)
        before += len(item)


def _align_one(
    series: ImageSeries, config: RegistrationConfig, seen: int | None, masks: Masks, survey: Survey | None
) -> Iterator[SeriesProgress]:
    """As ``register_series``, some frames around ``seen`` before all others; only ``fraction`` counts what is done before."""
    from r2n2.registration import chosen_reference, register_series, survey_for

    whole = config.batch_size != "auto" or config.warm_start or config.target != "reference"
    count = _FIRST_FRAMES if series.grid.ndim == 2 else _first_volumes(series.grid, config)
    if seen is None or whole or len(series) <= 2 * count:
        yield from register_series(series, config, masks=masks, survey=survey)
        return
    survey = survey or survey_for(series, config, masks)
    reference = chosen_reference(config.reference, survey, len(series))
    config = config.model_copy(update={"reference": reference})
    nearest = sorted(range(len(series)), key=lambda k: (k == reference, abs(k - seen), k))[:count]
    left = [k for k in range(len(series)) if k not in (*nearest, reference)]
    done: dict[int, FrameResult | None] = {reference: None}
    few = config.model_copy(update={"batch_size": count})
    for progress in register_series(series, few, done=dict.fromkeys(left), masks=masks, survey=survey):
        done |= {result.frame: result for result in progress.finished}
        yield replace(progress, fraction=max(progress.fraction - len(left) / len(series), 0))
    for progress in register_series(series, config, done=done, masks=masks, survey=survey):
        yield replace(progress, notes=())  # the same as before


def _first_volumes(grid: Grid, config: RegistrationConfig) -> int:
    """Large volumes are aligned one at a time, the one on the screen first; of small ones as many as usual are, none before."""
    return 1 if _at_once(config, grid) == 1 else sys.maxsize


def bytes_at_once(config: RegistrationConfig, grid: Grid, frames: int) -> int:
    """About what aligning so many frames needs beside the frames themselves."""
    from r2n2.registration.batch_size import bytes_a_frame

    return min(_at_once(config, grid), frames - 1) * bytes_a_frame(config, grid)


def _at_once(config: RegistrationConfig, grid: Grid) -> int:
    from r2n2.registration.batch_size import resolve_batch_size
    from r2n2.registration.methods import resolve_device

    return resolve_batch_size(config, grid, resolve_device(config.device))


def surveys_of(
    series: Sequence[ImageSeries], config: RegistrationConfig, choice: Choice, masks: Sequence[Masks]
) -> dict[int, Survey]:
    """Slice position -> what a look at it says, where one frame is to be found that serves all of them; else nothing.

    Where they hold different numbers of frames, the reference is one that all of them have.
    """
    from r2n2.mask import NO_MASKS
    from r2n2.registration import survey_series

    if config.reference != "auto" or not choice.one_reference or len(choice.slices) < 2:
        return {}
    frames = min(len(series[k]) for k in choice.slices)
    return {k: survey_series(series[k], masks[k] if masks else NO_MASKS, frames=frames) for k in choice.slices}
