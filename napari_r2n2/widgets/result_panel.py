"""The part of the Align widget that writes the result of the chosen series, opens earlier ones and leads to the other widgets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtWidgets import QApplication, QFileDialog, QGridLayout, QLabel, QMessageBox, QVBoxLayout, QWidget

from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.layers.masks import masks_to_layer
from napari_r2n2.layers.place import METADATA_KEY, Place
from napari_r2n2.layers.plain import aligned_layer
from napari_r2n2.layers.result_layers import View, results_of
from napari_r2n2.layers.to_series import axes_of, layer_to_series
from napari_r2n2.models.command_line import command_problem, register_command, saved_masks
from napari_r2n2.models.result_files import FileProgress, export_results, holds_result, open_results, result_folder
from napari_r2n2.preferences import PLUGIN_NAME
from napari_r2n2.widgets.choosers import button
from r2n2.errors import ArgumentError, R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_r2n2.models.registration import Registration
    from napari_r2n2.widgets.align_form import AlignForm
    from r2n2.series import ImageSeries

__all__ = ["ResultPanel"]


class ResultPanel(QWidget):
    """Acts on the registration of the chosen series, which it names, and on no other.

    Parameters
    ----------
    work
        Runs a generator in the background: generator, text, progress, returned, cancelled.
    say
        Tells what came of it.
    """

    def __init__(self, viewer: Viewer, form: AlignForm, work: Callable[..., None], say: Callable[..., None]) -> None:
        super().__init__()
        self._viewer, self._form, self._work, self._say = viewer, form, work, say
        self._results = results_of(viewer)
        self._step_through = button("Sequence ...", "Open the Sequence widget: ellipses, numbers, comparisons.")
        self._measure = button("Landmarks ...", "Open the Landmarks widget: the target registration error.")
        self._export = button("Export ...", "")
        self._open = button("Open result ...", "Show a folder that Export or r2n2 register wrote.")
        self._plain = button("As plain layer", "Add the aligned series as a layer (time, y, x), which File > Save writes.")
        self._command = button("Copy command", "Copy the command line that does the same without a window.")
        self._named = QLabel()
        self._named.setWordWrap(True)
        self._named.setToolTip("What Export writes.")
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for place, one in enumerate((self._step_through, self._measure, self._export, self._open, self._plain, self._command)):
            grid.addWidget(one, place // 2, place % 2)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(grid)
        whole.addWidget(self._named)
        self._step_through.clicked.connect(lambda: self._open_beside("Sequence"))
        self._measure.clicked.connect(lambda: self._open_beside("Landmarks"))
        self._export.clicked.connect(self._ask_export)
        self._open.clicked.connect(self._ask_open)
        self._plain.clicked.connect(self._add_plain)
        self._command.clicked.connect(self._copy_command)

    # What there is

    @property
    def registration(self) -> Registration | None:
        """Of the chosen series; where no series is left in the window, the one whose aligned layer is."""
        layer = self._form.chooser.layer
        if layer is None:
            return self._results.session.registration if self._results.shown(View.ALIGNED) else None
        return self._results.run_of(layer)

    @property
    def name(self) -> str:
        """Of what is written: the chosen layer's, as it is called now."""
        layer, run = self._form.chooser.layer, self.registration
        return str(layer.name) if layer is not None else run.name if run is not None else ""

    def summary(self) -> str:
        """What is known of the chosen series, in one line; empty before it was aligned."""
        run = self.registration
        if run is None or not run.references:
            return ""
        done, total = len(run.results), sum(len(item) for item in run.series)
        edited = sum(len(run.edited(index)) for index in range(len(run.series)))
        by_hand = f", {edited} edited by hand" if edited else ""
        return f"{self.name}: {done} of {total} frames aligned, {self.reference_text()}{by_hand}."

    def reference_text(self) -> str:
        """Reference frame, or frames where slice positions differ."""
        run = self.registration or self._results.session.registration
        frames = [run.references[index] for index in sorted(run.references)]
        if len(set(frames)) == 1:
            return f"reference frame {frames[0]}" + (" in all slices" if len(frames) > 1 else "")
        return f"reference frames {', '.join(map(str, frames))}"

    def update_state(self, *, idle: bool) -> None:
        """Show what can be done now; a button that cannot be pressed says why."""
        run = self.registration
        ready = run is not None and bool(run.references)
        self._open.setEnabled(idle)
        self._step_through.setEnabled(bool(self._results.session.series))
        for one, tip in (
            (self._export, "Write the folder that r2n2 register writes: series, fields, tables, report."),
            (self._plain, "Add the aligned series as a layer (time, y, x), which File > Save writes."),
        ):
            one.setEnabled(idle and ready)
            one.setToolTip(tip if ready else f"{self.name or 'This series'} is not aligned yet: press Run first.")
        self._named.setText(f"Export writes {self.summary()}" if idle and ready else "")
        self._named.setVisible(bool(self._named.text()))
        problem = self._form.problem or self._command_problem()
        self._command.setEnabled(not problem)
        self._command.setToolTip(problem or "Copy the command line that does the same without a window.")

    def _command_problem(self) -> str:
        try:
            return command_problem(self._form.chooser.series())
        except R2N2Error as error:
            return str(error)

    # Doing

    def _open_beside(self, name: str) -> None:
        """Open another of our widgets; it becomes a tab of this one."""
        dock, _widget = self._viewer.window.add_plugin_dock_widget(PLUGIN_NAME, name, tabify=True)
        dock.show()
        dock.raise_()

    def _add_plain(self) -> None:
        run, layer = self.registration, self._form.chooser.layer
        if run is None:
            return
        place = self._results.place if layer is None else Place.of(layer, self._form.chooser.axes)
        assert place is not None
        data, options = aligned_layer(run, place)
        added = self._viewer.add_image(data, **options)
        self._say(f"Added {added.name!r}. File > Save Selected Layers writes it as (time, y, x).")

    def _ask_export(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, f"Folder for the result of {self.name}")
        if not chosen:
            return
        folder, overwrite = result_folder(Path(chosen), self.name), False
        if holds_result(folder):
            question = f"{folder} holds a result already. Replace it by that of {self.name}?"
            overwrite = QMessageBox.question(self, "R2N2", question) == QMessageBox.StandardButton.Yes
            if not overwrite:
                return
        self.export(folder, overwrite=overwrite)

    def export(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the result of the chosen series in the background."""
        run, session = self.registration, self._results.session
        if run is None:
            self._say("Nothing to export: this series is not aligned yet; press Run first.", problem=True)
            return
        marks = {index: found for index in range(len(run.series)) if (found := session.landmarks(index)) is not None}
        work = export_results(run, folder, landmarks=marks if run is session.registration else {}, overwrite=overwrite)

        def written(_nothing: object) -> None:
            self._say(f"Written to {folder}: {self.summary()}")
            show_info(f"R2N2: {self.name} is written to {folder}")

        def cancelled() -> None:
            self._say(f"Cancelled: nothing was written to {folder}.")

        self._work(work, f"Writing {self.name} to {folder} ...", None, written, cancelled)

    def _ask_open(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder that Export or r2n2 register wrote")
        if name:
            self.open(Path(name))

    def open(self, folder: Path, source: Path | None = None) -> None:
        """Show a result folder, read in the background."""
        work = _read(folder, source, self._opened())
        self._work(work, f"Reading {folder} ...", None, self._show, lambda: self._say("Cancelled: no result was opened."))

    def _opened(self) -> list[ImageSeries]:
        """The series that are open, any of which may be the one that was registered."""
        found: list[ImageSeries] = []
        for layer in self._form.chooser.candidates():
            try:
                found += layer_to_series(layer, axes_of(layer))
            except ArgumentError:
                continue
        return found

    def _show(self, registration: Registration) -> None:
        made = series_to_layers(registration.series)
        if len(made) > 1:
            self._say("The slice positions of this result differ in size; open one of its sub-folders.", problem=True)
            return
        data, options, _kind = made[0]
        layer = self._results.viewer.add_image(data, **options)
        self._results.session.show(registration)
        self._results.begin(Place.of(layer, axes_of(layer)), layer)
        self._results.show(View.GAUSSIANS)
        self._form.chooser.choose(layer)
        if registration.config is not None:
            self._form.show_settings(registration.config)
        shown = masks_to_layer(registration.masks, Place.of(layer, axes_of(layer)))
        self._form.mask.choose(None if shown is None else self._results.viewer.add_labels(shown[0], **shown[1]))
        self._say(f"Opened: {len(registration.results)} frames. {self.summary()}")

    def _copy_command(self) -> None:
        layer = self._form.chooser.layer
        try:
            series, config, choice = self._form.chooser.series(), self._form.config(), self._form.choice()
            masks = self._form.masks()
            remembered = layer.metadata.get(METADATA_KEY, {}).get("series", [])
            spacing = tuple(remembered[0]["spacing"]) if remembered else None
            run = self.registration
            if run is not None and run.config is not None and config.reference == "auto" and choice.one_reference:
                # One phase was found for all slices, which the command would look for in each.
                config = config.model_copy(update={"reference": run.config.reference})
            mask = saved_masks(series, masks) if masks else None
            command = register_command(series, config, choice, spacing_in_file=spacing, mask=mask)
        except R2N2Error as error:
            self._say(str(error), problem=True)
            return
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(command)
        written = "" if mask is None else f"\nThe mask is written to {mask}."
        self._say(f"Copied:\n{command}{written}")


def _read(folder: Path, source: Path | None, opened: list[ImageSeries]) -> Generator[FileProgress, None, Registration]:
    yield FileProgress(0.0, f"reading {folder.name}")
    return open_results(folder, source, opened)
