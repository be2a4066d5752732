"""The part of the landmarks widget in which pairs guide the registration: chosen, the frame fitted again, taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QDoubleSpinBox, QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_r2n2.layers.landmarks.hints import HintLayer, prediction_marks
from napari_r2n2.layers.landmarks.model import LandmarkModel
from napari_r2n2.models.guiding import Refitted, Suggestion, refit, suggest
from napari_r2n2.models.lengths import Lengths
from napari_r2n2.widgets.choosers import button
from napari_r2n2.widgets.jobs import Job
from r2n2.errors import R2N2Error

__all__ = ["GuidePanel"]

Do = Callable[[Callable[[], object]], None]
_AUTO = 0.0


class GuidePanel(QWidget):
    """Turns buttons into calls of the model and of the session; one refit at a time, in the background."""

    def __init__(self, model: LandmarkModel, do: Do, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model, self._do = model, do
        self.job: Job | None = None
        self._suggestion: Suggestion | None = None
        self._hint = HintLayer(model.viewer, "suggested place", colour="deepskyblue", symbol="ring", anchor="upper_right")
        self._build()

    def _build(self) -> None:
        self.use = button(
            "Use for registration",
            "The selected points guide the registration of their frames instead of measuring it; press again to make them "
            "landmarks again. Without a selection: the points of this frame.",
        )
        self.refit = button("Refit this frame", "Fit this frame again so that its guiding pairs are met; the others stay.")
        self.undo = button("Take back", "Give this frame the result that it had before.")
        self.redo = button("Do again", "Exchange the result again.")
        self.strength = QDoubleSpinBox()
        self.strength.setRange(_AUTO, 1000.0)
        self.strength.setDecimals(2)
        self.strength.setSingleStep(0.5)
        self.strength.setSpecialValueText("1 pixel")
        self.strength.setToolTip("To within which distance, in mm, guiding pairs are right (one standard deviation).")
        self.go = button("Go there", "Show the place where the next pair would help most: the largest radius of uncertainty.")
        self.told = QLabel()
        self.told.setWordWrap(True)
        self.told.setToolTip("What guides this frame, and what came of it.")
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(self.use, 0, 0, 1, 2)
        grid.addWidget(self.go, 0, 2)
        for column, one in enumerate((self.refit, self.undo, self.redo)):
            grid.addWidget(one, 1, column)
        grid.addWidget(QLabel("right to within"), 2, 0)
        grid.addWidget(self.strength, 2, 1, 1, 2)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(QLabel("<b>Guide the registration</b>"))
        whole.addLayout(grid)
        whole.addWidget(self.told)
        session, model = self._model.session, self._model
        self.use.clicked.connect(lambda: self._do(self._use))
        self.refit.clicked.connect(lambda: self._do(self._start))
        self.undo.clicked.connect(lambda: self._do(lambda: session.take_back(model.frame)))
        self.redo.clicked.connect(lambda: self._do(lambda: session.do_again(model.frame)))
        self.go.clicked.connect(lambda: self._do(self._go_there))

    # Acting

    def _use(self) -> None:
        self._model.guide()

    def _start(self) -> None:
        if self.job is not None:
            return
        session, key = self._model.session, self._model.frame
        strength = self.strength.value()
        work = refit(session.registration, key, session.guides(key.slice_index), "auto" if strength == _AUTO else strength)
        self.job = job = Job(work, self)
        job.returned.connect(self._done)
        job.refused.connect(self._model.said.emit)
        job.broken.connect(lambda error: self._model.said.emit(f"Internal error: {error}. Please report it."))
        job.ended.connect(self._ended)
        job.start()
        self.show_state()

    def _done(self, refitted: Refitted) -> None:
        session = self._model.session
        if session.registration.results.get(refitted.key) is None:
            return  # another registration is shown by now
        session.exchange(refitted.key, refitted.result, refitted.guides)
        self._model.said.emit(f"{refitted.result.message or 'Fitted again'}. Took {refitted.seconds:.1f} s.")

    def _ended(self) -> None:
        self.job = None
        self.show_state()

    def release(self) -> None:
        """Let go of what is under way."""
        if self.job is not None:
            self.job.release()
        self._hint.hide()

    def _go_there(self) -> None:
        if self._suggestion is None:
            return
        model, place = self._model, self._suggestion.yx
        image = model.image
        assert image is not None
        self._hint.show(image, prediction_marks(model.frame, {"next pair": place}, model.marks))
        world = image.data_to_world((*(0,) * (image.ndim - 2), *place))
        camera = model.viewer.scene.camera
        camera.center = (*camera.center[:-2], *world[-2:])

    # Showing

    def show_state(self, _event: object = None) -> None:
        """Show what guides the frame on display and what can be done."""
        model = self._model
        key, session = model.frame, model.session
        guides = session.guides(key.slice_index)
        here = () if guides is None or key.frame == model.reference() else guides.in_frame(key.frame).ids
        paired = [] if guides is None else [name for name in here if name in guides.in_frame(model.reference()).ids]
        ready = model.registered and key in session.results
        back, again = session.registration.exchanged(key) if ready else (0, 0)
        self.use.setEnabled(model.editor is not None and key.frame != model.reference())
        self.refit.setEnabled(self.job is None and ready and bool(paired))
        self.undo.setEnabled(back > 0)
        self.redo.setEnabled(again > 0)
        self._suggestion = self._suggested(key, guides) if ready else None
        self.go.setEnabled(self._suggestion is not None)
        words = [f"Pairs that guide frame {key.frame}: {', '.join(paired)}." if paired else "No pair guides this frame."]
        if self.job is not None:
            words.append("Fitting again ...")
        elif self._suggestion is not None:
            words.append(f"A pair where the radius is {Lengths.of(model.series).text(self._suggestion.radius_mm)} would help most.")
        self.told.setText(" ".join(words))

    def _suggested(self, key: Any, guides: Any) -> Suggestion | None:
        try:
            return suggest(self._model.session.registration, key, guides)
        except (R2N2Error, OSError, ValueError):
            return None
