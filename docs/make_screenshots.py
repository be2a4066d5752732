"""Take docs/images/plugin_*.png and plugin.gif in a real napari window: the pictures of the plugin's documentation.

usage: make screenshots, or python docs/make_screenshots.py where there is a screen;
       with --sizes FOLDER every widget is taken in windows of three sizes and in both themes instead, to be looked at
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from napari_r2n2.layers.result_layers import ResultLayers

IMAGES = Path(__file__).with_name("images")
WINDOW = (1400, 930)
SIZES = ((1024, 700), (1200, 800), (1920, 1080))
LARGEST_BYTES = 600_000
PANEL, GAP, MARGIN = 344, 8, 26
GIF_SIDE = 300
# Deep inspiration: the farthest from the reference.
FRAME = 9
STEP = 7
ADAPTING_MINUTES = 1.5
TEXT = (30, 30, 30)


class Window:
    """A napari window with the sample series or empty, worked as a person works it: by the words on its buttons."""

    def __init__(self, *, empty: bool = False) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*WINDOW)
        self._app = QApplication.instance()
        if not empty:
            self.viewer.open_sample("napari-r2n2", "breathing_thorax")
        self.settle()

    @property
    def results(self) -> ResultLayers:
        """The result layers, and where the sliders stand."""
        from napari_r2n2.layers.result_layers import results_of

        return results_of(self.viewer)

    def settle(self, seconds: float = 0.4) -> None:
        """Let the window work for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._app.processEvents()
            time.sleep(0.01)

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Let the window work until something is so."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"nothing came of it in {seconds:.0f} s")
            self.settle(0.1)
        self.settle()

    def open(self, name: str) -> Any:
        """Open one of the plugin's widgets, as a tab of those before."""
        dock, widget = self.viewer.window.add_plugin_dock_widget("napari-r2n2", name)
        self.settle()
        dock.raise_()
        self.settle()
        return widget

    def docks(self) -> list[Any]:
        """All docks of the window."""
        from qtpy.QtWidgets import QDockWidget, QMainWindow

        main = next(found for found in self._app.topLevelWidgets() if isinstance(found, QMainWindow) and found.isVisible())
        return main.findChildren(QDockWidget)

    def show(self, *names: str, landmarks: bool = False) -> None:
        """Show these views of the registration on the aligned series, and no other."""
        from napari_r2n2.layers.result_layers import View

        for view in View:
            self.results.show(view, view in (View.ALIGNED, *names))
        next(layer for layer in self.viewer.layers if layer.name.endswith("landmarks")).visible = landmarks

    def go_to(self, step: int) -> None:
        """Show a step of the frame that the pictures are of."""
        from napari_r2n2.models.session import FrameKey

        self.results.go_to(key=FrameKey(0, FRAME), step=step)

    def fit(self, height: int, width: int) -> None:
        """Fill a canvas with the image, whatever is drawn beyond its edges."""
        place = self.results.place
        assert place is not None
        sides = [n * length for n, length in zip(self.results.session.series[0].grid.shape, place.plane, strict=True)]
        self.viewer.scene.camera.center = tuple((side - length) / 2 for side, length in zip(sides, place.plane, strict=True))
        self.viewer.scene.camera.zoom = min(height / sides[0], width / sides[1])

    def grab(self) -> Image.Image:
        """The whole window, with the image as large as its canvas."""
        self.settle()
        height, width = self.viewer.screenshot(canvas_only=True, flash=False).shape[:2]
        self.fit(height, width)
        self.settle()
        return Image.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")

    def canvas(self, side: int) -> Image.Image:
        """The image and nothing around it, with a colour bar that hides little of so small a canvas."""
        for layer in self.viewer.layers:
            if hasattr(layer, "colorbar"):
                layer.colorbar.size, layer.colorbar.tick_length, layer.colorbar.font_size = (10.0, 80.0), 3.0, 6.0
        self.fit(side, side)
        self.settle(0.2)
        return Image.fromarray(self.viewer.screenshot(size=(side, side), canvas_only=True, flash=False)).convert("RGB")


def button(widget: Any, text: str) -> Any:
    """The button of a widget with this text."""
    from qtpy.QtWidgets import QAbstractButton

    return next(found for found in widget.findChildren(QAbstractButton) if found.text() == text)


