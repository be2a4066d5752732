"""Landmark lists of other registration programs: elastix and transformix points, DIR-Lab's voxels. No ids, no frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.io.landmark_points import EXPECTED_HEADER, FilePoints, number_at

__all__ = ["read_list"]

_TRANSFORMIX = re.compile(r"^Point\s+(\d+)\s*;")
_OUTPUT_POINT = re.compile(r"OutputPoint\s*=\s*\[([^\]]*)\]")
Line = tuple[int, str]


def read_list(path: Path, text: str) -> FilePoints | None:
    """The points of a list, or None where the text is none.

    Raises
    ------
    ReadError
        If it is one and a line is wrong.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise ReadError(f"{path}: empty; expected the header {EXPECTED_HEADER} and a line for each point")
    if lines[0][1].lower() in ("point", "index"):
        return _elastix(path, lines)
    if _TRANSFORMIX.match(lines[0][1]):
        return _transformix(path, lines)
    if len(lines[0][1].split()) == 3 and all(_is_whole(cell) for cell in lines[0][1].split()):
        return _dirlab(path, lines)
    return None


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal()


def _rows(
    path: Path, lines: Sequence[Line], widths: tuple[int, ...], what: str
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Numbers of every line, x first as in the file, all of one length."""
    width = len(lines[0][1].split()) if lines else 0
    rows = []
    for number, line in lines:
        cells = line.split()
        if len(cells) != width or width not in widths:
            wanted = " or ".join(map(str, widths)) if width not in widths else str(width)
            raise ReadError(f"{path}: line {number}: expected {wanted} numbers, {what}, got {line[:60]!r}; correct the line")
        rows.append([number_at(path, cell, number, "xyz"[k]) for k, cell in enumerate(cells)])
    return np.array(rows, dtype=np.float64)


def _elastix(path: Path, lines: Sequence[Line]) -> FilePoints:
    kind = lines[0][1].lower()
    if len(lines) < 2 or not _is_whole(lines[1][1]):
        got = lines[1][1][:40] if len(lines) > 1 else ""
        raise ReadError(f"{path}: line 2: expected the number of points, as elastix wants it, got {got!r}; add it")
    count, found = int(lines[1][1]), lines[2:]
    if count != len(found) or count == 0:
        raise ReadError(f"{path}: line {lines[1][0]}: announces {count} points, {len(found)} follow; correct the number")
    points = _rows(path, found, (2, 3), "x y (z)")[:, ::-1]
    if kind == "index":
        return FilePoints(points, Space.INDEX, notes=("elastix's index: pixels counted from 0, x first",))
    return FilePoints(points, Space.WORLD, in_patient=points.shape[1] == 3, notes=("elastix's point: positions in mm, x first",))


def _transformix(path: Path, lines: Sequence[Line]) -> FilePoints:
    found = []
    for number, line in lines:
        match = _OUTPUT_POINT.search(line) if _TRANSFORMIX.match(line) else None
        if match is None:
            raise ReadError(
                f"{path}: line {number}: expected a line of transformix with OutputPoint, got {line[:60]!r}; correct it"
            )
        found.append((number, match[1]))
    points = _rows(path, found, (2, 3), "x y (z)")[:, ::-1]
    note = "transformix's output: the column OutputPoint, positions in mm, is taken"
    return FilePoints(points, Space.WORLD, in_patient=points.shape[1] == 3, notes=(note,))


def _dirlab(path: Path, lines: Sequence[Line]) -> FilePoints:
    points = _rows(path, lines, (3,), "x y z as whole voxels")
    for (number, line), row in zip(lines, points, strict=True):
        if (row < 1).any() or (row != np.rint(row)).any():
            raise ReadError(
                f"{path}: line {number}: expected whole voxels counted from 1, x y z, as in DIR-Lab's tables, got {line[:60]!r}; "
                f"for other numbers use the header {EXPECTED_HEADER}"
            )
    note = "three whole numbers a line are read as DIR-Lab's voxels x y z, counted from 1"
    return FilePoints(points[:, ::-1] - 1, Space.INDEX, percent=True, notes=(note,))
