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
from collections.abc import Iterator
from pathlib import Path

from r2n2.runtime.folder_lock import LOCK_NAME

__all__ = ["held_lock", "remove_dead_lock"]

_TOUCHED_EVERY_S = 15.0
# Network file systems show another machine's time of change up to a minute late.
_DEAD_AFTER_S = 180.0


def remove_dead_lock(folder: Path, witness: Path) -> bool:
    """Remove the lock of another machine that nobody keeps fresh; true if there was one.

    Parameters
    ----------
    witness
        A file there that was written just now: its time is the file server's, whatever this machine's clock says.
    """
    path = folder / LOCK_NAME
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        age_s = witness.stat().st_mtime - path.stat().st_mtime
        elsewhere = str(owner["host"]) != socket.gethostname()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    if not elsewhere or age_s < _DEAD_AFTER_S:
        return False
    path.unlink(missing_ok=True)
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
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            owner = json.loads(path.read_text(encoding="utf-8"))
            if (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname()):
                os.utime(path)
