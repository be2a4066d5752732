"""Landmarks of 3D Slicer: .mrk.json and .fcsv of all versions, patient positions in RAS or LPS."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.landmark_points import FilePoints, number_at, split_labels
from r2n2.series import LandmarkSet

__all__ = ["is_fcsv", "read_fcsv", "read_markups", "slicer_text"]

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
_LPS_SIGNS = {"LPS": (1.0, 1.0, 1.0), "1": (1.0, 1.0, 1.0), "RAS": (1.0, -1.0, -1.0), "0": (1.0, -1.0, -1.0)}
"""From a file's x, y, z, taken in array order z, y, x, to LPS."""
_MM_PER_UNIT = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1e3}
_FCSV = re.compile(r"#\s*(Markups fiducial file|Fiducial List file|columns\s*=|CoordinateSystem\s*=)", re.IGNORECASE)
_SETTING = re.compile(r"#\s*(CoordinateSystem|columns)\s*=\s*(.*?)\s*$", re.IGNORECASE)


def read_markups(path: Path, text: str) -> FilePoints:
    """The points of a .mrk.json.

    Raises
    ------
    ReadError
        If it is not one, or coordinates are in another system or unit.
    """
    values = json.loads(text)
    if not isinstance(values, dict) or not isinstance(values.get("markups"), list):
        raise ReadError(f"{path}: expected a markups file of Slicer with an entry 'markups', got other JSON; save it from Slicer")
    labels: list[str] = []
    rows: list[list[float]] = []
    undefined = 0
    for markup in values["markups"]:
        system, factor = str(markup.get("coordinateSystem", "LPS")).upper(), _mm_per_unit(path, markup)
        signs = _signs(path, system)
        for number, point in enumerate(markup.get("controlPoints", [])):
            if point.get("positionStatus", "defined") != "defined":
                undefined += 1
                continue
            labels.append(str(point.get("label") or point.get("id") or number))
            x, y, z = (float(v) for v in point["position"])
            rows.append([sign * factor * v for sign, v in zip(signs, (z, y, x), strict=True)])
    return _placed(path, labels, rows, undefined)


def _mm_per_unit(path: Path, markup: dict[str, Any]) -> float:
    given = markup.get("coordinateUnits", "mm")
    unit = str(given[0] if isinstance(given, list) and given else given)
    if unit not in _MM_PER_UNIT:
        raise ReadError(f"{path}: coordinates in {unit} are not supported; save the points in one of {', '.join(_MM_PER_UNIT)}")
    return _MM_PER_UNIT[unit]


def _signs(path: Path, system: str) -> tuple[float, float, float]:
    if system not in _LPS_SIGNS:
        raise ReadError(f"{path}: coordinates in {system} are not supported; save the points in LPS or RAS")
    return _LPS_SIGNS[system]


def _placed(path: Path, labels: Sequence[str], rows: Sequence[Sequence[float]], undefined: int) -> FilePoints:
    if not rows:
        raise ReadError(f"{path}: holds no point with a defined position; place points in Slicer first")
    points = np.array(rows, dtype=np.float64)
    if not np.isfinite(points).all():
        raise ReadError(f"{path}: holds a position that is not finite; place that point again")
    ids, frames = split_labels(path, labels)
    notes = (f"{undefined} points without a defined position were left out",) if undefined else ()
    return FilePoints(points, Space.WORLD, ids, frames, in_patient=True, notes=notes)


def is_fcsv(path: Path, text: str) -> bool:
    """Whether this is Slicer's older table: its comments say so, whatever the file is called."""
    return path.name.lower().endswith(".fcsv") or any(_FCSV.match(line) for line in text.splitlines()[:5])


def read_fcsv(path: Path, text: str) -> FilePoints:
    """The points of an .fcsv: version 4.x names its system LPS or RAS or 0 or 1; Slicer 3 wrote RAS without saying so.

    Raises
    ------
    ReadError
        If a line is wrong, naming it, or coordinates are in another system.
    """
    matches = (_SETTING.match(line.strip()) for line in text.splitlines())
    settings = {match[1].lower(): match[2] for match in matches if match is not None}
    columns = [name.strip().lower() for name in settings.get("columns", "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label").split(",")]
    if not {"x", "y", "z"} <= set(columns):
        raise ReadError(
            f"{path}: the line '# columns =' names no x, y and z, but {', '.join(columns)[:80]}; save it again in Slicer"
        )
    signs = _signs(path, settings.get("coordinatesystem", "RAS").upper())
    name = columns.index("label") if "label" in columns else None
    labels: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = next(csv.reader([line]))
        # Trailing fields may be missing: older versions had fewer.
        if len(cells) <= max(columns.index(axis) for axis in "xyz"):
            raise ReadError(f"{path}: line {number}: expected the columns {','.join(columns)}, got {line[:60]!r}; correct the line")
        label = cells[name].strip() if name is not None and len(cells) > name else ""
        labels.append(label or cells[0].strip())
        position = (number_at(path, cells[columns.index(axis)], number, axis) for axis in "zyx")
        rows.append([sign * value for sign, value in zip(signs, position, strict=True)])
    found = _placed(path, labels, rows, 0)
    if "coordinatesystem" in settings:
        return found
    return found.with_note("the file names no coordinate system: RAS, as older versions of Slicer wrote")


def slicer_text(landmarks: LandmarkSet, grid: Grid | None) -> str:
    """Text of a .mrk.json in LPS.

    Raises
    ------
    ArgumentError
        If the points are pixels and ``grid`` is missing or does not fit.
    """
    points = landmarks.points
    if landmarks.space is Space.INDEX:
        if grid is None:
            raise ArgumentError(
                "write_landmarks: pixel positions need the grid of their series to become patient positions; pass grid"
            )
        if grid.ndim == 3 and points.shape[1] == 2:
            points = np.concatenate([np.zeros((len(points), 1)), points], axis=1)
        if grid.ndim != points.shape[1]:
            raise ArgumentError(f"write_landmarks: points have {points.shape[1]} coordinates, the grid has {grid.ndim} axes")
        import torch

        points = grid.convert_points(torch.from_numpy(points), Space.INDEX, Space.WORLD).numpy()
    if points.shape[1] == 2:
        points = np.concatenate([np.zeros((len(points), 1)), points], axis=1)
    control = [
        {"id": str(k + 1), "label": f"{name}@{frame}", "position": point[::-1], "positionStatus": "defined"}
        for k, (name, frame, point) in enumerate(zip(landmarks.ids, landmarks.frames.tolist(), points.tolist(), strict=True))
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    return json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=1, ensure_ascii=False)
