"""The simulated series: frames computed on demand, exact displacement between any two of them, landmarks and label maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.simulation.anatomy import Anatomy, draw_anatomy, wall_mm
from r2n2.simulation.breathing import DEEPEST_BREATH, Breathing, draw_breathing
from r2n2.simulation.contrast import Contrast, ContrastKind, contrast_of_material
from r2n2.simulation.material import Label, Material, draw_material
from r2n2.simulation.settings import ThoraxConfig
from r2n2.simulation.texture import FloatArray, Raster
from r2n2.simulation.thorax_motion import FrameState, Motion
from r2n2.transform import DisplacementField, sample_normalised

__all__ = ["SimulatedSeries", "thorax_series"]

_ADULT_MM = (330.0, 350.0)  # what of an adult's chest a frame must show
_SIDE_MM = 384.0
_MARGIN_MM = 42.0  # tissue that moves into view
_SMALLEST_JACOBIAN = 0.45  # of the pull-back to end-expiration
_FROM_WALL_MM = 28.0  # distance that landmarks keep from the chest wall
_DEEPER_BEHIND = 0.25  # how much longer the diaphragm's way is at position -1 than in the middle, relative to it
_OF_A_SLICE = frozenset({1, 3, 5})  # parts that are drawn for a slice and not for a person: tissue, breaths, landmarks
_WHITE = 1000.0  # grey value of blood without coil sensitivity


@dataclass(frozen=True, eq=False)
class _Scene:
    """Everything drawn at random but the noise; positions in anatomical mm."""

    config: ThoraxConfig
    grid: Grid
    scale: float
    material: Material
    motion: Motion
    breathing: Breathing
    sensitivity: FloatArray
    contrast: Contrast | None = None

    def lattice(self) -> FloatArray:
        """(H, W, 2) anatomical position of every pixel."""
        return self.to_anatomical(np.stack(np.meshgrid(*(np.arange(n) for n in self.grid.shape), indexing="ij"), axis=-1))

    def to_anatomical(self, index: NDArray[Any]) -> FloatArray:
        """Positions (..., 2) in mm of the body from INDEX."""
        return np.asarray((index - np.array(self.grid.centre_index)) * np.array(self.grid.spacing) / self.scale)

    def to_index(self, positions: FloatArray) -> FloatArray:
        """INDEX from positions (..., 2) in mm of the body."""
        return np.asarray(positions * self.scale / np.array(self.grid.spacing) + np.array(self.grid.centre_index))

    def state(self, frame: int) -> FrameState:
        return self.breathing.state(self.config, frame)

    def sample(self, channels: FloatArray, positions: FloatArray, *, nearest: bool = False) -> FloatArray:
        """Values (C, H, W) of raster channels (C, h, w) at positions (H, W, 2)."""
        raster = self.material.raster
        grid = Grid(raster.shape)
        index = torch.from_numpy((positions - np.array(raster.start_mm)) / raster.step_mm)
        place = grid.convert_points(index, Space.INDEX, Space.NORMALISED).movedim(-1, 0)[None]
        values = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32))[None]
        return sample_normalised(values, place, grid, mode="nearest" if nearest else "linear").image[0].numpy()


@dataclass(frozen=True, eq=False)
class _SimulatedFrames:
    """Frames (T, 1, H, W) computed when asked for; a frame does not depend on which others were."""

    scene: _Scene

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.scene.config.frames, 1, *self.scene.grid.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        contrast = self.scene.contrast
        return np.dtype(np.int16 if contrast is not None and contrast.signed else np.uint16)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        config, scene = self.scene.config, self.scene
        state, contrast = scene.state(index), scene.contrast
        reference = scene.motion.reference_of(scene.lattice(), state)
        factor = None if contrast is None else contrast.factor(index)
        signal, lung, blood = scene.sample(scene.material.signal if factor is None else scene.material.signal * factor, reference)
        if config.density_effect:
            signal = signal + lung * (_expansion(reference, scene) ** config.density_effect - 1)
        signal = signal + config.flow_effect * state.flow * blood
        signal = (signal if contrast is None else contrast.shown(signal, index)) * scene.sensitivity
        if config.noise:
            rng = np.random.default_rng([config.seed, 3, index, *_slice_key(config)])
            real, imaginary = rng.standard_normal((2, *signal.shape)) * config.noise
            signal = signal + real if contrast is not None and contrast.signed else np.hypot(signal + real, imaginary)
        limits = np.iinfo(self.dtype)
        return np.clip(np.rint(_WHITE * signal), limits.min, limits.max).astype(self.dtype)[None]


def _expansion(reference: FloatArray, scene: _Scene) -> FloatArray:
    """Tissue of end-expiration per area of the frame, (H, W): below 1 where the lung has expanded."""
    step_y, step_x = (s / scene.scale for s in scene.grid.spacing)
    along_y = np.gradient(reference, step_y, axis=0)
    along_x = np.gradient(reference, step_x, axis=1)
    return np.clip(along_y[..., 0] * along_x[..., 1] - along_y[..., 1] * along_x[..., 0], 0.2, 3)


@dataclass(frozen=True, eq=False)
class SimulatedSeries:
    """A series whose motion is known exactly.

    Parameters
    ----------
    series
        The images; frames are computed when asked for.
    landmarks
        The same places of the body in every frame, INDEX space.
    """

    series: ImageSeries
    landmarks: LandmarkSet
    _scene: _Scene

    def displacement(self, fixed: int, moving: int) -> DisplacementField:
        """Exact pull-back displacement (float64, mm) of every pixel of frame ``fixed``: where its tissue lies in ``moving``.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        for frame in (fixed, moving):
            if not 0 <= frame < len(self.series):
                raise IndexError(f"frame {frame} does not exist: the simulation has frames 0 to {len(self.series) - 1}")
        scene = self._scene
        lattice = scene.lattice()
        if fixed == moving:
            moved = lattice
        else:
            reference = scene.motion.reference_of(lattice, scene.state(fixed))
            moved = scene.motion.position_of(reference, scene.state(moving))
        vectors = np.moveaxis((moved - lattice) * scene.scale, -1, 0)
        return DisplacementField(torch.from_numpy(np.ascontiguousarray(vectors)), scene.grid, Space.WORLD)

    def label_map(self, frame: int) -> NDArray[np.uint8]:
        """(H, W) values of ``Label`` in a frame."""
        scene = self._scene
        reference = scene.motion.reference_of(scene.lattice(), scene.state(frame))
        return scene.sample(scene.material.labels[None], reference, nearest=True)[0].astype(np.uint8)

    def track(self, points_index: FloatArray, fixed: int, moving: int) -> FloatArray:
        """Where points (N, 2) of frame ``fixed`` lie in frame ``moving``, both INDEX; exact also between pixels."""
        scene = self._scene
        reference = scene.motion.reference_of(scene.to_anatomical(points_index), scene.state(fixed))
        return scene.to_index(scene.motion.position_of(reference, scene.state(moving)))


