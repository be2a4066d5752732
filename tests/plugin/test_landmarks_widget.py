"""Landmarks as a person places them: real clicks, drags and keys in a real window, errors compared with numbers done by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.models.landmarks.files import FORMATS
from napari_r2n2.models.session import FrameKey, session_of
from r2n2.geometry import Grid, Space
from r2n2.io import write_landmarks
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import DisplacementField, GaussianSequence

PIXEL = 1.0  # what a click may be off, in pixels


@pytest.fixture
def widget(viewer: Any, in_layer: Any, canvas_mouse: Any, qtbot: Any) -> Any:
    """The widget as the entry of the Plugins menu opens it, with the series in view."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    viewer.dims.set_point(0, 0)
    viewer.reset_view()
    qtbot.wait(200)
    return widget


@pytest.fixture
def click(canvas_mouse: Any, qtbot: Any) -> Callable[[float, float], None]:
    """A real click at a pixel (y, x)."""

    def at(y: float, x: float) -> None:
        canvas_mouse.click((2.0 * y, 1.5 * x))
        qtbot.wait(60)

    return at


@pytest.fixture
def drag(canvas_mouse: Any, qtbot: Any) -> Callable[..., None]:
    """A real drag from pixel (y, x) to pixel (y, x)."""

    def between(start: tuple[float, float], end: tuple[float, float]) -> None:
        canvas_mouse.drag(*((2.0 * y, 1.5 * x) for y, x in (start, end)))
        qtbot.wait(120)

    return between


@pytest.fixture
def key(canvas_mouse: Any, qtbot: Any) -> Callable[..., None]:
    """A real key press in the canvas."""

    def press(name: Any, modifiers: Any = Qt.NoModifier) -> None:
        canvas_mouse.native.setFocus()
        qtbot.wait(50)
        QTest.keyClick(canvas_mouse.native, name, modifiers)
        qtbot.wait(80)

    return press


def frame(index: int) -> FrameKey:
    return FrameKey(0, index)


def shift(grid: Grid, rows: float, columns: float) -> DisplacementField:
    vectors = torch.tensor([rows, columns], dtype=torch.float64)[:, None, None].expand(2, *grid.shape).clone()
    return DisplacementField(vectors, grid, Space.INDEX)


def result(index: int, transform: Any) -> FrameResult:
    return FrameResult(index, transform, FrameStatus.OK, "", 0.5, 0.9, 0.0, 1.0, 1.0, 0.1)


def register(viewer: Any, series: ImageSeries, reference: int = 0, rows: float = 1.0) -> None:
    """A registration whose frame t is moved by ``rows`` * t pixels down."""
    session = session_of(viewer)
    session.begin([series])
    for t in range(len(series)):
        session.add(0, reference, result(t, shift(series.grid, rows * (t - reference), 0)))
    session.end()


def fill(widget: Any, rows: dict[tuple[int, str], tuple[float, float]]) -> None:
    """Landmarks as if placed, without the mouse."""
    marks = widget._model.marks if widget._model.editor is not None else None
    if marks is None:
        widget._model.new_layer()
        marks = widget._model.marks
    for (index, name), yx in rows.items():
        marks = marks.place(frame(index), name, yx)
    widget._model.editor.commit(marks, "fill")


def settle(widget: Any, qtbot: Any) -> None:
    qtbot.wait(20)
    qtbot.waitUntil(lambda: not widget._timer.isActive())


def after_mm(widget: Any) -> dict[tuple[str, str], str]:
    return {(row[0], row[1]): row[3] for row in widget.errors.table.texts()}


