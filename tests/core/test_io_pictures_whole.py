"""Pictures that lost a part are named as damaged; animations give every frame; other kinds of pictures are read as frames."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2n2.errors import ReadError
from r2n2.io import describe, read_series

NOISE = np.random.default_rng(0).integers(0, 256, (12, 18, 20), dtype=np.uint8)


def stack(folder: Path, suffix: str, frames: np.ndarray = NOISE, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"f{k}{suffix}", **options)
    return folder


def animated(path: Path, frames: np.ndarray = NOISE, **options: object) -> Path:
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    return path


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".pgm", ".jp2", ".webp"])
def test_kinds_of_pictures_in_natural_order(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    folder = stack(tmp_path / "é a", suffix, **options)
    (folder / "Thumbs.db").write_bytes(b"x")
    for place in (folder, folder / f"f*{suffix}"):
        (series,) = read_series(place)
        assert (len(series), series.channels) == (12, 1)
        np.testing.assert_array_equal(series.frame(10)[0], NOISE[10])
    assert any("1 other entries of the folder were skipped (Thumbs.db)" in note for note in read_series(folder)[0].notes)


def test_two_kinds_in_a_folder_are_asked_about(tmp_path: Path) -> None:
    folder = stack(tmp_path / "s", ".png")
    np.save(folder / "a.npy", NOISE)
    with pytest.raises(ReadError, match=r"holds 12 \.png, 1 \.npy files|holds 1 \.npy, 12 \.png files"):
        read_series(folder)
    assert len(read_series(folder / "*.png")[0]) == 12


def end_lost(data: bytes) -> bytes:
    return data[:-12]


def tail_zeroed(data: bytes) -> bytes:
    return data[:-60] + bytes(60)


def pixel_flipped(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 40
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("harm", [end_lost, tail_zeroed, pixel_flipped])
def test_a_damaged_png_is_named(tmp_path: Path, harm: object) -> None:
    folder = stack(tmp_path / "s", ".png")
    (folder / "f7.png").write_bytes(harm((folder / "f7.png").read_bytes()))  # type: ignore[operator]
    with pytest.raises(ReadError, match=r"f7\.png: damaged (or truncated )?PNG"):
        read_series(folder)
    (found,) = describe(folder)
    assert "f7.png" in found.problems[0]


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-2], lambda data: data[:-300] + bytes(300), lambda data: data[: len(data) // 2]]
)
def test_a_damaged_jpeg_is_named(tmp_path: Path, harm: object) -> None:
    folder = stack(tmp_path / "s", ".jpg", np.repeat(NOISE, 4, axis=1))
    (folder / "f7.jpg").write_bytes(harm((folder / "f7.jpg").read_bytes()))  # type: ignore[operator]
    with pytest.raises(ReadError, match=r"f7\.jpg: "):
        read_series(folder)


def test_what_follows_the_end_of_a_jpeg_does_no_harm(tmp_path: Path) -> None:
    folder = stack(tmp_path / "s", ".jpg")
    with (folder / "f7.jpg").open("ab") as file:
        file.write(b"camera notes")
    assert len(read_series(folder)[0]) == 12


def test_progressive_jpegs_are_whole(tmp_path: Path) -> None:
    assert len(read_series(stack(tmp_path / "s", ".jpg", progressive=True))[0]) == 12


def gif_blocks(data: bytes) -> list[int]:
    """Where the image blocks begin."""
    place = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    found = []
    while data[place : place + 1] != b";":
        if data[place : place + 1] == b",":
            found.append(place)
            flags = data[place + 9]
            place += 11 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
        else:
            place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    return found


def test_a_gif_that_lost_frames_is_named(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.gif")
    data = path.read_bytes()
    blocks = gif_blocks(data)
    assert len(blocks) == 12
    (tmp_path / "b.gif").write_bytes(data[: blocks[3]] + b"x" + data[blocks[3] + 1 :])
    with pytest.raises(ReadError, match=f"damaged GIF, no block begins at byte {blocks[3]} after 3 frames"):
        read_series(tmp_path / "b.gif")
    (tmp_path / "c.gif").write_bytes(data[: blocks[3]] + b";" + data[blocks[3] :])
    with pytest.raises(ReadError, match=r"damaged GIF, .* bytes go on after its end and 3 frames"):
        read_series(tmp_path / "c.gif")
    (tmp_path / "d.gif").write_bytes(data + b"\0\0")
    assert len(read_series(tmp_path / "d.gif")[0]) == 12


@pytest.mark.parametrize("name", ["a.apng", "a.png"])
def test_every_frame_of_an_animated_png(tmp_path: Path, name: str) -> None:
    (series,) = read_series(animated(tmp_path / name, format="PNG"))
    assert (len(series), series.channels, series.source["format"]) == (12, 1, "apng")
    np.testing.assert_array_equal(series.frame(11)[0], NOISE[11])


def test_the_still_image_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    (series,) = read_series(animated(tmp_path / "a.png", default_image=True))
    assert len(series) == 11
    np.testing.assert_array_equal(series.frame(0)[0], NOISE[1])


def test_an_animated_png_of_fewer_frames_than_declared_is_named(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.png")
    data = path.read_bytes()
    place = data.index(b"acTL")
    content = b"acTL" + struct.pack(">II", 14, 0)
    path.write_bytes(data[:place] + content + struct.pack(">I", zlib.crc32(content)) + data[place + 16 :])
    with pytest.raises(ReadError, match="damaged animated PNG, it declares 14 frames and holds 12"):
        read_series(path)


def test_an_animated_webp(tmp_path: Path) -> None:
    (series,) = read_series(animated(tmp_path / "a.webp", lossless=True))
    assert len(series) == 12
    np.testing.assert_array_equal(series.frame(11)[0], NOISE[11])
