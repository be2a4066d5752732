"""The part of the Sequence widget in which the selected Gaussian is edited, and the others are fitted again around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_r2n2.layers.gaussian_drag import GaussianDrag
from napari_r2n2.models.gaussian_edits import added, refitted_around, set_by_hand, turned, widened, without
from napari_r2n2.widgets.choosers import button
from napari_r2n2.widgets.jobs import Job
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari_r2n2.layers.result_layers import ResultLayers
    from r2n2.registration import FrameResult
    from r2n2.transform import GaussianSequence

__all__ = ["GaussianEditor"]

_WIDER, _TURN_DEG = 1.15, 10.0


class GaussianEditor(QWidget):
    """Every edit exchanges the result of the frame on display, with the status "edited", and can be taken back."""

    def __init__(self, results: ResultLayers, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._results, self.session = results, results.session
        self.job: Job | None = None
        self.drag = GaussianDrag(results, self._say)
        self._build()
        self.show_state()

    def _build(self) -> None:
        self.edit = button(
            "Edit",
            "Drag the selected Gaussian: inside it moves, at the rim it widens or, with Shift, turns, by its arrow's tip it aims.",
        )
        self.edit.setCheckable(True)
        self.add = button("Add", "One more Gaussian in the middle of the view, without an arrow yet: set one by its tip.")
        self.delete = button("Delete", "Leave the selected Gaussian out for good; Take back brings it back.")
        self.wider = button("Wider", "Widen the selected Gaussian by 15 %.")
        self.narrower = button("Narrower", "Make the selected Gaussian narrower by 15 %.")
        self.turn = button("Turn", f"Turn the selected Gaussian by {_TURN_DEG:.0f} degrees.")
        self.around = button("Refit around it", "Hold the selected Gaussian and fit all others of the frame again.")
        self.undo = button("Take back", "Give this frame the result that it had before.")
        self.redo = button("Do again", "Exchange the result again.")
        self.told = QLabel()
        self.told.setWordWrap(True)
        self.told.hide()
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        buttons = (self.edit, self.add, self.delete, self.wider, self.narrower, self.turn, self.around, self.undo, self.redo)
        for place, one in enumerate(buttons):
            grid.addWidget(one, place // 3, place % 3)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(grid)
        whole.addWidget(self.told)
        self.edit.toggled.connect(lambda on: setattr(self.drag, "on", on))
        self.add.clicked.connect(self._add)
        self.delete.clicked.connect(lambda: self._change(without, "Gaussian {} was deleted"))
        self.wider.clicked.connect(lambda: self._change(lambda s, k: widened(s, k, _WIDER), "Gaussian {} was widened"))
        self.narrower.clicked.connect(lambda: self._change(lambda s, k: widened(s, k, 1 / _WIDER), "Gaussian {} was narrowed"))
        self.turn.clicked.connect(lambda: self._change(lambda s, k: turned(s, k, _TURN_DEG), "Gaussian {} was turned"))
        self.around.clicked.connect(self._refit)
        self.undo.clicked.connect(lambda: self._back(self.session.take_back))
        self.redo.clicked.connect(lambda: self._back(self.session.do_again))

    # Acting

    def _change(self, edit: Callable[[GaussianSequence, int], GaussianSequence], what: str) -> None:
        key, step = self._results.key, self.session.selection
        sequence = None if key is None else self.session.sequence(key)
        if key is not None and sequence is not None and step is not None and step <= len(sequence):
            self._exchange(edit(sequence, step), what.format(step))

    def _add(self) -> None:
        key, place = self._results.key, self._results.place
        sequence = None if key is None else self.session.sequence(key)
        if sequence is None or place is None:
            return
        centre = self._results.viewer.scene.camera.center[-2:]
        at = [(c - t) / s for c, t, s in zip(centre, place.translate[-2:], place.plane, strict=True)]
        inside = [min(max(value, 0.0), n - 1.0) for value, n in zip(at, sequence.grid.shape, strict=True)]
        self._exchange(added(sequence, (inside[0], inside[1])), f"Gaussian {len(sequence) + 1} was added")
        self.session.select(len(sequence) + 1)

    def _exchange(self, sequence: GaussianSequence, what: str) -> None:
        key = self._results.key
        assert key is not None
        try:
            self.session.exchange(key, set_by_hand(self.session.registration, key, sequence, what))
        except (R2N2Error, OSError) as error:
            self._say(str(error))

    def _back(self, act: Callable[[Any], None]) -> None:
        if self._results.key is not None:
            act(self._results.key)

    def _refit(self) -> None:
        key, step = self._results.key, self.session.selection
        if self.job is not None or key is None or step is None:
            return
        registration = self.session.registration
        self.job = job = Job(refitted_around(registration, key, step), self)

        def done(result: FrameResult) -> None:
            if self.session.registration is registration:
                self.session.exchange(key, result)

        job.returned.connect(done)
        job.refused.connect(self._say)
        job.broken.connect(lambda error: self._say(f"Internal error: {error}. Please report it."))
        job.ended.connect(self._ended)
        job.start()
        self.show_state()

    def _ended(self) -> None:
        self.job = None
        self.show_state()

    def release(self) -> None:
        """Let go of the viewer and of what is under way."""
        self.drag.close()
        if self.job is not None:
            self.job.release()

    # Showing

    def show_state(self) -> None:
        """Show what can be done with the frame on display."""
        key, step = self._results.key, self.session.selection
        sequence = None if key is None else self.session.sequence(key)
        back, again = (0, 0) if key is None else self.session.registration.exchanged(key)
        switched = key is not None and key in self.session.registration.switched_off
        editable = sequence is not None and sequence.grid.ndim == 2 and not switched and self.job is None
        chosen = editable and step is not None and sequence is not None and step <= len(sequence)
        self.edit.setEnabled(editable)
        self.add.setEnabled(editable)
        for one in (self.delete, self.wider, self.narrower, self.turn, self.around):
            one.setEnabled(chosen)
        self.undo.setEnabled(back > 0 and self.job is None)
        self.redo.setEnabled(again > 0 and self.job is None)
        if self.job is not None:
            self._say("Fitting again ...")
        elif switched:
            self._say("Switch all on first: a sequence is edited as a whole.")
        else:
            self._say("")

    def _say(self, text: str) -> None:
        self.told.setText(text)
        self.told.setVisible(bool(text))
