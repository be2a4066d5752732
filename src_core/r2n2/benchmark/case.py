"""A series as the comparison takes it: some frames to register to one reference, and what is known about where things are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.benchmark.images import Images
from r2n2.errors import ArgumentError, R2N2Error, ReadError
from r2n2.geometry import Grid
from r2n2.preprocessing import luminance
from r2n2.registration import resolve_reference
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.simulation import ThoraxConfig, thorax_series

__all__ = ["Case", "make_case", "sample_case"]


@dataclass(frozen=True, eq=False)
class Case:
    """What is registered.

    Parameters
    ----------
    name
        Of the series.
    images
        The reference and the moving frames.
    reference, frames
        Their indices in the series.
    total
        Frames that the series has.
    spacing_known
        False where 1 pixel is called 1 mm.
    landmarks
        Of the reference and of frames, if known.
    labels
        (1 + T, *shape) whole numbers of the reference and the moving frames, if known.
    notes
        What a reader of the numbers should know, one sentence each.
    """

    name: str
    images: Images
    reference: int
    frames: tuple[int, ...]
    total: int
    spacing_known: bool = True
    landmarks: LandmarkSet | None = None
    labels: NDArray[np.integer] | None = None
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Lattice of every frame."""
        return self.images.grid


def make_case(
    series: ImageSeries,
    *,
    frames: int,
    reference: int | str = "auto",
    landmarks: LandmarkSet | None = None,
    labels: ImageSeries | None = None,
) -> Case:
    """Choose frames spread evenly over a series and read them.

    Parameters
    ----------
    series
        2D frames.
    frames
        At most so many moving frames; where landmarks are given, of those that hold some.
    reference
        Index or "auto": the choice of ``r2n2 register``, or the first frame with landmarks where that has none.
    landmarks
        In INDEX or WORLD space of the series' grid.
    labels
        A label map a frame, as a series of whole numbers.

    Raises
    ------
    ArgumentError
        If the frames are not 2D, the reference does not exist or the labels do not fit.
    ReadError
        If no frame can be registered.
    """
    if series.grid.ndim != 2:
        raise ArgumentError(
            f"{series.name}: the comparison is of 2D frames, these have {series.grid.ndim} axes; give one slice of it"
        )
    notes = [*series.notes, *(() if landmarks is None else landmarks.notes)]
    marked = None if landmarks is None else sorted(set(landmarks.frames.tolist()))
    index = resolve_reference(series, reference)
    if marked and reference == "auto" and index not in marked:
        index = marked[0]
        notes.append(f"Frame {index} is the reference: the first one with landmarks.")
    usable = range(len(series)) if landmarks is None else _partners(landmarks, index, len(series))
    wanted = _spread([k for k in usable if k != index], frames)
    fixed, fixed_valid = _read(series, index)
    moving: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}
    for frame in wanted:
        try:
            moving[frame] = _read(series, frame)
        except ReadError as error:
            notes.append(f"Frame {frame} takes no part: {error}")
    if not moving:
        raise ReadError(f"{series.name}: no frame can be registered to frame {index}; {' '.join(notes) or 'check the series'}")
    stacks = [np.stack(parts) for parts in zip(*moving.values(), strict=True)]
    images = Images(fixed, fixed_valid, stacks[0], stacks[1], series.grid)
    maps = None if labels is None else _label_maps(labels, series, (index, *moving))
    return Case(series.name, images, index, tuple(moving), len(series), series.spacing_known, landmarks, maps, tuple(notes))


def sample_case(frames: int, *, shape: tuple[int, int] = (256, 256), seed: int = 0) -> Case:
    """A simulated breathing thorax, whose landmarks and organs are known exactly."""
    truth = thorax_series(ThoraxConfig(seed=seed, shape=shape))
    organs = np.stack([truth.label_map(frame)[None] for frame in range(len(truth.series))])
    return make_case(truth.series, frames=frames, landmarks=truth.landmarks, labels=ImageSeries(organs, truth.series.grid))


def _partners(landmarks: LandmarkSet, reference: int, total: int) -> list[int]:
    """Frames that share an id with the reference."""
    ids = set(landmarks.in_frame(reference).ids)
    marked = {frame for name, frame in zip(landmarks.ids, landmarks.frames.tolist(), strict=True) if name in ids}
    found = sorted(frame for frame in marked if frame < total and frame != reference)
    if not found:
        raise ReadError(
            f"landmarks: none of reference frame {reference} is marked in another frame of the series under the same id; "
            f"mark both, or give --reference a marked frame"
        )
    return found


def _spread(frames: list[int], count: int) -> list[int]:
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[k] for k in places]


def _read(series: ImageSeries, frame: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    try:
        image, valid = (part[0].numpy() for part in luminance(series.frame(frame)))
    except (OSError, ValueError, RuntimeError, R2N2Error) as error:
        raise ReadError(f"{series.name}, frame {frame}: {error}") from None
    if image[valid].min() == image[valid].max():
        raise ReadError(f"{series.name}, frame {frame}: every pixel has the same value")
    return image, valid


def _label_maps(labels: ImageSeries, series: ImageSeries, frames: tuple[int, ...]) -> NDArray[np.integer]:
    if (
        labels.grid.shape != series.grid.shape
        or len(labels) != len(series)
        or labels.channels != 1
        or labels.dtype.kind not in "bui"
    ):
        found = f"{len(labels)} frames of {labels.grid.shape} pixels, {labels.channels} channels, {labels.dtype}"
        raise ArgumentError(
            f"labels: expected whole numbers, {len(series)} frames of {series.grid.shape} pixels as the series has, got {found}"
        )
    return np.stack([labels.frame(k)[0].astype(np.int64) for k in frames])
