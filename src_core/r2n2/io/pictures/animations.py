"""Animated pictures: GIF, animated PNG and WebP; 8-bit display values without spacing or times, every frame or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_memory, check_same_shape, import_package, read_errors
from r2n2.io.pictures.stack import grey_or_colour, opened, pixels_of
from r2n2.io.pictures.whole import count_apng_frames, count_gif_frames

__all__ = ["read_apng", "read_gif", "read_webp"]

_NOTE = "{}: display values, no spacing; the frame delays are for display and are not taken as times"
_GIF_NOTE = "GIF: 8-bit display values, lossy, no spacing; the frame delays are for display and are not taken as times"


def read_gif(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """Frames of a GIF; equal colour channels collapse to one grey channel.

    Raises
    ------
    ReadError
        If the file is damaged or Pillow shows fewer frames than it holds.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    import_package("PIL.Image", "reading GIF", "pillow")
    with read_errors(path, "GIF"):
        return _read_animation(path, "gif", _GIF_NOTE, max_bytes, count_gif_frames(path))


def read_apng(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """Frames of an animated PNG; a still image before them that is no frame is left out.

    Raises
    ------
    ReadError
        If a part is damaged or frames are missing.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    with read_errors(path, "animated PNG"):
        count, still = count_apng_frames(path)
        return _read_animation(path, "apng", _NOTE.format("animated PNG"), max_bytes, count, skip=int(still))


def read_webp(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """Frames of an animated WebP.

    Raises
    ------
    ReadError
        If it is damaged.
    ResourceError
        If it would need more than ``max_bytes``.
    """
    with read_errors(path, "WebP"):
        return _read_animation(path, "webp", _NOTE.format("animated WebP, possibly lossy"), max_bytes)


def _read_animation(path: Path, kind: str, note: str, max_bytes: int, expected: int | None = None, *, skip: int = 0) -> FileContent:
    """All frames of a picture file as Pillow shows them, ``skip`` left out at the start.

    Raises
    ------
    ReadError
        If they are not ``expected`` frames.
    """
    frames = []
    with opened(path) as image:
        count = int(getattr(image, "n_frames", 1)) - skip
        if expected is not None and count != expected:
            raise ReadError(f"{path}: damaged, it holds {expected} frames and {max(count, 0)} can be shown; get an intact copy")
        check_memory(path, count * image.width * image.height * 3, max_bytes)
        for index in range(skip, skip + count):
            image.seek(index)
            frames.append(pixels_of(image.convert("RGB") if kind == "gif" else image))
    check_same_shape(path, [frame.shape for frame in frames])
    array, letters, colour = grey_or_colour(np.stack(frames))
    return FileContent(path, kind, array, letters, notes=(note, *colour))
