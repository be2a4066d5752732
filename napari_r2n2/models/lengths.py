"""Lengths as the widgets show them: in the series' own unit, mm or um, and in px where the pixel size is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2n2.quantities import LengthUnit, length_number

if TYPE_CHECKING:
    from r2n2.series import ImageSeries

__all__ = ["MM", "Lengths"]


@dataclass(frozen=True)
class Lengths:
    """How the lengths of one series are shown.

    Parameters
    ----------
    unit
        What numbers are turned into.
    known
        Whether the pixel size is: otherwise a pixel counts as 1 mm inside, and is called px outside.
    """

    unit: LengthUnit = LengthUnit.MM
    known: bool = True

    @classmethod
    def of(cls, series: Sequence[ImageSeries]) -> Lengths:
        """Of a series, one item a slice position."""
        if not series:
            return MM
        known = series[0].spacing_known
        return cls(series[0].length_unit if known else LengthUnit.MM, known)

    @property
    def name(self) -> str:
        """What stands behind a number."""
        return self.unit.value if self.known else "px"

    def value(self, mm: float) -> float:
        """A length in the unit shown."""
        return mm * self.unit.per_mm

    def number(self, mm: float) -> str:
        """A length without the unit's name, with the digits it needs; a dash where it is not known."""
        return length_number(mm, self.unit)

    def text(self, mm: float) -> str:
        """A length with the unit's name."""
        return f"{self.number(mm)} {self.name}"


MM = Lengths()
"""Millimetres, before there is a series."""
