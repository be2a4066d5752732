"""What a viewer says and hides because of the frame on display: a note on the canvas, and landmarks that do not lie on it."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet, ref

__all__ = ["CanvasNote", "LandmarkLayers"]


class CanvasNote:
    """One line on the canvas; what a person has put there comes back when it goes."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = ref(viewer)
        self._before: tuple[str, bool] | None = None

    def show(self, text: str) -> None:
        """Show a line, or none if it is empty."""
        viewer = self._viewer()
        if viewer is None or (not text and self._before is None):
            return
        overlay = viewer.canvas.overlays.text
        if text:
            if self._before is None:
                self._before = (overlay.text, overlay.visible)
            overlay.text, overlay.visible = text, True
        elif self._before is not None:
            (overlay.text, overlay.visible), self._before = self._before, None


class LandmarkLayers:
    """Landmarks lie in the frames as they came: on an aligned frame they would point beside what they mark."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = ref(viewer)
        self._hidden: WeakSet[Any] = WeakSet()
        self._hiding = False

    def hide(self, on: bool) -> None:
        """Hide all landmarks that are visible, or show again what was hidden; a change by hand in between stays."""
        viewer = self._viewer()
        if viewer is None or on == self._hiding:
            return
        self._hiding = on
        if on:
            from napari.layers import Points

            found = [layer for layer in viewer.layers if isinstance(layer, Points) and "id" in layer.features.columns]
            for layer in found:
                if layer.visible:
                    self._hidden.add(layer)
                    layer.visible = False
        else:
            # napari ends the mode of a layer whose visibility is set, even to what it was.
            for layer in [layer for layer in self._hidden if not layer.visible]:
                layer.visible = True
            self._hidden.clear()
