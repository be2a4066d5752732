"""Checks that every reader makes before it trusts what a file declares."""

from __future__ import annotations

import errno
import importlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from r2n2.errors import ArgumentError, MissingExtraError, R2N2Error, ReadError, ResourceError

__all__ = [
    "DEFAULT_MAX_BYTES",
    "check_declared_bytes",
    "check_dtype",
    "check_memory",
    "check_same_shape",
    "check_spacing",
    "check_times",
    "choose_named",
    "existing",
    "import_package",
    "read_errors",
    "wrapped_note",
]

DEFAULT_MAX_BYTES = 8 * 2**30

_ANSWER_S = 30.0
_UNREACHABLE = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ETIMEDOUT,
    errno.ENETUNREACH,
    errno.ENXIO,
)


def existing(path: str | os.PathLike[str], *, timeout_s: float = _ANSWER_S) -> Path:
    """Make a path and see that something is there.

    Raises
    ------
    ReadError
        If nothing is there or the name cannot be a path.
    ResourceError
        If it may not be looked at, or the disk or share it lies on does not answer.
    """
    failure: list[Exception] = []

    def look() -> None:
        try:
            str(Path(path)).encode()  # what is read is named in run.json, which is UTF-8
            Path(path).stat()
        except (OSError, ValueError) as error:
            failure.append(error)

    # A share that has gone away blocks whoever looks, for ever: so a thread looks that nobody need wait for.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(timeout_s)
    if looking.is_alive():
        raise ResourceError(f"{path}: does not answer within {timeout_s:g} s; check the disk or the network share and try again")
    if failure:
        error = failure[0]
        if isinstance(error, FileNotFoundError):
            raise ReadError(f"{path}: no such file or folder; check the path")
        _tell_system_error(Path(path), error)
        raise ReadError(f"{str(path)[:120]!r}: not a usable path ({error}); check the path")
    return Path(path)


def _tell_system_error(path: Path, error: Exception) -> None:
    """Raise what the system said, where it was the system: a file that cannot be reached is not damaged."""
    if isinstance(error, PermissionError):
        raise ResourceError(f"{path}: may not be read ({error.strerror}); change its permissions or copy it") from error
    if isinstance(error, FileNotFoundError):
        raise ReadError(f"{path}: is not there any more ({error.filename or error}); check the path") from error
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        reason = os.strerror(error.errno)
        raise ResourceError(f"{path}: cannot be reached ({reason}); check the disk or the network share and try again") from error


@contextmanager
def read_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what a library raises on damaged input into one ReadError that names the file; ours pass unchanged."""
    try:
        yield
    except R2N2Error:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read this {what} file; crop it or use a machine with more") from error
    except Exception as error:
        _tell_system_error(path, error)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ReadError(
            f"{path}: cannot be read as {what} ({reason}); it may be damaged: get an intact copy, or save it anew"
        ) from error


def import_package(name: str, needed_for: str, install: str | None = None) -> ModuleType:
    """Import a package that only some formats need.

    Raises
    ------
    MissingExtraError
        Naming what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = install or name.split(".")[0]
        raise MissingExtraError(
            f"{needed_for} needs the package {package}, which is not installed: pip install {package}"
        ) from error


def check_declared_bytes(path: Path, declared: int, available: int) -> None:
    """Refuse a file that holds fewer bytes of pixels than its header declares.

    Raises
    ------
    ReadError
        With both numbers.
    """
    if declared > available:
        share = 100 * max(available, 0) / declared
        raise ReadError(
            f"{path}: truncated or forged, the header declares {declared} bytes of pixels and the file holds {max(available, 0)} "
            f"({share:.0f} %); get a complete copy"
        )


def check_memory(path: Path, needed: int, max_bytes: int) -> None:
    """Refuse before allocating more than the caller allows.

    Raises
    ------
    ResourceError
        With both numbers.
    """
    if needed > max_bytes:
        raise ResourceError(
            f"{path}: {needed / 2**20:.0f} MiB would have to be held in memory, {max_bytes / 2**20:.0f} MiB are allowed; "
            "raise --max-bytes, crop the series, or convert it to .zarr, which is read frame by frame"
        )


