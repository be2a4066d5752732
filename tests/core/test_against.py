"""Series registered to an image from elsewhere: its lattice, what frames show of it, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import SimpleITK
import torch
from cli_factory import run

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.mask import Mask, Masks
from r2n2.results.against import against
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries

pytestmark = pytest.mark.usefixtures("one_thread")

FINE = Grid((61, 83), (1.0, 0.8), (4.0, -3.0))
COARSE = Grid((37, 40), (1.7, 1.5), (2.0, -1.0))


def _plane(grid: Grid) -> np.ndarray[Any, Any]:
    """An image that is linear in the world, so that linear interpolation is exact, (1, *shape) float32."""
    y, x = (grid.origin[a] + grid.spacing[a] * np.arange(grid.shape[a]) for a in range(2))
    return (3.0 * y[:, None] - 2.0 * x[None] + 100)[None].astype(np.float32)


def _series(grid: Grid, frames: int = 3, *, dtype: Any = np.float32, channels: int = 1) -> ImageSeries:
    stack = np.stack([np.repeat(_plane(grid) + 10 * k, channels, axis=0) for k in range(frames)]).astype(dtype)
    return ImageSeries(stack, grid, name="moving", times_s=tuple(0.5 * k for k in range(frames)))


def _fixed(grid: Grid, **options: Any) -> ImageSeries:
    return replace(_series(grid, 1, **options), times_s=None, name="fixed")


def test_the_same_lattice_keeps_every_pixel() -> None:
    whole = against(_series(FINE, dtype=np.int16), _fixed(FINE, dtype=np.uint8), "--to f.nii")
    assert whole.covered is None
    assert whole.series.dtype == np.int16
    assert len(whole.series) == 4
    assert whole.series.grid == FINE
    for k in range(3):
        np.testing.assert_array_equal(whole.series.frame(k + 1), _series(FINE, dtype=np.int16).frame(k))
    np.testing.assert_array_equal(whole.series.frame(0), _fixed(FINE, dtype=np.uint8).frame(0))
    assert any("frame 0 is --to f.nii" in note for note in whole.series.notes)
    assert any("times of the frames are left out" in note for note in whole.series.notes)
    assert whole.series.times_s is None


def test_another_lattice_is_resampled_by_its_place_in_the_world() -> None:
    whole = against(_series(COARSE), _fixed(FINE), "--to f.nii")
    assert whole.series.grid == FINE
    assert whole.covered is not None
    inside = whole.covered.inside()
    # 36 * 1.7 = 61.2 mm from 2, 39 * 1.5 = 58.5 mm from -1: of the fixed image's rows 4 ... 64 mm and columns -3 ... 62.6 mm.
    y = 4.0 + 1.0 * np.arange(61)
    x = -3.0 + 0.8 * np.arange(83)
    expected = ((y >= 2.0) & (y <= 63.2))[:, None] & ((x >= -1.0) & (x <= 57.5))[None]
    np.testing.assert_array_equal(inside, expected)
    for k in range(3):
        frame = whole.series.frame(k + 1)
        np.testing.assert_allclose(frame[0][inside], (_plane(FINE)[0] + 10 * k)[inside], atol=1e-3)
        assert not frame[0][~inside].any()
    assert any("resampled from pixels of" in note for note in whole.series.notes)


def test_masks_that_were_given_are_kept_where_frames_show_something() -> None:
    whole = against(_series(COARSE), _fixed(FINE), "--to f.nii")
    weights = np.full((1, *FINE.shape), 0.5, np.float32)
    both = whole.masks(Masks(moving=Mask(weights)))
    assert both.moving is not None
    assert whole.covered is not None
    np.testing.assert_allclose(both.moving.weights[0], 0.5 * whole.covered.inside())
    assert whole.masks(Masks()).moving is whole.covered
    same = against(_series(FINE), _fixed(FINE), "--to f.nii")
    assert not same.masks(Masks())


def test_colour_beside_grey_is_shown_as_grey() -> None:
    whole = against(_series(FINE, channels=3), _fixed(FINE), "--to f.nii")
    assert whole.series.channels == 1
    np.testing.assert_allclose(whole.series.frame(2), _series(FINE).frame(1), rtol=1e-5)
    with pytest.raises(ArgumentError, match="has 2 channels, the series 3"):
        against(_series(FINE, channels=3), _fixed(FINE, channels=2), "--to f.nii")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="holds 3 frames, expected one image"):
        against(_series(FINE), _series(FINE), "--to f.nii")
    far = Grid(FINE.shape, FINE.spacing, (900.0, 0.0))
    with pytest.raises(ArgumentError, match=r"--to f.nii: moving: lies elsewhere .* than the fixed image"):
        against(_series(FINE), _fixed(far), "--to f.nii")
    bare = replace(_fixed(COARSE), spacing_known=False)
    with pytest.raises(ArgumentError, match="no geometry that says where they lie, the fixed image"):
        against(_series(FINE), bare, "--to f.nii")


def _write(path: Path, image: torch.Tensor, grid: Grid) -> Path:
    written = SimpleITK.GetImageFromArray(image.numpy())
    written.SetSpacing(grid.spacing[::-1])
    written.SetOrigin(grid.origin[::-1])
    SimpleITK.WriteImage(written, str(path))
    return path


def test_a_fixed_and_a_moving_image_of_two_lattices_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The moving image has pixels of its own size; the field found is the known one."""
    grid = Grid((61, 83), (1.7, 0.9), (3.0, -8.0))
    fixed, moving, exact = make.moved_pair(grid)
    finer = Grid((120, 163), (0.85, 0.45), (3.0, -8.0))
    detailed = torch.nn.functional.interpolate(moving[None], (121, 165), mode="bilinear", align_corners=True)[0, :, :120, :163]
    source = _write(tmp_path / "moving.mha", detailed[0], finer)
    to = _write(tmp_path / "fixed.mha", fixed[0], grid)
    settings = tmp_path / "fast.toml"
    settings.write_text(make.FAST.to_toml(), encoding="utf-8")
    assert run("register", source, "-o", tmp_path / "out", "--to", to, "--config", settings, "--axes", "YX") == 0
    result = read_result(tmp_path / "out")
    assert result.grid == grid
    assert result.metrics[0].status.value == "reference"
    assert len(result.metrics) == 2
    assert result.metrics[1].similarity_after > 0.97
    assert float(make.error_px(result.transforms[1], exact).mean()) < 0.5
    assert result.manifest.input.selection["to"] == str(to)
    aligned = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out" / "registered.nii.gz")))
    assert aligned.shape == (2, 1, 61, 83)
    assert run("register", source, "-o", tmp_path / "other", "--to", to, "--reference", "1", "--axes", "YX") == 2
    assert "leave one of them out" in capsys.readouterr().err
