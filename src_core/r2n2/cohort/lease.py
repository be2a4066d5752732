"""The lock of a folder kept fresh while a task writes there, and taken away where a machine that is gone has left it.

A lock ends with its process only as far as the file system tells: left by another machine, it says nothing of whether that run is
alive (``runtime.folder_lock`` then refuses). On a cluster machines do go, so a task touches its lock, and one that was not touched
for long is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from r2n2.runtime.folder_lock import LOCK_NAME

__all__ = ["await_lock", "held_lock"]

_TOUCHED_EVERY_S = 15.0
# Network file systems show another machine's time of change up to a minute late.
_DEAD_AFTER_S = 180.0
_ASKED_EVERY_S = 1.0


def await_lock(folder: Path, witness: Path, tick: Callable[[], None] = lambda: None) -> str:
    """Wait for the run that holds the folder, if there is one, as long as it may only be ending; what was found, in words, or "".

    A worker that was lost may be alive for a moment still; one on a machine that is gone has left its lock, which is removed.

    Parameters
    ----------
    witness
        A file there that may be touched: its time is then the file server's, whatever this machine's clock says.
    tick
        Called while waiting; may raise to end it.
    """
    path = folder / LOCK_NAME
    started = time.monotonic()
    waited = ""
    while (owner := _owner(path)) is not None and time.monotonic() - started < _DEAD_AFTER_S + _TOUCHED_EVERY_S:
        pid, host = owner
        if host == socket.gethostname():
            # Not whether that process is alive: one that was killed is, to its parent, until that has asked for its end.
            if _is_free(path):
                return waited
        elif _age_s(path, witness) > _DEAD_AFTER_S:
            path.unlink(missing_ok=True)
            return f"removed the lock of process {pid} on {host}, which was not renewed for {_DEAD_AFTER_S:.0f} s"
        waited = f"waited for process {pid} on {host}, which held the folder"
        tick()
        time.sleep(_ASKED_EVERY_S)
    return waited


def _owner(path: Path) -> tuple[int, str] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _age_s(path: Path, witness: Path) -> float:
    try:
        os.utime(witness)
        return witness.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_free(path: Path) -> bool:
    """Whether the system gives the lock away, which it does once its process has ended; it is given back at once."""
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return False
    except OSError:
        return True  # whoever wants to write there is told
    lock.release()
    return True


@contextlib.contextmanager
def held_lock(folder: Path) -> Iterator[None]:
    """Inside, whatever lock this process has on the folder is kept fresh."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep_fresh, args=(folder / LOCK_NAME, ended), name="r2n2-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_fresh(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_TOUCHED_EVERY_S):
        # Not there before the first frame and after the last; of another process where this one was refused.
        if _owner(path) == (os.getpid(), socket.gethostname()):
            with contextlib.suppress(OSError):
                os.utime(path)
