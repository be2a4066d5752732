"""One registration as people look at it: results of all frames, Gaussians switched off by hand, landmarks; without Qt or layers.

Widgets show a session and call its methods; a script can do the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_r2n2.fields import FrameFields

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.registration import FrameResult
    from r2n2.series import ImageSeries, LandmarkSet
    from r2n2.transform import GaussianSequence, Transform

__all__ = ["FrameKey", "Session", "session_of"]

_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class FrameKey(NamedTuple):
    """A frame of a slice position."""

    slice_index: int
    frame: int


class Session:
    """The registration that one viewer shows.

    ``series`` holds one item a slice position, ``results`` what is known so far. A Gaussian that was switched off takes no part in
    any displacement, image or error given from here on, and the export says so.
    """

    began = Signal()
    """A new registration: series and configuration changed, results are empty."""
    added = Signal(object)
    """A frame is ready (FrameKey)."""
    ended = Signal()
    """The run is over; ``complete`` says whether every frame is there."""
    edited = Signal(object)
    """Gaussians of a frame were switched (FrameKey)."""
    selected = Signal(object)
    """Another Gaussian is the selected one: its step from 1, or None."""
    landmarks_changed = Signal()
    """Landmarks were placed, moved or removed."""

    def __init__(self) -> None:
        self.series: tuple[ImageSeries, ...] = ()
        self.config: RegistrationConfig | None = None
        self.folder: Path | None = None
        self.complete = False
        self._results: dict[FrameKey, FrameResult] = {}
        self._off: dict[FrameKey, frozenset[int]] = {}
        self._references: dict[int, int] = {}
        self._selected: int | None = None
        self._landmarks: dict[int, LandmarkSet] = {}
        self._fields: FrameFields | None = None

    # What is registered

    def begin(self, series: Sequence[ImageSeries], config: RegistrationConfig | None = None) -> None:
        """Start anew; landmarks stay, as they belong to the images."""
        self.series, self.config, self.folder, self.complete = tuple(series), config, None, False
        self._results.clear()
        self._off.clear()
        self._references.clear()
        self._fields = None
        self._selected = None
        self.began.emit()

    def add(self, slice_index: int, reference: int, result: FrameResult) -> None:
        """A frame is ready."""
        key = FrameKey(slice_index, result.frame)
        self._references[slice_index] = reference
        self._results[key] = result
        self._forget(key)
        self.added.emit(key)

    def end(self) -> None:
        """The run is over, complete or not."""
        self.complete = bool(self.series) and len(self._results) == sum(len(item) for item in self.series)
        self.ended.emit()

    def reference(self, slice_index: int = 0) -> int | None:
        """The reference frame of a slice position, None while unknown."""
        return self._references.get(slice_index)

    @property
    def several_slices(self) -> bool:
        """Whether frames are counted within slice positions."""
        return len(self.series) > 1

    @property
    def results(self) -> Mapping[FrameKey, FrameResult]:
        """Frames that are ready, as registered."""
        return self._results

    # Gaussians

    @property
    def step_count(self) -> int:
        """Largest number of steps of any frame so far, at least as many as were asked for; 1 for a B-spline."""
        found = max((len(s) for s in map(self.sequence, self._results) if s is not None), default=0)
        if self.config is not None and self.config.method == "bspline":
            return 1
        asked = 0 if self.config is None else self.config.steps
        return max(found, asked, 1)

    def sequence(self, key: FrameKey) -> GaussianSequence | None:
        """All Gaussians of a frame, switched off or not; None where it has none."""
        from r2n2.transform import GaussianSequence

        result = self._results.get(key)
        return result.transform if result is not None and isinstance(result.transform, GaussianSequence) else None

    def enabled(self, key: FrameKey) -> NDArray[np.bool_]:
        """(T,) whether each Gaussian takes part."""
        sequence = self.sequence(key)
        on = np.ones(0 if sequence is None else len(sequence), dtype=bool)
        on[[step - 1 for step in self._off.get(key, ())]] = False
        return on

    def switch(self, key: FrameKey, step: int, on: bool) -> None:
        """Switch one Gaussian of a frame on or off.

        Raises
        ------
        IndexError
            If the frame has no such step (they count from 1).
        """
        sequence = self.sequence(key)
        if sequence is None or not 1 <= step <= len(sequence):
            raise IndexError(f"frame {key.frame} has no Gaussian {step}: it has {0 if sequence is None else len(sequence)}")
        old = self._off.get(key, frozenset())
        new = old - {step} if on else old | {step}
        if new == old:
            return
        self._off[key] = new
        if not new:
            del self._off[key]
        self._forget(key)
        self.edited.emit(key)

    def switch_all_on(self, key: FrameKey) -> None:
        """Undo every switch of a frame."""
        if self._off.pop(key, None):
            self._forget(key)
            self.edited.emit(key)

    @property
    def switched_off(self) -> Mapping[FrameKey, frozenset[int]]:
        """Frame -> steps that take no part; frames without any are not listed."""
        return self._off

    @property
    def selection(self) -> int | None:
        """Step of the selected Gaussian, from 1."""
        return self._selected

    def select(self, step: int | None) -> None:
        """Select a Gaussian by its step; the same step is selected in every frame."""
        if step != self._selected:
            self._selected = step
            self.selected.emit(step)

    # What follows from them

    def transform(self, key: FrameKey, upto: int | None = None) -> Transform | None:
        """Displacement of the first ``upto`` steps that are switched on; None where the frame is not ready."""
        result = self._results.get(key)
        if result is None:
            return None
        sequence = self.sequence(key)
        if sequence is None:
            return result.transform if upto is None or upto > 0 else _identity(result.transform)
        kept = [k for k, on in enumerate(self.enabled(key)) if on and (upto is None or k < upto)]
        if len(kept) == len(sequence):
            return sequence
        import torch

        return sequence.select(torch.tensor(kept, dtype=torch.long))

    def transforms(self, slice_index: int = 0) -> dict[int, Transform]:
        """Frame -> transform of a slice position, with what was switched off left out."""
        found = {key.frame: self.transform(key) for key in sorted(self._results) if key.slice_index == slice_index}
        return {frame: transform for frame, transform in found.items() if transform is not None}

    @property
    def fields(self) -> FrameFields:
        """Images that follow from the transforms."""
        if self._fields is None:
            self._fields = FrameFields(self)
        return self._fields

    def edited_result(self, key: FrameKey) -> FrameResult:
        """The result of a frame, judged again where Gaussians were switched off.

        Raises
        ------
        KeyError
            If the frame is not ready.
        """
        result, off = self._results[key], self._off.get(key)
        if not off:
            return result
        from r2n2.registration import edited_result

        reference, transform = self._references[key.slice_index], self.transform(key)
        assert transform is not None
        listed = ", ".join(map(str, sorted(off)))
        return edited_result(
            self.series[key.slice_index],
            reference,
            result,
            transform,
            f"frame {key.frame}: Gaussians {listed} of {len(self.enabled(key))} were switched off by hand",
        )

    # Landmarks

    def landmarks(self, slice_index: int = 0) -> LandmarkSet | None:
        """Landmarks of a slice position in INDEX space."""
        return self._landmarks.get(slice_index)

    def set_landmarks(self, landmarks: Mapping[int, LandmarkSet]) -> None:
        """Replace the landmarks of all slice positions."""
        self._landmarks = {index: marks for index, marks in landmarks.items() if len(marks)}
        self.landmarks_changed.emit()

    def errors(self, slice_index: int = 0) -> Any:
        """Target registration errors of a slice position with what is switched on now (TRETable), or None without landmarks.

        Raises
        ------
        ReadError
            If no landmark of a registered frame has a partner in the reference.
        """
        marks, reference = self.landmarks(slice_index), self.reference(slice_index)
        if marks is None or reference is None:
            return None
        from r2n2.evaluation import target_registration_error

        return target_registration_error(self.transforms(slice_index), marks, reference, self.series[slice_index].grid)

    def frames(self) -> Iterator[FrameKey]:
        """Every frame, ready or not."""
        for index, item in enumerate(self.series):
            for frame in range(len(item)):
                yield FrameKey(index, frame)

    def _forget(self, key: FrameKey) -> None:
        if self._fields is not None:
            self._fields.forget(key)


def session_of(viewer: Any) -> Session:
    """The session of a viewer, made at the first call; every widget of the viewer shares it."""
    # Plugins receive a proxy that dies with the widget; the viewer behind it is what lives.
    viewer = getattr(viewer, "__wrapped__", viewer)
    return _SESSIONS.setdefault(viewer, Session())


def _identity(transform: Transform) -> Transform:
    from r2n2.transform import DisplacementField

    return DisplacementField.identity(transform.grid)
