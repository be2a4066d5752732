"""Landmark files: our CSV, napari's points CSV and Slicer's .mrk.json."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import existing, read_errors
from r2n2.io.landmark_checks import check_plausible
from r2n2.series import LandmarkSet

__all__ = ["EXPECTED_HEADER", "check_plausible", "read_landmarks", "write_landmarks"]

EXPECTED_HEADER = "id,frame,y_mm,x_mm or id,frame,y_px,x_px (3D: id,frame,z_mm,y_mm,x_mm)"

_LOG = logging.getLogger(__name__)
_LARGEST_FILE = 2**26
_THOUSANDS = re.compile(r"^[+-]?[1-9]\d{0,2},\d{3}$")
_SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
_LPS_SIGNS = {"LPS": (1.0, 1.0, 1.0), "1": (1.0, 1.0, 1.0), "RAS": (1.0, -1.0, -1.0), "0": (1.0, -1.0, -1.0)}
"""From a file's x, y, z, taken in array order z, y, x, to LPS."""


def read_landmarks(path: str | os.PathLike[str], grid: Grid | None = None) -> LandmarkSet:
    """Read landmarks of a series; sets of unequal size in different frames are fine, they are matched by id later.

    - CSV with a header of ours; fields separated by comma, semicolon or tab, decimal comma allowed for the last two.
      ``_mm`` columns give ``Space.WORLD``, ``_px`` columns ``Space.INDEX``.
    - napari's points CSV, ``index,axis-0,axis-1,axis-2``: frame, y, x in pixels. It has no ids: the k-th point of every frame
      gets the id k, so every frame must hold the same number of points, placed in the same order.
    - Slicer's .mrk.json: a label ``id@frame`` gives both; where no label holds an @ all points belong to frame 0.

    Parameters
    ----------
    grid
        ``series.patient_grid`` or, where that is None, ``series.grid``. Slicer's points need it: with a 3D grid of one slice
        they become pixels of that slice, with a 2D grid their LPS y and x are taken. For CSV it only checks the number of axes.

    Raises
    ------
    ReadError
        If the header is not one of these, a number is missing or ambiguous, or an id occurs twice in a frame.
    """
    place = existing(path)
    with read_errors(place, "landmark"):
        if place.stat().st_size > _LARGEST_FILE:
            raise ReadError(f"{place}: larger than {_LARGEST_FILE // 2**20} MiB, which is no landmark file; choose another")
        data = place.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ReadError(f"{place}: not UTF-8 text; save it as CSV (UTF-8) with the header {EXPECTED_HEADER}") from None
        found = _from_slicer(place, text, grid) if place.name.lower().endswith(".json") else _from_csv(place, text)
    axes = found.points.shape[1]
    if grid is not None and axes != grid.ndim and not (axes == 2 and grid.ndim == 3 and grid.shape[0] == 1):
        raise ReadError(f"{place}: landmarks have {axes} coordinates, the series has {grid.ndim} axes; give {grid.ndim} a point")
    return found


def write_landmarks(path: str | os.PathLike[str], landmarks: LandmarkSet, grid: Grid | None = None) -> Path:
    """Write a CSV with our header, or Slicer's .mrk.json in LPS where the name ends so.

    Parameters
    ----------
    grid
        Needed for .mrk.json of points in ``Space.INDEX``; ``series.patient_grid`` where there is one, so that they land in the
        patient.

    Raises
    ------
    ArgumentError
        If ``grid`` is missing or does not fit.
    ResourceError
        If the file cannot be written.
    """
    target = Path(path)
    text = _slicer_text(landmarks, grid) if target.name.lower().endswith(".json") else _csv_text(landmarks)
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return target


def _from_csv(path: Path, text: str) -> LandmarkSet:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ReadError(f"{path}: empty; expected the header {EXPECTED_HEADER} and a line for each point")
    for delimiter in (",", ";", "\t"):
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True))
        names = [name.strip().lower() for name in rows[0]]
        columns = _columns(path, names)
        if columns is None:
            continue
        if len(rows) == 1:
            raise ReadError(f"{path}: holds a header and no landmark; add a line for each point")
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(names):
                raise ReadError(
                    f"{path}: line {number} ({lines[number - 1][:80]!r}) has {len(row)} fields, the header has {len(names)}; "
                    "with decimal commas separate the fields by semicolons"
                )
        numbers = _numbers(path, rows[1:], [k for _, k in columns[1:]], delimiter)
        return _build(path, rows[1:], columns, numbers)
    raise ReadError(f"{path}: unknown header {lines[0][:80]!r}; expected {EXPECTED_HEADER}")


