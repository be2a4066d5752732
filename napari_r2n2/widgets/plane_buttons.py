"""Three buttons that turn a volume: axial, coronal and sagittal slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_r2n2.layers.planes import plane_names, show_plane

if TYPE_CHECKING:
    from napari_r2n2.layers.result_layers import ResultLayers

__all__ = ["PlaneButtons"]


class PlaneButtons(QWidget):
    """Shown while the registered series is one of volumes; the button of the plane on the screen is pressed."""

    def __init__(self, results: ResultLayers) -> None:
        super().__init__()
        self._results = results
        self.buttons = [QPushButton() for _ in range(3)]
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        for across, button in enumerate(self.buttons):
            button.setCheckable(True)
            button.clicked.connect(lambda _on, across=across: self._turn(across))
            line.addWidget(button)
        # Shown by who lays it out: without a parent it would be a window.
        self.hide()

    def update_names(self) -> None:
        """Follow the registration and the plane on the screen."""
        place, series = self._results.place, self._results.session.series
        volumes = place is not None and place.ndim == 3 and bool(series)
        self.setVisible(volumes)
        if not volumes:
            return
        plane = self._results.plane
        for across, (button, name) in enumerate(zip(self.buttons, plane_names(series[0].grid), strict=True)):
            button.setText(name)
            button.setToolTip(f"Show {name} slices, across {'zyx'[across]}.")
            button.setChecked(plane is not None and not plane.in_space and plane.across == across)

    def _turn(self, across: int) -> None:
        series = self._results.session.series
        if series:
            show_plane(self._results.viewer, across, series[0].grid)
        self.update_names()