def test_without_a_series_it_says_what_to_do(viewer: Any, qtbot: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    assert "Open an image series" in widget.place.guide.text()
    assert not widget.place.new.isEnabled()
    assert not widget.files.load.isEnabled()


def test_the_series_in_view_is_taken(widget: Any, viewer: Any, in_layer: Any) -> None:
    assert widget._model.image is in_layer
    assert widget._model.series[0].grid.spacing == (2.0, 1.5)
    assert list(viewer.layers) == [in_layer]


def test_pairs_are_placed_by_clicks_frame_after_frame(
    widget: Any, viewer: Any, in_layer: Any, click: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    press(widget.place.new)
    layer = viewer.layers["disc landmarks"]
    assert (layer.units, layer.axis_labels) == (in_layer.units, in_layer.axis_labels)
    np.testing.assert_allclose(layer.scale, in_layer.scale)
    assert widget.place.guide.text() == "Frame 0 (reference): click to place landmark 1"
    click(8, 10)
    click(16, 25)
    assert widget._model.marks.ids == ("1", "2")
    assert list(layer.text.values) == ["1", "2"]
    assert widget.place.guide.text() == "Frame 0 (reference): click to place landmark 3"
    press(widget.place.next)
    assert viewer.dims.current_step[0] == 1
    assert widget.place.guide.text() == "Frame 1: click landmark 1"
    click(9, 10)
    assert widget.place.guide.text() == "Frame 1: click landmark 2"
    click(18, 25)
    # The frame is complete, so the next one that lacks some is shown.
    assert viewer.dims.current_step[0] == 2
    assert widget.place.guide.text() == "Frame 2: click landmark 1"
    assert widget.place.progress.text() == "0 of 2 here, 1 of 3 frames complete"
    assert layer.features["id"].tolist() == ["1", "2", "1", "2"]
    expected = [[0, 8, 10], [0, 16, 25], [1, 9, 10], [1, 18, 25]]
    np.testing.assert_allclose(layer.data, expected, atol=PIXEL)
    found = session_of(viewer).landmarks(0)
    assert (found.ids, found.space) == (("1", "2", "1", "2"), Space.INDEX)
    np.testing.assert_allclose(found.points, layer.data[:, 1:])
    # Before any registration the distances before are shown: rows of 2 mm, columns of 1.5 mm.
    settle(widget, qtbot)
    by_hand = [np.hypot(*((layer.data[k + 2, 1:] - layer.data[k, 1:]) * (2, 1.5))) for k in range(2)]
    assert [(row[:3], row[3]) for row in widget.errors.table.texts()] == [
        (("1", "1", f"{by_hand[0]:.2f}"), "-"),
        (("1", "2", f"{by_hand[1]:.2f}"), "-"),
    ]


def test_tre_by_hand_and_live_when_things_change(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20), (2, "1"): (13, 14), (2, "2"): (6, 20)})
    register(viewer, series)  # frame 2 is expected 2 pixels further down
    settle(widget, qtbot)
    # 1 is expected at (12, 10) and lies at (13, 14): 1 row of 2 mm, 4 columns of 1.5 mm; 2 is hit exactly.
    assert after_mm(widget) == {("2", "1"): f"{math.hypot(2, 6):.2f}", ("2", "2"): "0.00"}
    summary = widget.errors.summary()
    assert summary["after", "mean"] == f"{math.hypot(2, 6) / 2:.2f}"
    assert summary["before", "max"] == f"{math.hypot(6, 6):.2f}"
    assert summary["after", "n"] == "2"
    session_of(viewer).add(0, 0, result(2, shift(series.grid, 3, 4)))
    settle(widget, qtbot)
    assert after_mm(widget) == {("2", "1"): "0.00", ("2", "2"): f"{math.hypot(2, 6):.2f}"}
    session_of(viewer).begin([series])
    settle(widget, qtbot)
    assert set(after_mm(widget).values()) == {"-"}


def test_switching_a_gaussian_off_changes_the_error(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (13, 17), (1, "1"): (14, 17)})
    unit = series.grid.unit_mm
    one = GaussianSequence(
        torch.zeros(1, 2), torch.full((1, 2), 50.0), torch.zeros(1, 1), torch.tensor([[2.0 / unit, 0.0]]), series.grid
    )
    session = session_of(viewer)
    session.begin([series])
    session.add(0, 0, result(1, one))
    settle(widget, qtbot)
    assert after_mm(widget)["1", "1"] == "0.00"  # so wide a Gaussian moves everything by 2 mm, one row
    session.switch(FrameKey(0, 1), 1, False)
    settle(widget, qtbot)
    assert after_mm(widget)["1", "1"] == "2.00"


