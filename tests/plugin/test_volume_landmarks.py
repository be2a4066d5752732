"""Landmarks in volumes: real clicks in slices across every axis, errors in mm in 3D, files that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
import volume_case

from napari_r2n2.layers.planes import show_plane
from napari_r2n2.models.landmarks import files
from napari_r2n2.models.landmarks.marks import Marks
from napari_r2n2.models.session import FrameKey, session_of
from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.io import read_landmarks
from r2n2.transform import map_points

GRID = volume_case.GRID
# Along z, y, x of the volume: where the first voxel lies.
START = np.array((30.0, 10.0, -20.0))


@pytest.fixture
def image(viewer: Any, canvas_mouse: Any) -> Any:
    return volume_case.show(viewer)


@pytest.fixture
def widget(viewer: Any, image: Any) -> Any:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    return widget


def _click(viewer: Any, canvas_mouse: Any, qtbot: Any, voxel: tuple[float, float, float], across: int, frame: int) -> None:
    """A click at a voxel in the slice across an axis, with the slider not quite on it."""
    show_plane(viewer, across, GRID)
    world = START + np.array(voxel) * GRID.spacing
    first = viewer.dims.ndim - 4
    viewer.dims.set_point((first, first + 1 + across), (0.5 * frame, world[across]))
    viewer.reset_view()
    qtbot.wait(50)
    seen = [axis for axis in range(3) if axis != across]
    canvas_mouse.click(tuple(world[seen]))


@pytest.mark.parametrize("across", [0, 1, 2])
def test_a_click_places_a_landmark_where_simpleitk_has_that_voxel(
    viewer: Any, widget: Any, canvas_mouse: Any, qtbot: Any, across: int, tmp_path: Path
) -> None:
    model = widget._model
    model.new_layer()
    voxel = (6, 15, 4)
    _click(viewer, canvas_mouse, qtbot, voxel, across, 0)
    (row,) = model.layer.data
    assert row[0] == 0
    assert row[1 + across] == voxel[across], "on the slice, at its centre"
    np.testing.assert_allclose(row[1:], voxel, atol=0.3)
    image = SimpleITK.Image([int(n) for n in GRID.shape[::-1]], SimpleITK.sitkUInt8)
    image.SetSpacing(GRID.spacing[::-1])
    image.SetOrigin(GRID.origin[::-1])
    image.SetDirection(np.array(GRID.direction)[::-1, ::-1].ravel().tolist())
    expected = image.TransformContinuousIndexToPhysicalPoint(row[:0:-1].tolist())
    found = session_of(viewer).landmarks(0).to_space(Space.WORLD, GRID)
    np.testing.assert_allclose(found.points[0][::-1], expected, atol=1e-6)
    (written,) = files.write(tmp_path / "points", model.marks, model.series, "slicer")
    (markup,) = json.loads(written.read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    np.testing.assert_allclose(markup["controlPoints"][0]["position"], expected, atol=1e-6)


def test_a_slider_between_two_slices_snaps(viewer: Any, widget: Any) -> None:
    widget._model.new_layer()
    show_plane(viewer, 1, GRID)
    snapped = widget._model._snapped(np.array([0.2, 3.3, 7.6, 4.4]))
    np.testing.assert_allclose(snapped, (0, 3.3, 8, 4.4))


def test_pairs_across_frames_and_their_errors_in_3d(viewer: Any, image: Any, widget: Any, canvas_mouse: Any, qtbot: Any) -> None:
    volume_case.align(viewer, image).go_to(step=0)
    model = widget._model
    model.new_layer()
    _click(viewer, canvas_mouse, qtbot, (6, 10, 8), 0, 0)
    _click(viewer, canvas_mouse, qtbot, (8, 12, 5), 2, 2)
    marks = model.marks
    assert [(marks.key(k).frame, marks.ids[k]) for k in range(2)] == [(0, "1"), (2, "1")]
    first, second = marks.positions()
    report = model.errors()
    before = np.linalg.norm((second - first) * GRID.spacing)
    assert report.before().mean_mm == pytest.approx(before)
    mapped = map_points(volume_case.sequence(), torch.from_numpy(first[None]), Space.INDEX)[0].numpy()
    assert report.after().mean_mm == pytest.approx(np.linalg.norm((second - mapped) * GRID.spacing))
    table = session_of(viewer).errors()
    assert table.after().mean_mm == pytest.approx(report.after().mean_mm, rel=1e-5)
    predicted = model.prediction(FrameKey(0, 2))
    np.testing.assert_allclose(predicted["1"], mapped)
    model.go_to(FrameKey(0, 0))
    model.select(1)
    assert model.frame == FrameKey(0, 2)
    first_axis = viewer.dims.ndim - 3
    np.testing.assert_allclose(
        viewer.dims.point[first_axis + 2], START[2] + round(second[2]) * GRID.spacing[2], err_msg="its slice, not only its frame"
    )
    widget.place.show_prediction.setChecked(True)
    qtbot.wait(100)
    np.testing.assert_allclose(widget._hint.layer.data, [[2, *mapped]], atol=1e-6)


@pytest.mark.parametrize("kind", ["mm", "px", "slicer", "napari"])
def test_files_there_and_back(viewer: Any, widget: Any, tmp_path: Path, kind: str) -> None:
    model = widget._model
    rows = np.array([[0, 6, 10.25, 8.5], [0, 3, 4, 5], [2, 7, 11, 8.25], [2, 2.5, 4, 6]])
    model.replace_all(Marks(rows, ("1", "2", "1", "2"), spatial=3), "test")
    (written,) = files.write(tmp_path / "points", model.marks, model.series, kind)
    sets, _notes = files.read(written, model.series, [0])
    again = Marks.from_sets(sets, 4, 3)
    np.testing.assert_allclose(again.rows[np.lexsort(again.rows.T[::-1])], rows[np.lexsort(rows.T[::-1])], atol=1e-6)
    if kind != "napari":  # it has no ids
        assert again.find(FrameKey(0, 2), "2") == int(np.flatnonzero(again.rows[:, 1] == 2.5)[0])
    if kind == "mm":
        header = written.read_text().splitlines()[0]
        assert header == "id,frame,z_mm,y_mm,x_mm"
        world = np.array(GRID.direction) @ (np.array(GRID.spacing) * rows[0, 1:]) + np.array(GRID.origin)
        np.testing.assert_allclose(read_landmarks(written).points[0], world)


def test_landmarks_of_slices_are_not_taken_for_those_of_volumes(widget: Any, tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("id,frame,y_px,x_px\na,0,3,4\na,1,4,4\n")
    model = widget._model
    with pytest.raises(ReadError, match="coordinates"):
        files.read(tmp_path / "flat.csv", model.series, [0])
