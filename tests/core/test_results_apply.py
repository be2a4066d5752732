"""``apply`` on images, label maps and points of other formats and lattices, read back with SimpleITK."""

from __future__ import annotations

from pathlib import Path

import dicom_factory
import nibabel
import numpy as np
import pytest
import SimpleITK
from cli_factory import ROWS, one_line, run, scene, shift, without_registration

from r2n2.evaluation import warp_labels
from r2n2.geometry import Grid, Space
from r2n2.io import read_landmarks, read_series, write_landmarks, write_series
from r2n2.series import ImageSeries, LandmarkSet

SHAPE, SPACING, ORIGIN = (34, 49), (2.0, 1.5), (4.0, -6.0)
HEIGHT, THICKNESS = 12.0, 5.0
GRID = Grid(SHAPE, SPACING, ORIGIN)
PLACE = Grid((1, *SHAPE), (THICKNESS, *SPACING), (HEIGHT, *ORIGIN))
DOWN_MM = ROWS[2] * SPACING[0]
"""Frame 2 shows the reference this far down: its labels belong this far up."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_registration(monkeypatch)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A registered axial slice 12 mm high in the patient."""
    stack = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    series = ImageSeries(stack, GRID, patient_grid=PLACE, source={"format": "nifti", "path": "movie.nii"})
    movie = write_series(tmp_path, "movie", series, (series.frame(k) for k in range(len(series))))
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    return tmp_path / "result"


