"""Choices that several widgets offer: an open image series with the meaning of its axes, and weights of the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolButton,
    QWidget,
)

from napari_r2n2.layers.place import METADATA_KEY, shown_labels
from napari_r2n2.layers.retake import can_be_either, is_volumes, retaken
from napari_r2n2.layers.to_series import (
    AXES_CHOICES,
    TIME_FIRST,
    VOLUME_AXES,
    axes_of,
    layer_to_series,
    slices_first,
    volumes_named,
)
from napari_r2n2.models.registration import FrameKey
from napari_r2n2.models.training_run import SUFFIX, adapted_weights
from napari_r2n2.widgets.layer_choice import LayerChoice
from r2n2.errors import ArgumentError, R2N2Error
from r2n2.network.shipped_weights import named_weights

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from r2n2.series import ImageSeries

__all__ = ["SeriesChooser", "SliceChooser", "WeightsChooser", "button", "combo", "device_combo", "row"]

_MOST_PIXELS = 2**25
# Between the frame of a box and its text, in pixels.
_PADDING = 6
_NO_LAYER = "Drop an image series onto the window, or try File > Open Sample > Breathing thorax."


class SeriesChooser(QObject):
    """The Image layers of a viewer that may be a series; results are left out, as aligning them again is rarely meant.

    Parameters
    ----------
    owner
        The widget whose form the rows go into.
    """

    changed = Signal()
    """Another layer, or other axes."""

    def __init__(self, viewer: Viewer, owner: QWidget, form: QFormLayout) -> None:
        super().__init__(owner)
        self._viewer, self._form = viewer, form
        self.layers = combo("The image series: axes (time, y, x), (slice, time, y, x) or, of volumes, (time, z, y, x).")
        self.axes_box = combo("What the four axes of this layer mean; it does not say so itself.")
        self.axes_box.addItem("choose ...", ())
        for axes in (*AXES_CHOICES, TIME_FIRST, VOLUME_AXES):
            self.axes_box.addItem(", ".join(shown_labels(axes)), axes)
        self.stack_box = combo(
            "How the slices of this series are taken: as volumes, aligned in 3D, or slice by slice, each aligned on its own.\n"
            "Another choice shows the series anew; the layer stays as it is."
        )
        for text, volumes in (("volumes", True), ("slices, one by one", False)):
            self.stack_box.addItem(text, volumes)
        form.addRow("Series", self.layers)
        form.addRow("Axes", self.axes_box)
        form.addRow("Taken as", self.stack_box)
        self._choice = LayerChoice(viewer, owner, self.layers, _may_be_a_series)
        # Not its own signal for another choice, which would tell of one that comes with new layers twice.
        self.layers.currentIndexChanged.connect(lambda _index: self._changed())
        self._choice.updated.connect(self._changed)
        self.axes_box.currentIndexChanged.connect(self._axes_said)
        self.stack_box.activated.connect(self._taken)

    @property
    def layer(self) -> Any:
        """The chosen Image layer, or None."""
        return self._choice.layer

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the layer's axes, asked for where it has none; empty while unknown."""
        return axes_of(self.layer) or self.axes_box.currentData() or ()

    @property
    def slice_count(self) -> int:
        """Number of slice positions of the chosen layer; 0 while it is no series."""
        try:
            return len(self.series())
        except ArgumentError:
            return 0

    @property
    def shown(self) -> FrameKey:
        """The frame of the chosen layer that is on the screen."""
        layer, axes = self.layer, self.axes
        if layer is None or not axes or self._viewer.dims.ndim < len(axes):
            return FrameKey(0, 0)
        point = self._viewer.dims.point[-len(axes) :]
        where = {
            axis: min(max(round((p - t) / s), 0), n - 1)
            for axis, p, t, s, n in zip(axes, point, layer.translate, layer.scale, layer.data.shape, strict=False)
        }
        return FrameKey(where.get("slice", 0), where["frame"])

    def not_numbers(self) -> float:
        """Share of the pixels that are no numbers, of a layer that lies in memory; the others are looked at when they are read."""
        layer = self.layer
        data = None if layer is None else layer.data[0] if layer.multiscale else layer.data
        if not isinstance(data, np.ndarray) or not np.issubdtype(data.dtype, np.floating):
            return 0.0
        looked_at = data[:: max(1, data.size // _MOST_PIXELS)]
        return float(1 - np.isfinite(looked_at).mean())

    def candidates(self) -> list[Any]:
        """The layers that are offered."""
        return self._choice.candidates

    def choose(self, layer: Any) -> None:
        """Choose a layer that is offered."""
        self._choice.choose(layer)

    def series(self) -> tuple[ImageSeries, ...]:
        """The chosen series, one a slice position.

        Raises
        ------
        ArgumentError
            If no layer is chosen or it is no series.
        """
        if self.layer is None:
            raise ArgumentError(_NO_LAYER)
        return layer_to_series(self.layer, self.axes_box.currentData() or ())

    def update(self) -> None:
        """Follow the viewer's layers; what was chosen stays chosen while it is there."""
        self._choice.update()

    def _axes_said(self, _index: int = 0) -> None:
        """Slices that lie behind the time are shown anew with the slices first, or as volumes, as every layer of ours has them."""
        layer, said = self.layer, self.axes_box.currentData()
        if layer is not None and not axes_of(layer) and said in (TIME_FIRST, VOLUME_AXES):
            self.axes_box.setCurrentIndex(0)
            self._show_anew(layer, *(slices_first if said == TIME_FIRST else volumes_named)(layer))
            return
        self._changed()

    def _taken(self, _index: int) -> None:
        """A person took volumes for slices, or slices for volumes."""
        layer, volumes = self.layer, bool(self.stack_box.currentData())
        if layer is None or volumes == is_volumes(layer):
            return
        QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
        try:
            made = retaken(layer, volumes=volumes)
        except (R2N2Error, OSError) as error:
            self._changed()
            show_error(str(error))
            return
        finally:
            QApplication.restoreOverrideCursor()
        self._show_anew(layer, *made)

    def _show_anew(self, layer: Any, data: Any, options: dict[str, Any]) -> None:
        layer.visible = False
        # Of the viewer behind the plugin's proxy: what a proxy gives is a proxy, too, and not the layer in the list.
        self.choose(getattr(self._viewer, "__wrapped__", self._viewer).add_image(data, **options))

    def _changed(self) -> None:
        try:
            ambiguous = self.layer is not None and not axes_of(self.layer)
        except R2N2Error:
            ambiguous = False
        self._form.setRowVisible(self.axes_box, ambiguous)
        either = self.layer is not None and can_be_either(self.layer)
        self._form.setRowVisible(self.stack_box, either)
        if either:
            self.stack_box.setCurrentIndex(self.stack_box.findData(is_volumes(self.layer)))
        self.changed.emit()


def _may_be_a_series(layer: Any) -> bool:
    return isinstance(layer, Image) and "registration" not in layer.metadata.get(METADATA_KEY, {})


class SliceChooser(QWidget):
    """Which slice positions are meant: all, the one on the screen, or a range."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.which = combo("Slice positions that are aligned; the one on the screen comes first.")
        for text in ("all", "the one shown", "from ... to"):
            self.which.addItem(text)
        self.first, self.last = QSpinBox(), QSpinBox()
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.which, 1)
        for box, tip in (
            (self.first, "First slice position, counted from 0."),
            (self.last, "Last slice position, itself included."),
        ):
            box.setToolTip(tip)
            box.valueChanged.connect(lambda _value: self.changed.emit())
            line.addWidget(box)
        self.which.currentIndexChanged.connect(self._chosen)
        self._chosen()

    def set_count(self, count: int) -> None:
        """So many there are."""
        if self.last.maximum() == count - 1:
            return
        for box, value in ((self.first, 0), (self.last, count - 1)):
            box.setRange(0, count - 1)
            box.setValue(value)

    def chosen(self, shown: int) -> tuple[int, ...]:
        """The slice positions meant, while ``shown`` is on the screen."""
        if self.which.currentIndex() == 1:
            return (shown,)
        first, last = (self.first.value(), self.last.value()) if self.which.currentIndex() else (0, self.last.maximum())
        return tuple(range(min(first, last), max(first, last) + 1))

    def _chosen(self, _index: int = 0) -> None:
        for box in (self.first, self.last):
            box.setVisible(self.which.currentIndex() == 2)
        self.changed.emit()


class WeightsChooser(QHBoxLayout):
    """Weights by name: shipped, adapted on this machine, or of a file.

    Parameters
    ----------
    preferred
        Name or file that is chosen at first, if there is such.
    """

    def __init__(self, owner: QWidget, tip: str, preferred: str) -> None:
        super().__init__()
        self._owner = owner
        self.box = combo(tip)
        for name in named_weights():
            self.box.addItem(name, name)
        self.offer(adapted_weights())
        self.browse = QToolButton()
        self.browse.setText("...")
        self.browse.setToolTip("Choose a .safetensors file of weights.")
        self.browse.clicked.connect(self._ask)
        self.addWidget(self.box, 1)
        self.addWidget(self.browse)
        self.choose(preferred)

    @property
    def weights(self) -> str:
        """Name of shipped weights, or path of a file."""
        return str(self.box.currentData())

    def offer(self, files: Mapping[str, Path]) -> None:
        """Offer files under their names; the choice stays."""
        for name, path in files.items():
            if self.box.findData(str(path)) < 0:
                self.box.addItem(name, str(path))

    def add(self, name: str, path: Path) -> None:
        """Offer a file under a name, and choose it."""
        self.offer({name: path})
        self.box.setCurrentIndex(self.box.findData(str(path)))

    def choose(self, weights: str) -> None:
        """Choose by name or file; where there is no such, the choice stays."""
        known = max(self.box.findText(weights), self.box.findData(weights))
        if known >= 0:
            self.box.setCurrentIndex(known)
        elif Path(weights).is_file():
            self.add(Path(weights).stem, Path(weights))

    def set_enabled(self, on: bool) -> None:
        """Whether weights can be chosen at all."""
        self.box.setEnabled(on)
        self.browse.setEnabled(on)

    def _ask(self) -> None:
        name, _kind = QFileDialog.getOpenFileName(self._owner, "Weights of the network", "", f"Weights (*{SUFFIX})")
        if name:
            self.add(Path(name).stem, Path(name))


class _Combo(QComboBox):
    """A box that leaves out the middle of a name it has no room for: layers of one series differ in how their names end."""

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802
        """Qt: its own would cut the name off where the box ends."""
        painter, option, style = QStylePainter(self), QStyleOptionComboBox(), self.style()
        self.initStyleOption(option)
        assert style is not None
        field = style.subControlRect(QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self)
        room = field.width() - _PADDING
        option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideMiddle, room)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


def combo(tip: str, *, least_letters: int = 10) -> QComboBox:
    """A box whose long names do not make the dock wider."""
    box = _Combo()
    box.setToolTip(tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(least_letters)
    return box


def device_combo(preferred: str) -> QComboBox:
    """Where to compute."""
    box = combo("Where to compute; auto takes a GPU if there is one.")
    box.addItems(["auto", "cpu", "cuda"])
    box.setCurrentText(preferred)
    return box


def button(text: str, tip: str) -> QPushButton:
    """A button with its tip."""
    made = QPushButton(text)
    made.setToolTip(tip)
    return made


def row(first: QWidget, second: QWidget) -> QHBoxLayout:
    """Two controls side by side, the first as wide as there is room."""
    made = QHBoxLayout()
    made.addWidget(first, 1)
    made.addWidget(second)
    return made
