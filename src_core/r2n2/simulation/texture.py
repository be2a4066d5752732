"""Drawing on a raster in mm: smooth closed outlines, tubes and band-limited noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.filters import gaussian

__all__ = ["FloatArray", "Raster", "smooth_outline"]

FloatArray = NDArray[np.floating[Any]]


def smooth_outline(corners: ArrayLike, points_per_corner: int = 16) -> FloatArray:
    """Closed Catmull-Rom curve through corners (N, 2), as (N * points_per_corner, 2)."""
    knots = np.asarray(corners, dtype=np.float64)
    before, after, beyond = (np.roll(knots, shift, axis=0) for shift in (1, -1, -2))
    u = np.linspace(0, 1, points_per_corner, endpoint=False)[None, :, None]
    a, b, c, d = (k[:, None] for k in (before, knots, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
    return np.asarray(curve.reshape(-1, 2))


@dataclass(frozen=True)
class Raster:
    """Square lattice in anatomical mm on which tissue is drawn.

    Parameters
    ----------
    shape
        Pixels along y and x.
    step_mm
        Distance of pixels.
    start_mm
        Position (y, x) of the first pixel.
    """

    shape: tuple[int, int]
    step_mm: float
    start_mm: tuple[float, float]

    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Positions in mm, (H, 1) along y and (1, W) along x."""
        y, x = (start + self.step_mm * np.arange(n) for start, n in zip(self.start_mm, self.shape, strict=True))
        return y[:, None], x[None, :]

    def blur(self, values: FloatArray, sigma_mm: float) -> FloatArray:
        """Gaussian smoothing."""
        return np.asarray(gaussian(values, sigma=sigma_mm / self.step_mm, mode="nearest", preserve_range=True, truncate=3.0))

    def fill(self, outline: FloatArray, softness_mm: float = 0.0) -> FloatArray:
        """Coverage in [0, 1] of the inside of a closed outline (N, 2) in mm, with an edge as soft as asked."""
        index = (outline - np.asarray(self.start_mm)) / self.step_mm
        # Only the window that the shape can reach is worked on.
        reach = 3.5 * softness_mm / self.step_mm + 3
        low = np.clip(np.floor(index.min(axis=0) - reach), 0, self.shape).astype(np.int64)
        high = np.clip(np.ceil(index.max(axis=0) + reach), 0, self.shape).astype(np.int64)
        cover = np.zeros(self.shape)
        if (high > low).all():
            part = _scan(index - low, (int(high[0] - low[0]), int(high[1] - low[1])))
            cover[low[0] : high[0], low[1] : high[1]] = self.blur(part, softness_mm) if softness_mm > 0 else part
        return cover

    def ellipse(self, centre: ArrayLike, radii: ArrayLike, angle_deg: float = 0.0, softness_mm: float = 0.0) -> FloatArray:
        """Coverage of an ellipse with half axes (y, x) turned from y towards x."""
        turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        ry, rx = np.asarray(radii, dtype=np.float64)
        local = np.stack((ry * np.cos(turn), rx * np.sin(turn)), axis=1)
        cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        return self.fill(local @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(centre, dtype=np.float64), softness_mm)

    def tubes(self, segments: ArrayLike) -> FloatArray:
        """Anti-aliased coverage of tapering tubes.

        Parameters
        ----------
        segments
            (N, 6): y, x, radius of both ends in mm. A tube thinner than a pixel gets the share of the pixel it fills.
        """
        canvas = np.zeros(self.shape)
        step = self.step_mm
        for y0, x0, r0, y1, x1, r1 in np.asarray(segments, dtype=np.float64).reshape(-1, 6):
            reach = max(r0, r1) + 2 * step
            rows = self._window(min(y0, y1) - reach, max(y0, y1) + reach, 0)
            columns = self._window(min(x0, x1) - reach, max(x0, x1) + reach, 1)
            y = (self.start_mm[0] + step * np.arange(rows.start, rows.stop))[:, None] - y0
            x = (self.start_mm[1] + step * np.arange(columns.start, columns.stop))[None, :] - x0
            along_y, along_x = y1 - y0, x1 - x0
            share = np.clip((y * along_y + x * along_x) / max(along_y**2 + along_x**2, 1e-12), 0, 1)
            distance = np.hypot(y - share * along_y, x - share * along_x)
            radius = r0 + (r1 - r0) * share
            cover = np.clip((radius - distance) / step + 0.5, 0, 1) * np.clip(2 * radius / step, 0, 1)
            canvas[rows, columns] = np.maximum(canvas[rows, columns], cover)
        return canvas

    def _window(self, low_mm: float, high_mm: float, axis: int) -> slice:
        first = int(np.floor((low_mm - self.start_mm[axis]) / self.step_mm))
        last = int(np.ceil((high_mm - self.start_mm[axis]) / self.step_mm)) + 1
        size = self.shape[axis]
        return slice(min(max(first, 0), size), min(max(last, 0), size))

    def noise(self, rng: np.random.Generator, scale_mm: float) -> FloatArray:
        """Band-limited noise of mean 0 and standard deviation 1 whose grains are about ``scale_mm`` wide.

        It is drawn on a lattice fixed in mm, so that a finer raster shows the same grains.
        """
        grain = scale_mm / 2
        extent = [self.step_mm * n for n in self.shape]
        coarse = rng.standard_normal([int(e / grain) + 4 for e in extent])
        smooth = np.asarray(gaussian(coarse, sigma=0.8, mode="wrap", preserve_range=True))
        smooth = (smooth - smooth.mean()) / smooth.std()
        rows = np.arange(self.shape[0]) * self.step_mm / grain
        columns = np.arange(self.shape[1]) * self.step_mm / grain
        along_y = _interpolate(smooth, rows)
        return np.ascontiguousarray(_interpolate(along_y.T, columns).T)


def _scan(outline: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Coverage (H, W) of a simple closed outline (N, 2) in INDEX; edges are anti-aliased along x.

    Every edge that crosses a row's centre line adds a signed step there; their running sum is 1 inside.
    """
    height, width = shape
    steps = np.zeros((height, width + 2))
    for (y0, x0), (y1, x1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        sign = 1.0 if y1 > y0 else -1.0
        low, high = (y0, y1) if y1 > y0 else (y1, y0)
        rows = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), height))
        if len(rows):
            x = np.clip(x0 + (x1 - x0) * (rows - y0) / (y1 - y0) + 0.5, 0, width)
            first = x.astype(np.int64)
            np.add.at(steps, (rows, first), sign * (1 - x + first))
            np.add.at(steps, (rows, first + 1), sign * (x - first))
    return np.clip(np.abs(np.cumsum(steps, axis=1)[:, :width]), 0, 1)


def _interpolate(values: FloatArray, positions: FloatArray) -> FloatArray:
    low = np.floor(positions).astype(np.int64)
    share = (positions - low)[:, None]
    share = share * share * (3 - 2 * share)
    return np.asarray(values[low] * (1 - share) + values[low + 1] * share)
