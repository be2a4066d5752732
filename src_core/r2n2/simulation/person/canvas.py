"""A slab of a fine lattice on which tissue after tissue is painted, the later over the earlier, with soft edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.filters import gaussian

from r2n2.simulation.texture import FloatArray

__all__ = ["Canvas", "Lattice", "Texture"]

Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Lattice:
    """Fine lattice of one person in mm of the body.

    Parameters
    ----------
    shape
        Points along z, y, x.
    step_mm
        Their distance along each axis.
    start_mm
        Position of the first point.
    """

    shape: tuple[int, int, int]
    step_mm: tuple[float, float, float]
    start_mm: tuple[float, float, float]

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Positions in mm, (D, 1, 1) along z, (1, H, 1) along y and (1, 1, W) along x, float32."""
        z, y, x = (
            (start + step * np.arange(n)).astype(np.float32)
            for start, step, n in zip(self.start_mm, self.step_mm, self.shape, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def slab(self, first: int, count: int) -> Lattice:
        """Planes ``first`` to ``first + count`` along z."""
        start = (self.start_mm[0] + first * self.step_mm[0], *self.start_mm[1:])
        return Lattice((count, *self.shape[1:]), self.step_mm, start)


@dataclass(frozen=True, eq=False)
class Texture:
    """Band-limited noise of mean 0 and standard deviation 1, drawn on a lattice fixed in mm: any slab shows the same grains.

    Parameters
    ----------
    values
        (n, n, n) random values, repeated periodically.
    grain_mm
        Their distance.
    """

    values: FloatArray
    grain_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator, scale_mm: float, size: int = 48) -> Texture:
        """Noise whose grains are about ``scale_mm`` wide."""
        drawn = rng.standard_normal((size, size, size), dtype=np.float32)
        smooth = np.asarray(gaussian(drawn, sigma=0.7, mode="wrap", preserve_range=True))
        return cls((smooth - smooth.mean()) / smooth.std(), scale_mm / 2)

    def on(self, lattice: Lattice) -> FloatArray:
        """Values on a lattice, float32."""
        weights = [self._weights(axis.ravel()) for axis in lattice.axes()]
        values = np.tensordot(weights[0], self.values, axes=(1, 0))
        values = np.matmul(weights[1], values)
        # A cubic B-spline averages its controls, so that a factor brings the deviation back to about 1.
        return np.asarray(np.matmul(values, weights[2].T) * np.float32(1.5))

    def _weights(self, places_mm: FloatArray) -> FloatArray:
        """(N, n) weights of the periodic uniform cubic B-spline."""
        size = self.values.shape[0]
        place = (places_mm / self.grain_mm) % size
        distance = np.abs((place[:, None] - np.arange(size)[None] + size / 2) % size - size / 2)
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        return np.where(distance < 1, near, far).astype(np.float32)


@dataclass(eq=False)
class Canvas:
    """What was painted on a slab, and where its points are.

    Parameters
    ----------
    lattice
        The slab.
    z, y, x
        Position of every point in mm, (D, H, W) or broadcasting to it.
    value
        (D, H, W) brightness.
    share
        (D, H, W) the part of it that is lung tissue, which thins as the lung expands.
    labels
        (D, H, W) values of ``PersonLabel``.
    textures
        By name.
    """

    lattice: Lattice
    z: FloatArray
    y: FloatArray
    x: FloatArray
    value: FloatArray
    share: FloatArray
    labels: NDArray[np.uint8]
    textures: Mapping[str, Texture]
    _noise: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def empty(cls, lattice: Lattice, background: float, textures: Mapping[str, Texture], crumple_mm: float = 0.0) -> Canvas:
        """Nothing but ``background``; positions moved at random by about ``crumple_mm``, as nobody is made of ellipsoids."""
        axes = lattice.axes()
        if crumple_mm:
            axes = tuple(  # type: ignore[assignment]
                axis + np.float32(crumple_mm) * textures[f"crumple {name}"].on(lattice)
                for axis, name in zip(axes, "zyx", strict=True)
            )
        value = np.full(lattice.shape, background, dtype=np.float32)
        return cls(lattice, *axes, value, np.zeros_like(value), np.zeros(lattice.shape, dtype=np.uint8), textures)

    @property
    def edge_mm(self) -> float:
        """Width over which an edge rises from 0 to 1."""
        return float(np.prod(self.lattice.step_mm) ** (1 / 3)) * 1.3

    def noise(self, name: str) -> FloatArray:
        """A texture on the slab, not to be changed."""
        if name not in self._noise:
            self._noise[name] = self.textures[name].on(self.lattice)
        return self._noise[name]

    def soft(self, depth_mm: FloatArray) -> FloatArray:
        """Coverage in [0, 1] from the distance to an edge, positive inside."""
        return np.clip(depth_mm / np.float32(self.edge_mm) + np.float32(0.5), 0, 1)

    def sheet(self, distance_mm: FloatArray, thickness_mm: float) -> FloatArray:
        """Coverage by a sheet that may be thinner than a point of the lattice."""
        width = max(thickness_mm, self.edge_mm)
        return np.clip(1 - np.abs(distance_mm) / np.float32(width), 0, 1) * np.float32(min(thickness_mm / self.edge_mm, 1.0))

    def paint(
        self,
        cover: FloatArray,
        value: FloatArray | float,
        *,
        window: Window | None = None,
        label: int | None = None,
        share: FloatArray | float = 0.0,
    ) -> None:
        """Put tissue where ``cover`` is, over what was there; a label where it covers more than half."""
        place = window or (slice(None),) * 3
        self.value[place] += cover * (value - self.value[place])
        self.share[place] += cover * (share - self.share[place])
        if label is not None:
            self.labels[place][np.broadcast_to(cover > 0.5, self.labels[place].shape)] = label

    def window(self, low_mm: ArrayLike, high_mm: ArrayLike, margin_mm: float = 7.0) -> Window | None:
        """Part of the slab that holds a box; None where it holds none of it."""
        ends = []
        lattice = self.lattice
        # Plain numbers: this is asked for each of ten thousands of tubes.
        for low, high, start, step, size in zip(
            np.asarray(low_mm).tolist(), np.asarray(high_mm).tolist(), lattice.start_mm, lattice.step_mm, lattice.shape, strict=True
        ):
            first = max(0, math.floor((low - margin_mm - start) / step))
            last = min(size, math.ceil((high + margin_mm - start) / step) + 1)
            if last <= first:
                return None
            ends.append(slice(first, last))
        return ends[0], ends[1], ends[2]

    def at(self, window: Window) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Positions z, y, x within a window."""
        parts = []
        for axis in (self.z, self.y, self.x):
            parts.append(axis[tuple(w if n > 1 else slice(None) for w, n in zip(window, axis.shape, strict=True))])
        return parts[0], parts[1], parts[2]

    def ellipsoid(
        self, centre: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None, *, power: float = 2.0
    ) -> tuple[FloatArray, Window] | None:
        """Distance in mm to the edge, positive inside, of an ellipsoid (a rounded box for a higher power) in its window.

        Parameters
        ----------
        axes
            (3, 3) rows: unit vectors of the half axes ``radii``; left out: z, y, x.
        """
        middle, half = np.asarray(centre, dtype=np.float32), np.asarray(radii, dtype=np.float32)
        turn = np.eye(3, dtype=np.float32) if axes is None else np.asarray(axes, dtype=np.float32)
        reach = np.abs(turn).T @ half if power > 2 else np.sqrt((turn.T**2) @ half**2)
        window = self.window(middle - reach, middle + reach)
        if window is None:
            return None
        offsets = [p - c for p, c in zip(self.at(window), middle, strict=True)]
        local = [sum(o * a for o, a in zip(offsets, row, strict=True)) / r for row, r in zip(turn, half, strict=True)]
        if power == 2.0:
            length = np.sqrt(sum(q * q for q in local))
        else:
            length = sum(np.abs(q) ** power for q in local) ** np.float32(1 / power)
        steepness = np.sqrt(sum((q / r) ** 2 for q, r in zip(local, half, strict=True))) / np.maximum(length, 1e-3)
        return (1 - length) / np.maximum(steepness, 1e-3), window

    def fill(
        self,
        centre: ArrayLike,
        radii: ArrayLike,
        value: FloatArray | float,
        axes: ArrayLike | None = None,
        *,
        power: float = 2.0,
        label: int | None = None,
    ) -> None:
        """Paint an ellipsoid; ``value`` may be an array of the slab."""
        found = self.ellipsoid(centre, radii, axes, power=power)
        if found is not None:
            depth, window = found
            tone = value[window] if isinstance(value, np.ndarray) else value
            self.paint(self.soft(depth), tone, window=window, label=label)

    def tubes(self, segments: ArrayLike, grow_mm: float = 0.0) -> FloatArray:
        """Coverage (D, H, W) of straight tapering tubes (N, 8): z, y, x, radius of both ends in mm.

        A tube thinner than a point of the lattice gets the share of it that it fills. Tubes lie where they say, not crumpled.
        """
        cover = np.zeros(self.lattice.shape, dtype=np.float32)
        tubes = np.asarray(segments, dtype=np.float32).reshape(-1, 8)
        edge = np.float32(self.edge_mm)
        axes, start, step = self.lattice.axes(), self.lattice.start_mm[0], self.lattice.step_mm[0]
        reach = np.maximum(tubes[:, 3], tubes[:, 7]) + grow_mm + edge
        near = np.minimum(tubes[:, 0], tubes[:, 4]) - reach < start + step * self.lattice.shape[0]
        near &= np.maximum(tubes[:, 0], tubes[:, 4]) + reach > start
        for tube in tubes[near]:
            first, last, r0, r1 = tube[:3], tube[4:7], tube[3] + grow_mm, tube[7] + grow_mm
            window = self.window(np.minimum(first, last), np.maximum(first, last), float(max(r0, r1)) + self.edge_mm)
            if window is None:
                continue
            z, y, x = (axis[tuple(w if n > 1 else slice(None) for w, n in zip(window, axis.shape, strict=True))] for axis in axes)
            z, y, x = z - first[0], y - first[1], x - first[2]
            dz, dy, dx = last - first
            share = np.minimum(np.maximum((z * dz + y * dy + x * dx) / max(dz * dz + dy * dy + dx * dx, np.float32(1e-6)), 0), 1)
            distance = np.sqrt((z - share * dz) ** 2 + (y - share * dy) ** 2 + (x - share * dx) ** 2)
            radius = r0 + share * (r1 - r0)
            shown = np.maximum(radius, edge / 2)
            part = np.minimum(np.maximum((shown - distance) / edge + 0.5, 0), 1) * (radius / shown) ** 2
            cover[window] = np.maximum(cover[window], part)
        return cover
