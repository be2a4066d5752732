"""Cyclic garbage is collected in the main thread only while a worker runs.

Python collects it in whatever thread happens to allocate. What napari leaves behind when a layer is deleted holds Qt and OpenGL
objects, and freeing those in a worker's thread can crash the whole window.
"""

from __future__ import annotations

import gc

from qtpy.QtCore import QTimer

__all__ = ["MainThreadGarbage"]

_EVERY_MS = 500


class MainThreadGarbage:
    """Held once a worker; made and released in the main thread."""

    _holders = 0
    _was_enabled = True
    _timer: QTimer | None = None

    def __init__(self) -> None:
        self._held = True
        kind = MainThreadGarbage
        kind._holders += 1
        if kind._holders == 1:
            kind._was_enabled = gc.isenabled()
            gc.disable()
            kind._timer = QTimer()
            kind._timer.timeout.connect(_collect)
            kind._timer.start(_EVERY_MS)

    def release(self) -> None:
        """Let Python collect as before; a second call does nothing."""
        kind = MainThreadGarbage
        if not self._held:
            return
        self._held = False
        kind._holders -= 1
        if kind._holders == 0:
            if kind._timer is not None:
                kind._timer.stop()
                kind._timer = None
            if kind._was_enabled:
                gc.enable()


def _collect() -> None:
    """The youngest generation whose threshold is passed, and all younger ones, as Python itself would."""
    for generation, (count, threshold) in reversed(list(enumerate(zip(gc.get_count(), gc.get_threshold(), strict=True)))):
        if 0 < threshold <= count:
            gc.collect(generation)
            return
