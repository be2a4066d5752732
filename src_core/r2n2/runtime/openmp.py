"""How torch's threads wait for one another: briefly awake, then asleep."""

from __future__ import annotations

import os

__all__ = ["wait_asleep"]

# About 30 microseconds: longer than the gap between two operations of a step, far shorter than a turn of the scheduler.
_SPINS = "10000"


def wait_asleep() -> None:
    """Let GNU OpenMP's threads sleep soon after they have nothing to do, unless the environment says how they are to wait.

    By itself such a thread spins for milliseconds after every operation. Where another program wants the same processor, each of
    the thousands of short operations of a registration then waits for a thread that is not running, and it takes up to a hundred
    times as long. To be called before torch is imported first; later it does nothing.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
