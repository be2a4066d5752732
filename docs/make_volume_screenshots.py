"""Take docs/images/plugin_volume*.png in a real napari window: a simulated person of volumes, aligned in 3D.

usage: make screenshots, or python docs/make_volume_screenshots.py [RESULT] where there is a screen; RESULT is the folder of an
       earlier run of the same person, which is then shown instead of aligning anew
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from make_screenshots import Window, button, compose, press, save
from PIL import Image

# A seed of the development part of the simulated people.
SEED, FRAMES = 104, 6
SHAPE, SPACING_MM = (56, 96, 120), (5.0, 3.2, 3.0)
# Far from the reference.
FRAME = 4
ALIGNING_S = 3600
PANEL = 420
# mm from the first voxel across z, y, x, where the slices cut lung, heart and liver.
CUTS_MM = (150.0, 150.0, 120.0)
TURNED = (5.0, -35.0, 20.0)
LARGER = 1.25
# Arrows are true to scale: the lower half of the slice, twice as large, where they are long.
CLOSE = 1.9


class VolumeWindow(Window):
    """A window with one series of volumes."""

    close = False
    """Whether the lower half of a coronal slice is shown larger."""

    def __init__(self) -> None:
        super().__init__(empty=True)

    def turn(self, across: int) -> None:
        """Show a slice across an axis, with all of it on the canvas."""
        from napari_r2n2.layers.planes import show_plane

        place, series = self.results.place, self.results.session.series
        assert place is not None
        dims = self.viewer.dims
        show_plane(self.viewer, across, series[0].grid)
        dims.set_point(dims.ndim - 3 + across, place.translate[across - 3] + CUTS_MM[across])
        self.settle()

    def show(self, *names: str, landmarks: bool = False) -> None:
        """Show these views, and no other."""
        from napari_r2n2.layers.result_layers import View

        for view in View:
            self.results.show(view, view in (View.ALIGNED, *names))
        for layer in self.viewer.layers:
            if layer.name.endswith("landmarks"):
                layer.visible = landmarks

    def go_to(self, step: int) -> None:
        """Show a step of the frame that the pictures are of."""
        from napari_r2n2.models.session import FrameKey

        self.results.go_to(key=FrameKey(0, FRAME), step=step)

    def fit(self, height: int, width: int) -> None:
        """Fill a canvas with the slice, whatever is drawn beyond its edges."""
        dims, place = self.viewer.dims, self.results.place
        assert place is not None
        if dims.ndisplay == 3:
            return
        shape = self.results.session.series[0].grid.shape
        seen = [axis - dims.ndim for axis in dims.displayed]
        sides = [shape[axis + 3] * place.scale[axis] for axis in seen]
        middles = [place.translate[axis] + (side - place.scale[axis]) / 2 for axis, side in zip(seen, sides, strict=True)]
        if self.close:
            middles[0] -= 0.2 * sides[0]
        self.viewer.scene.camera.center = tuple(middles)
        self.viewer.scene.camera.zoom = min(height / sides[0], width / sides[1]) * (CLOSE if self.close else 1)


def prepare(folder: Path) -> Path:
    """The person as a NIfTI file."""
    from dataclasses import replace

    from r2n2.io import write_series
    from r2n2.simulation import PersonConfig, person_series

    settings = PersonConfig.parse({"seed": SEED, "frames": FRAMES, "shape": SHAPE, "spacing_mm": SPACING_MM, "contrast": "mr"})
    series = person_series(settings).series
    path = folder / "person.nii.gz"
    named = replace(series, source={"format": "nifti", "path": str(path)})
    return write_series(folder, "person", named, (series.frame(k) for k in range(len(series))))


def align(window: VolumeWindow, folder: Path) -> Any:
    """The Align widget after a run in the window, or with a result that is there already."""
    if len(sys.argv) > 1:
        widget = window.open("Align")
        widget.files.open(Path(sys.argv[1]))
    else:
        window.viewer.open(str(prepare(folder)), plugin="napari-r2n2")
        widget = window.open("Align")
        window.wait(button(widget, "Run").isEnabled, 20)
        press(widget, "Run")
    window.wait(lambda: widget.job is None, ALIGNING_S)
    return widget


def main() -> None:
    """Take every picture."""
    window = VolumeWindow()
    with tempfile.TemporaryDirectory() as folder:
        align(window, Path(folder))
        last = window.results.session.registration.step_count
        widget = window.open("Sequence")
        window.show("Gaussians")
        window.go_to(last)
        window.turn(1)
        select_a_strong_one(window, widget)
        save("volume", window.grab())
        save("volume_views", views(window, last))
        window.viewer.close()


def select_a_strong_one(window: VolumeWindow, widget: Any) -> None:
    """Click the row of the Gaussian that moves most of those near the middle, which shows the slice of its centre."""
    from qtpy.QtWidgets import QTableWidget

    key = window.results.key
    assert key is not None
    sequence = window.results.session.sequence(key)
    assert sequence is not None
    middle = (sequence.centres.abs() < 0.5).all(dim=1)
    row = int((sequence.amplitudes.norm(dim=1) * middle).argmax())
    table = widget.findChild(QTableWidget)
    table.selectRow(row)
    window.settle()
    table.scrollToItem(table.item(row, 0), QTableWidget.ScrollHint.PositionAtCenter)
    window.settle()


def views(window: VolumeWindow, last: int) -> Image.Image:
    """Eight views of one frame with letters."""
    panels = []
    for caption, across, step, shown in (
        ("coronal, Gaussians", 1, last, ("Gaussians",)),
        ("sagittal, Gaussians", 2, last, ("Gaussians",)),
        ("axial, Gaussians", 0, last, ("Gaussians",)),
        ("displacement in the slice, enlarged", 1, last, ("displacement",)),
        ("residual, before", 1, 0, ("residual",)),
        ("residual, after", 1, last, ("residual",)),
        ("Jacobian determinant", 1, last, ("Jacobian",)),
    ):
        window.turn(across)
        window.show(*shown)
        window.go_to(step)
        window.results.session.select(None)
        window.close = shown == ("displacement",)
        panels.append((caption, window.canvas(PANEL)))
    panels.append(("3D view, Gaussians", space(window)))
    return compose(panels, columns=4)


def space(window: VolumeWindow) -> Image.Image:
    """The ellipsoids in the volume."""
    window.show("Gaussians")
    window.viewer.dims.ndisplay = 3
    window.settle()
    window.viewer.reset_view()
    window.viewer.scene.camera.angles = TURNED
    window.viewer.scene.camera.zoom *= PANEL / window.viewer.screenshot(canvas_only=True, flash=False).shape[0] * LARGER
    return window.canvas(PANEL)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as private:
        # Neither settings nor weights of the person who runs this are read or written.
        os.environ |= {"NAPARI_CONFIG": f"{private}/settings.yaml", "XDG_DATA_HOME": private}
        main()
