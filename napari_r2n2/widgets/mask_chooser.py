"""Choice of the layer whose labels or shapes say what of the reference counts, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.widgets.choosers import combo
from napari_r2n2.widgets.layer_choice import LayerChoice

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["MaskChooser"]


class MaskChooser(QObject):
    """The Labels and Shapes layers of a viewer, and "none"; what we draw ourselves over results is left out."""

    changed = Signal()
    """Another layer, or none."""

    def __init__(self, viewer: Viewer, owner: QWidget) -> None:
        super().__init__(owner)
        self.box = combo(
            "What of the reference counts: the pixels that are labelled, or inside the shapes, of this layer. Draw on any frame;\n"
            "what moves outside of it pulls at nothing. none: everything counts."
        )
        self._choice = LayerChoice(viewer, owner, self.box, _may_be_a_mask, none="none")
        self._choice.changed.connect(self.changed)
        self.update()

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self._choice.layer

    def choose(self, layer: Any) -> None:
        """Choose a layer that is offered, or None."""
        self._choice.choose(layer)

    def update(self) -> None:
        """Follow the viewer's layers; what was chosen stays chosen while it is there."""
        self._choice.update()


def _may_be_a_mask(layer: Any) -> bool:
    return isinstance(layer, Labels | Shapes) and METADATA_KEY not in layer.metadata
