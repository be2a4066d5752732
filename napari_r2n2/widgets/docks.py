"""What every dock widget is: a column of controls that scrolls up and down where the window is low, never sideways."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QDockWidget, QLayout, QMainWindow, QScrollArea, QWidget

__all__ = ["Dock"]

_MARGIN, _SPACING = 6, 4
_LEAST_HEIGHT = 150
# The same for all, or the image would be laid out anew whenever another tab is opened.
_LEAST_WIDTH = 350


class Dock(QScrollArea):
    """Base of the dock widgets: they lie on each other as tabs, as beside each other none would have room."""

    _placed = _lies = False

    def fill(self, column: QLayout) -> None:
        """Show this layout."""
        inner = QWidget()
        column.setContentsMargins(_MARGIN, _MARGIN, _MARGIN, _MARGIN)
        column.setSpacing(_SPACING)
        inner.setLayout(column)
        self.setWidget(inner)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Qt: never so narrow that something is cut off, whatever the fonts of the theme."""
        inside, bar = self.widget(), self.verticalScrollBar()
        width = 0 if inside is None or bar is None else inside.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(max(width, _LEAST_WIDTH), _LEAST_HEIGHT)

    def sizeHint(self) -> QSize:  # noqa: N802
        """Qt: as wide as needed, so that the image keeps the room, and as high as there is."""
        inside = self.widget()
        return QSize(self.minimumSizeHint().width(), _LEAST_HEIGHT if inside is None else inside.sizeHint().height())

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802
        """Qt: seen for the first time."""
        super().showEvent(event)
        if not self._placed:
            self._placed = True
            # napari is still placing it: the tabs are made once it is done.
            QTimer.singleShot(0, self._lie_on_others)

    def _lie_on_others(self) -> None:
        """Become a tab of another dock of ours, and the one in front."""
        mine, window = _dock_of(self), self.window()
        self._lies = True
        if mine is not None:
            # The plugin's name behind it would leave a tab no room for its own.
            mine.setWindowTitle(mine.windowTitle().partition(" (")[0])
        if mine is None or not isinstance(window, QMainWindow) or mine.isFloating():
            return
        for other in window.findChildren(Dock):
            theirs = _dock_of(other)
            # Those that are still to be placed come to this one by themselves.
            if other is self or not other._lies or theirs is None or theirs.isFloating() or not theirs.isVisibleTo(window):
                continue
            if mine not in window.tabifiedDockWidgets(theirs):
                window.tabifyDockWidget(theirs, mine)
            mine.show()
            mine.raise_()
            return


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
