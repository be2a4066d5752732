"""Landmarks of volumes: every format places them where ITK does, and those that cannot be right are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import check_plausible, check_usable, read_landmarks, write_landmarks
from r2n2.series import ImageSeries, LandmarkSet

# Array order; rows (y) run to the head, slices to the left.
DIRECTION = ((0.0, 0.96, 0.28), (0.0, -0.28, 0.96), (1.0, 0.0, 0.0))
GRID = Grid((17, 6, 9), (2.3, 1.1, 0.7), (-31.0, 12.5, 40.25), DIRECTION)
VOXELS = np.array([[16.0, 2.0, 7.0], [0.0, 5.0, 0.0], [3.0, 1.0, 8.0], [9.0, 4.0, 2.0]])
SERIES = ImageSeries(np.zeros((3, 1, *GRID.shape), np.uint8), GRID)


def world() -> np.ndarray:
    """(z, y, x) LPS mm of the voxels, by ITK."""
    image = sitk.Image([int(n) for n in GRID.shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(GRID.spacing[::-1])
    image.SetOrigin(GRID.origin[::-1])
    image.SetDirection(np.array(GRID.direction)[::-1, ::-1].ravel())
    return np.array([image.TransformContinuousIndexToPhysicalPoint(voxel[::-1].tolist())[::-1] for voxel in VOXELS])


def columns(points: np.ndarray, header: str) -> str:
    """A table of points given as (z, y, x), written x, y, z after the id and the frame."""
    rows = [f"p{k},{k % 2},{x:.9f},{y:.9f},{z:.9f}" for k, (z, y, x) in enumerate(points)]
    return "\n".join([header, *rows])


def mrk(system: str) -> str:
    sign = -1 if system == "RAS" else 1
    points = [
        {"label": f"p{k}@{k % 2}", "position": [sign * x, sign * y, z], "positionStatus": "defined"}
        for k, (z, y, x) in enumerate(world())
    ]
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": points}]})


def fcsv() -> str:
    names = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc"
    head = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = {names}\n"
    return head + "\n".join(f"{k},{-x},{-y},{z},0,0,0,1,1,1,0,p{k}@{k % 2},," for k, (z, y, x) in enumerate(world()))


FILES = {
    "a.csv": lambda: columns(world(), "id,frame,x_mm,y_mm,z_mm"),
    "voxels.csv": lambda: columns(VOXELS, "id,frame,x_px,y_px,z_px"),
    "lps.mrk.json": lambda: mrk("LPS"),
    "ras.mrk.json": lambda: mrk("RAS"),
    "a.fcsv": fcsv,
    "T00.txt": lambda: "\n".join(f"{x + 1:.0f}\t{y + 1:.0f}\t{z + 1:.0f}" for z, y, x in VOXELS),
    "frame_0.txt": lambda: "\n".join(["point", "4", *(f"{x} {y} {z}" for z, y, x in world())]),
}


@pytest.mark.parametrize("name", FILES)
def test_points_lie_where_itk_places_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name]())
    marks = read_landmarks(tmp_path / name, GRID)
    np.testing.assert_allclose(marks.to_space(Space.INDEX, GRID).points, VOXELS, atol=1e-6)
    np.testing.assert_allclose(marks.to_space(Space.WORLD, GRID).points, world(), atol=1e-6)
    assert marks.frames.tolist() == ([0] * 4 if name.endswith(".txt") else [0, 1, 0, 1])
    check_usable(read_landmarks(tmp_path / name, GRID).in_frame(0), SERIES, 0)
    assert not any("outside" in warning for warning in check_plausible(marks, SERIES, None))


@pytest.mark.parametrize("name", ["a.csv", "a.mrk.json"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    marks = LandmarkSet(("a", "b", "c", "d"), np.array([0, 0, 2, 2]), VOXELS, Space.INDEX)
    found = read_landmarks(write_landmarks(tmp_path / name, marks, GRID), GRID)
    np.testing.assert_allclose(found.to_space(Space.INDEX, GRID).points, VOXELS, atol=1e-9)
    assert (found.ids, found.frames.tolist()) == (marks.ids, [0, 0, 2, 2])


def test_points_without_z_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,frame,y_px,x_px\na,0,1,2")
    with pytest.raises(ReadError, match="2 coordinates, the series has 3 axes; give z, too"):
        read_landmarks(tmp_path / "a.csv", GRID)
    flat = LandmarkSet(("a",), np.array([0]), VOXELS[:1, 1:], Space.INDEX)
    with pytest.raises(ReadError, match="they have 2 coordinates, the series has 3 axes"):
        check_usable(flat, SERIES, 0)


@pytest.mark.parametrize(
    ("points", "space", "words"),
    [
        (world() * (1, -1, -1), Space.WORLD, "x and y change their sign: are they RAS"),
        (VOXELS[:, ::-1], Space.INDEX, "x and z are exchanged"),
        (world()[:, ::-1], Space.WORLD, "x and z are exchanged"),
        (VOXELS + 1, Space.INDEX, "when 1 is subtracted"),
        (VOXELS, Space.WORLD, "fit as pixels"),
    ],
)
def test_mistakes_are_named(points: np.ndarray, space: Space, words: str) -> None:
    marks = LandmarkSet(("a", "b", "c", "d"), np.zeros(4, int), points, space)
    found = " ".join(check_plausible(marks, SERIES, 0))
    assert "lie outside the image" in found
    assert words in found
    right = LandmarkSet(("a", "b", "c", "d"), np.zeros(4, int), VOXELS, Space.INDEX)
    assert check_plausible(right, SERIES, 0) == ()
