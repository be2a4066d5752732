"""Landmarks to files and back as a person chooses them: one file, or a folder with slice_00.csv ... for several slices."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_r2n2.models.landmarks.marks import Marks
from r2n2.errors import ArgumentError, ReadError

if TYPE_CHECKING:
    from r2n2.evaluation import ErrorSummary
    from r2n2.geometry import Grid
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["FORMATS", "Observer", "compare", "read", "write"]

FORMATS = {
    "mm": "R2N2 landmarks in mm (*.csv)",
    "px": "R2N2 landmarks in pixels (*.csv)",
    "slicer": "3D Slicer markups (*.mrk.json)",
    "napari": "napari points, without ids (*.csv)",
}
"""Kinds of file that ``write`` knows."""

_WORST = 5


@dataclass(frozen=True)
class Observer:
    """How far two observers' points of the same id and frame lie apart.

    Parameters
    ----------
    summary
        Over all points of all slice positions that both have marked, in mm.
    worst
        (slice, frame, id, mm), the largest first.
    alone
        Number of points that only one of the two has marked.
    """

    summary: ErrorSummary
    worst: tuple[tuple[int, int, str, float], ...]
    alone: int


def read(path: Path, series: Sequence[ImageSeries], references: Sequence[int]) -> tuple[dict[int, LandmarkSet], tuple[str, ...]]:
    """Landmarks of every slice position in INDEX space, and a sentence for each thing that is odd about them.

    Raises
    ------
    ReadError
        If a file cannot be read or holds frames that the series does not have; then nothing is given.
    """
    from r2n2.geometry import Space
    from r2n2.io.landmarks import check_plausible, read_landmarks

    found: dict[int, LandmarkSet] = {}
    notes: list[str] = []
    for index, file in _files(path, series).items():
        place = series[index]
        marks = read_landmarks(file, _grid(place)).to_space(Space.INDEX, place.grid)
        if marks.points.shape[1] != place.grid.ndim:
            raise ReadError(
                f"{file.name}: holds positions of {marks.points.shape[1]} coordinates, this series needs {place.grid.ndim}; "
                "choose landmarks of this series"
            )
        beyond = sorted({int(frame) for frame in marks.frames if frame >= len(place)})
        if beyond:
            listed = ", ".join(map(str, beyond[:5])) + (" ..." if len(beyond) > 5 else "")
            raise ReadError(
                f"{file.name}: holds landmarks of frame {listed}, the series has frames 0 to {len(place) - 1}; "
                "frames count from 0: correct the file, or choose the series it belongs to"
            )
        found[index] = marks
        notes += marks.notes
        notes += check_plausible(marks, place, references[index])
    return found, tuple(notes)


def write(path: Path, marks: Marks, series: Sequence[ImageSeries], kind: str) -> list[Path]:
    """Write what is no draft; for several slice positions ``path`` is a folder.

    Raises
    ------
    ArgumentError
        If there is nothing to write, or the format cannot hold it.
    ResourceError
        If a file cannot be written.
    """
    from r2n2.io.landmarks import write_landmarks

    sets = marks.sets()
    if not sets:
        raise ArgumentError("there is no landmark to export: place some first (unmoved copies and predictions are not exported)")
    if len(series) > 1 and kind not in ("mm", "px"):
        raise ArgumentError("landmarks of several slice positions are exported as R2N2's own CSV, one file for each")
    if kind == "napari":
        return [_write_napari(_named(path, ".csv"), sets[0])]
    if kind == "slicer":
        return [write_landmarks(_named(path, ".mrk.json"), sets[0], _grid(series[0]))]
    sets = {index: _in_unit(one, series[index], kind) for index, one in sets.items()}
    if len(series) == 1:
        return [write_landmarks(_named(path, ".csv"), sets[0])]
    path.mkdir(parents=True, exist_ok=True)
    return [write_landmarks(path / f"slice_{index:02d}.csv", one) for index, one in sets.items()]


def compare(first: Mapping[int, LandmarkSet], second: Mapping[int, LandmarkSet], series: Sequence[ImageSeries]) -> Observer:
    """Inter-observer error of all slice positions.

    Raises
    ------
    ReadError
        If the two share no id in any frame.
    """
    from r2n2.evaluation import inter_observer_error, summarise

    both = sorted(set(first) & set(second))
    alone = sum(len(one[index]) for one in (first, second) for index in one if index not in both)
    distances: list[tuple[int, int, str, float]] = []
    problem: ReadError | None = None
    for index in both:
        try:
            error = inter_observer_error(first[index], second[index], series[index].grid)
        except ReadError as found:
            problem, alone = found, alone + len(first[index]) + len(second[index])
            continue
        distances += [(index, frame, name, distance) for (frame, name), distance in error.distances_mm.items()]
        alone += len(error.unmatched)
    if not distances:
        raise problem or ReadError("landmarks: the two observers marked different slice positions; use the same in both")
    worst = sorted(distances, key=lambda item: -item[3])[:_WORST]
    return Observer(summarise(item[3] for item in distances), tuple(worst), alone)


def _files(path: Path, series: Sequence[ImageSeries]) -> dict[int, Path]:
    if len(series) == 1:
        if path.is_dir():
            raise ReadError(f"{path.name}: is a folder, this series has one slice position; choose a file")
        return {0: path}
    if not path.is_dir():
        raise ReadError(f"{path.name}: the series has {len(series)} slice positions; choose a folder with slice_00.csv ...")
    from r2n2.io.landmarks import landmarks_of_slice

    named = {index: landmarks_of_slice(path, f"slice_{index:02d}") for index in range(len(series))}
    found = {index: file for index, file in named.items() if file is not None}
    if not found:
        raise ReadError(f"{path.name}: holds no slice_00.csv ... slice_{len(series) - 1:02d}.csv; choose the folder with them")
    return found


def _in_unit(marks: LandmarkSet, place: ImageSeries, kind: str) -> LandmarkSet:
    from r2n2.geometry import Space

    if kind == "px":
        return marks
    if not place.spacing_known:
        raise ArgumentError("the pixel size of this series is not known, so mm cannot be written; export in pixels")
    return marks.to_space(Space.WORLD, place.grid)


def _write_napari(path: Path, marks: LandmarkSet) -> Path:
    """Points in an order from which their pairs can be told: the same ids in the same order in every frame."""
    from r2n2.io.atomic import atomic_write

    frames = sorted(set(marks.frames.tolist()))
    names = {frame: set(marks.in_frame(frame).ids) for frame in frames}
    if len(set(map(frozenset, names.values()))) > 1:
        raise ArgumentError(
            "napari's points file has no ids: it can hold these landmarks only if every frame has the same ones; "
            "complete the frames, or export R2N2's CSV"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *(f"axis-{k}" for k in range(1 + marks.points.shape[1]))])
    count = 0
    for frame in frames:
        for point in marks.in_frame(frame).select(marks.in_frame(frames[0]).ids).points.tolist():
            writer.writerow([count, float(frame), *map(repr, point)])
            count += 1
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def _named(path: Path, ending: str) -> Path:
    """With the ending of its kind, which is what tells the kinds apart when the file is read."""
    if path.name.lower().endswith(ending):
        return path
    for other in (".mrk.json", ".json", ".csv"):
        if path.name.lower().endswith(other):
            return path.with_name(path.name[: -len(other)] + ending)
    return path.with_name(path.name + ending)


def _grid(place: ImageSeries) -> Grid:
    return place.patient_grid or place.grid
