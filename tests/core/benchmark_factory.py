"""Contestants that fail in every way, and small images, for the tests of the comparison; imported by their processes too."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from r2n2.benchmark.contestant import Contestant, Ready, Settings
from r2n2.benchmark.images import Images
from r2n2.benchmark.programs import Found
from r2n2.geometry import Grid

GRID = Grid((97, 131), (1.6, 0.7), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))


def scene(shape: tuple[int, int] = GRID.shape, seed: int = 0) -> NDArray[np.float64]:
    """Smooth noise between 50 and 250."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.standard_normal(shape), 3) + gaussian_filter(rng.standard_normal(shape), 6)
    return 50 + 200 * (image - image.min()) / np.ptp(image)


def smooth_motion(shape: tuple[int, int] = GRID.shape) -> NDArray[np.float64]:
    """Pull-back displacement (2, *shape) in pixels: down by about 2.5 and left by about 1.5, nowhere the same."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return np.stack([2.5 + 0.6 * np.sin(x / 20), -1.5 + 0.5 * np.cos(y / 15)])


def moved(image: NDArray[np.float64], vectors_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """fixed(x) = image(x + vectors(x))."""
    lattice = np.mgrid[: image.shape[0], : image.shape[1]]
    return map_coordinates(image, lattice + vectors_px, order=3, mode="nearest")


def images(count: int = 2, grid: Grid = GRID) -> Images:
    """``count`` equal moving images, whose true displacement is ``smooth_motion``."""
    moving = scene(grid.shape)
    fixed = moved(moving, smooth_motion(grid.shape)).astype(np.float32)
    stack = np.repeat(moving.astype(np.float32)[None], count, 0)
    return Images(fixed, np.ones(grid.shape, bool), stack, np.ones(stack.shape, bool), grid)


def _identity(batch: Images) -> list[Found]:
    return [Found(np.zeros((2, *batch.grid.shape), np.float32), 0) for _ in range(len(batch))]


def _ready(register: str, pairs: int, grid: Grid, settings: Settings) -> Ready:
    return {"identity": _identity, "picky": _picky, "crash": _crash, "nan": _nan, "memory": _memory}[register], pairs


def _picky(batch: Images) -> list[Found]:
    print("a library prints")
    if (batch.moving[:, 0, 0] < 0).any():
        raise RuntimeError("negative corner")
    return _identity(batch)


def _crash(batch: Images) -> list[Found]:
    if len(batch) > 1:
        os.write(2, b"corrupted heap\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return _identity(batch)


def _nan(batch: Images) -> list[Found]:
    return [Found(found.vectors_px * np.nan, 0) for found in _identity(batch)]


def _memory(batch: Images) -> list[Found]:
    held = np.ones((len(batch), 2**22))  # 32 MiB a frame
    return _identity(batch)[: len(held)]


def _unready(grid: Grid, settings: Settings) -> Ready:
    raise ImportError("libfancy.so: cannot open shared object file")


def _environment(grid: Grid, settings: Settings) -> Ready:
    wrong = {name for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS") if os.environ.get(name) != "3"}
    if wrong or settings.threads != 3:
        raise RuntimeError(f"{wrong} are not 3")
    return _identity, 1


def contestant(kind: str, pairs: int = 16) -> Contestant:
    """A contestant by what goes wrong with it: identity, picky, crash, nan, memory, unready, environment."""
    make = {"unready": _unready, "environment": _environment}.get(kind, partial(_ready, kind, pairs))
    return Contestant(kind, kind, "for a test", make)
