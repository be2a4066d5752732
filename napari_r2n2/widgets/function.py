"""The Function widget: ventilation and perfusion of the lung from an aligned series, as layers, figures and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QFormLayout, QHBoxLayout, QMessageBox, QTableWidget, QTableWidgetItem, QVBoxLayout

from napari_r2n2.layers.function_maps import map_layers, mask_layer
from napari_r2n2.layers.masks import layer_to_masks
from napari_r2n2.layers.place import METADATA_KEY, Place
from napari_r2n2.layers.to_series import axes_of, layer_to_series
from napari_r2n2.models.lung_function import (
    LungRun,
    aligned_parts,
    propose_masks,
    read_functions,
    series_parts,
    write_functions,
)
from napari_r2n2.widgets.choosers import button, combo
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.function_form import FunctionForm
from napari_r2n2.widgets.function_plot import SpectrumPlot
from napari_r2n2.widgets.layer_choice import LayerChoice
from napari_r2n2.widgets.task_dock import TaskDock, words
from r2n2.errors import ArgumentError, R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from r2n2.results.aligned_series import AlignedSeries

__all__ = ["FunctionWidget"]

_REGISTERED = "the registration on display"
_COLUMNS = ("lung", "FV", "Q", "VDP", "QDP", "VQM")
_TIPS = (
    "Which lung, after the number of its slice position where there are several",
    "Fractional ventilation, median",
    "Normalised perfusion, median",
    "Ventilation defects, % of the lung",
    "Perfusion defects, % of the lung",
    "Neither is a defect, % of the lung",
)
_PROPOSED_NAME = "lung mask (proposed, look at it)"


class FunctionWidget(TaskDock):
    """The mask is always a layer that is seen: drawn, read from a file, or proposed."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.run: LungRun | None = None
        self._shown: list[Any] = []
        self._proposed: Any = None
        self.source = combo("What is aligned: what the Align widget gave, or a layer that is aligned already.")
        self.mask = combo("Where lung is: labels or shapes, drawn on any frame. Without one, a proposal is made and shown.")
        self.propose = button("Propose", "A mask from the mean image and from what breathes; look at it and mend it.")
        self.file = button("From file ...", "Read a mask, of any format that is read, drawn on the reference frame.")
        self.form = FunctionForm()
        self.start = button("Read lung function", "")
        self.start.setStatusTip("Rates, maps and figures; two passes over the frames.")
        self.plot = SpectrumPlot()
        self.table = _table()
        self.export = button("Export ...", "Write maps, figures and report, as r2n2 lung does.")
        rows, masks = QFormLayout(), QHBoxLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        masks.addWidget(self.propose)
        masks.addWidget(self.file)
        rows.addRow("Aligned", self.source)
        rows.addRow("Mask", self.mask)
        rows.addRow("", masks)
        self.aligned_layer = LayerChoice(napari_viewer, self, self.source, _may_be_aligned, none=_REGISTERED)
        self.mask_layer = LayerChoice(napari_viewer, self, self.mask, _may_be_a_mask, none="none yet: propose one")
        for one in (self.aligned_layer, self.mask_layer):
            one.changed.connect(self.follow)
            one.updated.connect(self.follow)
        self.propose.clicked.connect(self._propose)
        self.file.clicked.connect(self._ask_mask)
        self.start.clicked.connect(self._start)
        self.export.clicked.connect(self._ask_export)
        whole = QVBoxLayout()
        whole.addWidget(words("Ventilation and perfusion: how the aligned signal follows breathing and heart beat."))
        whole.addLayout(rows)
        whole.addWidget(self.form)
        self.lay_out(whole, self.start, self.table, self.plot, self.export)
        connect_while_alive(self, [(napari_viewer.events.theme, self._show_theme)])
        self.aligned_layer.update()
        self.mask_layer.update()
        self._show_theme()
        self.update_state()

    # What there is

    @property
    def problem(self) -> str:
        """Why nothing can be read now."""
        if self.aligned_layer.layer is not None:
            return ""
        missing = super().problem
        return f"{missing} Or choose an aligned layer." if missing else ""

    def update_state(self) -> None:
        """Show what can be done now."""
        super().update_state()
        ready = self.job is None and not self.problem
        self.propose.setEnabled(ready)
        self.file.setEnabled(ready)
        self.export.setEnabled(self.job is None and self.run is not None)

    def place(self) -> Place:
        """Where the layer of the aligned series lies."""
        layer = self.aligned_layer.layer
        if layer is not None:
            return Place.of(layer, axes_of(layer))
        assert self.results.place is not None
        return self.results.place

    def parts(self) -> tuple[AlignedSeries, ...]:
        """The aligned slice positions.

        Raises
        ------
        ArgumentError, ReadError
            If the layer is no series, or holds no times.
        """
        layer, time = self.aligned_layer.layer, self.form.frame_time_s
        if layer is None:
            return aligned_parts(self.session.registration, time)
        return series_parts(layer_to_series(layer, axes_of(layer)), time)

    def _masks(self, parts: tuple[AlignedSeries, ...]) -> list[NDArray[np.bool_]]:
        """What is drawn, one a slice position."""
        series = tuple(part.series for part in parts)
        drawn = layer_to_masks(self.mask_layer.layer, self.place(), series, range(len(series)))
        found = [masks.fixed for masks in drawn]
        return [mask.inside() for mask in found if mask is not None]

    # The mask

    def _propose(self) -> None:
        try:
            parts = self.parts()
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        self.work(propose_masks(parts), "Looking for the lung ...", self._show_proposed)

    def _show_proposed(self, masks: tuple[NDArray[np.bool_], ...]) -> None:
        data, options = mask_layer(masks, self.place(), _PROPOSED_NAME)
        self._proposed = self.viewer.add_labels(data, **options)
        self.mask_layer.choose(self._proposed)
        self.say("A proposal: look at it, mend it with brush and eraser, then read lung function.")

    def _ask_mask(self) -> None:
        name, _kind = QFileDialog.getOpenFileName(self, "Mask, drawn on the reference frame")
        if name:
            self.read_mask(Path(name))

    def read_mask(self, path: Path) -> None:
        """Show the mask that a file holds, and choose it."""
        from r2n2.results.mask_files import mask_of_slice, read_mask

        try:
            parts = self.parts()
            masks = []
            for index, part in enumerate(parts):
                own = mask_of_slice(path, index, len(parts))
                if own is None:
                    raise ArgumentError(f"mask {path}: holds none for {part.name}; add it, or draw one")
                masks.append(read_mask(part.series, own).inside())
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        data, options = mask_layer(masks, self.place(), f"mask {path.name}")
        self.mask_layer.choose(self.viewer.add_labels(data, **options))
        self.say(f"The mask is {path.name}.")

    # Reading

    def _start(self) -> None:
        try:
            config, parts = self.form.config(), self.parts()
            if self.mask_layer.layer is None:
                self.work(propose_masks(parts), "Looking for the lung ...", self._read_proposed)
                return
            self._read(parts, self._masks(parts), config)
        except R2N2Error as error:
            self.say(str(error), problem=True)

    def _start_proposed(self) -> None:
        if self.mask_layer.layer is self._proposed:
            self._start()

    def _read_proposed(self, masks: tuple[NDArray[np.bool_], ...]) -> None:
        """Nobody drew a mask: the proposal is shown first, then used."""
        self._show_proposed(masks)
        job = self.job
        assert job is not None
        # Once the thread of the proposal is free.
        job.ended.connect(self._start_proposed)

    def _read(self, parts: tuple[AlignedSeries, ...], masks: list[NDArray[np.bool_]], config: Any) -> None:
        from r2n2.results.lung_run import PROPOSED

        layer = self.mask_layer.layer
        text = PROPOSED if layer is self._proposed else f"The mask is the layer {layer.name!r}, drawn in the window."
        self.work(read_functions(parts, masks, config, text), "Reading rhythms ...", self._show)

    def _show(self, run: LungRun) -> None:
        self.run = run
        there = {layer.name: layer for layer in self._shown if layer in self.viewer.layers}
        self._shown = [self._shown_map(there, *made) for made in map_layers(run, self.place())]
        self._fill(run)
        self.plot.show_function(run.functions[0], run.parts[0].times_s)
        self._show_theme()
        self.say(_summary(run))
        self.update_state()

    def _shown_map(self, there: dict[str, Any], data: NDArray[Any], options: dict[str, Any], kind: str) -> Any:
        """The layer of a map; one that is there already takes the new numbers and stays as a person set it."""
        layer = there.get(options["name"])
        if layer is not None and layer.data.shape == data.shape:
            layer.data = data
            if kind == "image":
                layer.contrast_limits = options["contrast_limits"]
            return layer
        made = getattr(self.viewer, f"add_{kind}")(data, **options)
        if kind == "image":
            made.colorbar.visible = True
        return made

    def _fill(self, run: LungRun) -> None:
        rows = [(name, region) for name, function in run.named.items() for region in function.regions]
        self.table.setRowCount(len(rows))
        several = len(run.parts) > 1
        for row, (name, region) in enumerate(rows):
            shares = region.defects
            lung = f"{name.removeprefix('slice_')} {region.name}" if several else region.name
            cells = [lung, f"{region.ventilation:.3f}", _number(region.perfusion, 3)]
            cells += [_number(value, 0) for value in (shares.vdp, shares.qdp, shares.vqm)]
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
                self.table.setItem(row, column, item)

    def _show_theme(self, _event: object = None) -> None:
        self.plot.show_theme(self.viewer.theme)

    # Files

    def _ask_export(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder for maps, figures and report")
        if not chosen:
            return
        folder = Path(chosen)
        if (folder / "lung.csv").exists():
            question = f"{folder} holds an analysis already. Replace it?"
            if QMessageBox.question(self, "R2N2", question) != QMessageBox.StandardButton.Yes:
                return
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Write what was read, in the background."""
        if self.run is not None:
            work = write_functions(self.run, folder)
            self.work(work, f"Writing to {folder} ...", lambda written: self.say(f"Written to {written}; report.html shows it."))


def _summary(run: LungRun) -> str:
    """Rates, and what a person should know."""
    lines = []
    for name, function in run.named.items():
        heart = "no heart beat" if function.heart is None else f"heart {60 * function.heart.frequency_hz:.0f}/min"
        where = f"{name}: " if len(run.parts) > 1 else ""
        breaths = f"breathing {60 * function.breathing.frequency_hz:.1f}/min ({function.breathing.cycles:.0f} breaths)"
        lines.append("; ".join([f"{where}{breaths}, {heart}", *function.notes]))
    return "\n".join([*lines, run.mask_text])


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"


def _table() -> QTableWidget:
    table = QTableWidget(0, len(_COLUMNS))
    table.setHorizontalHeaderLabels(_COLUMNS)
    for column, tip in enumerate(_TIPS):
        header = table.horizontalHeaderItem(column)
        assert header is not None
        header.setToolTip(tip)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(20)
    header = table.horizontalHeader()
    header.setSectionResizeMode(header.ResizeMode.ResizeToContents)
    header.setMinimumSectionSize(24)
    header.setStretchLastSection(True)
    table.setMinimumHeight(100)
    return table


def _may_be_aligned(layer: Any) -> bool:
    ours = "registration" in layer.metadata.get(METADATA_KEY, {})
    return isinstance(layer, Image) and not layer.rgb and layer.ndim >= 3 and not ours


def _may_be_a_mask(layer: Any) -> bool:
    return isinstance(layer, Labels | Shapes) and METADATA_KEY not in layer.metadata
