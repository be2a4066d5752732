"""How quickly the plugin answers: what opening its menu imports, how long a widget takes to open, how long a slider step to redraw.

Run in a display, on software OpenGL for instance:

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/gui.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WIDGETS = ("Align", "Sequence", "Landmarks", "Train")
FRAMES, SIZE, STEPS = 20, 256, 25
GOAL_OPEN_S, GOAL_REDRAW_MS = 2.0, 200.0


def menu_imports() -> list[str]:
    """Heavy modules that napari loads to list the plugin's menu entries."""
    code = (
        "import sys, npe2; pm = npe2.PluginManager.instance(); pm.discover(); "
        "list(pm.iter_widgets()); list(pm.iter_menu('napari/layers/register')); "
        "print(*[m for m in ('torch', 'r2n2.network.r2n2', 'napari_r2n2.widgets.align') if m in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def painted(viewer: Any, act: Callable[[], None]) -> float:
    """Seconds from an action until the canvas has drawn it."""
    from qtpy.QtWidgets import QApplication

    app = QApplication.instance()
    drawn: list[float] = []
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    canvas.events.draw.connect(lambda _event: drawn.append(time.perf_counter()), position="last")
    for _ in range(5):
        app.processEvents()
    drawn.clear()
    began = time.perf_counter()
    act()
    while not drawn and time.perf_counter() - began < 5:
        app.processEvents()
    app.processEvents()
    return time.perf_counter() - began


def row(name: str, seconds: list[float]) -> str:
    """One line of the table, in ms."""
    values = 1000 * np.array(seconds)
    return f"| {name} | {np.median(values):.0f} | {np.quantile(values, 0.95):.0f} | {values.max():.0f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="slider steps of each kind")
    repeats = parser.parse_args().repeats
    print("modules loaded by listing the menu:", ", ".join(menu_imports()) or "none of torch, the core's network, the widgets")

    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1200, 800)
    print("\n| widget | s to open, first time |\n|---|---|")
    widgets = {}
    for name in WIDGETS:
        began = time.perf_counter()
        _dock, widgets[name] = viewer.window.add_plugin_dock_widget("napari-r2n2", name, tabify=name != "Align")
        napari.qt.get_qapp().processEvents()
        print(f"| {name} | {time.perf_counter() - began:.2f} |")
        if name == "Align":
            print("| | torch loaded: " + ("yes" if "torch" in sys.modules else "no") + " |")

    from napari_r2n2.layers.from_series import series_to_layers
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.result_layers import View, results_of
    from napari_r2n2.layers.to_series import axes_of, layer_to_series
    from napari_r2n2.models.alignment import align
    from napari_r2n2.models.session import FrameKey
    from r2n2.config import RegistrationConfig
    from r2n2.simulation import ThoraxConfig, thorax_series

    made = thorax_series(ThoraxConfig(shape=(SIZE, SIZE), frames=FRAMES)).series
    data, options, _kind = series_to_layers([made])[0]
    layer = viewer.add_image(data, **options)
    series, config = layer_to_series(layer), RegistrationConfig(steps=STEPS)
    results = results_of(viewer)
    results.session.begin(series, config)
    results.begin(Place.of(layer, axes_of(layer)))
    for progress in align(series, config):
        for result in progress.finished:
            results.session.add(progress.slice_index, progress.reference, result)
    results.session.end()
    results.show(View.GAUSSIANS)

    def steps() -> list[float]:
        return [painted(viewer, lambda k=k: results.go_to(step=1 + 7 * k % STEPS)) for k in range(repeats)]

    def frames() -> list[float]:
        return [painted(viewer, lambda k=k: results.go_to(key=FrameKey(0, 1 + 7 * k % (FRAMES - 1)))) for k in range(repeats)]

    size = viewer.window._qt_viewer.canvas.native.size()
    print(f"\n{FRAMES} frames of {SIZE} x {SIZE}, {STEPS} Gaussians; canvas {size.width()} x {size.height()}")
    print("| slider | median ms | 95 % | max |\n|---|---|---|---|")
    for text, views in (("ellipses", ()), ("ellipses, arrows, grid", (View.ARROWS, View.GRID))):
        for view in views:
            results.show(view)
        results.go_to(key=FrameKey(0, 6), step=STEPS)
        print(row(f"step, {text}", steps()))
        print(row(f"frame, {text}", frames()))
    for view in (View.GAUSSIANS, View.ARROWS, View.GRID, View.ALIGNED):
        results.show(view, view is View.ALIGNED)
    print(row("step, image only", steps()))
    print(f"\nGoals: a widget opens in {GOAL_OPEN_S:g} s, a step redraws in {GOAL_REDRAW_MS:g} ms.")
    viewer.close()


if __name__ == "__main__":
    main()
