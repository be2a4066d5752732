"""What the leading axes of a layer are to a registered series, and where its pixels lie on those of the series."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers.place import Place
from r2n2.errors import ArgumentError

__all__ = ["check_upright", "frame_options", "index_along", "pixel_roles", "to_index", "vector_roles"]

_NAMES = {"frame": "frame", "time": "frame", "t": "frame", "slice": "slice"}


def check_upright(layer: Any) -> None:
    """See that a layer is neither turned nor sheared.

    Raises
    ------
    ArgumentError
        If it is.
    """
    ndim = layer.ndim
    upright = np.allclose(layer.rotate, np.eye(ndim)) and np.allclose(layer.shear, 0)
    if not (upright and np.allclose(layer.affine.affine_matrix, np.eye(ndim + 1))):
        raise ArgumentError(f"layer {layer.name!r}: is turned, sheared or has an affine; reset that first")


def pixel_roles(layer: Any, place: Place, counts: tuple[int, int], spatial: int) -> tuple[str, ...]:
    """Of every leading axis of an Image or Labels layer: "slice", "frame" or "other".

    Parameters
    ----------
    counts
        Slice positions and frames of the series.
    spatial
        Number of axes of a frame.

    Raises
    ------
    ArgumentError
        If an axis of frames or slices has another length than the series.
    """
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    lengths = data.shape[: data.ndim - spatial - (1 if getattr(layer, "rgb", False) else 0)]
    roles = [_NAMES.get(label, "other") for label in tuple(layer.axis_labels)[: len(lengths)]]
    if "frame" not in roles and "slice" not in roles:
        roles = _by_length(lengths, place, counts, spatial)
    expected = {"slice": counts[0], "frame": counts[1]}
    for axis, (role, length) in enumerate(zip(roles, lengths, strict=True)):
        if role in expected and length == 1:
            roles[axis] = "other"
        elif role in expected and length != expected[role]:
            raise ArgumentError(
                f"layer {layer.name!r}: has {length} {role}s along axis {axis}, the aligned series has {expected[role]}; choose a "
                "layer of the same series"
            )
    return tuple(roles)


def _by_length(lengths: tuple[int, ...], place: Place, counts: tuple[int, int], spatial: int) -> list[str]:
    """Where axes have no names: those of the series if their number is the same, else by how long they are."""
    own = [axis if axis in ("slice", "frame") else "other" for axis in place.axis_labels[:-spatial]]
    expected = {"slice": counts[0], "frame": counts[1]}
    if len(own) == len(lengths) and all(expected.get(role, n) in (n, 1) for role, n in zip(own, lengths, strict=True)):
        return own
    roles = ["other"] * len(lengths)
    for role, count in (("frame", counts[1]), ("slice", counts[0])):
        found = [axis for axis, length in enumerate(lengths) if length == count and roles[axis] == "other"]
        if found and count > 1:
            roles[found[0]] = role
    return roles


def vector_roles(place: Place, columns: int, spatial: int) -> tuple[str, ...]:
    """Of every leading coordinate of points: napari lays layers on one another by their last axes."""
    lead = [axis for axis in place.axis_labels[:-spatial] if axis != "channel"]
    wanted = columns - spatial
    return tuple([*["other"] * (wanted - len(lead)), *lead][-wanted:]) if wanted else ()


def to_index(layer: Any, place: Place, shape: tuple[int, ...], own: tuple[int, ...]) -> NDArray[np.float64] | None:
    """(spatial, spatial + 1) from pixels of a layer to those of the series; None where they are the same ones."""
    spatial = len(shape)
    scale, translate = np.asarray(layer.scale)[-spatial:], np.asarray(layer.translate)[-spatial:]
    theirs, offset = np.array(place.scale[-spatial:]), np.array(place.translate[-spatial:])
    steps, starts = scale / theirs, (translate - offset) / theirs
    if shape == own and np.allclose(steps, 1, atol=1e-6) and np.allclose(starts, 0, atol=1e-3):
        return None
    return np.column_stack([np.diag(steps), starts])


def index_along(layer: Any, place: Place, role: str, column: int, values: NDArray[np.floating], columns: int) -> NDArray[np.int64]:
    """Frame or slice of the series that coordinates of a layer along one of its axes point at."""
    axis = place.axis_labels.index(role)
    at = column - columns
    world = np.asarray(layer.translate)[at] + np.asarray(layer.scale)[at] * values
    return np.rint((world - place.translate[axis]) / place.scale[axis]).astype(np.int64)


def frame_options(place: Place) -> dict[str, Any]:
    """Scale, translation, unit and label of the axis of time, as of the series."""
    axis = place.axis_labels.index("frame")
    return {"scale": place.scale[axis], "translate": place.translate[axis], "units": place.units[axis], "axis_labels": "time"}
