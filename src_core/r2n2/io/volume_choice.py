"""Whether a stack of slices is read as one volume or slice by slice: as asked, else by its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Choice", "choose_by_geometry", "choose_reading", "told_reading", "wants_volumes"]

_BEGINNINGS = ("read as a volume", "read slice by slice")
"""Of every note of a ``Choice``; the option that changes it stands behind a semicolon."""

_AS_ASKED = ", as --volumes asks"

_GAPPED = 2.5
"""Slices further apart than so many pixels are gapped or thick."""

_THINNEST = 3
"""Fewer slices are no volume, however near they lie."""

_FEWEST = 16
"""Gapped slices that are fewer than this are no volume."""


@dataclass(frozen=True)
class Choice:
    """How a stack is read, and the sentence that tells a person why and which option changes it; "" of slices asked for."""

    volume: bool
    note: str


def choose_reading(asked: bool | None, slices: int, spacing: Sequence[float] | None) -> Choice:
    """How a stack of several slices is read.

    Parameters
    ----------
    asked
        True for volumes, False for slices, None where nobody said.
    slices
        Their number, at least 2.
    spacing
        (z, y, x) in mm; None, or (y, x), where the distance of the slices is not known.
    """
    if asked is not None:
        return Choice(asked, f"read as a volume of {slices} slices{_AS_ASKED}" if asked else "")
    return choose_by_geometry(slices, spacing)


def wants_volumes(asked: bool | None) -> bool:
    """Whether ``choose_reading`` may answer with a volume."""
    return asked is not False


def choose_by_geometry(slices: int, spacing: Sequence[float] | None) -> Choice:
    """A volume, unless its slices are few and far apart, or their distance is not known.

    Parameters
    ----------
    slices, spacing
        As of ``choose_reading``.
    """
    if spacing is None or len(spacing) < 3:
        return Choice(
            False, "read slice by slice: the distance of the slices is not known; --volumes --spacing Z,Y,X reads them as a volume"
        )
    if slices < _THINNEST:
        return Choice(False, f"read slice by slice: {slices} slices are too few for a volume; --volumes reads them as one")
    across, pixel = spacing[0], max(spacing[1:])
    told = f"{slices} slices {across:.4g} mm apart, of pixels of {pixel:.4g} mm"
    if across > _GAPPED * pixel and slices < _FEWEST:
        why = f"over {_GAPPED:g} pixels apart and fewer than {_FEWEST}"
        return Choice(False, f"read slice by slice: {told}, are {why}; --volumes reads them as a volume")
    return Choice(True, f"read as a volume: {told}; --slices reads slice by slice")


def told_reading(notes: Sequence[str]) -> str:
    """Of the notes of a series how its stack was read, and why, without the option of the command that changes it; "" if none."""
    told = next((note for note in notes if note.startswith(_BEGINNINGS)), "")
    return told.partition("; --")[0].removesuffix(_AS_ASKED)
