"""What every dock widget is: a column of controls that scrolls up and down where the window is low, never sideways."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLayout, QScrollArea, QWidget

__all__ = ["Dock"]


class Dock(QScrollArea):
    """Base of the dock widgets."""

    def fill(self, column: QLayout) -> None:
        """Show this layout."""
        inner = QWidget()
        inner.setLayout(column)
        self.setWidget(inner)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
