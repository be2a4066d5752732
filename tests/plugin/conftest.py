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

from qtpy.QtCore import QEvent, QPoint, Qt, QThreadPool
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

import r2n2.registration
import r2n2.workflow  # before a test replaces register_series, of which it keeps its own name
from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.registration import FrameResult, FrameStatus, register_series, unregistered
from r2n2.registration.results import SeriesProgress
from r2n2.series import ImageSeries

_SIZE = (1000, 640)


class CanvasMouse:
    """Real mouse events at world positions (y, x); convert data positions with layer.data_to_world first."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.canvas, self.qtbot = viewer.window._qt_viewer.canvas, qtbot
        self.native = self.canvas.native
        qtbot.waitExposed(viewer.window._qt_window)
        viewer.reset_view()
        qtbot.wait(50)

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
    """Closed windows and deleted layers are garbage with GL objects in it: collected here, not in a later worker's thread."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """No thread that a test started is alive at its end, but for the pools that zarr and dask keep for the whole process.

    Our workers run in threads of Qt's own pool, of which Python keeps a record (``_DummyThread``) as soon as anything in them asks
    for the current thread, as joining another thread does; up to Python 3.12 nothing ever takes it away, and it says nothing of
    whether the thread lives. What counts for these threads is that none is at work.
    """
    before = {thread.ident for thread in threading.enumerate()}
    pool = QThreadPool.globalInstance()
    yield
    until = time.monotonic() + 20
    while (
        left := [
            thread
            for thread in threading.enumerate()
            if thread.ident not in before
            and not isinstance(thread, threading._DummyThread)
            and not thread.name.startswith(("zarr_io", "asyncio_", "ThreadPoolExecutor"))
        ]
    ) or pool.activeThreadCount():
        assert time.monotonic() < until, f"still alive: {left}, and {pool.activeThreadCount()} at work in Qt's pool"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def _window(qapp: Any) -> Iterator[Any]:
    """One window for all tests that leave it as it was: opening and closing one takes longer than most tests."""
    import napari
    from napari._qt.threads.status_checker import StatusChecker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatusChecker, "start", lambda _self: None)  # a thread that no test needs
        viewer = napari.Viewer(show=True, show_welcome_screen=False)
        viewer.window._qt_window.resize(*_SIZE)
        qapp.processEvents()
        gc.collect()
        gc.freeze()  # what stays for the whole session is not searched for garbage after every test
        yield viewer
        gc.unfreeze()
        patch.setattr(viewer.window._qt_window, "_save_current_window_settings", lambda: ({}, {}))
        viewer.close()


@pytest.fixture
def viewer(_window: Any, qtbot: Any) -> Iterator[Any]:
    """A shown window without layers and docks; what a test does to it is undone."""
    size, callbacks = _window.window._qt_window.size(), list(_window.mouse_drag_callbacks)
    keymap = dict(_window.keymap)
    qtbot.waitExposed(_window.window._qt_window)
    yield _window
    _clear(_window)
    _window.mouse_drag_callbacks[:] = callbacks
    _window.keymap.clear()
    _window.keymap.update(keymap)
    _window.window._qt_window.resize(size)


def _clear(viewer: Any) -> None:
    """As a window is when it opens."""
    from napari._qt.dialogs.qt_notification import NapariQtNotification

    from napari_r2n2.layers import result_layers
    from napari_r2n2.models import session

    viewer.dims.ndisplay = 2  # dims.reset leaves it, and shapes that were built in 3D cannot be drawn in 2D
    # Layers first: napari 0.9 crashes in software GL if the canvas changes its size after the lowest of its layers was removed.
    viewer.layers.clear()
    for dock in list(viewer.window._wrapped_dock_widgets.values()):
        inner = dock.inner_widget()
        viewer.window.remove_dock_widget(dock)
        inner.deleteLater()
    for notification in viewer.window._qt_window.findChildren(NapariQtNotification):
        notification.close()
    # What was posted for deletion is deleted now, and lets go of the viewer.
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    result_layers._RESULTS.pop(viewer, None)
    session._SESSIONS.pop(viewer, None)
    viewer.dims.reset()
    viewer.dims.axis_labels = ("0", "1")
    viewer.canvas.grid.enabled = False
    viewer.theme = "dark"


@pytest.fixture
def own_viewer(request: pytest.FixtureRequest) -> Any:
    """A window of its own, for tests that close it or need it new; napari's fixture fails the test if it leaks."""
    from napari._qt.qt_viewer import QtViewer

    QtViewer._instances.clear()  # else the window that all others share would count as a leak
    return request.getfixturevalue("make_napari_viewer")(show=True)


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


@pytest.fixture
def widget(viewer: Any, canvas_mouse: Any) -> Any:
    """The Align widget as the entry of the Plugins menu opens it; files of other widgets have their own."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Align")
    return widget


@pytest.fixture
def finished(qtbot: Any) -> Callable[..., None]:
    """Wait until what an Align widget does in the background is over."""

    def wait(widget: Any, timeout: int = 120_000) -> None:
        qtbot.waitUntil(lambda: widget.job is None, timeout=timeout)
        assert gc.isenabled(), "what the run took it gives back"

    return wait


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, disc_results: tuple[FrameResult, ...]) -> None:
    """Registration gives the disc's known results."""

    def register(item: ImageSeries, _config: Any, **_done: Any) -> Iterator[SeriesProgress]:
        for count, result in enumerate(disc_results, start=1):
            yield SeriesProgress(0, count, len(item), count / len(item), (result,))

    monkeypatch.setattr(r2n2.registration, "register_series", register)


def _endless(item: ImageSeries, _config: Any, **_done: Any) -> Iterator[SeriesProgress]:
    """Gives the reference at once, then only progress, until somebody stops it."""
    yield SeriesProgress(0, 1, len(item), 0.25, (unregistered(0, item.grid, FrameStatus.REFERENCE, ""),))
    for _ in range(10_000):
        time.sleep(0.01)  # in the worker's thread: the pace of real steps
        yield SeriesProgress(0, 1, len(item), 0.5, ())


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration never ends by itself."""
    monkeypatch.setattr(r2n2.registration, "register_series", _endless)
