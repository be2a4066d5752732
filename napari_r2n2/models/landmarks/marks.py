"""Landmarks as a person edits them: an unchangeable table of points, names and drafts, positions in pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.models.session import FrameKey

if TYPE_CHECKING:
    from r2n2.series import LandmarkSet

__all__ = ["COPIED", "GUIDING", "PLACED", "PREDICTED", "Marks"]

PLACED = ""
"""A person decided where this point lies."""
PREDICTED = "predicted"
"""Where the registration expects it: its TRE is 0 by construction."""
COPIED = "copied"
"""Where another frame has it: its distance before registration is 0 by construction."""
GUIDING = "guides"
"""Guides the registration of its frame, so that it measures nothing."""
_NUMBERED = re.compile(r"^(.*?)(\d+)$")


@dataclass(frozen=True, eq=False)
class Marks:
    """All landmarks of a layer.

    An id occurs at most once in a frame of a slice position. A *draft* is a starting position that nobody has looked at yet
    (``PREDICTED`` or ``COPIED``); it becomes a landmark when it is moved, and takes no part in any error before. A point that
    guides (``GUIDING``) takes no part in any error either, wherever it is moved.

    Parameters
    ----------
    rows
        (N, 3) frame, y, x or (N, 4) slice, frame, y, x or, of volumes, frame, z, y, x; pixels, the first pixel's centre is 0.
    ids
        Name of every point.
    drafts
        ``PLACED``, ``PREDICTED``, ``COPIED`` or ``GUIDING`` for every point.
    spatial
        Number of coordinates of a position: 3 of volumes.
    """

    rows: NDArray[np.float64]
    ids: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    spatial: int = 2

    def __post_init__(self) -> None:
        rows = np.array(self.rows, dtype=np.float64)
        leading = rows[:, : -self.spatial]
        leading[:] = np.rint(leading)  # a click between two frames belongs to the one that is shown
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "drafts", tuple(self.drafts) or (PLACED,) * len(rows))
        if not len(rows) == len(self.ids) == len(self.drafts):
            raise ValueError(f"Marks: {len(rows)} rows need as many ids and drafts, got {len(self.ids)} and {len(self.drafts)}")

    @classmethod
    def empty(cls, ndim: int, spatial: int = 2) -> Marks:
        """No landmarks of a layer with ``ndim`` axes, 3 or 4, of which so many are spatial."""
        return cls(np.zeros((0, ndim)), spatial=spatial)

    @classmethod
    def from_sets(cls, sets: Mapping[int, LandmarkSet], ndim: int, spatial: int = 2) -> Marks:
        """Slice position -> landmarks in INDEX space."""
        rows = [np.column_stack([np.full(len(s), index), s.frames, s.points])[:, -ndim:] for index, s in sets.items()]
        ids = tuple(name for s in sets.values() for name in s.ids)
        return cls(np.concatenate([np.zeros((0, ndim)), *rows]), ids, spatial=spatial)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ndim(self) -> int:
        """Number of axes of the layer."""
        return int(self.rows.shape[1])

    def same(self, other: Marks) -> bool:
        """Whether nothing differs."""
        return (self.ids, self.drafts) == (other.ids, other.drafts) and np.array_equal(self.rows, other.rows)

    def key(self, row: int) -> FrameKey:
        """Where a point lies."""
        return FrameKey(int(self.rows[row, 0]) if self._sliced else 0, int(self.rows[row, -self.spatial - 1]))

    @property
    def _sliced(self) -> bool:
        """Whether a first axis counts slice positions."""
        return self.ndim == self.spatial + 2

    def positions(self) -> NDArray[np.float64]:
        """(N, 2) y, x or (N, 3) z, y, x."""
        return self.rows[:, -self.spatial :]

    def rows_in(self, key: FrameKey) -> list[int]:
        """Points of a frame, in the order they were placed."""
        found = self.rows[:, -self.spatial - 1] == key.frame
        if self._sliced:
            found &= self.rows[:, 0] == key.slice_index
        return [int(k) for k in np.flatnonzero(found)]

    def ids_in(self, key: FrameKey) -> tuple[str, ...]:
        """Names in a frame, in the order they were placed."""
        return tuple(self.ids[k] for k in self.rows_in(key))

    def find(self, key: FrameKey, name: str) -> int | None:
        """The row of a landmark."""
        return next((k for k in self.rows_in(key) if self.ids[k] == name), None)

    def next_name(self, slice_index: int) -> str:
        """The name after the last of a slice position: 4 after 3, L08 after L07, 1 after names without a number.

        A number still in use in any frame is not given again: the new point would be taken for the partner of the old ones.
        """
        mine = [m for k, n in enumerate(self.ids) if self.key(k).slice_index == slice_index and (m := _NUMBERED.match(n))]
        if not mine:
            return "1"
        prefix, digits = mine[-1].groups()
        return prefix + str(1 + max(int(m[2]) for m in mine if m[1] == prefix)).zfill(len(digits))

    def missing(self, reference: FrameKey, key: FrameKey) -> tuple[str, ...]:
        """Names of the reference that a frame lacks, in the reference's order."""
        here = set(self.ids_in(key))
        return tuple(name for name in self.ids_in(reference) if name not in here)

    # Edits: each gives new marks

    def place(self, key: FrameKey, name: str, position: Sequence[float], draft: str = PLACED) -> Marks:
        """A landmark at ((z,) y, x); one of that name in that frame moves there."""
        row = np.array([key.slice_index, key.frame, *position], dtype=np.float64)[-self.ndim :]
        at = self.find(key, name)
        if at is None:
            return replace(self, rows=np.vstack([self.rows, row]), ids=(*self.ids, name), drafts=(*self.drafts, draft))
        rows, drafts = self.rows.copy(), list(self.drafts)
        rows[at], drafts[at] = row, draft
        return replace(self, rows=rows, drafts=tuple(drafts))

    def without(self, rows: Iterable[int]) -> Marks:
        """All but some points."""
        gone = set(rows)
        return self._take([k for k in range(len(self)) if k not in gone])

    def confirmed(self, rows: Iterable[int]) -> Marks:
        """These points are no drafts any more."""
        chosen = set(rows)
        return replace(self, drafts=tuple(PLACED if k in chosen else draft for k, draft in enumerate(self.drafts)))

    def guiding(self, rows: Iterable[int], on: bool) -> Marks:
        """These points guide the registration, or are landmarks again."""
        chosen = set(rows)
        drafts = tuple((GUIDING if on else PLACED) if k in chosen else draft for k, draft in enumerate(self.drafts))
        return replace(self, drafts=drafts)

    def copied(self, source: Iterable[int], keys: Iterable[FrameKey]) -> Marks:
        """Points as drafts in other frames; frames that have the name keep theirs."""
        result, rows = self, list(source)
        for key in keys:
            for k in rows:
                if self.find(key, self.ids[k]) is None:
                    result = result.place(key, self.ids[k], self.positions()[k].tolist(), COPIED)
        return result

    # What is measured

    @property
    def drafted(self) -> int:
        """Number of drafts."""
        return sum(draft not in (PLACED, GUIDING) for draft in self.drafts)

    def sets(self) -> dict[int, LandmarkSet]:
        """Slice position -> its landmarks in INDEX space, drafts and what guides left out."""
        return self._sets([k for k, draft in enumerate(self.drafts) if draft == PLACED])

    def guides(self, references: Mapping[int, int]) -> dict[int, LandmarkSet]:
        """Slice position -> what guides, with the points of the reference that it is paired with, in INDEX space.

        Parameters
        ----------
        references
            Slice position -> its reference frame.
        """
        names = {(self.key(k).slice_index, self.ids[k]) for k, draft in enumerate(self.drafts) if draft == GUIDING}
        kept = []
        for k, draft in enumerate(self.drafts):
            key = self.key(k)
            of_reference = references.get(key.slice_index) == key.frame and draft in (PLACED, GUIDING)
            if draft == GUIDING or (of_reference and (key.slice_index, self.ids[k]) in names):
                kept.append(k)
        return self._sets(kept)

    def _sets(self, kept: Sequence[int]) -> dict[int, LandmarkSet]:
        from r2n2.geometry import Space
        from r2n2.series import LandmarkSet

        found = {}
        for index in sorted({self.key(k).slice_index for k in kept}):
            rows = [k for k in kept if self.key(k).slice_index == index]
            ids = tuple(self.ids[k] for k in rows)
            frames = self.rows[rows, -self.spatial - 1].astype(np.int64)
            found[index] = LandmarkSet(ids, frames, self.positions()[rows], Space.INDEX)
        return found

    def _take(self, rows: Sequence[int]) -> Marks:
        kept = list(rows)
        return replace(self, rows=self.rows[kept], ids=tuple(self.ids[k] for k in kept), drafts=tuple(self.drafts[k] for k in kept))
