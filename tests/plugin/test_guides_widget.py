"""Pairs that guide, in a real window: chosen by clicks, the frame fitted again in the background, taken back, written and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_r2n2.models.guiding import suggest
from napari_r2n2.models.landmarks.marks import GUIDING, PLACED
from napari_r2n2.models.result_files import export_results, open_results
from napari_r2n2.models.session import FrameKey
from r2n2.guides import misfit_mm

KEY = FrameKey(0, 2)


@pytest.fixture
def landmarks(viewer: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> Any:
    """The Landmarks widget over the registered disc, with two landmarks, of which frame 2 has both some way off."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    model = widget._model
    model.new_layer()
    marks = model.marks
    for frame, places in {0: ((7.0, 17.0), (17.0, 17.0)), 2: ((12.0, 17.0), (19.0, 17.0)), 1: ((8.0, 17.0), (18.0, 17.0))}.items():
        for name, place in zip("ab", places, strict=True):
            marks = marks.place(FrameKey(0, frame), name, place)
    model.editor.commit(marks, "fill")
    model.go_to(KEY)
    qtbot.waitUntil(lambda: not widget._timer.isActive())
    return widget


def _select(widget: Any, name: str) -> None:
    row = widget._model.marks.find(KEY, name)
    widget._model.editor.layer.selected_data = {row}


def _wait(widget: Any, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: widget.guide.job is None, timeout=120_000)
    qtbot.waitUntil(lambda: not widget._timer.isActive())


def test_a_pair_guides_its_frame_measures_nothing_and_is_taken_back(
    landmarks: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    widget, session = landmarks, aligned.session
    assert not widget.guide.refit.isEnabled()
    assert session.errors(0, 2).after().count == 2
    _select(widget, "a")
    press(widget.guide.use)
    assert widget._model.marks.drafts[widget._model.marks.find(KEY, "a")] == GUIDING
    layer = widget._model.layer
    assert [str(layer.symbol[k]) for k in widget._model.marks.rows_in(KEY)] == ["diamond", "disc"]
    blue, yellow = layer.border_color[widget._model.marks.rows_in(KEY)]
    assert blue[2] > 0.9 > 0.1 > yellow[2]
    assert session.errors(0, 2).after().count == 1
    assert session.errors(0, 1).after().count == 2, "in other frames it is a landmark as before"
    assert "a" in widget.guide.told.text()
    before = session.results[KEY]
    pair = None
    press(widget.guide.refit)
    _wait(widget, qtbot)
    after = session.results[KEY]
    pair = session.registration.guides[0].pairs(0, aligned.session.series[0].grid)[2]
    assert misfit_mm(after.transform, pair)[0] < 0.7 * misfit_mm(before.transform, pair)[0]
    assert "Took" in widget.message.text()
    press(widget.guide.undo)
    assert session.results[KEY] is before
    assert session.registration.guides_of(0) is None, "a result that was taken back is not guided"
    assert not widget.guide.undo.isEnabled()
    press(widget.guide.redo)
    assert session.results[KEY] is after
    assert session.registration.guides_of(0).landmarks.ids == ("a", "a")
    # And a landmark again.
    _select(widget, "a")
    press(widget.guide.use)
    assert widget._model.marks.drafts[widget._model.marks.find(KEY, "a")] == PLACED
    assert not widget.guide.refit.isEnabled()


def test_a_guide_that_is_dragged_still_guides_and_undo_knows_it(landmarks: Any, press: Callable[[Any], None]) -> None:
    model = landmarks._model
    _select(landmarks, "b")
    press(landmarks.guide.use)
    row = model.marks.find(KEY, "b")
    rows = model.layer.data.copy()
    rows[row, -2:] += 2
    model.layer.data = rows
    assert model.marks.drafts[row] == GUIDING
    np.testing.assert_allclose(model.session.guides(0).in_frame(2).points, [[21.0, 19.0]])
    model.undo()
    model.undo()
    assert model.marks.drafts[row] == PLACED
    assert model.session.guides(0) is None


def test_more_gaussians_than_before_lengthen_the_slider(landmarks: Any, aligned: Any, press: Any, qtbot: Any, viewer: Any) -> None:
    _select(landmarks, "a")
    press(landmarks.guide.use)
    press(landmarks.guide.refit)
    _wait(landmarks, qtbot)
    count = len(aligned.session.sequence(KEY))
    assert count > 6
    assert viewer.layers["disc aligned"].data.shape[0] == count + 1
    aligned.go_to(step=count)
    assert aligned.step == count


def test_what_guided_is_written_and_read_again(landmarks: Any, aligned: Any, press: Any, qtbot: Any, tmp_path: Path) -> None:
    _select(landmarks, "a")
    press(landmarks.guide.use)
    press(landmarks.guide.refit)
    _wait(landmarks, qtbot)
    session = aligned.session
    list(export_results(session.registration, tmp_path / "out", landmarks={0: session.landmarks(0)}))
    assert (tmp_path / "out" / "guides.csv").exists()
    lines = (tmp_path / "out" / "tre.csv").read_text().splitlines()
    assert not any(line.startswith("a,2,") for line in lines)
    again = open_results(tmp_path / "out")
    assert again.guides[0].landmarks.ids == ("a", "a")
    assert again.results[KEY].message == session.results[KEY].message


def test_the_next_pair_is_suggested_where_the_radius_is_largest_and_none_lies_near(
    landmarks: Any, aligned: Any, press: Any
) -> None:
    registration = aligned.session.registration
    found = suggest(registration, KEY, None)
    assert found is not None
    radius = registration.results[KEY].uncertainty.on(registration.series[0].grid).numpy()
    assert found.radius_mm == pytest.approx(float(radius[tuple(int(v) for v in found.yx)]))
    _select(landmarks, "a")
    press(landmarks.guide.use)
    other = suggest(registration, KEY, aligned.session.guides(0))
    assert other is None or np.hypot(*np.subtract(other.yx, (7.0, 17.0))) > 3
    assert suggest(registration, FrameKey(0, 0), None) is None
    landmarks._model.viewer.scene.camera.center = (0.0, 0.0, 0.0)
    press(landmarks.guide.go)
    place = landmarks.guide._suggestion.yx
    centre = landmarks._model.image.data_to_world((0.0, *place))[-2:]
    np.testing.assert_allclose(landmarks._model.viewer.scene.camera.center[-2:], centre)
