"""Stacks of pictures for the screen (.png, .jpg, .bmp and others that Pillow reads): display values without spacing or times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError, ResourceError
from r2n2.io.assemble import FileContent
from r2n2.io.atomic import atomic_folder
from r2n2.io.checks import check_memory, check_same_shape, import_package, read_errors
from r2n2.io.pictures.whole import check_whole
from r2n2.series import ImageSeries

__all__ = ["PICTURE_KINDS", "grey_or_colour", "natural_order", "opened", "pixels_of", "read_picture_stack", "write_picture_stack"]

PICTURE_KINDS = ("gif", "apng", "png", "jpg", "bmp", "pnm", "webp", "jp2", "video")
"""Formats of display values, which are written as .png."""

_KINDS = {".jpeg": "jpg", ".pgm": "pnm", ".ppm": "pnm"}
_STACK_NOTE = "pictures: display values, possibly lossy, no spacing; frames in the natural order of the file names"


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts frame2 before frame10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", path.name) if part)


@dataclass(frozen=True, eq=False)
class _PictureFrames:
    """Array (T, Y, X[, S]) whose frames are decoded when indexed."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grey: bool

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        index, *rest = where
        frame = _read_picture(self.files[index])
        frame = frame[..., 0] if self.grey and frame.ndim == 3 else frame
        if frame.shape != self.shape[1:]:
            check_same_shape(self.files[index], [self.shape[1:], frame.shape])
        return np.asarray(frame[tuple(rest)])


def read_picture_stack(path: Path, files: Sequence[Path], max_bytes: int) -> FileContent:
    """Frames from picture files, decoded one at a time; ``path`` is the folder or pattern that gave them.

    Every file is decoded once here, so that a damaged one is known before the first frame is worked on.

    Raises
    ------
    ReadError
        If there is none, one is damaged, or their shapes differ.
    """
    ordered = tuple(sorted(files, key=natural_order))
    sizes, kinds, grey = [], set(), True
    for file in ordered:
        with opened(file) as image:
            sizes.append((image.height, image.width))
            check_memory(file, image.height * image.width * 4, max_bytes)
    check_same_shape(path, sizes)
    for file in ordered:
        pixels = _read_picture(file)
        kinds.add((pixels.dtype, pixels.shape[2:]))
        if len(kinds) > 1:
            raise ReadError(f"{path}: some pictures are grey and some in colour, or of other depth; convert them to one kind")
        grey = grey and (pixels.ndim == 2 or _channels_equal(pixels))
    ((dtype, channels),) = kinds
    note = (("the colour channels are equal: one is kept as grey",) if grey else ("colour channels are kept",)) if channels else ()
    shape = (len(ordered), *sizes[0]) if grey else (len(ordered), *sizes[0], *channels)
    frames = _PictureFrames(ordered, shape, dtype, grey)
    suffix = ordered[0].suffix.lower()
    return FileContent(path, _KINDS.get(suffix, suffix[1:] or "png"), frames, "TYX" if grey else "TYXS", notes=(_STACK_NOTE, *note))


def write_picture_stack(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write frames as numbered .png in a folder; also for GIF, whose writers drop a frame equal to the one before."""
    image_module = import_package("PIL.Image", "writing pictures", "pillow")
    with atomic_folder(path) as folder:
        for index, frame in enumerate(frames):
            pixels = frame[0] if frame.shape[0] == 1 else np.moveaxis(frame, 0, -1)
            image_module.fromarray(np.ascontiguousarray(pixels)).save(folder / f"frame_{index:04d}.png", format="PNG")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A picture file as Pillow's image.

    Raises
    ------
    ReadError
        If it is damaged, here or while it is decoded.
    ResourceError
        If it has more pixels than Pillow decodes.
    """
    image_module = import_package("PIL.Image", "reading pictures", "pillow")
    with read_errors(path, "picture"):
        try:
            with image_module.open(path) as image:
                yield image
        except image_module.DecompressionBombError as error:
            raise ResourceError(f"{path}: {error}; crop the picture or save it as TIFF") from None


def pixels_of(image: Any) -> NDArray[Any]:
    """Pixels (Y, X) or (Y, X, C) of a picture of any mode."""
    if image.mode in ("P", "CMYK", "YCbCr", "1", "LA", "PA", "La", "RGBa", "HSV", "LAB"):
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    return np.asarray(image)


def _read_picture(path: Path) -> NDArray[Any]:
    with opened(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format in ("GIF", "PNG", "WEBP", "TIFF"):
            raise ReadError(
                f"{path}: holds {image.n_frames} frames, and a folder is read as one frame a file; choose this file alone"
            )
        check_whole(path)
        return pixels_of(image)


def _channels_equal(pixels: NDArray[Any]) -> bool:
    return bool((pixels[..., :3] == pixels[..., :1]).all())


def grey_or_colour(frames: NDArray[Any], tolerance: int = 0) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    """Frames (T, Y, X[, C]), their axes and a note; colour whose channels differ by no more than ``tolerance`` becomes grey."""
    if frames.ndim == 3:
        return frames, "TYX", ()
    if _channels_equal(frames):
        return frames[..., 0], "TYX", ("the colour channels are equal: one is kept as grey",)
    if tolerance:
        green = frames[..., 1].astype(np.int16)
        most = max(int(np.abs(frames[..., k] - green).max()) for k in (0, 2))
        if most <= tolerance:
            note = f"the colour channels differ by at most {most}, as lossy coding of grey leaves them: green is kept as grey"
            return frames[..., 1], "TYX", (note,)
    return frames, "TYXS", ("colour channels are kept",)
