"""A real napari window, and real mouse events in it; the only test code that touches napari's private canvas."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.registration import FrameResult, register_series
from r2n2.series import ImageSeries


class CanvasMouse:
    """Real mouse events at world positions (y, x); convert data positions with layer.data_to_world first."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.canvas, self.qtbot = viewer.window._qt_viewer.canvas, qtbot
        self.native = self.canvas.native
        qtbot.waitExposed(viewer.window._qt_window)
        viewer.reset_view()
        qtbot.wait(200)

    def position(self, yx: tuple[float, float], tile: int | None = None) -> QPoint:
        transform = self.canvas.view.scene.transform
        if tile is not None:
            transform = self.canvas.grid_views[tile].scene.node_transform(self.canvas._scene_canvas.scene)
        x, y = transform.map([yx[1], yx[0]])[:2]
        return QPoint(round(x), round(y))

    def move(self, place: QPoint) -> None:
        QTest.mouseMove(self.native, place)  # napari reads the cursor from the move, so move before a press
        self.qtbot.wait(20)

    def click(self, yx: tuple[float, float], tile: int | None = None) -> None:
        place = self.position(yx, tile)
        self.move(place)
        QTest.mouseClick(self.native, Qt.LeftButton, Qt.NoModifier, place)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 10) -> None:
        a, b = self.position(start), self.position(end)
        self.move(a)
        QTest.mousePress(self.native, Qt.LeftButton, Qt.NoModifier, a)
        for k in range(steps + 1):
            self.move(a + (b - a) * k / steps)
        QTest.mouseRelease(self.native, Qt.LeftButton, Qt.NoModifier, b)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Closed windows are garbage with GL and Qt objects in it: collected here, not by chance in the thread of a later worker."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """No thread that a test started is alive at its end, but for the pools that zarr and dask keep for the whole process."""
    before = {thread.ident for thread in threading.enumerate()}
    yield
    until = time.monotonic() + 20
    while left := [
        thread
        for thread in threading.enumerate()
        if thread.ident not in before and not thread.name.startswith(("zarr_io", "asyncio_", "ThreadPoolExecutor"))
    ]:
        assert time.monotonic() < until, f"still alive: {left}"
        time.sleep(0.05)


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any]) -> Any:
    """A shown window; napari's fixture fails the test if a viewer, a widget or a worker leaks."""
    return make_napari_viewer(show=True)


@pytest.fixture
def canvas_mouse(viewer: Any, qtbot: Any) -> CanvasMouse:
    return CanvasMouse(viewer, qtbot)


@pytest.fixture
def press(qtbot: Any) -> Callable[[Any], None]:
    """A real mouse click on a widget."""

    def click(button: Any) -> None:
        assert button.isVisible()
        assert button.isEnabled()
        QTest.mouseClick(button, Qt.LeftButton)

    return click


def disc_series() -> ImageSeries:
    """A blurred disc that moves down by up to 4 mm: 4 frames of 27 x 35 pixels of 2 x 1.5 mm, int16, every 0.5 s."""
    y, x = np.meshgrid(np.arange(27) * 2.0, np.arange(35) * 1.5, indexing="ij")
    frames = [900 / (1 + np.exp((np.hypot(y - 24 - shift, x - 25) - 11) / 1.5)) for shift in (0.0, 2.0, 4.0, 2.0)]
    return ImageSeries(
        frames=np.stack(frames)[:, None].astype(np.int16),
        grid=Grid((27, 35), (2.0, 1.5), (10.0, -7.0)),
        times_s=(0.0, 0.5, 1.0, 1.5),
        name="disc",
        modality="MR",
    )


@pytest.fixture
def series() -> ImageSeries:
    """The moving disc of ``disc_series``."""
    return disc_series()


@pytest.fixture(scope="session")
def disc_config() -> RegistrationConfig:
    """Six Gaussians fitted quickly."""
    small = FitConfig(sizes=(16, 32, 48), rounds=2, steps_a_round=3, final_steps=3, regulariser_size=12)
    return RegistrationConfig(method="fit", steps=6, reference=0, device="cpu", fit=small)


@pytest.fixture(scope="session")
def disc_results(disc_config: RegistrationConfig) -> tuple[FrameResult, ...]:
    """The moving disc registered, once for all tests."""
    return tuple(result for progress in register_series(disc_series(), disc_config) for result in progress.finished)


@pytest.fixture
def in_layer(viewer: Any, series: ImageSeries) -> Any:
    from napari_r2n2.layers.from_series import series_to_layers

    data, options, _kind = series_to_layers([series])[0]
    return viewer.add_image(data, **options)


@pytest.fixture
def aligned(viewer: Any, in_layer: Any, disc_config: RegistrationConfig, disc_results: tuple[FrameResult, ...]) -> Any:
    """The disc aligned to frame 0 by six Gaussians, shown in the window; its ``ResultLayers``."""
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.result_layers import results_of
    from napari_r2n2.layers.to_series import axes_of, layer_to_series

    results = results_of(viewer)
    results.session.begin(layer_to_series(in_layer), disc_config)
    results.begin(Place.of(in_layer, axes_of(in_layer)), in_layer)
    for result in disc_results:
        results.session.add(0, 0, result)
    results.session.end()
    return results
