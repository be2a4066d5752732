"""One picture moved by given motions into a series of frames, with landmarks whose places are known in every frame.

A frame shows at y the tissue of place y + h(y) of the picture, so that a landmark at q lies where y + h(y) = q. Lengths are pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter, map_coordinates
from skimage.feature import corner_shi_tomasi, peak_local_max

from r2n2.geometry import Space
from r2n2.series import LandmarkSet
from r2n2.simulation.lattice import random_field

__all__ = ["acquired", "landmarks_of", "moved", "places_in_frame", "stretched", "textured_places"]

_FROM_BORDER_PX = 12
_SEARCH_STEPS = 60
_RESIDUAL_PX = 0.01


def stretched(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intensities from the 0.5 % to the 99.5 % quantile as 0 to 1."""
    low, high = np.quantile(image, (0.005, 0.995))
    return np.clip((image - low) / max(high - low, 1e-9), -0.25, 1.5)


def moved(image: NDArray[np.float64], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The frame (n, m) that shows ``image`` at y + h(y); cubic, so that frames are hardly less sharp than the picture."""
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"))
    return map_coordinates(image, lattice + motion, order=3, mode="mirror")


def acquired(rng: np.random.Generator, frames: NDArray[np.float64], *, noise: float = 0.02, bias: float = 0.12) -> torch.Tensor:
    """Frames (T, n, n) of about 0 to 1 as a scanner would show them: (T, 1, n, n) float32, with mild coil bias and Rician noise."""
    size = frames.shape[-1]
    common = random_field(rng, size, 5)[0].numpy()
    changes = [random_field(rng, size, 5)[0].numpy() for _ in frames]
    factor = np.exp(bias * common[None] + 0.2 * bias * np.stack(changes))
    real, imaginary = rng.normal(0, noise, (2, *frames.shape))
    return torch.from_numpy(1000 * np.hypot(frames * factor + real, imaginary)).float()[:, None]


def textured_places(image: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count or fewer, 2) INDEX: peaks of the structure tensor's smaller eigenvalue inside the body, spread out."""
    smooth = gaussian_filter(image, 4)
    body = binary_fill_holes(smooth > smooth.min() + 0.12 * np.ptp(smooth))
    inner = np.zeros_like(body)
    inner[_FROM_BORDER_PX:-_FROM_BORDER_PX, _FROM_BORDER_PX:-_FROM_BORDER_PX] = True
    # A cubed root keeps a few very strong corners from hiding all others below the relative threshold.
    strength = np.cbrt(np.clip(corner_shi_tomasi(image, sigma=1.5), 0, None))
    for distance in (14, 10, 7, 5, 3):
        found = peak_local_max(
            strength,
            min_distance=distance,
            threshold_rel=0.1,
            num_peaks=count,
            labels=(body & inner).astype(int),
            exclude_border=False,
        )
        if len(found) >= count:
            break
    order = np.argsort(-strength[tuple(found.T)], kind="stable")
    return found[order[:count]].astype(np.float64)


def places_in_frame(points: NDArray[np.float64], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where landmarks (N, 2) of the picture lie in the frame: y with y + h(y) = q; NaN where there is no such place in it."""
    shape = motion.shape[1:]
    lattice = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))
    shown = (lattice + motion).reshape(2, -1).T
    # The nearest pixel first, as steps from far away could end at the edge.
    start = [int(((shown - point) ** 2).sum(1).argmin()) for point in points]
    places = lattice.reshape(2, -1).T[start]
    slopes = [np.gradient(component) for component in motion]

    def at(values: NDArray[np.float64], where: NDArray[np.float64]) -> NDArray[np.float64]:
        return map_coordinates(values, where.T, order=1, mode="nearest")

    for _ in range(_SEARCH_STEPS):
        missing = np.stack([at(h, places) for h in motion], axis=1) + places - points
        matrix = np.eye(2) + np.stack([np.stack([at(s, places) for s in pair], axis=-1) for pair in slopes], axis=-2)
        places = places - 0.8 * np.linalg.solve(matrix, missing[..., None])[..., 0]
    missing = np.stack([at(h, places) for h in motion], axis=1) + places - points
    limit = np.array(shape) - 1.0
    good = (np.abs(missing).max(1) < _RESIDUAL_PX) & (places >= 2).all(1) & (places <= limit - 2).all(1)
    return np.where(good[:, None], places, np.nan)


def landmarks_of(points: NDArray[np.float64], motions: NDArray[np.float64]) -> LandmarkSet:
    """Landmarks of frame 0, which is the picture itself, and of one frame a motion (T, 2, n, n); INDEX."""
    names, frames, places = [], [], []
    for frame, motion in enumerate([None, *motions]):
        found = points if motion is None else places_in_frame(points, motion)
        for number, place in enumerate(found):
            if np.isfinite(place).all():
                names.append(f"L{number + 1:02d}")
                frames.append(frame)
                places.append(place)
    return LandmarkSet(tuple(names), np.array(frames), np.array(places), Space.INDEX)
