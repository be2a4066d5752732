"""The Sequence widget in a real window: stepping, reading, switching off, comparing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_r2n2.layers.image_views import View
from napari_r2n2.models.gaussian_numbers import Column
from napari_r2n2.models.session import FrameKey
from r2n2.geometry import Space
from r2n2.series import LandmarkSet

pytestmark = pytest.mark.usefixtures("canvas_mouse")

LAST = FrameKey(0, 2)


@pytest.fixture
def widget(viewer: Any, aligned: Any) -> Any:
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=LAST, step=6)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    return widget


def _numbers(widget: Any, row: int) -> list[float]:
    return [float(widget._table.item(row, column).text()) for column in range(1, 9)]


def _click_cell(widget: Any, row: int, column: int) -> None:
    table = widget._table
    box = table.visualItemRect(table.item(row, column))
    QTest.mouseClick(table.viewport(), Qt.LeftButton, Qt.NoModifier, box.center())


def test_without_a_result_it_says_what_to_do(viewer: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    assert "Align widget first" in widget._title.text()
    assert not widget._play.isEnabled()


def test_the_table_holds_the_seven_numbers_as_they_are_exported(widget: Any, aligned: Any) -> None:
    from r2n2.results.sequence_file import sequence_table

    rows = sequence_table({2: aligned.session.sequence(LAST)}).splitlines()[1:]
    assert widget._table.rowCount() == 6 == len(rows)
    for row, line in enumerate(rows):
        step, *expected = [float(value) for value in line.split(",")][1:]
        found = _numbers(widget, row)
        assert found[0] == step
        np.testing.assert_allclose(found[1:], expected, atol=0.51)
        np.testing.assert_allclose(np.array(found[1:])[[0, 1, 2, 3, 5, 6]], np.array(expected)[[0, 1, 2, 3, 5, 6]], atol=0.051)


@pytest.mark.parametrize(
    ("number", "text"), [(353.62, "354"), (99.96, "100"), (-11.61, "-11.6"), (0.04, "0.0"), (-0.04, "0.0"), (-120.4, "-120")]
)
def test_numbers_of_the_table_are_short(number: float, text: str) -> None:
    assert Column("y", "").text(number) == text
    assert "." not in Column("z", "", 0).text(number)


def test_a_row_selects_its_ellipse_and_the_other_way_round(widget: Any, aligned: Any) -> None:
    _click_cell(widget, 2, 3)
    assert aligned.session.selection == 3
    assert "Gaussian 3" in widget._numbers.text()
    aligned.session.select(5)
    assert [index.row() for index in widget._table.selectionModel().selectedRows()] == [4]
    y, x = aligned.session.sequence(LAST).centres_mm()[4].tolist()
    assert f"centre y {y:.2f}, x {x:.2f} mm" in widget._numbers.text()


def test_unticking_a_row_leaves_the_gaussian_out_at_once(widget: Any, aligned: Any, press: Callable[[Any], None]) -> None:
    points = np.array([[12.0, 16.0], [14.0, 16.0]])
    aligned.session.set_landmarks({0: LandmarkSet(("a", "a"), np.array([0, 2]), points, Space.INDEX)})
    with_all = widget._quality.text()
    assert "TRE of 1 landmarks 4.00" in with_all
    box = widget._table.visualItemRect(widget._table.item(0, 0))
    QTest.mouseClick(widget._table.viewport(), Qt.LeftButton, Qt.NoModifier, QPoint(box.left() + 10, box.center().y()))
    assert aligned.session.enabled(LAST).tolist() == [False, True, True, True, True, True]
    assert widget._quality.text() != with_all
    assert "switched off by hand" in widget._quality.text()
    press(widget._all_on)
    assert widget._quality.text() == with_all
    assert not widget._all_on.isEnabled()


def test_another_frame_fills_the_table_anew(widget: Any, aligned: Any) -> None:
    before = _numbers(widget, 0)
    aligned.go_to(key=FrameKey(0, 1))
    assert "frame 1" in widget._title.text()
    assert _numbers(widget, 0) != before
    aligned.go_to(key=FrameKey(0, 0))
    assert widget._table.rowCount() == 0


def test_views_are_switched_by_buttons(viewer: Any, widget: Any, aligned: Any, press: Callable[[Any], None]) -> None:
    for view, toggle in widget._toggles.items():
        was = aligned.shown(view)
        press(toggle)
        assert aligned.shown(view) != was
    viewer.layers.remove(aligned.layer(View.RESIDUAL))
    assert not widget._toggles[View.RESIDUAL].isChecked()


def test_no_button_lies_on_another(widget: Any) -> None:
    buttons = [*widget._toggles.values(), widget._squares]
    places = {(button.x(), button.y()) for button in buttons}
    assert len(places) == len(buttons)
    assert widget._squares.y() == widget._toggles[View.CHECKERBOARD].y(), "the number stands beside what it is of"


def test_it_says_how_far_the_frame_may_be_off(widget: Any, aligned: Any) -> None:
    found = aligned.session.results[LAST].uncertainty
    assert f"Half of what is seen is off by less than {found.median_mm:.2g}"[:-2] in widget._quality.text()
    assert "not calibrated: the radius is calibrated for the usual steps" in widget._quality.text()
    aligned.session.switch(LAST, 1, False)
    assert "seen is off" not in widget._quality.text()


def test_the_checkerboard_has_as_many_fields_as_asked(widget: Any, aligned: Any, press: Callable[[Any], None]) -> None:
    press(widget._toggles[View.CHECKERBOARD])
    layer = aligned.layer(View.CHECKERBOARD)
    aligned.go_to(step=0)
    before = np.array(layer.data[0, 2])
    widget._squares.setValue(3)
    assert not np.array_equal(layer.data[0, 2], before)


def test_the_sequence_plays_and_stops(widget: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any) -> None:
    press(widget._first)
    assert aligned.step == 0
    press(widget._play)
    qtbot.waitUntil(lambda: aligned.step >= 2, timeout=10_000)
    press(widget._play)
    step = aligned.step
    qtbot.wait(600)
    assert aligned.step == step
    press(widget._last)
    assert aligned.step == 6


@pytest.mark.parametrize("other", [0, 1])
def test_flicker_shows_both_in_turn_and_leaves_all_as_it_was(
    viewer: Any, widget: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any, other: int
) -> None:
    widget._other.setCurrentIndex(other)
    press(widget._flicker)
    layer = aligned.layer(View.REFERENCE if other == 0 else View.ALIGNED)
    qtbot.waitUntil(lambda: not layer.visible, timeout=5000)
    qtbot.waitUntil(lambda: layer.visible, timeout=5000)
    press(widget._flicker)
    assert not aligned.shown(View.REFERENCE)
    assert aligned.layer(View.ALIGNED).visible


def test_a_layer_deleted_while_it_flickers_stops_the_flicker(viewer: Any, widget: Any, aligned: Any, qtbot: Any) -> None:
    widget._flicker.setChecked(True)
    viewer.layers.remove(aligned.layer(View.REFERENCE))
    qtbot.waitUntil(lambda: not widget._flicker.isChecked(), timeout=5000)


def test_closing_while_it_flickers_leaves_the_layer_visible(viewer: Any, widget: Any, aligned: Any, qtbot: Any) -> None:
    widget._other.setCurrentIndex(1)
    widget._flicker.setChecked(True)
    qtbot.waitUntil(lambda: not aligned.layer(View.ALIGNED).visible, timeout=5000)
    viewer.window.remove_dock_widget(widget)
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    assert aligned.layer(View.ALIGNED).visible


def test_keys_step_and_switch(viewer: Any, widget: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> None:
    canvas = canvas_mouse.native
    canvas.setFocus()
    qtbot.wait(50)
    QTest.keyClick(canvas, Qt.Key_Left, Qt.ShiftModifier)
    assert aligned.step == 5
    QTest.keyClick(canvas, Qt.Key_Right, Qt.ShiftModifier)
    assert aligned.step == 6
    aligned.session.select(2)
    QTest.keyClick(canvas, Qt.Key_X, Qt.AltModifier)
    assert aligned.session.enabled(LAST).tolist() == [True, False, True, True, True, True]


def test_a_closed_widget_hears_nothing_more(viewer: Any, widget: Any, aligned: Any, qtbot: Any) -> None:
    keys = set(viewer.keymap)
    assert any("Alt+P" in str(key) or "Alt-P" in str(key) for key in keys), keys
    viewer.window.remove_dock_widget(widget)
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    aligned.go_to(step=3)
    aligned.session.switch(LAST, 1, False)
    aligned.session.select(4)
    assert not any("Alt+P" in str(key) or "Alt-P" in str(key) for key in viewer.keymap)
