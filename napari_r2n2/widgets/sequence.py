"""The Sequence widget: step through the Gaussians of a frame, read their numbers, switch them off, compare before with after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_r2n2.layers.gaussian_lines import step_colours
from napari_r2n2.layers.planes import show_centre
from napari_r2n2.layers.result_layers import View, results_of
from napari_r2n2.models.gaussian_numbers import Column, columns, described, rows
from napari_r2n2.models.lengths import Lengths
from napari_r2n2.models.quality import described_quality, described_uncertainty
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.docks import Dock
from napari_r2n2.widgets.gaussian_editor import GaussianEditor
from napari_r2n2.widgets.plane_buttons import PlaneButtons
from r2n2.errors import ReadError

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_r2n2.models.session import FrameKey

__all__ = ["SequenceWidget"]

_VIEWS = {
    View.GAUSSIANS: ("Gaussians", "One ellipse (1 sigma) a Gaussian, coloured by its step; the selected one bold, its arrow is v."),
    View.ARROWS: ("Arrows", "The displacement, true to scale: from a point of the reference to where it lies in the frame."),
    View.GRID: ("Grid", "A regular grid of the reference as the displacement deforms it."),
    View.MAGNITUDE: ("Magnitude", "Length of the displacement."),
    View.JACOBIAN: ("Jacobian", "Local change of area, of volumes in 3D: green grows, pink shrinks, 0 or less folds."),
    View.RESIDUAL: ("Residual", "Aligned frame minus reference: white where they agree."),
    View.UNCERTAINTY: ("Uncertainty", "How far a position may be off: with 90 % probability no farther than this radius."),
    View.CHECKERBOARD: ("Checkerboard", "Reference and aligned frame in turn."),
}
_STEP = 1
_UNMEASURED = "Gaussians are switched off: how alike the volumes then are, and what folds, is measured by Export."
# Headings before those of the numbers.
_FIRST = (("", "Switch this Gaussian on or off"), ("step", "Place in the sequence"))
# Room for all columns where numbers are as wide as they get: three digits, a sign and a point.
_TABLE_PX = 324
_MOVIE_MS, _FLICKER_MS = 250, 400
_KEYS = {"Shift-Right": "next step", "Shift-Left": "previous step", "Alt-P": "play", "Alt-F": "flicker", "Alt-X": "switch"}
_FLICKERS = {"reference": "reference", "frame as it came": "before"}


class SequenceWidget(Dock):
    """Shows the frame and step that napari's sliders point at."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.results = results_of(napari_viewer)
        self.session = self.results.session
        self._filled: tuple[Any, ...] | None = None
        self._filling = False
        self._build()
        self._movie = QTimer(self)
        self._movie.timeout.connect(self._next_step)
        self._flicker_timer = QTimer(self)
        self._flicker_timer.timeout.connect(self._flip)
        # The layer that flickers and whether it was visible; a list, for what is left to do when this widget is gone.
        self._flipped: list[tuple[Any, bool]] = []
        signals = (self.session.began, self.session.ended, self.session.landmarks_changed, self.results.changed)
        viewer, flipped, editor = self.results.viewer, self._flipped, self.editor
        self._bind_keys(viewer)

        def leave() -> None:
            _still(flipped)
            editor.release()
            for key in _KEYS:
                viewer.bind_key(key, None, overwrite=True)

        connect_while_alive(
            self,
            [
                *((signal, self._update) for signal in signals),
                (self.session.added, self._frame_changed),
                (self.session.edited, self._frame_changed),
                (self.session.selected, self._show_selected),
                (self.results.views_changed, self._update_views),
            ],
            at_end=leave,
        )
        self._update_views()
        self._update()

    # Making it

    def _build(self) -> None:
        self._title = QLabel()
        self._title.setWordWrap(True)
        self._play = _toggle("Play", "Play the sequence as a movie (Alt+P).")
        self._first = QPushButton("Before")
        self._first.setToolTip("Step 0: the frame as it came.")
        self._last = QPushButton("After")
        self._last.setToolTip("The last step: the aligned frame.")
        self._toggles = {view: _toggle(*words) for view, words in _VIEWS.items()}
        self._planes = PlaneButtons(self.results)
        self._squares = QSpinBox()
        self._squares.setRange(2, 64)
        self._squares.setValue(self.results.squares)
        self._squares.setToolTip("Fields of the checkerboard along the longer side.")
        self._flicker = _toggle("Flicker", "Show the aligned frame and the other one in turn (Alt+F).")
        self._other = QComboBox()
        for text, name in _FLICKERS.items():
            self._other.addItem(text, name)
        self._other.setToolTip("What to flicker with.")
        self._table = _table()
        self._all_on = QPushButton("Switch all on")
        self._all_on.setToolTip("Undo what was switched off in this frame.")
        self._numbers, self._quality = QLabel(), QLabel()
        for label in (self._numbers, self._quality):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.editor = GaussianEditor(self.results)
        self._lay_out()
        self._play.toggled.connect(self._set_playing)
        self._first.clicked.connect(lambda: self.results.go_to(step=0))
        self._last.clicked.connect(lambda: self.results.go_to(step=self.session.registration.step_count))
        for view, toggle in self._toggles.items():
            toggle.toggled.connect(lambda on, view=view: self.results.show(view, on))
        self._squares.valueChanged.connect(self.results.set_squares)
        self._flicker.toggled.connect(self._set_flickering)
        self._other.currentIndexChanged.connect(lambda _index: self._set_flickering(self._flicker.isChecked()))
        self._table.itemSelectionChanged.connect(self._row_selected)
        self._table.itemChanged.connect(self._item_changed)
        self._all_on.clicked.connect(self._switch_all_on)

    def _lay_out(self) -> None:
        steps, flicker, views = QHBoxLayout(), QHBoxLayout(), QGridLayout()
        for button in (self._first, self._play, self._last):
            steps.addWidget(button)
        for place, toggle in enumerate(self._toggles.values()):
            views.addWidget(toggle, place // 3, place % 3)
        views.addWidget(self._squares, *divmod(len(self._toggles), 3))
        flicker.addWidget(self._flicker)
        flicker.addWidget(QLabel("with"))
        flicker.addWidget(self._other, 1)
        whole = QVBoxLayout()
        whole.addWidget(self._title)
        whole.addLayout(steps)
        whole.addWidget(self._planes)
        whole.addLayout(views)
        whole.addLayout(flicker)
        whole.addWidget(self._table, 1)
        whole.addWidget(self._numbers)
        whole.addWidget(self._all_on)
        whole.addWidget(self.editor)
        whole.addWidget(self._quality)
        self.fill(whole)

    def _bind_keys(self, viewer: Any) -> None:
        actions = (lambda: self._move(1), lambda: self._move(-1), self._play.toggle, self._flicker.toggle, self._switch_selected)
        for key, action in zip(_KEYS, actions, strict=True):
            viewer.bind_key(key, lambda _viewer, action=action: action(), overwrite=True)

    # Showing

    @property
    def _key(self) -> FrameKey | None:
        return self.results.key

    @property
    def _lengths(self) -> Lengths:
        """How lengths are shown: as of the registered series."""
        return Lengths.of(self.session.series)

    def _update(self) -> None:
        key = self._key
        registration = self.session.registration
        ready = key is not None and bool(registration.series)
        self._planes.update_names()
        for control in (self._play, self._first, self._last, self._flicker, *self._toggles.values()):
            control.setEnabled(ready)
        if key is None:
            self._title.setText("Align a series, or open a result, in the Align widget first.")
        else:
            where = f"slice {key.slice_index}, " if self.session.several_slices else ""
            self._title.setText(f"{where}frame {key.frame}, step {self.results.step} of {registration.step_count}")
        self._fill(key)
        self._show_selected(self.session.selection)
        self._show_quality(key)

    def _frame_changed(self, key: FrameKey) -> None:
        if key == self._key:
            self._filled = None
            self._update()

    def _fill(self, key: FrameKey | None) -> None:
        """Rows of the frame's sequence, made anew only if it is another one."""
        sequence = None if key is None else self.session.sequence(key)
        filled = (key, id(sequence))
        if filled == self._filled:
            return
        self._filled = filled
        self._filling = True
        shown = columns(3 if self.session.registration.of_volumes else 2)
        _set_headings(self._table, shown)
        self._table.setRowCount(0 if sequence is None else len(sequence))
        if sequence is not None and key is not None:
            on = self.session.enabled(key)
            colours = step_colours(self.results.colormap, len(sequence))
            for row, numbers in enumerate(rows(sequence, self._lengths)):
                box = QTableWidgetItem()
                box.setFlags(Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
                box.setCheckState(Qt.CheckState.Checked if on[row] else Qt.CheckState.Unchecked)
                self._table.setItem(row, 0, box)
                name = _cell(str(row + 1))
                # A swatch: text in the ends of a colormap is hard to read on a dark or a light table.
                name.setData(Qt.ItemDataRole.DecorationRole, QColor.fromRgbF(*colours[row, :3].tolist()))
                self._table.setItem(row, _STEP, name)
                for place, (column, number) in enumerate(zip(shown, numbers, strict=True), start=len(_FIRST)):
                    self._table.setItem(row, place, _cell(column.text(number)))
        self._filling = False
        self._all_on.setEnabled(key is not None and key in self.session.registration.switched_off)

    def _show_selected(self, step: int | None) -> None:
        key = self._key
        self.editor.show_state()
        sequence = None if key is None else self.session.sequence(key)
        self._filling = True
        self._table.clearSelection()
        if sequence is None or key is None or step is None or step > len(sequence):
            self._numbers.setText("Click an ellipse or a row to read all its numbers.")
        else:
            self._table.selectRow(step - 1)
            on = bool(self.session.enabled(key)[step - 1])
            self._numbers.setText(described(sequence, step, self._lengths, on=on))
        self._filling = False

    def _show_quality(self, key: FrameKey | None) -> None:
        if key is None or key not in self.session.results:
            self._quality.setText("" if key is None else "This frame is not aligned yet.")
            return
        registration = self.session.registration
        # Of volumes that takes seconds, and each click would wait for it.
        unmeasured = registration.of_volumes and key in registration.switched_off
        result = registration.results[key] if unmeasured else registration.result(key)
        lines = [_UNMEASURED if unmeasured else described_quality(result, self._lengths)]
        try:
            table = self.session.errors(key.slice_index, key.frame)
        except ReadError:
            table = None
        if table is not None:
            before, after = table.before(), table.after()
            number = self._lengths.number
            lines.append(
                f"TRE of {after.count} landmarks {number(before.mean_mm)} → "
                f"<b>{self._lengths.text(after.mean_mm)}</b> (max {number(after.max_mm)})"
            )
        if result.uncertainty is not None and not unmeasured:
            lines.append(described_uncertainty(result.uncertainty, self._lengths))
        if result.message:
            lines.append(result.message)
        self._quality.setText("<br>".join(lines))

    def _update_views(self) -> None:
        for view, toggle in self._toggles.items():
            toggle.blockSignals(True)
            toggle.setChecked(self.results.shown(view))
            toggle.blockSignals(False)

    # Doing

    def _row_selected(self) -> None:
        chosen = self._table.selectionModel().selectedRows()
        if self._filling or not chosen:
            return
        step, key, place = chosen[0].row() + 1, self._key, self.results.place
        self.session.select(step)
        sequence = None if key is None else self.session.sequence(key)
        if place is not None and place.ndim == 3 and sequence is not None:
            show_centre(self.results.viewer, place, sequence, step)

    def _item_changed(self, item: QTableWidgetItem) -> None:
        key = self._key
        if not self._filling and item.column() == 0 and key is not None:
            self.session.switch(key, item.row() + 1, item.checkState() == Qt.CheckState.Checked)

    def _switch_selected(self) -> None:
        key, step = self._key, self.session.selection
        if key is not None and step is not None and step <= len(self.session.enabled(key)):
            self.session.switch(key, step, not self.session.enabled(key)[step - 1])

    def _switch_all_on(self) -> None:
        key = self._key
        if key is not None:
            self.session.switch_all_on(key)

    def _move(self, by: int) -> None:
        self.results.go_to(step=min(max(self.results.step + by, 0), self.session.registration.step_count))

    def _set_playing(self, on: bool) -> None:
        self._play.setText("Stop" if on else "Play")
        if on:
            self._movie.start(_MOVIE_MS)
        else:
            self._movie.stop()

    def _next_step(self) -> None:
        count = self.session.registration.step_count
        self.results.go_to(step=(self.results.step + 1) % (count + 1))

    def _set_flickering(self, on: bool) -> None:
        self._flicker_timer.stop()
        _still(self._flipped)
        reference = self._other.currentData() == "reference"
        self.results.show(View.REFERENCE, on and reference)
        layer = self.results.layer(View.REFERENCE if reference else View.ALIGNED)
        if on and layer is not None:
            self._flipped.append((layer, layer.visible))
            self._flicker_timer.start(_FLICKER_MS)

    def _flip(self) -> None:
        layer = self._flipped[0][0] if self._flipped else None
        if layer is None or layer not in self.results.viewer.layers:
            self._flicker.setChecked(False)
            return
        layer.visible = not layer.visible


def _still(flipped: list[tuple[Any, bool]]) -> None:
    """Leave the flickering layer as it was."""
    while flipped:
        layer, visible = flipped.pop()
        layer.visible = visible


def _toggle(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setCheckable(True)
    return button


def _cell(text: str) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
    item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
    return item


def _set_headings(table: QTableWidget, shown: tuple[Column, ...]) -> None:
    """Headings of the columns, made anew only if they are others."""
    words = [*_FIRST, *((column.heading, column.tip) for column in shown)]
    there = [table.horizontalHeaderItem(place) for place in range(table.columnCount())]
    if [item.text() for item in there if item is not None] == [heading for heading, _tip in words]:
        return
    table.setColumnCount(len(words))
    table.setHorizontalHeaderLabels([heading for heading, _tip in words])
    for place, (_heading, tip) in enumerate(words):
        header = table.horizontalHeaderItem(place)
        assert header is not None
        header.setToolTip(tip)


def _table() -> QTableWidget:
    table = QTableWidget(0, 0)
    _set_headings(table, columns(2))
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(20)
    header = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    # What a column has before there is anything in it; the last one would keep the usual 100 pixels.
    header.setDefaultSectionSize(24)
    header.setMinimumSectionSize(24)
    header.setStretchLastSection(True)
    table.setMinimumSize(_TABLE_PX, 180)
    table.setToolTip(
        "The sequence of this frame, lengths in the unit of its image, rounded; click a row to see its ellipse and all digits,\n"
        "untick it to leave it out."
    )
    return table
