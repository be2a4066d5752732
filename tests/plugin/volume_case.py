"""Small volumes with known transforms for tests of the window: odd, anisotropic, their axes turned in the patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameResult, FrameStatus, unregistered
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence

# Slices to the left, rows to the head, columns to the back.
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
GRID = Grid((14, 22, 18), (3.0, 1.2, 1.5), (10.0, -20.0, 30.0), SAGITTAL)
CONFIG = RegistrationConfig(method="fit", steps=3, volume_steps=3, reference=0, device="cpu")
STEPS = 3


def volumes(channels: int = 1) -> ImageSeries:
    """A blurred ellipsoid that moves along z by up to 3 mm: 3 frames, int16, every 0.5 s."""
    z, y, x = np.meshgrid(*(np.arange(n) * step for n, step in zip(GRID.shape, GRID.spacing, strict=True)), indexing="ij")
    frames = []
    for shift in (0.0, 1.5, 3.0):
        radius = np.sqrt(((z - 19 - shift) / 12) ** 2 + ((y - 13) / 8) ** 2 + ((x - 12) / 8) ** 2)
        frames.append(900 / (1 + np.exp((radius - 1) / 0.12)))
    data = np.stack(frames)[:, None] * np.arange(1, channels + 1)[:, None, None, None]
    return ImageSeries(data.astype(np.int16), GRID, times_s=(0.0, 0.5, 1.0), name="lung")


def sequence() -> GaussianSequence:
    """Three turned Gaussians: in the middle, near the first slices, near the last ones."""
    index = torch.tensor([[6.3, 10.2, 8.1], [2.1, 6.4, 12.2], [11.4, 15.3, 5.2]], dtype=torch.float64)
    half = GRID.unit_mm
    return GaussianSequence(
        centres=GRID.convert_points(index, Space.INDEX, Space.NORMALISED),
        sigmas=torch.tensor([[5.0, 3.0, 4.0], [4.0, 2.5, 3.5], [3.0, 3.0, 6.0]], dtype=torch.float64) / half,
        orientation=torch.tensor([[0.3, -0.5, 0.2], [-0.8, 0.1, 0.4], [0.2, 0.6, -0.7]], dtype=torch.float64),
        amplitudes=torch.tensor([[2.0, -1.0, 0.5], [-0.8, 0.9, 1.2], [1.0, 1.1, -0.6]], dtype=torch.float64) / half,
        grid=GRID,
    )


def results() -> tuple[FrameResult, ...]:
    """Frame 0 is the reference, frames 1 and 2 are moved by ``sequence``."""
    moved = [
        FrameResult(
            frame=frame,
            transform=sequence(),
            status=FrameStatus.OK,
            message="",
            similarity_before=0.8,
            similarity_after=0.9,
            folding_percent=0.0,
            min_jacobian=0.5,
            max_displacement_mm=2.4,
            seconds=0.1,
            gaussians=STEPS,
        )
        for frame in (1, 2)
    ]
    return (unregistered(0, GRID, FrameStatus.REFERENCE, ""), *moved)


def show(viewer: Any, series: ImageSeries | None = None) -> Any:
    """The series as an Image layer of the viewer."""
    from napari_r2n2.layers.from_series import series_to_layers

    data, options, _kind = series_to_layers([series or volumes()])[0]
    return viewer.add_image(data, **options)


def align(viewer: Any, layer: Any) -> Any:
    """Show ``results`` of a layer; its ``ResultLayers``."""
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.result_layers import results_of
    from napari_r2n2.layers.to_series import axes_of, layer_to_series

    shown = results_of(viewer)
    shown.session.begin(layer_to_series(layer), CONFIG)
    shown.begin(Place.of(layer, axes_of(layer)), layer)
    for result in results():
        shown.session.add(0, 0, result)
    shown.session.end()
    return shown


def mahalanobis(positions_mm: Any) -> Any:
    """(T, P) distance of positions along z, y, x in mm from the first voxel to the centres of ``sequence``, in sigmas."""
    from r2n2.transform import precision_matrix

    found = sequence()
    index = torch.as_tensor(np.asarray(positions_mm) / np.array(GRID.spacing), dtype=torch.float64)
    offset = GRID.convert_points(index, Space.INDEX, Space.NORMALISED)[None] - found.centres[:, None]
    precision = precision_matrix(found.sigmas, found.orientation)
    return torch.einsum("tpi,tij,tpj->tp", offset, precision, offset).sqrt().numpy()
