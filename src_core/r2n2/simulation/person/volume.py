"""The series of volumes of one person: frames computed on demand, exact displacement, change of volume, landmarks, labels.

World coordinates of the grid are those of the body: mm, z to the head, y to the back, x to the patient's left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.simulation.breathing import DEEPEST_BREATH, Breathing, draw_breathing
from r2n2.simulation.person.anatomy import PersonAnatomy, draw_person
from r2n2.simulation.person.marks import choose_landmarks
from r2n2.simulation.person.material import PersonMaterial, draw_person_material
from r2n2.simulation.person.motion import PersonMotion
from r2n2.simulation.person.settings import PersonConfig
from r2n2.simulation.person.tissues import draw_tones
from r2n2.simulation.texture import FloatArray
from r2n2.simulation.thorax_motion import FrameState
from r2n2.transform import DisplacementField

__all__ = ["SimulatedVolume", "person_series"]

_SMALLEST_JACOBIAN = 0.4  # of the pull-back to end-expiration
_SLAB_VOXELS = 400_000
_WHITE = 1000.0  # grey value of fat without coil sensitivity
_NOISE = {"mr": 0.02, "ct": 20.0}

Axes = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class _Scene:
    """Everything drawn at random but the noise."""

    config: PersonConfig
    grid: Grid
    anatomy: PersonAnatomy
    material: PersonMaterial
    motion: PersonMotion
    breathing: Breathing
    coils: FloatArray

    def state(self, frame: int) -> FrameState:
        return self.breathing.state(self.config, frame)

    def slabs(self, dtype: Any) -> Iterator[tuple[slice, Axes]]:
        """Planes along z with the positions of their voxels: z (d, 1, 1), y (1, h, 1), x (1, 1, w) in mm."""
        z, y, x = (
            (start + step * np.arange(n)).astype(dtype)
            for start, step, n in zip(self.grid.origin, self.grid.spacing, self.grid.shape, strict=True)
        )
        planes = max(1, _SLAB_VOXELS // (len(y) * len(x)))
        for first in range(0, len(z), planes):
            here = slice(first, min(first + planes, len(z)))
            yield here, (z[here, None, None], y[None, :, None], x[None, None, :])


@dataclass(frozen=True, eq=False)
class _PersonFrames:
    """Frames (T, 1, D, H, W) computed when asked for; a frame does not depend on which others were."""

    scene: _Scene

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.scene.config.frames, 1, *self.scene.grid.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.scene.config.contrast == "mr" else np.int16)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        scene, config = self.scene, self.scene.config
        state = scene.state(index)
        rng = np.random.default_rng([config.seed, 21, index])
        frame = np.empty(scene.grid.shape, dtype=self.dtype)
        limits = np.iinfo(self.dtype)
        sigma = np.float32(_NOISE[config.contrast] if config.noise is None else config.noise)
        for here, positions in scene.slabs(np.float32):
            signal = _signal(scene, positions, state)
            if config.contrast == "mr":
                signal = signal * _sensitivity(scene, positions)
                if sigma:
                    real, imaginary = sigma * rng.standard_normal((2, *signal.shape), dtype=np.float32)
                    signal = np.hypot(signal + real, imaginary)
                signal = signal * np.float32(_WHITE)
            elif sigma:
                signal = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
            frame[here] = np.clip(np.rint(signal), limits.min, limits.max)
        return frame[None]


def _signal(scene: _Scene, positions: Axes, state: FrameState) -> FloatArray:
    """Brightness of voxels without noise and coils: the cavity's and the wall's, blended within a voxel of the wall."""
    motion, material, spacing = scene.motion, scene.material, scene.grid.spacing
    z, y, x, ratio = motion.wall_to_rest(*positions, state)
    u, v = motion.cavity.section(z, y, x)
    width = np.float32(0.9 * np.sqrt(spacing[1] * spacing[2]))
    inside = np.clip(motion.cavity.depth_mm(z, u, v) / width + 0.5, 0, 1).astype(np.float32)
    *inner, change = motion.inner_to_rest(z, u, v, state)
    value, share = material.sample(material.inner, tuple(inner))
    # Lung tissue keeps its mass: as much of it as there is, in the volume that it takes.
    sliding = value + share * (change * ratio - 1)
    (fixed,) = material.sample(material.outer, (z, y, x))
    return np.asarray(fixed + inside * (sliding - fixed))


def _sensitivity(scene: _Scene, positions: Axes) -> FloatArray:
    """Brightness factor of a few surface coils, at rest in the scanner."""
    log = np.zeros((1, 1, 1), dtype=np.float32)
    for z, y, x, width, weight in scene.coils.astype(np.float32):
        distance = ((positions[0] - z) ** 2 + (positions[1] - y) ** 2 + (positions[2] - x) ** 2) / width**2
        log = log + weight * np.exp(-0.5 * distance)
    return np.exp(log - np.float32(0.5 * scene.coils[:, 4].max(initial=0)))


@dataclass(frozen=True, eq=False)
class SimulatedVolume:
    """A series of volumes whose motion is known exactly.

    Parameters
    ----------
    series
        The images; frames are computed when asked for.
    landmarks
        The same places of the body in every frame, INDEX space; ids such as ``RLL-3``, ``liver-7``, ``rib-left-5``.
    """

    series: ImageSeries
    landmarks: LandmarkSet
    _scene: _Scene

    def displacement(self, fixed: int, moving: int) -> DisplacementField:
        """Pull-back displacement (float32, mm) of every voxel of frame ``fixed``: where its tissue lies in ``moving``.

        Computed in float64 and exact to 1e-7 mm. At the chest wall its tangential part jumps.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        states = self._states(fixed, moving)
        vectors = np.zeros((3, *self._scene.grid.shape), dtype=np.float32)
        for here, positions in self._scene.slabs(np.float64) if fixed != moving else ():
            reference = self._scene.motion.reference_of(positions, states[0])
            moved = self._scene.motion.position_of(reference.positions, reference.inside, states[1])
            for axis in range(3):
                vectors[axis, here] = moved[axis] - positions[axis]
        return DisplacementField(torch.from_numpy(vectors), self._scene.grid, Space.WORLD)

    def volume_change(self, fixed: int, moving: int) -> FloatArray:
        """(D, H, W) float32 Jacobian determinant of x -> x + f(x): volume of tissue in ``moving`` over that in ``fixed``.

        Exact in every voxel, also beside the chest wall, where differences of the field are not.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        motion = self._scene.motion
        states = self._states(fixed, moving)
        change = np.ones(self._scene.grid.shape, dtype=np.float32)
        for here, positions in self._scene.slabs(np.float64) if fixed != moving else ():
            reference = motion.reference_of(positions, states[0])
            moved = motion.position_of(reference.positions, reference.inside, states[1])
            *rest, ratio = motion.wall_to_rest(*moved, states[1])
            inner = motion.inner_to_rest(rest[0], *motion.cavity.section(*rest), states[1])[3]
            change[here] = reference.ratio / (ratio * np.where(reference.inside, inner, 1.0))
        return change

    def wall_distance_mm(self, frame: int) -> FloatArray:
        """(D, H, W) float32 distance to the surface along which tissue slides, positive inside; right near the surface.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        (state,) = self._states(frame)
        distance = np.empty(self._scene.grid.shape, dtype=np.float32)
        for here, positions in self._scene.slabs(np.float32):
            z, y, x, _ = self._scene.motion.wall_to_rest(*positions, state)
            cavity = self._scene.motion.cavity
            distance[here] = cavity.depth_mm(z, *cavity.section(z, y, x))
        return distance

    def label_map(self, frame: int) -> NDArray[np.uint8]:
        """(D, H, W) values of ``PersonLabel`` in a frame.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        (state,) = self._states(frame)
        labels = np.empty(self._scene.grid.shape, dtype=np.uint8)
        for here, positions in self._scene.slabs(np.float32):
            reference = self._scene.motion.reference_of(positions, state)
            labels[here] = self._scene.material.label_at(reference.positions, reference.inside)
        return labels

    def labels(self) -> ImageSeries:
        """The label maps of all frames as a series, computed when asked for."""
        return replace(self.series, frames=_LabelFrames(self), name=f"{self.series.name}, labels", modality="")

    def track(self, points_index: FloatArray, fixed: int, moving: int) -> FloatArray:
        """Where points (N, 3) of frame ``fixed`` lie in frame ``moving``, both INDEX; exact also between voxels.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        states = self._states(fixed, moving)
        start, step = np.array(self._scene.grid.origin), np.array(self._scene.grid.spacing)
        z, y, x = (np.asarray(points_index, dtype=np.float64) * step + start).T
        reference = self._scene.motion.reference_of((z, y, x), states[0])
        moved = self._scene.motion.position_of(reference.positions, reference.inside, states[1])
        return np.asarray((np.stack(moved, axis=-1) - start) / step)

    def _states(self, *frames: int) -> tuple[FrameState, ...]:
        for frame in frames:
            if not 0 <= frame < len(self.series):
                raise IndexError(f"frame {frame} does not exist: the simulation has frames 0 to {len(self.series) - 1}")
        return tuple(self._scene.state(frame) for frame in frames)


