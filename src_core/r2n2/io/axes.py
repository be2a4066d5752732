"""Which axis of an array is time: what a file says, what its kind usually means, and one question where neither decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r2n2.config import SMALLEST_SIDE_PX
from r2n2.errors import ArgumentError, AxesUnknownError, ReadError

__all__ = ["axes_question", "check_axes", "usual_axes", "usual_axes_note"]

_AXIS_LETTERS = "TCZYXS"
_COLOURS = (3, 4)
_MEANINGS = {
    "TYX": "frames first",
    "YXT": "frames last",
    "ZYX": "slices of a volume",
    "TYXC": "frames in colour",
    "TCYX": "frames in channels",
    "TZYX": "frames of a volume",
    "ZTYX": "slices of frames",
    "YXZT": "slices, then frames last",
    "YXTZ": "frames, then slices last",
    "CYX": "one frame in channels",
    "YXC": "one frame in colour",
}


def axes_question(path: Path, shape: Sequence[int], where: str = "", axes: str = "ZYX") -> AxesUnknownError:
    """The question which axis is time, worded alike for every format.

    Parameters
    ----------
    shape
        Of the array, slow to fast.
    where
        What the file calls the axis in question, where all others are known; else the array has no names at all.
    axes
        Names of the axes, Z standing for the one in question, where all others are known.
    """
    shape = tuple(int(n) for n in shape)
    names: tuple[str, ...]
    if where:
        names = (axes.replace("Z", "T"), axes)
        text = f"{where} may be time or slices; pass --axes {names[0]} for a series or --axes {names[1]} for a volume"
    elif len(shape) == 3 and not {shape[0], shape[-1]} & set(_COLOURS):
        names = ("TYX", "YXT", "ZYX")
        text = (
            f"its first axis of {shape[0]} or its last of {shape[-1]} may be time or slices (slow to fast, as NumPy counts); "
            "pass --axes TYX or --axes YXT for a series or --axes ZYX for a volume"
        )
    else:
        names = _many(shape)
        text = (
            f"the meaning of the axes of an array of shape {shape} is not known, which of them is time; "
            f"pass --axes with one letter each of T, C, Z, Y, X, slow to fast, for example --axes {names[0]}"
        )
    return AxesUnknownError(f"{path}: {text}", shape, tuple((name, _MEANINGS.get(name, "")) for name in names))


def _many(sizes: tuple[int, ...]) -> tuple[str, ...]:
    if len(sizes) == 3:
        return ("TYX", "CYX", "ZYX") if sizes[0] in _COLOURS else ("TYX", "YXC", "YXT")
    if len(sizes) == 4:
        return ("TYXC", "TZYX") if sizes[-1] in _COLOURS else ("TZYX", "ZTYX", "TCYX", "YXZT", "YXTZ")
    return ("TYX",) if len(sizes) < 4 else ("TCZYX", "TZYXC")


def usual_axes(shape: Sequence[int], usual: str) -> str:
    """The axes of an array without names, or nothing where they have to be asked for.

    Three axes are taken in the order that is ``usual`` for the kind of file, TYX or YXT, only where the other order would give
    frames further from a square, or too small to align: (20, 64, 64) is 20 frames, but (64, 64, 20) may be rows, columns, frames
    as MATLAB has them.
    """
    sizes = tuple(int(n) for n in shape)
    if len(sizes) == 2:
        return "YX"
    if len(sizes) != 3 or min(sizes) == 0 or sizes[0] in _COLOURS or sizes[-1] in _COLOURS:
        return ""  # (3, H, W), (H, W, 3) or (10, H, W, 3) may be colour
    this, other = (sizes[1:], sizes[:2]) if usual == "TYX" else (sizes[:2], sizes[1:])
    squarer = max(this) * min(other) < max(other) * min(this)
    return usual if squarer or min(other) < SMALLEST_SIDE_PX <= min(this) else ""


def usual_axes_note(letters: str) -> str:
    """What to tell a person whose file does not name its axes."""
    other = "YXT" if letters == "TYX" else "TYX"
    return (
        f"the file does not name its axes: {', '.join(letters)} is taken as usual; pass --axes {other} or --axes ZYX if it is wrong"
    )


def check_axes(path: Path, axes: str, shape: Sequence[int], *, given: bool) -> str:
    """Check the letters that name the axes of an array, slow to fast: T time, C or S channel, Z slice, Y row, X column.

    Axes of one element need not be named by the caller: they get the letters that are left.

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
    else:
        letters = _completed(letters, shape)
        if len(letters) != len(shape):
            problem = f"must have {len(shape)} letters, one for each axis of the array of shape {tuple(shape)}"
    if problem:
        kind = ArgumentError if given else ReadError
        raise kind(f"{path}: axes {axes!r} {problem}; pass --axes, for example TYX")
    return letters


def _completed(letters: str, shape: Sequence[int]) -> str:
    """The letters with those of unnamed axes of one element put in."""
    missing = len(shape) - len(letters)
    ones = [place for place, size in enumerate(shape) if size == 1]
    spare = [a for a in "ZCT" if a not in letters and not (a == "C" and "S" in letters)]
    if not 0 < missing <= min(len(ones), len(spare)):
        return letters
    for place, letter in zip(ones[:missing], spare, strict=False):
        letters = letters[:place] + letter + letters[place:]
    return letters