def check_dtype(path: Path, dtype: Any) -> np.dtype[Any]:
    """Accept booleans, integers and real floating point numbers.

    Raises
    ------
    ReadError
        For complex numbers, with the magnitude offered, and for anything that is no number.
    """
    kind = np.dtype(dtype)
    if kind.kind == "c":
        raise ReadError(f"{path}: pixels are complex ({kind}); save the magnitude, numpy.abs(array), and read that")
    if kind.kind not in "biuf":
        raise ReadError(f"{path}: pixels must be numbers, got {kind}; save them as integers or floating point")
    return kind


def check_spacing(spacing: Sequence[float], *, where: str) -> tuple[float, ...]:
    """Positive finite pixel sizes in mm.

    Raises
    ------
    ArgumentError
        Naming ``where`` the numbers came from.
    """
    values = tuple(float(s) for s in spacing)
    if len(values) not in (2, 3) or any(not math.isfinite(s) or s <= 0 for s in values):
        raise ArgumentError(f"{where}: spacing must be 2 or 3 positive finite numbers in mm, (z,)y,x, got {values}")
    return values


def check_times(times: Sequence[Any], count: int, *, where: str) -> tuple[float, ...]:
    """One finite number of seconds for each frame.

    Raises
    ------
    ReadError
        Naming ``where`` the numbers came from.
    """
    try:
        values = tuple(float(t) for t in times)
    except (TypeError, ValueError):
        raise ReadError(f"{where}: must be {count} times in s, got {str(times)[:80]}; correct it") from None
    wrong = [k for k, value in enumerate(values) if not math.isfinite(value)]
    if wrong:
        raise ReadError(f"{where}: the time of frame {wrong[0]} is {values[wrong[0]]}, which is no finite number of s; correct it")
    if len(values) != count:
        raise ReadError(f"{where}: holds {len(values)} times for {count} frames; correct it")
    return values


def check_same_shape(path: Path, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse frames of different shape.

    Raises
    ------
    ReadError
        Listing the shapes with the frames that have them, or saying that there is no frame.
    """
    if not shapes:
        raise ReadError(f"{path}: holds no frame; check that the right file or folder was chosen")
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(tuple(shape), []).append(index)
    if len(groups) > 1:
        listed = "; ".join(f"{shape}: frames {_shortened(frames)}" for shape, frames in groups.items())
        raise ReadError(f"{path}: frames of different shape ({listed}); crop or resample them to one shape")


def choose_named(path: Path, names: Sequence[str], wanted: str | None, what: str) -> str:
    """The one of several images in a file that is meant.

    Raises
    ------
    ArgumentError
        If there is none of that name.
    ReadError
        If there is none, or several and none was named.
    """
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    if wanted is not None:
        ends = [name for name in names if name == wanted] or [name for name in names if name.rpartition("/")[2] == wanted]
        if len(ends) == 1:
            return ends[0]
        raise ArgumentError(f"{path}: --series {wanted!r} is none of its {what}; choose one of {listed or 'none'}")
    if not names:
        raise ReadError(f"{path}: holds no {what} that can be an image series; check how it was saved")
    if len(names) > 1:
        raise ReadError(f"{path}: holds several {what}; pass --series with the name of one of {listed}")
    return names[0]


def wrapped_note(minimum: float, dtype: np.dtype[Any], modality: str = "") -> str | None:
    """Report a 16-bit signed image whose values fall to the very bottom of the type, as wrapped magnitudes do."""
    if dtype.kind == "i" and dtype.itemsize == 2 and modality != "CT" and minimum < -16384:
        return f"smallest value {minimum:.0f}: an unsigned image stored as {dtype.name} may have wrapped, see its bright pixels"
    return None


def _shortened(frames: list[int]) -> str:
    listed = ", ".join(map(str, frames[:5]))
    return listed if len(frames) <= 5 else f"{listed}, ... ({len(frames)} in all)"