@dataclass(frozen=True, eq=False)
class _LabelFrames:
    """Label maps (T, 1, D, H, W) computed when asked for."""

    volume: SimulatedVolume

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.volume.series.frames.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.volume.label_map(index)[None]


def person_series(config: PersonConfig) -> SimulatedVolume:
    """Draw a person, its breathing and its heart beat; volumes are computed frame by frame when asked for.

    The person has its size whatever the grid: a grid too small shows a part.

    Parameters
    ----------
    config
        Settings.
    """
    half = [(n - 1) * s / 2 for n, s in zip(config.shape, config.spacing_mm, strict=True)]
    grid = Grid(config.shape, config.spacing_mm, tuple(c - h for c, h in zip(config.centre_mm, half, strict=True)))
    # One generator a part: another grid, frame or contrast must not change the person.
    body, tone, vessels, texture, way, breaths, coil, mark = (np.random.default_rng([config.seed, 20, part]) for part in range(8))
    anatomy = draw_person(body, config.anatomy_variation)
    tones = draw_tones(tone, config.contrast, config.anatomy_variation)
    material = draw_person_material((vessels, texture), anatomy, tones, grid)
    motion = _draw_motion(way, anatomy, config)
    scene = _Scene(config, grid, anatomy, material, motion, draw_breathing(breaths, config), _draw_coils(coil, config.bias))
    landmarks = choose_landmarks(
        mark, material, motion, grid, [scene.state(frame) for frame in range(config.frames)], config.landmarks
    )
    found = len(landmarks) // config.frames
    notes = (f"{found} of {config.landmarks} landmarks asked for lie in view in all frames",) if found < config.landmarks else ()
    series = ImageSeries(
        _PersonFrames(scene),
        grid,
        tuple(round(frame * config.frame_interval_s, 9) for frame in range(config.frames)),
        name=f"simulated person {config.seed}, {config.contrast}",
        modality=config.contrast.upper(),
        notes=notes,
        source={"format": "simulation", "path": "", "config": config.model_dump(mode="json")},
    )
    return SimulatedVolume(series, landmarks, scene)


