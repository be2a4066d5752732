"""The table of landmark errors: a row a landmark and frame, sortable."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QSortFilterProxyModel, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_r2n2.models.landmarks.errors import ErrorRow, natural
from napari_r2n2.models.lengths import MM, Lengths

__all__ = ["ErrorTable"]

_HEADERS = ("frame", "id", "before", "after", "remark")
_TIPS = (
    "Frame, counted from 0.",
    "Name of the landmark.",
    "Distance from the landmark of the reference, without registration.",
    "Target registration error: distance from where the registration maps the reference's landmark.",
    "Why the landmark is not counted.",
)
_SORT_ROLE = Qt.ItemDataRole.UserRole


class _Rows(QAbstractTableModel):
    """Error rows as Qt reads them."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.rows: tuple[ErrorRow, ...] = ()
        self.lengths = MM

    def show(self, rows: tuple[ErrorRow, ...]) -> None:
        # The same points at other places: what is selected and how far was scrolled stays.
        if [row[:3] for row in rows] == [row[:3] for row in self.rows]:
            self.rows = rows
            if rows:
                self.dataChanged.emit(self.index(0, 0), self.index(len(rows) - 1, len(_HEADERS) - 1))
            return
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(_HEADERS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return _HEADERS[section]
        return _TIPS[section] if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row, column = self.rows[index.row()], index.column()
        value = (row.frame, row.id, row.before_mm, row.after_mm, row.remark)[column]
        if role == _SORT_ROLE:
            # Unknown distances come last; Qt compares tuples of no binding, so ids are spelt to sort like numbers.
            if isinstance(value, float):
                return math.inf if math.isnan(value) else value
            return "{}{:012d}{}".format(*natural(row.id)) if column == 1 else value
        if role == Qt.ItemDataRole.DisplayRole:
            return self.lengths.number(value) if isinstance(value, float) else str(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and column != 4:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None


class ErrorTable(QTableView):
    """Shows error rows; a click on one gives its index in the marks."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows = _Rows(self)
        self._sorted = QSortFilterProxyModel(self)
        self._sorted.setSourceModel(self._rows)
        self._sorted.setSortRole(_SORT_ROLE)
        self.setModel(self._sorted)
        self.setSortingEnabled(True)
        self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAlternatingRowColors(False)
        self.setShowGrid(False)
        self.setMinimumHeight(150)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        sides, top = self.verticalHeader(), self.horizontalHeader()
        assert sides is not None
        assert top is not None
        sides.setVisible(False)
        sides.setDefaultSectionSize(20)
        top.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        # The last column takes what is left, and without this at least the usual 100 pixels.
        top.setDefaultSectionSize(42)
        # Room for the arrow of the heading that is sorted by.
        for column, width in enumerate((62, 42, 70, 60)):
            self.setColumnWidth(column, width)
        top.setStretchLastSection(True)
        self.clicked.connect(self._clicked)

    @property
    def lengths(self) -> Lengths:
        """How distances are shown."""
        return self._rows.lengths

    @lengths.setter
    def lengths(self, lengths: Lengths) -> None:
        self._rows.lengths = lengths

    def show_rows(self, rows: tuple[ErrorRow, ...]) -> None:
        """Exchange what is shown."""
        self._rows.show(rows)

    def texts(self) -> list[tuple[str, ...]]:
        """What is on the screen, row by row."""
        columns = range(len(_HEADERS))
        return [tuple(self._sorted.index(row, k).data() for k in columns) for row in range(self._sorted.rowCount())]

    def _clicked(self, index: QModelIndex) -> None:
        self.chosen.emit(self._rows.rows[self._sorted.mapToSource(index).row()].row)
