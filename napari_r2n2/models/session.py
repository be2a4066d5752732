"""What one viewer's widgets share: the current registration, the selected Gaussian, the landmarks; it tells what changed.

Widgets show a session and call its methods; a script can do the same, without Qt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_r2n2.models.fields import FrameFields
from napari_r2n2.models.registration import FrameKey, Registration

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.evaluation import TRETable
    from r2n2.guides import Guides
    from r2n2.mask import Masks
    from r2n2.registration import FrameResult
    from r2n2.results.manifest import RunFacts
    from r2n2.series import ImageSeries, LandmarkSet
    from r2n2.transform import GaussianSequence, Transform

__all__ = ["FrameKey", "Session", "session_of"]


class Session:
    """The registration that one viewer shows; a new run replaces it and leaves the old one to its layers."""

    began = Signal()
    """A new registration: series and configuration changed, results are empty."""
    added = Signal(object)
    """A frame is ready (FrameKey)."""
    ended = Signal()
    """The run is over; ``complete`` says whether every frame is there."""
    edited = Signal(object)
    """Gaussians of a frame were switched, or its result was exchanged (FrameKey)."""
    selected = Signal(object)
    """Another Gaussian is the selected one: its step from 1, or None."""
    landmarks_changed = Signal()
    """Landmarks were placed, moved or removed."""

    def __init__(self) -> None:
        self.registration = Registration()
        self.fields = FrameFields(self.registration)
        """Images that follow from the transforms."""
        self._selected: int | None = None
        self._landmarks: dict[int, LandmarkSet] = {}
        self._guides: dict[int, LandmarkSet] = {}

    # The run

    def begin(self, series: Sequence[ImageSeries], config: RegistrationConfig | None = None, masks: Sequence[Masks] = ()) -> None:
        """Start anew; landmarks stay, as they belong to the images."""
        self.show(Registration(series, config, masks))

    def show(self, registration: Registration) -> None:
        """Make another registration the current one."""
        self.registration, self.fields = registration, FrameFields(registration)
        self._selected = None
        self.began.emit()

    def add(self, slice_index: int, reference: int, result: FrameResult) -> None:
        """A frame is ready."""
        self.added.emit(self.registration.add(slice_index, reference, result))

    def note_run(self, slice_index: int, facts: RunFacts, settings: RegistrationConfig) -> None:
        """What the run uses, as far as it has come."""
        self.registration.note_run(slice_index, facts, settings)

    def end(self) -> None:
        """The run is over, complete or not."""
        self.ended.emit()

    @property
    def series(self) -> tuple[ImageSeries, ...]:
        """One item a slice position."""
        return self.registration.series

    @property
    def config(self) -> RegistrationConfig | None:
        """How it was registered."""
        return self.registration.config

    @property
    def complete(self) -> bool:
        """Whether every frame is there."""
        return self.registration.complete

    @property
    def several_slices(self) -> bool:
        """Whether frames are counted within slice positions."""
        return len(self.series) > 1

    @property
    def results(self) -> Mapping[FrameKey, FrameResult]:
        """Frames that are ready, as registered."""
        return self.registration.results

    def reference(self, slice_index: int = 0) -> int | None:
        """The reference frame of a slice position, None while unknown."""
        return self.registration.references.get(slice_index)

    def sequence(self, key: FrameKey) -> GaussianSequence | None:
        """All Gaussians of a frame, switched off or not; None where it has none."""
        return self.registration.sequence(key)

    def enabled(self, key: FrameKey) -> NDArray[np.bool_]:
        """(T,) whether each Gaussian takes part."""
        return self.registration.enabled(key)

    def transform(self, key: FrameKey) -> Transform | None:
        """Displacement of a frame by what is switched on; None where it is not ready."""
        return self.registration.transform(key)

    # Gaussians

    def switch(self, key: FrameKey, step: int, on: bool) -> None:
        """Switch one Gaussian of a frame on or off.

        Raises
        ------
        IndexError
            If the frame has no such step (they count from 1).
        """
        if self.registration.switch(key, step, on):
            self.edited.emit(key)

    def switch_all_on(self, key: FrameKey) -> None:
        """Undo every switch of a frame."""
        if self.registration.switch_all_on(key):
            self.edited.emit(key)

    def exchange(self, key: FrameKey, result: FrameResult, guides: Guides | None = None) -> None:
        """Give a frame another result, which pairs guided if they are given, and which ``take_back`` takes back."""
        self.registration.exchange(key, result, guides)
        self.edited.emit(key)

    def take_back(self, key: FrameKey) -> None:
        """Give a frame the result that it had before the last exchange."""
        if self.registration.take_back(key):
            self.edited.emit(key)

    def do_again(self, key: FrameKey) -> None:
        """Exchange again what was taken back last."""
        if self.registration.do_again(key):
            self.edited.emit(key)

    @property
    def selection(self) -> int | None:
        """Step of the selected Gaussian, from 1."""
        return self._selected

    def select(self, step: int | None) -> None:
        """Select a Gaussian by its step; the same step is selected in every frame."""
        if step != self._selected:
            self._selected = step
            self.selected.emit(step)

    # Landmarks

    def landmarks(self, slice_index: int = 0) -> LandmarkSet | None:
        """Landmarks of a slice position in INDEX space."""
        return self._landmarks.get(slice_index)

    def set_landmarks(self, landmarks: Mapping[int, LandmarkSet]) -> None:
        """Replace the landmarks of all slice positions."""
        self._landmarks = {index: marks for index, marks in landmarks.items() if len(marks)}
        self.landmarks_changed.emit()

    def guides(self, slice_index: int = 0) -> LandmarkSet | None:
        """Pairs of points of a slice position that are to guide its registration, in INDEX space; none is a landmark."""
        return self._guides.get(slice_index)

    def set_guides(self, guides: Mapping[int, LandmarkSet]) -> None:
        """Replace what guides, of all slice positions."""
        self._guides = {index: marks for index, marks in guides.items() if len(marks)}

    def errors(self, slice_index: int = 0, frame: int | None = None) -> TRETable | None:
        """Target registration errors of a slice position, or of one of its frames, with what is switched on now.

        None without landmarks or before the reference is known.

        Raises
        ------
        ReadError
            If no landmark of a registered frame has a partner in the reference.
        """
        marks, reference = self.landmarks(slice_index), self.reference(slice_index)
        if marks is None or reference is None:
            return None
        from r2n2.evaluation import target_registration_error

        if frame is None:
            transforms = self.registration.transforms(slice_index)
        else:
            transform = self.transform(FrameKey(slice_index, frame))
            transforms = {} if transform is None else {frame: transform}
        mask = self.registration.masks_of(slice_index).fixed
        inside = None if mask is None else mask.inside()
        return target_registration_error(transforms, marks, reference, self.series[slice_index].grid, mask=inside)


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(viewer: Any) -> Session:
    """The session of a viewer, made at the first call; every widget of the viewer shares it."""
    # Plugins receive a proxy that dies with the widget; the viewer behind it is what lives.
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _SESSIONS:
        _SESSIONS[viewer] = Session()
    return _SESSIONS[viewer]
