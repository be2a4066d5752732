"""What a path stands for: the groups of a folder or file, or those of the series that a single frame belongs to.

Listing and reading both start here, so that they agree on what there is, what was left out, and what stops a reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import ResourceError
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.group import FrameGroup, group_frames
from r2n2.io.dicom.scan import DICOMDIR_NAME, DamagedFile, Scan, scan_dicom
from r2n2.io.dicom.stacks import find_stacks
from r2n2.io.dicom.values import shown

__all__ = ["Found", "find_groups"]

_MOST_NAMED = 5


@dataclass(frozen=True)
class Found:
    """Groups, and the files beside them.

    Parameters
    ----------
    groups
        What can be read, unless a group's own problems stand against it.
    scan
        Every file that is no part of a group, with the reason.
    notes
        What a person should know of the files beside the groups.
    lost
        Damaged files that may belong to the groups: each stops a reading unless damaged files are to be dropped.
    wanted
        The single frame's file that the groups were found by, or None: only its own damage stops a reading.
    """

    path: Path
    groups: tuple[FrameGroup, ...]
    scan: Scan
    notes: tuple[str, ...]
    lost: tuple[DamagedFile, ...]
    wanted: Path | None = None

    def lost_from(self, groups: Iterable[FrameGroup]) -> list[DamagedFile]:
        """Lost files that may belong to these groups."""
        uids = {group.series_uid for group in groups}
        return [file for file in self.lost if not file.series_uid or file.series_uid in uids]

    @property
    def nothing(self) -> str:
        """Why there is no group."""
        failures = [(file.path, file.reason) for file in self.scan.damaged] + self.scan.skipped
        if not failures:
            return f"{self.path}: holds no file; choose a folder with DICOM files"
        file, reason = failures[0]
        if self.path.is_file() and file == self.path:
            return f"{self.path}: {reason}; choose a DICOM image"
        count = f"among {len(failures)} files" if len(failures) > 1 else "in its one file"
        return f"{self.path}: no readable DICOM image {count} (the first, {shown(file.name)}: {reason}); choose another folder"


def find_groups(
    path: Path,
    *,
    contrast_series: bool,
    max_files: int,
    volumes: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Look at a file, a DICOMDIR or a folder.

    Parameters
    ----------
    volumes
        Join series that are one phase each; a single frame stands for all slice positions of its series.

    Raises
    ------
    ReadError, ResourceError
        If there is no such path, or more than ``max_files`` files.
    """
    scan = scan_dicom(path, max_files=max_files, progress=progress)
    groups = group_frames(scan.frames, contrast_series=contrast_series, phases=volumes)
    if path.is_file() and scan.frames and not scan.frames[0].multiframe and path.name.upper() != DICOMDIR_NAME:
        return _beside(path, scan, groups, contrast_series, max_files, volumes)
    uids = {group.series_uid for group in groups}
    lost = tuple(file for file in scan.damaged if not file.series_uid or file.series_uid in uids)
    others = [file for file in scan.damaged if file not in lost]
    notes = [*scan.remarks, *_named(others, "belongs to another series and is damaged"), *_skipped(scan.skipped)]
    return Found(path, groups, scan, tuple(notes), lost)


def _beside(path: Path, alone: Scan, groups: tuple[FrameGroup, ...], contrast_series: bool, max_files: int, volumes: bool) -> Found:
    """The series that a single frame belongs to among the files beside it; a broken neighbour is left out and named."""
    try:
        scan = scan_dicom(path.parent, max_files=max_files, recursive=False)
    except ResourceError as error:
        return Found(path, groups, alone, (*alone.remarks, f"the files beside it were not looked at: {error}"), ())
    wanted = alone.frames[0]
    sound = [frame for frame in scan.frames if not frame.damage or frame.path == wanted.path]
    broken = [_as_damaged(frame) for frame in scan.frames if frame.damage and frame.path != wanted.path]
    around = group_frames(sound, contrast_series=contrast_series, phases=volumes)
    own = tuple(group for group in around if any(frame.path == wanted.path for frame in group.frames))
    if volumes:
        own = tuple(group for stack in find_stacks(around) if any(item in stack for item in own) for group in stack)
    notes = [*scan.remarks, *_named([*scan.damaged, *broken], "was left out as damaged"), *_skipped(scan.skipped)]
    if own and not volumes and not own[0].time_tag and not own[0].refusal:
        notes.append(f"the other {len(own[0].frames) - 1} images of its series beside it were left out: {own[0].problems[-1]}")
        own = groups
    return Found(path, own or groups, scan, tuple(notes), (), wanted.path)


def _as_damaged(frame: FrameHeader) -> DamagedFile:
    return DamagedFile(frame.path, frame.damage, frame.series_uid)


def _named(files: list[DamagedFile], what: str) -> list[str]:
    notes = [f"{shown(file.path.name)} {what}: {file.reason}" for file in files[:_MOST_NAMED]]
    return notes + ([f"{len(files) - _MOST_NAMED} more files: the same"] if len(files) > _MOST_NAMED else [])


def _skipped(skipped: list[tuple[Path, str]]) -> list[str]:
    if not skipped:
        return []
    named = "; ".join(f"{shown(file.name)}: {reason}" for file, reason in skipped[:_MOST_NAMED])
    what = "file was" if len(skipped) == 1 else "files were"
    return [f"{len(skipped)} {what} skipped ({named}{'; ...' if len(skipped) > _MOST_NAMED else ''})"]
