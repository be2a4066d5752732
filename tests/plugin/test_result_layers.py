"""The layers of a result in a real window: where they lie, what they show at each step, and that nothing else is touched."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from napari_r2n2.layers.image_views import IMAGES, View
from napari_r2n2.models.session import FrameKey
from r2n2.registration import warp_frame

pytestmark = pytest.mark.usefixtures("canvas_mouse")

LAST = FrameKey(0, 2)


def _canvas(viewer: Any, qtbot: Any) -> Any:
    qtbot.wait(150)
    return viewer.screenshot(flash=False).astype(int)


def test_the_aligned_layer_leads_with_the_step(viewer: Any, aligned: Any, in_layer: Any) -> None:
    layer = aligned.layer(View.ALIGNED)
    assert layer.data.shape == (7, 4, 27, 35)
    assert viewer.dims.axis_labels == ("step", "time", "y", "x")
    assert viewer.dims.current_step[0] == 6, "the aligned frame is what is seen first"
    series, session = aligned.session.series[0], aligned.session
    for frame in range(4):
        np.testing.assert_array_equal(layer.data[6, frame], warp_frame(series, session.results[FrameKey(0, frame)])[0])
        np.testing.assert_array_equal(layer.data[0, frame], in_layer.data[frame])
    assert layer.contrast_limits == in_layer.contrast_limits


@pytest.mark.parametrize("view", View)
def test_every_view_has_units_and_lies_on_the_image(viewer: Any, aligned: Any, in_layer: Any, view: View) -> None:
    in_layer.translate = (0.0, 30.0, -4.0)
    aligned.begin(aligned.place.of(in_layer, ("frame", "y", "x")))
    aligned.show(view)
    layer = aligned.layer(view)
    labels = ("step", "time", "y", "x")
    assert layer.axis_labels == labels[-layer.ndim :]
    units = [str(unit) for unit in layer.units]
    assert units == ["pixel", "second", "millimeter", "millimeter"][-layer.ndim :]
    half = np.array((1.0, 0.75)) if view is View.JACOBIAN else 0.0
    np.testing.assert_allclose(layer.translate[-2:], np.array((30.0, -4.0)) + half)
    if view in IMAGES:
        np.testing.assert_allclose(layer.scale[-2:], (2.0, 1.5))
        assert viewer.layers.index(layer) == max(k for k, other in enumerate(viewer.layers) if type(other) is type(in_layer))
    aligned.show(view, False)
    assert layer not in viewer.layers
    assert not aligned.shown(view)


def test_the_source_is_never_altered(aligned: Any, in_layer: Any, series: Any) -> None:
    for view in View:
        aligned.show(view)
    np.testing.assert_array_equal(in_layer.data, np.asarray(series.frames)[:, 0])
    assert in_layer.name == "disc"
    assert in_layer.visible


def test_contrast_is_shared_with_the_source(aligned: Any, in_layer: Any) -> None:
    aligned.show(View.CHECKERBOARD)
    aligned.show(View.RESIDUAL)
    aligned.layer(View.ALIGNED).contrast_limits = (100, 700)
    in_layer.gamma = 0.7
    for layer in (in_layer, aligned.layer(View.ALIGNED), aligned.layer(View.CHECKERBOARD)):
        assert (layer.contrast_limits, layer.gamma) == ([100, 700], 0.7)
    assert aligned.layer(View.RESIDUAL).gamma == 1
    assert aligned.layer(View.RESIDUAL).contrast_limits[0] < 0


def test_sliders_and_results_follow_each_other(viewer: Any, aligned: Any) -> None:
    seen: list[Any] = []
    aligned.changed.connect(lambda: seen.append((aligned.key, aligned.step)))
    viewer.dims.set_current_step(0, 2)
    viewer.dims.set_current_step(1, 3)
    assert seen == [(FrameKey(0, aligned.key.frame if len(seen) < 1 else seen[0][0].frame), 2), (FrameKey(0, 3), 2)]
    aligned.go_to(key=LAST, step=5)
    assert viewer.dims.current_step[:2] == (5, 2)
    assert (aligned.key, aligned.step) == (LAST, 5)
    assert aligned.session.selection == 5, "the Gaussian that the step added is the selected one"


def test_the_ellipses_on_the_canvas_move_with_the_frame_and_the_step(viewer: Any, aligned: Any, qtbot: Any) -> None:
    for layer in viewer.layers:
        layer.visible = False
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=6)
    aligned.session.select(None)  # the selected one is bold
    last = _canvas(viewer, qtbot)
    aligned.go_to(step=2)
    aligned.session.select(None)
    second = _canvas(viewer, qtbot)
    aligned.go_to(key=FrameKey(0, 1))
    other = _canvas(viewer, qtbot)
    aligned.go_to(key=FrameKey(0, 0))
    reference = _canvas(viewer, qtbot)
    lit = [image[..., :3].sum() for image in (last, second, other, reference)]
    assert lit[0] > 1.2 * lit[1], "steps to come are faint"
    assert (np.abs(second - other).sum(-1) > 60).sum() > 100, "another frame has other ellipses"
    assert lit[3] == 0, "the reference has none"


def test_a_click_on_an_ellipse_selects_it_and_a_drag_does_not(viewer: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=6)
    viewer.reset_view()
    qtbot.wait(100)
    sequence = aligned.session.sequence(LAST)
    index = sequence.grid.convert_points(sequence.centres, *_spaces()).numpy()
    inside = [k for k, (y, x) in enumerate(index) if 1 < y < 25 and 1 < x < 33]
    wanted = inside[0]
    aligned.session.select(None)
    world = (index[wanted] * (2.0, 1.5)).tolist()
    canvas_mouse.drag(world, [world[0] + 3, world[1] + 3])
    assert aligned.session.selection is None
    viewer.reset_view()
    qtbot.wait(100)
    canvas_mouse.click(world)
    assert aligned.session.selection == wanted + 1
    canvas_mouse.click((-20.0, -20.0))
    assert aligned.session.selection is None


def _spaces() -> tuple[Any, Any]:
    from r2n2.geometry import Space

    return Space.NORMALISED, Space.INDEX


def test_clicks_belong_to_the_layer_that_is_drawn_on(viewer: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=6)
    aligned.session.select(None)
    points = viewer.add_points(ndim=2, units=("mm", "mm"), axis_labels=("y", "x"))
    points.mode = "add"
    qtbot.wait(100)
    canvas_mouse.click((25.0, 25.0))
    assert len(points.data) == 1
    assert aligned.session.selection is None


def test_a_gaussian_that_is_switched_off_changes_the_image_at_once(viewer: Any, aligned: Any, qtbot: Any) -> None:
    aligned.go_to(key=LAST, step=6)
    layer = aligned.layer(View.ALIGNED)
    qtbot.wait(50)
    before = np.array(layer._slice.image.raw)
    for step in range(1, 7):
        aligned.session.switch(LAST, step, False)
    qtbot.wait(50)
    shown = np.array(layer._slice.image.raw)
    assert not np.array_equal(shown, before)
    np.testing.assert_array_equal(shown, aligned.session.series[0].frame(2)[0])


def test_arrows_and_grid_show_the_step_on_display(aligned: Any) -> None:
    aligned.show(View.ARROWS)
    aligned.show(View.GRID)
    aligned.go_to(key=LAST, step=0)
    assert not aligned.layer(View.ARROWS).data[:, 1].any()
    still = aligned.layer(View.GRID).data.copy()
    aligned.go_to(step=6)
    assert np.linalg.norm(aligned.layer(View.ARROWS).data[:, 1], axis=1).max() > 1
    assert not np.allclose(aligned.layer(View.GRID).data, still)
    assert len(np.unique(aligned.layer(View.ARROWS).edge_color, axis=0)) == 1


def test_hidden_ellipses_may_become_fewer(aligned: Any, qtbot: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(step=3)
    layer = aligned.layer(View.GAUSSIANS)
    bold = len(layer.data)
    layer.visible = False
    qtbot.wait(100)
    aligned.go_to(step=0)  # nothing is selected there: fewer pieces
    qtbot.wait(100)
    layer.visible = True
    qtbot.wait(100)
    assert 0 < len(layer.data) < bold
    assert len(layer.edge_color) == len(layer.data)


def test_a_new_run_keeps_the_old_layer_as_it_was(viewer: Any, aligned: Any, in_layer: Any) -> None:
    aligned.show(View.GAUSSIANS)
    old = aligned.layer(View.ALIGNED)
    was = old.data[6, 2].copy()
    aligned.session.begin(aligned.session.series, aligned.session.config)
    aligned.begin(aligned.place)
    assert not aligned.shown(View.GAUSSIANS)
    assert aligned.layer(View.ALIGNED) is not old
    assert old in viewer.layers
    assert not old.visible
    np.testing.assert_array_equal(old.data[6, 2], was)
    np.testing.assert_array_equal(aligned.layer(View.ALIGNED).data[6, 2], in_layer.data[2])


def test_layers_that_are_deleted_can_be_shown_again(viewer: Any, aligned: Any) -> None:
    aligned.show(View.GAUSSIANS)
    told: list[None] = []
    aligned.views_changed.connect(lambda: told.append(None))
    viewer.layers.remove(aligned.layer(View.GAUSSIANS))
    viewer.layers.remove(aligned.layer(View.ALIGNED))
    assert len(told) == 2
    assert not aligned.shown(View.ALIGNED)
    assert aligned.step == 6, "without the step axis the last step counts"
    aligned.show(View.ALIGNED)
    aligned.go_to(step=3)
    assert aligned.step == 3
    viewer.layers.clear()
    assert aligned.key is None


def test_an_acquisition_of_several_slices_has_a_slider_more(viewer: Any, series: Any) -> None:
    from dataclasses import replace

    from napari_r2n2.layers.from_series import series_to_layers
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.result_layers import results_of
    from napari_r2n2.layers.to_series import axes_of, layer_to_series
    from r2n2.config import RegistrationConfig
    from r2n2.registration import FrameStatus, unregistered

    other = replace(series, frames=np.asarray(series.frames) * 2)
    data, options, _kind = series_to_layers([series, other])[0]
    layer = viewer.add_image(data, **options)
    results = results_of(viewer)
    results.session.begin(layer_to_series(layer), RegistrationConfig(method="fit", steps=2))
    results.begin(Place.of(layer, axes_of(layer)))
    results.session.add(1, 3, unregistered(3, series.grid, FrameStatus.REFERENCE, ""))
    assert viewer.dims.axis_labels == ("step", "slice", "time", "y", "x")
    results.go_to(key=FrameKey(1, 3), step=1)
    assert viewer.dims.current_step[:3] == (1, 1, 3)
    assert results.key == FrameKey(1, 3)
    np.testing.assert_array_equal(results.layer(View.ALIGNED).data[1, 1, 3], data[1, 3])
    results.show(View.REFERENCE)
    np.testing.assert_array_equal(results.layer(View.REFERENCE).data[1, 0], data[1, 3])


def test_colour_and_channels_are_shown(viewer: Any, series: Any) -> None:
    from dataclasses import replace

    from napari_r2n2.layers.from_series import series_to_layers
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.result_layers import results_of
    from napari_r2n2.layers.to_series import axes_of, layer_to_series
    from r2n2.config import RegistrationConfig

    for channels in (2, 3):
        frames = np.random.default_rng(0).integers(0, 255, (4, channels, 27, 35), dtype=np.uint8)
        data, options, _kind = series_to_layers([replace(series, frames=frames)])[0]
        layer = viewer.add_image(data, **options)
        results = results_of(viewer)
        results.session.begin(layer_to_series(layer), RegistrationConfig(method="fit", steps=2))
        results.begin(Place.of(layer, axes_of(layer)))
        shown = results.layer(View.ALIGNED)
        assert shown.rgb == (channels == 3)
        np.testing.assert_array_equal(shown.data[1, 2], data[2])
        for view in (View.RESIDUAL, View.CHECKERBOARD, View.JACOBIAN):
            results.show(view)
            results.go_to(key=FrameKey(0, 1), step=1)
        viewer.layers.clear()


def test_the_uncertainty_of_a_frame_is_a_layer_in_the_series_own_unit(viewer: Any, aligned: Any) -> None:
    results, (key, other) = aligned.session.results, (FrameKey(0, 2), FrameKey(0, 3))
    aligned.show(View.UNCERTAINTY)
    layer = aligned.layer(View.UNCERTAINTY)
    assert layer.name == "disc uncertainty (mm)"
    assert layer.data.shape == (7, 4, 27, 35)
    grid = aligned.session.series[0].grid
    for step in (1, 6):
        np.testing.assert_array_equal(layer.data[step, 2], results[key].uncertainty.on(grid))
    assert layer.data[6, 0].max() == 0, "of the reference"
    assert layer.colormap.name == "inferno"
    assert layer.colorbar.visible
    assert layer.contrast_limits[1] == pytest.approx(max(r.uncertainty.q95_mm for r in results.values()))
    aligned.session.switch(key, 1, False)
    assert np.isnan(layer.data[6, 2]).all(), "nobody knows how good a sequence is that a person changed"
    assert np.isfinite(layer.data[6, 3]).all()
    aligned.session.switch(key, 1, True)
    assert np.isfinite(layer.data[6, 2]).all()
    aligned.session.add(0, 0, dataclasses.replace(results[other], uncertainty=None))
    assert np.isnan(layer.data[6, 3]).all()
