"""Lists what a DICOM file or folder holds, slice position by slice position, without decoding any pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import MissingExtraError, ReadError
from r2n2.geometry import Grid
from r2n2.io.checks import existing
from r2n2.io.dicom.codecs import choose_decoder
from r2n2.io.dicom.decode import stream_problem
from r2n2.io.dicom.find import find_groups
from r2n2.io.dicom.group import FrameGroup
from r2n2.io.dicom.stacks import find_stacks
from r2n2.io.dicom.volumes import VolumePlan, plan_volume, stack_notes
from r2n2.io.volume_choice import wants_volumes

__all__ = ["DicomGroup", "DicomListing", "DicomVolume", "list_dicom"]


@dataclass(frozen=True)
class DicomGroup:
    """One slice position of one series, as its headers describe it.

    Parameters
    ----------
    key
        What ``read_dicom(series=...)`` takes: last part of the SeriesInstanceUID and label, "/", slice index.
    series_key
        The key without the slice index: what the slices of one stack share; ``read_dicom(series=...)`` takes it, too.
    label
        What sets the frames apart from others of their series, such as "EchoTime 1.2 ms"; "" where nothing does.
    position_mm
        First pixel's centre (z, y, x), LPS; None where unknown.
    frames
        Number of frames.
    shape, spacing_mm
        (rows, columns) and their distances (y, x), None where unknown.
    time_tag
        Header value that orders the frames, "" if none does.
    time_range_s
        First and last time, None where there are no times.
    notes, problems
        What was noticed, and what keeps the group from being read as it is.
    """

    key: str
    series_key: str
    label: str
    series_uid: str
    slice_index: int
    position_mm: tuple[float, ...] | None
    frames: int
    channels: int
    shape: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    modality: str
    time_tag: str
    time_range_s: tuple[float, float] | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DicomVolume:
    """A stack of slice positions that is read as volumes, as its headers describe it."""

    key: str
    label: str
    series_uid: str
    grid: Grid
    spacing_known: bool
    frames: int
    channels: int
    modality: str
    time_range_s: tuple[float, float] | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DicomListing:
    """What a file or folder holds.

    Parameters
    ----------
    skipped
        Files that are no DICOM images, with the reason.
    damaged
        DICOM files that cannot be used, with the reason.
    notes
        What a person should know of the files that are no part of a group.
    problems
        What stops a reading of the whole path, one sentence each.
    volumes
        What is read as volumes; its slice positions are not among the groups.
    """

    path: Path
    groups: tuple[DicomGroup, ...]
    skipped: tuple[tuple[Path, str], ...]
    damaged: tuple[tuple[Path, str], ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    volumes: tuple[DicomVolume, ...] = ()


def list_dicom(
    path: Path,
    *,
    contrast_series: bool = False,
    volumes: bool | None = None,
    max_files: int = 100_000,
    progress: Callable[[int], None] | None = None,
) -> DicomListing:
    """List the slice positions of a DICOM file or folder without decoding any pixel.

    Parameters
    ----------
    path
        File, DICOMDIR or folder.
    contrast_series, volumes
        As for ``read_dicom``.
    max_files
        Most files that are looked at.
    progress
        Called now and then with the number of files looked at.

    Raises
    ------
    ReadError, ResourceError
        If there is no such path, or more than ``max_files`` files.
    """
    path = existing(path)
    stacked = wants_volumes(volumes) and (bool(volumes) or path.is_dir())
    found = find_groups(path, contrast_series=contrast_series, max_files=max_files, volumes=stacked, progress=progress)
    groups: list[DicomGroup] = []
    stacks: list[DicomVolume] = []
    for stack in find_stacks(found.groups):
        try:
            plan = plan_volume(stack, volumes, None)
        except ReadError as error:  # slices are listed, and why they make no volume
            groups += [_summary(group, (), str(error)) for group in stack]
            continue
        if plan.moments is None:
            groups += [_summary(group, plan.notes) for group in stack]
        else:
            stacks.append(_volume_summary(plan))
    damaged = tuple((file.path, file.reason) for file in found.scan.damaged)
    problems = tuple(f"{file.path}: {file.reason}" for file in found.lost) if found.groups else (found.nothing,)
    return DicomListing(path, tuple(groups), tuple(found.scan.skipped), damaged, found.notes, problems, tuple(stacks))


def _volume_summary(plan: VolumePlan) -> DicomVolume:
    assert plan.moments is not None
    stack, times = plan.stack, plan.moments.times_s
    first = stack[0].frames[0]
    problems = [group.refusal for group in stack if group.refusal]
    problems += [f"{f.path} ({f.label}): {f.damage}" for group in stack for f in group.frames if f.damage]
    return DicomVolume(
        key=stack[0].series_key,
        label=stack[0].label,
        series_uid=stack[0].series_uid,
        grid=plan.grid,
        spacing_known=first.spacing is not None,
        frames=len(plan.moments.volumes),
        channels=first.channels,
        modality=first.modality,
        time_range_s=None if times is None else (times[0], times[-1]),
        notes=tuple(dict.fromkeys([*plan.notes, *stack_notes(stack)])),
        problems=tuple(dict.fromkeys([*problems, *(text for group in stack for text in _decoder_problem(group))])),
    )


def _summary(group: FrameGroup, told: tuple[str, ...] = (), problem: str = "") -> DicomGroup:
    first = group.frames[0]
    return DicomGroup(
        key=group.key,
        series_key=group.series_key,
        label=group.label,
        series_uid=group.series_uid,
        slice_index=group.slice_index,
        position_mm=None if first.position_mm is None else first.position_mm[::-1],
        frames=len(group.frames),
        channels=first.channels,
        shape=first.shape,
        spacing_mm=first.spacing,
        modality=first.modality,
        time_tag=group.time_tag,
        time_range_s=None if group.times_s is None else (group.times_s[0], group.times_s[-1]),
        notes=(*told, *group.notes),
        problems=(*([problem] if problem else []), *group.problems, *_decoder_problem(group)),
    )


def _decoder_problem(group: FrameGroup) -> list[str]:
    """Why the pixels cannot be decoded here, as far as it shows without decoding: listing promises what reading keeps."""
    for frame in {frame.transfer_syntax: frame for frame in reversed(group.frames)}.values():
        try:
            choose_decoder(frame)
            problem = stream_problem(frame)
        except (MissingExtraError, ReadError, OSError) as error:
            return [str(error)]
        if problem:
            return [f"{frame.path} ({frame.label}): {problem}"]
    return []
