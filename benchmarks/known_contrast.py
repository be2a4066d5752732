"""Short series whose contrast changes from frame to frame, the motion known all over what they show: for the radius under ``ngf``.

recoloured: thoraxes and slices of real hearts in the five changes of contrast that can be simulated, by turns. lost: the same,
shifted by 8 to 40 % of the side, which the initial stage, a comparison of intensities, does not find: frames that are wrong.
Seeds and patients are used as in ``known_motion``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from held_out import VALIDATION_PATIENTS, _png_pairs
from known_motion import EVALUATION_SEEDS, FRAMES, KnownSeries, drawn_places, shifted, within
from moved_slices import acquired, moved, places_in_frame, stretched
from scipy.ndimage import gaussian_filter

from r2n2.geometry import Grid
from r2n2.registration import resolve_reference
from r2n2.series import ImageSeries
from r2n2.simulation import ContrastKind, MotionConfig, ThoraxConfig, thorax_series
from r2n2.simulation.contrast import contrast_of_picture
from r2n2.simulation.random_motion import draw_motion

__all__ = ["CONTRAST_KINDS"]

_CHANGES = tuple(ContrastKind)
_SHOWN = 8  # frames of which the reference is chosen, as it would be; three others are registered to it
_SIDE_PX = 256
_MOVING = MotionConfig(none_share=0.0)


def _recoloured(seed: int, data: Path) -> KnownSeries:
    change = _CHANGES[(seed // 2) % len(_CHANGES)]
    return _thorax(seed, change) if seed % 2 else _slice(seed, change, data)


def _thorax(seed: int, change: ContrastKind) -> KnownSeries:
    rng = np.random.default_rng([seed, 47])
    config = ThoraxConfig(seed=seed, frames=_SHOWN, frame_interval_s=0.53, shape=(_SIDE_PX, _SIDE_PX), slices=5, slice=seed % 5)
    truth, plain = thorax_series(config, change), thorax_series(config)
    frames = np.stack([truth.series.frame(k) for k in range(_SHOWN)]).astype(np.float32)
    chosen = _chosen(rng, frames, truth.series.grid)
    # The body is found in the contrast that the person was drawn in.
    points = drawn_places(rng, np.asarray(plain.series.frame(chosen[0]))[0])
    places = np.stack([truth.track(points, chosen[0], k) for k in chosen[1:]])
    return _series(seed, frames[chosen], truth.series.grid, points, within(places, truth.series.grid.shape))


def _slice(seed: int, change: ContrastKind, data: Path) -> KnownSeries:
    rng = np.random.default_rng([seed, 48])
    patient = VALIDATION_PATIENTS[2] if seed in EVALUATION_SEEDS else VALIDATION_PATIENTS[seed // 2 % 2]
    slices = list(_png_pairs(data, patient))
    picture = slices[(seed // 4) % len(slices)][1][0][0]
    image, size = gaussian_filter(stretched(picture), 0.7), picture.shape[0]
    motions = [draw_motion(rng, size, _MOVING)[0].double().numpy() * (size - 1) / 2 for _ in range(_SHOWN)]
    drawn = contrast_of_picture(rng, image, change, _SHOWN)
    seen = [drawn.shown(image if (f := drawn.factor(k)) is None else image * f, k) for k in range(_SHOWN)]
    shown = np.stack([moved(part, motion) for part, motion in zip(seen, motions, strict=True)])
    signed = 1000 * (shown + rng.normal(0, 0.02, shown.shape))
    frames = signed[:, None].astype(np.float32) if drawn.signed else acquired(rng, np.abs(shown)).numpy()
    grid = Grid(picture.shape, (1.4, 1.4))
    chosen, points = _chosen(rng, frames, grid), drawn_places(rng, image)
    places = np.stack([places_in_frame(points, motions[k]) for k in chosen])
    known = np.isfinite(places[0]).all(-1)
    return _series(seed, frames[chosen], grid, places[0][known], places[1:, known])


def _chosen(rng: np.random.Generator, frames: np.ndarray, grid: Grid) -> list[int]:
    """The reference, and three other frames."""
    reference = resolve_reference(ImageSeries(frames, grid), "auto")
    others = [k for k in range(len(frames)) if k != reference]
    return [reference, *map(int, rng.choice(others, FRAMES, replace=False))]


def _series(seed: int, frames: np.ndarray, grid: Grid, points: np.ndarray, places: np.ndarray) -> KnownSeries:
    return KnownSeries("recoloured", f"recoloured {seed}", torch.from_numpy(frames), grid, points, places)


def _lost(seed: int, data: Path) -> KnownSeries:
    return shifted(_recoloured(seed, data), seed, "lost")


CONTRAST_KINDS: dict[str, Callable[[int, Path], KnownSeries]] = {"recoloured": _recoloured, "lost": _lost}
