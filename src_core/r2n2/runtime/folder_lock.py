"""One writer a folder: a lock file that names the process, and is taken over when that process is gone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from r2n2.errors import ResourceError

__all__ = ["LOCK_NAME", "folder_lock"]

LOCK_NAME = ".r2n2.lock"
_LOG = logging.getLogger(__name__)
_QUERY_LIMITED_INFORMATION = 0x1000


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises
    ------
    ResourceError
        If another living process holds it, or it cannot be written.
    """
    path = folder / LOCK_NAME
    _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _remove_if_stale(path)
            continue
        except OSError as error:
            raise ResourceError(f"{path.parent}: cannot write there ({error.strerror}); choose another output folder") from None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(mine, file)
        return
    raise ResourceError(f"{path.parent}: another run has just taken this folder; choose another output folder")


def _remove_if_stale(path: Path) -> None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        pid, host, started = int(owner["pid"]), str(owner["host"]), owner.get("started")
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):
        raise ResourceError(f"{path}: unreadable lock; delete it if no other run writes to this folder") from None
    if host != socket.gethostname():
        raise ResourceError(f"{path.parent}: process {pid} on {host} writes there; delete {path.name} if that run is dead")
    # A number can be given again to another process, which then started at another time.
    if _alive(pid) and started == _started(pid):
        raise ResourceError(f"{path.parent}: process {pid} writes there now; wait for it or choose another output folder")
    _LOG.warning("%s: took over the lock of process %d, which is gone", path.parent, pid)
    path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        # os.kill would end the process there.
        handle = ctypes.windll.kernel32.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str | None:
    """Start time of a process in ticks since boot where the system tells (Linux), else None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