def _columns(path: Path, names: list[str]) -> list[tuple[str, int]] | None:
    """Role and position of every column: the id first, then the frame, then coordinates in array order; None if not ours."""
    if len(names) != len(set(names)):
        return None
    if names[:1] == ["index"] and len(names) > 1 and names[1:] == [f"axis-{k}" for k in range(len(names) - 1)]:
        if len(names) not in (4, 5):
            raise ReadError(f"{path}: napari points of {len(names) - 1} axes; save points of a layer with axes frame, (z,) y, x")
        return [("napari", 0), *((f"px{k}", k) for k in range(1, len(names)))]
    if not {"id", "frame"} <= set(names):
        return None
    sets = {
        unit: [f"{axis}_{unit}" for axis in "zyx" if f"{axis}_{unit}" in names]
        for unit in ("mm", "px")
        if {f"y_{unit}", f"x_{unit}"} <= set(names)
    }
    if len(sets) == 2:
        raise ReadError(f"{path}: holds both mm and px columns; keep one of them: {EXPECTED_HEADER}")
    if not sets:
        return None
    ((unit, axes),) = sets.items()
    return [("id", names.index("id")), ("frame", names.index("frame")), *((unit, names.index(axis)) for axis in axes)]


def _numbers(
    path: Path, rows: Sequence[Sequence[str]], columns: list[int], delimiter: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    cells = [[row[k].strip() for k in columns] for row in rows]
    flat = [cell for row in cells for cell in row]
    with_comma = [cell for cell in flat if "," in cell]
    if with_comma:
        mixed = [cell for cell in flat if "." in cell]
        if mixed or all(_THOUSANDS.match(cell) for cell in with_comma):
            shown = ", ".join(repr(cell) for cell in [with_comma[0], *mixed[:1]])
            raise ReadError(f"{path}: {shown} may be decimals or thousands; write all numbers with a decimal point")
        cells = [[cell.replace(",", ".") for cell in row] for row in cells]
    numbers = np.empty((len(rows), len(columns)))
    for number, row in enumerate(cells):
        for k, cell in enumerate(row):
            try:
                numbers[number, k] = float(cell)
            except ValueError:
                numbers[number, k] = np.nan
            if not np.isfinite(numbers[number, k]):
                raise ReadError(f"{path}: {cell!r} in point {number + 1} is not a finite number; correct it or remove the line")
    return numbers


def _build(path: Path, rows: Sequence[Sequence[str]], columns: list[tuple[str, int]], numbers: Any) -> LandmarkSet:
    frames = np.rint(numbers[:, 0])
    if np.abs(frames - numbers[:, 0]).max() > 1e-6 or frames.min() < 0:
        wrong = numbers[(np.abs(frames - numbers[:, 0]) > 1e-6) | (frames < 0), 0][0]
        raise ReadError(f"{path}: frame {wrong:g} is not a whole number of at least 0; frames are counted from 0")
    if columns[0][0] == "napari":
        ids = _ids_by_order(path, frames)
        space = Space.INDEX
    else:
        ids = [row[columns[0][1]].strip() for row in rows]
        space = Space.WORLD if columns[2][0] == "mm" else Space.INDEX
    return _landmarks(path, ids, frames, numbers[:, 1:], space)


def _ids_by_order(path: Path, frames: Any) -> list[str]:
    counts = Counter(frames.tolist())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"frame {int(frame)}: {count}" for frame, count in sorted(counts.items())[:5])
        raise ReadError(
            f"{path}: napari's file has no ids, and the frames hold different numbers of points ({listed}), which cannot be "
            f"matched; add ids: {EXPECTED_HEADER}"
        )
    seen: Counter[float] = Counter()
    ids = []
    for frame in frames.tolist():
        ids.append(str(seen[frame]))
        seen[frame] += 1
    return ids


