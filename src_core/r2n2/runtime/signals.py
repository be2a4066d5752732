"""Ctrl-C and SIGTERM: the first one ends a long operation after its step, the second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "StopRequest", "stop_signals"]


class Interrupted(BaseException):
    """A person or the system asked to stop; as KeyboardInterrupt it passes every ``except Exception``."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Asked between the steps of a long operation whether to stop."""

    def __init__(self) -> None:
        self._patient = False
        self._asked: int | None = None

    @property
    def asked(self) -> bool:
        """Whether to stop, for operations that have something to save before they ``check``."""
        return self._asked is not None

    def check(self) -> None:
        """End here if asked to.

        Raises
        ------
        Interrupted
            With the exit code of the signal.
        """
        if self._asked is not None:
            raise Interrupted(self._asked)

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Inside, a first signal waits for ``check``; outside, it interrupts at once."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if self._patient and self._asked is None:
            self._asked = number
            return
        raise Interrupted(number)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM while inside; only the main thread can."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request.handle) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