def test_drag_undo_and_redo(
    widget: Any, viewer: Any, series: ImageSeries, click: Any, drag: Any, key: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (11, 10)})
    register(viewer, series)
    layer = widget._model.layer
    viewer.dims.set_point(0, 0.5)
    press(widget.place.move_)
    assert layer.mode == "select"
    drag((11, 10), (15, 20))
    moved = layer.data[1, 1:].copy()
    np.testing.assert_allclose(moved, (15, 20), atol=1.5)
    settle(widget, qtbot)
    by_hand = math.hypot((moved[0] - 11) * 2, (moved[1] - 10) * 1.5)
    assert after_mm(widget) == {("1", "1"): f"{by_hand:.2f}"}
    viewer.dims.set_point(0, 1.5)
    press(widget.place.undo)
    assert viewer.dims.current_step[0] == 1  # what was undone is shown
    np.testing.assert_allclose(layer.data[1], (1, 11, 10))
    settle(widget, qtbot)
    assert after_mm(widget) == {("1", "1"): "0.00"}
    key(Qt.Key_Z, Qt.ControlModifier | Qt.ShiftModifier)
    np.testing.assert_allclose(layer.data[1, 1:], moved)
    key(Qt.Key_Z, Qt.ControlModifier)
    np.testing.assert_allclose(layer.data[1, 1:], (11, 10))
    np.testing.assert_allclose(session_of(viewer).landmarks().points[1], (11, 10))


def test_undo_of_clicks_and_deletion_keeps_ids(
    widget: Any, viewer: Any, click: Any, key: Any, press: Callable[[Any], None]
) -> None:
    press(widget.place.new)
    layer = widget._model.layer
    for y, x in ((5, 5), (10, 10), (15, 15)):
        click(y, x)
    layer.selected_data = {1}
    key(Qt.Key_Delete)
    assert layer.features["id"].tolist() == ["1", "3"]
    assert widget.place.undo.toolTip().startswith("Undo: delete 2")
    key(Qt.Key_Z, Qt.ControlModifier)
    assert layer.features["id"].tolist() == ["1", "2", "3"]
    assert list(layer.text.values) == ["1", "2", "3"]
    key(Qt.Key_Z, Qt.ControlModifier)
    assert layer.features["id"].tolist() == ["1", "2"]
    click(20, 20)
    assert layer.features["id"].tolist() == ["1", "2", "3"]
    assert not widget.place.redo.isEnabled()  # a new edit ends what could be done again


def test_errors_follow_while_a_point_is_dragged(
    widget: Any, viewer: Any, series: ImageSeries, canvas_mouse: Any, qtbot: Any, press: Callable[[Any], None]
) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (10, 10)})
    viewer.dims.set_point(0, 0.5)
    press(widget.place.move_)
    settle(widget, qtbot)
    start = canvas_mouse.position((20.0, 15.0))
    canvas_mouse.move(start)
    QTest.mousePress(canvas_mouse.native, Qt.LeftButton, Qt.NoModifier, start)
    canvas_mouse.move(canvas_mouse.position((25.0, 20.0)))
    canvas_mouse.move(canvas_mouse.position((30.0, 30.0)))
    qtbot.wait(100)
    while_dragged = float(widget.errors.table.texts()[0][2])
    assert widget._model.marks.positions()[1].tolist() == [10, 10]  # not an edit yet
    QTest.mouseRelease(canvas_mouse.native, Qt.LeftButton, Qt.NoModifier, canvas_mouse.position((30.0, 30.0)))
    qtbot.wait(100)
    assert while_dragged == pytest.approx(math.hypot(10, 15), abs=2.5)
    assert widget._model.editor.undo_text == "move 1"


def test_many_changes_are_computed_once(widget: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(widget, {(0, "1"): (10, 10)})
    settle(widget, qtbot)
    counted: list[int] = []
    errors = widget._model.errors
    monkeypatch.setattr(widget._model, "errors", lambda **live: (counted.append(1), errors(**live))[1])
    for step in range(20):
        fill(widget, {(1, "1"): (step, 10)})
    settle(widget, qtbot)
    assert len(counted) == 1


def test_a_chosen_id_moves_the_old_point(widget: Any, viewer: Any, click: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20)})
    widget._model.layer.mode = "add"
    QTest.keyClicks(widget.place.ids.lineEdit(), "")
    widget.place.ids.setCurrentText("1")
    QTest.keyClick(widget.place.ids.lineEdit(), Qt.Key_Return)
    assert widget.place.guide.text() == "Frame 0 (reference): click to move landmark 1"
    click(20, 30)
    marks = widget._model.marks
    assert marks.ids == ("1", "2")
    np.testing.assert_allclose(marks.positions()[0], (20, 30), atol=PIXEL)
    assert len(widget._model.layer.data) == 2


