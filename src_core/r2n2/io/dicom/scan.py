"""Looks through a folder for DICOM frames within bounds: a limited number of files, each folder once, headers only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from r2n2.errors import ReadError, ResourceError
from r2n2.io.dicom.bounded import DamagedDicomError, NotAnImageError, quiet
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.header import read_frame_headers

__all__ = ["DamagedFile", "Scan", "scan_dicom"]

DICOMDIR_NAME = "DICOMDIR"


@dataclass(frozen=True)
class DamagedFile:
    """A DICOM file that cannot be used, with its SeriesInstanceUID if that could be read."""

    path: Path
    reason: str
    series_uid: str = ""


@dataclass
class Scan:
    """What was found.

    Parameters
    ----------
    frames
        Every frame, in the order of file names.
    skipped
        Files whose absence loses nothing, with the reason.
    damaged
        Files whose absence may shorten a series.
    remarks
        One sentence each about the headers as a whole.
    """

    frames: list[FrameHeader] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[DamagedFile] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def scan_dicom(
    path: Path, *, max_files: int = 100_000, recursive: bool = True, progress: Callable[[int], None] | None = None
) -> Scan:
    """Read the headers of a file, of the files a DICOMDIR names, or of every file below a folder.

    Parameters
    ----------
    path
        File, DICOMDIR or folder.
    max_files
        Most files that are looked at.
    recursive
        Whether to go into sub-folders.
    progress
        Called now and then with the number of files looked at.

    Raises
    ------
    ReadError
        If there is no such path, or it is neither file nor folder.
    ResourceError
        If there are more than ``max_files`` files.
    """
    scan = Scan()
    with quiet() as messages:
        if path.is_dir():
            files = _walk(path, scan, recursive=recursive)
        elif not path.is_file():
            raise ReadError(f"{path}: no such file or folder; check the name")
        elif path.name.upper() == DICOMDIR_NAME:
            files = iter(_dicomdir_files(path, scan))
        else:
            files = iter([path])
        found = []
        for count, file in enumerate(files, start=1):
            if count > max_files:
                raise ResourceError(f"{path}: more than {max_files} files; choose the folder of one study, or raise max_files")
            found.append(file)
        for count, file in enumerate(sorted(found, key=str), start=1):  # comparing paths is much slower
            _read_into(scan, file)
            if progress is not None and count % 100 == 0:
                progress(count)
    if any("Invalid value for VR" in message for message in messages):
        scan.remarks.append("some header values break DICOM's rules, such as UIDs with a leading zero; they were read as they are")
    return scan


def _read_into(scan: Scan, file: Path) -> None:
    if file.name.upper() == DICOMDIR_NAME:
        scan.skipped.append((file, "index of the folder: not needed, every file is looked at"))
        return
    try:
        str(file).encode()  # what is read is named in run.json, which is UTF-8
    except UnicodeEncodeError:
        scan.damaged.append(DamagedFile(file, "its name holds bytes that are no text (UTF-8): rename it"))
        return
    try:
        scan.frames.extend(read_frame_headers(file))
    except NotAnImageError as error:
        scan.skipped.append((file, str(error)))
    except DamagedDicomError as error:
        scan.damaged.append(DamagedFile(file, str(error), error.series_uid))


def _walk(folder: Path, scan: Scan, *, recursive: bool) -> Iterator[Path]:
    """Every regular file once: loops of links end, links to folders elsewhere are not followed, those to files are.

    Some systems keep files elsewhere and link each of them, whereas a link to a folder may lead to the whole disk.
    """
    root = folder.resolve()
    pending, visited, files = [folder], set[tuple[int, int]](), set[tuple[int, int]]()
    links: list[Path] = []
    while pending:
        current = pending.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = os.scandir(current)
        except OSError as error:
            scan.skipped.append((current, f"folder cannot be read: {error.strerror}"))
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError as error:
                    scan.skipped.append((Path(entry.path), f"cannot be reached: {error.strerror}"))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if recursive and _leads_out(entry, root):
                        scan.skipped.append((Path(entry.path), "a link to a folder elsewhere: not followed, choose that folder"))
                    elif recursive:
                        pending.append(Path(entry.path))
                elif not stat.S_ISREG(status.st_mode):
                    # a pipe or a device would block for ever
                    scan.skipped.append((Path(entry.path), "not a regular file"))
                elif entry.is_symlink():
                    links.append(Path(entry.path))
                else:
                    files.add((status.st_dev, status.st_ino))
                    yield Path(entry.path)
    yield from _new_targets(links, files)


def _leads_out(entry: os.DirEntry[str], root: Path) -> bool:
    return entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root)


def _new_targets(links: list[Path], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Links to files that were not met yet, neither by name nor by another link."""
    for link in sorted(links, key=str):
        try:
            status = link.stat()
        except OSError:  # gone since it was listed
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield link


def _dicomdir_files(dicomdir: Path, scan: Scan) -> list[Path]:
    """The files that a DICOMDIR names, refusing whatever lies outside its folder."""
    from pydicom.filereader import read_partial

    from r2n2.io.dicom.bounded import BoundedFile

    try:
        with dicomdir.open("rb") as stream:
            dataset = read_partial(BoundedFile(stream, dicomdir.stat().st_size))  # type: ignore[arg-type, unused-ignore]
        named = [record.get("ReferencedFileID") for record in dataset.get("DirectoryRecordSequence") or []]
    except Exception as error:  # pydicom raises nearly everything on forged files
        raise ReadError(f"{dicomdir}: not a readable DICOMDIR ({type(error).__name__}); choose its folder instead") from None
    root = dicomdir.parent.resolve()
    files = []
    for value in named:
        if not value:
            continue
        parts = [value] if isinstance(value, str) else [str(part) for part in value]
        file = root.joinpath(*(part.replace("\\", "/") for part in parts))
        if not file.resolve().is_relative_to(root):
            scan.skipped.append((file, "named by the DICOMDIR but outside its folder: refused"))
        elif not file.is_file():
            scan.damaged.append(DamagedFile(file, "named by the DICOMDIR but missing"))
        else:
            files.append(file.resolve())
    return sorted(set(files))
