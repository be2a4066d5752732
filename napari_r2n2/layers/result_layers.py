"""The layers that show a registration in a viewer and follow its sliders; without Qt.

Image layers (step, ..., frame, y, x) are computed when looked at; vectors (y, x) hold the frame on display only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_r2n2.layers import overlays
from napari_r2n2.layers.gaussian_lines import gaussian_lines
from napari_r2n2.layers.image_views import image_view
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.shown_frame import CanvasNote, LandmarkLayers
from napari_r2n2.layers.shown_plane import ShownPlane
from napari_r2n2.layers.views import IMAGES, INTENSITIES, LINE, LINES_ALONG, MEASURES, View
from napari_r2n2.layers.volume_drawing import VolumeDrawing
from napari_r2n2.models.registration import FrameKey, Registration
from napari_r2n2.models.session import session_of
from napari_r2n2.preferences import read_preferences

if TYPE_CHECKING:
    from r2n2.transform import GaussianSequence

__all__ = ["ResultLayers", "View", "results_of"]

_COLOURS = {View.GAUSSIANS: "white", View.ARROWS: "#ffd166", View.GRID: "#7bdff2"}
# Of a checkerboard, along the longer side.
_SQUARES = 8


class ResultLayers:
    """Adds, updates and removes the layers of a viewer's session.

    The step and the frame on display are those of napari's sliders. The layers of an earlier registration stay as they are.
    """

    changed = Signal()
    """Another step or frame is on display."""
    views_changed = Signal()
    """A view was added or removed."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = ref(viewer)
        self.session = session_of(viewer)
        self.place: Place | None = None
        self._source: Any = None
        self._leftovers: list[Any] = []
        self._notes = CanvasNote(viewer)
        self._landmarks = LandmarkLayers(viewer)
        # Series layer -> its registration, for as long as the layer is there.
        self._runs: WeakKeyDictionary[Any, Registration] = WeakKeyDictionary()
        preferred = read_preferences()
        self.colormap = preferred.colormap
        self.arrow_spacing_px = preferred.arrow_spacing_px
        self.squares = _SQUARES
        self._layers: dict[View, Any] = {}
        self._seen: tuple[FrameKey, int, ShownPlane | None] | None = None
        self._following = False
        self._in_volume = VolumeDrawing(viewer, self.session)
        self.session.added.connect(self._frame_changed)
        self.session.edited.connect(self._frame_changed)
        self.session.ended.connect(self._note_what_is_seen)
        self.session.selected.connect(self._selected)
        for moved in (viewer.dims.events.current_step, viewer.dims.events.order, viewer.dims.events.ndisplay):
            moved.connect(self._sliders_moved)
        viewer.layers.events.removed.connect(self._layer_removed)
        viewer.mouse_drag_callbacks.append(self._click)

    @property
    def viewer(self) -> Any:
        """The viewer; it is never kept alive from here."""
        viewer = self._viewer()
        assert viewer is not None, "the viewer is gone"
        return viewer

    # What is shown

    def begin(self, place: Place, source: Any = None) -> None:
        """Show the session's new registration; what showed an earlier one is taken away, but for its aligned series.

        Parameters
        ----------
        place
            Where the layer of the series lies.
        source
            That layer, whose contrast the new layers share.
        """
        self._source = None if source is None else ref(source)
        if source is not None:
            self._runs[source] = self.session.registration
        for view in [view for view in self._layers if view is not View.ALIGNED]:
            self.show(view, False)
        if View.ALIGNED in self._layers:
            earlier = self._layers.pop(View.ALIGNED)
            earlier.visible = False
            earlier.name = f"{earlier.name}, earlier run"
        self.place, self._seen = place, None
        self.show(View.ALIGNED)

    def run_of(self, source: Any) -> Registration | None:
        """The last registration of the series that an image layer shows; None before there is one."""
        return self._runs.get(source)

    def shown(self, view: View) -> bool:
        """Whether the layer of a view is there."""
        return view in self._layers

    def layer(self, view: View) -> Any:
        """The layer of a view, None where it is not shown."""
        return self._layers.get(view)

    def show(self, view: View, on: bool = True) -> None:
        """Add the layer of a view, or remove it."""
        if on == self.shown(view) or self.place is None:
            return
        if on:
            self._layers[view] = self._make(view, self.place)
            self._draw()
        else:
            layer = self._layers.pop(view)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
            self._in_volume.tidy(self._layers)
        self.views_changed.emit()

    @property
    def plane(self) -> ShownPlane | None:
        """The plane of the volume on display; None of 2D frames, and where the screen shows another axis than z, y and x."""
        place, series = self.place, self.session.series
        if place is None or place.ndim == 2 or not series or self.viewer.dims.ndim < len(place.axis_labels):
            return None
        return ShownPlane.of(self.viewer.dims, place, series[0].grid.shape)

    @property
    def key(self) -> FrameKey | None:
        """The frame on display; None before there is a series."""
        place, series = self.place, self.session.series
        labels = () if place is None else place.axis_labels
        # While layers come and go, the viewer may have too few sliders.
        if place is None or not series or self.viewer.dims.ndim < len(labels):
            return None
        position = self._position(place)
        slice_index = position[labels.index("slice")] if "slice" in labels else 0
        slice_index = min(max(slice_index, 0), len(series) - 1)
        frame = min(max(position[labels.index("frame")], 0), len(series[slice_index]) - 1)
        return FrameKey(slice_index, frame)

    @property
    def step(self) -> int:
        """The step on display: 0 is undeformed."""
        if self.place is None or View.ALIGNED not in self._layers:
            return self.session.registration.step_count
        axis = self._axis(len(self.place.axis_labels) + 1)
        if axis < 0:
            return self.session.registration.step_count
        return min(max(round(self.viewer.dims.point[axis]), 0), self.session.registration.step_count)

    def go_to(self, *, key: FrameKey | None = None, step: int | None = None) -> None:
        """Move napari's sliders."""
        place = self.place
        if place is None:
            return
        count = len(place.axis_labels)
        if step is not None and self.shown(View.ALIGNED):
            self.viewer.dims.set_point(self._axis(count + 1), float(step))
        if key is not None:
            for name, index in (("slice", key.slice_index), ("frame", key.frame)):
                if name in place.axis_labels:
                    axis = place.axis_labels.index(name)
                    self.viewer.dims.set_point(self._axis(count - axis), place.translate[axis] + index * place.scale[axis])

    # Making layers

    def _make(self, view: View, place: Place) -> Any:
        return self._image(view, place) if view in IMAGES else self._lines(view, place)

    def _lines(self, view: View, place: Place) -> Any:
        layer = self.viewer.add_vectors(
            np.zeros((1, 2, place.ndim)),
            **place.plane_options(view.value),
            edge_color=_COLOURS[view],
            edge_width=LINE * place.longest_side(self.session.series[0].grid.shape) / place.drawn_unit,
            vector_style="arrow" if view is View.ARROWS else "line",
            opacity=1.0,
        )
        # Drawing a thumbnail of a thousand lines takes longer than drawing the lines.
        layer._max_vectors_thumbnail = 1
        layer.events.visible.connect(self._draw)
        return layer

    def _image(self, view: View, place: Place) -> Any:
        registration = self.session.registration
        stack, options = image_view(view, self.session.fields, place, lambda: self.squares)
        layer = self.viewer.add_image(stack, **options)
        if view is View.ALIGNED:
            self.viewer.dims.set_point(self._axis(layer.ndim), float(registration.step_count))
        self._below_drawings(layer)
        self._link(view, layer)
        if view is View.ALIGNED:
            layer.events.visible.connect(self._draw)
        if view in MEASURES:
            layer.colorbar.visible = True
        return layer

    def _link(self, view: View, layer: Any) -> None:
        """What shows the same intensities is shown alike: a change of contrast in one is a change in all."""
        if self.place is None or layer.rgb or view in MEASURES:
            return
        source = self._source() if self._source is not None else None
        alike = [self._layers[other] for other in INTENSITIES if other is not view and other in self._layers]
        if source is not None and source in self.viewer.layers:
            alike.append(source)
        if alike:
            self.viewer.layers.link_layers([layer, *alike], ("contrast_limits", "gamma", "colormap"))

    def _below_drawings(self, layer: Any) -> None:
        """Images lie below what is drawn on them: ellipses, landmarks."""
        from napari.layers import Image

        layers = self.viewer.layers
        others = [index for index, other in enumerate(layers) if isinstance(other, Image) and other is not layer]
        layers.move(layers.index(layer), max(others, default=-1) + 1)

    # Following

    def _position(self, place: Place) -> list[int]:
        """Index along every axis of the series that the sliders point at."""
        count = len(place.axis_labels)
        point = self.viewer.dims.point[-count:]
        return [round((p - t) / s) for p, t, s in zip(point, place.translate, place.scale, strict=True)]

    def _axis(self, from_end: int) -> int:
        return int(self.viewer.dims.ndim - from_end)

    def _sliders_moved(self, _event: object = None) -> None:
        key, step, plane = self.key, self.step, self.plane
        if key is None or (key, step, plane) == self._seen:
            return
        moved = self._seen is not None and self._seen[1] != step
        self._seen = (key, step, plane)
        if moved:
            # The Gaussian that this step added is the one to look at.
            self._following = True
            self.session.select(step or None)
            self._following = False
        self._draw()
        self.changed.emit()

    def _selected(self, _step: int | None) -> None:
        if not self._following:
            self.draw_gaussians()

    def _frame_changed(self, key: FrameKey) -> None:
        if key != self.key:
            return
        self._lengthen()
        for view in IMAGES:
            if view in self._layers:
                self._layers[view].refresh(thumbnail=False)
        self._draw()
        self.changed.emit()

    def _lengthen(self) -> None:
        """A frame that was given more Gaussians than any had needs a longer slider."""
        place, count = self.place, self.session.registration.step_count
        if place is None or not self.shown(View.ALIGNED) or self.layer(View.ALIGNED).data.shape[0] >= count + 1:
            return
        at_end = self.step >= self.layer(View.ALIGNED).data.shape[0] - 1
        for view in IMAGES:
            if view in self._layers and view is not View.REFERENCE:
                self._layers[view].data = image_view(view, self.session.fields, place, lambda: self.squares)[0]
        if at_end:
            self.go_to(step=count)

    def set_squares(self, squares: int) -> None:
        """Number of fields of the checkerboard along the longer side."""
        self.squares = squares
        if View.CHECKERBOARD in self._layers:
            self._layers[View.CHECKERBOARD].refresh(thumbnail=False)

    def _note_what_is_seen(self) -> None:
        """Say on the canvas that a frame is shown as it came because it is not aligned, and hide what does not lie on it."""
        key, aligned = self.key, self._layers.get(View.ALIGNED)
        registration = self.session.registration
        seen = key is not None and aligned is not None and aligned.visible
        if key is None or not seen or key in registration.results or self.step == 0:
            self._notes.show("")
        else:
            where = f"slice {key.slice_index}, frame {key.frame}" if self.session.several_slices else f"frame {key.frame}"
            self._notes.show(f"{where} is not aligned: shown as it came")
        moved = seen and key in registration.results and self.step > 0
        own_frame = key is not None and registration.references.get(key.slice_index) == key.frame
        self._landmarks.hide(moved and not own_frame)

    def _draw(self, _event: object = None) -> None:
        self._note_what_is_seen()
        self.draw_gaussians()
        key, place = self.key, self.place
        if key is None or place is None:
            return
        if place.ndim == 3:
            self._in_volume.draw_displacement(self, key, place)
        elif self.shown(View.ARROWS) or self.shown(View.GRID):
            field = self.session.fields.displacement(key, self.step)
            if self.shown(View.ARROWS):
                self.set_lines(View.ARROWS, overlays.displacement_arrows(field, place.plane, self.arrow_spacing_px))
            if self.shown(View.GRID):
                spacing = max(max(field.grid.shape) // LINES_ALONG, 2)
                self.set_lines(View.GRID, overlays.grid_lines(field, place.plane, spacing))

    def set_lines(self, view: View, pieces: NDArray[np.float64], colours: NDArray[np.float64] | None = None) -> None:
        """Exchange what a layer of lines shows; without colours all pieces have that of the view."""
        layer = self.layer(view)
        if not layer.visible:
            # napari looks up colours by what a hidden layer showed last: fewer pieces would raise. It is drawn once it is shown.
            return
        layer.data = pieces
        # napari gives the pieces beyond the former number no colour.
        if len(pieces):
            layer.edge_color = _COLOURS[view] if colours is None else colours

    def draw_gaussians(self, other: GaussianSequence | None = None) -> None:
        """Draw the ellipses of the frame on display, or of another sequence until they are drawn anew."""
        key, place = self.key, self.place
        layer = self.layer(View.GAUSSIANS)
        if key is None or place is None or layer is None or not layer.visible:
            self._in_volume.tidy({})
            return
        sequence = self.session.sequence(key) if other is None else other
        if sequence is None or len(sequence) == 0:
            layer.data = np.zeros((0, 2, place.ndim))
            self._in_volume.tidy({})
            return
        if place.ndim == 3:
            self._in_volume.draw_gaussians(self, key, place)
            return
        pieces, colours = gaussian_lines(
            sequence,
            self.session.enabled(key),
            self.step,
            self.session.selection,
            place.plane,
            0.5 * LINE * place.longest_side(sequence.grid.shape),
            self.colormap,
        )
        self.set_lines(View.GAUSSIANS, pieces, colours)

    def _forget_what_is_gone(self) -> None:
        """Where both the series and its aligned layer were deleted, nothing of the registration is left to be looked at."""
        source = None if self._source is None else self._source()
        if self.place is None or self.shown(View.ALIGNED) or (source is not None and source in self.viewer.layers):
            return
        # Not removed here: napari may be in the midst of removing several, these among them.
        self._leftovers += self._layers.values()
        for layer in self._layers.values():
            layer.visible = False
        self._layers.clear()
        self.place, self._source, self._seen = None, None, None
        self._notes.show("")
        self.session.show(Registration())

    def remove_leftovers(self) -> None:
        """Remove what was drawn on layers that are gone; to be called once napari has come to rest."""
        while self._leftovers:
            layer = self._leftovers.pop()
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _layer_removed(self, event: Any) -> None:
        for view in [view for view, layer in self._layers.items() if layer is event.value]:
            del self._layers[view]
            self.views_changed.emit()
        self._forget_what_is_gone()

    def _click(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click, not a drag, selects the ellipse under the mouse, unless a layer is being drawn on."""
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        active = viewer.layers.selection.active
        key, place = self.key, self.place
        if dragged or key is None or place is None or event.button != 1 or not self.shown(View.GAUSSIANS):
            return
        if active is not None and str(active.mode) not in ("pan_zoom", "transform"):
            return
        sequence = self.session.sequence(key)
        if sequence is None or not self.layer(View.GAUSSIANS).visible:
            return
        visible = np.arange(len(sequence)) < self.step
        if place.ndim == 3:
            self.session.select(self._in_volume.hit(self, event.position, key, place, visible))
            return
        y, x = np.subtract(event.position[-2:], place.translate[-2:])
        self.session.select(overlays.hit(sequence, place.plane, (float(y), float(x)), visible))


_RESULTS: WeakKeyDictionary[Any, ResultLayers] = WeakKeyDictionary()


def results_of(viewer: Any) -> ResultLayers:
    """The result layers of a viewer, made at the first call."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _RESULTS:
        _RESULTS[viewer] = ResultLayers(viewer)
    return _RESULTS[viewer]
