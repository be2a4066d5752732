"""Landmark files: read whatever people have, and write our CSV and Slicer's .mrk.json."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import existing, read_errors
from r2n2.io.landmark_checks import check_plausible
from r2n2.io.landmark_lists import read_list
from r2n2.io.landmark_placing import on_series
from r2n2.io.landmark_points import EXPECTED_HEADER, FilePoints, frame_of_name, ids_by_order
from r2n2.io.landmark_slicer import is_fcsv, read_fcsv, read_markups, slicer_text
from r2n2.io.landmark_tables import read_table
from r2n2.io.spreadsheet import decode_text, table_text
from r2n2.series import LandmarkSet

__all__ = ["EXPECTED_HEADER", "LANDMARK_SUFFIXES", "check_plausible", "landmarks_of_slice", "read_landmarks", "write_landmarks"]

LANDMARK_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".fcsv", ".xls")
_LARGEST_FILE = 2**26
_MOST_FILES = 10_000


def read_landmarks(path: str | os.PathLike[str], grid: Grid | None = None) -> LandmarkSet:
    """Read landmarks of a series; sets of unequal size in different frames are fine, they are matched by id later.

    Text may be UTF-8, UTF-16 or Latin-1; tables are parted by comma, semicolon or tab, the last two also with decimal commas.

    - Our CSV: ``_mm`` columns give ``Space.WORLD``, ``_px`` columns ``Space.INDEX``; 2 or 3 coordinates.
    - napari's points CSV, ``index,axis-0,axis-1,axis-2``: frame, y, x in pixels.
    - ImageJ's Results with X, Y and Slice or Frame, in pixels or, if its image is calibrated, in lengths.
    - Slicer's .mrk.json and .fcsv: a label ``id@frame`` gives both.
    - elastix' and transformix' point files, DIR-Lab's voxels (x y z, counted from 1), ANTs' ``x,y,z,t,label``.
    - A folder of such files, one a frame.

    A format without ids numbers the points of every frame in their order, so every frame must hold as many. A format
    without frames takes the frame from the file's name (``frame_3.txt``, ``case1_T03.txt``); a single file without it is
    taken for frame 0. What was decided is in the set's ``notes``.

    Parameters
    ----------
    grid
        ``series.patient_grid`` or, where that is None, ``series.grid``. Patient positions need it: with a 3D grid of one slice
        they become pixels of that slice, with a 2D grid their LPS y and x are taken.

    Raises
    ------
    ReadError
        If a file is none of these, a number is missing or ambiguous, or an id occurs twice in a frame.
    """
    place = existing(path)
    with read_errors(place, "landmark"):
        if place.is_dir():
            return _from_folder(place, grid)
        found = on_series(place, _parse(place), grid)
        return _as_set(place, found if found.frames is not None else _framed(place, found))


def write_landmarks(path: str | os.PathLike[str], landmarks: LandmarkSet, grid: Grid | None = None) -> Path:
    """Write a CSV with our header, or Slicer's .mrk.json in LPS where the name ends so.

    Ids that a spreadsheet would run as a formula get an apostrophe in CSV, which ``read_landmarks`` takes away again.

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
    text = slicer_text(landmarks, grid) if target.name.lower().endswith(".json") else _csv_text(landmarks)
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return target


def landmarks_of_slice(folder: Path, name: str) -> Path | None:
    """The landmarks of one slice position: a file of any format, or a folder, called as the slice is; None where there are none."""
    found = [folder / f"{name}{suffix}" for suffix in ("", ".csv", ".mrk.json", *LANDMARK_SUFFIXES)]
    return next((path for path in found if path.exists()), None)


def _parse(path: Path) -> FilePoints:
    if path.stat().st_size > _LARGEST_FILE:
        raise ReadError(f"{path}: larger than {_LARGEST_FILE // 2**20} MiB, which is no landmark file; choose another")
    text = decode_text(path, path.read_bytes())
    if path.name.lower().endswith(".json") or text.lstrip().startswith("{"):
        return read_markups(path, text)
    if is_fcsv(path, text):
        return read_fcsv(path, text)
    found = read_list(path, text)
    return read_table(path, text) if found is None else found


def _framed(path: Path, found: FilePoints, frame: int | None = None) -> FilePoints:
    """With the frame that the file's name says, or 0."""
    named = frame_of_name(path, percent=found.percent) if frame is None else frame
    notes = f"frame {named} by the name of the file" if named is not None else ""
    if not notes:
        notes = (
            f"no frame is named: all {len(found.points)} points are taken for frame 0 "
            "(a label id@frame, a column frame, or a name such as frame_3 says another)"
        )
    elif found.percent and frame is None and frame_of_name(path) != named:
        notes += f": DIR-Lab names phases in percent, so T{frame_of_name(path):02d} is frame {named}"
    numbers = np.full(len(found.points), named or 0, dtype=np.int64)
    return replace(found, frames=numbers).with_note(notes)


