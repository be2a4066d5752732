"""Reads stacks of DICOM slice positions as series of volumes, one volume in memory at a time where each has files of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io.dicom.decode import decode_frames
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.group import FrameGroup
from r2n2.io.dicom.stack_geometry import height_mm, place_stack
from r2n2.io.dicom.stacks import Moments, find_moments
from r2n2.io.dicom.values import shown
from r2n2.io.placement import Placement
from r2n2.io.volume_choice import choose_reading
from r2n2.series import ImageSeries

__all__ = ["VolumePlan", "plan_volume", "read_volume", "stack_notes"]

_HELD_BYTES = 2**28
"""Volumes that take no more than this together stay decoded."""


@dataclass(frozen=True)
class VolumePlan:
    """How a stack of slice positions is read, from its headers alone.

    Parameters
    ----------
    moments, placement
        Of the volumes; None where it is read slice by slice.
    notes
        Why it is read so, and what was noticed of the stack.
    """

    stack: tuple[FrameGroup, ...]
    notes: tuple[str, ...]
    moments: Moments | None = None
    placement: Placement | None = None

    @property
    def grid(self) -> Grid:
        """Of every volume."""
        assert self.placement is not None
        shape = (len(self.stack), *self.stack[0].frames[0].shape)
        return Grid(shape, self.placement.spacing, self.placement.origin, self.placement.direction)


def plan_volume(
    stack: tuple[FrameGroup, ...], asked: bool | None, spacing: tuple[float, ...] | None, *, drop_damaged: bool = False
) -> VolumePlan:
    """Whether a stack is read as volumes, and which.

    Parameters
    ----------
    stack
        Slice positions that ``find_stacks`` gave.
    asked
        True for volumes, False for slices, None for what ``choose_reading`` takes.
    spacing
        (y, x) or (z, y, x) in mm, in place of that of the headers; the distance of the slices is that of their positions.
    drop_damaged
        Leave out volumes that lack slices.

    Raises
    ------
    ReadError
        If volumes are asked for and the stack is none: slices missing, uneven or shifted, or frames that cannot be told apart.
    """
    if len(stack) == 1:
        told = "one slice position: read as a 2D series, though --volumes asks for volumes"
        return VolumePlan(stack, (told,) if asked else ())
    # Orientations that differ by rounding have put the slices in another order.
    stack = tuple(sorted(stack, key=lambda group: height_mm(group.frames[0], stack[0].frames[0])))
    known = spacing[-2:] if spacing is not None else stack[0].frames[0].spacing
    pixel = (1.0, 1.0) if known is None else (known[0], known[1])
    distance = _distance(stack)
    choice = choose_reading(asked, len(stack), None if distance is None or known is None else (distance, *pixel))
    if not choice.volume:
        return VolumePlan(stack, (choice.note,) if choice.note else ())
    try:
        placement, notes = place_stack([group.frames[0] for group in stack], pixel)
        moments = find_moments(stack, drop_incomplete=drop_damaged)
    except ReadError as error:
        if asked:
            raise
        return VolumePlan(stack, (f"read slice by slice, as it makes no volume ({error})",))
    if spacing is not None and len(spacing) == 3 and not math.isclose(spacing[0], placement.spacing[0], rel_tol=1e-3):
        notes += (
            f"--spacing gives slices {spacing[0]:g} mm apart: by their positions they lie {placement.spacing[0]:.6g} mm apart",
        )
        placement = replace(placement, spacing=(spacing[0], *pixel))
    return VolumePlan(stack, (choice.note, *notes, *moments.notes), moments, placement)


def _distance(stack: Sequence[FrameGroup]) -> float | None:
    """Of the first and the last slice position, by the number of steps between them; None where positions are not known."""
    first, last = stack[0].frames[0].position_mm, stack[-1].frames[0].position_mm
    return None if first is None or last is None else math.dist(first, last) / (len(stack) - 1)


@dataclass(frozen=True, eq=False)
class _Volumes:
    """Frames (T, C, Z, Y, X), decoded when asked for."""

    headers: tuple[tuple[FrameHeader, ...], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    max_bytes: int
    held: tuple[NDArray[Any], ...] = ()

    def __getitem__(self, index: int) -> NDArray[Any]:
        volume = self.held[index] if self.held else _decoded(self.headers[index], self.max_bytes)[0]
        return np.asarray(volume, dtype=self.dtype)


def _decoded(headers: Sequence[FrameHeader], max_bytes: int) -> tuple[NDArray[Any], np.dtype[Any]]:
    """One volume (C, Z, Y, X) and the type of its stored values."""
    decoded = decode_frames(headers, drop_damaged=False, max_bytes=max_bytes)
    return np.moveaxis(decoded.values, 1, 0), decoded.stored_dtype


def read_volume(
    path: Path, plan: VolumePlan, spacing: tuple[float, ...] | None, notes: Sequence[str], *, drop_damaged: bool, max_bytes: int
) -> ImageSeries:
    """The series of a stack that is read as volumes, every slice decoded once and so checked.

    Parameters
    ----------
    notes
        What is known of the whole folder.

    Raises
    ------
    ReadError
        If a slice is damaged, or the stack is no series.
    ResourceError
        If one volume, or all of them where they share a file, need more than ``max_bytes``.
    """
    assert plan.moments is not None
    stack, first = plan.stack, plan.stack[0].frames[0]
    refusal = next((group.refusal for group in stack if group.refusal), "")
    if refusal:
        raise ReadError(f"{first.path.parent}: series {stack[0].series_key}: {refusal}")
    if spacing is None and first.spacing_problem:
        raise ReadError(f"{first.path}: {first.spacing_problem}; pass --spacing Y,X in mm")
    frames, kept, more = _checked(plan.moments, drop_damaged, max_bytes)
    times = plan.moments.times_s
    known = spacing if spacing is not None else first.spacing
    folder = path if path.is_dir() else path.parent
    told = [*notes, *plan.notes, *more, *stack_notes(stack)]
    if known is None:
        told.append("the headers hold no pixel spacing: lengths are in pixels; pass --spacing Z,Y,X in mm")
    elif spacing is not None:
        told.append(f"the spacing {spacing} mm was given; the headers say {first.spacing or 'nothing'}")
    return ImageSeries(
        frames,
        plan.grid,
        times_s=None if times is None else tuple(times[k] for k in kept),
        name=f"{shown(folder.resolve().name) or 'DICOM'}" + (f", {stack[0].label}" if stack[0].label else ""),
        modality=first.modality,
        spacing_known=known is not None,
        notes=tuple(dict.fromkeys(told)),
        source={
            "format": "dicom",
            "path": str(path),
            "series": stack[0].series_key,
            "time_tag": plan.moments.tag,
            "slices": len(stack),
            "files": list(dict.fromkeys(str(frame.path) for volume in frames.headers for frame in volume)),
        },
    )


def stack_notes(stack: Sequence[FrameGroup]) -> list[str]:
    """What was noticed of its slice positions, but for the order in time that each has on its own."""
    notes = list(dict.fromkeys(note for group in stack for note in group.notes))
    if any(frame.photometric == "MONOCHROME1" for group in stack for frame in group.frames):
        notes.append("MONOCHROME1: stored values were inverted so that bright is large")
    return [
        note for note in notes if "order of" not in note and "time is not regular" not in note and " was taken because" not in note
    ]


def _checked(moments: Moments, drop_damaged: bool, max_bytes: int) -> tuple[_Volumes, list[int], list[str]]:
    """The volumes, which of them are sound, and a note for each that was left out."""
    kept: list[int] = []
    notes: list[str] = []
    dtypes: set[np.dtype[Any]] = set()
    held: list[NDArray[Any]] = []
    shape: tuple[int, ...] = ()
    shared = len({frame.path for volume in moments.volumes for frame in volume}) < len(moments.volumes)
    size = 0
    for index, volume in enumerate(moments.volumes):
        try:
            _check_undamaged(volume)
            pixels, _ = _decoded(volume, max_bytes)
        except ReadError as error:
            if not drop_damaged:
                raise
            notes.append(f"volume {index} was left out as damaged: {error}")
            continue
        kept.append(index)
        dtypes.add(pixels.dtype)
        shape, size = pixels.shape, size + pixels.nbytes
        held.append(pixels)
        if size > _HELD_BYTES and not shared:
            held.clear()
        elif size > max_bytes:
            raise ResourceError(
                f"{volume[0].path}: its volumes lie in one file and need more than the {max_bytes / 2**20:.0f} MiB allowed; "
                "raise --max-bytes"
            )
    if not kept:
        raise ReadError(
            f"{moments.volumes[0][0].path.parent}: all {len(moments.volumes)} volumes are damaged ({notes[0]}); restore the files"
        )
    headers = tuple(moments.volumes[k] for k in kept)
    dtype = np.result_type(*dtypes)
    whole = tuple(held) if len(held) == len(kept) else ()
    return _Volumes(headers, (len(kept), *shape), dtype, max_bytes, whole), kept, notes


def _check_undamaged(volume: Sequence[FrameHeader]) -> None:
    bad = next((frame for frame in volume if frame.damage), None)
    if bad is not None:
        raise ReadError(f"{bad.path} ({bad.label}): {bad.damage}; restore the file, or pass --drop-damaged to leave its volume out")