def press(widget: Any, *texts: str) -> None:
    """Click buttons one after the other."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    for text in texts:
        found = button(widget, text)
        if not found.isEnabled():
            raise RuntimeError(f"{text!r} cannot be pressed")
        QTest.mouseClick(found, Qt.MouseButton.LeftButton)


def save(name: str, picture: Image.Image) -> None:
    """Write a PNG, of 256 colours where all of them would make it large."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"plugin_{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def align(window: Window) -> None:
    """Picture of the Align widget after a run."""
    widget = window.open("Align")
    window.wait(button(widget, "Run").isEnabled, 20)
    press(widget, "Run")
    window.wait(button(widget, "Run").isEnabled, 600)
    window.show("Gaussians")
    window.go_to(window.results.session.registration.step_count)
    save("align", window.grab())


def sequence(window: Window) -> None:
    """Pictures of the Sequence widget in the middle of a sequence, of all views, and the animation."""
    window.open("Sequence")
    window.go_to(STEP)
    save("sequence", window.grab())
    views(window)
    animation(window)


def preferences(window: Window) -> None:
    """Picture of R2N2's page of the preferences."""
    from qtpy.QtWidgets import QApplication, QListWidget

    # napari offers no public way to its dialog.
    window.viewer.window._open_preferences_dialog()
    window.settle()
    dialog = next(found for found in QApplication.topLevelWidgets() if type(found).__name__ == "PreferencesDialog")
    pages = dialog.findChild(QListWidget)
    pages.setCurrentRow(next(row for row in range(pages.count()) if "R2N2" in pages.item(row).text()))
    dialog.resize(760, 560)
    window.settle()
    save("preferences", from_qt(dialog.grab()))
    dialog.close()


def from_qt(pixmap: Any) -> Image.Image:
    """A grabbed widget as a picture."""
    from qtpy.QtCore import QBuffer

    buffer = QBuffer()
    buffer.open(QBuffer.OpenModeFlag.WriteOnly)
    pixmap.save(buffer, "PNG")
    return Image.open(io.BytesIO(bytes(buffer.data()))).convert("RGB")


def views(window: Window) -> None:
    """Eight views of one frame with letters."""
    last = window.results.session.registration.step_count
    panels = []
    for caption, step, shown in (
        ("Gaussians", last, ("Gaussians",)),
        ("displacement", last, ("displacement",)),
        ("deformed grid", last, ("deformed grid",)),
        ("Jacobian determinant", last, ("Jacobian",)),
        ("checkerboard, before", 0, ("checkerboard",)),
        ("checkerboard, after", last, ("checkerboard",)),
        ("residual, before", 0, ("residual",)),
        ("residual, after", last, ("residual",)),
    ):
        window.show(*shown)
        window.go_to(step)
        window.show(*shown)  # landmarks that step 0 has brought back are hidden again
        window.results.session.select(None)
        panels.append((caption, window.canvas(PANEL)))
    save("views", compose(panels, columns=4))
    window.show("Gaussians")


def compose(panels: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Panels in rows, each under its letter and caption."""
    rows = -(-len(panels) // columns)
    side = panels[0][1].width
    whole = Image.new("RGB", (columns * side + (columns - 1) * GAP, rows * (side + MARGIN) + (rows - 1) * GAP), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(15)
    for k, (caption, panel) in enumerate(panels):
        x, y = k % columns * (side + GAP), k // columns * (side + MARGIN + GAP)
        letter = f"{chr(ord('a') + k)}  "
        draw.text((x, y + 4), letter, TEXT, font, stroke_width=0.4, stroke_fill=TEXT)
        draw.text((x + draw.textlength(letter, font), y + 4), caption, TEXT, font)
        whole.paste(panel, (x, y + MARGIN))
    return whole


def animation(window: Window) -> None:
    """Stepping through a sequence: the frame with the Gaussians so far, and what still differs from the reference."""
    last = window.results.session.registration.step_count
    frames = []
    for step in range(last + 1):
        pair = []
        for shown in ("Gaussians", "residual"):
            window.show(shown)
            window.go_to(step)
            pair.append(window.canvas(GIF_SIDE))
        frames.append(labelled(pair, f"step {step} of {last}"))
    window.show("Gaussians")
    palette = gif_palette(last)
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [900, *[160] * (last - 1), 1500]
    reduced[0].save(IMAGES / "plugin.gif", save_all=True, append_images=reduced[1:], duration=durations, loop=0, optimize=True)


def gif_palette(steps: int) -> Image.Image:
    """Greys, the colours of the residual and those of the Gaussians: what counts is not what fills most pixels."""
    from napari.utils.colormaps import ensure_colormap

    from napari_r2n2.layers.gaussian_lines import step_colours

    lines = step_colours("turbo", steps)[:, :3]
    residual = ensure_colormap("RdBu").map(np.linspace(0, 1, 80))[:, :3]
    greys = np.repeat(np.linspace(0, 1, 256 - 2 * steps - len(residual))[:, None], 3, axis=1)
    colours = np.concatenate((greys, residual, lines, 0.5 * lines))
    image = Image.new("P", (1, 1))
    image.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    return image


def labelled(pair: list[Image.Image], step: str) -> Image.Image:
    """Two pictures side by side under their captions."""
    side = pair[0].width
    whole = Image.new("RGB", (2 * side + GAP, side + MARGIN), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(15)
    for k, (picture, caption) in enumerate(zip(pair, (f"frame {FRAME}, {step}", "minus reference"), strict=True)):
        draw.text((k * (side + GAP), 4), caption, TEXT, font)
        whole.paste(picture, (k * (side + GAP), MARGIN))
    return whole


def landmarks(window: Window) -> None:
    """Picture of the Landmarks widget with errors and predictions."""
    widget = window.open("Landmarks")
    window.go_to(0)
    press(widget, "Move")
    window.show(landmarks=True)
    save("landmarks", window.grab())


def train(window: Window) -> None:
    """Picture of the Train widget after a short adapting."""
    from qtpy.QtWidgets import QDoubleSpinBox

    widget = window.open("Train")
    window.show("Gaussians")
    window.go_to(window.results.session.registration.step_count)
    widget.findChild(QDoubleSpinBox).setValue(ADAPTING_MINUTES)
    press(widget, "Start")
    window.wait(button(widget, "Start").isEnabled, 60 * ADAPTING_MINUTES + 300)
    save("train", window.grab())


def at_all_sizes(folder: Path) -> None:
    """Every widget as a person meets it: in small, usual and large windows, dark and light, before and after a run."""
    folder.mkdir(parents=True, exist_ok=True)
    window = Window()
    widgets = {name: window.open(name) for name in ("Align", "Train", "Sequence", "Landmarks")}
    pictures(window, widgets, folder, "before", ("Align",))
    press(widgets["Align"], "Run")
    window.wait(button(widgets["Align"], "Run").isEnabled, 600)
    window.go_to(window.results.session.registration.step_count)
    pictures(window, widgets, folder, "after", tuple(widgets))
    window.viewer.close()


def pictures(window: Window, widgets: dict[str, Any], folder: Path, when: str, names: tuple[str, ...]) -> None:
    """One picture a widget, size and theme."""
    for theme in ("dark", "light"):
        window.viewer.theme = theme
        for size in SIZES:
            window.viewer.window.resize(*size)
            for name in names:
                next(dock for dock in window.docks() if dock.isAncestorOf(widgets[name])).raise_()
                window.viewer.reset_view()
                window.settle()
                seen = window.viewer.screenshot(canvas_only=False, flash=False)
                Image.fromarray(seen).convert("RGB").save(folder / f"{name.lower()}_{when}_{size[0]}x{size[1]}_{theme}.png")


def main() -> None:
    """Take every picture."""
    window = Window()
    align(window)
    sequence(window)
    preferences(window)
    landmarks(window)
    train(window)
    window.viewer.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Neither settings nor weights of the person who runs this are read or written.
        os.environ |= {"NAPARI_CONFIG": f"{folder}/settings.yaml", "XDG_DATA_HOME": folder}
        at_all_sizes(Path(sys.argv[2])) if sys.argv[1:2] == ["--sizes"] else main()
