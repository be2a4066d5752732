"""Volumes whose motion is known exactly: error against the number of Gaussians, time and memory; other programs beside.

``tubes`` is a function of the place, and so is its motion, a sum of waves, which no contestant can represent exactly: the fixed
volume is the scene at x + f(x), the moving one at x, neither interpolated. ``person`` and ``organ`` are slabs of 30 slices in which
organs slide by up to 25 mm (``slab_scenes``), with errors inside, outside and within 10 mm of the surface along which they slide.
Each contestant runs in a process of its own, on one thread, and its memory is what that process needs beyond what it had when the
volumes were there.

usage: python benchmarks/volumes.py [--scene tubes] [--seeds 100-101] [--shape 64,88,96] [--gaussians 25,50,100,200,400]
                                    [--others bspline,elastix,lung,demons,ants] [--similarity auto]
       [--scene FILE.py:FUNCTION]     FUNCTION(seed, shape) gives another ``Scene``

Seeds 100-199 are for choosing settings; 0-99 are test data.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from slab_scenes import Slab, organ_slab, person_slab
from torch import Tensor

from r2n2.benchmark import programs
from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import register_pair
from r2n2.runtime.memory import peak_memory_mib
from r2n2.transform import DisplacementField, Transform, lattice_rows, row_blocks
from r2n2.transform.displacement import folding_percent, jacobian_determinant

SPACING_MM = (4.0, 3.0, 3.0)
_NOISE, _BODY = 8.0, 0.86
_POINTS, _CANDIDATES = 300, 6000
_SLABS: dict[str, Callable[[int], Slab]] = {"person": person_slab, "organ": organ_slab}
_PROGRAMS: dict[str, Callable[[tuple[float, ...], int], programs.Program]] = {
    "elastix": partial(programs.elastix, control_px=8),
    "lung": programs.elastix_lung,
    "demons": programs.demons,
    "ants": programs.ants,
}


class Scene(Protocol):
    """A pair of volumes and what is known of them; it can be sent to another process."""

    @property
    def fixed(self) -> NDArray[np.float32]:
        """Of shape (*grid.shape)."""
        ...

    @property
    def moving(self) -> NDArray[np.float32]:
        """Of shape (*grid.shape)."""
        ...

    @property
    def grid(self) -> Grid:
        """Of both."""
        ...

    def errors_mm(self, transform: Transform) -> dict[str, NDArray[np.float64]]:
        """Distances from the truth by region, that which matters most first."""
        ...


@dataclass(frozen=True, eq=False)
class Waved:
    """Volumes moved by waves.

    Parameters
    ----------
    fixed, moving
        (*grid.shape) float32.
    points, moved
        (P, 3) NORMALISED, places in the fixed volume that can be told by their looks, and their exact displacements.
    body
        (*grid.shape) bool, where there is something.
    vectors
        (3, *grid.shape) float32 NORMALISED exact displacement.
    """

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    grid: Grid
    points: Tensor
    moved: Tensor
    body: Tensor
    vectors: Tensor

    def errors_mm(self, transform: Transform) -> dict[str, NDArray[np.float64]]:
        """At the points, and over the body."""
        at_points = (transform.displacement_at(self.points) - self.moved).norm(dim=1)
        field = transform.displacement_field().to_space(Space.NORMALISED).vectors
        over = (field - self.vectors).norm(dim=0)[self.body]
        unit = self.grid.unit_mm
        return {"points": unit * at_points.double().numpy(), "body": unit * over.double().numpy()}


def tubes(seed: int, shape: tuple[int, ...]) -> Waved:
    """Ellipsoids and branching tubes with texture in an ellipsoid, moved by waves: about 8 mm, up to 18."""
    grid = Grid(shape, SPACING_MM)
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor(grid.half_extent_mm) / grid.unit_mm
    looks, motion = _looks(generator, extent), _Waves.draw(generator, 6.0 / grid.unit_mm)
    fixed, moving, body = torch.empty(shape), torch.empty(shape), torch.empty(shape, dtype=torch.bool)
    vectors = torch.empty(3, *shape)
    for rows in row_blocks(grid):
        places = lattice_rows(grid, rows, extent).flatten(1).mT
        moved = places + motion(places)
        vectors[:, rows] = (moved - places).mT.reshape(3, -1, *shape[1:])
        fixed[rows], moving[rows] = (looks(at).view(-1, *shape[1:]) for at in (moved, places))
        body[rows] = ((moved / (_BODY * extent)).square().sum(1) < 0.95).view(-1, *shape[1:])
    candidates = (2 * torch.rand(_CANDIDATES, 3, generator=generator) - 1) * extent
    candidates = candidates[((candidates + motion(candidates)) / (_BODY * extent)).square().sum(1) < 0.9]
    step = 0.5 * SPACING_MM[-1] / grid.unit_mm
    slopes = [
        looks(candidates + motion(candidates) + step * e) - looks(candidates + motion(candidates) - step * e) for e in torch.eye(3)
    ]
    salient = torch.stack(slopes).norm(dim=0).argsort(descending=True)[:_POINTS]
    noisy = [(image + _NOISE * torch.randn(shape, generator=generator)).numpy() for image in (fixed, moving)]
    points = candidates[salient]
    return Waved(noisy[0], noisy[1], grid, points, motion(points), body, vectors)


@dataclass(frozen=True, eq=False)
class _Waves:
    """Sum of cosine waves, (N, 3) -> (N, D)."""

    vectors: Tensor
    phases: Tensor
    amplitudes: Tensor

    @classmethod
    def draw(cls, generator: torch.Generator, size: float) -> _Waves:
        """Eight of wavelengths 0.8 to 2.5, NORMALISED, longer ones larger; the largest sum is about ``size``."""
        count = 8
        lengths = 0.8 + 1.7 * torch.rand(count, 1, generator=generator)
        directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        amplitudes = lengths * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
        amplitudes = amplitudes * (1.6 * size / (count**0.5 * lengths.mean()))
        # Breathing moves most along the body's axis.
        amplitudes[:, 0] *= 1.4
        return cls(2 * math.pi * directions / lengths, 2 * math.pi * torch.rand(count, generator=generator), amplitudes)

    def __call__(self, places: Tensor) -> Tensor:
        return torch.cos(places @ self.vectors.mT.to(places) + self.phases.to(places)) @ self.amplitudes.to(places)


def _looks(generator: torch.Generator, extent: Tensor) -> Callable[[Tensor], Tensor]:
    """Intensities (N,) at places (N, 3) NORMALISED."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    centres, sizes, lifts = (1.2 * uniform(14, 3) - 0.6) * extent, (0.12 + 0.2 * uniform(14, 3)) * extent, 400 * uniform(14) - 200
    starts = (1.3 * uniform(40, 3) - 0.65) * extent
    ways = torch.nn.functional.normalize(uniform(40, 3) - 0.5, dim=1)
    lengths, radii = 0.1 + 0.35 * uniform(40), 0.012 + 0.025 * uniform(40)
    waves = 2 * math.pi * torch.randn(60, 3, generator=generator) * (2 + 8 * uniform(60, 1))
    phases = 2 * math.pi * uniform(60)

    def looks(places: Tensor) -> Tensor:
        value = torch.full_like(places[:, 0], 300.0) + 12 * torch.cos(places @ waves.mT + phases).sum(1)
        for centre, size, lift in zip(centres, sizes, lifts, strict=True):
            value += lift * torch.sigmoid(8 * (1 - ((places - centre) / size).square().sum(1)))
        for start, way, length, radius in zip(starts, ways, lengths, radii, strict=True):
            offset = places - start
            along = (offset @ way).clamp(-length, length)
            value += 260 * torch.sigmoid((radius - (offset - along[:, None] * way).norm(dim=1)) / 0.006)
        return value * torch.sigmoid(12 * (1 - (places / (_BODY * extent)).square().sum(1)))

    return looks


