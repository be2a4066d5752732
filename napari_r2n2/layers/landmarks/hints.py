"""Points that are only looked at: predictions of the registration, or another observer's landmarks; without Qt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.landmarks.binding import HINT
from napari_r2n2.layers.landmarks.points import hint_layer, unfit
from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.models.landmarks.marks import Marks
from napari_r2n2.models.session import FrameKey

__all__ = ["HintLayer", "prediction_marks"]


class HintLayer:
    """A read-only points layer that comes and goes with what it has to show.

    ``anchor`` says where its ids stand, so that they do not lie on those of the landmarks ("upper_left").
    """

    def __init__(self, viewer: Any, what: str, *, colour: str, symbol: str, anchor: str) -> None:
        self._viewer, self._what, self._look = viewer, what, (colour, symbol, anchor)
        self.layer: Any = None

    @property
    def shown(self) -> bool:
        """Whether the layer is in the viewer; a person may have deleted it."""
        return self.layer is not None and self.layer in self._viewer.layers

    def show(self, image: Any, marks: Marks) -> None:
        """Show these points, in a new layer where there is none or another image is meant."""
        if self.shown and unfit(self.layer, image):
            self.hide()
        if not self.shown:
            active = self._viewer.layers.selection.active
            self.layer = hint_layer(image, f"{image.name} {self._what}", *self._look)
            self.layer.metadata[METADATA_KEY] = {HINT: True}
            self._viewer.add_layer(self.layer)
            # A click must still go to the layer it went to before.
            self._viewer.layers.selection.active = active
        if _same(self.layer, marks.rows, marks.ids):
            return
        self.layer.data = marks.rows.copy()
        self.layer.features = {"id": np.array(marks.ids, dtype=object)}

    def hide(self) -> None:
        """Take the layer away."""
        if self.shown:
            self._viewer.layers.remove(self.layer)
        self.layer = None


def prediction_marks(key: FrameKey, found: Mapping[str, tuple[float, ...]], like: Marks) -> Marks:
    """Predicted positions of a frame as marks of a layer with the axes of others."""
    marks = Marks.empty(like.ndim, like.spatial)
    for name, position in found.items():
        marks = marks.place(key, name, position)
    return marks


def _same(layer: Any, rows: NDArray[np.float64], ids: tuple[str, ...]) -> bool:
    return np.array_equal(layer.data, rows) and tuple(layer.features["id"].tolist()) == ids
