"""Masks of every format land where they were drawn, are kept with the result, and are refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import dicom_factory
import imageio.v3 as imageio
import nrrd
import numpy as np
import pytest
import SimpleITK
import tifffile
from cli_factory import GRID, ROWS, fake_register, one_line, run, save, scene, table

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import write_landmarks
from r2n2.mask import Masks
from r2n2.registration import register_series
from r2n2.results.mask_files import kept_masks, read_mask, read_masks
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.workflow import register_to_folder

SHAPE = GRID.shape
PLACE = Grid((1, *SHAPE), (5.0, *GRID.spacing), (12.0, *GRID.origin))
QUICK = ["--method", "fit", "--steps", 2, "--reference", 0, "-q"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2n2.workflow.register_series", fake_register)
    monkeypatch.setattr("r2n2.report.page.movie", lambda _: "")


def drawn() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:27, 9:40], labels[14:17, 20:24] = 1, 3
    return labels


def frames() -> np.ndarray:
    return np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)


def bare(count: int = 4) -> ImageSeries:
    """A series whose pixels have no size."""
    return ImageSeries(np.resize(frames(), (count, 1, *SHAPE)), Grid(SHAPE), spacing_known=False)


def placed() -> ImageSeries:
    return ImageSeries(frames(), GRID, patient_grid=PLACE)


def volume(path: Path, values: np.ndarray, origin: tuple[float, float, float], spacing: tuple[float, float, float]) -> Path:
    """Values (z, y, x), origin and spacing likewise."""
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin[::-1])
    SimpleITK.WriteImage(image, str(path))
    return path


def test_formats_without_a_place_lie_pixel_by_pixel(tmp_path: Path) -> None:
    labels, files = drawn(), []
    np.save(tmp_path / "m.npy", labels)
    imageio.imwrite(tmp_path / "m.png", 80 * labels)
    imageio.imwrite(tmp_path / "alpha.png", np.dstack([80 * labels] * 3 + [np.full(SHAPE, 255, np.uint8)]))
    tifffile.imwrite(tmp_path / "m.tif", labels)
    files = [tmp_path / name for name in ("m.npy", "m.png", "alpha.png", "m.tif")]
    for file in files:
        mask = read_mask(bare(), file)
        assert np.array_equal(mask.inside(), labels > 0), file.name
        assert f"{100 * (labels > 0).mean():.3g} % of the pixels count" in mask.notes


def test_formats_with_a_place_lie_where_they_were_drawn(tmp_path: Path) -> None:
    labels = drawn()
    nearby = np.stack([np.ones_like(labels), labels, np.zeros_like(labels)])
    origin = (7.0, *GRID.origin)
    for name in ("m.nii.gz", "m.mha", "m.nrrd"):
        assert np.array_equal(read_mask(placed(), volume(tmp_path / name, nearby, origin, (5, *GRID.spacing))).inside(), labels > 0)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([GRID.spacing[1], GRID.spacing[0], 5.0]),
        "space origin": [GRID.origin[1], GRID.origin[0], 12.0],
        "Segment0_LabelValue": "1",
        "Segment0_Name": "lung",
    }
    nrrd.write(str(tmp_path / "s.seg.nrrd"), labels.T[:, :, None], header, index_order="F")
    assert np.array_equal(read_mask(placed(), tmp_path / "s.seg.nrrd").inside(), labels > 0)


def test_a_dicom_segmentation(tmp_path: Path) -> None:
    grid = Grid((5, 7), (1.2, 2.5), (20.0, 10.0))
    segment = np.zeros((3, 5, 7), np.uint8)
    segment[1, 1:4, 2:6] = segment[2, 0, 0] = 1
    path = dicom_factory.save(dicom_factory.segmentation({3: segment}, {3: "lung"}), tmp_path / "seg.dcm")
    series = ImageSeries(np.zeros((4, 1, 5, 7)), grid, patient_grid=Grid((1, 5, 7), (7.5, 1.2, 2.5), (37.5, 20.0, 10.0)))
    mask = read_mask(series, path)
    assert np.array_equal(mask.inside(), segment[1] > 0)
    assert any("3 lung" in note for note in mask.notes)


def test_another_lattice_is_sampled_by_its_place(tmp_path: Path) -> None:
    """Twice as fine and shifted: a rectangle given in mm."""
    spacing, origin = (5.0, 0.8, 0.7), (12.0, -1.0, -9.0)
    fine = np.zeros((1, 110, 130), np.uint8)
    y, x = (origin[k + 1] + spacing[k + 1] * np.arange(n) for k, n in enumerate(fine.shape[1:]))
    fine[0, (y > 20.1)[:, None] & (y < 50.2)[:, None] & (x > 5.3) & (x < 40.4)] = 1
    found = read_mask(placed(), volume(tmp_path / "m.nii.gz", fine, origin, spacing)).inside()
    rows, columns = (GRID.origin[k] + GRID.spacing[k] * np.arange(n) for k, n in enumerate(SHAPE))
    nearest = [np.rint((at - origin[k + 1]) / spacing[k + 1]).astype(int) for k, at in enumerate((rows, columns))]
    known = [(at >= 0) & (at < n) for at, n in zip(nearest, fine.shape[1:], strict=True)]
    expected = fine[0][np.ix_(*(at.clip(0, n - 1) for at, n in zip(nearest, fine.shape[1:], strict=True)))] > 0
    expected &= known[0][:, None] & known[1]
    assert 300 < expected.sum() < 700
    assert np.array_equal(found, expected)
    soft = read_mask(placed(), volume(tmp_path / "s.nii.gz", (fine * np.float32(0.4)), origin, spacing))
    assert soft.frame(0).max() == pytest.approx(0.4)
    # Between pixels along the border, the same elsewhere.
    assert np.abs(soft.frame(0) - 0.4 * expected).max() < 0.4
    assert (np.abs(soft.frame(0) - 0.4 * expected) > 0.01).mean() < 0.1


def test_one_mask_a_frame(tmp_path: Path) -> None:
    many = np.stack([np.roll(drawn(), k, 0) for k in range(4)])[:, None]
    path = save(tmp_path / "many.mha", many)
    series = ImageSeries(frames(), GRID)
    mask = read_mask(series, path, frames=4)
    assert all(np.array_equal(mask.inside(k), many[k, 0] > 0) for k in range(4))
    with pytest.raises(ReadError, match="holds 4 masks, expected 1 mask;"):
        read_mask(series, path)
    with pytest.raises(ReadError, match=r"holds 4 masks, expected 1 mask, or 3 \(one a frame\)"):
        read_mask(ImageSeries(frames()[:3], GRID), path, frames=3)


def test_slices_have_masks_of_their_own_or_one_without_a_place(tmp_path: Path) -> None:
    slices = tuple(
        ImageSeries(frames(), GRID, patient_grid=Grid((1, *SHAPE), (5.0, *GRID.spacing), (z, *GRID.origin))) for z in (12.0, 17.0)
    )
    stack = np.stack([drawn(), np.roll(drawn(), 5, 1)])
    masks, notes = read_masks(slices, volume(tmp_path / "v.nii.gz", stack, (12.0, *GRID.origin), (5, *GRID.spacing)), None)
    assert all(np.array_equal(m.fixed.inside(), stack[k] > 0) for k, m in enumerate(masks))
    assert notes[0].startswith("slice position 0: --mask ")
    np.save(tmp_path / "m.npy", drawn())
    masks, notes = read_masks(slices, tmp_path / "m.npy", None)
    assert all(np.array_equal(m.fixed.inside(), drawn() > 0) for m in masks)
    assert any("one 2D mask without a place is used for all 2 slice positions" in note for note in notes)
    with pytest.raises(ArgumentError, match="shows another slice"):
        read_masks(slices, volume(tmp_path / "one.nii.gz", stack[:1], (12.0, *GRID.origin), (5, *GRID.spacing)), None)
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "slice_01.npy", drawn())
    masks, _ = read_masks(slices, None, tmp_path / "parts")
    assert masks[0].moving is None
    assert np.array_equal(masks[1].moving.inside(), drawn() > 0)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return save(tmp_path / "in" / "movie.mha", frames())


BAD = {
    "empty": (np.zeros(SHAPE, np.uint8), "every pixel is 0"),
    "shape": (np.ones((20, 49), np.uint8), "(20, 49) pixels"),
    "nan": (np.full(SHAPE, np.nan), "NaN or infinite"),
    "negative": (np.full(SHAPE, -0.5), "negative"),
    "too large": (np.full(SHAPE, 1.5), "weights from 0 to 1"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("option", ["--mask", "--moving-mask"])
def test_what_cannot_be_used_is_refused_before_anything_is_computed(
    movie: Path, tmp_path: Path, capsys, case: str, option: str
) -> None:
    values, words = BAD[case]
    path = tmp_path / "bad.npy"
    np.save(path, values)
    code = run("register", movie, "-o", tmp_path / "out", option, path, *QUICK)
    said = one_line(capsys)
    assert code == (2 if case == "shape" else 3)
    assert "bad.npy" in said
    assert words in said
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_file_that_is_not_there(movie: Path, tmp_path: Path, capsys) -> None:
    assert run("register", movie, "-o", tmp_path / "out", "--mask", tmp_path / "none.npy", *QUICK) == 3
    assert "--mask" in one_line(capsys)


def test_the_result_holds_the_mask_and_only_the_same_one_is_the_same_run(movie: Path, tmp_path: Path, capsys) -> None:
    mask, soft, out = tmp_path / "m.npy", tmp_path / "soft.npy", tmp_path / "out"
    np.save(mask, drawn())
    np.save(soft, np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.float32))
    points = np.array([(y + rows, 20.0) for rows in ROWS for y in (1.0, 12.0, 20.0)])
    write_landmarks(tmp_path / "l.csv", LandmarkSet(("a", "b", "c") * 4, np.repeat(np.arange(4), 3), points, Space.INDEX))
    options = ["--mask", mask, "--moving-mask", soft, "--landmarks", tmp_path / "l.csv"]
    assert run("register", movie, "-o", out, *options, *QUICK) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["masks"]["fixed"]["path"] == str(mask)
    assert {"mask.mha", "moving_mask.mha"} <= set(record["files"])
    kept = kept_masks(read_result(out))
    assert np.array_equal(kept.fixed.inside(), drawn() > 0)
    np.testing.assert_array_equal(kept.moving.frame(2), np.load(soft))
    image = SimpleITK.ReadImage(str(out / "mask.mha"))
    assert image.GetSpacing()[:2] == GRID.spacing[::-1]
    # The landmark in row 1 lies outside of the mask.
    assert {row["id"] for row in table(out / "tre.csv") if row["inside"] == "0"} == {"a"}
    report = (out / "report.html").read_text()
    assert "m.npy" in report
    assert "inside the mask" in report
    before = (out / "run.json").stat().st_mtime_ns
    assert run("register", movie, "-o", out, *options, *QUICK) == 0
    assert (out / "run.json").stat().st_mtime_ns == before
    assert run("register", movie, "-o", out, *QUICK, "--landmarks", tmp_path / "l.csv") == 2
    capsys.readouterr()
    # evaluate goes on with the mask of the run; another one may be given.
    assert run("evaluate", out, "--landmarks", tmp_path / "l.csv") == 0
    assert "3 of 9 landmark pairs have a point outside the image or mask" in capsys.readouterr().out
    np.save(tmp_path / "all.npy", np.ones(SHAPE))
    assert run("evaluate", out, "--landmarks", tmp_path / "l.csv", "--mask", tmp_path / "all.npy") == 0
    assert "or mask" not in capsys.readouterr().out
    (out / "mask.mha").write_bytes((out / "moving_mask.mha").read_bytes())
    with pytest.raises(ReadError, match="not the mask that was used"):
        kept_masks(read_result(out))


def test_a_result_without_masks_says_none(movie: Path, tmp_path: Path) -> None:
    assert run("register", movie, "-o", tmp_path / "out", *QUICK) == 0
    assert not kept_masks(read_result(tmp_path / "out"))
    assert not (tmp_path / "out" / "mask.mha").exists()
    values = json.loads((tmp_path / "out" / "run.json").read_text())
    del values["masks"]  # as an earlier version wrote it
    (tmp_path / "out" / "run.json").write_text(json.dumps(values))
    assert not kept_masks(read_result(tmp_path / "out"))


def test_a_volume_series_and_its_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((18, 20, 22), (2.0, 1.5, 1.0), (3.0, -2.0, 7.0))
    z, y, x = np.mgrid[:18, :20, :22]
    stack = np.stack([100 * np.exp(-((z - 9 - k) ** 2 + (y - 9) ** 2 + (x - 11) ** 2) / 30) for k in (0, 1)])
    series = ImageSeries(stack[:, None].astype(np.float32), grid, source={"format": "nifti", "path": "v.nii.gz"})
    inside = np.zeros(grid.shape, np.uint8)
    inside[4:15, 3:17, 2:20] = 1
    path = volume(tmp_path / "m.nii.gz", inside, grid.origin, grid.spacing)
    mask = read_mask(series, path)
    assert np.array_equal(mask.inside(), inside > 0)
    turned = SimpleITK.GetImageFromArray(inside[::-1, :, ::-1].copy())
    turned.SetSpacing(grid.spacing[::-1])
    turned.SetDirection((-1.0, 0, 0, 0, 1, 0, 0, 0, -1))
    turned.SetOrigin((7.0 + 21 * 1.0, -2.0, 3.0 + 17 * 2.0))
    SimpleITK.WriteImage(turned, str(tmp_path / "turned.nrrd"))
    assert np.array_equal(read_mask(series, tmp_path / "turned.nrrd").inside(), inside > 0), "brought into the order of the series"
    coarse = volume(tmp_path / "coarse.mha", inside[::3], grid.origin, (6.0, 1.5, 1.0))
    nearest = np.repeat(inside[::3], 3, axis=0)
    expected = np.concatenate([nearest[1:], nearest[-1:]])  # rows 0 1 | 2 3 4 | ...: the nearest of rows 0, 3, 6
    taken = read_mask(series, coarse)
    assert np.array_equal(taken.inside()[:16], expected[:16] > 0)
    assert any("by its place" in note for note in taken.notes)
    with pytest.raises(ArgumentError, match="lies elsewhere"):
        read_mask(series, volume(tmp_path / "off.nii.gz", inside, (400.0, -2.0, 7.0), grid.spacing))
    np.save(tmp_path / "few.npy", inside[:9])
    with pytest.raises(ArgumentError, match="no geometry that says where"):
        read_mask(series, tmp_path / "few.npy")
    config = RegistrationConfig(
        method="fit", steps=2, fit=FitConfig(sizes=(16, 16, 16), final_steps=1, folding_size=16, regulariser_size=8), reference=0
    )
    monkeypatch.setattr("r2n2.workflow.register_series", register_series)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "")
    *_, last = register_to_folder(series, tmp_path / "out", config, masks=Masks(mask))
    assert last.result is not None
    assert np.array_equal(kept_masks(read_result(tmp_path / "out")).fixed.inside(), inside > 0)
