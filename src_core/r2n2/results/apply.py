"""A registration applied to something else of the same place: images, label maps and landmarks, forwards or inverted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ReadError
from r2n2.evaluation import warp_labels
from r2n2.geometry import Space
from r2n2.registration.resampling import warp_frame, warp_pixels
from r2n2.results.carrier import Carrier, InverseReport
from r2n2.results.chosen_images import chosen_images
from r2n2.results.label_values import all_whole
from r2n2.results.placing import place
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import Transform

__all__ = [
    "OUTPUT_FORMATS",
    "InverseReport",
    "apply_to_landmarks",
    "apply_to_series",
    "check_output",
    "warped_frames",
]

OUTPUT_FORMATS = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mha": "mha",
    ".ome.tif": "ome-tiff",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "npy",
    ".npz": "npz",
    ".zarr": "ome-zarr",
    ".gif": "gif",
}


def _ignore(frame: int, residual_mm: float) -> None:
    """Nobody asked for the residuals."""


def apply_to_series(
    registered: RegisteredSeries,
    series: ImageSeries,
    *,
    frames: Sequence[int],
    labels: bool = False,
    inverted: bool = False,
    source: int | None = None,
    report: InverseReport = _ignore,
) -> Iterator[NDArray[Any]]:
    """Images moved by the registration, one by one in the dtype of ``series``, on the lattice that ``place`` gives it.

    Parameters
    ----------
    registered
        The registration.
    series
        As many frames as ``frames`` or as the registered series has, or a single one that is used for each. Frames of the
        registered series give images on the reference; with ``inverted`` images of the reference give images as they lie in the
        frame.
    frames
        Whose transform is used for each image.
    labels
        Nearest neighbour, so that no label is invented; whole numbers stored as floating point stay whole.
    source
        The frame that a single image belongs to, from which it is brought to every one of ``frames``, through the reference.
    report
        Called with frame and residual in mm of every inverse.

    Raises
    ------
    ArgumentError
        If place, number of frames or pixel values do not fit.
    """
    name = series.name or "the image"
    placed = place(registered.lattice, [series], name, labels=labels)
    positions = _positions(registered, len(series), frames, name)
    if source is not None and len(series) != 1:
        raise ArgumentError(f"{name}: holds {len(series)} images, and only one can belong to frame {source}; give that one")
    carrier = Carrier(registered.transforms, registered.grid, report)
    for position, frame in zip(positions, frames, strict=True):
        image = placed.series.frame(position)
        if source is not None and source == frame:
            yield image
            continue
        begin, end = (source, frame) if source is not None else (None, frame) if inverted else (frame, None)
        transform = placed.transform(carrier.transform(begin, end))
        if labels:
            yield _warped_labels(image, transform, placed.series.name)
        elif begin is not None and end is not None:
            yield warp_pixels(image, transform)
        else:
            yield _warped_frame(placed.series, position, frame, transform, registered)


def _positions(registered: RegisteredSeries, count: int, frames: Sequence[int], name: str) -> list[int]:
    """Which image of a file belongs to each of the frames."""
    every = sorted(registered.transforms)
    if count == 1:
        return [0] * len(frames)
    if count == len(frames):
        return list(range(count))
    if count == len(every):
        return [every.index(frame) for frame in frames]
    raise ArgumentError(
        f"{name}: holds {count} frames, {len(frames)} are wanted; give a single image with --frame, or as many frames"
    )


def _warped_frame(
    series: ImageSeries, position: int, frame: int, transform: Transform, registered: RegisteredSeries
) -> NDArray[Any]:
    metrics = {row.frame: row for row in registered.metrics}[frame]
    # The image of this frame may stand at another position of the file.
    return warp_frame(series, replace(metrics.result(transform), frame=position))


def warped_frames(registered: RegisteredSeries, series: ImageSeries, frames: Sequence[int]) -> ImageSeries:
    """Geometry, times and pixel type of the images that ``apply_to_series`` gives for some frames, for the writer."""
    every = sorted(registered.transforms)
    if len(frames) == len(series):
        return series
    if len(series) == len(every):
        return chosen_images(series, [every.index(frame) for frame in frames])
    virtual = np.broadcast_to(np.zeros((), series.dtype), (len(frames), series.channels, *series.grid.shape))
    times = registered.manifest.input.times_s
    return replace(series, frames=virtual, times_s=None if times is None else tuple(times[frame] for frame in frames))


def _warped_labels(image: NDArray[Any], transform: Transform, name: str) -> NDArray[Any]:
    if image.dtype.kind in "bui":
        return warp_labels(image, transform)
    if not all_whole(image):
        values = image[~(np.isfinite(image) & (image == np.rint(image)))]
        raise ArgumentError(
            f"--labels: {name or 'the file'} holds {values[0]:g}, labels are whole numbers; leave --labels out, or round them"
        )
    return warp_labels(image.astype(np.int64), transform).astype(image.dtype)


def check_output(path: Path) -> str:
    """The format of an output file by its suffix.

    Raises
    ------
    ArgumentError
        If it is none that can be written.
    """
    for suffix, name in OUTPUT_FORMATS.items():
        if path.name.lower().endswith(suffix):
            return name
    raise ArgumentError(f"--output {path}: cannot write that format; end the name in one of {', '.join(OUTPUT_FORMATS)}")


def apply_to_landmarks(
    registered: RegisteredSeries,
    landmarks: LandmarkSet,
    *,
    frames: Sequence[int] | None = None,
    inverted: bool = False,
    source: int | None = None,
    tracks: bool = False,
    report: InverseReport = _ignore,
) -> LandmarkSet:
    """Points of the reference as they lie in each frame, or points of each frame as they lie in the reference.

    Parameters
    ----------
    registered
        The registration.
    landmarks
        Points in INDEX or WORLD space.
    frames
        Which frames; all by default.
    inverted
        From each frame to the reference, by the inverted transform. Where several frames are mapped, ids become ``id@frame``,
        as one id may occur once a frame only.
    source
        The points of this frame are followed into the others, in place of those of the reference.
    tracks
        With ``inverted``: every point keeps its frame and its id, so that what is left of a track is what was not the motion.
    report
        Called with frame and residual in mm of every inverse.

    Raises
    ------
    ReadError
        If there is no point to map.
    """
    wanted = sorted(registered.transforms) if frames is None else list(frames)
    carrier = Carrier(registered.transforms, registered.grid, report)
    index = landmarks.to_space(Space.INDEX, registered.grid)
    if not inverted:
        return _to_frames(registered, carrier, index, wanted, source)
    present = [frame for frame in wanted if len(index.in_frame(frame))]
    if not present:
        raise ReadError(f"landmarks: none lies in frames {wanted[:10]}, but in {sorted(set(index.frames.tolist()))[:10]}")
    ids: list[str] = []
    points, numbers = [], []
    for frame in present:
        own = index.in_frame(frame)
        points.append(carrier.points(own.points, frame, None))
        ids += [name if tracks or len(present) == 1 else f"{name}@{frame}" for name in own.ids]
        numbers += [frame if tracks else registered.reference] * len(own)
    return LandmarkSet(tuple(ids), np.array(numbers), np.concatenate(points), Space.INDEX)


def _to_frames(
    registered: RegisteredSeries, carrier: Carrier, every: LandmarkSet, wanted: Sequence[int], source: int | None
) -> LandmarkSet:
    fixed = every.in_frame(registered.reference if source is None else source)
    if len(fixed) == 0:
        where = f"the reference frame {registered.reference}" if source is None else f"frame {source}"
        raise ReadError(
            f"landmarks: none in {where}, but in {sorted(set(every.frames.tolist()))[:10]}; mark that frame, say with --from N "
            f"which frame they belong to, or use --inverse to bring points of other frames to the reference"
        )
    points = [carrier.points(fixed.points, source, frame) for frame in wanted]
    numbers = np.repeat(np.asarray(wanted, dtype=np.int64), len(fixed))
    return LandmarkSet(fixed.ids * len(wanted), numbers, np.concatenate(points), Space.INDEX)
