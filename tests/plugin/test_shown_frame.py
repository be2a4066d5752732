"""What the window says and hides because of the frame on display, and the modes of the Landmarks widget that depend on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.layers.gaussian_lines import step_colours
from napari_r2n2.layers.image_views import View
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.result_layers import results_of
from napari_r2n2.layers.to_series import axes_of, layer_to_series
from napari_r2n2.models.session import FrameKey
from r2n2.geometry import Grid
from r2n2.registration import FrameResult
from r2n2.series import ImageSeries

Press = Callable[[Any], None]


@pytest.fixture
def marks(viewer: Any, aligned: Any, qtbot: Any) -> Any:
    """The Landmarks widget beside an aligned series, with a landmark in two frames."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    widget._model.new_layer()
    placed = widget._model.marks.place(FrameKey(0, 0), "1", (10, 10)).place(FrameKey(0, 2), "1", (12, 10))
    widget._model.editor.commit(placed, "fill")
    widget._model.layer.mode = "pan_zoom"
    qtbot.waitUntil(lambda: not widget._timer.isActive())
    return widget


def _mode(marks: Any) -> str:
    return str(marks._model.layer.mode)


def test_place_and_move_are_toggles(marks: Any, press: Press) -> None:
    for button, mode in ((marks.place.place, "add"), (marks.place.move_, "select")):
        press(button)
        assert (_mode(marks), button.isChecked()) == (mode, True)
        press(button)
        assert (_mode(marks), button.isChecked()) == ("pan_zoom", False)
    press(marks.place.place)
    press(marks.place.move_)
    assert _mode(marks) == "select"


def test_place_shows_step_0_and_a_step_that_is_asked_for_ends_it(marks: Any, aligned: Any, press: Press) -> None:
    aligned.go_to(key=FrameKey(0, 2), step=6)
    press(marks.place.place)
    assert aligned.step == 0
    assert "Step 0 is shown" in marks.message.text()
    aligned.go_to(step=4)
    assert aligned.step == 4, "the slider is not locked"
    assert _mode(marks) == "pan_zoom"
    assert not marks.place.place.isChecked()
    assert marks.message.text().startswith("Place is off: step 4 is asked for")


def test_another_layer_that_is_chosen_ends_the_mode(viewer: Any, marks: Any, in_layer: Any, press: Press) -> None:
    press(marks.place.move_)
    viewer.layers.selection.active = in_layer
    assert _mode(marks) == "pan_zoom"
    assert not marks.place.move_.isChecked()
    assert marks.message.text().startswith("Move is off: layer 'disc' was chosen")
    press(marks.place.place)
    assert viewer.layers.selection.active is marks._model.layer


def test_a_prediction_that_appears_does_not_end_the_mode(marks: Any, aligned: Any, press: Press) -> None:
    aligned.go_to(key=FrameKey(0, 2), step=0)
    press(marks.place.place)
    marks.place.show_prediction.setChecked(True)
    assert _mode(marks) == "add"


def test_landmarks_are_hidden_where_they_do_not_lie(viewer: Any, marks: Any, aligned: Any) -> None:
    layer = marks._model.layer
    aligned.go_to(key=FrameKey(0, 2), step=0)
    assert layer.visible
    aligned.go_to(step=3)
    assert not layer.visible, "on the warped frame it would lie beside what it marks"
    aligned.go_to(key=FrameKey(0, 0))
    assert layer.visible, "the reference is not warped"
    aligned.go_to(key=FrameKey(0, 2))
    assert not layer.visible
    layer.visible = True  # by hand
    aligned.go_to(step=4)
    assert layer.visible, "what a person decided stays"
    aligned.go_to(step=0)
    layer.visible = False
    aligned.go_to(step=4)
    aligned.go_to(step=0)
    assert not layer.visible, "what a person hid is not shown"
    layer.visible = True
    aligned.go_to(step=4)
    aligned.layer(View.ALIGNED).visible = False
    assert layer.visible, "the frame as it came is seen"


@pytest.fixture
def partly(viewer: Any, in_layer: Any, disc_config: Any, disc_results: tuple[FrameResult, ...]) -> Any:
    """Frames 0 and 1 are aligned."""
    results = results_of(viewer)
    results.session.begin(layer_to_series(in_layer), disc_config)
    results.begin(Place.of(in_layer, axes_of(in_layer)), in_layer)
    for result in disc_results[:2]:
        results.session.add(0, 0, result)
    return results


