"""Nothing is cut off: every control of every widget has the room it needs, in small, usual and large windows and in both themes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QDockWidget, QLabel, QProgressBar, QTableView, QWidget

from napari_r2n2.layers.image_views import View
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.plots import Plot

NAMES = ("Align", "Train", "Carry along", "Curves", "Movie", "Function", "Sequence", "Landmarks")
SIZES = [(1024, 700), (1200, 800), (1920, 1080)]
CONTROLS = (QAbstractButton, QAbstractSpinBox, QComboBox, QLabel, QProgressBar, Plot)


@pytest.fixture
def widgets(viewer: Any, aligned: Any, qtbot: Any) -> dict[str, Dock]:
    """All of them, opened as the Plugins menu opens them, with an aligned series and as many words as they ever show."""
    aligned.show(View.GAUSSIANS)
    opened = {name: viewer.window.add_plugin_dock_widget("napari-r2n2", name)[1] for name in NAMES}
    qtbot.waitUntil(lambda: all(len(_tabs(viewer, widget)) == len(NAMES) - 1 for widget in opened.values()), timeout=20_000)
    opened["Align"].form.advanced.expand(animate=False)
    opened["Function"].form.advanced.expand(animate=False)
    opened["Landmarks"]._model.new_layer()
    opened["Landmarks"]._say("Place is off: step 3 is asked for, and landmarks are placed in the frames as they came, at step 0.")
    return opened


def _dock(widget: QWidget) -> QDockWidget:
    parent = widget.parentWidget()
    while not isinstance(parent, QDockWidget):
        assert parent is not None
        parent = parent.parentWidget()
    return parent


def _tabs(viewer: Any, widget: QWidget) -> list[QDockWidget]:
    return list(viewer.window._qt_window.tabifiedDockWidgets(_dock(widget)))


def _clipped(widget: Dock) -> Iterator[str]:
    """Visible controls that get less room than they need, or that lie beside what can be seen."""
    viewport = widget.viewport()
    for child in widget.widget().findChildren(QWidget):
        if not isinstance(child, CONTROLS) or not child.isVisible():
            continue
        text = child.text() if hasattr(child, "text") else type(child).__name__
        wraps = isinstance(child, QLabel) and child.wordWrap()
        needed = child.minimumSizeHint()
        height = child.heightForWidth(child.width()) if wraps else needed.height()
        left = child.mapTo(viewport, QPoint(0, 0)).x()
        if child.width() < needed.width() or child.height() < height:
            yield f"{text!r}: has {child.width()} x {child.height()}, needs {needed.width()} x {height}"
        if left < 0 or left + child.width() > viewport.width():
            yield f"{text!r}: lies from {left} to {left + child.width()} of {viewport.width()} pixels"


def _clipped_cells(widget: Dock) -> Iterator[str]:
    """Columns of tables that are narrower than what stands in them, and what lies beyond the table's edge."""
    for table in widget.widget().findChildren(QTableView):
        header = table.horizontalHeader()
        for column in range(table.model().columnCount()):
            # The hint of a heading that can be sorted by holds room for the arrow, which only one of them has.
            heading = 0 if header.isSortIndicatorShown() else header.sectionSizeHint(column)
            needed = max(table.sizeHintForColumn(column), heading)
            if table.columnWidth(column) < needed:
                name = table.model().headerData(column, Qt.Orientation.Horizontal)
                yield f"column {name!r}: has {table.columnWidth(column)} pixels, needs {needed}"
        if header.length() > table.viewport().width():
            yield f"table: has {table.viewport().width()} pixels, needs {header.length()}"


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_nothing_is_cut_off(viewer: Any, widgets: dict[str, Dock], qtbot: Any, theme: str) -> None:
    viewer.theme = theme
    window = viewer.window._qt_window
    for size in SIZES:
        window.resize(*size)
        for name, widget in widgets.items():
            _dock(widget).raise_()
            qtbot.waitUntil(widget.isVisible)
            qtbot.wait(60)
            assert (window.width(), window.height()) == size, "the window can be as small as that"
            assert not [*_clipped(widget), *_clipped_cells(widget)], f"{name} in a window of {size[0]} x {size[1]}"
            assert window.centralWidget().width() > widget.width() / 2, "the image keeps room"


def test_every_widget_is_a_tab_of_the_others(viewer: Any, widgets: dict[str, Dock]) -> None:
    for name, widget in widgets.items():
        assert len(_tabs(viewer, widget)) == len(NAMES) - 1
        assert _dock(widget).windowTitle() == name, "short enough to be read on a tab"
    assert widgets["Landmarks"].isVisible(), "the one opened last is in front"
    assert widgets["Landmarks"].height() > 300


def test_a_dock_that_was_torn_off_stays_alone(viewer: Any, qtbot: Any) -> None:
    first, _widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Align")
    first.setFloating(True)
    _dock_of_second, second = viewer.window.add_plugin_dock_widget("napari-r2n2", "Train")
    qtbot.wait(200)
    assert first.isFloating()
    assert _tabs(viewer, second) == []
