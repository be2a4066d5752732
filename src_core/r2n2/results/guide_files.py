"""Guiding pairs beside a result: the file that keeps them, and which landmark errors are of frames that they guided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from r2n2.evaluation import TRETable
from r2n2.geometry import Grid
from r2n2.guides import Guides
from r2n2.io import read_landmarks, write_landmarks
from r2n2.results.reader import RegisteredSeries, own_path

__all__ = ["GUIDES_NAME", "kept_guides", "with_guides", "write_guides"]

GUIDES_NAME = "guides.csv"


def write_guides(folder: Path, guides: Guides | None) -> list[str]:
    """Keep the pairs in the folder of their result; the names of the files written."""
    if guides is None:
        return []
    write_landmarks(folder / GUIDES_NAME, guides.landmarks)
    return [GUIDES_NAME]


def kept_guides(registered: RegisteredSeries) -> Guides | None:
    """The pairs that guided a result; None where there were none.

    Raises
    ------
    ReadError
        If their file is missing or damaged.
    """
    record = registered.manifest.guides
    if record is None:
        return None
    grid: Grid = registered.grid
    path = own_path(registered.folder, registered.folder / GUIDES_NAME)
    return Guides(read_landmarks(path, grid), record.strength_mm, record.path)


def with_guides(table: TRETable, counts: Mapping[int, int], left_out: str) -> TRETable:
    """Errors that say by how many pairs their frame was guided.

    Parameters
    ----------
    counts
        Frame -> number of its pairs.
    left_out
        A sentence on landmarks that guided and so measure nothing, or "".
    """
    rows = tuple(replace(row, guides=counts.get(row.frame, 0)) for row in table.rows)
    guided = sorted({row.frame for row in rows if row.guides})
    notes = [left_out] if left_out else []
    if guided:
        frames = ", ".join(map(str, guided[:10])) + (f" ... ({len(guided)} in all)" if len(guided) > 10 else "")
        notes.append(f"Frames {frames} were guided by pairs of points (column guides): near those an error says little.")
    return replace(table, rows=rows, notes=(*table.notes, *notes))
