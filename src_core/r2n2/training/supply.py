"""Batches of samples drawn beside the training: one that fails or hangs ends the run with the numbers of its samples."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

from r2n2.errors import ResourceError
from r2n2.simulation.engine import SimulatedBatch

__all__ = ["BatchSource", "Supply"]

_PATIENCE_S = 600.0


class BatchSource(Protocol):
    """Makes samples by their number, as ``PairEngine`` does."""

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        """Samples number ``first`` to ``first + count - 1`` on squares of ``size`` x ``size`` pixels."""
        ...


class Supply:
    """The same samples as its source gives, each batch made by a thread of its own that ends with it.

    Parameters
    ----------
    source
        Makes them.
    patience_s
        Longest time that a batch may take.
    """

    def __init__(self, source: BatchSource, *, patience_s: float = _PATIENCE_S) -> None:
        self._source = source
        self._patience_s = patience_s

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        """Samples number ``first`` to ``first + count - 1`` on squares of ``size`` x ``size`` pixels.

        Raises
        ------
        ResourceError
            If one cannot be made, or not in time.
        """
        answer: queue.SimpleQueue[SimulatedBatch | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                answer.put(self._source.batch(first, count, size))
            except BaseException as error:
                answer.put(error)

        # A thread that hangs must not keep the process from ending.
        threading.Thread(target=work, name="r2n2 samples", daemon=True).start()
        try:
            made = answer.get(timeout=self._patience_s)
        except queue.Empty:
            raise ResourceError(
                f"training data: samples {first} to {first + count - 1} were not made within {self._patience_s:g} s; check the "
                f"disk and the images, then go on from the last checkpoint with --resume"
            ) from None
        if isinstance(made, BaseException):
            raise ResourceError(
                f"training data: sample {self._culprit(first, count, size)} cannot be made ({type(made).__name__}: {made}); take "
                f"its image out (data.exclude), then go on from the last checkpoint with --resume"
            ) from made
        return made

    def _culprit(self, first: int, count: int, size: int) -> str:
        """Which of the samples it is: each is made again, alone."""
        for number in range(first, first + count):
            try:
                self._source.batch(number, 1, size)
            except BaseException:
                return str(number)
        return f"{first} to {first + count - 1}"
