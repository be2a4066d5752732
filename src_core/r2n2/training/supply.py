"""Batches of samples drawn beside the training: one that fails or hangs ends the run with the numbers of its samples."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple, Protocol

from r2n2.errors import ResourceError
from r2n2.simulation.engine import SimulatedBatch

__all__ = ["BatchSource", "Supply"]

_PATIENCE_S = 600.0


class BatchSource(Protocol):
    """Makes samples by their number, as ``PairEngine`` does."""

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        """Samples number ``first`` to ``first + count - 1`` on squares of ``size`` x ``size`` pixels."""
        ...


class _Order(NamedTuple):
    first: int
    samples: int
    size: int


class Supply:
    """The same samples as its source gives, made by a thread of their own.

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
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[SimulatedBatch | BaseException] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        """Samples number ``first`` to ``first + count - 1`` on squares of ``size`` x ``size`` pixels.

        Raises
        ------
        ResourceError
            If one cannot be made, or not in time.
        """
        if self._thread is None:
            # A thread that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="r2n2 samples", daemon=True)
            self._thread.start()
        order = _Order(first, count, size)
        self._orders.put(order)
        try:
            made = self._made.get(timeout=self._patience_s)
        except queue.Empty:
            raise ResourceError(
                f"training data: samples {first} to {first + count - 1} were not made within {self._patience_s:g} s; check the "
                f"disk and the images, then go on from the last checkpoint with --resume"
            ) from None
        if isinstance(made, BaseException):
            raise ResourceError(
                f"training data: sample {self._culprit(order)} cannot be made ({type(made).__name__}: {made}); take its image out "
                f"(data.exclude), then go on from the last checkpoint with --resume"
            ) from made
        return made

    def _work(self) -> None:
        while True:
            order = self._orders.get()
            try:
                self._made.put(self._source.batch(*order))
            except BaseException as error:
                self._made.put(error)

    def _culprit(self, order: _Order) -> str:
        """Which of the samples it is: each is made again, alone."""
        for number in range(order.first, order.first + order.samples):
            try:
                self._source.batch(number, 1, order.size)
            except BaseException:
                return str(number)
        return f"{order.first} to {order.first + order.samples - 1}"