def test_frames_that_are_not_aligned_are_marked_on_the_canvas(viewer: Any, partly: Any, disc_results: Any) -> None:
    overlay = viewer.canvas.overlays.text
    overlay.text, overlay.visible = "mine", True
    partly.go_to(key=FrameKey(0, 1), step=6)
    assert overlay.text == "mine"
    partly.go_to(key=FrameKey(0, 3))
    assert overlay.visible
    assert overlay.text == "frame 3 is not aligned: shown as it came"
    partly.session.add(0, 0, disc_results[3])
    assert overlay.text == "mine"
    partly.go_to(key=FrameKey(0, 2))
    assert "frame 2 is not aligned" in overlay.text
    partly.go_to(step=0)
    assert overlay.text == "mine", "at step 0 every frame is shown as it came"
    partly.go_to(step=6)
    viewer.layers.clear()
    assert overlay.text == "mine"
    overlay.text, overlay.visible = "", False


def test_a_measured_layer_has_a_colour_bar_and_lengths_of_a_microscope_are_in_um(
    viewer: Any, series: ImageSeries, disc_config: Any, disc_results: tuple[FrameResult, ...]
) -> None:
    small = Grid((27, 35), (2e-4, 1.5e-4))
    data, options, _kind = series_to_layers([replace(series, grid=small)])[0]
    layer = viewer.add_image(data, **options)
    results = results_of(viewer)
    results.session.begin(layer_to_series(layer), disc_config)
    results.begin(Place.of(layer, axes_of(layer)), layer)
    grid = results.session.series[0].grid
    for found in disc_results:
        transform = replace(found.transform, grid=grid)
        largest = float(transform.displacement_field().magnitude_mm().max())
        results.session.add(0, 0, replace(found, transform=transform, max_displacement_mm=largest))
    results.go_to(key=FrameKey(0, 2), step=6)
    results.show(View.MAGNITUDE)
    shown = results.layer(View.MAGNITUDE)
    assert shown.name == "disc magnitude (um)"
    assert shown.colorbar.visible
    field = results.session.fields.magnitude(FrameKey(0, 2), 6)
    np.testing.assert_allclose(shown.data[6, 2], 1000 * field, rtol=1e-6)
    assert shown.contrast_limits[1] == pytest.approx(1000 * max(r.max_displacement_mm for r in results.session.results.values()))
    for view in (View.JACOBIAN, View.RESIDUAL):
        results.show(view)
        assert results.layer(view).colorbar.visible
    assert not results.layer(View.ALIGNED).colorbar.visible
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    assert " um" in widget._quality.text()
    assert "Correlation" in widget._quality.text()


def _opacity(aligned: Any) -> np.ndarray:
    """Of the outline of every Gaussian on display, by the colour of its step."""
    shown = np.asarray(aligned.layer(View.GAUSSIANS).edge_color)
    colours = step_colours(aligned.colormap, len(aligned.session.enabled(FrameKey(0, 2))))
    of_step = [shown[np.abs(shown[:, :3] - colour[:3]).max(axis=1) < 1e-3] for colour in colours]
    return np.array([rows[:, 3].max() for rows in of_step])


def test_only_the_current_gaussian_stands_out(aligned: Any) -> None:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=FrameKey(0, 2), step=4)
    opacity = _opacity(aligned)
    assert opacity[3] > 0.9
    assert (opacity[:3] <= 0.5).all()
    assert (opacity[4:] <= 0.15).all()
    aligned.session.select(2)
    assert _opacity(aligned)[1] > 0.9


def test_an_error_after_editing_by_hand_says_so(marks: Any, aligned: Any, qtbot: Any) -> None:
    aligned.go_to(key=FrameKey(0, 2), step=0)
    assert "by hand" not in marks.errors.notes.text()
    aligned.session.switch(FrameKey(0, 2), 1, False)
    qtbot.waitUntil(lambda: "Gaussians were left out in frame 2" in marks.errors.notes.text())
    aligned.session.switch_all_on(FrameKey(0, 2))
    qtbot.waitUntil(lambda: "by hand" not in marks.errors.notes.text())
