"""Files and folders that appear under their final name only when they are whole.

Temporaries lie beside the target, so that the last step is a rename within one file system. Their names say which machine and
process made them, so that ``clean_stale`` removes only what a killed run of ours left behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r2n2.errors import ArgumentError, R2N2Error, ResourceError

__all__ = ["atomic_folder", "atomic_write", "check_output_name", "check_writable", "clean_stale", "resource_errors"]

_PREFIX = ".r2n2-tmp"
_ASIDE = ".r2n2-earlier"
_PATTERN = re.compile(r"^\.r2n2-tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789¹²³")}
_LONGEST_NAME_BYTES = 255
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path of the same suffix; on success it replaces ``path``, on any error it is removed.

    The file is flushed to disk before it is renamed and its folder after, so that a crash leaves the old or the new file.

    Raises
    ------
    ArgumentError
        If the name cannot be used on every system.
    ResourceError
        If the disk is full, the folder is missing or read-only; an older file of that name stays as it was.
    """
    target = Path(path)
    check_output_name(target.name)
    temporary = _temporary_beside(target)
    try:
        with _under_its_name(temporary, target), resource_errors(target):
            yield temporary
            _flush_file(temporary)
            os.replace(temporary, target)
            _flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new temporary folder; on success it takes the place of ``path``, on any error it is removed.

    An older folder of that name stays, or comes back, whatever goes wrong.

    Raises
    ------
    ArgumentError
        If the name cannot be used on every system.
    ResourceError
        If the disk is full, the parent folder is missing or read-only.
    """
    target = Path(path)
    check_output_name(target.name)
    temporary = _temporary_beside(target)
    try:
        with _under_its_name(temporary, target), resource_errors(target):
            temporary.mkdir()
            yield temporary
            for entry in temporary.rglob("*"):
                _flush_folder(entry) if entry.is_dir() else _flush_file(entry)
            _flush_folder(temporary)
            _put_in_place(temporary, target)
            _flush_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    """A folder cannot replace one that is not empty: the old one steps aside, and steps back where the new one cannot follow."""
    if not target.exists():
        os.replace(temporary, target)
        return
    # Not a name that is ever cleaned up: a process killed in between leaves the old folder to be found.
    aside = target.parent / f"{_ASIDE}-{secrets.token_hex(4)}"
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except BaseException as error:
        try:
            os.replace(aside, target)
        except OSError:
            raise ResourceError(
                f"{target}: not replaced ({error}); what was there before lies in {aside.name} beside it, rename it back"
            ) from error
        raise
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


@contextmanager
def _under_its_name(temporary: Path, target: Path) -> Iterator[None]:
    """Errors of the libraries that write name the file they were given, which nobody else knows."""
    try:
        yield
    except Exception as error:
        if temporary.name not in str(error):
            raise
        reason = " ".join(str(error).replace(str(temporary), str(target)).replace(temporary.name, target.name).split())
        if isinstance(error, R2N2Error):
            raise type(error)(reason) from error
        raise ResourceError(
            f"{target}: not written ({reason}; {_free_space(target)}); choose another folder and try again"
        ) from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """See that a folder can be written or made, before anything is computed; makes nothing, and clears what killed runs left in it.

    Raises
    ------
    ArgumentError
        If a file has that name, or a part of the path that is to be made has one that some system cannot hold.
    ResourceError
        If it cannot be made or written.
    """
    place = Path(folder)
    with resource_errors(place):
        there = place
        # Not Path.exists, to which a name that is too long is an error. Absolute, as a relative path ends before its parents do.
        while not os.path.exists(there):
            check_output_name(there.name)
            there = there.absolute().parent
        if not there.is_dir():
            raise ArgumentError(f"{place}: {'is' if there == place else f'{there} is'} a file; --output needs a folder")
        clean_stale(there)
        probe = _temporary_beside(there / "probe")
        try:
            probe.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)


def clean_stale(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Remove temporaries that killed processes of this machine left in ``folder``; give their names."""
    removed = []
    for entry in sorted(Path(folder).iterdir()):
        match = _PATTERN.match(entry.name)
        if match is None or match["host"] != _host() or _is_alive(int(match["pid"])):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        removed.append(entry.name)
    return tuple(removed)


def check_output_name(name: str) -> None:
    """Refuse names that some system cannot hold.

    Raises
    ------
    ArgumentError
        For an empty, reserved (``CON``, ``NUL``, ...) or too long name, or one with a control character.
    """
    stem = name.split(".")[0].rstrip(" ").upper()
    if not name or name[-1] in " ." or stem in _RESERVED or any(ord(letter) < 32 or letter in '<>:"|?*\\/' for letter in name):
        raise ArgumentError(
            f"output name {name!r} is empty, reserved, ends in a dot or space, or holds a forbidden character; choose another name"
        )
    if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        raise ArgumentError(
            f"output name {name[:40]!r}... has {len(os.fsencode(name))} bytes; at most {_LONGEST_NAME_BYTES} are possible"
        )


@contextmanager
def resource_errors(path: Path) -> Iterator[None]:
    """Turn operating system errors met while writing ``path`` into one line with the remedy."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path}: {_explain(error, path)}") from error


def _explain(error: OSError, path: Path) -> str:
    if error.errno in _NO_SPACE:
        return f"not written, no space is left ({_free_space(path)}); free some space or choose another folder"
    if error.errno in _NO_PERMISSION:
        return f"not written, the folder is read-only or not yours ({error.strerror}); choose another folder"
    if error.errno == errno.ENOENT:
        return "not written, the folder does not exist; create it first"
    return f"not written ({error.strerror or error}; {_free_space(path)}); choose another folder and try again"


def _free_space(path: Path) -> str:
    for folder in path.absolute().parents:
        if folder.exists():
            return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    return "free space unknown"


def _temporary_beside(target: Path) -> Path:
    # Only the suffixes are kept: with the whole name a long one would grow past what the file system takes.
    suffix = "".join(target.suffixes[-2:])
    suffix = suffix if len(suffix) < 32 else target.suffix[:32]
    return target.parent / f"{_PREFIX}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
