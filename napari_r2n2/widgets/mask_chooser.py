"""Choice of the layer whose labels or shapes say what of the reference counts, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.widgets.choosers import combo
from napari_r2n2.widgets.connections import connect_while_alive

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["MaskChooser"]


class MaskChooser(QObject):
    """The Labels and Shapes layers of a viewer, and "none"; what we draw ourselves over results is left out."""

    changed = Signal()
    """Another layer, or none."""

    def __init__(self, viewer: Viewer, owner: QWidget) -> None:
        super().__init__(owner)
        self._viewer = viewer
        self._named: list[Any] = []
        self.box = combo(
            "What of the reference counts: the pixels that are labelled, or inside the shapes, of this layer. Draw on any frame;\n"
            "what moves outside of it pulls at nothing. none: everything counts."
        )
        self.box.addItem("none", None)
        self.box.currentIndexChanged.connect(lambda _index: self.changed.emit())
        named, rename = self._named, self._update_names
        events = viewer.layers.events
        connect_while_alive(
            owner,
            [(events.inserted, self.update), (events.removed, self.update)],
            at_end=lambda: [layer.events.name.disconnect(rename) for layer in named],
        )
        self.update()

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self.box.currentData()

    def choose(self, layer: Any) -> None:
        """Choose a layer that is offered, or None."""
        self.box.setCurrentIndex(0 if layer is None else max(self.box.findData(layer), 0))

    def update(self, _event: object = None) -> None:
        """Follow the viewer's layers; what was chosen stays chosen while it is there."""
        chosen = self.layer
        for layer in self._named:
            layer.events.name.disconnect(self._update_names)
        # In place, as the list is what is let go of at the end.
        self._named[:] = [
            layer for layer in self._viewer.layers if isinstance(layer, Labels | Shapes) and METADATA_KEY not in layer.metadata
        ]
        self.box.blockSignals(True)
        self.box.clear()
        self.box.addItem("none", None)
        for layer in self._named:
            layer.events.name.connect(self._update_names)
            self.box.addItem(layer.name, layer)
        self.box.setCurrentIndex(max(self.box.findData(chosen) if chosen is not None else 0, 0))
        self.box.blockSignals(False)
        if chosen is not self.layer:
            self.changed.emit()

    def _update_names(self, _event: object = None) -> None:
        for index in range(1, self.box.count()):
            self.box.setItemText(index, self.box.itemData(index).name)