def drawn(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[10:20, 15:30], labels[14:17, 20:24] = 1, 2
    return labels


def save(path: Path, volume: np.ndarray, *, height: float = HEIGHT, spacing: tuple[float, float] = SPACING) -> Path:
    """A volume (z, y, x) whose first slice lies at ``height``."""
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing((spacing[1], spacing[0], THICKNESS))
    image.SetOrigin((ORIGIN[1], ORIGIN[0], height))
    SimpleITK.WriteImage(image, str(path))
    return path


def centre_mm(image: SimpleITK.Image, value: int) -> np.ndarray:
    """World position (x, y, z) of the middle of a label, by SimpleITK."""
    pixels = np.argwhere(SimpleITK.GetArrayFromImage(image) == value)
    assert len(pixels)
    points = [image.TransformContinuousIndexToPhysicalPoint(p[::-1].astype(float).tolist()) for p in pixels]
    return np.mean(points, axis=0)


def moved_centre(path: Path, value: int = 2) -> np.ndarray:
    return centre_mm(SimpleITK.ReadImage(str(path)), value)[:2]


def expected_centre(labels: np.ndarray, value: int = 2) -> np.ndarray:
    y, x = np.argwhere(labels == value).mean(axis=0) * SPACING + ORIGIN
    return np.array([x, y - DOWN_MM])


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd", "seg.nrrd"])
def test_a_label_map_of_one_slice_needs_no_question(result: Path, tmp_path: Path, suffix: str, capsys) -> None:
    source = save(tmp_path / f"labels.{suffix}", drawn()[None])
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 0
    assert ("taken for labels: nearest neighbour" in capsys.readouterr().err) == (suffix != "seg.nrrd")
    moved = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out.mha"))).squeeze()
    np.testing.assert_array_equal(moved, warp_labels(drawn(), shift(ROWS[2], GRID)))
    np.testing.assert_allclose(moved_centre(tmp_path / "out.mha"), expected_centre(drawn()), atol=1e-4)


def test_a_dicom_segmentation_is_a_label_map_of_its_segments(tmp_path: Path, capsys) -> None:
    row, column, height = 1.2, 2.5, 30 + 7.5  # of the second slice that the factory makes
    shape = (21, 26)
    stack = np.stack([scene(rows)[: shape[0], : shape[1]] for rows in ROWS])[:, None].astype(np.float32)
    grid = Grid(shape, (row, column), (20.0, 10.0))
    place = Grid((1, *shape), (THICKNESS, row, column), (height, 20.0, 10.0))
    series = ImageSeries(stack, grid, patient_grid=place, source={"format": "nifti", "path": "movie.nii"})
    movie = write_series(tmp_path, "movie", series, iter(stack))
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    masks = {7: np.zeros((3, *shape), bool), 2: np.zeros((3, *shape), bool)}
    masks[7][1, 8:15, 10:20], masks[2][:, 2:5, 1:4] = True, True
    source = dicom_factory.save(dicom_factory.segmentation(masks, {7: "lesion", 2: "liver"}), tmp_path / "seg.dcm")
    capsys.readouterr()
    assert run("apply", tmp_path / "result", "--to", source, "-o", tmp_path / "out.nii.gz", "--frame", 2) == 0
    assert "labels are numbered by segment: 2 liver, 7 lesion" in capsys.readouterr().err
    np.testing.assert_allclose(moved_centre(tmp_path / "out.nii.gz", 7), [10 + column * 14.5, 20 + row * (11 - 3)], atol=1e-3)


def test_rows_stored_the_other_way_round_land_where_they_were_drawn(result: Path, tmp_path: Path, capsys) -> None:
    affine = np.diag([-SPACING[1], SPACING[0], THICKNESS, 1.0])  # nibabel counts in RAS: x is flipped, and the rows run up
    affine[:3, 3] = -ORIGIN[1], -ORIGIN[0] - (SHAPE[0] - 1) * SPACING[0], HEIGHT
    flipped = drawn()[::-1]
    nibabel.save(nibabel.Nifti1Image(flipped.T[..., None], affine), tmp_path / "labels.nii.gz")
    assert run("apply", result, "--to", tmp_path / "labels.nii.gz", "-o", tmp_path / "out.nii.gz", "--frame", 2) == 0
    assert "rows or columns run another way" in capsys.readouterr().err
    np.testing.assert_allclose(moved_centre(tmp_path / "out.nii.gz"), expected_centre(drawn()), atol=1e-3)
    again = nibabel.load(tmp_path / "out.nii.gz")
    where = np.argwhere(np.asarray(again.dataobj) == 2).mean(axis=0)
    x, y, _ = nibabel.affines.apply_affine(again.affine, where[:3])
    np.testing.assert_allclose([-x, -y], expected_centre(drawn()), atol=1e-3)


def test_of_a_volume_the_slice_of_the_series_is_taken(result: Path, tmp_path: Path, capsys) -> None:
    volume = np.zeros((5, *SHAPE), np.uint8)
    volume[:, 2:5, 2:5] = 7
    volume[3] = drawn()
    source = save(tmp_path / "volume.nii.gz", volume, height=HEIGHT - 3 * THICKNESS)
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 0
    assert "slice 3 of 5 lies where the registered series does" in capsys.readouterr().err
    moved = SimpleITK.ReadImage(str(tmp_path / "out.mha"))
    assert set(np.unique(SimpleITK.GetArrayFromImage(moved)).tolist()) == {0, 1, 2}
    np.testing.assert_allclose(moved_centre(tmp_path / "out.mha"), expected_centre(drawn()), atol=1e-4)


def test_a_label_map_of_another_slice_is_refused(result: Path, tmp_path: Path, capsys) -> None:
    source = save(tmp_path / "labels.nii.gz", drawn()[None], height=HEIGHT + 10)
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 2
    assert "shows another slice, 10.00 mm away" in one_line(capsys)
    volume = save(tmp_path / "volume.nii.gz", np.repeat(drawn()[None], 3, 0), height=HEIGHT + 10)
    assert run("apply", result, "--to", volume, "-o", tmp_path / "out.mha", "--frame", 2) == 2
    assert "10.00 mm away from that of the registered series at the nearest" in one_line(capsys)


def test_an_image_without_geometry_lies_on_the_pixels_of_the_series(result: Path, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "labels.npy", drawn())
    assert run("apply", result, "--to", tmp_path / "labels.npy", "-o", tmp_path / "out.mha", "--frame", 2) == 0
    assert "holds no pixel size: its pixels are taken for those of the series" in capsys.readouterr().err
    moved = SimpleITK.ReadImage(str(tmp_path / "out.mha"))
    assert moved.GetSpacing()[:2] == pytest.approx(SPACING[::-1])
    np.testing.assert_allclose(moved_centre(tmp_path / "out.mha"), expected_centre(drawn()), atol=1e-4)


def test_whole_numbers_stored_as_float64_stay_whole(result: Path, tmp_path: Path, capsys) -> None:
    source = save(tmp_path / "labels.nii.gz", drawn()[None].astype(np.float64))
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 1) == 0
    assert "nearest neighbour" in capsys.readouterr().err
    moved = read_series(tmp_path / "out.mha")[0]
    assert moved.dtype == np.float64
    np.testing.assert_array_equal(moved.frame(0)[0], warp_labels(drawn(), shift(ROWS[1], GRID)))
    assert run("apply", result, "--to", source, "-o", tmp_path / "image.mha", "--frame", 1, "--image") == 0
    half = save(tmp_path / "half.nii.gz", drawn()[None] / 2)
    assert run("apply", result, "--to", half, "-o", tmp_path / "half.mha", "--frame", 1, "--labels") == 2
    assert "holds 0.5, labels are whole numbers" in one_line(capsys)


