from __future__ import annotations

import math

import numpy as np
import pytest

from r2n2.geometry import Grid
from r2n2.quantities import LengthUnit, exact_number, length_number, length_text, length_unit, spacing_text
from r2n2.series import ImageSeries


@pytest.mark.parametrize(
    ("spacing", "unit"),
    [((1.5, 0.8), "mm"), ((0.02, 0.02), "mm"), ((0.019, 0.5), "um"), ((1.083e-4,) * 2, "um"), ((0.5, 1e-4, 1e-4), "um")],
)
def test_the_smallest_pixel_size_decides_the_unit(spacing: tuple[float, ...], unit: str) -> None:
    assert length_unit(spacing).value == unit


@pytest.mark.parametrize(
    ("mm", "unit", "text"),
    [
        (1.234, LengthUnit.MM, "1.23 mm"),
        (123.456, LengthUnit.MM, "123.46 mm"),
        (0.0, LengthUnit.UM, "0.00 um"),
        (3.1e-4, LengthUnit.UM, "0.31 um"),
        (3.1e-4, LengthUnit.MM, "0.00031 mm"),
        (-0.0456, LengthUnit.MM, "-0.046 mm"),
        (0.0456, LengthUnit.UM, "45.60 um"),
        (-2.5e-9, LengthUnit.MM, "0.00 mm"),
        (2.1e-8, LengthUnit.UM, "0.000021 um"),
        (math.nan, LengthUnit.UM, "- um"),
    ],
)
def test_lengths_keep_two_significant_digits(mm: float, unit: LengthUnit, text: str) -> None:
    assert length_text(mm, unit) == text
    assert length_number(mm, unit) == text.split()[0]


def test_pixel_sizes_are_shown_in_their_unit() -> None:
    assert spacing_text((1.083e-4, 2e-4)) == "0.1083 x 0.2 um"
    assert spacing_text((1.5, 0.78125)) == "1.5 x 0.7812 mm"


@pytest.mark.parametrize("value", [1.0831234e-4, 1.083e-7, 123456.789, -2.5, 0.0])
def test_numbers_for_programs_keep_their_digits(value: float) -> None:
    assert float(exact_number(value)) == pytest.approx(value, rel=1e-8)
    assert exact_number(math.inf) == ""


def test_a_series_names_the_unit_it_is_shown_in() -> None:
    def series(spacing: tuple[float, float], known: bool = True) -> ImageSeries:
        return ImageSeries(np.zeros((2, 1, 4, 5), np.uint8), Grid((4, 5), spacing), spacing_known=known)

    assert series((1.083e-4, 2e-4)).length_unit is LengthUnit.UM
    assert series((1.5, 2.0)).length_unit is LengthUnit.MM
