"""Video (.avi, .mp4 and others that FFmpeg decodes) by the extra ``video``: 8-bit display values, every frame or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import check_memory, import_package, read_errors
from r2n2.io.pictures.stack import grey_or_colour

__all__ = ["read_video"]

_LOG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
_QUIET = "-8"
_CODING_ERROR = 4
_COUNTED = (b"RIFF", b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Starts of the containers that state how many frames they hold; of others the number is a guess."""


def read_video(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """Frames of a video; equal colour channels collapse to one grey channel.

    Raises
    ------
    ReadError
        If it cannot be decoded, or not to its last frame.
    ResourceError
        If it would need more than ``max_bytes``.
    MissingExtraError
        If the extra ``video`` is not installed.
    """
    try:
        cv2 = import_package("cv2", "reading video", "opencv-python-headless")
    except MissingExtraError as error:
        raise MissingExtraError(f"{path}: reading video needs the extra video: pip install 'napari-r2n2[video]'") from error
    with read_errors(path, "video"), _opened(cv2, path) as video:
        width, height = (int(video.get(code)) for code in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        declared, rate = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), float(video.get(cv2.CAP_PROP_FPS))
        check_memory(path, max(declared, 1) * max(width, 1) * max(height, 1) * 3, max_bytes)
        frames = _frames(path, video, max_bytes)
    with path.open("rb") as file:
        start = file.read(8)
    if len(frames) < declared and (start[:4] in _COUNTED or start[4:8] in _COUNTED):
        raise ReadError(f"{path}: damaged or truncated, {len(frames)} of its {declared} frames can be decoded; get an intact copy")
    array, letters, note = grey_or_colour(np.stack(frames), _CODING_ERROR)
    told = f"video: 8-bit display values, lossy, no spacing; {rate:g} frames/s are for display and are not taken as times"
    return FileContent(path, "video", array, letters, notes=(told, *note))


@contextmanager
def _opened(cv2: Any, path: Path) -> Iterator[Any]:
    """A video that is being decoded; what FFmpeg would print is told by our errors."""
    before = os.environ.get(_LOG_LEVEL)
    os.environ[_LOG_LEVEL] = _QUIET
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    video = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            raise ReadError(
                f"{path}: this video cannot be decoded: it is damaged or of a kind unknown here; save it as .tif or .avi"
            )
        yield video
    finally:
        video.release()
        cv2.utils.logging.setLogLevel(level)
        if before is None:
            del os.environ[_LOG_LEVEL]
        else:
            os.environ[_LOG_LEVEL] = before


def _frames(path: Path, video: Any, max_bytes: int) -> list[NDArray[Any]]:
    frames: list[NDArray[Any]] = []
    held = 0
    while True:
        more, frame = video.read()
        if not more:
            break
        # Blue comes first there.
        frames.append(np.ascontiguousarray(frame[..., ::-1]))
        held += frames[-1].nbytes
        check_memory(path, held, max_bytes)
    if not frames:
        raise ReadError(f"{path}: no frame of it can be decoded; get an intact copy")
    return frames
