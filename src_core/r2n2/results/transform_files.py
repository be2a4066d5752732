"""The files of a result that hold its compact transforms: tables to read, archives exact to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r2n2.geometry import Grid
from r2n2.io.atomic import atomic_write
from r2n2.results.sequence_file import control_points_archive, initial_table, sequence_archive, sequence_table
from r2n2.transform import BSplineField, GaussianSequence, Transform

__all__ = ["write_transforms"]


def write_transforms(folder: Path, compact: Mapping[int, Transform], grid: Grid) -> list[str]:
    """Write what describes the displacement of every frame, and give the names of the files.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    written: dict[str, bytes] = {}
    sequences = {frame: t for frame, t in compact.items() if isinstance(t, GaussianSequence)}
    splines = {frame: t for frame, t in compact.items() if isinstance(t, BSplineField)}
    if sequences or not splines:
        written["sequence.csv"] = sequence_table(sequences).encode("utf-8")
        written["sequence.npz"] = sequence_archive(sequences, grid)
    if any(sequence.linear is not None for sequence in sequences.values()):
        written["initial.csv"] = initial_table(sequences).encode("utf-8")
    if splines:
        written["control_points.npz"] = control_points_archive(splines, grid)
    for name, data in written.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(data)
    return list(written)
