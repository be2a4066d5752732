"""What a report shows, gathered in one pass over the frames: temporal mean and deviation, a line through time, examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.quantities import LengthUnit, length_unit
from r2n2.registration.results import FrameStatus
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.reader import RegisteredSeries
from r2n2.runtime.memory import FRAMES_BETWEEN, give_back_freed_memory
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["Example", "ReportData", "gather", "in_plane_mm"]

Image = NDArray[np.float32]
_EXAMPLES = 3
_MOVIE_FRAMES = 32
_MOTION_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Example:
    """One frame before and after, its displacement, and how far that may be off.

    Images (H, W), displacement (2, H, W) in mm along rows and columns, radius (H, W) in mm or None where it is not known.
    """

    frame: int
    moving: Image
    warped: Image
    displacement_mm: Image
    radius_mm: Image | None = None


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything drawn in a report; 3D frames are shown by their middle slice.

    Parameters
    ----------
    spacing_mm
        Of the rows and columns shown.
    reference
        (H, W) the fixed frame.
    limits
        Intensities shown as black and white.
    mean_before, mean_after, deviation_before, deviation_after
        (H, W) over time, frames that failed left out.
    line_axis, line_index
        The line through time runs along this axis (0: a column) at this index of the other axis.
    line_before, line_after
        (L, T) intensities on the line; NaN for frames that failed.
    examples
        The frame with the largest motion first, then those with the lowest similarity.
    movie
        (frame, moving, warped) of frames spread over the series.
    """

    spacing_mm: tuple[float, float]
    reference: Image
    limits: tuple[float, float]
    mean_before: Image
    mean_after: Image
    deviation_before: Image
    deviation_after: Image
    line_axis: int
    line_index: int
    line_before: Image
    line_after: Image
    examples: tuple[Example, ...]
    movie: tuple[tuple[int, Image, Image], ...]

    @property
    def unit(self) -> LengthUnit:
        """What lengths are shown in."""
        return length_unit(self.spacing_mm)


