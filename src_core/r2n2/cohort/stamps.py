"""What a folder remembers of the task that filled it: a command that is run again sees what is done without reading any pixel.

A stamp is a hash over the options of a task and over size and time of change of the files it reads. Where it differs, the result
may still be the same: then the pixels tell.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from r2n2.cohort.entry import Entry, Selector, Task
from r2n2.config import Config
from r2n2.io.atomic import atomic_write
from r2n2.results.manifest import MANIFEST_NAME, RunManifest, load_manifest

__all__ = ["done_before", "keep_slices", "kept_slices", "stamp_result"]

_SLICES_NAME = ".r2n2-slices.json"
_RESULT_NAME = ".r2n2-task.json"
# They change no result that matters (``run_sha256``).
_SETTINGS_NOT_COUNTED = {"device", "batch_size", "precision"}


class _Slices(Config):
    """Which slice positions an acquisition holds."""

    stamp: str
    slices: tuple[Selector, ...]


class _Result(Config):
    """Which task a result is of."""

    stamp: str


def kept_slices(folder: Path, entry: Entry | None) -> tuple[Selector, ...] | None:
    """The slice positions as found before; None where they were not, or the input or its options have changed since.

    Parameters
    ----------
    entry
        None takes them as they are.
    """
    try:
        kept = _Slices.model_validate_json((folder / _SLICES_NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return kept.slices if entry is None or kept.stamp == _listing_stamp(entry) else None


def keep_slices(folder: Path, entry: Entry, slices: tuple[Selector, ...]) -> None:
    """Remember them; raises as ``atomic_write``."""
    _write(folder / _SLICES_NAME, _Slices(stamp=_listing_stamp(entry), slices=slices))


def done_before(task: Task) -> RunManifest | None:
    """The manifest of the finished result of this very task, if the folder holds it."""
    try:
        kept = _Result.model_validate_json((task.place / _RESULT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    if kept.stamp != _task_stamp(task) or not (task.place / MANIFEST_NAME).exists():
        return None
    manifest = load_manifest(task.place)
    return manifest if isinstance(manifest, RunManifest) else None


def stamp_result(task: Task) -> None:
    """Remember that the folder holds the result of this task; raises as ``atomic_write``."""
    _write(task.place / _RESULT_NAME, _Result(stamp=_task_stamp(task)))


def _write(path: Path, values: Config) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(values.model_dump_json() + "\n", encoding="utf-8")


def _listing_stamp(entry: Entry) -> str:
    return _hash([entry.reading, entry.limits, list(_states(entry.path))])


def _task_stamp(task: Task) -> str:
    entry = task.entry
    files = [entry.path, entry.landmarks, entry.mask, entry.moving_mask]
    # Weights that ship are those of the version; others are a file.
    files += [entry.settings.weights] if os.path.sep in entry.settings.weights or "." in entry.settings.weights else []
    states = [list(_states(path)) for path in files if path is not None]
    settings = entry.settings.model_dump(mode="json", exclude=_SETTINGS_NOT_COUNTED)
    options = entry.model_dump(mode="json", exclude={"overwrite", "name", "settings"})
    return _hash([task.version, settings, options, task.selector.model_dump(), states])


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _states(path: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of what lies at a path: of every file of a folder or pattern, in order of their names."""
    matches = [path] if os.path.lexists(path) else sorted(glob.glob(path))
    for match in matches:
        if not os.path.isdir(match):
            yield _state(match, os.path.basename(match))
            continue
        for place, folders, files in os.walk(match):
            folders.sort()
            for name in sorted(files):
                inside = os.path.join(place, name)
                yield _state(inside, os.path.relpath(inside, match))


def _state(path: str, name: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return name, -1, -1
    return name, found.st_size, found.st_mtime_ns
