"""What a report shows, gathered in one pass over the frames: temporal mean and deviation, a line through time, examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.quantities import LengthUnit, length_unit
from r2n2.registration.results import FrameStatus
from r2n2.report.planes import Image, Motion, Plane
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.reader import RegisteredSeries
from r2n2.runtime.memory import FRAMES_BETWEEN, give_back_freed_memory
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["Example", "ReportData", "View", "gather"]

_EXAMPLES = 3
_MOVIE_FRAMES = 32
_MOTION_FRAMES = 16
_PATIENT_FORMATS = ("dicom", "nifti", "mha", "nrrd")


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
class View:
    """One frame of a volume series in one plane, before and after, and what moves in front of it and behind.

    Images (H, W) in ``plane``; ``projected_mm`` (h, w) is the longest displacement along the line of sight in mm, on a coarser
    lattice of spacing ``projected_spacing_mm``.
    """

    plane: Plane
    reference: Image
    moving: Image
    warped: Image
    projected_mm: Image
    projected_spacing_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything drawn in a report; volumes are shown in the plane in which they move most.

    Parameters
    ----------
    plane
        Shown in all images.
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
    views
        Of volumes, the first example in three planes; else none.
    trust
        (H, W) in (0, 1], how much each pixel of the reference counted in the last steps; None where all counted alike.
    """

    plane: Plane
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
    views: tuple[View, ...] = ()
    trust: Image | None = None

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Of the rows and columns shown."""
        return self.plane.spacing_mm

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
    fixed = series.frame(registered.reference)
    planes, motion = _planes(series, registered, usable, fixed)
    plane = planes[0]
    axis, index = _line_of_motion(registered, usable, plane)
    reference = plane.image(fixed)
    limits = _limits(reference if motion is None else fixed)
    if motion is None:
        del fixed  # a volume is cut again, a frame is what was taken of it
    before, after = _Moments(reference.shape), _Moments(reference.shape)
    length = reference.shape[axis]
    lines = np.full((2, length, len(metrics)), np.nan, np.float32)
    movie_frames = set(np.linspace(0, len(metrics) - 1, min(_MOVIE_FRAMES, len(metrics))).round().astype(int).tolist())
    examples: dict[int, Example] = {}
    movie: list[tuple[int, Image, Image]] = []
    views: tuple[View, ...] = ()
    for count, row in enumerate(usable):
        if count % FRAMES_BETWEEN == 0:
            give_back_freed_memory()
        result = row.result(registered.transforms[row.frame])
        try:
            acquired = series.frame(row.frame)
            aligned = warp_frame(series, result)
        except ReadError:
            continue  # already reported as a note of the run
        moving, warped = plane.image(acquired), plane.image(aligned)
        for moments, line, image in ((before, lines[0], moving), (after, lines[1], warped)):
            moments.add(image)
            line[:, row.frame] = np.take(image, index, axis=1 - axis)
        if row.frame in movie_frames:
            movie.append((row.frame, _shrunk(moving), _shrunk(warped)))
        if row.frame in chosen:
            radius = _radius(registered, row.frame, plane)
            examples[row.frame] = Example(row.frame, moving, warped, plane.displacement_mm(result.transform), radius)
        if motion is not None and chosen[:1] == [row.frame]:
            views = tuple(_view(at, motion, result.transform, fixed, acquired, aligned) for at in planes)
        del acquired, aligned  # before the next is read
    return ReportData(
        plane=plane,
        reference=reference,
        limits=limits,
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
        views=views,
        trust=None if (trust := registered.trust()) is None else plane.image(trust[None]),
    )


def _view(plane: Plane, motion: Motion, transform: Transform, *frames: NDArray[Any]) -> View:
    """Of a reference, a frame and the same frame aligned."""
    reference, moving, warped = (plane.image(frame) for frame in frames)
    projected, spacing = motion.projected(transform, plane)
    return View(plane, reference, moving, warped, projected, spacing)


def _planes(
    series: ImageSeries, registered: RegisteredSeries, usable: Sequence[FrameMetrics], fixed: NDArray[Any]
) -> tuple[tuple[Plane, ...], Motion | None]:
    """The planes to show, that of the largest motion first, and for volumes what was found of their motion."""
    if registered.grid.ndim == 2:
        return (Plane(registered.grid),), None
    transforms = (registered.transforms[row.frame] for row in _most_moved(usable))
    patient = series.source.get("format") in _PATIENT_FORMATS
    motion = Motion(registered.grid, transforms, patient=patient, image=fixed[:3].real.mean(axis=0))
    return motion.planes, motion


def _radius(registered: RegisteredSeries, frame: int, plane: Plane) -> Image | None:
    """(H, W) in mm; None where it is not known."""
    found = registered.uncertainty(frame)
    return None if found is None else plane.image(found.on(registered.grid).numpy()[None])


def _most_moved(usable: Sequence[FrameMetrics]) -> list[FrameMetrics]:
    return sorted(usable, key=lambda row: -row.max_displacement_mm)[:_MOTION_FRAMES]


def _example_frames(usable: Sequence[FrameMetrics]) -> list[int]:
    moved = [row for row in usable if row.status is not FrameStatus.REFERENCE]
    if not moved:
        return []
    largest = max(moved, key=lambda row: row.max_displacement_mm).frame

    def quality(row: FrameMetrics) -> float:
        return row.similarity_after if math.isfinite(row.similarity_after) else math.inf

    worst = [row.frame for row in sorted(moved, key=quality) if row.frame != largest]
    return [largest, *worst[: _EXAMPLES - 1]]


def _line_of_motion(registered: RegisteredSeries, usable: Sequence[FrameMetrics], plane: Plane) -> tuple[int, int]:
    """The axis of the plane along which the series moves most, and the line on which it does."""
    ranked = _most_moved(usable)
    motion = sum((np.abs(plane.displacement_mm(registered.transforms[row.frame])) for row in ranked), start=np.zeros(1))
    if motion.ndim != 3 or not motion.any():
        return 0, plane.shape[1] // 2
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
