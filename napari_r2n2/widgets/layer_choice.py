"""A box that offers some of a viewer's layers by name, and follows them as they come, go and are renamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_r2n2.widgets.connections import connect_while_alive

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["LayerChoice"]


class LayerChoice(QObject):
    """The layers of a viewer that are offered in a box.

    Parameters
    ----------
    owner
        The widget with whose end the layers are let go of.
    box
        Empty; it holds the layers as data.
    offered
        Whether a layer is one to choose.
    none
        What stands first and chooses no layer; "" if a layer is always chosen where there is one: the newest, if the one that was
        chosen goes.
    """

    changed = Signal()
    """Another layer is chosen, or none."""
    updated = Signal()
    """Layers came or went."""

    def __init__(self, viewer: Viewer, owner: QWidget, box: QComboBox, offered: Callable[[Any], bool], *, none: str = "") -> None:
        super().__init__(owner)
        self._viewer, self._box, self._offered, self._none = viewer, box, offered, none
        self._named: list[Any] = []
        self._fill([])
        box.currentIndexChanged.connect(lambda _index: self.changed.emit())
        named, rename = self._named, self._update_names
        events = viewer.layers.events
        connect_while_alive(
            owner,
            [(events.inserted, self.update), (events.removed, self.update)],
            at_end=lambda: [layer.events.name.disconnect(rename) for layer in named],
        )

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self._box.currentData()

    @property
    def candidates(self) -> list[Any]:
        """The layers that are offered."""
        return list(self._named)

    def choose(self, layer: Any) -> None:
        """Choose a layer that is offered; any other is as good as none."""
        self._box.setCurrentIndex(self._place(layer))

    def update(self, _event: object = None) -> None:
        """Follow the viewer's layers; what was chosen stays chosen while it is there."""
        chosen = self.layer
        for layer in self._named:
            layer.events.name.disconnect(self._update_names)
        # In place, as the list is what is let go of at the end.
        self._named[:] = [layer for layer in self._viewer.layers if self._offered(layer)]
        for layer in self._named:
            layer.events.name.connect(self._update_names)
        self._box.blockSignals(True)
        self._fill(self._named)
        place = self._place(chosen)
        self._box.setCurrentIndex(place if place >= 0 else self._box.count() - 1)
        self._box.blockSignals(False)
        if chosen is not self.layer:
            self.changed.emit()
        self.updated.emit()

    def _fill(self, layers: list[Any]) -> None:
        self._box.clear()
        if self._none:
            self._box.addItem(self._none, None)
        for layer in layers:
            self._box.addItem(layer.name, layer)

    def _place(self, layer: Any) -> int:
        """Of a layer in the box; where it is not offered that of "none", or -1 without one."""
        found = -1 if layer is None else self._box.findData(layer)
        return max(found, 0) if self._none else found

    def _update_names(self, _event: object = None) -> None:
        for index in range(self._box.count()):
            layer = self._box.itemData(index)
            if layer is not None:
                self._box.setItemText(index, layer.name)
