"""Edits of a points layer, by mouse, key or button, as a history of marks that can be undone; without Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_r2n2.layers.landmarks.points import read, write
from napari_r2n2.models.landmarks.marks import GUIDING, PLACED, Marks
from napari_r2n2.models.session import FrameKey

__all__ = ["LandmarkEditor"]

_MOST_KEPT = 500

NameOf = Callable[[Marks, FrameKey, Sequence[float]], str | None]
"""Marks, frame and position ((z,) y, x) of a click -> the id it places, or None if it places nothing."""

Snap = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Row of a click -> where it places a point."""


class _Edit(NamedTuple):
    what: str
    before: Marks
    after: Marks

    @property
    def where(self) -> FrameKey | None:
        """A frame in which something changed."""
        old, new = ({_row(marks, k): marks.key(k) for k in range(len(marks))} for marks in (self.before, self.after))
        changed = [new[row] for row in new if row not in old] + [old[row] for row in old if row not in new]
        return changed[0] if changed else None


class LandmarkEditor:
    """Keeps marks and a points layer the same, whoever changes which.

    What napari's own tools do to the layer becomes an edit like any other: a new point gets its name from ``name_of``, a dragged
    one is no draft any more, an impossible edit is taken back with a word why.
    """

    changed = Signal()
    """The marks are others."""
    placed = Signal()
    """A new point got its name."""
    dragged = Signal()
    """A point is being dragged; ``live`` says where to."""
    said = Signal(str)
    """A sentence for the person who edits."""

    def __init__(self, layer: Any, marks: Marks, name_of: NameOf, snap: Snap) -> None:
        self.layer = layer
        self._marks, self._name_of, self._snap = marks, name_of, snap
        self._done: list[_Edit] = []
        self._undone: list[_Edit] = []
        self._writing = False
        layer.events.data.connect(self._layer_edited)
        layer.events.features.connect(self._features_edited)

    def close(self) -> None:
        """Let go of the layer."""
        self.layer.events.data.disconnect(self._layer_edited)
        self.layer.events.features.disconnect(self._features_edited)

    @property
    def marks(self) -> Marks:
        """Landmarks after the last edit."""
        return self._marks

    def live(self) -> Marks:
        """Landmarks as they lie while one is dragged."""
        rows, ids, _drafts = read(self.layer)
        return self._moved(rows) if ids == self._marks.ids else self._marks

    # Edits

    def commit(self, marks: Marks, what: str) -> bool:
        """Make ``marks`` the landmarks; False if nothing differs."""
        if marks.same(self._marks):
            self._show()
            return False
        self._done = [*self._done[-_MOST_KEPT + 1 :], _Edit(what, self._marks, marks)]
        self._undone.clear()
        self._marks = marks
        self._show()
        self.changed.emit()
        return True

    @property
    def undo_text(self) -> str:
        """What undo would take back, or ""."""
        return self._done[-1].what if self._done else ""

    @property
    def redo_text(self) -> str:
        """What redo would do again, or ""."""
        return self._undone[-1].what if self._undone else ""

    def undo(self) -> FrameKey | None:
        """Take the last edit back; a frame in which it shows."""
        return self._step(self._done, self._undone, back=True)

    def redo(self) -> FrameKey | None:
        """Do the last undone edit again; a frame in which it shows."""
        return self._step(self._undone, self._done, back=False)

    def _step(self, source: list[_Edit], target: list[_Edit], *, back: bool) -> FrameKey | None:
        if not source:
            self.said.emit("Nothing to undo." if back else "Nothing to redo.")
            return None
        edit = source.pop()
        target.append(edit)
        self._marks = edit.before if back else edit.after
        self._show()
        self.changed.emit()
        self.said.emit(f"{'Undone' if back else 'Done again'}: {edit.what}.")
        return edit.where

    # What the layer reports

    def _layer_edited(self, event: Any) -> None:
        action = str(event.action).rsplit(".", 1)[-1].lower()
        if self._writing or action not in ("added", "removed", "changed"):
            return
        rows, ids, drafts = read(self.layer)
        known = len(self._marks)
        if action == "added" and len(rows) > known and np.array_equal(rows[:known], self._marks.rows):
            self._add(rows[known:])
        elif len(rows) == known and ids == self._marks.ids:
            moved = np.flatnonzero((rows != self._marks.rows).any(1))
            names = ", ".join(sorted({self._marks.ids[k] for k in moved}))
            self._accept(rows, ids, self._moved(rows).drafts, f"move {names}")
        else:
            gone = [name for name in self._marks.ids if name not in ids]
            self._accept(rows, ids, drafts, f"delete {', '.join(gone)}" if gone else "delete" if len(rows) < known else "change")

    def _features_edited(self, _event: Any) -> None:
        if self._writing:
            return
        rows, ids, drafts = read(self.layer)
        if ids != self._marks.ids:
            if len(rows) == len(self._marks):
                self._accept(rows, ids, drafts, "rename")
        elif not np.array_equal(rows, self._marks.rows):
            self.dragged.emit()

    def _add(self, rows: NDArray[np.float64]) -> None:
        marks, names = self._marks, []
        for row in map(self._snap, rows):
            new = replace(marks, rows=row[None], ids=("",), drafts=())
            key, position = new.key(0), new.positions()[0].tolist()
            name = self._name_of(marks, key, position)
            if name is not None:
                marks = marks.place(key, name, position)
                names.append(f"{name} in frame {key.frame}")
        if self.commit(marks, f"place {', '.join(names)}"):
            self.placed.emit()

    def _accept(self, rows: NDArray[np.float64], ids: tuple[str, ...], drafts: tuple[str, ...], what: str) -> None:
        """Commit what the layer holds, or put it back as it was where an id would be missing or occur twice."""
        marks = replace(self._marks, rows=rows, ids=ids, drafts=drafts)
        keys = [(marks.key(k), name) for k, name in enumerate(ids)]
        if not all(ids) or len(set(keys)) < len(keys):
            self._show()
            repeated = next((name for key, name in keys if keys.count((key, name)) > 1), "")
            why = f"landmark {repeated} would occur twice in a frame" if all(ids) else "a landmark would have no id"
            self.said.emit(f"Not changed: {why}.")
            return
        self.commit(marks, what)

    def _moved(self, rows: NDArray[np.float64]) -> Marks:
        """The marks at other places; what moved is no draft any more."""
        moved = (rows[:, -self._marks.spatial :] != self._marks.positions()).any(1)
        drafts = tuple(PLACED if moved[k] and draft != GUIDING else draft for k, draft in enumerate(self._marks.drafts))
        return replace(self._marks, rows=rows, drafts=drafts)

    def _show(self) -> None:
        self._writing = True
        try:
            write(self.layer, self._marks)
        finally:
            self._writing = False


def _row(marks: Marks, k: int) -> tuple[Any, ...]:
    return (*marks.rows[k].tolist(), marks.ids[k], marks.drafts[k])
