"""Whether a picture file is whole: decoders of PNG, JPEG and GIF show what is left of a damaged one without a word."""

from __future__ import annotations

import zlib
from pathlib import Path

from r2n2.errors import ReadError

__all__ = ["check_whole", "count_apng_frames", "count_gif_frames"]

_PNG = b"\x89PNG\r\n\x1a\n"
_COPY = "get an intact copy"


def check_whole(path: Path) -> None:
    """Refuse a PNG with a wrong checksum or without an end, and a JPEG without an end; other kinds pass.

    Raises
    ------
    ReadError
        Naming what is damaged.
    """
    data = path.read_bytes()
    if data[:8] == _PNG:
        _png_chunks(path, data)
    elif data[:3] == b"\xff\xd8\xff":
        _check_jpeg(path, data)


def _png_chunks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of every chunk, checked."""
    chunks: list[tuple[bytes, bytes]] = []
    place = 8
    while not chunks or chunks[-1][0] != b"IEND":
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        content, check = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if len(check) < 4:
            raise ReadError(f"{path}: damaged or truncated PNG, its end (IEND) is missing after {place} bytes; {_COPY}")
        if zlib.crc32(name + content) != int.from_bytes(check, "big"):
            shown = name.decode("latin-1") if name.isalpha() else repr(name)
            raise ReadError(f"{path}: damaged PNG, the checksum of its part {shown} at byte {place} is wrong; {_COPY}")
        chunks.append((name, content))
        place += 12 + length
    if b"IDAT" not in {name for name, _ in chunks}:
        raise ReadError(f"{path}: damaged PNG, it holds no pixels (IDAT); {_COPY}")
    return chunks


def _check_jpeg(path: Path, data: bytes) -> None:
    """Go from marker to marker to the end of the image."""
    place = 2
    while True:
        place = data.find(b"\xff", place)
        marker = data[place + 1] if 0 <= place < len(data) - 1 else -1
        if marker < 0:
            raise ReadError(f"{path}: damaged or truncated JPEG, its end (EOI) is missing; {_COPY}")
        if marker == 0xD9:
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")


def count_apng_frames(path: Path) -> tuple[int, bool]:
    """Frames of an animated PNG, every part of it checked, and whether a still image that is no frame comes first.

    Raises
    ------
    ReadError
        If a part is damaged or there are fewer frames than declared.
    """
    chunks = _png_chunks(path, path.read_bytes())
    names = [name for name, _ in chunks]
    declared = next((int.from_bytes(content[:4], "big") for name, content in chunks if name == b"acTL"), 1)
    held = names.count(b"fcTL")
    if held != declared:
        raise ReadError(f"{path}: damaged animated PNG, it declares {declared} frames and holds {held}; {_COPY}")
    return declared, b"fcTL" in names and names.index(b"fcTL") > names.index(b"IDAT")


def count_gif_frames(path: Path) -> int:
    """Frames of a GIF, counted from block to block to its trailer.

    Raises
    ------
    ReadError
        If a block is not one, or the trailer is missing or not the end.
    """
    data = path.read_bytes()
    place = 13 + _colours(data[10:11])
    frames = 0
    while (block := data[place : place + 1]) != b";":
        if block == b"!":
            place = _after_blocks(data, place + 2)
        elif block == b",":
            place = _after_blocks(data, place + 11 + _colours(data[place + 9 : place + 10]))
            frames += 1
        elif block == b"" or not data[place:].strip(b"\0"):
            raise ReadError(f"{path}: truncated GIF, its trailer is missing after {frames} frames; get a complete copy")
        else:
            raise ReadError(f"{path}: damaged GIF, no block begins at byte {place} after {frames} frames; {_COPY}")
    more = len(data[place + 1 :].strip(b"\0"))
    if more:
        raise ReadError(f"{path}: damaged GIF, {more} bytes go on after its end and {frames} frames; {_COPY}")
    return frames


def _colours(flags: bytes) -> int:
    """Bytes of the colour table that follows."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _after_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1
