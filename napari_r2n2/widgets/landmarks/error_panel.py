"""The part of the landmarks widget that shows errors: a curve over the frames, a summary and every landmark."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_r2n2.models.landmarks.errors import ErrorReport, Figures
from napari_r2n2.models.lengths import MM, Lengths
from napari_r2n2.widgets.landmarks.error_plot import ErrorPlot
from napari_r2n2.widgets.landmarks.table import ErrorTable

__all__ = ["ErrorPanel"]

_COLUMNS = ("mean", "median", "max", "n")
_ROWS = (
    ("frame, before", "frame_before"),
    ("frame, after", "frame_after"),
    ("all, before", "before"),
    ("all, after", "after"),
)


class ErrorPanel(QWidget):
    """Shows a report; knows nothing of where it comes from."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plot, self.table, self.notes = ErrorPlot(), ErrorTable(), QLabel()
        self.plot.setToolTip("Mean landmark error of every frame. Click to go to a frame.")
        self.table.setToolTip("Click a row to go to its frame and select the landmark; click a heading to sort.")
        self.notes.setToolTip("What to know before quoting these numbers.")
        self.notes.setWordWrap(True)
        self._cells: dict[tuple[str, str], QLabel] = {}
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(4)
        whole.addWidget(self.plot)
        whole.addLayout(self._summary())
        whole.addWidget(self.notes)
        whole.addWidget(self.table, 1)
        self._report: ErrorReport | None = None
        self._lengths = MM

    def _summary(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(1)
        grid.setHorizontalSpacing(4)
        self._unit = head = QLabel(MM.name)
        head.setToolTip("Before: without registration. After: target registration error, TRE.")
        grid.addWidget(head, 0, 0)
        for column, title in enumerate(_COLUMNS, start=1):
            grid.addWidget(
                _number(title, "Number of landmarks that count." if title == "n" else f"{title} over the landmarks"), 0, column
            )
        for line, (title, name) in enumerate(_ROWS, start=1):
            grid.addWidget(QLabel(title), line, 0)
            for column, what in enumerate(_COLUMNS, start=1):
                self._cells[name, what] = _number("–", "")
                grid.addWidget(self._cells[name, what], line, column)
        grid.setColumnStretch(0, 1)
        for column in range(1, 5):
            grid.setColumnMinimumWidth(column, 40)
        return grid

    def show_report(self, report: ErrorReport | None, frame: int, lengths: Lengths) -> None:
        """Show errors; None where there are no landmarks."""
        self._report, self._lengths = report, lengths
        self._unit.setText(lengths.name)
        self.table.lengths = lengths
        if report is None:
            self.table.show_rows(())
            self.plot.show_errors({}, {}, 1, 0, lengths.name)
        else:
            self.table.show_rows(report.rows)
            before = {t: lengths.value(report.before(t).mean_mm) for t in report.frames}
            after = {t: lengths.value(report.after(t).mean_mm) for t in report.frames}
            self.plot.show_errors(before, after, report.frame_count, report.reference, lengths.name)
        self.notes.setText("\n".join(report.notes) if report is not None else "")
        self.notes.setVisible(bool(self.notes.text()))
        self.show_frame(frame)

    def show_frame(self, frame: int) -> None:
        """Another frame is on the screen."""
        self.plot.show_frame(frame)
        report = self._report
        empty = Figures(0, math.nan, math.nan, math.nan)
        figures = {
            "frame_before": report.before(frame) if report else empty,
            "frame_after": report.after(frame) if report else empty,
            "before": report.before() if report else empty,
            "after": report.after() if report else empty,
        }
        for name, values in figures.items():
            texts = (*map(self._lengths.number, values[1:]), str(values.number))
            for what, text in zip(_COLUMNS, texts, strict=True):
                self._cells[name, what].setText(text)

    def summary(self) -> dict[tuple[str, str], str]:
        """What is on the screen: (row, column) -> text."""
        return {name: cell.text() for name, cell in self._cells.items()}


def _number(text: str, tip: str) -> QLabel:
    label = QLabel(text)
    label.setToolTip(tip)
    label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return label
