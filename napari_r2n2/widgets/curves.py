"""The Curves widget: intensity, area and strain of drawn regions over time, as plots and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator
from napari.layers import Labels, Shapes
from qtpy.QtWidgets import QFileDialog, QFormLayout, QMessageBox, QVBoxLayout

from napari_r2n2.layers.carry.regions import regions_on_reference
from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.models.label_curves import Curves, read_curves
from napari_r2n2.widgets.choosers import button, combo
from napari_r2n2.widgets.connections import connect_while_alive
from napari_r2n2.widgets.layer_choice import LayerChoice
from napari_r2n2.widgets.plots import AFTER, BEFORE, Plot
from napari_r2n2.widgets.task_dock import TaskDock, words
from r2n2.errors import ArgumentError, R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["CurvesWidget"]

_SHOWN, _REFERENCE = "shown", "reference"
_PLOT_PX = 380
_STRAINS = (AFTER, "#56b48c", "#cc79a7")


class CurvesWidget(TaskDock):
    """Reads what cine, perfusion and calcium series are read by."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.curves: Curves | None = None
        self.box = combo("Labels, or shapes: every label but 0, and every closed shape, is a region.")
        self.source = combo("In which frame they are drawn.")
        for text, value in (("the reference", _REFERENCE), ("the frame on display", _SHOWN)):
            self.source.addItem(text, value)
        self.read = button("Read curves", "")
        self.read.setStatusTip("Mean intensity before and after alignment, area and strain of every region.")
        self.label = combo("Which region is plotted; the files hold all.")
        self.save = button("Save ...", "Write curves.csv, curves.png and curves.svg, as r2n2 curves does.")
        self.plot = _CurvesPlot()
        rows, shown = QFormLayout(), QFormLayout()
        for form in (rows, shown):
            form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Regions", self.box)
        rows.addRow("Drawn in", self.source)
        shown.addRow("Region", self.label)
        self.choice = LayerChoice(napari_viewer, self, self.box, _may_hold_regions)
        self.choice.changed.connect(self.follow)
        self.choice.updated.connect(self.follow)
        self.read.clicked.connect(self._start)
        self.label.currentIndexChanged.connect(lambda _index: self._draw())
        self.save.clicked.connect(self._ask_save)
        whole = QVBoxLayout()
        whole.addWidget(words("How bright a region is over time, how large, and how it deforms against the reference."))
        whole.addLayout(rows)
        self.lay_out(whole, self.read, shown, self.plot, self.save)
        connect_while_alive(self, [(napari_viewer.events.theme, self._show_theme)])
        self.choice.update()
        self._show_theme()
        self.update_state()

    @property
    def problem(self) -> str:
        """Why nothing can be read now."""
        if super().problem:
            return super().problem
        return (
            ""
            if self.choice.layer is not None
            else "Draw regions first: add a Labels or a Shapes layer, and draw on the reference."
        )

    def update_state(self) -> None:
        """Show what can be done now."""
        super().update_state()
        self.save.setEnabled(self.curves is not None and self.job is None)

    def _start(self) -> None:
        key, place = self.results.key, self.results.place
        assert place is not None
        registration = self.session.registration
        try:
            if key is None:
                raise ArgumentError("curves: no frame of the series is on display; move the sliders onto it")
            frame = key.frame if self.source.currentData() == _SHOWN else None
            labels = regions_on_reference(self.choice.layer, registration, place, frame, key.slice_index)
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        self.work(read_curves(registration, labels, key.slice_index), "Reading curves ...", self._show)

    def _show(self, curves: Curves) -> None:
        self.curves = curves
        self.label.blockSignals(True)
        self.label.clear()
        for curve in curves.curves:
            self.label.addItem(f"label {curve.label}", curve.label)
        self.label.blockSignals(False)
        self._draw()
        missing = sorted(frame for frame, status in curves.status.items() if status in ("doubtful", "failed", "folded", "worse"))
        doubt = f" Do not read frames {', '.join(map(str, missing[:8]))}: they are not aligned well." if missing else ""
        self.say(f"{len(curves.curves)} regions, {len(curves.status)} frames.{doubt}")
        self.update_state()

    def _draw(self) -> None:
        if self.curves is not None and self.label.count():
            self.plot.show_curve(self.curves, max(self.label.currentIndex(), 0))
            self._show_theme()

    def _show_theme(self, _event: object = None) -> None:
        self.plot.show_theme(self.viewer.theme)

    def _ask_save(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder for the curves")
        if not chosen:
            return
        folder = Path(chosen)
        if (folder / "curves.csv").exists():
            question = f"{folder} holds curves already. Replace them?"
            if QMessageBox.question(self, "R2N2", question) != QMessageBox.StandardButton.Yes:
                return
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Write the curves that were read."""
        if self.curves is None:
            return
        from r2n2.report.curves import write_curves

        try:
            write_curves(folder, self.curves.curves, self.curves.times_s, self.curves.status)
        except R2N2Error as error:
            self.say(str(error), problem=True)
            return
        self.say(f"Written to {folder}.")


class _CurvesPlot(Plot):
    """Three plots one below the other, over the same time."""

    def __init__(self) -> None:
        super().__init__(least_width=300, height=_PLOT_PX)
        # A column of labels that wrap would take some of it.
        self.setMinimumHeight(_PLOT_PX)
        self.figure.clear()
        self.parts = self.figure.subplots(3, 1, sharex=True)
        self.axes = self.parts[0]
        for axes in self.parts:
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.set_major_locator(MaxNLocator(4))

    def show_curve(self, found: Curves, place: int) -> None:
        """Plot one region."""
        curve = found.curves[place]
        x: Any = curve.frames if found.times_s is None else [found.times_s[frame] for frame in curve.frames]
        intensity, size, strain = self.parts
        for axes in self.parts:
            axes.clear()
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.margins(x=0.01)
        for legend in list(self.figure.legends):
            legend.remove()
        intensity.plot(x, curve.before, color=BEFORE, linewidth=1.0, label="before")
        intensity.plot(x, curve.after, color=AFTER, linewidth=1.3, label="after")
        flat = curve.strain.shape[-1] == 2
        size.plot(x, curve.size, color=AFTER, linewidth=1.3)
        for k, colour in zip(range(curve.strain.shape[-1]), _STRAINS, strict=False):
            strain.plot(x, 100 * curve.principal[:, k], color=colour, linewidth=1.1)
        intensity.set_ylabel("intensity")
        size.set_ylabel("area (mm²)" if flat else "volume (mm³)")
        strain.set_ylabel("strain (%)")
        strain.set_xlabel("frame" if found.times_s is None else "time (s)")
        self.figure.legend(*intensity.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
        self.setToolTip("Strain: principal Green-Lagrange strains of the region against the reference, the largest first.")


def _may_hold_regions(layer: Any) -> bool:
    return isinstance(layer, Labels | Shapes) and METADATA_KEY not in layer.metadata
