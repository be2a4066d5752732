"""Reads the series of a DICOM file or folder: one for every kind of image, slice by slice or of volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2n2.errors import ArgumentError, ReadError
from r2n2.io.checks import DEFAULT_MAX_BYTES, check_spacing, existing
from r2n2.io.dicom.bounded import quiet
from r2n2.io.dicom.decode import DecodedFrames, decode_frames
from r2n2.io.dicom.find import find_groups
from r2n2.io.dicom.geometry import place_frame
from r2n2.io.dicom.group import FrameGroup
from r2n2.io.dicom.order import order_in_time
from r2n2.io.dicom.stacks import find_stacks
from r2n2.io.dicom.values import shown
from r2n2.io.dicom.volumes import plan_volume, read_volume
from r2n2.io.volume_choice import wants_volumes
from r2n2.series import ImageSeries

__all__ = ["read_dicom"]


def read_dicom(
    path: Path,
    *,
    series: str | None = None,
    slice_index: int | None = None,
    volumes: bool | None = None,
    spacing: tuple[float, ...] | None = None,
    contrast_series: bool = False,
    drop_damaged: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_files: int = 100_000,
    progress: Callable[[int], None] | None = None,
) -> tuple[ImageSeries, ...]:
    """Read the series of a DICOM file or folder, one for every slice position, every frame decoded and checked.

    Parameters
    ----------
    path
        A folder; a multi-frame file; a DICOMDIR; or a single-frame file, which stands for the series and slice position
        that it belongs to among the files beside it.
    series
        SeriesInstanceUID, its beginning or end, or a key of ``list_dicom``.
    slice_index
        Slice position to read (0-based).
    volumes
        True for volumes, False for slices, None for what ``choose_reading`` takes.
    spacing
        (y, x) or (z, y, x) in mm; overrides the headers.
    contrast_series
        Make one series of frames that differ in how they were made, as those of an inversion recovery or of several echoes
        do, instead of setting them apart; kinds of pixel such as magnitude and phase stay apart.
    drop_damaged
        Leave damaged frames out, with a note, instead of raising.
    max_bytes
        Most bytes that one slice position may take in memory.
    max_files
        Most files that are looked at.
    progress
        Called now and then with the number of files looked at.

    Raises
    ------
    ReadError
        If nothing can be read, a frame is damaged, or the order in time or the spacing is unusable.
    ArgumentError
        If ``series``, ``slice_index`` or ``spacing`` fits nothing.
    ResourceError
        If a limit is exceeded.
    MissingExtraError
        If no decoder for the pixels is installed.
    """
    path = existing(path)
    spacing = None if spacing is None else check_spacing(spacing, where="--spacing")
    if volumes and slice_index is not None:
        raise ArgumentError(f"{path}: --slice {slice_index} picks one slice of a volume; leave out --slice or --volumes")
    # One file stands for its slice position, unless volumes are asked for.
    stacked = slice_index is None and wants_volumes(volumes) and (bool(volumes) or path.is_dir())
    found = find_groups(path, contrast_series=contrast_series, max_files=max_files, volumes=stacked, progress=progress)
    if not found.groups:
        raise ReadError(found.nothing)
    groups = _select(found.groups, series, slice_index)
    lost = found.lost_from(groups)
    if lost and not drop_damaged:
        raise ReadError(f"{lost[0].path}: {lost[0].reason}; restore the file, or pass --drop-damaged to leave it out")
    notes = [*found.notes, *(f"{shown(file.path.name)} was left out as damaged: {file.reason}" for file in lost)]
    drop_damaged |= found.wanted is not None
    series_found: list[ImageSeries] = []
    for stack in find_stacks(groups):
        plan = plan_volume(stack, volumes if slice_index is None else False, spacing, drop_damaged=drop_damaged)
        if plan.moments is not None:
            series_found.append(read_volume(path, plan, spacing, notes, drop_damaged=drop_damaged, max_bytes=max_bytes))
            continue
        told = [*notes, *(plan.notes if slice_index is None else ())]
        series_found += [_read_group(path, group, spacing, drop_damaged, max_bytes, told) for group in stack]
    return tuple(_with(found.wanted, item) for item in series_found)


def _with(wanted: Path | None, series: ImageSeries) -> ImageSeries:
    """The series, if the file that was asked for is in it: its damaged neighbours may be left out, itself may not."""
    if wanted is None or str(wanted) in series.source["files"]:
        return series
    why = next((note for note in series.notes if note.startswith(f"{shown(wanted.name)} ")), f"{shown(wanted.name)} was left out")
    raise ReadError(f"{wanted}: {why.partition(': ')[2] or why}; restore the file, or choose another of its series")


def _select(groups: tuple[FrameGroup, ...], series: str | None, slice_index: int | None) -> tuple[FrameGroup, ...]:
    keys = ", ".join(group.key for group in groups[:30]) + (", ..." if len(groups) > 30 else "")
    if series is not None:
        chosen = tuple(g for g in groups if series in (g.key, g.series_key, g.series_uid))
        if not chosen:
            chosen = tuple(g for g in groups if g.series_uid.startswith(series) or g.series_uid.endswith(series))
        if not series or not chosen:
            raise ArgumentError(f"series: {series!r} is none of the series here; choose one of {keys}")
        if len({g.series_uid for g in chosen}) > 1:
            raise ArgumentError(f"series: {series!r} fits {len({g.series_uid for g in chosen})} series; choose one of {keys}")
        groups = chosen
    if slice_index is not None:
        groups = tuple(g for g in groups if g.slice_index == slice_index)
        if not groups:
            raise ArgumentError(f"slice: there is no slice position {slice_index}; choose one of {keys}")
    return groups


def _read_group(
    path: Path, group: FrameGroup, spacing: tuple[float, ...] | None, drop_damaged: bool, max_bytes: int, notes: list[str]
) -> ImageSeries:
    first = group.frames[0]
    if group.refusal:
        raise ReadError(f"{first.path.parent}: series {group.key}: {group.refusal}")
    if spacing is None and first.spacing_problem:
        raise ReadError(f"{first.path}: {first.spacing_problem}; pass --spacing Y,X in mm")
    if not drop_damaged and (bad := next((f for f in group.frames if f.damage), None)):
        raise ReadError(f"{bad.path} ({bad.label}): {bad.damage}; restore the file, or pass --drop-damaged to leave the frame out")
    sound = [frame for frame in group.frames if not frame.damage]
    if sound and len(sound) < len(group.frames):
        group = _reordered(group, sound)
    if not group.time_tag:
        raise ReadError(f"{first.path.parent}: slice {group.key}: {group.problems[-1]}")
    decoded = decode_frames(group.frames, drop_damaged=drop_damaged, max_bytes=max_bytes)
    group = _reordered(group, list(decoded.headers)) if decoded.dropped else group
    return _series(path, group, decoded, spacing, [*notes, *decoded.dropped])


def _reordered(group: FrameGroup, frames: list[Any]) -> FrameGroup:
    left_out = [f for f in group.frames if f not in frames]
    order = order_in_time(frames)
    notes = tuple(f"{shown(f.path.name)} ({f.label}) was left out as damaged: {f.damage}" for f in left_out if f.damage)
    return replace(group, frames=order.frames, time_tag=order.tag, times_s=order.times_s, notes=(*group.notes, *notes))


def _series(
    path: Path, group: FrameGroup, decoded: DecodedFrames, spacing: tuple[float, ...] | None, notes: list[str]
) -> ImageSeries:
    first = decoded.headers[0]
    known = first.spacing
    if spacing is not None:
        known = (spacing[-2], spacing[-1])
        notes = [*notes, f"the spacing {known} mm was given; the headers say {first.spacing or 'nothing'}"]
        if len(spacing) == 3:
            first = replace(first, thickness_mm=spacing[0])
    if known is None:
        notes = [*notes, "the headers hold no pixel spacing: lengths are in pixels; pass --spacing Y,X in mm"]
    if any(frame.photometric == "MONOCHROME1" for frame in decoded.headers):
        notes = [*notes, "MONOCHROME1: stored values were inverted so that bright is large"]
    grid, patient_grid, geometry_notes = place_frame(first, known or (1.0, 1.0))
    folder = path if path.is_dir() else path.parent
    return ImageSeries(
        frames=decoded.values,
        grid=grid,
        times_s=group.times_s,
        name=f"{shown(folder.resolve().name) or 'DICOM'} slice {group.slice_index}" + (f", {group.label}" if group.label else ""),
        modality=first.modality,
        patient_grid=patient_grid,
        spacing_known=known is not None,
        notes=tuple(dict.fromkeys([*notes, *group.notes, *geometry_notes])),
        source=_source(path, group, decoded),
    )


def _source(path: Path, group: FrameGroup, decoded: DecodedFrames) -> dict[str, Any]:
    """What a writer needs to write stored values again; UIDs only as new ones made of the old."""
    first = decoded.headers[0]
    looked_up = "PALETTE" in first.photometric
    return {
        "format": "dicom",
        "path": str(path),
        "series": group.key,
        "slice_index": group.slice_index,
        "time_tag": group.time_tag,
        "files": [str(frame.path) for frame in decoded.headers],
        "frame_in_file": [frame.index for frame in decoded.headers],
        "instance_numbers": [frame.instance for frame in decoded.headers],
        "stored_dtype": decoded.stored_dtype.name,
        "bits_stored": 8 * decoded.stored_dtype.itemsize if looked_up else max(frame.bits_stored for frame in decoded.headers),
        "rescale": [[frame.slope, frame.intercept] for frame in decoded.headers],
        "photometric": first.photometric,
        "inverted": any(frame.photometric == "MONOCHROME1" for frame in decoded.headers),
        "study_uid": _derived_uid("study", first.study_uid),
        "frame_of_reference_uid": _derived_uid("frame of reference", first.frame_of_reference_uid),
    }


def _derived_uid(what: str, uid: str) -> str:
    """A UID that is the same for every slice of a study and does not tell the old one."""
    if not uid:
        return ""
    from pydicom.uid import generate_uid

    with quiet():
        return str(generate_uid(entropy_srcs=["r2n2", what, uid]))