def _landmarks(path: Path, ids: Sequence[str], frames: Any, points: Any, space: Space) -> LandmarkSet:
    if any(not name for name in ids):
        raise ReadError(f"{path}: point {[bool(n) for n in ids].index(False) + 1} has no id; give every point one")
    repeated = [key for key, count in Counter(zip(ids, np.asarray(frames).tolist(), strict=True)).items() if count > 1]
    if repeated:
        name, frame = repeated[0]
        raise ReadError(f"{path}: id {name!r} occurs twice in frame {int(frame)}; every id may occur once a frame, remove one line")
    return LandmarkSet(tuple(ids), np.asarray(frames, np.int64), np.asarray(points, np.float64), space)


def _from_slicer(path: Path, text: str, grid: Grid | None) -> LandmarkSet:
    if grid is None:
        raise ReadError(f"{path}: Slicer's points are patient positions; read them together with their image series")
    labels: list[str] = []
    rows: list[list[float]] = []
    undefined = 0
    for markup in json.loads(text)["markups"]:
        system, unit = str(markup.get("coordinateSystem", "LPS")).upper(), str(markup.get("coordinateUnits", "mm"))
        if system not in _LPS_SIGNS or unit != "mm":
            raise ReadError(f"{path}: coordinates in {system} and {unit} are not supported; save the points in LPS or RAS and mm")
        for number, point in enumerate(markup.get("controlPoints", [])):
            if point.get("positionStatus", "defined") != "defined":
                undefined += 1
                continue
            labels.append(str(point.get("label") or point.get("id") or number))
            x, y, z = (float(v) for v in point["position"])
            rows.append([sign * v for sign, v in zip(_LPS_SIGNS[system], (z, y, x), strict=True)])
    if not rows:
        raise ReadError(f"{path}: holds no point with a defined position; place points in Slicer first")
    if undefined:
        _LOG.warning("%s: %d points without a defined position were left out", path, undefined)
    points = np.array(rows)
    if not np.isfinite(points).all():
        raise ReadError(f"{path}: holds a position that is not finite; place that point again")
    ids, frames = _slicer_labels(path, labels)
    if grid.ndim == 2:
        return _landmarks(path, ids, frames, points[:, 1:], Space.WORLD)
    if grid.shape[0] > 1:
        return _landmarks(path, ids, frames, points, Space.WORLD)
    import torch

    index = grid.convert_points(torch.from_numpy(points), Space.WORLD, Space.INDEX).numpy()
    away = np.abs(index[:, 0]) * grid.spacing[0]
    if away.max() > max(grid.spacing[0], 1.0) / 2:
        _LOG.warning("%s: points lie up to %.1f mm away from the slice and were projected onto it", path, away.max())
    return _landmarks(path, ids, frames, index[:, 1:], Space.INDEX)


def _slicer_labels(path: Path, labels: list[str]) -> tuple[list[str], list[int]]:
    if not any("@" in label for label in labels):
        _LOG.warning("%s: no label names a frame (id@frame): all %d points are taken for frame 0", path, len(labels))
        return labels, [0] * len(labels)
    ids, frames = [], []
    for label in labels:
        name, _, frame = label.rpartition("@")
        if not name or not frame.isdecimal():
            raise ReadError(f"{path}: the label {label!r} is not id@frame with a frame counted from 0; rename the point in Slicer")
        ids.append(name)
        frames.append(int(frame))
    return ids, frames


def _csv_text(landmarks: LandmarkSet) -> str:
    unit = "mm" if landmarks.space is Space.WORLD else "px"
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "frame", *(f"{axis}_{unit}" for axis in "zyx"[-landmarks.points.shape[1] :])])
    for name, frame, point in zip(landmarks.ids, landmarks.frames.tolist(), landmarks.points.tolist(), strict=True):
        writer.writerow([name, frame, *map(repr, point)])
    return buffer.getvalue()


def _slicer_text(landmarks: LandmarkSet, grid: Grid | None) -> str:
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
    return json.dumps({"@schema": _SLICER_SCHEMA, "markups": [markup]}, indent=1, ensure_ascii=False)