def test_typed_names_can_be_placed(widget: Any, click: Any, press: Callable[[Any], None]) -> None:
    press(widget.place.new)
    widget.place.ids.lineEdit().selectAll()
    QTest.keyClicks(widget.place.ids.lineEdit(), "apex")
    QTest.keyClick(widget.place.ids.lineEdit(), Qt.Key_Return)
    click(10, 10)
    assert widget._model.marks.ids == ("apex",)


def test_clicks_that_place_nothing_say_why(widget: Any, viewer: Any, click: Any, press: Callable[[Any], None]) -> None:
    press(widget.place.new)
    click(10, 34.9)
    assert "outside the image" in widget.message.text()
    viewer.dims.set_point(0, 0.5)
    assert widget.place.guide.text() == "Frame 1: mark reference frame 0 first"
    click(10, 10)
    assert "the reference has no landmark yet" in widget.message.text()
    assert len(widget._model.layer.data) == 0
    assert not widget.place.undo.isEnabled()
    fill(widget, {(t, "1"): (5, 5) for t in range(4)})
    assert widget.place.guide.text() == "Frame 1: complete"
    click(10, 10)
    assert "has them all" in widget.message.text()
    assert len(widget._model.layer.data) == 4


def test_prediction_is_hollow_and_read_only_and_does_not_count(
    widget: Any, viewer: Any, series: ImageSeries, drag: Any, key: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20)})
    assert not widget.place.show_prediction.isEnabled()
    register(viewer, series, rows=1.5)
    viewer.dims.set_point(0, 1.0)
    settle(widget, qtbot)
    press(widget.place.show_prediction)
    qtbot.waitUntil(lambda: "disc predicted landmarks" in viewer.layers)
    hint = viewer.layers["disc predicted landmarks"]
    np.testing.assert_allclose(hint.data, [[2, 13, 10], [2, 7, 20]], atol=1e-6)
    assert not hint.editable
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    assert not hint.editable
    assert viewer.layers.selection.active is widget._model.layer
    key(Qt.Key_Y)
    layer = widget._model.layer
    np.testing.assert_allclose(layer.data[2], (2, 13, 10), atol=1e-6)
    assert layer.features["predicted"].tolist() == [False, False, True]
    assert session_of(viewer).landmarks().ids == ("1", "2")
    settle(widget, qtbot)
    assert widget.errors.table.texts() == [("2", "1", "-", "-", "predicted")]
    assert "1 not counted: still on the prediction" in widget.errors.notes.text()
    press(widget.place.move_)
    drag((13, 10), (17, 10))
    assert layer.features["predicted"].tolist() == [False, False, False]
    settle(widget, qtbot)
    by_hand = math.hypot((layer.data[2, 1] - 13) * 2, (layer.data[2, 2] - 10) * 1.5)
    assert after_mm(widget) == {("2", "1"): f"{by_hand:.2f}"}
    assert by_hand == pytest.approx(8, abs=3)


def test_prediction_follows_the_frame_and_goes_away(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10)})
    register(viewer, series)
    viewer.dims.set_point(0, 1.5)
    settle(widget, qtbot)
    widget.place.show_prediction.setChecked(True)
    hint = viewer.layers["disc predicted landmarks"]
    np.testing.assert_allclose(hint.data, [[3, 13, 10]], atol=1e-6)
    viewer.dims.set_point(0, 0.5)
    settle(widget, qtbot)
    np.testing.assert_allclose(hint.data, [[1, 11, 10]], atol=1e-6)
    assert widget._model.layer is not hint
    viewer.layers.remove(hint)
    assert not widget.place.show_prediction.isChecked()
    widget.place.show_prediction.setChecked(True)
    widget.place.show_prediction.setChecked(False)
    assert "disc predicted landmarks" not in viewer.layers


