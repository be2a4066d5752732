"""While workers run, cyclic garbage is collected in the main thread, and only there."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from napari_r2n2.widgets.garbage import MainThreadGarbage


class _Node:
    """One that refers to itself; where it dies is told."""

    def __init__(self, died_in: list[str]) -> None:
        self.itself = self
        weakref.finalize(self, lambda: died_in.append(threading.current_thread().name))


def test_a_cycle_made_by_a_thread_dies_in_the_main_thread(qtbot: QtBot) -> None:
    held = MainThreadGarbage()
    died_in: list[str] = []
    try:
        assert not gc.isenabled()

        def allocate() -> None:
            _Node(died_in)
            # Far more objects than Python lets pass without a collection.
            assert len([[] for _ in range(100_000)]) == 100_000

        thread = threading.Thread(target=allocate, name="worker")
        thread.start()
        thread.join()
        assert not died_in
        kept: list[Any] = [[] for _ in range(10_000)]
        qtbot.waitUntil(lambda: bool(died_in), timeout=5000)
        assert died_in == ["MainThread"]
        assert kept
    finally:
        held.release()


def test_python_collects_again_when_the_last_worker_is_done(qtbot: QtBot) -> None:
    first, second = MainThreadGarbage(), MainThreadGarbage()
    first.release()
    first.release()
    assert not gc.isenabled()
    second.release()
    assert gc.isenabled()
    qtbot.wait(10)


def test_a_collector_that_was_off_stays_off(monkeypatch: pytest.MonkeyPatch, qtbot: QtBot) -> None:
    gc.disable()
    try:
        MainThreadGarbage().release()
        assert not gc.isenabled()
    finally:
        gc.enable()
    qtbot.wait(10)
