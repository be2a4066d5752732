"""Series of kinds that no training has seen: speckled ultrasound-like ones for the test, fluorescent blobs for development.

usage: python benchmarks/unseen_kind.py FIGURE.png

Everything is drawn from the seed; tissue moves by a sum of smooth patterns that swell and fade in time, so its places are exact.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from moved_slices import landmarks_of, moved, textured_places
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, zoom

from r2n2.geometry import Grid
from r2n2.series import LandmarkSet
from r2n2.simulation.lattice import random_field
from r2n2.simulation.random_motion import without_folding

__all__ = ["KINDS", "Drawn", "fluorescence", "motions_in_time", "ultrasound"]

_FINE = 2  # pixels of the canvas a pixel of the frame
_MARGIN = 0.15  # of the canvas beyond the frame on each side, in its length
_RANGE_DB = 55.0
_WAVELENGTH_PX = 4.0  # on the canvas
_AXIAL_PX, _LATERAL_PX = 2.2, 4.5  # standard deviations of the pulse on the canvas


@dataclass(frozen=True, eq=False)
class Drawn:
    """A drawn series.

    Parameters
    ----------
    frames
        (T, 1, n, n) float32; frame 0 is the reference.
    grid
        Lattice of every frame.
    landmarks
        INDEX, exact.
    """

    frames: torch.Tensor
    grid: Grid
    landmarks: LandmarkSet


def motions_in_time(rng: np.random.Generator, size: int, count: int, amplitude: float) -> NDArray[np.float64]:
    """(count, 2, n, n) in pixels, for the times after the reference; the largest are about twice the amplitude (NORMALISED)."""
    patterns = [random_field(rng, size, int(rng.integers(5, 9)), 2) for _ in range(3)]
    push = torch.from_numpy(rng.normal(0, 0.6, (2, 1, 1))).float().expand(2, size, size)
    rates, motions = rng.uniform(0.6, 1.6, 4), []
    for frame in range(1, count + 1):
        swing = np.sin(2 * np.pi * rates * frame / (count + 1))
        total = sum(float(s) * pattern for s, pattern in zip(swing, [*patterns, push], strict=True)) * amplitude
        motions.append(without_folding(total, 0.3).double().numpy() * (size - 1) / 2)
    return np.stack(motions)


def _canvas_size(size: int) -> int:
    return round(_FINE * size * (1 + 2 * _MARGIN))


def _to_canvas(motion: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Canvas positions (2, 2n, 2n) that a frame's fine pixels show; a frame's pixel covers two by two fine ones."""
    index = (np.arange(_FINE * size) + 0.5) / _FINE - 0.5
    lattice = np.stack(np.meshgrid(index, index, indexing="ij"))
    shown = lattice + np.stack([map_coordinates(h, lattice, order=1, mode="nearest") for h in motion])
    return (shown + 0.5) * _FINE - 0.5 + _FINE * size * _MARGIN


def _ellipses(rng: np.random.Generator, side: int, count: int, radius: tuple[float, float]) -> list[NDArray[np.float64]]:
    """Distances (side, side) from the centre of each ellipse, 1 at its rim."""
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    shapes = []
    for _ in range(count):
        cy, cx, turn = *rng.uniform(-0.8, 0.8, 2), rng.uniform(0, np.pi)
        a, b = np.exp(rng.uniform(*np.log(radius), 2))
        dy, dx = y - cy, x - cx
        u, v = np.cos(turn) * dy + np.sin(turn) * dx, np.cos(turn) * dx - np.sin(turn) * dy
        shapes.append(np.hypot(u / a, v / b))
    return shapes


def ultrasound(seed: int, count: int, *, size: int = 256, landmarks: int = 40, renewed: float = 0.0) -> Drawn:
    """Speckle of scatterers that move with the tissue, log-compressed, fading with depth and shadowed; ``count`` moving frames.

    Parameters
    ----------
    renewed
        Share of the scatterers' energy that is another one in every next frame, as where tissue moves through the plane.
    """
    rng = np.random.default_rng([seed, 11])
    side = _canvas_size(size)
    echo = 0.3 * np.exp(0.5 * random_field(rng, side, 9)[0].numpy())
    for far in _ellipses(rng, side, 9, (0.05, 0.25)):
        strength = np.exp(rng.choice([np.log(0.04), np.log(3.0)]) + rng.normal(0, 0.2))
        echo = np.where(far < 1, echo * strength, echo)
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    for _ in range(4):
        layer = y - rng.uniform(-0.9, 0.9) - rng.uniform(-0.15, 0.15) * np.sin(rng.uniform(2, 6) * x + rng.uniform(0, 6))
        echo = echo + 1.5 * np.exp(-((layer / 0.012) ** 2))
    # Scatterers slightly wider than the canvas' pixel survive being sampled between pixels.
    grain = gaussian_filter(rng.standard_normal((side, side)), 0.8)
    strongest = (echo * grain).std()
    fade = np.exp(-np.linspace(0, rng.uniform(1.0, 2.2), _FINE * size))[:, None] * np.exp(
        0.3 * random_field(rng, _FINE * size, 5)[0].numpy().mean(0, keepdims=True)
    )
    motions = motions_in_time(rng, size, count, 0.045)
    still = np.zeros_like(motions[:1])
    frames, others = [], np.random.default_rng([seed, 13])
    for motion in [*still, *motions]:
        frames.append(_scanned(rng, echo * grain / strongest, _to_canvas(motion, size), fade))
        if renewed:
            other = gaussian_filter(others.standard_normal((side, side)), 0.8)
            grain = np.sqrt(1 - renewed) * grain + np.sqrt(renewed) * other
    shown = map_coordinates(echo, _to_canvas(still[0], size), order=1).reshape(size, _FINE, size, _FINE).mean((1, 3))
    points = textured_places(np.log(gaussian_filter(shown, 1.5)), landmarks)
    stack = torch.from_numpy(np.stack(frames)).float()[:, None]
    return Drawn(stack, Grid((size, size), (0.3, 0.3)), landmarks_of(points, motions))


