"""The widget in a real window: opened from the menu, run and cancelled with real clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import r2n2.registration
from r2n2.errors import ResourceError
from r2n2.geometry import Grid
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.series import ImageSeries

pytestmark = pytest.mark.usefixtures("canvas_mouse")


@pytest.fixture
def widget(viewer: Any) -> Any:
    """The widget as the entry of the Plugins menu opens it."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Align (R2N2)")
    return widget


def _endless(series: ImageSeries, _config: Any) -> Iterator[SeriesProgress]:
    """Gives frame 1 at once, then only progress, until somebody stops it."""
    values = {"similarity_before": 0.5, "similarity_after": 0.9, "folding_percent": 0.0, "min_jacobian": 1.0}
    result = FrameResult(1, None, FrameStatus.OK, "", **values, max_displacement_mm=1.0, seconds=0.1)  # type: ignore[arg-type]
    yield SeriesProgress(0, 1, len(series), 0.25, (result,))
    for _ in range(100_000):
        yield SeriesProgress(0, 1, len(series), 0.5, ())


def _finished(qtbot: Any, widget: Any, timeout: int = 60_000) -> None:
    qtbot.waitUntil(lambda: widget._worker is None, timeout=timeout)


def test_without_a_layer_it_says_what_to_do(widget: Any) -> None:
    assert not widget._run.isEnabled()
    assert "Open an image series" in widget._message.text()


def test_run_adds_the_aligned_layer(viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any) -> None:
    before = in_layer.data.copy()
    widget._reference.setValue(0)
    press(widget._run)
    assert not widget._run.isEnabled()
    assert {name: widget._settings[name] for name in ("method", "weights", "refine")} == {
        "method": "r2n2",
        "weights": "general",
        "refine": True,
    }
    _finished(qtbot, widget)
    result = viewer.layers["disc registered"]
    np.testing.assert_allclose(result.scale, in_layer.scale)
    assert (result.units, result.axis_labels, result.data.dtype) == (in_layer.units, in_layer.axis_labels, in_layer.data.dtype)
    np.testing.assert_array_equal(in_layer.data, before)
    np.testing.assert_array_equal(result.data[0], before[0])
    error = [np.abs(stack[2].astype(float) - before[0]).mean() for stack in (before, result.data)]
    assert error[1] < 0.5 * error[0]
    assert widget._progress.value() == 1000
    assert widget._run.isEnabled()


def test_cancel_keeps_the_frames_that_are_ready(
    viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(r2n2.registration, "register_series", _endless, raising=False)
    warped = np.full((1, 27, 35), 77, np.int16)
    monkeypatch.setattr(r2n2.registration, "warp_frame", lambda _series, _result: warped, raising=False)
    press(widget._run)
    qtbot.waitUntil(lambda: widget._progress.value() >= 250)
    press(widget._cancel)
    _finished(qtbot, widget)
    result = viewer.layers["disc registered (partial)"]
    np.testing.assert_array_equal(result.data[1], warped[0])
    np.testing.assert_array_equal(result.data[2], in_layer.data[2])
    assert "Cancelled" in widget._message.text()
    assert widget._run.isEnabled()
    assert not widget._cancel.isEnabled()


def test_a_problem_is_shown_in_plain_words(
    viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_series: ImageSeries, _config: Any) -> Iterator[SeriesProgress]:
        raise ResourceError("the device has no memory left; use a smaller batch")
        yield

    monkeypatch.setattr(r2n2.registration, "register_series", refuse, raising=False)
    monkeypatch.setattr(r2n2.registration, "warp_frame", None, raising=False)
    press(widget._run)
    _finished(qtbot, widget)
    assert widget._message.text() == "the device has no memory left; use a smaller batch"
    assert list(viewer.layers) == [in_layer]


def test_a_layer_without_time_is_refused(viewer: Any, widget: Any, press: Callable[[Any], None]) -> None:
    viewer.add_image(np.zeros((27, 35)), name="photo")
    press(widget._run)
    assert "'photo'" in widget._message.text()
    assert widget._worker is None


def test_reference_is_limited_to_the_frames(widget: Any, in_layer: Any) -> None:
    assert widget._reference.text() == "auto"
    widget._reference.setValue(99)
    assert widget._reference.value() == len(in_layer.data) - 1


def test_removed_layer_leaves_the_list(viewer: Any, widget: Any, in_layer: Any) -> None:
    viewer.layers.remove(in_layer)
    assert widget._layers.value is None
    assert not widget._run.isEnabled()


def test_closing_the_dock_stops_the_worker(
    viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(r2n2.registration, "register_series", _endless, raising=False)
    monkeypatch.setattr(r2n2.registration, "warp_frame", lambda *_: np.zeros((1, 27, 35), np.int16), raising=False)
    press(widget._run)
    qtbot.waitUntil(lambda: widget._progress.value() >= 250)
    worker = widget._worker
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not worker.is_running)
    assert worker.abort_requested


def test_sample_opens_with_landmarks(viewer: Any) -> None:
    viewer.open_sample("napari-r2n2", "breathing_thorax")
    image, points = viewer.layers
    np.testing.assert_allclose(image.scale, points.scale)
    assert image.units == points.units
    assert image.axis_labels == ("frame", "y", "x")
    assert len(points.data) > 0
    assert points.data[:, 0].max() < image.data.shape[0]


def test_slices_run_one_after_the_other(
    viewer: Any, widget: Any, series: ImageSeries, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_r2n2.layers import series_to_layers

    def instant(item: ImageSeries, _config: Any) -> Iterator[SeriesProgress]:
        values = {"similarity_before": 0.5, "similarity_after": 0.9, "folding_percent": 0.0, "min_jacobian": 1.0}
        results = [
            FrameResult(t, None, FrameStatus.OK, "", **values, max_displacement_mm=1.0, seconds=0.1)  # type: ignore[arg-type]
            for t in range(len(item))
        ]
        yield SeriesProgress(0, len(item), len(item), 1.0, tuple(results))

    monkeypatch.setattr(r2n2.registration, "register_series", instant, raising=False)
    monkeypatch.setattr(r2n2.registration, "warp_frame", lambda item, result: item.frame(result.frame) + 1, raising=False)
    other = replace(series, frames=np.asarray(series.frames) * 2, patient_grid=Grid((1, 27, 35)))
    data, options, _kind = series_to_layers([series, other])[0]
    layer = viewer.add_image(data, **options)
    press(widget._run)
    _finished(qtbot, widget)
    np.testing.assert_array_equal(viewer.layers["disc registered"].data, layer.data + 1)