def thorax_series(config: ThoraxConfig, contrast: ContrastKind | None = None) -> SimulatedSeries:
    """Draw a person and its breathing; images are computed frame by frame when asked for.

    A frame large enough shows an adult. A smaller one shows a smaller body, which moves less in proportion.

    Parameters
    ----------
    config
        Settings.
    contrast
        How the brightness of tissue changes from frame to frame, with anatomy, motion and noise as without; None: it stays.
    """
    spacing = config.spacing_mm or (_SIDE_MM / max(config.shape),) * 2
    grid = Grid(config.shape, spacing)
    extent = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
    scale = min(1.0, *(e / wanted for e, wanted in zip(extent, _ADULT_MM, strict=True)))
    # One generator a part: adding a landmark or a frame must not change the person.
    anatomy_rng, material_rng, motion_rng, breathing_rng, coil_rng, mark_rng = (
        np.random.default_rng([config.seed, 1, part, *(_slice_key(config) if part in _OF_A_SLICE else ())]) for part in range(6)
    )
    anatomy = draw_anatomy(anatomy_rng, config.anatomy_variation, config.position)
    asked, config = config, _moved_as_at(config, anatomy)
    step = min(grid.spacing) / scale / 2
    size = [int(np.ceil((e / scale + 2 * _MARGIN_MM) / step)) | 1 for e in extent]
    raster = Raster((size[0], size[1]), step, (-(size[0] // 2) * step, -(size[1] // 2) * step))
    blur = 0.62 * float(np.sqrt(np.prod(grid.spacing))) / scale
    material = draw_material(material_rng, anatomy, raster, blur)
    motion = _draw_motion(motion_rng, anatomy, config)
    breathing = draw_breathing(breathing_rng, config)
    change = None
    if contrast is not None:
        change = contrast_of_material(np.random.default_rng([config.seed, 10]), material, contrast, config.frames)
    scene = _Scene(config, grid, scale, material, motion, breathing, _draw_sensitivity(coil_rng, grid, config.bias), change)
    times = tuple(round(frame * config.frame_interval_s, 9) for frame in range(config.frames))
    series = ImageSeries(
        _SimulatedFrames(scene),
        grid,
        times,
        name=f"simulated thorax {config.seed}" + (f", {contrast}" if contrast else ""),
        modality="MR",
        source={"format": "simulation", "path": "", "config": asked.model_dump(mode="json")},
    )
    return SimulatedSeries(series, _draw_landmarks(mark_rng, scene), scene)


def _slice_key(config: ThoraxConfig) -> tuple[int, ...]:
    """What tells the random numbers of a slice position from those of the others of the same person."""
    return () if config.slices == 1 else (config.slices, config.slice)


def _moved_as_at(config: ThoraxConfig, anatomy: Anatomy) -> ThoraxConfig:
    """The diaphragm's way is longer at the back, and the heart beats only where there is one."""
    if config.position == 0:
        return config
    depth = config.breathing_depth_mm * (1 - _DEEPER_BEHIND * config.position)
    return config.model_copy(
        update={"breathing_depth_mm": depth, "cardiac_amplitude_mm": config.cardiac_amplitude_mm * min(anatomy.heart_share, 1.0)}
    )


def _draw_motion(rng: np.random.Generator, anatomy: Anatomy, config: ThoraxConfig) -> Motion:
    """The mean pattern with smooth local departures, made weaker where the deepest breath would squeeze tissue too far."""
    size = 7
    places = np.stack((rng.uniform(-90, 130, size), rng.uniform(-120, 120, size), rng.uniform(28, 45, size)), axis=1)
    weights, lags = rng.normal(0, 0.06, (size, 2)), rng.uniform(0, 1, (size, 1))
    deepest = DEEPEST_BREATH * config.breathing_depth_mm
    extremes = [
        FrameState(deepest, deepest, squeeze * config.cardiac_amplitude_mm, rocking * config.cardiac_amplitude_mm, 0.0)
        for squeeze, rocking in ((0, 0), (1, 0.35), (0, -0.35))
    ]
    axis = np.linspace(-200, 200, 81)
    lattice = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    for strength in (1.0, 0.7, 0.45, 0.2, 0.0):
        bumps = np.concatenate((places, weights * strength, lags), axis=1)
        motion = Motion(anatomy.wall_half_width_mm, anatomy.heart_mm, tuple(tuple(map(float, bump)) for bump in bumps))
        if all(np.linalg.det(motion.jacobian(lattice, state)).min() > _SMALLEST_JACOBIAN for state in extremes):
            break
    return motion


def _draw_sensitivity(rng: np.random.Generator, grid: Grid, strength: float) -> FloatArray:
    """Brightness factor (H, W) of a few surface coils, mean 1, at rest in the scanner."""
    y, x = (np.linspace(-1, 1, n) for n in grid.shape)
    rows, columns = y[:, None], x[None, :]
    log = 0.5 * (rows**2 * 0.4 + columns**2)
    for _ in range(4):
        cy, cx = rng.uniform(-1.1, 1.1, 2)
        log = log + rng.normal(0, 0.45) * np.exp(-((rows - cy) ** 2 + (columns - cx) ** 2) / (2 * 0.6**2))
    log = (log - log.mean()) / max(float(np.ptp(log)), 1e-9)
    return np.asarray(np.exp(strength * log))


def _draw_landmarks(rng: np.random.Generator, scene: _Scene) -> LandmarkSet:
    config, material = scene.config, scene.material
    anywhere = scene.to_anatomical(rng.uniform(0.12, 0.88, (40 * config.landmarks + 40, 2)) * np.array(scene.grid.shape))
    inside = scene.sample(material.labels[None], anywhere[None], nearest=True)[0, 0]
    spare = anywhere[(inside == Label.LUNG) | (inside == Label.LIVER) | (inside == Label.HEART)]
    marks = np.concatenate((material.candidates, spare))
    # Where tissue slides along the chest wall no person would find a point again, and no pixel grid can hold the field.
    wall = wall_mm(marks[:, 0], scene.motion.wall_half_width_mm)
    marks = marks[np.abs(marks[:, 1]) < wall - _FROM_WALL_MM]
    places = [scene.to_index(scene.motion.position_of(marks, scene.state(t))) for t in range(config.frames)]
    tracks = np.stack(places)
    limit = np.array(scene.grid.shape) - 1
    visible = ((tracks >= 2) & (tracks <= limit - 2)).all(axis=(0, 2))
    chosen = _spread(tracks[0] * np.array(scene.grid.spacing) / scene.scale, np.flatnonzero(visible), config.landmarks)
    ids = tuple(f"L{k + 1:02d}" for k in range(len(chosen)))
    points = tracks[:, chosen].reshape(-1, 2).astype(np.float64)
    frames = np.repeat(np.arange(config.frames), len(chosen))
    return LandmarkSet(ids * config.frames, frames, points, Space.INDEX)


def _spread(positions_mm: FloatArray, order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first ``count`` of ``order`` that keep their distance, which shrinks until there are enough."""
    for distance in (22.0, 15.0, 10.0, 5.0, 2.0, 0.0):
        chosen: list[int] = []
        for k in order:
            apart = positions_mm[chosen] - positions_mm[k]
            if not chosen or float((apart**2).sum(1).min()) >= distance**2:
                chosen.append(int(k))
            if len(chosen) == count:
                return np.array(chosen, dtype=np.int64)
    return np.array(chosen, dtype=np.int64)