def test_copies_wait_to_be_moved_or_confirmed(
    widget: Any, viewer: Any, click: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20), (2, "1"): (12, 10)})
    press(widget.place.copy)
    assert len(widget._model.layer.data) == 8
    settle(widget, qtbot)
    assert widget.errors.summary()["before", "n"] == "1"
    viewer.dims.set_point(0, 0.5)
    assert widget.place.place.isChecked()
    assert widget.place.guide.text() == "Frame 1: click to move landmark 1"
    click(11, 11)
    settle(widget, qtbot)
    assert widget.errors.summary()["before", "n"] == "2"
    row = widget._model.marks.find(frame(1), "2")
    widget._model.layer.selected_data = {row}
    press(widget.place.confirm)
    settle(widget, qtbot)
    assert widget.errors.summary()["before", "n"] == "3"
    press(widget.place.undo)
    press(widget.place.undo)
    press(widget.place.undo)
    assert len(widget._model.layer.data) == 3


def test_delete_in_all_frames(widget: Any, press: Callable[[Any], None]) -> None:
    fill(widget, {(t, name): (5 + t, 5) for t in range(3) for name in "12"})
    actions = {action.text(): action for action in widget.place.delete.menu().actions()}
    actions["Their ids in all frames"].trigger()
    assert "no landmark is selected" in widget.message.text().lower()
    widget._model.layer.selected_data = {0}
    actions["Their ids in all frames"].trigger()
    assert set(widget._model.marks.ids) == {"2"}
    actions["All in this frame"].trigger()
    assert [widget._model.marks.key(k).frame for k in range(len(widget._model.marks))] == [1, 2]
    press(widget.place.undo)
    press(widget.place.undo)
    assert len(widget._model.marks) == 6


def test_copy_and_paste_make_copies_in_the_frame_on_the_screen(widget: Any, viewer: Any, key: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20), (1, "2"): (5, 20)})
    layer = widget._model.layer
    viewer.layers.selection.active = layer
    layer.mode = "select"
    layer.selected_data = {0, 1}
    key(Qt.Key_C, Qt.ControlModifier)
    viewer.dims.set_point(0, 0.5)
    key(Qt.Key_V, Qt.ControlModifier)
    assert layer.data.tolist()[3:] == [[1, 10, 10]]
    assert layer.features["copied"].tolist() == [False, False, False, True]


def test_a_row_of_the_table_leads_to_the_point(widget: Any, viewer: Any, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "10"): (4, 20), (0, "2"): (6, 6)})
    fill(widget, {(3, "2"): (6, 7), (2, "10"): (4, 21), (2, "1"): (12, 10), (2, "2"): (9, 6)})
    settle(widget, qtbot)
    table = widget.errors.table
    assert [row[:2] for row in table.texts()] == [("2", "1"), ("2", "2"), ("2", "10"), ("3", "2")]
    table.sortByColumn(2, Qt.DescendingOrder)
    assert [row[2] for row in table.texts()] == ["6.00", "4.00", "1.50", "1.50"]
    table.sortByColumn(1, Qt.AscendingOrder)
    assert [row[1] for row in table.texts()] == ["1", "2", "2", "10"]
    index = table.model().index(3, 0)
    QTest.mouseClick(table.viewport(), Qt.LeftButton, Qt.NoModifier, table.visualRect(index).center())
    assert viewer.dims.current_step[0] == 2
    (row,) = widget._model.layer.selected_data
    assert (widget._model.marks.ids[row], widget._model.marks.key(row)) == ("10", frame(2))


def test_the_curve_shows_means_and_leads_to_frames(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20), (2, "1"): (13, 10), (2, "2"): (5, 20)})
    register(viewer, series)
    settle(widget, qtbot)
    plot = widget.errors.plot
    np.testing.assert_allclose(plot.before.get_xydata(), [(1, np.nan), (2, 4.0), (3, np.nan)])  # 3 and 1 rows of 2 mm
    np.testing.assert_allclose(plot.after.get_xydata(), [(1, np.nan), (2, 2.0), (3, np.nan)])  # 1 row too far, 1 too near
    assert plot.axes.get_ylabel() == "mm"
    qtbot.waitUntil(lambda: plot.axes.get_window_extent().width < plot.width() * plot.device_pixel_ratio)
    x, y = plot.axes.transData.transform((2, 2.0)) / plot.device_pixel_ratio
    place = QPoint(round(x), round(plot.height() - y))
    QTest.mouseClick(plot, Qt.LeftButton, Qt.NoModifier, place)
    assert viewer.dims.current_step[0] == 2
    plot.draw()
    blue = plot.grab().toImage().pixelColor(place)
    assert blue.blue() > blue.red() + 60
    left, right = plot.here.get_x(), plot.here.get_x() + plot.here.get_width()
    assert (left, right) == (1.5, 2.5), "the frame on the screen is marked"


