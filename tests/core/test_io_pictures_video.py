"""Video by the extra: every frame or none, grey where coding alone made colour, and the extra named where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from r2n2.errors import MissingExtraError, ReadError, ResourceError
from r2n2.io import describe, read_series, write_series

cv2 = pytest.importorskip("cv2", reason="the extra video is not installed")

FRAMES = np.zeros((12, 32, 40), np.uint8)
for k in range(12):
    FRAMES[k, 4:20, k : k + 20] = 40 + 15 * k


def save(path: Path, codec: str, colour: bool = False) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (40, 32))
    for frame in FRAMES:
        pixels = np.repeat(frame[..., None], 3, axis=-1)
        if colour:
            pixels[..., 2] //= 3
        writer.write(pixels)
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), [("é a.avi", "MJPG"), ("a.mp4", "mp4v"), ("b.avi", "FFV1")])
def test_every_frame_is_grey_and_lossy_is_told(tmp_path: Path, name: str, codec: str) -> None:
    (series,) = read_series(save(tmp_path / name, codec))
    assert (len(series), series.channels, series.grid.shape, series.times_s) == (12, 1, (32, 40), None)
    assert np.abs(series.frame(7)[0].astype(int) - FRAMES[7]).mean() < (0.01 if codec == "FFV1" else 4)
    assert any("lossy, no spacing; 10 frames/s are for display" in note for note in series.notes)
    assert write_series(tmp_path, "out", series, (series.frame(t) for t in range(12))).is_dir()


def test_colour_is_kept_in_its_order(tmp_path: Path) -> None:
    (series,) = read_series(save(tmp_path / "a.avi", "FFV1", colour=True))
    red, green, blue = (int(series.frame(11)[c, 10, 20]) for c in range(3))
    assert (series.channels, abs(green - 205) < 4, abs(blue - 205) < 4, abs(red - 68) < 4) == (3, True, True, True)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
@pytest.mark.parametrize("percent", [0, 10, 60, 90])
def test_truncated(tmp_path: Path, name: str, percent: int) -> None:
    path = save(tmp_path / name, "MJPG" if name == "a.avi" else "mp4v")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=name):
        read_series(path)
    if percent:
        (found,) = describe(path)
        assert name in found.problems[0]


def test_a_video_larger_than_the_limit(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="--max-bytes"):
        read_series(save(tmp_path / "a.avi", "MJPG"), max_bytes=1000)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.avi", "MJPG")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"a\.avi: reading video needs the extra video: pip install 'napari-r2n2\[video\]'"):
        read_series(path)