def test_a_label_map_cropped_to_its_labels_is_not_cut_off_when_it_moves(result: Path, tmp_path: Path, capsys) -> None:
    labels = drawn()
    labels[11, 16] = 3  # in the corner of what is kept
    image = SimpleITK.GetImageFromArray(labels[None, 10:20, 15:30])
    image.SetSpacing((SPACING[1], SPACING[0], THICKNESS))
    image.SetOrigin((ORIGIN[1] + 15 * SPACING[1], ORIGIN[0] + 10 * SPACING[0], HEIGHT))
    SimpleITK.WriteImage(image, str(tmp_path / "part.seg.nrrd"))
    assert run("apply", result, "--to", tmp_path / "part.seg.nrrd", "-o", tmp_path / "out.mha", "--frame", 2) == 0
    assert "covers another part of the lattice of the series" in capsys.readouterr().err
    moved = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out.mha"))).squeeze()
    np.testing.assert_array_equal(moved, warp_labels(labels, shift(ROWS[2], GRID)))
    larger = np.zeros((1, SHAPE[0] + 4, SHAPE[1] + 6), np.uint8)
    larger[0, 4:, 6:] = labels
    image = SimpleITK.GetImageFromArray(larger)
    image.SetSpacing((SPACING[1], SPACING[0], THICKNESS))
    image.SetOrigin((ORIGIN[1] - 6 * SPACING[1], ORIGIN[0] - 4 * SPACING[0], HEIGHT))
    SimpleITK.WriteImage(image, str(tmp_path / "larger.nii.gz"))
    assert run("apply", result, "--to", tmp_path / "larger.nii.gz", "-o", tmp_path / "again.mha", "--frame", 2) == 0
    again = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "again.mha"))).squeeze()
    np.testing.assert_array_equal(again, moved)


def test_in_an_oblique_slice_the_columns_may_run_the_other_way(tmp_path: Path, capsys) -> None:
    angle = np.deg2rad(25)
    direction = ((0.0, -np.cos(angle), -np.sin(angle)), (1.0, 0.0, 0.0), (0.0, -np.sin(angle), np.cos(angle)))
    place = Grid((1, *SHAPE), (THICKNESS, *SPACING), (30.0, -7.0, 11.0), direction)
    stack = np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32)
    series = ImageSeries(stack, Grid(SHAPE, SPACING), patient_grid=place, source={"format": "nifti", "path": "movie.nii"})
    movie = write_series(tmp_path, "movie", series, iter(stack))
    assert run("register", movie, "-o", tmp_path / "result", "--quiet") == 0
    affine = nibabel.load(movie).affine
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[1] - 1
    nibabel.save(nibabel.Nifti1Image(drawn().T[::-1, :, None], affine @ flip), tmp_path / "labels.nii.gz")
    assert run("apply", tmp_path / "result", "--to", tmp_path / "labels.nii.gz", "-o", tmp_path / "out.nii.gz", "--frame", 2) == 0
    assert "rows or columns run another way" in capsys.readouterr().err
    out = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(out.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(out.dataobj).squeeze().T, warp_labels(drawn(), shift(ROWS[2], GRID)))
    aside = affine.copy()
    aside[:3, 3] += 4 * affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    nibabel.save(nibabel.Nifti1Image(drawn().T[..., None], aside), tmp_path / "aside.nii.gz")
    assert run("apply", tmp_path / "result", "--to", tmp_path / "aside.nii.gz", "-o", tmp_path / "no.nii.gz", "--frame", 2) == 2
    assert "shows another slice, 4.00 mm away" in one_line(capsys)


