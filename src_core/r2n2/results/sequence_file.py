"""Compact transforms as files: Gaussian sequences as a table in mm and exactly, B-spline control points exactly."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number
from r2n2.transform import BSplineField, GaussianSequence

__all__ = [
    "control_points_archive",
    "initial_table",
    "read_control_points",
    "read_sequences",
    "sequence_archive",
    "sequence_table",
]

_PARTS = ("centres", "sigmas", "orientation", "amplitudes")
_ABOUT_SEQUENCES = (
    "Gaussian sequences, isotropic normalised units (0 at the frame's centre, one unit is unit_mm), array order (z,)y,x. "
    "Rows offsets[k]:offsets[k + 1] belong to frame frames[k]. displacement(x) = sum of amplitude * exp(-1/2 (x-c)' S^-1 (x-c)), "
    "S from the standard deviations sigmas along the axes turned by orientation (radians, from x towards y). "
    "It maps points of the reference into the frame (pull-back). Where there is an array linear, (frames, ndim, ndim + 1) [A | b], "
    "A x + b is added to it, the motion of the frame as a whole."
)
_ABOUT_CONTROL = (
    "Cubic B-spline control values, control[k] (ndim, *counts) of frame frames[k], isotropic normalised units, array order. "
    "The displacement maps points of the reference into the frame (pull-back)."
)


def sequence_table(sequences: Mapping[int, GaussianSequence]) -> str:
    """CSV text with a row a frame and step: positions, standard deviations and vectors in WORLD mm.

    In 2D ``angle_deg`` is the angle of axis 1 (of ``sigma1_mm``) from x towards y. In 3D three columns hold the rotation
    vector along the array axes in degrees.
    """
    ndim = next((s.grid.ndim for s in sequences.values()), 2)
    axes = "zyx"[3 - ndim :]
    turn = ["angle_deg"] if ndim == 2 else [f"r{a}_deg" for a in axes]
    header = ["frame", "step", *(f"{a}_mm" for a in axes), *(f"sigma{k + 1}_mm" for k in range(ndim)), *turn]
    rows = [
        [frame, step, *map(exact_number, row)]
        for frame in sorted(sequences)
        for step, row in enumerate(_rows_mm(sequences[frame]), start=1)
    ]
    return table_text([*header, *(f"v{a}_mm" for a in axes)], rows)


def initial_table(sequences: Mapping[int, GaussianSequence]) -> str:
    """CSV text with a row a frame that was moved as a whole: displacement(p) = M (p - c) + s, p in WORLD mm, array order.

    ``m_yx`` is the row y and the column x of M; c, in ``centre_y_mm`` and so on, is the centre of the reference frame; s is
    ``shift_y_mm`` and so on. The Gaussians of the same frame in sequence.csv are added to it.
    """
    ndim = next((s.grid.ndim for s in sequences.values()), 2)
    axes = "zyx"[3 - ndim :]
    header = ["frame", *(f"m_{a}{b}" for a in axes for b in axes), *(f"centre_{a}_mm" for a in axes)]
    rows = []
    for frame in sorted(sequences):
        sequence = sequences[frame]
        if sequence.linear is None:
            continue
        grid, linear = sequence.grid, sequence.linear.detach().cpu().double()
        direction = torch.tensor(grid.direction, dtype=torch.float64)
        matrix = direction @ linear[:, :-1] @ direction.mT
        centre = grid.convert_points(torch.zeros(1, ndim, dtype=torch.float64), Space.NORMALISED, Space.WORLD)
        shift = grid.convert_vectors(linear[:, -1][None], Space.NORMALISED, Space.WORLD)
        rows.append([frame, *map(exact_number, [*matrix.flatten().tolist(), *centre[0].tolist(), *shift[0].tolist()])])
    return table_text([*header, *(f"shift_{a}_mm" for a in axes)], rows)


def _rows_mm(sequence: GaussianSequence) -> Iterator[list[float]]:
    doubled = {part: getattr(sequence, part).detach().cpu().double() for part in _PARTS}
    exact = GaussianSequence(grid=sequence.grid, **doubled)
    turn = exact.angles_deg()[:, None] if exact.grid.ndim == 2 else torch.rad2deg(exact.orientation)
    rows = torch.cat((exact.centres_mm(), exact.sigmas_mm(), turn, exact.amplitudes_mm()), dim=1)
    yield from rows.tolist()


def sequence_archive(sequences: Mapping[int, GaussianSequence], grid: Grid) -> bytes:
    """The .npz of all sequences, bit for bit."""
    frames = sorted(sequences)
    ordered = [sequences[frame] for frame in frames]
    empty = GaussianSequence.identity(grid)
    parts = {p: torch.cat([getattr(s, p).detach().cpu() for s in ordered or [empty]]).numpy() for p in _PARTS}
    offsets = np.concatenate(([0], np.cumsum([len(s) for s in ordered], dtype=np.int64)))
    if any(s.linear is not None for s in ordered):
        none = torch.zeros(grid.ndim, grid.ndim + 1)
        parts["linear"] = torch.stack([none if s.linear is None else s.linear.detach().cpu() for s in ordered]).numpy()
    return _archive(_ABOUT_SEQUENCES, grid, frames=np.array(frames, dtype=np.int64), offsets=offsets, **parts)


def control_points_archive(fields: Mapping[int, BSplineField], grid: Grid) -> bytes:
    """The .npz of all B-spline control grids, bit for bit."""
    frames = sorted(fields)
    control = np.stack([fields[frame].control.detach().cpu().numpy() for frame in frames])
    return _archive(_ABOUT_CONTROL, grid, frames=np.array(frames, dtype=np.int64), control=control)


def _archive(about: str, grid: Grid, **arrays: NDArray[Any]) -> bytes:
    place = {name: np.array(getattr(grid, name)) for name in ("shape", "spacing", "origin", "direction")}
    data = io.BytesIO()
    named: dict[str, Any] = {"about": np.array(about), "unit_mm": np.array(grid.unit_mm), **place, **arrays}
    np.savez_compressed(data, **named)
    return data.getvalue()


def read_sequences(source: Path | bytes) -> dict[int, GaussianSequence]:
    """Frame -> sequence from a ``sequence.npz``, or from what ``sequence_archive`` gave.

    Raises
    ------
    ReadError
        If the file is damaged or something else.
    """
    arrays = _load(source, ("frames", "offsets", *_PARTS), ("linear",))
    try:
        grid = _grid(arrays)
        starts, ends = arrays["offsets"][:-1].tolist(), arrays["offsets"][1:].tolist()
        frames = arrays["frames"].tolist()
        linear = arrays.get("linear", np.zeros((len(frames), 1)))
        return {
            frame: GaussianSequence(
                grid=grid,
                linear=torch.from_numpy(part) if part.any() else None,
                **{p: torch.from_numpy(arrays[p][start:end]) for p in _PARTS},
            )
            for frame, start, end, part in zip(frames, starts, ends, linear, strict=True)
        }
    except (ValueError, TypeError) as error:
        raise ReadError(f"{_named(source)}: does not hold Gaussian sequences ({error}); register again with --overwrite") from None


def read_control_points(source: Path | bytes) -> dict[int, BSplineField]:
    """Frame -> B-spline from a ``control_points.npz``, or from what ``control_points_archive`` gave.

    Raises
    ------
    ReadError
        If the file is damaged or something else.
    """
    arrays = _load(source, ("frames", "control"))
    try:
        grid = _grid(arrays)
        pairs = zip(arrays["frames"].tolist(), arrays["control"], strict=True)
        return {frame: BSplineField(torch.from_numpy(control), grid) for frame, control in pairs}
    except (ValueError, TypeError) as error:
        raise ReadError(f"{_named(source)}: does not hold control points ({error}); register again with --overwrite") from None


def _load(source: Path | bytes, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    wanted = (*names, "shape", "spacing", "origin", "direction")
    try:
        # From memory: of a damaged file numpy would leave the handle open.
        data = source if isinstance(source, bytes) else source.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in (*wanted, *(name for name in optional if name in archive))}
    except FileNotFoundError:
        raise ReadError(f"{source!s}: no such file; is this a folder that r2n2 register wrote?") from None
    except Exception as error:  # a damaged zip raises many types
        raise ReadError(f"{_named(source)}: damaged or not written by r2n2 ({error}); register again with --overwrite") from None


def _named(source: Path | bytes) -> str:
    return "archive" if isinstance(source, bytes) else str(source)


def _grid(arrays: Mapping[str, NDArray[Any]]) -> Grid:
    direction = tuple(tuple(row) for row in arrays["direction"].tolist())
    return Grid(tuple(arrays["shape"].tolist()), tuple(arrays["spacing"].tolist()), tuple(arrays["origin"].tolist()), direction)
