"""How lengths are shown to a person: in mm, or in um where pixels are that small, with digits that a small number keeps.

Only what is shown: every computation, and every ``_mm`` column of a file, stays in mm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum

__all__ = ["LengthUnit", "exact_number", "length_number", "length_text", "length_unit", "spacing_text"]

_SMALLEST_PIXEL_IN_MM = 0.02
_DECIMALS = 2
_NOTHING = 1e-5


class LengthUnit(Enum):
    """A unit that lengths are shown in; its value is the name that stands behind the number."""

    MM = "mm"
    UM = "um"

    @property
    def per_mm(self) -> float:
        """How many of this unit are one mm."""
        return {LengthUnit.MM: 1.0, LengthUnit.UM: 1e3}[self]


def length_unit(spacing_mm: Iterable[float]) -> LengthUnit:
    """The unit for an image with these pixel sizes in mm: um below 0.02 mm, as of a microscope, and mm above.

    The smallest decides: the planes of a confocal stack may lie far apart.
    """
    return LengthUnit.UM if min(spacing_mm, default=1.0) < _SMALLEST_PIXEL_IN_MM else LengthUnit.MM


def length_number(mm: float, unit: LengthUnit = LengthUnit.MM) -> str:
    """A length in ``unit`` without the unit's name, for a column that names it; a dash where it is not defined.

    Two decimals, and for small numbers as many as two significant digits need: only what is nothing but rounding is shown as 0.00.
    """
    value = mm * unit.per_mm
    if not math.isfinite(value):
        return "-"
    if abs(value) < _NOTHING:
        return f"{0:.{_DECIMALS}f}"
    more = max(0, -math.floor(math.log10(abs(value))) - 1)
    return f"{value:.{_DECIMALS + more}f}"


def length_text(mm: float, unit: LengthUnit = LengthUnit.MM) -> str:
    """A length with its unit, such as ``0.31 um``."""
    return f"{length_number(mm, unit)} {unit.value}"


def spacing_text(spacing_mm: Sequence[float], unit: LengthUnit | None = None) -> str:
    """Pixel sizes with their unit, such as ``0.1083 x 0.1083 um``; the unit follows from the sizes where none is given."""
    chosen = length_unit(spacing_mm) if unit is None else unit
    return f"{' x '.join(f'{size * chosen.per_mm:.4g}' for size in spacing_mm)} {chosen.value}"


def exact_number(value: float) -> str:
    """A number for a table that programs read: significant digits, never a fixed number of decimals; empty if undefined."""
    return f"{value:.9g}" if math.isfinite(value) else ""