def test_exchanged_axes_land_where_they_were_drawn(result: Path, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(drawn().T[None, ::-1])
    image.SetSpacing((SPACING[0], SPACING[1], THICKNESS))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    image.SetOrigin((ORIGIN[1] + (SHAPE[1] - 1) * SPACING[1], ORIGIN[0], HEIGHT))
    SimpleITK.WriteImage(image, str(tmp_path / "turned.nii.gz"))
    assert run("apply", result, "--to", tmp_path / "turned.nii.gz", "-o", tmp_path / "out.mha", "--frame", 2) == 0
    moved = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out.mha"))).squeeze()
    np.testing.assert_array_equal(moved, warp_labels(drawn(), shift(ROWS[2], GRID)))


def test_other_pixel_sizes_keep_their_lattice(result: Path, tmp_path: Path, capsys) -> None:
    fine = np.zeros((68, 98), np.uint8)
    fine[20:40, 30:60] = 2
    source = save(tmp_path / "fine.nii.gz", fine[None], spacing=(1.0, 0.75))
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 0
    assert "keeps its own pixels of 1 x 0.75 mm; the series has 2 x 1.5 mm" in capsys.readouterr().err
    moved = SimpleITK.ReadImage(str(tmp_path / "out.mha"))
    assert moved.GetSize()[:2] == (98, 68)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(moved).squeeze()[14:34, 30:60], np.full((20, 30), 2))
    assert (SimpleITK.GetArrayFromImage(moved) == 2).sum() == 600


def test_negative_intensities_and_several_channels_are_interpolated(result: Path, tmp_path: Path) -> None:
    smooth = np.stack([scene(3) - 1000, 5 * scene(3)])[None].astype(np.float32)
    series = ImageSeries(smooth, GRID, patient_grid=PLACE, source={"format": "mha", "path": "two.mha"})
    source = write_series(tmp_path, "two", series, iter(smooth))
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2) == 0
    moved = read_series(tmp_path / "out.mha")[0].frame(0)
    np.testing.assert_allclose(moved[0, :28], scene(0)[:28] - 1000, atol=1e-2)
    np.testing.assert_allclose(moved[1, :28], 5 * scene(0)[:28], atol=1e-2)


def test_labels_of_the_reference_go_into_a_frame_by_the_inverse(result: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "labels.nii.gz", drawn()[None])
    assert run("apply", result, "--to", source, "-o", tmp_path / "out.mha", "--frame", 2, "--inverse") == 0
    x, y = expected_centre(drawn())
    np.testing.assert_allclose(moved_centre(tmp_path / "out.mha"), [x, y + 2 * DOWN_MM], atol=1e-3)


def test_points_of_any_format_are_mapped(result: Path, tmp_path: Path) -> None:
    text = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label\n"
    (tmp_path / "points.fcsv").write_text(text + "1,9.0,24.0,12.0,0,0,0,1,1,1,0,tip@0\n")
    assert run("apply", result, "--to", tmp_path / "points.fcsv", "-o", tmp_path / "out.csv", "--frame", 2) == 0
    (found,) = read_landmarks(tmp_path / "out.csv").to_space(Space.WORLD, GRID).points.tolist()
    assert found == pytest.approx([24.0 + DOWN_MM, 9.0], abs=1e-3)
    marks = LandmarkSet(("a",), np.array([2]), np.array([[24.0 + DOWN_MM, 9.0]]), Space.WORLD)
    write_landmarks(tmp_path / "frame.csv", marks)
    assert run("apply", result, "--to", tmp_path / "frame.csv", "-o", tmp_path / "back.mrk.json", "--inverse") == 0
    (back,) = read_landmarks(tmp_path / "back.mrk.json", PLACE).to_space(Space.WORLD, GRID).points.tolist()
    assert back == pytest.approx([24.0, 9.0], abs=1e-2)


def _stack(path: Path) -> np.ndarray:
    """(T, y, x) of a file that was written."""
    series = read_series(path)[0]
    return np.stack([series.frame(k)[0] for k in range(len(series))])


def test_a_segmentation_of_one_frame_becomes_one_of_all(result: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "labels.nii.gz", drawn()[None])
    assert run("apply", result, source, "-o", tmp_path / "out.mha", "--from", 2) == 0
    found = _stack(tmp_path / "out.mha")
    np.testing.assert_array_equal(found[2], drawn(), "its own frame is not touched")
    for frame, rows in enumerate(ROWS):
        # What lies in frame 2 lies that many rows lower, or higher, in another frame.
        np.testing.assert_array_equal(np.argwhere(found[frame] == 2), np.argwhere(drawn() == 2) + np.array([rows - ROWS[2], 0]))


