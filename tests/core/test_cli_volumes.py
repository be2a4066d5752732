"""Volumes on the command line: what info says of them, and that register refuses them plainly until it can align them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cli_factory import fake_register, run

from r2n2.results.manifest import load_manifest

VOLUMES = (np.arange(4 * 17 * 18 * 20).reshape(4, 17, 18, 20) % 907).astype(np.int16)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    image = sitk.GetImageFromArray(VOLUMES[0])
    images = []
    for volume in VOLUMES:
        image = sitk.GetImageFromArray(volume)
        image.SetSpacing((0.7, 1.1, 2.3))
        image.SetDirection((0, 1, 0, 0, 0, 1, 1, 0, 0))
        images.append(image)
    sitk.WriteImage(sitk.JoinSeries(images), str(tmp_path / "a.nii"))
    return tmp_path / "a.nii"


def test_info_of_volumes(movie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", movie, "--volumes") == 0
    told = capsys.readouterr().out
    head, row = (line.split() for line in told.splitlines()[:2])
    assert (head[0], head[-1]) == ("volume", "orientation")
    for text in ("17 x 18 x 20", "2.3 x 1.1 x 0.7 mm", "0 .. 3"):
        assert text in " ".join(row)
    assert row[-3:] == ["P", "L", "S"]
    assert "read as a volume of 17 slices, as --volumes asks" in told
    assert run("info", movie, "--slices") == 0
    assert "orientation" not in capsys.readouterr().out
    assert run("info", movie) == 0
    assert "17 slices 2.3 mm apart, of pixels of 1.1 mm; --slices reads slice by slice" in capsys.readouterr().out


@pytest.mark.parametrize("option", [[], ["--slices"]])
def test_slices_are_registered_as_before(
    movie: Path, tmp_path: Path, option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "")
    assert run("register", movie, "-o", tmp_path / "out", "--slice", "3", *option, "--reference", "0", "-q") == 0
    manifest = load_manifest(tmp_path / "out")
    assert manifest.input.selection.get("volumes") == (False if option else None)


def test_a_fixed_volume_is_read_as_one(
    movie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both on the lattice of the fixed one."""
    seen = []

    def remember(series, *_args, **_more):  # type: ignore[no-untyped-def]
        seen.append(series)
        yield from ()

    monkeypatch.setattr("r2n2.workflow.register_to_folder", remember)
    fixed = sitk.GetImageFromArray(VOLUMES[2][:, ::-1].copy())
    fixed.SetSpacing((0.7, 1.1, 2.3))
    fixed.SetDirection((0, -1, 0, 0, 0, 1, 1, 0, 0))
    fixed.SetOrigin((17 * 1.1, 0, 0))
    sitk.WriteImage(fixed, str(tmp_path / "fixed.nrrd"))
    assert run("register", movie, "-o", tmp_path / "out", "--to", tmp_path / "fixed.nrrd", "-q") == 0
    (series,) = seen
    assert series.frames.shape == (5, 1, 17, 18, 20)
    np.testing.assert_array_equal(series.frame(0)[0], VOLUMES[2][:, ::-1])
    np.testing.assert_array_equal(series.frame(4)[0], VOLUMES[3][:, ::-1])
