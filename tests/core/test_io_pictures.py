from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2n2.errors import MissingExtraError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries


def grey_frames(count: int = 10, shape: tuple[int, int] = (15, 22)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def save_gif(path: Path, frames: np.ndarray) -> Path:
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=200, optimize=False)
    return path


def save_stack(folder: Path, frames: np.ndarray, name: str = "frame{}.png") -> Path:
    folder.mkdir(exist_ok=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(k))
    return folder


def test_gif_is_grey_without_spacing_or_times(tmp_path: Path) -> None:
    frames = grey_frames()
    (series,) = read_series(save_gif(tmp_path / "a.gif", frames))
    assert (len(series), series.channels, series.grid.shape) == (10, 1, (15, 22))
    np.testing.assert_array_equal(series.frame(7)[0], frames[7])
    assert series.times_s is None
    assert not series.spacing_known
    assert any("lossy, no spacing" in note for note in series.notes)
    assert any("one is kept as grey" in note for note in series.notes)


def test_true_colour_is_kept(tmp_path: Path) -> None:
    frames = np.zeros((4, 9, 12, 3), np.uint8)
    frames[..., 0] = 200
    frames[:, 4:, :, 1] = 90
    frames[:, 0, 0, 2] = [0, 60, 120, 180]
    for place in (save_gif(tmp_path / "a.gif", frames), save_stack(tmp_path / "stack", frames)):
        (series,) = read_series(place)
        assert series.channels == 3
        np.testing.assert_array_equal(series.frame(3), np.moveaxis(frames[3], -1, 0))


def test_stack_is_in_natural_order(tmp_path: Path) -> None:
    frames = grey_frames(12)
    for place in (save_stack(tmp_path / "é 数据 a b", frames), tmp_path / "é 数据 a b" / "frame*.png"):
        (series,) = read_series(place, spacing=(0.5, 0.7))
        np.testing.assert_array_equal(series.frame(10)[0], frames[10])
        assert series.grid.spacing == (0.5, 0.7)


def test_16_bit_and_equal_colour_pictures(tmp_path: Path) -> None:
    deep = grey_frames(3).astype(np.uint16) * 257
    (series,) = read_series(save_stack(tmp_path / "deep", deep))
    assert series.dtype == np.uint16
    np.testing.assert_array_equal(series.frame(1)[0], deep[1])
    equal = grey_frames(3)[..., None].repeat(3, axis=-1)
    (series,) = read_series(save_stack(tmp_path / "equal", equal))
    assert series.channels == 1
    np.testing.assert_array_equal(series.frame(2)[0], equal[2, ..., 0])


def test_jpg_stack(tmp_path: Path) -> None:
    frames = np.full((3, 16, 24), 77, np.uint8)
    (series,) = read_series(save_stack(tmp_path / "j", frames, "f{}.jpg"))
    assert abs(int(series.frame(0)[0, 5, 5]) - 77) <= 1


def test_frames_of_different_shape_are_listed(tmp_path: Path) -> None:
    folder = save_stack(tmp_path / "s", grey_frames(4))
    Image.fromarray(grey_frames(1, (16, 22))[0]).save(folder / "frame2.png")
    with pytest.raises(ReadError, match=r"different shape \(\(15, 22\): frames 0, 1, 3; \(16, 22\): frames 2\); crop or resample"):
        read_series(folder)


def test_grey_and_colour_mixed(tmp_path: Path) -> None:
    folder = save_stack(tmp_path / "s", grey_frames(4))
    Image.fromarray(np.zeros((15, 22, 3), np.uint8)).save(folder / "frame2.png")
    with pytest.raises(ReadError, match="some pictures are grey and some in colour"):
        read_series(folder)


@pytest.mark.parametrize("percent", [0, 5, 30, 60, 95, 99])
def test_truncated_gif(tmp_path: Path, percent: int) -> None:
    path = save_gif(tmp_path / "a.gif", grey_frames())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=r"a\.gif"):
        read_series(path)


def test_gif_cut_between_frames(tmp_path: Path) -> None:
    path = save_gif(tmp_path / "a.gif", grey_frames())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReadError, match="its trailer is missing after 10 frames"):
        read_series(path)


@pytest.mark.parametrize("percent", [0, 5, 50, 95])
def test_truncated_picture_in_a_stack(tmp_path: Path, percent: int) -> None:
    folder = save_stack(tmp_path / "s", grey_frames(4))
    data = (folder / "frame2.png").read_bytes()
    (folder / "frame2.png").write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(ReadError, match=r"frame2\.png"):
        read_series(folder)[0].frame(2)


def test_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"no \.png, \.jpg, \.tif or other file of a single frame fits this pattern"):
        read_series(tmp_path / "*.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="the folder is empty"):
        read_series(tmp_path / "empty")


def test_gif_larger_than_the_limit(tmp_path: Path) -> None:
    path = save_gif(tmp_path / "a.gif", grey_frames(20, (300, 300)))
    with pytest.raises(ResourceError, match="--max-bytes"):
        read_series(path, max_bytes=2**20)


def test_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_gif(tmp_path / "a.gif", grey_frames())
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        read_series(path)


def test_series_are_written_in_their_family(tmp_path: Path) -> None:
    frames = grey_frames(5)
    colour = np.moveaxis(grey_frames(15).reshape(5, 3, 15, 22), 1, 1)
    for kind, pixels, suffix in [
        ("gif", np.repeat(frames[:1, None], 5, axis=0), ""),
        ("png", frames[:, None], ""),
        ("jpg", colour, ""),
    ]:
        series = ImageSeries(pixels, Grid((15, 22)), source={"format": kind})
        path = write_series(tmp_path, f"out_{kind}", series, iter(pixels))
        assert path.suffix == suffix
        (back,) = read_series(path)
        assert back.dtype == np.uint8
        for t in range(5):
            np.testing.assert_array_equal(back.frame(t), pixels[t])


def test_real_gif(real_data: Path) -> None:
    (series,) = read_series(real_data / "tcia-4dlung-103" / "Real_TCIA_103.gif")
    assert (len(series), series.channels, series.grid.shape) == (10, 1, (649, 653))
    assert series.dtype == np.uint8
    assert len({series.frame(t).tobytes() for t in range(10)}) == 10