def test_points_of_one_frame_are_followed_into_the_others(result: Path, tmp_path: Path) -> None:
    marks = LandmarkSet(("a", "b"), np.array([2, 2]), np.array([[24.0, 9.0], [30.0, 12.0]]), Space.WORLD)
    write_landmarks(tmp_path / "two.csv", marks)
    assert run("apply", result, tmp_path / "two.csv", "-o", tmp_path / "all.csv", "--from", 2, "--frames", "0-1,3") == 0
    found = read_landmarks(tmp_path / "all.csv").to_space(Space.WORLD, GRID)
    assert found.frames.tolist() == [0, 0, 1, 1, 3, 3]
    for frame in (0, 1, 3):
        expected = marks.points + np.array([(ROWS[frame] - ROWS[2]) * SPACING[0], 0])
        np.testing.assert_allclose(found.in_frame(frame).points, expected, atol=1e-2)


def test_a_track_that_follows_the_motion_stands_still_on_the_reference(result: Path, tmp_path: Path) -> None:
    points = np.array([[20.0 + rows * SPACING[0], 9.0] for rows in ROWS])
    write_landmarks(tmp_path / "track.csv", LandmarkSet(("a",) * 4, np.arange(4), points, Space.WORLD))
    assert run("apply", result, tmp_path / "track.csv", "-o", tmp_path / "still.csv", "--tracks") == 0
    found = read_landmarks(tmp_path / "still.csv").to_space(Space.WORLD, GRID)
    assert found.ids == ("a",) * 4
    assert found.frames.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.points, np.tile([20.0, 9.0], (4, 1)), atol=1e-2)


def test_frames_and_channels_of_a_movie_are_picked(result: Path, tmp_path: Path, capsys) -> None:
    movie = np.stack([[scene(rows), 3 * scene(rows), 7 * scene(rows)] for rows in ROWS]).astype(np.float32)
    times = (0.0, 0.4, 0.8, 1.2)
    series = ImageSeries(movie, GRID, times, patient_grid=PLACE, source={"format": "npz", "path": "movie.npz"})
    source = write_series(tmp_path, "movie", series, iter(movie))
    assert run("apply", result, source, "-o", tmp_path / "out.npz", "--frames", "2-3", "--channels", "2,0") == 0
    (found,) = read_series(tmp_path / "out.npz")
    assert (len(found), found.channels) == (2, 2)
    for k in range(2):
        np.testing.assert_allclose(found.frame(k)[0, :28], scene(0)[:28], rtol=1e-3, atol=0.05)
        np.testing.assert_allclose(found.frame(k)[1, :28], 7 * scene(0)[:28], rtol=1e-3, atol=0.3)
    capsys.readouterr()
    assert run("apply", result, source, "-o", tmp_path / "no.npz", "--channels", "3") == 2
    assert "has channels 0 to 2, got 3" in one_line(capsys)
    for text, told in (("1-9", "names 4"), ("3-1", "such as 0-9,15"), ("two", "such as 0-9,15")):
        assert run("apply", result, source, "-o", tmp_path / "no.npz", "--frames", text) == 2
        assert told in one_line(capsys)


def test_several_files_go_into_a_folder_each_under_its_name(result: Path, tmp_path: Path, capsys) -> None:
    labels = save(tmp_path / "labels.seg.nrrd", drawn()[None])
    image = save(tmp_path / "image.mha", scene(3)[None].astype(np.float32))
    write_landmarks(tmp_path / "points.csv", LandmarkSet(("a",), np.array([0]), np.array([[24.0, 9.0]]), Space.WORLD))
    out = tmp_path / "out"
    assert run("apply", result, labels, image, tmp_path / "points.csv", "-o", out, "--frames", 2) == 0
    assert sorted(path.name for path in out.iterdir()) == ["image.mha", "labels.nii.gz", "points.csv"]
    np.testing.assert_allclose(_stack(out / "image.mha")[0, :28], scene(0)[:28], atol=0.05)
    np.testing.assert_array_equal(_stack(out / "labels.nii.gz")[0], warp_labels(drawn(), shift(ROWS[2], GRID)))
    capsys.readouterr()
    again = save(tmp_path / "image.nii.gz", scene(3)[None].astype(np.float32))
    assert run("apply", result, image, tmp_path / "x" / ".." / "image.mha", "-o", tmp_path / "two", "--frame", 2) != 0
    assert run("apply", result, image, image, "-o", tmp_path / "two", "--frame", 2) == 2
    assert "two of the files" in capsys.readouterr().err
    assert run("apply", result, again, "-o", tmp_path / "out.mha", "--from", 2, "--inverse") == 2
    assert run("apply", result, "-o", tmp_path / "out.mha") == 2
    assert "name at least one" in capsys.readouterr().err
