"""Signals of things that outlive a widget, connected for as long as the widget lives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtWidgets import QWidget

__all__ = ["connect_while_alive"]


def connect_while_alive(
    widget: QWidget, pairs: Sequence[tuple[Any, Callable[..., Any]]], *, at_end: Callable[[], Any] | None = None
) -> None:
    """Connect emitters (psygnal's or napari's) to slots until Qt destroys the widget.

    Without this a slot would be called on a widget whose Qt half is gone, for as long as anybody holds its Python half.

    Parameters
    ----------
    at_end
        Called once the widget is destroyed; it must not touch the widget.
    """
    for emitter, slot in pairs:
        emitter.connect(slot)

    def let_go() -> None:
        for emitter, slot in pairs:
            with contextlib.suppress(ValueError):
                emitter.disconnect(slot)
        if at_end is not None:
            at_end()

    widget.destroyed.connect(let_go)
