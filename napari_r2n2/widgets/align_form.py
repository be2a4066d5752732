"""The form of the Align widget: which series, which reference, how; it says at once what cannot work, and why."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon, QStandardItemModel
from qtpy.QtWidgets import QCheckBox, QFormLayout, QSpinBox, QVBoxLayout, QWidget
from superqt import QCollapsible, QLabeledSlider

from napari_r2n2.layers.masks import layer_to_masks
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.retake import can_be_either, is_volumes
from napari_r2n2.models.alignment import Choice, bytes_at_once
from napari_r2n2.preferences import read_preferences
from napari_r2n2.widgets.choosers import SeriesChooser, SliceChooser, WeightsChooser, combo, device_combo, row
from napari_r2n2.widgets.comparison import choose, measure_combo, target_combo
from napari_r2n2.widgets.mask_chooser import MaskChooser
from r2n2.config import SMALLEST_SIDE_PX, RegistrationConfig
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from r2n2.mask import Masks

__all__ = ["AlignForm"]

_METHODS = {"Network (R2N2)": "r2n2", "Gaussians, fitted": "fit", "B-spline": "bspline"}
_INITIALS = {"automatic": "auto", "not moved": "none", "translation": "translation", "rigid": "rigid", "affine": "affine"}
_SMALLEST_SERIES = 2
_OPEN, _CLOSED = "▼ Advanced", "▶ Advanced"
_STEPS_TIPS = {
    volumes: f"So many Gaussians of {numbers} numbers describe a deformation; automatic: as many as each frame needs."
    for volumes, numbers in ((False, "seven"), (True, "twelve"))
}


class AlignForm(QWidget):
    """Choices that make a registration; ``problem`` says in plain words why Run would fail, or is empty."""

    changed = Signal()
    """Another series or setting was chosen."""
    reference_shown = Signal(int)
    """The reference slider was moved: this frame should be looked at."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.problem = ""
        self.not_numbers = 0.0
        self._volumes = False
        self._build()
        self.chooser.update()

    # What is chosen

    def config(self) -> RegistrationConfig:
        """The settings.

        Raises
        ------
        ArgumentError
            If they do not fit together.
        """
        steps, usual = self._steps.value() or "auto", _usual_steps(self._volumes)
        return RegistrationConfig.parse(
            {
                "method": self._method.currentData(),
                "refine": self._refine.isChecked(),
                "reference": "auto" if self._auto.isChecked() else self._reference.value(),
                "similarity": self._measure.currentData(),
                "target": self._target.currentData(),
                "initial": self._initial.currentData(),
                "weights": self.weights.weights,
                # The usual number is left unsaid, as in the command, which then takes that of slices or of volumes.
                **({} if steps == usual else {"steps": steps}),
                "device": self._device.currentText(),
                "batch_size": self._batch.value() or "auto",
                "warm_start": self._warm.isChecked() and not self._composed,
                "no_folding": self._unfolded.isChecked(),
            }
        )

    def show_settings(self, config: RegistrationConfig) -> None:
        """Choose what a result was made with; device and frames at once are this machine's own and stay."""
        config = config.of_grid(3 if self._volumes else 2)
        choose(self._method, config.method)
        self._refine.setChecked(config.refine)
        # The slider first: as long as the choice is automatic, nobody is taken to another frame.
        self._auto.setChecked(True)
        if isinstance(config.reference, int):
            self._reference.setValue(config.reference)
        self._auto.setChecked(config.reference == "auto")
        choose(self._measure, config.similarity)
        choose(self._target, config.target)
        choose(self._initial, config.initial)
        self.weights.choose(config.weights)
        self._steps.setValue(0 if config.steps == "auto" else config.steps)
        self._warm.setChecked(config.warm_start)
        self._unfolded.setChecked(config.no_folding)

    @property
    def remark(self) -> str:
        """What to know before running, although it will work; or ""."""
        if not self.not_numbers or self.problem:
            return ""
        share = f"{100 * self.not_numbers:.2g} %"
        return f"{share} of the pixels are not numbers (NaN or infinite): they take no part and are left so."

    @property
    def about(self) -> str:
        """How the slices of the series were read, and the memory that volumes need; or ""."""
        if self.problem or not can_be_either(self.chooser.layer):
            return ""
        from r2n2.io.volume_choice import told_reading

        series = self.chooser.series()
        told = told_reading(series[0].notes)
        said = [f"{told[:1].upper()}{told[1:]}."] if told else []
        if self._volumes:
            # A device that is not there is told of when it is asked for.
            with contextlib.suppress(R2N2Error):
                needed = bytes_at_once(self.config(), series[0].grid, len(series[0])) / 2**30
                size = " x ".join(map(str, series[0].grid.shape))
                said.append(f"Volumes of {size} voxels take about {needed:.1f} GiB of memory beside the images.")
        return " ".join(said)

    def choice(self) -> Choice:
        """Which slice positions are aligned, the one on the screen first.

        Raises
        ------
        ArgumentError
            If no series is chosen.
        """
        return Choice(self.slices.chosen(self.chooser.shown.slice_index), self.chooser.shown, self._one_reference.isChecked())

    def masks(self) -> tuple[Masks, ...]:
        """What of the reference counts, one item a slice position; empty where all does.

        Raises
        ------
        ArgumentError
            If no series is chosen, or nothing is drawn where it is needed.
        """
        layer = self.mask.layer
        if layer is None:
            return ()
        place = Place.of(self.chooser.layer, self.chooser.axes)
        return layer_to_masks(layer, place, self.chooser.series(), self.choice().slices)

    # Making it

    def _build(self) -> None:
        preferred = read_preferences()
        self._rows = QFormLayout()
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.chooser = SeriesChooser(self._viewer, self, self._rows)
        self._auto = QCheckBox("automatic")
        self._auto.setChecked(True)
        self._auto.setToolTip("Take the frame whose mean intensity is nearest the mean of the series.")
        self.slices = SliceChooser()
        self._one_reference = QCheckBox("the same in all slices")
        self._one_reference.setChecked(True)
        self._one_reference.setToolTip(
            "One phase is the reference of every slice position, so that they fit together; automatic: the one whose mean\n"
            "intensity over all of them is nearest the usual. Otherwise each slice position has its own."
        )
        self._reference = QLabeledSlider(Qt.Orientation.Horizontal)
        self._reference.setToolTip("The frame that all others are aligned to; moving the slider shows it.")
        self.mask = MaskChooser(self._viewer, self)
        self._method = combo(
            "Network: the recurrent network emits a short sequence of Gaussians.\n"
            "Gaussians, fitted: the same sequence without any network.\nB-spline: the classical baseline, slow."
        )
        for label, name in _METHODS.items():
            self._method.addItem(label, name)
        self._chosen_of_slices = preferred.method
        self._method.setCurrentIndex(max(self._method.findData(preferred.method), 0))
        self._refine = QCheckBox("refine")
        self._refine.setToolTip("Let some steps of fitting improve the network's Gaussians: more accurate, about twice the time.")
        self._refine.setChecked(preferred.refine)
        tip = "Weights of the network: shipped, made by the Train widget, or a .safetensors file."
        self.weights = WeightsChooser(self, tip, preferred.weights)
        self._steps = _spin(0, 500, _usual_steps(False), _STEPS_TIPS[False])
        self._steps.setSpecialValueText("automatic")
        self._batch = _spin(0, 1024, 0, "Frames aligned at once; fewer need less memory and appear sooner.")
        self._batch.setSpecialValueText("automatic")
        self._unfolded = QCheckBox("none, proven")
        self._unfolded.setToolTip("Change every displacement that folds until it provably does not, between pixels too.")
        self._initial = combo(
            "Motion of the frame as a whole that is found first. automatic: a translation, where a frame lies far away;\n"
            "series that only breathe or beat take none."
        )
        for label, name in _INITIALS.items():
            self._initial.addItem(label, name)
        self._measure, self._target = measure_combo(), target_combo()
        self._warm = QCheckBox("from the neighbour")
        self._warm.setToolTip("Start each frame from the result of its neighbour instead of from no displacement.")
        self._device = device_combo(preferred.device)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        reference = QVBoxLayout()
        reference.setSpacing(2)
        reference.addWidget(self._auto)
        reference.addWidget(self._reference)
        reference.addWidget(self._one_reference)
        self._rows.addRow("Slices", self.slices)
        self._rows.addRow("Reference", reference)
        self._rows.addRow("Aligned to", self._target)
        self._rows.addRow("Mask", self.mask.box)
        self._rows.addRow("Method", row(self._method, self._refine))
        self._rows.addRow("Weights", self.weights)
        # Arrows in the text, as superqt would draw its own in black, whatever the theme.
        advanced = QCollapsible(_CLOSED, expandedIcon=QIcon(), collapsedIcon=QIcon())
        advanced.toggled.connect(lambda on: advanced.setText(_OPEN if on else _CLOSED))
        inner, form = QWidget(), QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Gaussians", self._steps)
        form.addRow("Frames at once", self._batch)
        form.addRow("Compared by", self._measure)
        form.addRow("Whole frame", self._initial)
        form.addRow("Warm start", self._warm)
        form.addRow("Folding", self._unfolded)
        form.addRow("Device", self._device)
        inner.setLayout(form)
        advanced.addWidget(inner)
        whole = QVBoxLayout()
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(self._rows)
        whole.addWidget(advanced)
        self.setLayout(whole)
        self.advanced = advanced

    def _connect(self) -> None:
        self.chooser.changed.connect(self._series_changed)
        self._auto.toggled.connect(self._update_enabled)
        self._reference.valueChanged.connect(self._reference_moved)
        self._method.currentIndexChanged.connect(self._update_enabled)
        self._measure.currentIndexChanged.connect(self._update_enabled)
        self._target.currentIndexChanged.connect(self._update_enabled)
        self.slices.changed.connect(self.changed)
        self.mask.changed.connect(self.changed)
        for changed in (
            self._one_reference.toggled,
            self._refine.toggled,
            self._warm.toggled,
            self._unfolded.toggled,
            self.weights.box.currentIndexChanged,
            self._steps.valueChanged,
            self._initial.currentIndexChanged,
        ):
            changed.connect(lambda _value: self.changed.emit())

    def _series_changed(self) -> None:
        self.problem = self._find_problem()
        self._set_volumes(self.chooser.layer is not None and is_volumes(self.chooser.layer))
        several = self.chooser.slice_count > 1
        self._rows.setRowVisible(self.slices, several)
        self.slices.set_count(max(self.chooser.slice_count, 1))
        self._one_reference.setVisible(several)
        self._update_enabled()

    def _set_volumes(self, on: bool) -> None:
        """The network knows slices alone: of volumes it cannot be chosen, and Gaussians are fitted instead."""
        if on == self._volumes:
            return
        self._volumes, steps = on, self._steps.value()
        item = cast(QStandardItemModel, self._method.model()).item(self._method.findData("r2n2"))
        assert item is not None
        item.setEnabled(not on)
        item.setToolTip("The network is made for slices; volumes are aligned by Gaussians, fitted, or by B-splines." if on else "")
        if on:
            self._chosen_of_slices = self._method.currentData()
        wanted = "fit" if on and self._chosen_of_slices == "r2n2" else self._chosen_of_slices
        self._method.setCurrentIndex(self._method.findData(wanted))
        if steps == _usual_steps(not on):
            self._steps.setValue(_usual_steps(on))
        self._steps.setToolTip(_STEPS_TIPS[on])

    def _find_problem(self) -> str:
        try:
            series = self.chooser.series()
        except R2N2Error as error:
            return str(error)
        name, frames, shape = self.chooser.layer.name, len(series[0]), series[0].grid.shape
        self._reference.setRange(0, frames - 1)
        if frames < _SMALLEST_SERIES:
            return f"layer {name!r}: has one frame, so there is nothing to align; choose a series of at least two"
        size = " x ".join(map(str, shape))
        # A volume may be a slab of a few slices.
        if sorted(shape)[-2] < SMALLEST_SIDE_PX:
            return f"layer {name!r}: frames of {size} pixels are too small, {SMALLEST_SIDE_PX} are needed"
        if min(shape) < 2:
            return f"layer {name!r}: volumes of {size} voxels have one slice; take it as slices"
        self.not_numbers = self.chooser.not_numbers()
        if self.not_numbers == 1:
            return f"layer {name!r}: no pixel is a number, so there is nothing to align; check how it was computed"
        return ""

    def _update_enabled(self, _value: object = None) -> None:
        network = self._method.currentData() == "r2n2" and self._measure.currentData() in ("auto", "ssd")
        self._refine.setEnabled(network)
        self.weights.set_enabled(network)
        self._steps.setEnabled(self._method.currentData() != "bspline")
        self._reference.setEnabled(not self._auto.isChecked())
        self._warm.setEnabled(not self._composed)
        self.changed.emit()

    @property
    def _composed(self) -> bool:
        """Whether displacements are composed from frame to frame: none of them is then one to start from."""
        return self._target.currentData() == "previous"

    def _reference_moved(self, frame: int) -> None:
        if not self._auto.isChecked():
            self.reference_shown.emit(frame)
        self.changed.emit()


def _usual_steps(volumes: bool) -> int:
    """Length of a sequence where nobody says another."""
    usual = RegistrationConfig(method="fit").of_grid(3 if volumes else 2).steps
    assert isinstance(usual, int)
    return usual


def _spin(least: int, most: int, value: int, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(least, most)
    box.setValue(value)
    box.setToolTip(tip)
    return box
