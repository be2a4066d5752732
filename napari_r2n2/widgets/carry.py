"""The Carry along widget: any layer through the current registration, to the reference or from one frame to every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Points, Shapes, Tracks
from qtpy.QtWidgets import QFormLayout, QVBoxLayout

from napari_r2n2.layers.carry.layer import carry_layer, frames_drawn
from napari_r2n2.layers.carry.way import Way
from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.widgets.choosers import button, combo
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.layer_choice import LayerChoice
from napari_r2n2.widgets.task_dock import TaskDock, words
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["CarryWidget"]

_OWN, _SHOWN, _REFERENCE = "every", "shown", "reference"
_KINDS = (Image, Labels, Points, Shapes, Tracks)


class CarryWidget(TaskDock):
    """Adds a new layer of the same kind; the layer that is carried stays as it is."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.box = combo("What is carried along: another channel, a segmentation, shapes, points or tracks.")
        self.source = combo("The frame that it belongs to; a layer with an axis of time may hold something in each.")
        for text, value in (("each frame its own", _OWN), ("the frame on display", _SHOWN), ("the reference", _REFERENCE)):
            self.source.addItem(text, value)
        self.target = combo("Where it is brought to.")
        self.target.addItem("the reference", "reference")
        self.target.addItem("every frame", "every")
        self.carry = button("Carry along", "")
        self.carry.setStatusTip("Add a layer that shows it there; labels stay labels (nearest pixel).")
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Layer", self.box)
        rows.addRow("Belongs to", self.source)
        rows.addRow("Bring to", self.target)
        self.choice = LayerChoice(napari_viewer, self, self.box, _can_be_carried)
        self.choice.changed.connect(self._layer_changed)
        self.choice.updated.connect(self.follow)
        self.source.currentIndexChanged.connect(lambda _index: self._source_changed())
        self.target.currentIndexChanged.connect(lambda _index: self._target_changed())
        self.carry.clicked.connect(self._start)
        whole = QVBoxLayout()
        whole.addWidget(words("Moves any layer by the registration on display: a segmentation of one frame becomes one of all."))
        whole.addLayout(rows)
        self.lay_out(whole, self.carry)
        connect_while_alive(self, [(self.results.changed, self.follow)])
        self.choice.update()
        self._layer_changed()

    @property
    def problem(self) -> str:
        """Why nothing can be carried now."""
        if super().problem:
            return super().problem
        return "" if self.choice.layer is not None else "Add a layer to carry along: labels, shapes, points, tracks or an image."

    def way(self) -> Way:
        """From where to where, as chosen.

        Raises
        ------
        ArgumentError
            If nothing would move.
        """
        source = self.source.currentData()
        if source == _SHOWN:
            key = self.results.key
            if key is None:
                raise ArgumentError("carry along: no frame of the series is on display; move the sliders onto it")
            return Way(key.frame, self.target.currentData())
        return Way(source, self.target.currentData())

    def _layer_changed(self) -> None:
        """The way that is most likely meant: one drawing to all frames, what has frames to the reference."""
        layer, place = self.choice.layer, self.results.place
        if layer is not None and place is not None:
            timed = layer.ndim >= len(place.axis_labels) - ("channel" in place.axis_labels)
            drawn = frames_drawn(layer, place) if timed else ()
            self.source.setCurrentIndex(self.source.findData(_OWN if timed and len(drawn) != 1 else _SHOWN))
        self.follow()

    def _source_changed(self) -> None:
        """What cannot be meant with it gives way."""
        source = self.source.currentData()
        self.target.setCurrentIndex(self.target.findData("reference" if source == _OWN else "every"))

    def _target_changed(self) -> None:
        if self.source.currentData() == self.target.currentData():
            self.source.setCurrentIndex(self.source.findData(_SHOWN))

    def _start(self) -> None:
        layer, place = self.choice.layer, self.results.place
        assert place is not None
        try:
            way = self.way()
        except ArgumentError as error:
            self.say(str(error), problem=True)
            return
        work = carry_layer(layer, self.session.registration, place, way)
        self.work(work, f"Carrying {layer.name!r} along ...", self._show)

    def _show(self, made: tuple[Any, dict[str, Any], str]) -> None:
        data, options, kind = made
        added = getattr(self.viewer, f"add_{kind}")(data, **options)
        self.say(f"Added {added.name!r}.")


def _can_be_carried(layer: Any) -> bool:
    return isinstance(layer, _KINDS) and "registration" not in layer.metadata.get(METADATA_KEY, {})
