"""The log of one series, log.txt in its folder: when it was begun, by which process, what was noticed, how it ended.

It also counts attempts: a worker that was killed can report nothing, but that it began is written down.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from r2n2.io.atomic import resource_errors

__all__ = ["LOG_NAME", "SeriesLog"]

LOG_NAME = "log.txt"
_BEGUN = "begun"


class SeriesLog:
    """Appends lines to the log of a series.

    Parameters
    ----------
    folder
        Of the series; it exists.
    run
        Of which run of the command; attempts are counted in each anew.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._path = folder / LOG_NAME
        self._run = run

    def begin(self) -> int:
        """Write down that an attempt begins, and give its number in this run, from 1.

        Raises
        ------
        ResourceError
            If the log cannot be written.
        """
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        before = sum(f" {self._run} {_BEGUN} " in line for line in lines)
        self.say(f"{_BEGUN} by process {os.getpid()} on {socket.gethostname()}")
        return before + 1

    def say(self, text: str) -> None:
        """A line; raises as ``begin``."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with resource_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {self._run} {' '.join(text.split())}\n")
