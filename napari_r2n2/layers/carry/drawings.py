"""Points, Shapes and Tracks layers carried along: their vertices are mapped, curved outlines stay outlines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.carry.axes import frame_options, index_along, vector_roles
from napari_r2n2.layers.carry.way import CarryProgress, Way
from napari_r2n2.layers.place import Place
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration
    from r2n2.results.carrier import Carrier

__all__ = ["carry_points", "carry_shapes", "carry_tracks"]

Coordinates = NDArray[np.float64]
Carried = tuple[Any, NDArray[np.int64], dict[str, Any]]
"""Data, which item of the layer each item is, options of the axes."""

_ROUND = 48  # vertices of an ellipse
_EDGE_PX = 4.0  # longest edge that is mapped by its ends
_MOST_PIECES = 32


class _Mover:
    """Moves vertices of a layer between frames.

    Parameters
    ----------
    columns
        Number of coordinates of a vertex.
    """

    def __init__(self, layer: Any, columns: int, place: Place, registration: Registration, carriers: Sequence[Carrier]) -> None:
        self.spatial = registration.series[0].grid.ndim
        self.roles = vector_roles(place, columns, self.spatial)
        self._layer, self._columns, self._place = layer, columns, place
        self._registration, self._carriers = registration, carriers
        first = len(layer.scale) - columns
        # A Tracks layer's scale counts its coordinates alone, as that of every other layer does.
        self.scale = np.asarray(layer.scale, np.float64)[first:]
        self.translate = np.asarray(layer.translate, np.float64)[first:]

    def frames(self, vertices: Coordinates) -> NDArray[np.int64] | None:
        """Frame of every vertex; None where the layer has no such axis."""
        return self._along("frame", vertices)

    def _along(self, role: str, vertices: Coordinates) -> NDArray[np.int64] | None:
        if role not in self.roles:
            return None
        column = self.roles.index(role)
        return index_along(self._layer, self._place, role, column, vertices[:, column], self._columns)

    def moved(self, vertices: Coordinates, source: int | None, target: int | None) -> Coordinates:
        """Vertices (N, columns) of one frame as they lie in another; their leading coordinates stay."""
        if source == target:
            return vertices.copy()
        slices = self._along("slice", vertices)
        at = np.zeros(len(vertices), np.int64) if slices is None else slices
        place, spatial = self._place, self.spatial
        scale, translate = self.scale[-spatial:], self.translate[-spatial:]
        theirs, offset = np.array(place.scale[-spatial:]), np.array(place.translate[-spatial:])
        index = (vertices[:, -spatial:] * scale + translate - offset) / theirs
        found = vertices.copy()
        for where in np.unique(at):
            if not 0 <= where < len(self._carriers):
                raise ArgumentError(f"layer {self._layer.name!r}: something is drawn on slice {where}, which the series has not")
            chosen = at == where
            carrier = self._carriers[where]
            mapped = carrier.points(index[chosen], source, target)
            found[chosen, -spatial:] = (mapped * theirs + offset - translate) / scale
        return found

    def reference(self) -> int:
        """Of the first slice position, as drawings of several slices lie on one time axis."""
        return self._registration.references[0]

    def in_frame(self, vertices: Coordinates, frame: int) -> Coordinates:
        """Vertices put into a frame, with a coordinate for it where they had none."""
        axis = self._place.axis_labels.index("frame")
        if "frame" in self.roles:
            column = self.roles.index("frame")
            world = self._place.translate[axis] + self._place.scale[axis] * frame
            found = vertices.copy()
            found[:, column] = (world - self.translate[column]) / self.scale[column]
            return found
        return np.insert(vertices, vertices.shape[1] - self.spatial, frame, axis=1)

    def out_of_frames(self, vertices: Coordinates) -> Coordinates:
        """Vertices without the coordinate of their frame."""
        return np.delete(vertices, self.roles.index("frame"), axis=1) if "frame" in self.roles else vertices

    def axis_options(self, columns: int) -> dict[str, Any]:
        """Options of the axes of what has so many coordinates."""
        layer, first = self._layer, len(self._layer.scale) - self._columns
        found: dict[str, Any] = {}
        for what, new in frame_options(self._place).items():
            values = [str(value) if what == "units" else value for value in getattr(layer, what)][first:]
            if columns > self._columns:
                values.insert(len(values) - self.spatial, new)
            elif columns < self._columns:
                del values[self.roles.index("frame")]
            found[what] = tuple(values)
        return found


def carry_points(
    layer: Any, place: Place, registration: Registration, carriers: Sequence[Carrier], way: Way
) -> Generator[CarryProgress, None, Carried]:
    """Points, each one item."""
    data = np.asarray(layer.data, np.float64)
    mover = _Mover(layer, data.shape[1], place, registration, carriers)
    items = [data[k : k + 1] for k in range(len(data))]
    found, kept = yield from _carried(layer, mover, items, way, registration)
    columns = found[0].shape[1]
    return np.concatenate(found), kept, mover.axis_options(columns)


def carry_shapes(
    layer: Any, place: Place, registration: Registration, carriers: Sequence[Carrier], way: Way
) -> Generator[CarryProgress, None, Carried]:
    """Shapes: rectangles, ellipses and polygons become polygons, lines and paths become paths."""
    columns = layer.data[0].shape[1] if len(layer.data) else layer.ndim
    mover = _Mover(layer, columns, place, registration, carriers)
    steps = np.array(place.scale[-mover.spatial :]) / np.abs(mover.scale[-mover.spatial :]) * _EDGE_PX
    items = [_outline(np.asarray(v, np.float64), kind, steps) for v, kind in zip(layer.data, layer.shape_type, strict=True)]
    found, kept = yield from _carried(layer, mover, items, way, registration)
    kinds = ["path" if layer.shape_type[k] in ("line", "path") else "polygon" for k in kept]
    return found, kept, {**mover.axis_options(found[0].shape[1]), "shape_type": kinds}


def carry_tracks(
    layer: Any, place: Place, registration: Registration, carriers: Sequence[Carrier], way: Way
) -> Generator[CarryProgress, None, Carried]:
    """Tracks: ids stay; what is followed from one frame into all becomes a track of all frames."""
    data = np.asarray(layer.data, np.float64)
    mover = _Mover(layer, data.shape[1] - 1, place, registration, carriers)
    if "frame" not in mover.roles:
        raise ArgumentError(f"layer {layer.name!r}: its tracks have no time of the series; choose tracks of (time, y, x)")
    if way.source != "every" and way.target == "reference":
        raise ArgumentError(f"layer {layer.name!r}: a track needs frames, and one frame on the reference has none; use points")
    items = [data[k : k + 1, 1:] for k in range(len(data))]
    found, kept = yield from _carried(layer, mover, items, way, registration)
    tracks = np.column_stack([data[kept, 0], np.concatenate(found)])
    order = np.lexsort((tracks[:, 1 + mover.roles.index("frame")], tracks[:, 0]))
    return tracks[order], kept[order], mover.axis_options(data.shape[1] - 1)


def _carried(
    layer: Any, mover: _Mover, items: Sequence[Coordinates], way: Way, registration: Registration
) -> Generator[CarryProgress, None, tuple[list[Coordinates], NDArray[np.int64]]]:
    """Items on the other end of the way, and which one each is."""
    frames = [None if (own := mover.frames(item)) is None else int(own[0]) for item in items]
    if way.source == "every":
        if items and frames[0] is None:
            raise ArgumentError(f"layer {layer.name!r}: has no frames of its own; say which frame it belongs to")
        return (yield from _each_to_reference(mover, items, frames))
    source = mover.reference() if way.source == "reference" else way.source
    chosen = [k for k, frame in enumerate(frames) if frame in (None, source)]
    if not chosen:
        raise ArgumentError(f"layer {layer.name!r}: nothing is drawn in frame {source}; choose the frame that it belongs to")
    begin = None if way.source == "reference" else source
    if way.target == "reference":
        return [mover.out_of_frames(mover.moved(items[k], begin, None)) for k in chosen], np.array(chosen)
    found, kept = [], []
    count = len(registration.series[0])
    for frame in range(count):
        # All at once: the way between two frames is looked for once.
        moved = mover.moved(np.concatenate([items[k] for k in chosen]), begin, frame)
        ends = np.cumsum([len(items[k]) for k in chosen])[:-1]
        found += [mover.in_frame(part, frame) for part in np.split(moved, ends)]
        kept += chosen
        yield CarryProgress((frame + 1) / count)
    return found, np.array(kept)


def _each_to_reference(
    mover: _Mover, items: Sequence[Coordinates], frames: Sequence[int | None]
) -> Generator[CarryProgress, None, tuple[list[Coordinates], NDArray[np.int64]]]:
    found: list[Coordinates] = list(items)
    present = sorted({frame for frame in frames if frame is not None})
    for done, frame in enumerate(present, start=1):
        own = [k for k, other in enumerate(frames) if other == frame]
        moved = mover.moved(np.concatenate([items[k] for k in own]), frame, None)
        for k, part in zip(own, np.split(moved, np.cumsum([len(items[k]) for k in own])[:-1]), strict=True):
            found[k] = part
        yield CarryProgress(done / len(present))
    return found, np.arange(len(items))


def _outline(vertices: Coordinates, kind: str, steps: NDArray[np.float64]) -> Coordinates:
    """Vertices so near to one another that what they outline may bend."""
    spatial = len(steps)
    if kind == "ellipse":
        middle = vertices.mean(axis=0)
        first, second = (vertices[1] - vertices[0]) / 2, (vertices[3] - vertices[0]) / 2
        angles: NDArray[np.float64] = 2 * np.pi * np.arange(_ROUND) / _ROUND
        return np.asarray(middle + np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second)
    closed = kind in ("rectangle", "polygon")
    ends = np.roll(vertices, -1, axis=0) if closed else vertices[1:]
    pieces = []
    for start, end in zip(vertices, ends, strict=False):
        length = float(np.linalg.norm((end - start)[-spatial:] / steps))
        count = int(np.clip(np.ceil(length), 1, _MOST_PIECES))
        pieces.append(start + np.arange(count)[:, None] / count * (end - start))
    return np.concatenate(pieces if closed else [*pieces, vertices[-1:]])
