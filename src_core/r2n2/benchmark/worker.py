"""What runs in a contestant's own process: make ready, then register what is sent and answer with displacements and seconds.

This module imports nothing that a contestant does not need, so that the memory of the process is the contestant's.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from r2n2.benchmark.contestant import Contestant, Registrar, Settings
from r2n2.benchmark.images import Images
from r2n2.benchmark.programs import Found
from r2n2.geometry import Grid
from r2n2.runtime.memory import peak_memory_mib

__all__ = ["Answer", "Failure", "Ready", "serve"]


@dataclass(frozen=True)
class Ready:
    """Everything is loaded; the largest resident memory so far in MiB."""

    loaded_mib: float | None


@dataclass(frozen=True, eq=False)
class Answer:
    """One round.

    Parameters
    ----------
    seconds
        Wall time from images in memory to displacements in memory, all frames together.
    results
        One a frame, in their order: what was found, or why nothing was.
    peak_mib
        Largest resident memory of the process so far in MiB.
    """

    seconds: float
    results: tuple[Found | str, ...]
    peak_mib: float | None


@dataclass(frozen=True)
class Failure:
    """The contestant could not be made ready."""

    reason: str


def serve(connection: Connection, contestant: Contestant, grid: Grid, settings: Settings, log: Path) -> None:
    """Answer until the connection is closed.

    Parameters
    ----------
    connection
        Gets one ``Ready`` or ``Failure``, then an ``Answer`` for each ``Images``.
    log
        What libraries print goes here.
    """
    # Ctrl-C reaches every process of the terminal; the one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _print_to(log)
    try:
        registrar, batch = contestant.make(grid, settings)
    except Exception as error:
        traceback.print_exc()
        connection.send(Failure(_words(error)))
        return
    connection.send(Ready(peak_memory_mib()))
    while True:
        try:
            images = connection.recv()
        except EOFError:
            return
        connection.send(_register(registrar, batch, images))


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _register(registrar: Registrar, batch: int, images: Images) -> Answer:
    results: list[Found | str] = []
    began = time.perf_counter()
    for start in range(0, len(images), batch):
        results += _attempt(registrar, images.part(slice(start, start + batch)))
    return Answer(time.perf_counter() - began, tuple(results), peak_memory_mib())


def _attempt(registrar: Registrar, images: Images) -> list[Found | str]:
    """A batch; where it fails, each frame alone, so that one cannot stop the others."""
    try:
        return [*registrar(images)]
    except Exception as error:
        traceback.print_exc()
        if len(images) == 1:
            return [_words(error)]
    return [result for k in range(len(images)) for result in _attempt(registrar, images.part(slice(k, k + 1)))]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
