"""Landmarks and the points layers that show them, without Qt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.models.landmarks.marks import COPIED, GUIDING, PLACED, PREDICTED, Marks
from r2n2.errors import ArgumentError

__all__ = ["LANDMARKS", "adopt", "hint_layer", "names", "new_layer", "read", "unfit", "write"]

LANDMARKS = "yellow"
DRAFTS = "orange"
GUIDES = "deepskyblue"
_COLOURS = {PLACED: LANDMARKS, PREDICTED: DRAFTS, COPIED: DRAFTS, GUIDING: GUIDES}
_GUIDE_SYMBOL = "diamond"
# Corner of a text that lies at a point -> to which side of it, (y, x), the text lies.
_SIDES = {"upper_left": (-1, 1), "lower_left": (1, 1), "upper_right": (-1, -1)}
# Distance of a rim from its centre, along y and along x, where both are the same; as a share of the size.
_RIM = 0.35


def new_layer(image: Any, marks: Marks) -> Any:
    """A points layer for landmarks of an image layer."""
    layer = _points(image, f"{image.name} landmarks", LANDMARKS, "disc")
    write(layer, marks)
    return layer


def hint_layer(image: Any, name: str, colour: str, symbol: str, anchor: str) -> Any:
    """An empty points layer that only shows: predictions, or another observer's points."""
    layer = _points(image, name, colour, symbol)
    layer.text = names(colour, layer.current_size, layer.ndim, anchor)
    layer.editable = False
    # napari makes every layer editable again when the view changes between 2D and 3D.
    layer.events.editable.connect(_stay_read_only)
    return layer


def unfit(layer: Any, image: Any) -> str:
    """Why a points layer cannot hold landmarks of an image layer, or "" if it can."""
    ndim = image.ndim
    if layer.ndim != ndim:
        return f"layer {layer.name!r} has {layer.ndim} axes, landmarks of {image.name!r} need {ndim}; make new landmarks"
    for what in ("scale", "translate"):
        mine, theirs = tuple(getattr(layer, what)), tuple(getattr(image, what))
        if not np.allclose(mine, theirs, rtol=1e-4, atol=1e-6):
            return (
                f"layer {layer.name!r} has {what} {_numbers(mine)}, {image.name!r} has {_numbers(theirs)}: its points would lie "
                "elsewhere; make new landmarks, or correct the layer"
            )
    return ""


def adopt(layer: Any, image: Any, spatial: int = 2) -> tuple[Marks, str]:
    """Take a points layer as landmarks of an image layer; the second value says what was decided, or "".

    ``spatial`` is the number of coordinates of a landmark, 3 in volumes.

    A layer without the feature ``id`` is numbered: the k-th point of every frame gets the id k, from 1.

    Raises
    ------
    ArgumentError
        If the layer does not fit; it is left as it was.
    """
    problem = unfit(layer, image)
    if problem:
        raise ArgumentError(problem)
    said = ""
    rows = np.asarray(layer.data, dtype=np.float64)
    keys = [tuple(row) for row in np.rint(rows[:, :-spatial]).astype(int).tolist()]
    ids = _ids(layer)
    if ids is None:
        seen: Counter[tuple[int, ...]] = Counter()
        ids = []
        for key in keys:
            seen[key] += 1
            ids.append(str(seen[key]))
        if ids:
            said = f"{layer.name!r} had no ids: the points of every frame were numbered from 1 in the order they were placed."
            if len(set(seen.values())) > 1:
                said += " Frames hold different numbers of points: check that the numbers match."
    repeated = [name for (name, _), n in Counter(zip(ids, keys, strict=True)).items() if n > 1]
    if repeated or not all(ids):
        what = f"id {repeated[0]!r} occurs twice in a frame" if repeated else "a point has an empty id"
        raise ArgumentError(f"layer {layer.name!r}: {what}; correct its feature 'id', or make new landmarks")
    marks = Marks(rows, tuple(ids), _drafts(layer), spatial)
    layer.axis_labels, layer.units = image.axis_labels, tuple(str(unit) for unit in image.units)
    write(layer, marks)
    return marks, said


