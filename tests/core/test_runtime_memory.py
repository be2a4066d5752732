"""Memory that was freed goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from r2n2.runtime import memory


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux" or memory._trim() is None, reason="only glibc can be asked")
def test_what_lies_between_blocks_in_use_is_given_back() -> None:
    # Of 64 KiB each, far below what glibc returns by itself; every second one is freed.
    blocks = [np.ones(8192) for _ in range(2400)]
    pinned = blocks[::2]
    before = _resident_mib()
    del blocks
    assert _resident_mib() > before - 20
    memory.give_back_freed_memory()
    assert _resident_mib() < before - 50
    assert all(block[0] == 1 for block in pinned)


def test_where_the_c_library_cannot_be_asked_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory._trim() is None
    memory.give_back_freed_memory()
    memory._trim.cache_clear()