def test_reference_can_be_chosen_until_it_is_known(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(1, "1"): (10, 10), (2, "1"): (12, 10)})
    widget.place.reference.setValue(1)
    settle(widget, qtbot)
    assert [row[:3] for row in widget.errors.table.texts()] == [("2", "1", "4.00")]
    register(viewer, series, reference=2)
    assert widget.place.reference.value() == 2
    assert not widget.place.reference.isEnabled()
    settle(widget, qtbot)
    assert [row[:3] for row in widget.errors.table.texts()] == [("1", "1", "4.00")]


def test_the_sample_is_adopted_and_a_true_registration_measures_little(viewer: Any, qtbot: Any, canvas_mouse: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    viewer.open_sample("napari-r2n2", "breathing_thorax")
    image, points = viewer.layers
    assert widget._model.image is image
    assert widget._model.layer is points
    settle(widget, qtbot)
    rows = widget.errors.table.texts()
    assert len(rows) == len(points.data) - len(widget._model.marks.rows_in(frame(0)))
    row = next(k for k in range(len(points.data)) if points.data[k, 0] == 5)
    name = points.features["id"][row]
    start = widget._model.marks.find(frame(0), name)
    by_hand = np.hypot(*((points.data[row, 1:] - points.data[start, 1:]) * points.scale[1:]))
    assert next(r[2] for r in rows if r[:2] == ("5", name)) == f"{by_hand:.2f}"


def test_a_layer_without_ids_is_numbered_when_chosen(widget: Any, viewer: Any, in_layer: Any) -> None:
    data = np.array([[0, 3, 4], [1, 4, 4], [0, 8, 9], [1, 8, 8]])
    points = viewer.add_points(data, name="drawn", scale=in_layer.scale, units=in_layer.units)
    assert widget._model.layer is None
    widget.place._choose_points(widget.place.points.findText("drawn"))
    assert widget._model.layer is points
    assert points.features["id"].tolist() == ["1", "1", "2", "2"]
    assert "numbered from 1" in widget.message.text()
    assert list(points.text.values) == ["1", "1", "2", "2"]


def test_a_layer_of_another_scale_is_refused(widget: Any, viewer: Any) -> None:
    points = viewer.add_points(np.array([[0.0, 3, 4]]), name="drawn", features={"id": ["1"]})
    widget.place._choose_points(widget.place.points.findText("drawn"))
    assert widget._model.layer is None
    assert "has scale (1, 1, 1), 'disc' has (0.5, 2, 1.5)" in widget.message.text()
    assert "predicted" not in points.features


@pytest.mark.parametrize("kind", ["mm", "px", "slicer"])
def test_export_and_import_give_the_same(
    widget: Any, qtbot: Any, press: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    fill(widget, {(0, "1"): (10.25, 10), (0, "apex"): (4, 20), (2, "1"): (12, 11.5)})
    before = widget._model.marks
    target = tmp_path / ("marks.mrk.json" if kind == "slicer" else "marks.csv")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_a, **_k: (str(target), FORMATS[kind]))
    settle(widget, qtbot)
    press(widget.files.save)
    assert f"3 landmarks written to {target.name}" in widget.message.text()
    fill(widget, {(3, "1"): (1, 1)})
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a, **_k: (str(target), ""))
    press(widget.files.load)
    assert "3 landmarks imported" in widget.message.text()
    assert widget._model.marks.ids == before.ids
    np.testing.assert_allclose(widget._model.layer.data, before.rows, atol=1e-9)
    press(widget.place.undo)
    assert len(widget._model.marks) == 4


def test_napari_points_are_imported_into_a_new_layer(
    widget: Any, viewer: Any, in_layer: Any, press: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = viewer.add_points(
        np.array([[0, 3, 4], [0, 8, 9], [2, 4, 4], [2, 8, 8]]), name="drawn", scale=in_layer.scale, units=in_layer.units
    )
    points.save(str(tmp_path / "drawn.csv"))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a, **_k: (str(tmp_path / "drawn.csv"), ""))
    press(widget.files.load)
    layer = viewer.layers["disc landmarks"]
    assert layer.features["id"].tolist() == ["0", "1", "0", "1"]
    np.testing.assert_array_equal(layer.data, points.data)


