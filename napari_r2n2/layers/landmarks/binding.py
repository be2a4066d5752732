"""The series, the points layer and the session that landmarks belong to, kept in step with a viewer; without Qt."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_r2n2.layers.landmarks.editor import LandmarkEditor
from napari_r2n2.layers.landmarks.points import adopt, new_layer, unfit
from napari_r2n2.layers.landmarks.series import geometry_of, is_series
from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.models.landmarks.marks import Marks
from napari_r2n2.models.landmarks.predictions import Predictions
from napari_r2n2.models.landmarks.series import belongs_to
from napari_r2n2.models.session import FrameKey, Session, session_of
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari.layers import Image, Points

    from r2n2.series import ImageSeries

__all__ = ["HINT", "LandmarkBinding"]

HINT = "landmark-hint"
"""Key in a layer's metadata of points that only show something and are never adopted."""


class LandmarkBinding:
    """Knows which series and points layer are worked on and which frame is shown; what a click means is for subclasses to say."""

    changed = Signal()
    """Landmarks, reference or registration are others: errors follow."""
    dragged = Signal()
    """A point is under way."""
    moved = Signal()
    """Another frame is shown."""
    layers_changed = Signal()
    """Layers came, went, were renamed or chosen."""
    said = Signal(str)
    """A sentence for the person at the screen."""

    def __init__(self, viewer: Any) -> None:
        # Layers are compared and touched: the viewer behind the plugin's proxy is needed.
        self.viewer = getattr(viewer, "__wrapped__", viewer)
        self.session: Session = session_of(viewer)
        self.image: Image | None = None
        self.series: tuple[ImageSeries, ...] = ()
        self.editor: LandmarkEditor | None = None
        self.chosen: str | None = None
        """Id that a click places; None: the one that comes next."""
        self.predictions = Predictions(self.session)
        self._references: dict[int, int] = {}
        self._told: Marks | None = None
        self._registered: bool | None = None  # None: to be found out anew
        self._events = [
            (self.viewer.layers.events.inserted, self._layers_changed),
            (self.viewer.layers.events.removed, self._layers_changed),
            (self.viewer.layers.events.renamed, self._renamed),
            (self.viewer.dims.events.point, self._frame_changed),
            (self.viewer.dims.events.ndisplay, self._frame_changed),
        ]
        for emitter, slot in self._events:
            emitter.connect(slot)
        self._signals = [self.session.began, self.session.added, self.session.edited]
        for signal in self._signals:
            signal.connect(self._registration_changed)
        self._layers_changed()

    def close(self) -> None:
        """Let go of viewer, session and layers."""
        for emitter, slot in self._events:
            emitter.disconnect(slot)
        for signal in self._signals:
            signal.disconnect(self._registration_changed, missing_ok=True)
        self._drop_editor()
        self._watch_image(None)
        for own in (self.changed, self.dragged, self.moved, self.layers_changed, self.said):
            own.disconnect()

    # Layers

    def images(self) -> list[Any]:
        """Image layers that can carry landmarks."""
        from napari.layers import Image

        return [layer for layer in self.viewer.layers if isinstance(layer, Image) and is_series(layer)]

    def points(self) -> list[Any]:
        """Points layers that could hold landmarks of the chosen image."""
        from napari.layers import Points

        if self.image is None:
            return []
        found = [layer for layer in self.viewer.layers if isinstance(layer, Points) and layer.ndim == self.image.ndim]
        return [layer for layer in found if not layer.metadata.get(METADATA_KEY, {}).get(HINT)]

    @property
    def layer(self) -> Points | None:
        """The points layer that is edited."""
        return None if self.editor is None else self.editor.layer

    def choose_image(self, image: Any) -> None:
        """Work on another series."""
        if image is self.image:
            return
        self._drop_editor()
        self._watch_image(image)
        self._adopt_what_fits()
        self._tell_all()

    def choose_layer(self, layer: Any) -> None:
        """Edit another points layer of the same series.

        Raises
        ------
        ArgumentError
            If it cannot hold landmarks of the series.
        """
        if layer is self.layer:
            return
        marks, said = adopt(layer, self.image, self.spatial)
        self._edit(layer, marks)
        if said:
            self.said.emit(said)

    def new_layer(self) -> None:
        """An empty points layer for landmarks; it takes those of the session where no layer shows them yet."""
        if self.image is None:
            raise ArgumentError("there is no image series to place landmarks in; open one first")
        known = {k: s for k in range(len(self.series)) if (s := self.session.landmarks(k)) is not None}
        taken = known if self.editor is None and self.registered else {}
        marks = Marks.from_sets(taken, self.image.ndim, self.spatial)
        layer = new_layer(self.image, marks)
        self._edit(layer, marks)
        self.viewer.add_layer(layer)
        layer.mode = "add"

    # Where one is

    @property
    def marks(self) -> Marks:
        """Landmarks after the last edit."""
        return Marks.empty(1 + self.spatial, self.spatial) if self.editor is None else self.editor.marks

    @property
    def spatial(self) -> int:
        """Number of coordinates of a landmark: 3 in volumes."""
        return self.series[0].grid.ndim if self.series else 2

    @property
    def frame(self) -> FrameKey:
        """The frame on the screen, within the series."""
        if self.image is None or self.viewer.dims.ndim < self.image.ndim:
            return FrameKey(0, 0)
        ndim = self.image.ndim
        index = self.image.world_to_data(self.viewer.dims.point[-ndim:])[: -self.spatial]
        slice_index = int(np.clip(round(index[0]), 0, len(self.series) - 1)) if len(index) == 2 else 0
        return FrameKey(slice_index, int(np.clip(round(index[-1]), 0, len(self.series[slice_index]) - 1)))

    def go_to(self, key: FrameKey) -> None:
        """Show a frame."""
        if self.image is None:
            return
        axes, count = self.image.ndim, self.image.ndim - self.spatial
        position = (key.slice_index, key.frame)[2 - count :] + (0,) * self.spatial
        world = self.image.data_to_world(position)
        first = self.viewer.dims.ndim - axes
        self.viewer.dims.set_point(range(first, first + count), world[:count])

    def go_to_slice(self, position: Sequence[float]) -> None:
        """Show the slice of a volume in which a position (z, y, x) in voxels lies, whichever way it is cut."""
        if self.image is None or self.spatial == 2:
            return
        first = self.viewer.dims.ndim - 3
        hidden = [axis for axis in range(3) if first + axis not in self.viewer.dims.displayed]
        world = self.image.data_to_world((0, *(round(at) for at in position)))[-3:]
        self.viewer.dims.set_point([first + axis for axis in hidden], [world[axis] for axis in hidden])

    def _snapped(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """A click in a volume lies on the slice that is seen, at the centre of its voxels."""
        first = self.viewer.dims.ndim - len(row)
        hidden = [k for k in range(len(row)) if first + k not in self.viewer.dims.displayed]
        snapped = row.copy()
        snapped[hidden] = np.rint(row[hidden])
        return snapped

    @property
    def several(self) -> bool:
        """Whether the series has several slice positions."""
        return len(self.series) > 1

    @property
    def registered(self) -> bool:
        """Whether the session's registration is that of the chosen series."""
        if self._registered is None:
            names = {geometry_of(layer)[0].name for layer in self.images()}
            self._registered = self.image is not None and belongs_to(self.session, self.series, names)
        return self._registered

    def reference(self, slice_index: int | None = None) -> int:
        """Reference frame of a slice position, of the one on the screen by default."""
        at = self.frame.slice_index if slice_index is None else slice_index
        known = self.session.reference(at) if self.registered else None
        return self._references.get(at, 0) if known is None else known

    @property
    def reference_known(self) -> bool:
        """Whether the registration decided the reference of the slice position on the screen."""
        return self.registered and self.session.reference(self.frame.slice_index) is not None

    def set_reference(self, frame: int) -> None:
        """Choose the reference of the slice position on the screen, while no registration has."""
        self._references[self.frame.slice_index] = frame
        self.changed.emit()

    # What a click means

    def _name_of(self, marks: Marks, key: FrameKey, position: Sequence[float]) -> str | None:
        """The id that a click places."""
        raise NotImplementedError

    def _placed(self) -> None:
        """A click has placed something."""

    # Keeping in step

    def _edit(self, layer: Any, marks: Marks) -> None:
        self._drop_editor()
        self.editor = LandmarkEditor(layer, marks, self._name_of, self._snapped)
        self.editor.changed.connect(self._edited)
        self.editor.placed.connect(self._placed)
        self.editor.dragged.connect(self._dragged)
        self.editor.said.connect(self._said)
        self._tell_all()

    def _drop_editor(self) -> None:
        if self.editor is not None:
            self.editor.close()
            self.editor, self.chosen, self._told = None, None, None

    def _edited(self) -> None:
        self._tell_session(self.marks)
        self.changed.emit()

    # psygnal calls an emit that is connected once to count its arguments, hence these two.

    def _dragged(self) -> None:
        self.dragged.emit()

    def _said(self, text: str) -> None:
        self.said.emit(text)

    def _tell_session(self, marks: Marks) -> None:
        """Hand the landmarks on, if they are those of the session's series and others than it was told last."""
        if self.editor is None or not (self.registered or not self.session.series):
            return
        if self._told is None or not marks.same(self._told):
            self._told = marks
            self.session.set_guides(marks.guides({k: self.reference(k) for k in range(len(self.series))}))
            self.session.set_landmarks(marks.sets())

    def _tell_all(self) -> None:
        if self.editor is not None:
            self._tell_session(self.marks)
        self.layers_changed.emit()
        self.changed.emit()

    def _frame_changed(self, _event: object = None) -> None:
        self.moved.emit()

    def _registration_changed(self, key: FrameKey | None = None) -> None:
        self.predictions.forget(key)
        if key is None:
            self._told = self._registered = None
            self._tell_session(self.marks)
        self.changed.emit()

    def _renamed(self, _event: object = None) -> None:
        self._registered = None
        self.layers_changed.emit()

    def _layers_changed(self, _event: object = None) -> None:
        layers, self._registered = list(self.viewer.layers), None
        if self.editor is not None and self.editor.layer not in layers:
            told = self._told is not None
            self._drop_editor()
            if told:
                self.session.set_landmarks({})
        if self.image is None or self.image not in layers:
            self._drop_editor()
            self._watch_image(next(iter(self.images()), None))
        if self.editor is None:
            self._adopt_what_fits()
        self._tell_all()

    def _adopt_what_fits(self) -> None:
        for layer in self.points():
            if "id" in layer.features.columns and not unfit(layer, self.image):
                with contextlib.suppress(ArgumentError):  # damaged ids: choosing the layer by hand says what is wrong
                    marks, _said = adopt(layer, self.image, self.spatial)
                    self.editor = None
                    self._edit(layer, marks)
                    return

    def _watch_image(self, image: Any) -> None:
        names = ("data", "scale", "translate", "axis_labels", "units")
        self._registered = None
        if self.image is not None:
            for name in names:
                getattr(self.image.events, name).disconnect(self._image_changed)
        self.image, self.series = image, () if image is None else geometry_of(image)
        if image is not None:
            for name in names:
                getattr(image.events, name).connect(self._image_changed)

    def _image_changed(self, _event: object = None) -> None:
        """The series was exchanged or calibrated: landmarks keep their pixels and take its new scale."""
        image = self.image
        if image is None:
            return
        if not is_series(image):
            self.choose_image(next((other for other in self.images() if other is not image), None))
            return
        self.series, self._registered = geometry_of(image), None
        layer = self.layer
        if layer is not None and layer.ndim == image.ndim:
            layer.scale, layer.translate = image.scale, image.translate
            layer.axis_labels, layer.units = image.axis_labels, tuple(str(unit) for unit in image.units)
        elif layer is not None:
            self._drop_editor()
        self._tell_all()