def _scanned(
    rng: np.random.Generator, scatterers: NDArray[np.float64], places: NDArray[np.float64], fade: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Grey values (n, n) from 0 to 255 of the envelope of what the pulse brings back."""
    field = map_coordinates(scatterers, places, order=1, mode="constant")
    reach = np.arange(-8, 9)
    pulse = np.exp(-0.5 * (reach / _AXIAL_PX) ** 2) * np.exp(2j * np.pi * reach / _WAVELENGTH_PX)
    wide = gaussian_filter1d(field, _LATERAL_PX, axis=1)
    echoes = np.apply_along_axis(np.convolve, 0, wide, pulse, mode="same") * fade
    echoes = echoes / np.abs(echoes).mean()
    noisy = echoes + 0.02 * (rng.standard_normal(field.shape) + 1j * rng.standard_normal(field.shape))
    size = field.shape[0] // _FINE
    envelope = np.abs(noisy).reshape(size, _FINE, size, _FINE).mean((1, 3))
    return np.rint(255 * np.clip(1 + 20 * np.log10(envelope / 6 + 1e-6) / _RANGE_DB, 0, 1))


def fluorescence(seed: int, count: int, *, size: int = 256, landmarks: int = 40) -> Drawn:
    """Bright blobs on a dark ground with photon noise and bleaching; ``count`` moving frames; the unit is a pixel."""
    rng = np.random.default_rng([seed, 12])
    side = _canvas_size(size)
    canvas = np.zeros((side, side))
    for _ in range(170):
        cy, cx = rng.uniform(0, side, 2)
        a, b = rng.uniform(4, 13, 2)
        reach = 14
        top, left = max(0, int(cy) - reach), max(0, int(cx) - reach)
        y, x = np.mgrid[top : min(side, int(cy) + reach), left : min(side, int(cx) + reach)]
        turn = rng.uniform(0, np.pi)
        u = np.cos(turn) * (y - cy) + np.sin(turn) * (x - cx)
        v = np.cos(turn) * (x - cx) - np.sin(turn) * (y - cy)
        canvas[y, x] += rng.lognormal(0, 0.4) / (1 + (np.hypot(u / a, v / b)) ** 8)
    canvas = gaussian_filter(canvas, 1.2) * np.exp(0.15 * zoom(rng.standard_normal((40, 40)), side / 40, order=1)[:side, :side])
    shown = map_coordinates(canvas, _to_canvas(np.zeros((2, size, size)), size), order=1)
    shown = shown.reshape(size, _FINE, size, _FINE).mean((1, 3))
    motions = motions_in_time(rng, size, count, 0.05)
    frames = []
    for frame, motion in enumerate([np.zeros((2, size, size)), *motions]):
        image = np.clip(moved(shown, motion), 0, None)
        glow = (image + 0.15 * gaussian_filter(image, 12)) * (1 - 0.3 * frame / (count + 1))
        frames.append(rng.poisson(60 * glow + 4))
    stack = torch.from_numpy(np.stack(frames)).float()[:, None]
    return Drawn(stack, Grid((size, size)), landmarks_of(textured_places(gaussian_filter(shown, 1), landmarks), motions))


KINDS = {"ultrasound": ultrasound, "fluorescence": fluorescence}


def main() -> None:
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    figure = Figure(figsize=(12, 8), layout="constrained")
    for row, (name, draw) in enumerate(KINDS.items()):
        drawn = draw(0, 4)
        for column, frame in enumerate((0, 2, 4)):
            axes = figure.add_subplot(2, 3, 3 * row + column + 1)
            axes.imshow(drawn.frames[frame, 0], cmap="gray")
            marks, start = drawn.landmarks.in_frame(frame), drawn.landmarks.in_frame(0)
            axes.plot(start.points[:, 1], start.points[:, 0], "+", color="tab:blue", markersize=5)
            axes.plot(marks.points[:, 1], marks.points[:, 0], ".", color="tab:orange", markersize=4)
            axes.set_title(f"{name}, frame {frame}")
            axes.set_axis_off()
    figure.savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