def test_a_bad_file_changes_nothing(
    widget: Any, press: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(widget, {(0, "1"): (10, 10)})
    for name, text, said in (
        ("frames.csv", "id,frame,y_px,x_px\n1,0,3,4\n1,4,3,4\n", "the series has frames 0 to 3"),
        ("other.csv", "name;value\na;1\n", "unknown header"),
        ("missing.csv", None, "missing.csv"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a, path=tmp_path / name, **_k: (str(path), ""))
        press(widget.files.load)
        assert said in widget.message.text()
        assert widget._model.layer.data.tolist() == [[0, 10, 10]]
        assert widget._model.editor.undo_text == "fill"


def test_a_second_observer_is_shown_and_measured(
    widget: Any, viewer: Any, press: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, qtbot: Any
) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10), (1, "2"): (5, 5)})
    other = LandmarkSet(("1", "1"), np.array([0, 1]), np.array([[10.0, 10], [12, 14]]), Space.INDEX)
    write_landmarks(tmp_path / "second.csv", other)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a, **_k: (str(tmp_path / "second.csv"), ""))
    settle(widget, qtbot)
    press(widget.files.compare)
    text = widget.files.observer.text()
    assert "second.csv: 2 landmarks marked by both. 1 marked by one only." in text
    assert "mean 3.00, median 3.00, max 6.00 mm" in text  # 0 and 4 columns of 1.5 mm
    assert "1 in frame 1: 6.00" in text
    layer = viewer.layers["disc observer 2"]
    assert not layer.editable
    assert (layer.units, layer.axis_labels) == (widget._model.image.units, ("time", "y", "x"))
    fill(widget, {(1, "1"): (12, 14)})
    settle(widget, qtbot)
    assert "max 0.00 mm" in widget.files.observer.text()
    press(widget.files.forget)
    assert "disc observer 2" not in viewer.layers
    assert widget.files.observer.text() == ""