def _as_set(path: Path, found: FilePoints) -> LandmarkSet:
    assert found.frames is not None
    ids = ids_by_order(path, found.frames) if found.ids is None else found.ids
    for number, name in enumerate(ids, start=1):
        if not name:
            raise ReadError(f"{path}: point {number} has no id; give every point one")
    repeated = [key for key, count in Counter(zip(ids, found.frames.tolist(), strict=True)).items() if count > 1]
    if repeated:
        name, frame = repeated[0]
        raise ReadError(f"{path}: id {name!r} occurs twice in frame {frame}; every id may occur once a frame, remove one line")
    notes = tuple(dict.fromkeys(f"{path.name}: {note}" for note in found.notes))
    return LandmarkSet(ids, found.frames, found.points, found.space, notes)


def _from_folder(folder: Path, grid: Grid | None) -> LandmarkSet:
    """One file a frame, or files that say their frames themselves."""
    files = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in LANDMARK_SUFFIXES and entry.name[0] != ".")
    if not files or len(files) > _MOST_FILES:
        endings = ", ".join(LANDMARK_SUFFIXES)
        raise ReadError(
            f"{folder}: expected 1 to {_MOST_FILES} landmark files ({endings}), got {len(files)}; choose another folder"
        )
    parts = [on_series(file, _parse(file), grid) for file in files]
    bare = [file for file, part in zip(files, parts, strict=True) if part.frames is None]
    frames = _frames_of_names(folder, bare, percent=any(part.percent for part in parts))
    placed = [_framed(file, part, frames[file]) if part.frames is None else part for file, part in zip(files, parts, strict=True)]
    spaces = {(part.space, part.points.shape[1], part.ids is None) for part in placed}
    if len(spaces) > 1:
        raise ReadError(f"{folder}: holds files in pixels and in mm, or with and without ids; write all of them in one format")
    first = placed[0]
    ids = None if first.ids is None else tuple(name for part in placed for name in part.ids or ())
    joined = FilePoints(
        np.concatenate([part.points for part in placed]),
        first.space,
        ids,
        np.concatenate([part.frames for part in placed if part.frames is not None]),
        notes=(*dict.fromkeys(note for part in placed for note in part.notes if not note.startswith("frame ")), _listing(frames)),
    )
    return _as_set(folder, joined)


def _listing(frames: dict[Path, int]) -> str:
    shown = [f"{file.name} is frame {frame}" for file, frame in frames.items()]
    more = f", ... ({len(shown)} files in all)" if len(shown) > 4 else ""
    return "frames by the names of the files: " + ", ".join(shown[:4]) + more if shown else "frames as the files say"


def _frames_of_names(folder: Path, files: Sequence[Path], *, percent: bool) -> dict[Path, int]:
    """Frame of every file, by the marker in its name or the one number in which the names differ.

    Raises
    ------
    ReadError
        If a name says none, or two say the same.
    """
    found = {file: frame_of_name(file, percent=percent) for file in files}
    if any(frame is None for frame in found.values()):
        numbers = [[int(number) for number in re.findall(r"\d+", file.name)] for file in files]
        columns = list(zip(*numbers, strict=True)) if len(set(map(len, numbers))) == 1 else []
        changing = [column for column in columns if len(set(column)) > 1]
        if len(changing) == 1:
            found = dict(zip(files, changing[0], strict=True))
    unnamed = [file.name for file, frame in found.items() if frame is None]
    twice = [str(frame) for frame, count in Counter(found.values()).items() if count > 1]
    if unnamed or twice:
        reason = f"{unnamed[0]} names none" if unnamed else f"frame {twice[0]} is named twice"
        raise ReadError(
            f"{folder}: the frame of each file must be clear from its name, but {reason}; call them frame_0, frame_1 ..."
        )
    return {file: frame for file, frame in found.items() if frame is not None}


def _csv_text(landmarks: LandmarkSet) -> str:
    unit = "mm" if landmarks.space is Space.WORLD else "px"
    header = ["id", "frame", *(f"{axis}_{unit}" for axis in "zyx"[-landmarks.points.shape[1] :])]
    rows = zip(landmarks.ids, landmarks.frames.tolist(), landmarks.points.tolist(), strict=True)
    return table_text(header, [[name, frame, *map(repr, point)] for name, frame, point in rows], text=("id",))
