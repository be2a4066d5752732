"""The dock widget "Landmarks": landmark pairs placed by hand, and the target registration error they measure in mm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFrame, QLabel, QVBoxLayout

from napari_r2n2.layers.landmarks.binding import HINT
from napari_r2n2.layers.landmarks.hints import HintLayer, prediction_marks
from napari_r2n2.layers.landmarks.model import LandmarkModel
from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.layers.result_layers import View, results_of
from napari_r2n2.models.lengths import Lengths
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.landmarks.error_panel import ErrorPanel
from napari_r2n2.widgets.landmarks.file_panel import FilePanel
from napari_r2n2.widgets.landmarks.guide_panel import GuidePanel
from napari_r2n2.widgets.landmarks.place_panel import PlacePanel
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["LandmarksWidget"]

# Milliseconds between two computations of all errors: what a drag leaves time for.
_PAUSE_MS = 40


class LandmarksWidget(Dock):
    """Places landmarks by mouse and shows their errors as the registration and the landmarks change."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._model = model = LandmarkModel(napari_viewer)
        self._keys = _Keys(model, self._do, self._go_on)
        self._build()
        self._hint = HintLayer(model.viewer, "predicted landmarks", colour="cyan", symbol="cross", anchor="lower_left")
        self._live, self._was = False, ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE_MS)
        self._timer.timeout.connect(self._refresh)
        model.changed.connect(self._soon)
        model.dragged.connect(self._soon_live)
        model.moved.connect(self._frame_moved)
        model.layers_changed.connect(self._show_layers)
        model.said.connect(self._say)
        self._results = results_of(model.viewer)
        keys, events, guide = self._keys, model.viewer.events, self.guide

        def leave() -> None:
            keys.release()
            guide.release()
            model.close()

        connect_while_alive(
            self,
            [
                (model.viewer.layers.selection.events.active, self._show_state),
                (events.theme, self._show_theme),
                (self._results.changed, self._show_state),
            ],
            at_end=leave,
        )
        self._show_theme()
        self._show_layers()
        self._refresh()

    def _build(self) -> None:
        self.place, self.errors = PlacePanel(self._model, self._do), ErrorPanel()
        self.files = FilePanel(self._model, self._do)
        self.guide = GuidePanel(self._model, self._do)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.hide()
        self.message.setToolTip("What was done, or why not.")
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        whole = QVBoxLayout()
        for part in (self.place, self.message, _line(), self.guide, _line(), self.errors, _line(), self.files):
            whole.addWidget(part)
        whole.setStretchFactor(self.errors, 1)
        self.fill(whole)
        self.errors.table.chosen.connect(lambda row: self._do(lambda: self._model.select(row)))
        self.errors.plot.frame_chosen.connect(lambda t: self._model.go_to(self._model.frame._replace(frame=t)))
        self.place.show_prediction.toggled.connect(lambda _on: self._show_prediction())

    # Acting

    def _do(self, action: Callable[[], object]) -> None:
        """Run what a person asked for; a problem is shown, not raised."""
        self._say("")
        try:
            action()
        except (R2N2Error, ValueError, OSError) as error:
            self._say(str(error))
        self.place.show_state()
        self.guide.show_state()

    def _go_on(self) -> None:
        self.place.go_on()

    def _say(self, text: str) -> None:
        self.message.setText(text[:1].upper() + text[1:])
        self.message.setVisible(bool(text))

    # Showing

    def _soon(self) -> None:
        """Show the new state once this turn of the event loop is over, however many changes it brings."""
        self._live = False
        self.place.show_state()
        if not self._timer.isActive():
            self._timer.start()

    def _soon_live(self) -> None:
        self._live = True
        if not self._timer.isActive():
            self._timer.start()

    def _frame_moved(self) -> None:
        self.place.show_state()
        self.errors.show_frame(self._model.frame.frame)
        self.guide.show_state()
        if self._model.several or self.place.show_prediction.isChecked():
            self._soon()

    def _refresh(self) -> None:
        live, self._live = self._live, False
        self.errors.show_report(self._model.errors(live=live), self._model.frame.frame, Lengths.of(self._model.series))
        if not live:
            self.files.show_state()
            self.guide.show_state()
        self._show_prediction()

    def _show_prediction(self) -> None:
        model, box = self._model, self.place.show_prediction
        if not (box.isChecked() and box.isEnabled() and model.image is not None):
            self._hint.hide()
            return
        self._hint.show(model.image, prediction_marks(model.frame, model.prediction(), model.marks))

    def _show_layers(self) -> None:
        if self._hint.layer is not None and not self._hint.shown:
            self._hint.hide()
            self.place.show_prediction.setChecked(False)
        self._keys.bind(self._model.layer, self._show_state)
        self.place.show_layers()

    def _show_state(self, _event: object = None) -> None:
        active = self._model.viewer.layers.selection.active
        shown_only = active is not None and active.metadata.get(METADATA_KEY, {}).get(HINT)
        if self._mode and active is not None and active is not self._model.layer and not shown_only:
            self._leave_mode(f"layer {active.name!r} was chosen")
        elif self._was and not self._mode and self._warped:
            # A layer that is hidden, as landmarks are on a warped frame, cannot stay in the mode.
            self._leave_mode(self._step_wanted)
        self.place.show_state()
        self._show_frame_as_it_came()
        self._was = self._mode

    @property
    def _mode(self) -> str:
        """What a click in the image does with landmarks: Place, Move, or nothing."""
        layer = self._model.layer
        return "" if layer is None else {"add": "Place", "select": "Move"}.get(str(layer.mode), "")

    @property
    def _warped(self) -> bool:
        """Whether the frame is shown after some steps."""
        return self._results.shown(View.ALIGNED) and self._results.step > 0

    @property
    def _step_wanted(self) -> str:
        return f"step {self._results.step} is asked for, landmarks are placed at step 0, in frames as they came"

    def _leave_mode(self, why: str) -> None:
        layer, name = self._model.layer, self._mode or self._was
        self._was = ""
        if layer is not None and self._mode:
            layer.mode = "pan_zoom"
        self._say(f"{name} is off: {why}. Press it again to go on.")

    def _show_frame_as_it_came(self) -> None:
        """A landmark placed in the aligned image would measure nothing: while one places or moves them, step 0 is shown."""
        if not self._mode or not self._warped:
            return
        if self._was:
            # The mode was on and a step is asked for: that is shown, and no click there can place anything.
            self._leave_mode(self._step_wanted)
        else:
            self._results.go_to(step=0)
            self._say("Step 0 is shown: landmarks are placed in the frames as they came, not in the aligned ones.")

    def _show_theme(self, _event: object = None) -> None:
        self.errors.plot.show_theme(self._model.viewer.theme)


