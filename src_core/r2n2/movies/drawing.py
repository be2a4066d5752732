"""One picture of a movie: panels in true proportions side by side, with a title each, a caption and a scale bar; RGB of 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from r2n2.quantities import LengthUnit, length_unit

__all__ = ["Canvas", "Panel", "bar_length"]

Picture = NDArray[np.uint8]

_GAP, _HEAD = 6, 24
_BACK, _INK = (16, 18, 22), (232, 236, 240)
_FONT = 13


@dataclass(frozen=True, eq=False)
class Panel:
    """An image of a picture.

    Parameters
    ----------
    title
        Above it.
    image
        (H, W) grey levels, or (H, W, 3) colours of 8 bits.
    limits
        Grey levels that are black and white.
    curves
        Closed lines (N, 2) in pixels (y, x) of the image, drawn on it.
    """

    title: str
    image: NDArray[np.generic]
    limits: tuple[float, float] = (0.0, 255.0)
    curves: tuple[NDArray[np.float64], ...] = ()


class Canvas:
    """Draws pictures of one size.

    Parameters
    ----------
    shape, spacing_mm
        Of an image: pixels and their size along y and x.
    panels
        How many stand side by side.
    height
        Of a panel at least, in pixels of the picture; never below that of the image.
    spacing_known
        Whether lengths are mm; else there is no scale bar.
    """

    def __init__(
        self, shape: tuple[int, int], spacing_mm: tuple[float, float], panels: int, *, height: int = 320, spacing_known: bool = True
    ) -> None:
        pixel = min(spacing_mm)
        factor = max(height / (shape[0] * spacing_mm[0] / pixel), 1.0)
        self._mm = pixel / factor  # one pixel of the picture
        self._shape = shape
        rows, columns = (max(2, round(n * step / self._mm)) for n, step in zip(shape, spacing_mm, strict=True))
        self._inner = (rows, columns)
        # Video encoders take even sizes only.
        width = panels * columns + (panels - 1) * _GAP
        self.size = (width + width % 2, rows + 2 * _HEAD + rows % 2)
        self._known = spacing_known
        self._unit = length_unit(spacing_mm)
        self._font = ImageFont.load_default(_FONT)

    def draw(self, panels: Sequence[Panel], caption: str = "") -> Picture:
        """(height, width, 3) of the panels, the caption below on the left and the scale bar on the right."""
        whole = Image.new("RGB", self.size, _BACK)
        pen = ImageDraw.Draw(whole)
        rows, columns = self._inner
        for place, panel in enumerate(panels):
            left = place * (columns + _GAP)
            image = Image.fromarray(_colours(panel)).resize((columns, rows), Image.Resampling.BICUBIC)
            whole.paste(image, (left, _HEAD))
            pen.text((left + 2, 4), panel.title, fill=_INK, font=self._font)
            for curve in panel.curves:
                # Pixel centres of the image onto those of the picture, which has others.
                scale = np.array([rows, columns]) / self._shape
                points = (curve + 0.5) * scale - 0.5 + (_HEAD, left)
                inside = [(float(x), float(y)) for y, x in points]
                pen.line([*inside, inside[0]], fill=(255, 209, 102), width=2)
        pen.text((2, rows + _HEAD + 4), caption, fill=_INK, font=self._font)
        if self._known:
            self._bar(pen, rows, columns)
        return np.asarray(whole)

    def _bar(self, pen: ImageDraw.ImageDraw, rows: int, columns: int) -> None:
        length = bar_length(columns * self._mm * self._unit.per_mm)
        pixels = length / self._unit.per_mm / self._mm
        right, y = self.size[0] - 4, rows + _HEAD + 11
        text = f"{length:g} {'µm' if self._unit is LengthUnit.UM else 'mm'}"
        width = pen.textlength(text, font=self._font)
        pen.rectangle((right - pixels, y - 1, right, y + 2), fill=_INK)
        pen.text((right - pixels - width - 6, y - 8), text, fill=_INK, font=self._font)


def bar_length(width: float) -> float:
    """A round length, 1, 2 or 5 times a power of ten, of about a fifth of a width."""
    best = 0.2 * width
    power = 10.0 ** math.floor(math.log10(best))
    return max((step * power for step in (1, 2, 5, 10) if step * power <= best * 1.25), default=power)


def _colours(panel: Panel) -> Picture:
    image = np.asarray(panel.image)
    if image.ndim == 3:
        return np.asarray(image, np.uint8)
    low, high = panel.limits
    values = np.nan_to_num(image.astype(np.float64), nan=low)
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, axis=2)
