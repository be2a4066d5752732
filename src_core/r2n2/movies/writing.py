"""Pictures to a movie file: GIF by Pillow, MP4 by OpenCV where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ResourceError
from r2n2.io.atomic import atomic_write

__all__ = ["MOVIE_SUFFIXES", "check_movie", "write_movie"]

MOVIE_SUFFIXES = (".gif", ".mp4")

# VP9 is free and is what browsers play; MPEG-4 part 2 is for an OpenCV that was built without it. H.264 needs an encoder under GPL.
_CODECS = ("vp09", "mp4v")
_COLOURS = 128
_LOG = logging.getLogger(__name__)

Picture = NDArray[np.uint8]


def check_movie(path: Path) -> None:
    """See that a movie can be written there, before anything is computed.

    Raises
    ------
    ArgumentError
        If the suffix is of no movie.
    ResourceError
        If MP4 is asked for and OpenCV is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in MOVIE_SUFFIXES:
        raise ArgumentError(f"{path}: movies are written as {' or '.join(MOVIE_SUFFIXES)}; end the name in one of them")
    if suffix == ".mp4":
        _opencv(path)


def write_movie(path: Path, pictures: Iterator[Picture], *, rate_hz: float = 8.0) -> Generator[int, None, None]:
    """Write pictures as they come; yields how many are written. Nothing is left under the name if it is stopped.

    Parameters
    ----------
    pictures
        (H, W, 3) RGB, all of one size.
    rate_hz
        Pictures a second.

    Raises
    ------
    ArgumentError
        As ``check_movie``, or if there is no picture or no positive rate.
    ResourceError
        If the file cannot be written.
    """
    check_movie(path)
    if not 0.1 <= rate_hz <= 60:
        raise ArgumentError(f"rate: expected 0.1 to 60 pictures a second, got {rate_hz:g}")
    with atomic_write(path) as temporary:
        yield from (_gif if path.suffix.lower() == ".gif" else _mp4)(temporary, path, pictures, rate_hz)


def _gif(temporary: Path, path: Path, pictures: Iterator[Picture], rate_hz: float) -> Generator[int, None, None]:
    from PIL import Image

    kept, palette = [], None
    for picture in pictures:
        image = Image.fromarray(picture)
        # One palette for all: another one for each would flicker.
        if palette is None:
            palette = image.quantize(_COLOURS)
        kept.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
        yield len(kept)
    if not kept:
        raise ArgumentError(f"{path}: there is no picture to write; choose at least one frame")
    kept[0].save(
        temporary, format="GIF", save_all=True, append_images=kept[1:], duration=round(1000 / rate_hz), loop=0, optimize=True
    )


def _mp4(temporary: Path, path: Path, pictures: Iterator[Picture], rate_hz: float) -> Generator[int, None, None]:
    opencv = _opencv(path)
    # OpenCV chooses the container by the name.
    place = temporary.with_name(f"{temporary.name}.mp4")
    writer, count = None, 0
    try:
        for picture in pictures:
            if writer is None:
                writer = _writer(opencv, place, picture.shape[1::-1], rate_hz, path)
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
            count += 1
            yield count
        if writer is None:
            raise ArgumentError(f"{path}: there is no picture to write; choose at least one frame")
        writer.release()
        writer = None
        if not place.exists() or place.stat().st_size == 0:
            raise ResourceError(f"{path}: the encoder wrote nothing; is the disk full? Write a .gif instead")
        place.replace(temporary)
    finally:
        if writer is not None:
            writer.release()
        place.unlink(missing_ok=True)


def _writer(opencv: Any, place: Path, size: tuple[int, int], rate_hz: float, path: Path) -> Any:
    for codec in _CODECS:
        writer = opencv.VideoWriter(str(place), opencv.VideoWriter_fourcc(*codec), rate_hz, size)
        if writer.isOpened():
            if codec != _CODECS[0]:
                _LOG.warning("%s: written as MPEG-4, which browsers do not play: this OpenCV has no VP9", path)
            return writer
        writer.release()
    raise ResourceError(f"{path}: this OpenCV encodes neither VP9 nor MPEG-4; write a .gif instead")


def _opencv(path: Path) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ResourceError(
            f'{path}: MP4 needs OpenCV; install it with pip install "napari-r2n2[video]", or write a .gif'
        ) from error
    return cv2
