"""Registered volumes in a real window: where layers lie, what of them is computed, what is drawn in which plane."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volume_case

from napari_r2n2.layers import from_series
from napari_r2n2.layers.ellipsoids import centres_and_axes, sections
from napari_r2n2.layers.image_views import IMAGES, View
from napari_r2n2.layers.planes import plane_names, show_plane
from napari_r2n2.layers.shown_plane import ShownPlane
from napari_r2n2.layers.stacks import LazyParts
from napari_r2n2.models.session import FrameKey
from r2n2.geometry import Space
from r2n2.registration import warp_frame
from r2n2.transform import GaussianSequence, jacobian_determinant

GRID = volume_case.GRID
LAST = FrameKey(0, 2)
PLANES = [(0, 6), (1, 10), (2, 8)]


@pytest.fixture
def aligned(viewer: Any, canvas_mouse: Any) -> Any:
    return volume_case.align(viewer, volume_case.show(viewer))


def _whole(view: View, results: Any, frame: int) -> Any:
    """The same of a whole volume, by the core."""
    result = results.session.results[FrameKey(0, frame)]
    field = result.transform.displacement_field()
    series = results.session.series[0]
    if view is View.ALIGNED:
        return warp_frame(series, result)[0]
    if view is View.MAGNITUDE:
        return field.magnitude_mm().numpy()
    if view is View.JACOBIAN:
        return jacobian_determinant(field.to_space(Space.NORMALISED).vectors[None], GRID)[0].numpy().mean(0)
    return warp_frame(series, result)[0].astype(float) - series.frame(0)[0]


@pytest.mark.parametrize("view", [View.ALIGNED, View.MAGNITUDE, View.JACOBIAN, View.RESIDUAL])
def test_a_plane_shows_what_the_whole_volume_holds_there(aligned: Any, view: View) -> None:
    aligned.show(view)
    data, expected = aligned.layer(view).data, _whole(view, aligned, 2)
    assert data.shape == (4, 3, *expected.shape)
    for across, index in PLANES:
        part = tuple(index if axis == across else slice(None) for axis in range(3))
        atol = {View.ALIGNED: 1, View.RESIDUAL: 1}.get(view, 1e-3)
        np.testing.assert_allclose(data[(3, 2, *part)], expected[part], atol=atol)
        np.testing.assert_array_equal(np.asarray(data[3:4, 2:3])[(0, 0, *part)], np.asarray(data[3, 2])[part])
    np.testing.assert_allclose(data[3, 2], expected, atol=atol)


def test_steps_are_partial_sums(aligned: Any) -> None:
    aligned.show(View.MAGNITUDE)
    data, sequence = aligned.layer(View.MAGNITUDE).data, volume_case.sequence()
    for step in range(4):
        expected = sequence.displacement_field(upto=step).magnitude_mm().numpy()
        np.testing.assert_allclose(data[step, 1, 6], expected[6], atol=2e-3)
    aligned.session.switch(FrameKey(0, 1), 2, False)
    expected = sequence.select([0, 2]).displacement_field().magnitude_mm().numpy()
    np.testing.assert_allclose(data[3, 1, :, 10], expected[:, 10], atol=2e-3)
    np.testing.assert_array_equal(data[0, 1], 0)


def test_only_the_slice_that_is_seen_is_computed(viewer: Any, aligned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    on_lattice = GaussianSequence.on_lattice
    monkeypatch.setattr(
        GaussianSequence, "on_lattice", lambda self, lattice: shapes.append(tuple(lattice.shape[1:])) or on_lattice(self, lattice)
    )
    aligned.go_to(key=LAST, step=2)
    viewer.dims.set_point(2, 30 + 4 * 3.0)
    show_plane(viewer, 1, GRID)
    assert {shape for shape in shapes if shape[0] == 1} == {(1, 22, 18)}
    assert {shape for shape in shapes if shape[0] != 1} == {(14, 1, 18)}


def test_parts_are_asked_for_however_an_array_is_indexed() -> None:
    whole = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    asked: list[Any] = []

    def compute(step: int, frame: int, part: Any) -> Any:
        asked.append(part)
        return whole[(step, frame, *part)]

    stack = LazyParts((2, 3), (4, 5, 6), whole.dtype, compute)
    for index in (
        np.s_[1, 2, 3],
        np.s_[1:2, 2:3, :, 4:5],
        np.s_[0, 1, ..., -1],
        np.s_[1, :, 1, ::2],
        np.s_[...],
        np.s_[0, 0, 9:, :],
        np.s_[1:2, 1:2, :, [0, 3]],
    ):
        np.testing.assert_array_equal(stack[index], whole[index])
    assert asked[0] == (slice(3, 4), slice(0, 5), slice(0, 6))
    coloured = LazyParts((2,), (4, 5, 6, 3), float, lambda _k, part: np.ones((4, 5, 6, 3))[part], first=0)
    assert coloured[1, 2].shape == (5, 6, 3)


@pytest.mark.parametrize("view", View)
def test_every_view_lies_on_the_volume_and_leaves_the_sliders_their_steps(viewer: Any, aligned: Any, view: View) -> None:
    aligned.show(view)
    layer = aligned.layer(view)
    assert layer.axis_labels == ("step", "time", "z", "y", "x")[-layer.ndim :]
    assert [str(unit) for unit in layer.units][-3:] == ["millimeter"] * 3
    half = np.array(GRID.spacing) / 2 if view is View.JACOBIAN else 0
    # Along z, y, x of the volume: to the left 30, to the head 10, to the back -20 mm.
    np.testing.assert_allclose(layer.translate[-3:], np.array((30.0, 10.0, -20.0)) + half)
    if view in IMAGES:
        np.testing.assert_allclose(layer.scale[-3:], GRID.spacing)
    seen = viewer.dims.point
    for across in range(3):
        show_plane(viewer, across, GRID)
        assert viewer.dims.range[2 + across].step == pytest.approx(GRID.spacing[across])
        assert viewer.dims.nsteps[2 + across] in (GRID.shape[across], GRID.shape[across] + 1)
        assert viewer.dims.point == seen, "the sliders stay where they were"


def test_layers_lie_where_simpleitk_puts_the_file(viewer: Any, tmp_path: Path) -> None:
    import SimpleITK

    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(frame[0]) for frame in volume_case.volumes().frames])
    direction = np.eye(4)
    direction[:3, :3] = np.array(GRID.direction)[::-1, ::-1]
    image.SetSpacing((*GRID.spacing[::-1], 0.5))
    image.SetOrigin((*GRID.origin[::-1], 0.0))
    image.SetDirection(direction.ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "lung.nii"))
    (layer,) = viewer.open(str(tmp_path / "lung.nii"), plugin="napari-r2n2")
    assert layer.axis_labels == ("time", "z", "y", "x"), "14 slices 3 mm apart are a volume, as for r2n2 register"
    results = volume_case.align(viewer, layer)
    for voxel in ((0, 0, 0), (13, 4, 17), (5, 21, 2)):
        physical = image.TransformIndexToPhysicalPoint((*voxel[::-1], 1))[:3][::-1]
        for shown, index in ((layer, (1, *voxel)), (results.layer(View.ALIGNED), (2, 1, *voxel))):
            world = np.array(shown.data_to_world(index)[-3:])
            np.testing.assert_allclose(np.array(GRID.direction) @ world, physical, atol=1e-4)
            np.testing.assert_array_equal(np.asarray(layer.data)[(1, *voxel)], image.GetPixel((*voxel[::-1], 1)))


@pytest.mark.parametrize(("across", "index"), PLANES)
def test_ellipses_are_the_sections_of_the_plane_on_the_screen(viewer: Any, aligned: Any, across: int, index: int) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=3)
    aligned.session.select(None)
    show_plane(viewer, across, GRID)
    layer, start = aligned.layer(View.GAUSSIANS), aligned.place.translate[across - 3]
    centres, axes = centres_and_axes(volume_case.sequence(), GRID.spacing)
    drawn = []
    for at in (index, GRID.shape[across] - 1, index):
        viewer.dims.set_point(2 + across, start + at * GRID.spacing[across])
        assert aligned.plane == ShownPlane(across, at)
        cut = sections(centres, axes, across, at * GRID.spacing[across]).cut
        pieces = layer.data * layer.scale
        drawn.append(len(pieces))
        assert bool(len(pieces)) == bool(cut.any())
        if len(pieces):
            np.testing.assert_allclose(pieces[:, 0, across], at * GRID.spacing[across])
            assert (pieces[:, 1, across] == 0).all()
            distance = volume_case.mahalanobis(pieces[:, 0])[cut]
            # Every piece starts on one of the surfaces, but where it was cut off at the rim of the image.
            nearest = np.abs(distance - 1).min(axis=0)
            assert np.quantile(nearest, 0.9) < 1e-9
            assert nearest.max() < 0.02
            assert len(layer._view_data) == len(pieces), "napari shows what lies in the slice on the screen"
    assert drawn[0] == drawn[2] > 0


def test_steps_to_come_are_faint_and_what_is_switched_off_is_grey(aligned: Any) -> None:
    aligned.show(View.GAUSSIANS)
    layer = aligned.layer(View.GAUSSIANS)
    for step, expected in ((0, 0.1), (1, 0.4)):
        aligned.go_to(key=LAST, step=step)
        aligned.session.select(None)
        assert {round(float(alpha), 2) for alpha in layer.edge_color[:, 3]} == {expected}
    aligned.session.switch(LAST, 1, False)
    assert all(np.allclose(colour, (0.6, 0.6, 0.6, 0.35)) for colour in layer.edge_color)


def test_in_space_gaussians_are_surfaces_that_go_with_the_3d_view(viewer: Any, aligned: Any, qtbot: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.show(View.ARROWS)
    aligned.go_to(key=LAST, step=2)
    before = list(viewer.layers)
    viewer.dims.ndisplay = 3
    (surface,) = [layer for layer in viewer.layers if layer not in before]
    assert surface.name == "lung Gaussians in space"
    vertices = surface.data[0] * surface.scale
    own = len(vertices) // 2  # of the two steps that are done
    np.testing.assert_allclose([volume_case.mahalanobis(vertices[k * own : (k + 1) * own])[k] for k in (0, 1)], 1, atol=1e-4)
    np.testing.assert_allclose(surface.data_to_world((0, 0, 0)), (30, 10, -20))
    assert len(aligned.layer(View.GAUSSIANS).data) == 0
    assert len(np.unique(aligned.layer(View.ARROWS).data[:, 0, 0])) > 2, "arrows fill the volume"
    assert np.abs(aligned.layer(View.ARROWS).data[:, 1]).max(axis=0).min() > 0.1
    aligned.session.switch(LAST, 1, False)
    assert len(surface.data[0]) == own
    aligned.go_to(step=3)
    assert len(surface.data[0]) == 2 * own
    qtbot.wait(50)
    viewer.dims.ndisplay = 2
    assert list(viewer.layers) == before
    viewer.dims.ndisplay = 3
    aligned.layer(View.GAUSSIANS).visible = False
    assert list(viewer.layers) == before, "hidden Gaussians are hidden in space, too"
    aligned.layer(View.GAUSSIANS).visible = True
    viewer.dims.ndisplay = 2
    viewer.dims.ndisplay = 3
    aligned.show(View.GAUSSIANS, False)
    assert not [layer for layer in viewer.layers if "in space" in layer.name]


def test_rolled_and_transposed_axes_draw_in_their_plane_or_nothing(viewer: Any, aligned: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.show(View.ARROWS)
    aligned.show(View.GRID)
    aligned.go_to(key=LAST, step=3)
    viewer.dims.transpose()
    assert aligned.plane.across == 0
    before = len(aligned.layer(View.ARROWS).data)
    assert before > 3
    seen = set()
    for _ in range(5):
        viewer.dims.roll()
        plane = aligned.plane
        seen.add(None if plane is None else plane.across)
        for view in (View.GAUSSIANS, View.ARROWS, View.GRID):
            pieces = aligned.layer(view).data * aligned.layer(view).scale
            if plane is not None:
                assert len(pieces) or view is View.GAUSSIANS
                np.testing.assert_allclose(pieces[:, 0, plane.across], plane.index * GRID.spacing[plane.across])
            else:
                assert len(pieces) == 0, "time is no place to draw in"
    assert None in seen
    assert 0 in seen


def test_planes_have_their_names_and_the_head_is_up(viewer: Any, aligned: Any) -> None:
    assert plane_names(GRID) == ("sagittal", "axial", "coronal")
    for across, vertical in ((0, "up"), (1, "down"), (2, "down")):
        # Rows run to the head; slices run to the left.
        show_plane(viewer, across, GRID)
        assert viewer.scene.camera.orientation2d[0] == vertical
        assert viewer.dims.displayed == tuple(2 + axis for axis in range(3) if axis != across)


def test_a_click_selects_the_ellipse_of_the_slice(viewer: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=3)
    viewer.dims.set_point(2, 30 + 6 * 3.0)
    viewer.reset_view()
    qtbot.wait(50)
    centre = centres_and_axes(volume_case.sequence(), GRID.spacing)[0][0]
    inside = (centre[1] + 10.0, centre[2] - 20.0)
    aligned.session.select(None)
    canvas_mouse.click(inside)
    assert aligned.session.selection == 1
    canvas_mouse.click((10.0 + 25, -20.0 + 1))
    assert aligned.session.selection is None
    viewer.dims.set_point(2, 30 + 13 * 3.0)
    canvas_mouse.click(inside)
    assert aligned.session.selection is None, "the ellipsoid ends before this slice"


def test_channels_are_shown_apart_and_large_series_are_not_copied(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = volume_case.show(viewer, volume_case.volumes(2))
    results = volume_case.align(viewer, layer)
    for view in IMAGES:
        results.show(view)
    aligned, residual = (results.layer(view).data for view in (View.ALIGNED, View.RESIDUAL))
    assert aligned.shape == (4, 3, 2, 14, 22, 18)
    np.testing.assert_array_equal(aligned[0, 1, 1, 6], volume_case.volumes(2).frame(1)[1, 6])
    assert residual[3, 2, 0, 6].shape == (22, 18)
    monkeypatch.setattr(from_series, "LARGE_BYTES", 100)
    assert not isinstance(volume_case.show(viewer).data, np.ndarray)


def test_the_radius_is_shown_where_it_is_known(aligned: Any) -> None:
    import dataclasses

    import torch

    @dataclasses.dataclass
    class Known:
        median_mm, q95_mm, uncalibrated, judged = 1.0, 3.0, "", True

        def on(self, grid: Any) -> torch.Tensor:
            return torch.arange(grid.shape[0], dtype=torch.float32)[:, None, None].expand(grid.shape)

    result = dataclasses.replace(aligned.session.results[LAST], uncertainty=Known())
    aligned.session.add(0, 0, result)
    aligned.show(View.UNCERTAINTY)
    data = aligned.layer(View.UNCERTAINTY).data
    assert (np.asarray(data[3, 2, 5]) == 5).all()
    assert np.isnan(data[3, 1, 5]).all()
    aligned.session.switch(LAST, 1, False)
    assert np.isnan(data[3, 2, 5]).all()


def test_turning_by_the_buttons_of_the_sequence_widget(viewer: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    qtbot.waitUntil(widget._planes.buttons[2].isVisible)
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=3)
    table = widget._table
    headings = [table.horizontalHeaderItem(k).text() for k in range(table.columnCount())]
    assert headings == ["", "step", "z", "y", "x", "σ1", "σ2", "σ3", "|v|"]
    # World: direction @ (translation of the volume's own axes + voxels).
    world = volume_case.sequence().centres_mm()[1].tolist()
    assert [table.item(1, k).text() for k in (2, 3, 4)] == [f"{value:.0f}" for value in world]
    assert table.item(1, 8).text() == f"{np.linalg.norm((-0.8, 0.9, 1.2)):.1f}"
    press(widget._planes.buttons[2])
    assert widget._planes.buttons[2].text() == "coronal"
    assert aligned.plane.across == 2
    assert [button.isChecked() for button in widget._planes.buttons] == [False, False, True]
    table.selectRow(1)
    assert aligned.session.selection == 2
    assert aligned.plane == ShownPlane(2, 12), "the slice of its centre"
    assert "turned by z" in widget._numbers.text()
    assert "Gaussian 2" in widget._numbers.text()
    table.item(0, 0).setCheckState(type(table.item(0, 0).checkState()).Unchecked)
    assert aligned.session.enabled(LAST).tolist() == [False, True, True]
    assert "is measured by Export" in widget._quality.text()
