"""A contestant in a process of its own, so that its memory and threads are its own and a crash of its library ends nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from r2n2.benchmark.contestant import Contestant, Settings
from r2n2.benchmark.images import Images
from r2n2.benchmark.worker import Answer, Failure, Ready, serve
from r2n2.geometry import Grid

__all__ = ["ContestantError", "ContestantProcess"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_PATIENCE_S = 5.0


class ContestantError(Exception):
    """A contestant cannot go on; the message says why."""


class ContestantProcess:
    """Started by entering it as a context, ended by leaving it.

    Parameters
    ----------
    contestant
        Who.
    grid
        Lattice of the images.
    settings
        Threads, device and weights.
    """

    def __init__(self, contestant: Contestant, grid: Grid, settings: Settings) -> None:
        self._contestant, self._grid, self._settings = contestant, grid, settings

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="r2n2-benchmark-")
        self._log = Path(self._folder.name) / "log.txt"
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        arguments = (other_end, self._contestant, self._grid, self._settings, self._log)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        # Libraries read these when they are loaded, before any of our code runs there.
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(self._settings.threads))):
            self._process.start()
        other_end.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
        self._process.join(0 if kind is not None else _PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._folder.cleanup()

    def register(self, images: Images) -> None:
        """Ask for a round.

        Raises
        ------
        ContestantError
            If the process has ended.
        """
        try:
            self._connection.send(images)
        except OSError:
            raise ContestantError(self._epitaph()) from None

    def reply(self, timeout_s: float) -> Ready | Answer | None:
        """What came, or None if nothing did within ``timeout_s``.

        Raises
        ------
        ContestantError
            If the contestant could not be made ready or its process has ended.
        """
        try:
            if not self._connection.poll(timeout_s):
                return None
            message: Ready | Answer | Failure = self._connection.recv()
        except (EOFError, OSError):
            raise ContestantError(self._epitaph()) from None
        if isinstance(message, Failure):
            raise ContestantError(message.reason)
        return message

    def _epitaph(self) -> str:
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        how = f"code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        said = self._log.read_text(encoding="utf-8", errors="replace").split("\n") if self._log.exists() else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return f"its process ended with {how}" + (f" ({last[:200]})" if last else "")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
