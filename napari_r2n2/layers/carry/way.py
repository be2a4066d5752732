"""From where to where a layer is carried, and the transforms of every slice position for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration
    from r2n2.results.carrier import Carrier

__all__ = ["CarryProgress", "Way", "carriers_of"]

_NAMED = 5


@dataclass(frozen=True)
class CarryProgress:
    """Share done in [0, 1]."""

    fraction: float


@dataclass(frozen=True)
class Way:
    """From where to where.

    Parameters
    ----------
    source
        The frame that a layer belongs to; "reference"; or "every": each frame holds something of its own.
    target
        "reference", or "every": what belongs to one frame is brought to each.

    Raises
    ------
    ArgumentError
        If nothing would move.
    """

    source: int | Literal["every", "reference"]
    target: Literal["every", "reference"]

    def __post_init__(self) -> None:
        if self.source == self.target:
            what = (
                "what every frame holds is in every frame already" if self.source == "every" else "it lies on the reference already"
            )
            raise ArgumentError(f"carry along: {what}; choose another end of the way")

    @property
    def text(self) -> str:
        """The end of a carried layer's name."""
        if self.target == "reference":
            return "on the reference"
        return "of the reference in every frame" if self.source == "reference" else f"of frame {self.source} in every frame"


def carriers_of(registration: Registration) -> list[Carrier]:
    """One a slice position, by what is switched on now.

    Raises
    ------
    ArgumentError
        If frames are not aligned yet.
    """
    from r2n2.results.carrier import Carrier

    missing = [key for key in registration.frames() if key not in registration.results]
    if missing:
        names = ", ".join(str(key.frame) for key in missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
        raise ArgumentError(f"carry along: {len(missing)} frames ({names}) are not aligned yet; run the registration to its end")
    return [Carrier(registration.transforms(index), series.grid) for index, series in enumerate(registration.series)]
