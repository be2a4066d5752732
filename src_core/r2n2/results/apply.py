"""A registration applied to something else of the same place: images, label maps and landmarks, forwards or inverted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ReadError
from r2n2.evaluation import warp_labels
from r2n2.geometry import Space
from r2n2.results.label_values import all_whole
from r2n2.results.placing import place
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import Transform, inverse, map_points

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

InverseReport = Callable[[int, float], None]
"""Told the frame and the largest error in mm of each inverse that was computed."""


def _ignore(frame: int, residual_mm: float) -> None:
    """Nobody asked for the residuals."""


def _transform(registered: RegisteredSeries, frame: int, inverted: bool, report: InverseReport) -> Transform:
    if frame not in registered.transforms:
        known = sorted(registered.transforms)
        raise ArgumentError(f"frame {frame} does not exist in {registered.folder}: it holds frames {known[0]} to {known[-1]}")
    transform = registered.transforms[frame]
    if not inverted:
        return transform
    found = inverse(transform)
    report(frame, found.residual_mm)
    return found.field


def apply_to_series(
    registered: RegisteredSeries,
    series: ImageSeries,
    *,
    frames: Sequence[int],
    labels: bool = False,
    inverted: bool = False,
    report: InverseReport = _ignore,
) -> Iterator[NDArray[Any]]:
    """Images moved by the registration, one by one in the dtype of ``series``, on the lattice that ``place`` gives it.

    Parameters
    ----------
    registered
        The registration.
    series
        As many frames as ``frames``, or a single one that is used for each. Frames of the registered series give images on
        the reference; with ``inverted`` images of the reference give images as they lie in the frame.
    frames
        Whose transform is used for each image.
    labels
        Nearest neighbour, so that no label is invented; whole numbers stored as floating point stay whole.
    report
        Called with frame and residual in mm of every inverse.

    Raises
    ------
    ArgumentError
        If place, number of frames or pixel values do not fit.
    """
    name = series.name or "the image"
    placed = place(registered.lattice, [series], name, labels=labels)
    if len(series) not in (1, len(frames)):
        raise ArgumentError(
            f"{name}: holds {len(series)} frames, {len(frames)} are wanted; give a single image with --frame, or as many frames"
        )
    for position, frame in enumerate(frames):
        transform = placed.transform(_transform(registered, frame, inverted, report))
        yield _warped(placed.series, position if len(series) > 1 else 0, frame, transform, registered, labels)


def _warped(
    series: ImageSeries, position: int, frame: int, transform: Transform, registered: RegisteredSeries, labels: bool
) -> NDArray[Any]:
    if labels:
        return _warped_labels(series.frame(position), transform, series.name)
    from r2n2.registration import warp_frame

    metrics = {row.frame: row for row in registered.metrics}[frame]
    # The image of this frame may stand at another position of the file.
    result = replace(metrics.result(transform), frame=position)
    return warp_frame(series, result)


def warped_frames(series: ImageSeries, count: int) -> ImageSeries:
    """Geometry and pixel type of ``count`` images written from ``series``, for the writer."""
    if count == len(series):
        return series
    virtual = np.broadcast_to(np.zeros((), series.dtype), (count, series.channels, *series.grid.shape))
    return replace(series, frames=virtual, times_s=None)


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
    report
        Called with frame and residual in mm of every inverse.

    Raises
    ------
    ReadError
        If there is no point to map.
    """
    wanted = sorted(registered.transforms) if frames is None else list(frames)
    index = landmarks.to_space(Space.INDEX, registered.grid)
    if not inverted:
        return _to_frames(registered, index.in_frame(registered.reference), index, wanted)
    present = [frame for frame in wanted if len(index.in_frame(frame))]
    if not present:
        raise ReadError(f"landmarks: none lies in frames {wanted[:10]}, but in {sorted(set(index.frames.tolist()))[:10]}")
    ids: list[str] = []
    points = []
    for frame in present:
        own = index.in_frame(frame)
        transform = _transform(registered, frame, True, report)
        points.append(map_points(transform, torch.from_numpy(own.points), Space.INDEX).numpy())
        ids += [name if len(present) == 1 else f"{name}@{frame}" for name in own.ids]
    return LandmarkSet(tuple(ids), np.full(len(ids), registered.reference), np.concatenate(points), Space.INDEX)


def _to_frames(registered: RegisteredSeries, fixed: LandmarkSet, every: LandmarkSet, wanted: Sequence[int]) -> LandmarkSet:
    if len(fixed) == 0:
        raise ReadError(
            f"landmarks: none in the reference frame {registered.reference}, but in {sorted(set(every.frames.tolist()))[:10]}; "
            f"mark the reference, or use --inverse to bring points of other frames to it"
        )
    start = torch.from_numpy(fixed.points)
    points = [map_points(_transform(registered, frame, False, _ignore), start, Space.INDEX).numpy() for frame in wanted]
    numbers = np.repeat(np.asarray(wanted, dtype=np.int64), len(fixed))
    return LandmarkSet(fixed.ids * len(wanted), numbers, np.concatenate(points), Space.INDEX)
