"""Landmark placing: which landmark comes next in which frame, and every edit a person can ask for; without Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_r2n2.layers.landmarks.binding import LandmarkBinding
from napari_r2n2.layers.landmarks.editor import LandmarkEditor
from napari_r2n2.models.landmarks.errors import ErrorReport, report
from napari_r2n2.models.landmarks.marks import COPIED, GUIDING, PLACED, PREDICTED, Marks
from napari_r2n2.models.landmarks.series import contains
from napari_r2n2.models.session import FrameKey
from r2n2.errors import ArgumentError

__all__ = ["LandmarkModel"]


class LandmarkModel(LandmarkBinding):
    """Landmarks of one image layer of a viewer, as a person places them."""

    def __init__(self, viewer: Any) -> None:
        self.jumps = True
        """Whether placing the last landmark of a frame leads on to the next frame."""
        self._clipboard: Marks | None = None
        super().__init__(viewer)

    # What comes next

    def open_names(self, key: FrameKey) -> tuple[str, ...]:
        """Landmarks of the reference that a frame lacks, then those it has only as a draft."""
        reference = FrameKey(key.slice_index, self.reference(key.slice_index))
        if key == reference:
            return ()
        marks = self.marks
        drafts = {marks.ids[k] for k in marks.rows_in(key) if marks.drafts[k] not in (PLACED, GUIDING)}
        return marks.missing(reference, key) + tuple(name for name in marks.ids_in(reference) if name in drafts)

    @property
    def expected(self) -> str | None:
        """Id that the next click places, None where the frame has them all."""
        if self.chosen is not None:
            return self.chosen
        key = self.frame
        if key.frame == self.reference():
            return self.marks.next_name(key.slice_index)
        return next(iter(self.open_names(key)), None)

    def next_open(self) -> FrameKey | None:
        """The next frame that lacks landmarks, after the one on the screen and around."""
        keys = [FrameKey(s, t) for s, item in enumerate(self.series) for t in range(len(item))]
        if not keys:
            return None
        at = keys.index(self.frame)
        return next((key for key in keys[at + 1 :] + keys[:at] if self.open_names(key)), None)

    def _name_of(self, marks: Marks, key: FrameKey, position: Sequence[float]) -> str | None:
        """The id of a click, which lies in the frame on the screen."""
        if self.viewer.dims.ndisplay == 3:
            self.said.emit("Nothing placed: landmarks are placed in the 2D view; leave 3D first.")
            return None
        if not contains(self.series, key, position):
            self.said.emit("Nothing placed: the click lies outside the image.")
            return None
        if self.chosen is not None:
            return self.chosen
        if key.frame == self.reference(key.slice_index):
            return marks.next_name(key.slice_index)
        name = next(iter(self.open_names(key)), None)
        if name is None:
            why = "the reference has no landmark yet" if not len(self._of_reference()) else "this frame has them all"
            self.said.emit(f"Nothing placed: {why}. Drag a point to move it, or choose its id.")
        return name

    def _of_reference(self) -> list[int]:
        at = self.frame.slice_index
        return self.marks.rows_in(FrameKey(at, self.reference(at)))

    # Actions

    def undo(self) -> None:
        """Take the last edit back and show where."""
        self._show(self._editor().undo())

    def redo(self) -> None:
        """Do the last undone edit again and show where."""
        self._show(self._editor().redo())

    def delete(self, what: str) -> None:
        """Delete the selected points ("selected"), their ids in every frame ("everywhere"), or all points of the frame ("frame").

        Raises
        ------
        ArgumentError
            If nothing is selected.
        """
        marks, key = self.marks, self.frame
        rows = marks.rows_in(key) if what == "frame" else self._selected()
        if what == "everywhere":
            ids = {(marks.key(k).slice_index, marks.ids[k]) for k in rows}
            rows = [k for k in range(len(marks)) if (marks.key(k).slice_index, marks.ids[k]) in ids]
        names = ", ".join(sorted({marks.ids[k] for k in rows}))
        where = " in all frames" if what == "everywhere" else f" in frame {key.frame}" if what == "frame" else ""
        self._editor().commit(marks.without(rows), f"delete {names}{where}")

    def confirm(self) -> None:
        """Say of selected copies that they lie right; predictions have to be moved.

        Raises
        ------
        ArgumentError
            If nothing is selected, or a prediction is.
        """
        marks, rows = self.marks, self._selected()
        predicted = [marks.ids[k] for k in rows if marks.drafts[k] == PREDICTED]
        if predicted:
            raise ArgumentError(
                f"landmark {', '.join(predicted)} still lies where the registration put it, so it would measure nothing; "
                "drag it to where you see it"
            )
        self._editor().commit(marks.confirmed(rows), f"confirm {', '.join(marks.ids[k] for k in rows)}")

    def guide(self) -> None:
        """Let the selected points, or those of the frame, guide its registration; landmarks again where they all do already.

        Raises
        ------
        ArgumentError
            If there is no such point, or one lies in the reference or has no partner there.
        """
        marks, key = self.marks, self.frame
        chosen = sorted(int(k) for k in self._editor().layer.selected_data)
        rows = [k for k in chosen or marks.rows_in(key) if marks.key(k).frame != self.reference(marks.key(k).slice_index)]
        if not rows:
            raise ArgumentError(f"no point to use: mark a place in the reference and in frame {key.frame}, with one id")
        names = set(marks.ids_in(FrameKey(key.slice_index, self.reference())))
        lone = [marks.ids[k] for k in rows if marks.ids[k] not in names]
        if lone:
            raise ArgumentError(
                f"landmark {', '.join(lone)} has no partner in reference frame {self.reference()}; mark it there first"
            )
        on = any(marks.drafts[k] != GUIDING for k in rows)
        what = ", ".join(marks.ids[k] for k in rows)
        self._editor().commit(marks.guiding(rows, on), f"{what} {'guides' if on else 'measures'} in frame {key.frame}")
        self.said.emit(f"Landmark {what} {'guides the registration, and measures nothing' if on else 'is a landmark again'}.")

    def copy_reference(self) -> None:
        """Copies of the reference's landmarks, to be moved, in all frames of the slice position that lack them.

        Raises
        ------
        ArgumentError
            If the reference has none.
        """
        at, rows = self.frame.slice_index, self._of_reference()
        if not rows:
            raise ArgumentError(f"reference frame {self.reference()} has no landmark to copy; place some there first")
        keys = [FrameKey(at, t) for t in range(len(self.series[at])) if t != self.reference(at)]
        new = self.marks.copied(rows, keys)
        count = len(new) - len(self.marks)
        if self._editor().commit(new, f"copy the reference to {len(keys)} frames"):
            self.said.emit(f"{count} copies made. A copy counts once you have dragged or confirmed it.")
        else:
            self.said.emit("Nothing copied: every frame has all landmarks of the reference.")

    def copy(self) -> None:
        """Remember the selected points."""
        rows = self._selected()
        self._clipboard = self.marks.without(set(range(len(self.marks))) - set(rows))

    def paste(self) -> None:
        """The remembered points as copies in the frame on the screen."""
        clipboard, marks, key = self._clipboard, self.marks, self.frame
        if clipboard is None:
            raise ArgumentError("nothing to paste: select landmarks and copy them first")
        for k, name in enumerate(clipboard.ids):
            if marks.find(key, name) is None:
                marks = marks.place(key, name, clipboard.positions()[k].tolist(), COPIED)
        if not self._editor().commit(marks, f"paste {', '.join(clipboard.ids)} in frame {key.frame}"):
            self.said.emit(f"Nothing pasted: frame {key.frame} has landmark {', '.join(clipboard.ids)}.")

    def prediction(self, key: FrameKey | None = None) -> dict[str, tuple[float, ...]]:
        """Where the registration expects the reference's landmarks in a frame: id -> ((z,) y, x) in pixels; empty while unknown."""
        key = self.frame if key is None else key
        reference = self.reference(key.slice_index)
        if self.editor is None or not self.registered or key.frame == reference:
            return {}
        marks = self.editor.live()
        rows = marks.rows_in(FrameKey(key.slice_index, reference))
        mapped = self.predictions.at(key, marks.positions()[rows]) if rows else None
        return {} if mapped is None else {marks.ids[k]: tuple(at) for k, at in zip(rows, mapped.tolist(), strict=True)}

    def accept_prediction(self) -> None:
        """Place the expected landmark where the registration expects it, as a draft.

        Raises
        ------
        ArgumentError
            If there is no prediction for it.
        """
        key, name, found = self.frame, self.expected, self.prediction()
        if not found:
            why = "this is the reference frame" if key.frame == self.reference() else f"frame {key.frame} is not registered yet"
            raise ArgumentError(f"no prediction: {why}")
        if name is None or name not in found:
            raise ArgumentError(f"no prediction: frame {key.frame} has all landmarks; choose an id to move one")
        draft = self._editor().commit(self.marks.place(key, name, found[name], PREDICTED), f"accept {name} in frame {key.frame}")
        if draft:
            self.said.emit(f"Landmark {name} lies on its prediction. Drag it to where you see it; it counts from then on.")

    def replace_all(self, marks: Marks, what: str) -> None:
        """Exchange all landmarks, for an import."""
        if self.editor is None:
            self.new_layer()
        self._editor().commit(marks, what)

    def select(self, row: int) -> None:
        """Show a point and select it."""
        if self.editor is None or row >= len(self.marks):
            return
        self.go_to(self.marks.key(row))
        self.go_to_slice(self.marks.positions()[row])
        self.viewer.layers.selection.active = self.editor.layer
        self.editor.layer.selected_data = {row}

    def errors(self, *, live: bool = False) -> ErrorReport | None:
        """Errors of the slice position on the screen; ``live`` while a point is dragged."""
        if self.editor is None or self.image is None:
            return None
        marks = self.editor.live() if live else self.marks
        self._tell_session(marks)
        at = self.frame.slice_index
        edited = self.session.registration.edited(at) if self.registered else ()
        return report(marks, self.series, at, self.reference(at), self.predictions if self.registered else None, edited)

    # Helpers

    def _editor(self) -> LandmarkEditor:
        if self.editor is None:
            raise ArgumentError("there are no landmarks yet: choose a points layer, or make new landmarks")
        return self.editor

    def _selected(self) -> list[int]:
        rows = sorted(int(k) for k in self._editor().layer.selected_data)
        if not rows:
            raise ArgumentError("no landmark is selected: click one with the Move tool, or a row of the table")
        return rows

    def _show(self, key: FrameKey | None) -> None:
        if key is not None and contains(self.series, key):
            self.go_to(key)

    def _placed(self) -> None:
        at = self.frame
        if not self.jumps or self.chosen is not None or at.frame == self.reference() or self.open_names(at):
            return
        key = self.next_open()
        if key is None:
            self.said.emit("Every frame has all landmarks of the reference.")
        else:
            self.go_to(key)
