"""The pictures of a movie one after the other: every frame before beside after, or one frame after each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Space
from r2n2.movies.drawing import Canvas, Panel, Picture
from r2n2.transform import GaussianSequence, Transform, principal_axes

__all__ = ["MovieSeries", "before_after", "step_by_step"]

Frame = Callable[[int], NDArray[np.generic]]

_LIMITS_PERCENT = (0.5, 99.7)
_LOOKED_AT = 5
_ROUND = 60


@dataclass(frozen=True, eq=False)
class MovieSeries:
    """What a movie is made of.

    Parameters
    ----------
    count
        Number of frames.
    before, after
        Give a frame (C, *shape) as it came, and aligned.
    spacing_mm
        Of all axes of a frame; of a volume its middle plane is shown.
    times_s
        Of all frames, or None.
    spacing_known
        Whether lengths are mm.
    """

    count: int
    before: Frame
    after: Frame
    spacing_mm: tuple[float, ...]
    times_s: tuple[float, ...] | None = None
    spacing_known: bool = True

    def plane(self, frame: NDArray[np.generic]) -> NDArray[np.generic]:
        """(H, W) grey or (H, W, 3): colour stays colour, other channels are averaged."""
        flat = frame[:, frame.shape[1] // 2] if frame.ndim == 4 else frame
        if np.iscomplexobj(flat):
            flat = np.abs(flat)
        if flat.shape[0] in (3, 4) and flat.dtype == np.uint8:
            return np.moveaxis(flat[:3], 0, -1)
        return flat[0] if flat.shape[0] == 1 else flat.astype(np.float64).mean(axis=0)

    def limits(self) -> tuple[float, float]:
        """Grey levels between which nearly all pixels of some frames lie, the same for every picture."""
        chosen = np.unique(np.linspace(0, self.count - 1, _LOOKED_AT).round().astype(int))
        values = np.concatenate([np.ravel(self.plane(self.before(int(k)))).astype(np.float64) for k in chosen])
        values = values[np.isfinite(values)]
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values, _LIMITS_PERCENT)
        return float(low), float(high if high > low else low + 1)

    def canvas(self, panels: int, height: int) -> Canvas:
        """On which pictures of so many panels are drawn."""
        shape = self.plane(self.before(0)).shape[:2]
        spacing = (float(self.spacing_mm[-2]), float(self.spacing_mm[-1]))
        return Canvas((shape[0], shape[1]), spacing, panels, height=height, spacing_known=self.spacing_known)


def before_after(series: MovieSeries, *, frames: Sequence[int] | None = None, height: int = 320) -> Iterator[Picture]:
    """Every frame as it came beside the aligned one.

    Parameters
    ----------
    frames
        Which, in order; all by default.
    height
        Of a panel at least, in pixels.
    """
    canvas, limits = series.canvas(2, height), series.limits()
    for frame in range(series.count) if frames is None else frames:
        time = "" if series.times_s is None else f"   {series.times_s[frame]:.2f} s"
        panels = [
            Panel("before", series.plane(series.before(frame)), limits),
            Panel("aligned", series.plane(series.after(frame)), limits),
        ]
        yield canvas.draw(panels, f"frame {frame}{time}")


def step_by_step(series: MovieSeries, frame: int, reference: int, transform: Transform, *, height: int = 320) -> Iterator[Picture]:
    """One frame after each Gaussian of its sequence, between the reference and what is left of the difference.

    What is no sequence has two steps: before and after.

    Parameters
    ----------
    reference
        The frame that it is aligned to.
    transform
        From the reference into the frame.
    """
    from r2n2.registration import warp_pixels

    canvas, limits = series.canvas(3, height), series.limits()
    fixed = series.plane(series.before(reference))
    moving = series.before(frame)
    count = len(transform) if isinstance(transform, GaussianSequence) else 1
    for step in range(count + 1):
        curves: tuple[NDArray[np.float64], ...] = ()
        image = moving
        if step and isinstance(transform, GaussianSequence):
            image = warp_pixels(moving, transform.displacement_field(step))
            curves = (_ellipse(transform, step - 1),) if transform.grid.ndim == 2 else ()
        elif step:
            image = warp_pixels(moving, transform)
        warped = series.plane(image)
        panels = [
            Panel("reference", fixed, limits),
            Panel("aligned so far", warped, limits, curves),
            Panel("difference", _difference(warped, fixed, limits)),
        ]
        yield canvas.draw(panels, f"frame {frame}   step {step} of {count}")


def _ellipse(sequence: GaussianSequence, step: int) -> NDArray[np.float64]:
    """(N, 2) outline of one standard deviation, in pixels (y, x)."""
    turn = torch.linspace(0, 2 * np.pi, _ROUND + 1, dtype=torch.float64)[:-1]
    axes = principal_axes(sequence.orientation[step : step + 1])[0].double()
    sigmas = sequence.sigmas[step].double()
    round_it = torch.stack((torch.cos(turn), torch.sin(turn)), dim=1) * sigmas
    points = sequence.centres[step].double() + round_it @ axes
    return np.asarray(sequence.grid.convert_points(points, Space.NORMALISED, Space.INDEX).numpy())


def _difference(warped: NDArray[np.generic], fixed: NDArray[np.generic], limits: tuple[float, float]) -> Picture:
    """Blue where the frame is darker than the reference, red where it is brighter, white where they agree."""
    grey = [image.astype(np.float64).mean(axis=-1) if image.ndim == 3 else image.astype(np.float64) for image in (warped, fixed)]
    share = np.clip(np.nan_to_num(grey[0] - grey[1]) / (0.5 * (limits[1] - limits[0])), -1, 1)[..., None]
    red, blue = np.array([178.0, 24, 43]), np.array([33.0, 102, 172])
    colours = 255 * (1 - np.abs(share)) + np.abs(share) * np.where(share > 0, red, blue)
    return np.asarray(np.rint(colours), np.uint8)
