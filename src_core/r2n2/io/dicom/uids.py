"""Makes the UIDs of written files out of what they hold: equal results are equal files, and different ones never share a UID.

The UID of a series depends on all of its frames, which come one by one: files are written with stand-ins of the same length,
which give way to the UIDs once the last frame is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from r2n2.errors import ReadError
from r2n2.io.atomic import atomic_write, resource_errors

__all__ = ["settle_uids", "stand_in", "uid_of"]

# 2.25 is the root of UIDs made of UUIDs, numbers of 128 bits; with 39 digits always, all are of one length
_ROOT, _SMALLEST = "2.25.", 10**38


def uid_of(*parts: str | bytes) -> str:
    """The UID of some content: equal for equal parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    number = int.from_bytes(digest.digest(), "big")
    return f"{_ROOT}{_SMALLEST + number % (2**128 - _SMALLEST)}"


def stand_in(name: str) -> str:
    """A UID to write until ``settle_uids`` puts the real one in its place."""
    return uid_of("r2n2 stand-in", name)


def settle_uids(path: Path, uids: Mapping[str, str]) -> None:
    """Put the UIDs, by their stand-ins, into a written file."""
    with resource_errors(path):
        data = path.read_bytes()
    for before, after in uids.items():
        if before.encode() not in data:
            raise ReadError(f"{path}: was changed while it was written; write it again")
        data = data.replace(before.encode(), after.encode())
    with atomic_write(path) as temporary, resource_errors(path):
        temporary.write_bytes(data)
