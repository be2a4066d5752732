"""How many frames are registered at once: as many as fit a stated share of memory."""

from __future__ import annotations

import math

import torch

from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid
from r2n2.working import working_grid

__all__ = ["PROCESSOR_BUDGET_BYTES", "automatic_batch_size", "bytes_a_frame", "resolve_batch_size"]

PROCESSOR_BUDGET_BYTES = 2 * 2**30
"""What a batch may need on the processor."""

_MOST_ON_PROCESSOR = 16
_MOST_ON_CUDA = 64
# A part of what is free belongs to the allocator's gaps and to the other programs on the device.
_SHARE_OF_FREE = 0.5
# Measured on the processor, rounded up: what grows with the frame's own pixels, and with those of the method's finest square.
_BYTES_A_PIXEL = {"r2n2": 64, "fit": 64, "bspline": 230}
_BYTES_A_WORKING_PIXEL = 200
# Of a volume, measured likewise: its own voxels while it is read, reduced and assessed; float32 numbers that a voxel of the finest
# lattice takes, and each channel of features of it; rows of samples and matrices of a step, for every number that is fitted.
_BYTES_A_VOXEL = 56
_NUMBERS_A_WORKING_VOXEL, _NUMBERS_A_CHANNEL = 40, 25
_CHANNELS = {"auto": 6, "ssd": 1, "lncc": 2, "curve": 3, "ngf": 6, "mind": 12}
_NUMBERS_A_GAUSSIAN, _MATRICES = 12, 5


def resolve_batch_size(config: RegistrationConfig, grid: Grid, device: torch.device) -> int:
    """Frames at once: as the settings say, or for "auto" as many as fit."""
    return automatic_batch_size(config, grid, device) if config.batch_size == "auto" else config.batch_size


def automatic_batch_size(config: RegistrationConfig, grid: Grid, device: torch.device) -> int:
    """As many frames as fit: at least 1, at most 16 on the processor and 64 on CUDA.

    Parameters
    ----------
    config
        Decides the method and its working squares.
    grid
        Lattice of the frames.
    device
        Where they are registered; of a CUDA device half of the memory that is free now is counted on.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget, most = free * _SHARE_OF_FREE, _MOST_ON_CUDA
    else:
        budget, most = float(PROCESSOR_BUDGET_BYTES), _MOST_ON_PROCESSOR
    return max(1, min(most, int(budget / bytes_a_frame(config, grid))))


def bytes_a_frame(config: RegistrationConfig, grid: Grid) -> int:
    """About what each frame of a batch needs beside what the whole batch shares."""
    if grid.ndim == 3:
        return _bytes_a_volume(config.of_grid(3), grid)
    own = math.prod(grid.shape) * _BYTES_A_PIXEL[config.method]
    if config.method == "bspline":
        return own
    working = config.fit.sizes[-1] if config.method == "fit" else max(config.fit.sizes[-1], config.network.working_size)
    return own + working**grid.ndim * _BYTES_A_WORKING_PIXEL


def _bytes_a_volume(config: RegistrationConfig, grid: Grid) -> int:
    own, channels = math.prod(grid.shape) * _BYTES_A_VOXEL, _CHANNELS[config.similarity]
    finest = config.bspline.volume_size if config.method == "bspline" else config.fit.sizes[-1]
    voxels = math.prod(working_grid(grid, finest).shape)
    if config.method == "bspline":
        # Beside it, what is kept to go back through the warp.
        return own + voxels * (_BYTES_A_PIXEL["bspline"] + 4 * _NUMBERS_A_CHANNEL * channels)
    working = 4 * voxels * (_NUMBERS_A_WORKING_VOXEL + _NUMBERS_A_CHANNEL * channels)
    unknowns = _NUMBERS_A_GAUSSIAN * (config.fit.most_gaussians if config.steps == "auto" else config.steps)
    return own + working + 4 * unknowns * (2 * config.fit.pixels_a_step + _MATRICES * unknowns)
