"""Checks that every reader makes before it trusts what a file declares."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from r2n2.errors import ArgumentError, MissingExtraError, ReadError, ResourceError

__all__ = [
    "DEFAULT_MAX_BYTES",
    "check_axes",
    "check_declared_bytes",
    "check_dtype",
    "check_memory",
    "check_same_shape",
    "check_spacing",
    "existing",
    "import_package",
    "read_errors",
    "wrapped_note",
]

DEFAULT_MAX_BYTES = 8 * 2**30
_AXIS_LETTERS = "TCZYXS"


def existing(path: str | os.PathLike[str]) -> Path:
    """Make a path and see that something is there.

    Raises
    ------
    ReadError
        If nothing is there or the name cannot be a path.
    ResourceError
        If it may not be looked at.
    """
    try:
        found = Path(path)
        str(found).encode()  # what is read is named in run.json, which is UTF-8
        found.stat()
    except FileNotFoundError:
        raise ReadError(f"{path}: no such file or folder; check the path") from None
    except PermissionError as error:
        raise ResourceError(f"{path}: may not be read ({error.strerror}); change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        raise ReadError(f"{str(path)[:120]!r}: not a usable path ({error}); check the path") from None
    return found


@contextmanager
def read_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what a library raises on damaged input into one ReadError that names the file; ours pass unchanged."""
    try:
        yield
    except (ReadError, ArgumentError, ResourceError, MissingExtraError):
        raise
    except PermissionError as error:
        raise ResourceError(f"{path}: may not be read ({error.strerror}); change its permissions or copy it") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read this {what} file; crop it or use a machine with more") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ReadError(f"{path}: damaged or not a {what} file ({reason}); get an intact copy") from error


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


def check_axes(path: Path, axes: str, shape: Sequence[int], *, given: bool) -> str:
    """Check the letters that name the axes of an array, slow to fast: T time, C or S channel, Z slice, Y row, X column.

    Raises
    ------
    ArgumentError
        If ``given`` by the caller and wrong.
    ReadError
        If the file itself says so.
    """
    letters = axes.upper()
    wrong = [a for a in letters if a not in _AXIS_LETTERS]
    problem = ""
    if wrong or len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters) or {"C", "S"} <= set(letters):
        problem = "must hold Y and X once and may hold T, Z and one of C and S once"
    elif len(letters) != len(shape):
        problem = f"must have {len(shape)} letters, one for each axis of the array of shape {tuple(shape)}"
    if problem:
        kind = ArgumentError if given else ReadError
        raise kind(f"{path}: axes {axes!r} {problem}; pass --axes, for example TYX")
    return letters


def wrapped_note(minimum: float, dtype: np.dtype[Any], modality: str = "") -> str | None:
    """Report a 16-bit signed image whose values fall to the very bottom of the type, as wrapped magnitudes do."""
    if dtype.kind == "i" and dtype.itemsize == 2 and modality != "CT" and minimum < -16384:
        return f"smallest value {minimum:.0f}: an unsigned image stored as {dtype.name} may have wrapped, see its bright pixels"
    return None


def _shortened(frames: list[int]) -> str:
    listed = ", ".join(map(str, frames[:5]))
    return listed if len(frames) <= 5 else f"{listed}, ... ({len(frames)} in all)"
