"""One writer a folder: the system's own lock on a file there, which ends with its process however that ends."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from r2n2.errors import ResourceError

__all__ = ["LOCK_NAME", "folder_lock"]

LOCK_NAME = ".r2n2.lock"
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock's file says who does, and goes when the folder is free again.

    Raises
    ------
    ResourceError
        If another run holds it, or it cannot be written.
    """
    path = folder / LOCK_NAME
    # The thread that ends a run need not be the one that began it.
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ResourceError(
            f"{folder}: {_who(_owner(path))} writes there now; wait for it or choose another output folder"
        ) from None
    except OSError as error:
        raise ResourceError(f"{folder}: cannot write there ({error.strerror}); choose another output folder") from None
    try:
        _take_over(path, folder)
    except BaseException:
        lock.release()
        raise
    try:
        yield
    finally:
        _free(lock, path)


def _take_over(path: Path, folder: Path) -> None:
    before = _owner(path)
    # Some file systems do not share locks between machines: a free one then says nothing of a run on another.
    if before is not None and before[1] != socket.gethostname():
        raise ResourceError(f"{folder}: {_who(before)} writes there; delete {path.name} if that run is dead")
    if before is not None and before[0] != os.getpid():
        _LOG.warning("%s: took over the lock of process %d, which is gone", folder, before[0])
    # Where it cannot be written (Windows locks the very bytes), a refusal names nobody.
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")


def _free(lock: BaseFileLock, path: Path) -> None:
    """Remove the file while it is still held where that is possible: once free, it may be another run's."""
    if os.name != "nt" and not isinstance(lock, SoftFileLock):
        path.unlink(missing_ok=True)
    lock.release()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _owner(path: Path) -> tuple[int, str] | None:
    """Process and host as the file says; None where it is empty or says nothing of the kind."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _who(owner: tuple[int, str] | None) -> str:
    if owner is None:
        return "another run"
    pid, host = owner
    return f"process {pid}" if host == socket.gethostname() else f"process {pid} on {host}"
