"""The settings of the Function widget, in a box that is closed until somebody needs it."""

from __future__ import annotations

from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget
from superqt import QCollapsible

from r2n2.lung.settings import LungConfig

__all__ = ["FunctionForm"]

_CLOSED, _OPEN = "▸ Advanced", "▾ Advanced"
_RULES = ("median", "p75", "p90")


class FunctionForm(QWidget):
    """Bands of the rates and rules of the maps, as ``LungConfig`` has them."""

    def __init__(self) -> None:
        super().__init__()
        plain = LungConfig()
        self._breathing = _Band(plain.breathing_hz, "Breathing is looked for between these rates; infants breathe at up to 1 Hz.")
        self._heart = _Band(plain.heart_hz, "The heart is looked for between these rates; infants' beats at up to 3 Hz.")
        self._skip = QSpinBox()
        self._skip.setRange(0, 1000)
        self._skip.setValue(plain.skip)
        self._skip.setToolTip("Frames left out at the beginning, while the magnetisation settles.")
        self._time = QDoubleSpinBox()
        self._time.setRange(0.0, 60.0)
        self._time.setDecimals(3)
        self._time.setSpecialValueText("as in the file")
        self._time.setSuffix(" s")
        self._time.setToolTip("Time between frames, where the file says none or a wrong one.")
        self._share = QDoubleSpinBox()
        self._share.setRange(0.05, 0.95)
        self._share.setSingleStep(0.05)
        self._share.setValue(plain.defect_share)
        self._share.setToolTip("A defect lies below this share of the reference value.")
        self._of = QComboBox()
        for rule in _RULES:
            self._of.addItem(rule if rule == "median" else f"{rule[1:]}th percentile", rule)
        self._of.setCurrentIndex(_RULES.index(plain.defect_of))
        self._of.setToolTip("The reference value of defects, inside the mask.")
        self._rician = QCheckBox("take its bias away")
        self._rician.setChecked(plain.rician)
        self._rician.setToolTip("The bias of magnitude images at low signal; off for images that are no magnitudes, as CT.")
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        # Two numbers beside their name would make the dock wider than the others.
        for name, band in (("Breathing between (Hz)", self._breathing), ("Heart between (Hz)", self._heart)):
            rows.addRow(QLabel(name))
            rows.addRow(band)
        for name, field in (
            ("Skip frames", self._skip),
            ("Frame time", self._time),
            ("Defect below", self._share),
            ("times the", self._of),
            ("Noise", self._rician),
        ):
            rows.addRow(name, field)
        inside = QWidget()
        inside.setLayout(rows)
        self.advanced = QCollapsible(_CLOSED, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.advanced.addWidget(inside)
        self.advanced.toggled.connect(lambda on: self.advanced.setText(_OPEN if on else _CLOSED))
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(self.advanced)

    @property
    def frame_time_s(self) -> float:
        """Time between frames that was said; 0: as in the file."""
        return float(self._time.value())

    def config(self) -> LungConfig:
        """The settings.

        Raises
        ------
        ArgumentError
            If they do not go together.
        """
        return LungConfig.parse(
            {
                "breathing_hz": self._breathing.values(),
                "heart_hz": self._heart.values(),
                "skip": self._skip.value(),
                "defect_share": round(self._share.value(), 3),
                "defect_of": self._of.currentData(),
                "rician": self._rician.isChecked(),
            }
        )


class _Band(QWidget):
    """A lower and an upper rate in Hz."""

    def __init__(self, start: tuple[float, float], tip: str) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._ends = (QDoubleSpinBox(), QDoubleSpinBox())
        for end, value in zip(self._ends, start, strict=True):
            end.setRange(0.01, 12.0)
            end.setSingleStep(0.05)
            end.setValue(value)
            end.setToolTip(tip)
            row.addWidget(end)

    def values(self) -> list[float]:
        """Lower and upper."""
        return [round(end.value(), 3) for end in self._ends]
