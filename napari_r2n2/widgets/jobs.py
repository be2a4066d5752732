"""A generator of the models at work in the background: told of in the window, stopped at any yield, closed in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from enum import Enum
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Signal

from napari_r2n2.widgets.garbage import MainThreadGarbage
from r2n2.errors import R2N2Error

__all__ = ["Job"]

_TELL_S = 0.05


class _End(Enum):
    RETURNED, CANCELLED, REFUSED = range(3)


class Job(QObject):
    """One run of a generator; exactly one of ``returned``, ``cancelled``, ``refused`` and ``broken`` comes, and then ``ended``."""

    progressed = Signal(object)
    """What the generator yielded; not every yield, as telling more often would only keep the window from drawing."""
    returned = Signal(object)
    """It is over, and this is what it returned."""
    cancelled = Signal()
    """It was stopped, and what it held is let go of."""
    refused = Signal(str)
    """A problem that a person can mend."""
    broken = Signal(object)
    """An error of ours."""
    ended = Signal()
    """The thread is free."""

    def __init__(self, work: Generator[Any, None, Any], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._stopped = threading.Event()
        self._garbage = MainThreadGarbage()
        self.worker: Any = create_worker(_consume, work, self._stopped, _start_thread=False)
        self.worker.yielded.connect(self.progressed)
        self.worker.returned.connect(self._conclude)
        self.worker.errored.connect(self.broken)
        self.worker.finished.connect(self._end)

    def start(self) -> None:
        """Begin, once the signals are connected."""
        self.worker.start()

    def cancel(self) -> None:
        """Stop at the next yield; from any thread."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def release(self) -> None:
        """What is left to do when nobody waits for the end any more: stop, and let Python collect garbage as before."""
        self.cancel()
        self._garbage.release()

    def _conclude(self, outcome: tuple[_End, Any]) -> None:
        how, value = outcome
        if how is _End.RETURNED:
            self.returned.emit(value)
        elif how is _End.REFUSED:
            self.refused.emit(value)
        else:
            self.cancelled.emit()

    def _end(self) -> None:
        self._garbage.release()
        self.ended.emit()


def _consume(work: Generator[Any, None, Any], stopped: threading.Event) -> Generator[Any, None, tuple[_End, Any]]:
    """Runs in the worker's thread."""
    told_s = 0.0
    try:
        while not stopped.is_set():
            progress = next(work)
            # A frame that is ready and a note are always told of.
            if getattr(progress, "finished", ()) or getattr(progress, "notes", ()) or time.monotonic() - told_s > _TELL_S:
                yield progress
                told_s = time.monotonic()
    except StopIteration as end:
        return _End.RETURNED, end.value
    except (R2N2Error, ValueError, OSError, MemoryError) as error:
        return _End.REFUSED, str(error) or "not enough memory; crop the series or close other layers"
    finally:
        # Here, not when it is collected: what it wrote by half is taken away before anybody is told.
        work.close()
    return _End.CANCELLED, None
