"""Whether a stack of slices is read as one volume or slice by slice: as asked, else by its geometry once volumes are registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r2n2.errors import ArgumentError

__all__ = ["VOLUMES_CAN_BE_REGISTERED", "Choice", "check_registrable", "choose_by_geometry", "choose_reading", "wants_volumes"]

VOLUMES_CAN_BE_REGISTERED = True
"""The one switch: False reads stacks slice by slice unless volumes are asked for, and the command refuses to register a volume.
True leaves the choice to ``choose_by_geometry`` where nothing is asked, and refuses nothing."""

_GAPPED = 2.5
"""Slices further apart than so many pixels are gapped or thick."""

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
        return Choice(asked, f"read as a volume of {slices} slices, as --volumes asks" if asked else "")
    if VOLUMES_CAN_BE_REGISTERED:
        return choose_by_geometry(slices, spacing)
    return Choice(False, f"read slice by slice, which is the default; --volumes reads its {slices} slices as a volume")


def wants_volumes(asked: bool | None) -> bool:
    """Whether ``choose_reading`` may answer with a volume."""
    return VOLUMES_CAN_BE_REGISTERED if asked is None else asked


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
    across, pixel = spacing[0], max(spacing[1:])
    told = f"{slices} slices {across:.4g} mm apart, of pixels of {pixel:.4g} mm"
    if across > _GAPPED * pixel and slices < _FEWEST:
        why = f"over {_GAPPED:g} pixels apart and fewer than {_FEWEST}"
        return Choice(False, f"read slice by slice: {told}, are {why}; --volumes reads them as a volume")
    return Choice(True, f"read as a volume: {told}; --slices reads slice by slice")


def check_registrable(ndim: int) -> None:
    """Refuse what cannot be registered yet.

    Parameters
    ----------
    ndim
        Spatial axes of the series.

    Raises
    ------
    ArgumentError
        For a volume, while volumes cannot be registered.
    """
    if ndim == 3 and not VOLUMES_CAN_BE_REGISTERED:
        raise ArgumentError("registration of volumes is not there yet; --slices registers slice by slice")