def read(layer: Any) -> tuple[NDArray[np.float64], tuple[str, ...], tuple[str, ...]]:
    """Rows, ids and drafts as the layer has them now; an id may be empty or occur twice after an edit by hand."""
    return np.array(layer.data, dtype=np.float64), tuple(_ids(layer) or [""] * len(layer.data)), _drafts(layer)


def write(layer: Any, marks: Marks) -> None:
    """Show marks; what is selected stays selected while the rows stay the same."""
    chosen = {k for k in layer.selected_data if k < len(marks)} if len(layer.data) == len(marks) else set()
    if len(layer.data) != len(marks):
        layer.selected_data = set()
    if not np.array_equal(layer.data, marks.rows) or layer.data.dtype != np.float64:
        layer.data = marks.rows.copy()
    features = layer.features.copy()
    features["id"] = np.array(marks.ids, dtype=object)
    for draft in (PREDICTED, COPIED, GUIDING):
        features[draft] = np.array([d == draft for d in marks.drafts], dtype=bool)
    layer.features = features
    # Without it a new point would show the id of the last one for a moment.
    layer.feature_defaults = {"id": "", PREDICTED: False, COPIED: False, GUIDING: False}
    # Before the colours of the points, as it would change those of the selected ones.
    layer.current_border_color = LANDMARKS
    if len(marks) and (any(marks.drafts) or len(np.unique(layer.border_color, axis=0)) > 1):
        layer.border_color = [_COLOURS[draft] for draft in marks.drafts]
    symbols = [_GUIDE_SYMBOL if draft == GUIDING else "disc" for draft in marks.drafts]
    if _GUIDE_SYMBOL in symbols or _GUIDE_SYMBOL in [str(symbol) for symbol in layer.symbol]:
        layer.current_symbol = "disc"
        layer.symbol = symbols
    if type(layer.text.string).__name__ == "ConstantStringEncoding":  # a layer from elsewhere, without text
        layer.text = names(LANDMARKS, layer.current_size, layer.ndim)
    if chosen != set(layer.selected_data):
        layer.selected_data = chosen


def names(colour: str, size: float, ndim: int, anchor: str = "upper_left") -> dict[str, Any]:
    """How napari writes the ids of points of a size: beside the rim, not across it."""
    away = [0.0] * (ndim - 2) + [_RIM * float(size) * side for side in _SIDES[anchor]]
    return {"string": "{id}", "anchor": anchor, "translation": away, "color": colour, "size": 8}


def _points(image: Any, name: str, colour: str, symbol: str) -> Any:
    from napari.layers import Points

    features: dict[str, Any] = {"id": np.empty(0, object)}
    # A 40th of the frame: large enough to be grabbed, small enough to see what lies below; the disc is hollow.
    size = max(2.5, max(image.data.shape[-3:-1] if image.rgb else image.data.shape[-2:]) / 40)
    return Points(
        np.zeros((0, image.ndim)),
        name=name,
        features=features,
        feature_defaults={"id": ""},
        text=names(colour, size, image.ndim),
        size=size,
        symbol=symbol,
        face_color="transparent",
        border_color=colour,
        border_width=0.15,
        axis_labels=tuple(image.axis_labels),
        units=tuple(str(unit) for unit in image.units),
        scale=tuple(image.scale),
        translate=tuple(image.translate),
    )


def _stay_read_only(event: Any) -> None:
    if event.source.editable:
        event.source.editable = False


def _ids(layer: Any) -> list[str] | None:
    if "id" not in layer.features.columns:
        return None
    return ["" if name is None or name != name else _name(name) for name in layer.features["id"].tolist()]


def _name(value: Any) -> str:
    # Ids that went through a table of numbers come back as 3.0.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _drafts(layer: Any) -> tuple[str, ...]:
    features = layer.features
    drafts = [PLACED] * len(layer.data)
    for draft in (COPIED, PREDICTED, GUIDING):
        flags = features[draft].tolist() if draft in features.columns else []
        # A gap of a features table is None or NaN.
        drafts = [draft if k < len(flags) and flags[k] is True else kept for k, kept in enumerate(drafts)]
    return tuple(drafts)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