class _Keys:
    """Keys of the landmarks layer, bound while the widget is open."""

    def __init__(self, model: LandmarkModel, do: Callable[[Callable[[], object]], None], go_on: Callable[[], None]) -> None:
        self._layer: Any = None
        self._mode_changed: Callable[..., None] | None = None
        self._bindings: dict[str, Callable[[Any], None]] = {
            "Control-Z": lambda _layer: do(model.undo),
            "Control-Shift-Z": lambda _layer: do(model.redo),
            "Control-C": lambda _layer: do(model.copy),
            "Control-V": lambda _layer: do(model.paste),
            "Y": lambda _layer: do(model.accept_prediction),
            "N": lambda _layer: do(go_on),
        }

    def bind(self, layer: Any, mode_changed: Callable[..., None]) -> None:
        """Bind the keys of this layer, and let go of the last one."""
        if layer is self._layer:
            return
        self.release()
        if layer is not None:
            for key, action in self._bindings.items():
                layer.bind_key(key, action, overwrite=True)
            layer.events.mode.connect(mode_changed)
        self._layer, self._mode_changed = layer, mode_changed

    def release(self) -> None:
        """Give the keys back to napari."""
        if self._layer is not None:
            for key in self._bindings:
                self._layer.bind_key(key, None)
            self._layer.events.mode.disconnect(self._mode_changed)
        self._layer = None


def _line() -> QFrame:
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    line.setFrameShadow(QFrame.Shadow.Sunken)
    return line