class _Moments:
    """Running mean and standard deviation of images (Welford)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def add(self, image: Image) -> None:
        finite = np.nan_to_num(image.astype(np.float64), posinf=0.0, neginf=0.0)
        self.count += 1
        change = finite - self.mean
        self.mean += change / self.count
        self._squares += change * (finite - self.mean)

    @property
    def deviation(self) -> Image:
        return np.sqrt(self._squares / max(self.count, 1)).astype(np.float32)


def gather(series: ImageSeries, registered: RegisteredSeries) -> ReportData:
    """Read and warp every frame once; memory holds a few images and no series."""
    from r2n2.registration import warp_frame

    metrics = registered.metrics
    usable = [row for row in metrics if row.status is not FrameStatus.FAILED]
    chosen = _example_frames(usable)
    axis, index = _line_of_motion(registered, usable)
    reference = _plane(series.frame(registered.reference))
    before, after = _Moments(reference.shape), _Moments(reference.shape)
    length = reference.shape[axis]
    lines = np.full((2, length, len(metrics)), np.nan, np.float32)
    movie_frames = set(np.linspace(0, len(metrics) - 1, min(_MOVIE_FRAMES, len(metrics))).round().astype(int).tolist())
    examples: dict[int, Example] = {}
    movie: list[tuple[int, Image, Image]] = []
    for count, row in enumerate(usable):
        if count % FRAMES_BETWEEN == 0:
            give_back_freed_memory()
        result = row.result(registered.transforms[row.frame])
        try:
            moving, warped = _plane(series.frame(row.frame)), _plane(warp_frame(series, result))
        except ReadError:
            continue  # already reported as a note of the run
        for moments, line, image in ((before, lines[0], moving), (after, lines[1], warped)):
            moments.add(image)
            line[:, row.frame] = np.take(image, index, axis=1 - axis)
        if row.frame in movie_frames:
            movie.append((row.frame, _shrunk(moving), _shrunk(warped)))
        if row.frame in chosen:
            radius = _radius(registered, row.frame)
            examples[row.frame] = Example(row.frame, moving, warped, in_plane_mm(result.transform), radius)
    spacing = registered.grid.spacing[-2:]
    return ReportData(
        spacing_mm=(spacing[0], spacing[1]),
        reference=reference,
        limits=_limits(reference),
        mean_before=before.mean.astype(np.float32),
        mean_after=after.mean.astype(np.float32),
        deviation_before=before.deviation,
        deviation_after=after.deviation,
        line_axis=axis,
        line_index=index,
        line_before=lines[0],
        line_after=lines[1],
        examples=tuple(examples[frame] for frame in chosen if frame in examples),
        movie=tuple(movie),
    )


def _radius(registered: RegisteredSeries, frame: int) -> Image | None:
    """(H, W) in mm, of the middle slice in 3D; None where it is not known."""
    found = registered.uncertainty(frame)
    return None if found is None else _plane(found.on(registered.grid).numpy()[None])


def in_plane_mm(transform: Transform, upto: int | None = None) -> Image:
    """Displacement (2, H, W) in mm along rows and columns, of the first ``upto`` steps of a sequence or of all."""
    from r2n2.transform import GaussianSequence

    whole = isinstance(transform, GaussianSequence) and upto is not None
    field = transform.displacement_field(upto=upto) if whole else transform.displacement_field()  # type: ignore[call-arg]
    grid = transform.grid
    vectors = field.to_space(Space.INDEX).vectors.detach().cpu().numpy()
    if grid.ndim == 3:
        vectors = vectors[:, grid.shape[0] // 2]
    return np.asarray(vectors[-2:] * np.array(grid.spacing[-2:])[:, None, None], np.float32)


def _plane(frame: NDArray[Any]) -> Image:
    """(C, *shape) as one (H, W) image: mean of colours, middle slice."""
    colours = frame[:3] if frame.shape[0] in (3, 4) else frame
    image = np.abs(colours).mean(axis=0) if np.iscomplexobj(colours) else colours.astype(np.float32).mean(axis=0)
    return np.asarray(image[image.shape[0] // 2] if image.ndim == 3 else image, np.float32)


def _example_frames(usable: Sequence[FrameMetrics]) -> list[int]:
    moved = [row for row in usable if row.status is not FrameStatus.REFERENCE]
    if not moved:
        return []
    largest = max(moved, key=lambda row: row.max_displacement_mm).frame

    def quality(row: FrameMetrics) -> float:
        return row.similarity_after if math.isfinite(row.similarity_after) else math.inf

    worst = [row.frame for row in sorted(moved, key=quality) if row.frame != largest]
    return [largest, *worst[: _EXAMPLES - 1]]


def _line_of_motion(registered: RegisteredSeries, usable: Sequence[FrameMetrics]) -> tuple[int, int]:
    """The axis along which the series moves most, and the line on which it does."""
    ranked = sorted(usable, key=lambda row: -row.max_displacement_mm)[:_MOTION_FRAMES]
    motion = sum((np.abs(in_plane_mm(registered.transforms[row.frame])) for row in ranked), start=np.zeros(1))
    if motion.ndim != 3 or not motion.any():
        return 0, registered.grid.shape[-1] // 2
    axis = int(motion.sum(axis=(1, 2)).argmax())
    return axis, int(motion[axis].sum(axis=axis).argmax())


def _limits(image: Image) -> tuple[float, float]:
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(finite, (0.005, 0.995))
    return float(low), float(high if high > low else low + 1)


def _shrunk(image: Image, longest: int = 240) -> Image:
    """Block means, so that the longer side is at most about ``longest`` pixels."""
    factor = -(-max(image.shape) // longest)
    if factor == 1:
        return image
    rows, columns = (n // factor * factor for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)