def _draw_motion(rng: np.random.Generator, anatomy: PersonAnatomy, config: PersonConfig) -> PersonMotion:
    """The mean pattern with smooth local departures, made weaker where the deepest breath would squeeze tissue too far."""
    size = 6
    bumps = np.column_stack(
        (
            rng.uniform(-110, 90, size),
            rng.uniform(-0.7, 0.7, size),
            rng.uniform(0.3, 0.75, size) * rng.choice((-1.0, 1.0), size),
            rng.uniform(32, 50, size),
            rng.uniform(0.25, 0.4, size),
            rng.normal(0, 0.08, size),
        )
    )
    deepest = DEEPEST_BREATH * config.breathing_depth_mm
    states = [
        FrameState(lower, upper, config.cardiac_amplitude_mm, turn * config.cardiac_amplitude_mm, 0.0)
        for lower, upper, turn in ((deepest, deepest, 0.35), (deepest, 0.7 * deepest, -0.35), (0.7 * deepest, deepest, 0.0))
    ]
    z, y, x = np.meshgrid(np.linspace(-320, 200, 53), np.linspace(-140, 140, 25), np.linspace(-170, 170, 31), indexing="ij")
    for strength in (1.0, 0.7, 0.45, 0.2, 0.0):
        kept = bumps * [1, 1, 1, 1, 1, strength]
        motion = PersonMotion(anatomy.cavity, anatomy.heart, tuple(tuple(map(float, bump)) for bump in kept))
        if all(motion.reference_of((z, y, x), state).ratio.min() > _SMALLEST_JACOBIAN for state in states):
            break
    return motion


def _draw_coils(rng: np.random.Generator, strength: float) -> FloatArray:
    """(4, 5) place z, y, x, width and weight of coils before and behind the chest."""
    places = np.array([[60.0, -130.0, -70.0], [-60.0, -130.0, 70.0], [40.0, 130.0, 70.0], [-50.0, 130.0, -70.0]])
    places = places + rng.normal(0, 18, places.shape)
    widths, weights = rng.uniform(95, 135, (4, 1)), strength * rng.uniform(0.6, 1.2, (4, 1))
    return np.hstack((places, widths, weights))
