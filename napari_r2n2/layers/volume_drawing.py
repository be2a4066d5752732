"""Drawn layers of registered volumes: lines of the plane on the screen, and ellipsoids, which come and go with the 3D view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.views import LINE, LINES_ALONG, View
from napari_r2n2.layers.volume_lines import VolumeLines

if TYPE_CHECKING:
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.shown_plane import ShownPlane
    from napari_r2n2.models.registration import FrameKey
    from napari_r2n2.models.session import Session

__all__ = ["VolumeDrawing"]


class Shown(Protocol):
    """What of ``ResultLayers`` is needed here."""

    colormap: str
    arrow_spacing_px: int

    @property
    def plane(self) -> ShownPlane | None: ...

    @property
    def step(self) -> int: ...

    def layer(self, view: View) -> Any: ...

    def set_lines(self, view: View, pieces: NDArray[np.float64], colours: NDArray[np.float64] | None = None) -> None: ...


class VolumeDrawing:
    """Fills the drawn layers of ``ResultLayers`` where the series is one of volumes."""

    def __init__(self, viewer: Any, session: Session) -> None:
        self._viewer = ref(viewer)
        self._session = session
        self._surfaces: Any = None

    def draw_displacement(self, shown: Shown, key: FrameKey, place: Place) -> None:
        """Arrows and the deformed grid of the plane; in space all of the arrows."""
        session, step = self._session, shown.step
        wanted = [view for view in (View.ARROWS, View.GRID) if shown.layer(view) is not None]
        lines = self._lines(shown, place)
        for view in wanted:
            if lines is None:
                shown.set_lines(view, np.zeros((0, 2, 3)))
                continue

            def displacement_at(points: NDArray[np.float64]) -> NDArray[np.float64]:
                return session.fields.volumes.displacement_at(key, step, points)

            if view is View.ARROWS:
                pieces = lines.arrows(displacement_at, shown.arrow_spacing_px * min(place.plane))
            else:
                pieces = lines.grid_lines(displacement_at, LINES_ALONG)
            shown.set_lines(view, pieces / place.drawn_unit)

    def draw_gaussians(self, shown: Shown, key: FrameKey, place: Place) -> None:
        """Ellipses in the plane, or ellipsoids in space."""
        sequence, lines = self._session.sequence(key), self._lines(shown, place)
        if sequence is None or lines is None:
            shown.set_lines(View.GAUSSIANS, np.zeros((0, 2, 3)))
            self.tidy({})
            return
        state = (self._session.enabled(key), shown.step, self._session.selection)
        if lines.plane.in_space:
            shown.set_lines(View.GAUSSIANS, np.zeros((0, 2, 3)))
            self._show_surfaces(lines.surfaces(sequence, *state, shown.colormap), place)
            return
        self.tidy({})
        width = 0.5 * LINE * place.longest_side(lines.shape)
        pieces, colours = lines.gaussians(sequence, *state, width, shown.colormap)
        shown.set_lines(View.GAUSSIANS, pieces / place.drawn_unit, colours)

    def hit(self, shown: Shown, position: tuple[float, ...], key: FrameKey, place: Place, visible: NDArray[np.bool_]) -> int | None:
        """Step of the Gaussian whose ellipse holds a position of the world; None outside all, and in space."""
        sequence, lines = self._session.sequence(key), self._lines(shown, place)
        if sequence is None or lines is None or lines.plane.in_space:
            return None
        where = np.subtract(position[-3:], place.translate[-3:])
        return lines.hit(sequence, np.asarray(where, np.float64), visible)

    def tidy(self, shown: Mapping[View, Any]) -> None:
        """Take the ellipsoids away where the layer of Gaussians is not shown."""
        if self._surfaces is None or View.GAUSSIANS in shown:
            return
        viewer, layer, self._surfaces = self._viewer(), self._surfaces, None
        if viewer is not None and layer in viewer.layers:
            viewer.layers.remove(layer)

    def _lines(self, shown: Shown, place: Place) -> VolumeLines | None:
        plane = shown.plane
        return None if plane is None else VolumeLines(plane, self._session.series[0].grid.shape, place.scale[-3:])

    def _show_surfaces(self, found: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]], place: Place) -> None:
        vertices, faces, colours = found[0] / place.drawn_unit, *found[1:]
        viewer = self._viewer()
        if viewer is None or not len(vertices):
            self.tidy({})
            return
        if self._surfaces is None or self._surfaces not in viewer.layers:
            active = viewer.layers.selection.active
            self._surfaces = viewer.add_surface(
                (vertices, faces),
                vertex_colors=colours,
                **place.plane_options("Gaussians in space"),
                shading="smooth",
                blending="translucent_no_depth",
            )
            viewer.layers.selection.active = active
            return
        self._surfaces.vertex_colors = None
        self._surfaces.data = (vertices, faces)
        self._surfaces.vertex_colors = colours