@dataclass(frozen=True)
class Score:
    """Of one contestant on one scene."""

    errors_mm: dict[str, NDArray[np.float64]]
    """By region."""
    folding_percent: float
    numbers: int
    seconds: float
    """Of the processor, which neighbours on a busy machine lengthen less than those of the clock."""
    gib: float


def _scored(contestant: str, scene: Scene, similarity: str) -> Score:
    """In a process of its own."""
    torch.set_num_threads(1)
    _reset_peak()
    before, began = _peak(), time.process_time()
    transform, numbers = _register(contestant, scene, similarity)
    seconds, after = time.process_time() - began, _peak()
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None]
    folded = float(folding_percent(jacobian_determinant(vectors, scene.grid)))
    return Score(scene.errors_mm(transform), folded, numbers, seconds, (after - before) / 2**10)


def _reset_peak() -> None:
    """So that the peak is that of what follows; Linux alone can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak() -> float:
    return peak_memory_mib() or math.nan


def _register(contestant: str, scene: Scene, similarity: str) -> tuple[Transform, int]:
    kind, _, count = contestant.partition(" ")
    if kind == "nothing":
        return DisplacementField.identity(scene.grid), 0
    if kind in _PROGRAMS:
        everywhere = np.ones(scene.grid.shape, bool)
        images = [programs.z_scored(image, everywhere) for image in (scene.fixed, scene.moving)]
        found = _PROGRAMS[kind](scene.grid.spacing, 1)(*images)
        return DisplacementField(torch.from_numpy(found.vectors_px), scene.grid, Space.INDEX), found.numbers
    settings: dict[str, Any] = {"method": kind, "similarity": similarity, "device": "cpu", "uncertainty": "off"}
    if kind == "bspline":
        settings["bspline"] = {"volume_control_points": int(count)}
    else:
        settings["volume_steps"] = int(count)
    *_, last = register_pair(scene.fixed, scene.moving, scene.grid, RegistrationConfig.parse(settings))
    transform = last.transforms()[0]
    return transform, 12 * int(count) if kind == "fit" else int(transform.control.numel())  # type: ignore[attr-defined]


def _maker(name: str) -> Callable[[int, tuple[int, ...]], Scene]:
    if name == "tubes":
        return tubes
    if name in _SLABS:
        return lambda seed, _shape: _SLABS[name](seed)
    path, _, function = name.rpartition(":")
    described = importlib.util.spec_from_file_location("scene", path)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    found: Callable[[int, tuple[int, ...]], Scene] = getattr(module, function)
    return found


def main() -> None:
    """Print the table, a row a contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", default="tubes", help="tubes, person, organ or FILE.py:FUNCTION")
    parser.add_argument("--seeds", default="100-101", help="first-last, or some with commas between")
    parser.add_argument("--shape", default="64,88,96", help="of tubes; slabs have theirs")
    parser.add_argument("--gaussians", default="25,50,100,200,400")
    parser.add_argument("--control-points", default="16", help="of the B-spline, along the longest axis")
    parser.add_argument("--others", default="bspline,elastix", help=f"any of bspline, {', '.join(_PROGRAMS)}")
    parser.add_argument("--similarity", default="auto", help="what ours compare by")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    seeds = [*range(int(first), int(last) + 1)] if last else [int(seed) for seed in first.split(",")]
    shape = tuple(int(n) for n in given.shape.split(","))
    others = [f"bspline {given.control_points}" if name == "bspline" else name for name in given.others.split(",") if name]
    contestants = ["nothing", *(f"fit {count}" for count in given.gaussians.split(",") if count), *others]
    scenes = [_maker(given.scene)(seed, shape) for seed in seeds]
    print(f"scene {given.scene}, seeds {given.seeds}, {' x '.join(map(str, scenes[0].grid.shape))} voxels, one thread")
    regions: list[str] = []
    for contestant in contestants:
        scores = []
        for scene in scenes:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                scores.append(pool.submit(_scored, contestant, scene, given.similarity).result())
        if not regions:
            regions = list(scores[0].errors_mm)
            print(f"| contestant | numbers | {' | '.join(regions)} | median | 95 % | largest | folding % | CPU s | GiB |")
            print("|---|---|" + "---|" * (len(regions) + 6))
        # Every pair counts alike, however large its organ.
        shown = [float(np.mean([s.errors_mm[region].mean() for s in scores])) for region in regions]
        errors = np.concatenate([s.errors_mm[regions[0]] for s in scores])
        shown += [float(np.median(errors)), float(np.quantile(errors, 0.95)), float(errors.max())]
        folded, seconds = (float(np.mean([getattr(s, name) for s in scores])) for name in ("folding_percent", "seconds"))
        row = " | ".join(f"{value:.2f}" for value in shown)
        gib = max(s.gib for s in scores)
        print(f"| {contestant} | {scores[0].numbers} | {row} | {folded:.3f} | {seconds:.0f} | {gib:.2f} |", flush=True)


if __name__ == "__main__":
    main()
