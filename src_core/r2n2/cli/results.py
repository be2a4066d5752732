"""``r2n2 evaluate``: landmark errors of a finished result, or of every slice of an acquisition."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2n2.errors import ArgumentError, ReadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from r2n2.evaluation import TRETable
    from r2n2.results.reader import RegisteredSeries

__all__ = ["evaluate"]


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Landmarks; a folder with slice_00.csv ... for several slices. Default: as registered."),
    ] = None,
    observer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A second observer's landmarks, or a folder of them as for --landmarks.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Landmarks where this mask of the reference is 0 count as outside; default: as registered."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CSV", help="Table to write; default tre_summary.csv in DIR.")
    ] = None,
    include_outside: Annotated[bool, typer.Option("--include-outside", help="Count landmarks outside the image or mask.")] = False,
) -> None:
    """Landmark errors (TRE) of a registered series, or of every slice of an acquisition."""
    from r2n2.cli.tables import print_errors, print_slices
    from r2n2.results.reader import read_result, slice_folders
    from r2n2.results.tre_table import slice_table_csv, tre_summary_csv

    if mask is not None and landmarks is None:
        raise ArgumentError("--mask: needs the landmarks themselves, not only their errors; give them as --landmarks")
    folders = slice_folders(folder)
    if folders == (folder,):
        registered = read_result(folder)
        table = _errors(registered, landmarks, mask, include_outside)
        print_errors(table, registered.length_unit)
        _write(output or folder / "tre_summary.csv", tre_summary_csv(table))
        if observer is not None:
            _compare_observers(registered, landmarks, observer)
        return
    parts = _slices(folders, landmarks, observer)
    tables, several = {}, []
    for part, own, _ in parts:
        registered = read_result(part)
        several.append(registered)
        tables[part.name] = _errors(registered, own, mask, include_outside)
    print_slices(tables, several[0].manifest.settings.method, several[0].length_unit)
    _write(output or folder / "tre_summary.csv", slice_table_csv(tables))
    for registered, (part, own, other) in zip(several, parts, strict=True):
        if other is not None:
            _compare_observers(registered, own, other, f"{part.name}: ")


def _slices(
    folders: tuple[Path, ...], landmarks: Path | None, observer: Path | None
) -> list[tuple[Path, Path | None, Path | None]]:
    """(folder, landmarks, second observer's) of every slice position that has landmarks."""
    from r2n2.io import landmarks_of_slice

    parent = folders[0].parent
    for option, path in (("--landmarks", landmarks), ("--observer", observer)):
        if path is not None and not path.is_dir():
            raise ArgumentError(f"{option} {path}: {parent} holds several slices; give a folder with {folders[0].name}.csv ...")
    parts = []
    for part in folders:
        own = None if landmarks is None else landmarks_of_slice(landmarks, part.name)
        if own is None and (landmarks is not None or not (part / "tre.csv").exists()):
            print(f"r2n2: {part.name}: no landmarks", file=sys.stderr)
            continue
        parts.append((part, own, None if observer is None else landmarks_of_slice(observer, part.name)))
    if not parts:
        raise ReadError(f"{parent}: no landmarks for any slice; give a folder with {folders[0].name}.csv ... as --landmarks")
    return parts


def _errors(registered: RegisteredSeries, landmarks: Path | None, mask: Path | None, include_outside: bool) -> TRETable:
    """Errors of given landmarks, written to tre.csv, or those written there before; what is odd about them is told."""
    from r2n2.results.reader import own_path
    from r2n2.results.tre_table import read_tre_table, status_notes

    edited = status_notes(registered.metrics)
    if landmarks is None:
        table = read_tre_table(own_path(registered.folder, registered.folder / "tre.csv"), registered.reference)
        return replace(table, include_outside=include_outside, notes=(*table.notes, *edited))
    table = _computed(registered, landmarks, mask, include_outside)
    return replace(table, notes=(*edited, *table.notes))


def _computed(registered: RegisteredSeries, landmarks: Path, mask: Path | None, include_outside: bool) -> TRETable:
    from r2n2.evaluation import target_registration_error
    from r2n2.io import check_plausible, check_usable, read_landmarks
    from r2n2.results.landmark_doubts import doubts
    from r2n2.results.landmark_radius import with_radii
    from r2n2.results.tre_table import tre_table_csv

    marks = read_landmarks(landmarks, registered.landmark_grid)
    for note in marks.notes:
        print(f"note: {note}", file=sys.stderr)
    check_usable(marks, registered.lattice, registered.reference)
    inside = _mask(registered, mask)
    place = (registered.transforms, marks, registered.reference, registered.grid)
    table = target_registration_error(*place, include_outside=include_outside, mask=inside)
    for warning in (*check_plausible(marks, registered.lattice, registered.reference), *doubts(*place, table)):
        print(f"r2n2: landmarks: {warning}", file=sys.stderr)
    table = with_radii(table, marks, registered.grid, partial(_radius, registered))
    _write(registered.folder / "tre.csv", tre_table_csv(table))
    return table


def _radius(registered: RegisteredSeries, frame: int) -> Tensor | None:
    found = registered.uncertainty(frame)
    return None if found is None else found.on(registered.grid)


def _mask(registered: RegisteredSeries, path: Path | None) -> NDArray[np.bool_] | None:
    """Where the given mask of the reference counts, or that of the run; None without any."""
    from r2n2.results.mask_files import kept_masks, read_mask

    if path is not None:
        return read_mask(registered.lattice, path, option="--mask").inside()
    kept = kept_masks(registered).fixed
    return None if kept is None else kept.inside()


def _compare_observers(registered: RegisteredSeries, first: Path | None, second: Path, name: str = "") -> None:
    from r2n2.cli.tables import print_observer
    from r2n2.evaluation import inter_observer_error
    from r2n2.io import read_landmarks

    if first is None:
        raise ArgumentError("--observer: needs the first observer's landmarks too; give them as --landmarks")
    one, other = (read_landmarks(path, registered.landmark_grid) for path in (first, second))
    print_observer(inter_observer_error(one, other, registered.grid), registered.length_unit, name)


def _write(path: Path, text: str) -> None:
    from r2n2.io import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
