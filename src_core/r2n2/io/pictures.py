"""Pictures for the screen: .gif and stacks of .png or .jpg; 8-bit display values without spacing or times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.atomic import atomic_folder
from r2n2.io.checks import check_memory, check_same_shape, import_package, read_errors
from r2n2.series import ImageSeries

__all__ = ["PICTURE_SUFFIXES", "natural_order", "read_gif", "read_picture_stack", "write_picture_stack"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_GIF_NOTE = "GIF: 8-bit display values, lossy, no spacing; the frame delays are for display and are not taken as times"
_STACK_NOTE = "pictures: display values, possibly lossy, no spacing; frames in the natural order of the file names"


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts frame2 before frame10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", path.name) if part)


def read_gif(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """Frames of a GIF; equal colour channels collapse to one grey channel.

    Raises
    ------
    ReadError
        If the file is damaged.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    image_module = import_package("PIL.Image", "reading GIF", "pillow")
    frames = []
    with read_errors(path, "GIF"), image_module.open(path) as image:
        count = getattr(image, "n_frames", 1)
        check_memory(path, count * image.width * image.height * 3, max_bytes)
        for index in range(count):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    check_same_shape(path, [frame.shape for frame in frames])
    # Read once more by the trailer: Pillow gives the frames before a cut without a word.
    if not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise ReadError(f"{path}: truncated GIF, its trailer is missing after {len(frames)} frames; get a complete copy")
    array, letters, note = _grey_or_colour(np.stack(frames), "T")
    return FileContent(path, "gif", array, letters, notes=(_GIF_NOTE, *note))


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

    Raises
    ------
    ReadError
        If there is none, one is damaged, or their shapes differ.
    """
    image_module = import_package("PIL.Image", "reading pictures", "pillow")
    ordered = tuple(sorted(files, key=natural_order))
    sizes = []
    for file in ordered:
        with read_errors(file, "picture"), image_module.open(file) as image:
            sizes.append((image.height, image.width))
    check_same_shape(path, sizes)
    arrays = [_read_picture(file) for file in ordered[:1]]
    check_memory(path, arrays[0].nbytes, max_bytes)
    grey = True
    colour_note: tuple[str, ...] = ()
    if arrays[0].ndim == 3:
        grey = all(_channels_equal(_as_colour(_read_picture(file))) for file in ordered)
        colour_note = ("the colour channels are equal: one is kept as grey",) if grey else ("colour channels are kept",)
    elif any(_read_picture(file).ndim != 2 for file in ordered):
        raise ReadError(f"{path}: some pictures are grey and some in colour; convert them to one kind")
    shape = (len(ordered), *(arrays[0].shape[:2] if grey else arrays[0].shape))
    frames = _PictureFrames(ordered, shape, arrays[0].dtype, grey)
    kind = "jpg" if ordered[0].suffix.lower() != ".png" else "png"
    return FileContent(path, kind, frames, "TYX" if grey else "TYXS", notes=(_STACK_NOTE, *colour_note))


def write_picture_stack(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write frames as numbered .png in a folder; also for GIF, whose writers drop a frame equal to the one before."""
    image_module = import_package("PIL.Image", "writing pictures", "pillow")
    with atomic_folder(path) as folder:
        for index, frame in enumerate(frames):
            pixels = frame[0] if frame.shape[0] == 1 else np.moveaxis(frame, 0, -1)
            image_module.fromarray(np.ascontiguousarray(pixels)).save(folder / f"frame_{index:04d}.png", format="PNG")


def _read_picture(path: Path) -> NDArray[Any]:
    image_module = import_package("PIL.Image", "reading pictures", "pillow")
    with read_errors(path, "picture"), image_module.open(path) as image:
        if image.mode in ("P", "CMYK", "YCbCr", "1", "LA", "PA"):
            image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
        return np.asarray(image)


def _as_colour(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=-1)


def _channels_equal(pixels: NDArray[Any]) -> bool:
    return bool((pixels[..., :3] == pixels[..., :1]).all())


def _grey_or_colour(frames: NDArray[Any], leading: str) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    if _channels_equal(frames):
        return frames[..., 0], leading + "YX", ("the colour channels are equal: one is kept as grey",)
    return frames, leading + "YXS", ("colour channels are kept",)
