"""Names of the folders of acquisitions: short, safe on every system, each used once, and the same when the command is run again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

__all__ = ["folder_names"]

_SUFFIXES = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}")
_UNSAFE = re.compile(r"[^\w.=+@-]+")
_LONGEST = 120
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def folder_names(paths: Sequence[str], known: Mapping[str, str], *, taken: Collection[str] = ()) -> dict[str, str]:
    """Path -> name of its folder.

    A name is the last part of the path without its suffix, with as many parts before it as tell it from the others.

    Parameters
    ----------
    paths
        All different.
    known
        Names given before, which stay.
    taken
        Names that somebody asked for.
    """
    names = {path: known[path] for path in paths if path in known}
    used = {name.casefold() for name in (*known.values(), *taken)}
    parts = {path: _parts(path) for path in paths if path not in known}
    candidates = {path: [_joined(own, depth) for depth in range(1, len(own) + 1)] for path, own in parts.items()}
    often = Counter(name.casefold() for found in candidates.values() for name in set(found))
    for path, found in candidates.items():
        free = (name for name in found if often[name.casefold()] == 1 and name.casefold() not in used)
        names[path] = next(free, None) or _unused(found[0], used)
        used.add(names[path].casefold())
    return names


def _parts(path: str) -> list[str]:
    pure = PurePath(path)
    last = pure.name
    # What follows the last dot of a folder's name is seldom a suffix: p1.5mm, 2026.11.27.
    ending = pure.suffix if _SUFFIX.fullmatch(pure.suffix) else ""
    stem = last[: len(last) - len(next((end for end in _SUFFIXES if last.lower().endswith(end)), ending))]
    found = [*(part for part in pure.parts[:-1] if part not in (pure.anchor, "..", ".")), stem]
    return [safe for part in found if (safe := _UNSAFE.sub("_", part).strip("._ "))] or ["series"]


def _joined(parts: Sequence[str], depth: int) -> str:
    name = "_".join(parts[-depth:])[-_LONGEST:].lstrip("._ ")
    return f"{name}_" if name.split(".")[0].casefold() in _RESERVED or not name else name


def _unused(name: str, used: set[str]) -> str:
    number, found = 2, name
    while found.casefold() in used:
        found, number = f"{name}-{number}", number + 1
    return found
