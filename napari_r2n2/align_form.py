"""The form of the Align widget: which series, which reference, how; it says at once what cannot work, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QHBoxLayout, QSpinBox, QToolButton, QVBoxLayout, QWidget
from superqt import QCollapsible, QLabeledSlider

from napari_r2n2.connections import connect_while_alive
from napari_r2n2.layers import AXES_CHOICES, METADATA_KEY, axes_of, layer_to_series
from napari_r2n2.preferences import read_preferences
from r2n2.config import SMALLEST_SIDE_PX, RegistrationConfig
from r2n2.errors import ArgumentError, R2N2Error
from r2n2.shipped_weights import named_weights

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from r2n2.series import ImageSeries

__all__ = ["AlignForm"]

_METHODS = {"Network (R2N2)": "r2n2", "Gaussians, fitted": "fit", "B-spline": "bspline"}
_SMALLEST_SERIES = 2
_NO_LAYER = "Drop an image series onto the window, or try File > Open Sample > R2N2."


class AlignForm(QWidget):
    """Choices that make a registration; ``problem`` says in plain words why Run would fail, or is empty."""

    changed = Signal()
    """Another series or setting was chosen."""
    reference_shown = Signal(int)
    """The reference slider was moved: this frame should be looked at."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.problem = _NO_LAYER
        self._named: list[Any] = []
        self._build()
        named, rename = self._named, self._update_names
        events = viewer.layers.events
        connect_while_alive(
            self,
            [(events.inserted, self._update_layers), (events.removed, self._update_layers)],
            at_end=lambda: [layer.events.name.disconnect(rename) for layer in named],
        )
        self._update_layers()

    # What is chosen

    @property
    def layer(self) -> Any:
        """The chosen Image layer, or None."""
        return self._layers.currentData()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the layer's axes, asked for where it has none; empty while unknown."""
        return axes_of(self.layer) or self._axes.currentData() or ()

    def series(self) -> tuple[ImageSeries, ...]:
        """The chosen series, one a slice position.

        Raises
        ------
        ArgumentError
            If no layer is chosen or it is no series.
        """
        if self.layer is None:
            raise ArgumentError(_NO_LAYER)
        return layer_to_series(self.layer, self._axes.currentData() or ())

    def config(self) -> RegistrationConfig:
        """The settings.

        Raises
        ------
        ArgumentError
            If they do not fit together.
        """
        return RegistrationConfig.parse(
            {
                "method": self._method.currentData(),
                "refine": self._refine.isChecked(),
                "reference": "auto" if self._auto.isChecked() else self._reference.value(),
                "weights": self._weights.currentData(),
                "steps": self._steps.value(),
                "device": self._device.currentText(),
                "batch_size": self._batch.value(),
                "warm_start": self._warm.isChecked(),
            }
        )

    def offer_weights(self, files: Mapping[str, Path]) -> None:
        """Offer files of weights under their names."""
        for name, path in files.items():
            if self._weights.findData(str(path)) < 0:
                self._weights.addItem(name, str(path))
        self._choose_weights(self._preferred_weights)

    def add_weights(self, name: str, path: Path) -> None:
        """Offer a file of weights under a name, and choose it."""
        if self._weights.findData(str(path)) < 0:
            self._weights.addItem(name, str(path))
        self._weights.setCurrentIndex(self._weights.findData(str(path)))

    # Making it

    def _build(self) -> None:
        preferred = read_preferences()
        self._layers = _combo("The image series: axes (frame, y, x) or (slice, frame, y, x).")
        self._axes = _combo("What the four axes of this layer mean; it does not say so itself.")
        self._axes.addItem("choose ...", ())
        for axes in AXES_CHOICES:
            self._axes.addItem(", ".join(axes), axes)
        self._auto = QCheckBox("automatic")
        self._auto.setChecked(True)
        self._auto.setToolTip("Take the frame whose mean intensity is nearest the mean of the series.")
        self._reference = QLabeledSlider(Qt.Orientation.Horizontal)
        self._reference.setToolTip("The frame that all others are aligned to; moving the slider shows it.")
        self._method = _combo(
            "Network: the recurrent network emits a short sequence of Gaussians.\n"
            "Gaussians, fitted: the same sequence without any network.\nB-spline: the classical baseline, slow."
        )
        for label, name in _METHODS.items():
            self._method.addItem(label, name)
        self._method.setCurrentIndex(max(self._method.findData(preferred.method), 0))
        self._refine = QCheckBox("refine")
        self._refine.setToolTip("Let some steps of fitting improve the network's Gaussians: more accurate, about twice the time.")
        self._refine.setChecked(preferred.refine)
        self._weights = _combo("Weights of the network: shipped, made by the Train widget, or a .safetensors file.")
        for name in named_weights():
            self._weights.addItem(name, name)
        self._browse = QToolButton()
        self._browse.setText("...")
        self._browse.setToolTip("Choose a .safetensors file of weights.")
        self._steps = _spin(1, 500, 25, "Length of the sequence: so many Gaussians of seven numbers describe a deformation.")
        self._batch = _spin(1, 1024, 16, "Frames aligned at once; fewer need less memory and appear sooner.")
        self._warm = QCheckBox("start from the neighbour in time")
        self._warm.setToolTip("Start each frame from the result of its neighbour instead of from no displacement.")
        self._device = _combo("Where to compute; auto takes a GPU if there is one.")
        self._device.addItems(["auto", "cpu", "cuda"])
        self._device.setCurrentText(preferred.device)
        self._preferred_weights = preferred.weights
        self._choose_weights(preferred.weights)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self._rows = QFormLayout()
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._rows.addRow("Series", self._layers)
        self._rows.addRow("Axes", self._axes)
        reference = QVBoxLayout()
        reference.addWidget(self._auto)
        reference.addWidget(self._reference)
        self._rows.addRow("Reference", reference)
        self._rows.addRow("Method", _row(self._method, self._refine))
        self._rows.addRow("Weights", _row(self._weights, self._browse))
        advanced = QCollapsible("Advanced")
        inner, form = QWidget(), QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Gaussians", self._steps)
        form.addRow("Frames at once", self._batch)
        form.addRow("Warm start", self._warm)
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
        self._layers.currentIndexChanged.connect(self._layer_changed)
        self._axes.currentIndexChanged.connect(self._layer_changed)
        self._auto.toggled.connect(self._update_enabled)
        self._reference.valueChanged.connect(self._reference_moved)
        self._method.currentIndexChanged.connect(self._update_enabled)
        for changed in (self._refine.toggled, self._warm.toggled, self._weights.currentIndexChanged, self._steps.valueChanged):
            changed.connect(lambda _value: self.changed.emit())
        self._browse.clicked.connect(self._choose_file)

    def _choose_weights(self, name: str) -> None:
        known = max(self._weights.findText(name), self._weights.findData(name))
        if known >= 0:
            self._weights.setCurrentIndex(known)
        elif Path(name).is_file():
            self.add_weights(Path(name).stem, Path(name))

    def _choose_file(self) -> None:
        name, _kind = QFileDialog.getOpenFileName(self, "Weights of the network", "", "Weights (*.safetensors)")
        if name:
            self.add_weights(Path(name).stem, Path(name))

    # Following the viewer

    def _update_layers(self, _event: object = None) -> None:
        chosen = self.layer
        for layer in self._named:
            layer.events.name.disconnect(self._update_names)
        # In place, as the list is what is let go of at the end.
        self._named[:] = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        self._layers.blockSignals(True)
        self._layers.clear()
        for layer in self._named:
            layer.events.name.connect(self._update_names)
            if not _is_ours(layer):
                self._layers.addItem(layer.name, layer)
        kept = self._layers.findData(chosen) if chosen is not None else -1
        self._layers.setCurrentIndex(kept if kept >= 0 else self._layers.count() - 1)
        self._layers.blockSignals(False)
        self._layer_changed()

    def _update_names(self, _event: object = None) -> None:
        for index in range(self._layers.count()):
            self._layers.setItemText(index, self._layers.itemData(index).name)

    def _layer_changed(self, _index: int = 0) -> None:
        self.problem = self._find_problem()
        ambiguous = False
        if self.layer is not None:
            try:
                ambiguous = not axes_of(self.layer)
            except R2N2Error:
                ambiguous = False
        self._rows.setRowVisible(self._axes, ambiguous)
        self._update_enabled()

    def _find_problem(self) -> str:
        try:
            series = self.series()
        except R2N2Error as error:
            return str(error)
        frames, shape = len(series[0]), series[0].grid.shape
        self._reference.setRange(0, frames - 1)
        if frames < _SMALLEST_SERIES:
            return f"layer {self.layer.name!r}: has one frame, so there is nothing to align; choose a series of at least two"
        if min(shape) < SMALLEST_SIDE_PX:
            return (
                f"layer {self.layer.name!r}: frames of {shape[0]} x {shape[1]} pixels are too small, {SMALLEST_SIDE_PX} are needed"
            )
        return ""

    def _update_enabled(self, _value: object = None) -> None:
        network = self._method.currentData() == "r2n2"
        self._refine.setEnabled(network)
        self._weights.setEnabled(network)
        self._browse.setEnabled(network)
        self._steps.setEnabled(self._method.currentData() != "bspline")
        self._reference.setEnabled(not self._auto.isChecked())
        self.changed.emit()

    def _reference_moved(self, frame: int) -> None:
        if not self._auto.isChecked():
            self.reference_shown.emit(frame)
        self.changed.emit()


def _is_ours(layer: Any) -> bool:
    """Whether it shows a result: aligning that again is rarely meant."""
    return "registration" in layer.metadata.get(METADATA_KEY, {})


def _combo(tip: str) -> QComboBox:
    box = QComboBox()
    box.setToolTip(tip)
    # Long names must not make the dock wider.
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)
    return box


def _spin(least: int, most: int, value: int, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(least, most)
    box.setValue(value)
    box.setToolTip(tip)
    return box


def _row(first: QWidget, second: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.addWidget(first, 1)
    row.addWidget(second)
    return row