def test_layers_may_go_be_renamed_or_exchanged(widget: Any, viewer: Any, in_layer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    register(viewer, series)
    in_layer.name, widget._model.layer.name = "lung", "my points"
    assert widget.place.image.currentText() == "lung"
    assert widget.place.points.currentText() == "my points"
    settle(widget, qtbot)
    assert after_mm(widget) == {("1", "1"): "2.00"}  # a renamed layer is still the registered one
    in_layer.scale = (0.5, 4.0, 1.5)
    settle(widget, qtbot)
    np.testing.assert_allclose(widget._model.layer.scale, (0.5, 4.0, 1.5))
    assert widget.errors.table.texts()[0][2:4] == ("8.00", "-")  # calibrated anew: that registration is another's
    in_layer.data = np.zeros((2, 30, 30), np.int16)
    settle(widget, qtbot)
    assert widget.place.reference.maximum() == 1
    viewer.layers.remove(widget._model.layer)
    settle(widget, qtbot)
    assert widget.errors.table.texts() == []
    assert session_of(viewer).landmarks() is None
    viewer.layers.remove(in_layer)
    assert "Open an image series" in widget.place.guide.text()


def test_a_series_renamed_after_its_registration_is_still_known(
    widget: Any, viewer: Any, in_layer: Any, series: ImageSeries, qtbot: Any
) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    register(viewer, series)
    in_layer.metadata = {}  # as of a layer that no reader of ours made: its name is all it is known by
    in_layer.name = "lung"
    widget._model.choose_image(None)
    widget._model.choose_image(in_layer)
    settle(widget, qtbot)
    assert widget._model.series[0].name == "lung"
    assert after_mm(widget) == {("1", "1"): "2.00"}


def test_another_series_of_equal_shape_is_not_the_registered_one(widget: Any, viewer: Any, series: ImageSeries, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    data, options, _kind = series_to_layers([replace(series, name="other")])[0]
    other = viewer.add_image(data, **options)
    register(viewer, replace(series, name="other"))
    settle(widget, qtbot)
    assert after_mm(widget) == {("1", "1"): "-"}
    assert not widget._model.registered
    viewer.layers.remove(other)
    assert widget._model.registered


def test_slices_have_their_own_landmarks(viewer: Any, series: ImageSeries, canvas_mouse: Any, qtbot: Any, tmp_path: Path) -> None:
    both = [series, replace(series, frames=np.asarray(series.frames) * 2)]
    data, options, _kind = series_to_layers(both)[0]
    viewer.add_image(data, **options)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    QTest.mouseClick(widget.place.new, Qt.LeftButton)
    widget._model.go_to(FrameKey(1, 0))
    viewer.reset_view()
    qtbot.wait(200)
    assert widget.place.guide.text() == "Slice 1, frame 0 (reference): click to place landmark 1"
    canvas_mouse.click((20.0, 15.0))
    widget._model.go_to(FrameKey(1, 2))
    canvas_mouse.click((24.0, 15.0))
    settle(widget, qtbot)
    layer = widget._model.layer
    np.testing.assert_allclose(layer.data, [[1, 0, 10, 10], [1, 2, 12, 10]], atol=PIXEL)
    assert session_of(viewer).landmarks(0) is None
    assert session_of(viewer).landmarks(1).frames.tolist() == [0, 2]
    assert len(widget.errors.table.texts()) == 1
    widget._model.go_to(FrameKey(0, 0))
    settle(widget, qtbot)
    assert widget.errors.table.texts() == []
    assert widget._model.expected == "1"


def test_new_landmarks_take_those_of_the_session(
    widget: Any, viewer: Any, series: ImageSeries, press: Callable[[Any], None]
) -> None:
    register(viewer, series)
    session_of(viewer).set_landmarks({0: LandmarkSet(("7",), np.array([1]), np.array([[3.0, 4.0]]), Space.INDEX)})
    press(widget.place.new)
    assert widget._model.layer.data.tolist() == [[1, 3, 4]]
    assert widget._model.marks.ids == ("7",)


def test_keys_are_given_back_when_the_widget_goes(widget: Any, viewer: Any, in_layer: Any, key: Any, qtbot: Any) -> None:
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    layer = widget._model.layer
    assert len(layer.keymap) == 6
    model = widget._model
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: len(layer.keymap) == 0)
    assert model.editor is None
    viewer.layers.selection.active = layer
    layer.add([0, 3, 3])
    viewer.dims.set_point(0, 1.0)
    session_of(viewer).landmarks_changed.emit()
    viewer.layers.remove(in_layer)


def test_3d_view_places_nothing(widget: Any, viewer: Any, press: Callable[[Any], None]) -> None:
    press(widget.place.new)
    viewer.dims.ndisplay = 3
    widget._model.layer.add([0, 3, 3])
    assert len(widget._model.layer.data) == 0
    assert "2D view" in widget.message.text()


def test_edits_by_script_stay_consistent(widget: Any, press: Callable[[Any], None]) -> None:
    fill(widget, {(0, "1"): (10, 10), (0, "2"): (4, 20), (1, "1"): (5, 5)})
    layer = widget._model.layer
    features = layer.features.copy()
    features.loc[1, "id"] = "1"
    layer.features = features
    assert "would occur twice" in widget.message.text()
    assert layer.features["id"].tolist() == ["1", "2", "1"]
    features.loc[1, "id"] = "apex"
    layer.features = features
    assert widget._model.marks.ids == ("1", "apex", "1")
    data = layer.data.copy()
    data[2, 0] = 0
    layer.data = data  # landmark 1 would be in frame 0 twice
    assert layer.data[2, 0] == 1
    press(widget.place.undo)
    assert widget._model.marks.ids == ("1", "2", "1")


def test_closing_the_window_in_the_middle_is_harmless(own_viewer: Any, series: ImageSeries) -> None:
    viewer = own_viewer
    data, options, _kind = series_to_layers([series])[0]
    viewer.add_image(data, **options)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Landmarks")
    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    register(viewer, series)
    widget._soon()
    viewer.close()


def test_it_is_narrow_and_every_control_is_explained(widget: Any, qtbot: Any) -> None:
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox

    fill(widget, {(0, "1"): (10, 10), (1, "1"): (12, 10)})
    settle(widget, qtbot)
    assert widget.minimumSizeHint().width() <= 350
    parts = (widget.place, widget.errors.plot, widget.files)
    controls = [c for part in parts for kind in (QAbstractButton, QAbstractSpinBox, QComboBox) for c in part.findChildren(kind)]
    assert len(controls) > 12
    assert [c for c in controls if not c.toolTip()] == []
