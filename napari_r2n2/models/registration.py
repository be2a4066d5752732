"""The results of one run, frame by frame, with the Gaussians that were switched off by hand; without signals, Qt or layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.guides import Guides
    from r2n2.mask import Masks
    from r2n2.registration import FrameResult
    from r2n2.results.manifest import RunFacts
    from r2n2.series import ImageSeries
    from r2n2.transform import GaussianSequence, Transform

__all__ = ["FrameKey", "Registration"]


class FrameKey(NamedTuple):
    """A frame of a slice position."""

    slice_index: int
    frame: int


class _Version(NamedTuple):
    """What a frame was before it was exchanged."""

    result: FrameResult
    off: frozenset[int]
    guided: bool


class Registration:
    """A run: what was registered, how, and what is known so far.

    A Gaussian that was switched off takes no part in any displacement, image or error given from here on.

    Parameters
    ----------
    series
        One item a slice position.
    config
        How; None where nothing was registered yet.
    masks
        What counts, one item a slice position; empty where all does.
    """

    def __init__(
        self, series: Sequence[ImageSeries] = (), config: RegistrationConfig | None = None, masks: Sequence[Masks] = ()
    ) -> None:
        self.series = tuple(series)
        self.config = config
        self.masks = tuple(masks)
        self.results: dict[FrameKey, FrameResult] = {}
        self.references: dict[int, int] = {}
        """Slice position -> reference frame, as far as known."""
        self.switched_off: dict[FrameKey, frozenset[int]] = {}
        """Frame -> steps (from 1) that take no part; frames without any are not listed."""
        self.facts: dict[int, RunFacts] = {}
        """Slice position -> what the run used, with the time it took there; taken down at the run, not when it is exported."""
        self.guides: dict[int, Guides] = {}
        """Slice position -> the pairs that were used last, of all its frames."""
        self.guided: set[FrameKey] = set()
        """Frames whose result they guided."""
        self._earlier: dict[FrameKey, list[_Version]] = {}
        self._later: dict[FrameKey, list[_Version]] = {}
        self._revisions: dict[FrameKey, int] = {}

    @property
    def name(self) -> str:
        """Of the series."""
        return self.series[0].name if self.series else ""

    @property
    def of_volumes(self) -> bool:
        """Whether the series is one of volumes."""
        return bool(self.series) and self.series[0].grid.ndim == 3

    def note_run(self, slice_index: int, facts: RunFacts, settings: RegistrationConfig) -> None:
        """What the run uses, as far as it has come; the settings name the reference frame once it is found."""
        self.facts[slice_index], self.config = facts, settings

    def masks_of(self, slice_index: int) -> Masks:
        """What counts on a slice position."""
        from r2n2.mask import NO_MASKS

        return self.masks[slice_index] if self.masks else NO_MASKS

    def edited(self, slice_index: int) -> tuple[int, ...]:
        """Frames of a slice position from which Gaussians were left out by hand, now or before they were written."""
        from r2n2.registration import FrameStatus

        written = {key for key, result in self.results.items() if result.status is FrameStatus.EDITED}
        return tuple(sorted(key.frame for key in {*self.switched_off, *written} if key.slice_index == slice_index))

    def frames(self) -> Iterator[FrameKey]:
        """Every frame, ready or not."""
        for index, item in enumerate(self.series):
            for frame in range(len(item)):
                yield FrameKey(index, frame)

    @property
    def complete(self) -> bool:
        """Whether every frame is there."""
        return bool(self.series) and len(self.results) == sum(len(item) for item in self.series)

    @property
    def step_count(self) -> int:
        """Largest number of steps of any frame so far, at least as many as were asked for; 1 for what is no sequence."""
        if self.config is not None and (self.config.method == "bspline" or self.config.target == "previous"):
            return 1
        found = max((len(s) for s in map(self.sequence, self.results) if s is not None), default=0)
        steps = "auto" if self.config is None else self.config.of_grid(3 if self.of_volumes else 2).steps
        asked = 0 if steps == "auto" else steps
        return max(found, asked, 1)

    def add(self, slice_index: int, reference: int, result: FrameResult) -> FrameKey:
        """A frame is ready."""
        key = FrameKey(slice_index, result.frame)
        self.references[slice_index] = reference
        self.results[key] = result
        self._changed(key)
        return key

    def sequence(self, key: FrameKey) -> GaussianSequence | None:
        """All Gaussians of a frame, switched off or not; None where it has none."""
        from r2n2.transform import GaussianSequence

        result = self.results.get(key)
        return result.transform if result is not None and isinstance(result.transform, GaussianSequence) else None

    def enabled(self, key: FrameKey) -> NDArray[np.bool_]:
        """(T,) whether each Gaussian takes part."""
        sequence = self.sequence(key)
        on = np.ones(0 if sequence is None else len(sequence), dtype=bool)
        on[[step - 1 for step in self.switched_off.get(key, ())]] = False
        return on

    def switch(self, key: FrameKey, step: int, on: bool) -> bool:
        """Switch one Gaussian of a frame on or off; whether that changed anything.

        Raises
        ------
        IndexError
            If the frame has no such step (they count from 1).
        """
        sequence = self.sequence(key)
        if sequence is None or not 1 <= step <= len(sequence):
            raise IndexError(f"frame {key.frame} has no Gaussian {step}: it has {0 if sequence is None else len(sequence)}")
        old = self.switched_off.get(key, frozenset())
        return self._set_off(key, old - {step} if on else old | {step})

    def switch_all_on(self, key: FrameKey) -> bool:
        """Undo every switch of a frame; whether there was one."""
        return self._set_off(key, frozenset())

    def _set_off(self, key: FrameKey, steps: frozenset[int]) -> bool:
        if steps == self.switched_off.get(key, frozenset()):
            return False
        self.switched_off[key] = steps
        if not steps:
            del self.switched_off[key]
        self._changed(key)
        return True

    def exchange(self, key: FrameKey, result: FrameResult, guides: Guides | None = None) -> None:
        """Give a frame another result, which ``guides`` guided if they are given; ``take_back`` brings the former one back."""
        self._earlier.setdefault(key, []).append(self._version(key))
        self._later.pop(key, None)
        if guides is not None:
            self.guides[key.slice_index] = guides
        self._put(key, _Version(result, frozenset(), guides is not None or key in self.guided))

    def guides_of(self, slice_index: int) -> Guides | None:
        """The pairs of the frames that are guided now; None where none is."""
        from r2n2.guides import Guides

        used = self.guides.get(slice_index)
        frames = {key.frame for key in self.guided if key.slice_index == slice_index}
        if used is None or not frames:
            return None
        kept = used.landmarks.select_frames({self.references[slice_index], *frames})
        return Guides(kept, used.strength_mm, used.path)

    def exchanged(self, key: FrameKey) -> tuple[int, int]:
        """How many exchanges of a frame can be taken back, and how many done again."""
        return len(self._earlier.get(key, ())), len(self._later.get(key, ()))

    def take_back(self, key: FrameKey) -> bool:
        """Undo the last exchange of a frame; whether there was one."""
        return self._step(key, self._earlier, self._later)

    def do_again(self, key: FrameKey) -> bool:
        """Redo what was taken back last; whether there was anything."""
        return self._step(key, self._later, self._earlier)

    def original(self, key: FrameKey) -> FrameResult:
        """The result of the run, before any exchange.

        Raises
        ------
        KeyError
            If the frame is not ready.
        """
        earlier = self._earlier.get(key)
        return earlier[0].result if earlier else self.results[key]

    def _step(self, key: FrameKey, source: dict[FrameKey, list[_Version]], target: dict[FrameKey, list[_Version]]) -> bool:
        if not source.get(key):
            return False
        target.setdefault(key, []).append(self._version(key))
        self._put(key, source[key].pop())
        return True

    def _version(self, key: FrameKey) -> _Version:
        return _Version(self.results[key], self.switched_off.get(key, frozenset()), key in self.guided)

    def _put(self, key: FrameKey, version: _Version) -> None:
        self.results[key] = version.result
        self.switched_off.pop(key, None)
        if version.off:
            self.switched_off[key] = version.off
        (self.guided.add if version.guided else self.guided.discard)(key)
        self._changed(key)

    def _changed(self, key: FrameKey) -> None:
        self._revisions[key] = self.revision(key) + 1

    def revision(self, key: FrameKey) -> int:
        """Grows whenever the transform of a frame changes: what was computed from it is known to be old."""
        return self._revisions.get(key, 0)

    def transform(self, key: FrameKey) -> Transform | None:
        """Displacement of the frame by what is switched on; None where the frame is not ready."""
        result, sequence, on = self.results.get(key), self.sequence(key), self.enabled(key)
        if result is None or sequence is None or on.all():
            return None if result is None else result.transform
        import torch

        return sequence.select(torch.from_numpy(on))

    def transforms(self, slice_index: int = 0) -> dict[int, Transform]:
        """Frame -> transform of a slice position."""
        found = {key.frame: self.transform(key) for key in sorted(self.results) if key.slice_index == slice_index}
        return {frame: transform for frame, transform in found.items() if transform is not None}

    def result(self, key: FrameKey) -> FrameResult:
        """The result of a frame, measured again where Gaussians were switched off.

        Raises
        ------
        KeyError
            If the frame is not ready.
        """
        result, off = self.results[key], self.switched_off.get(key)
        if not off:
            return result
        from r2n2.registration import edited_result

        transform = self.transform(key)
        assert transform is not None
        message = (
            f"frame {key.frame}: Gaussians {', '.join(map(str, sorted(off)))} of {len(self.enabled(key))} were switched off by hand"
        )
        place = (self.series[key.slice_index], self.references[key.slice_index])
        return edited_result(*place, result, transform, message, masks=self.masks_of(key.slice_index))
