"""The Curves widget in a real window: regions that are drawn, read, plotted and written."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_r2n2.layers.carry.regions import regions_on_reference
from napari_r2n2.models.session import FrameKey
from r2n2.curves import label_curves
from r2n2.evaluation import warp_labels
from r2n2.registration import warp_pixels

pytestmark = pytest.mark.usefixtures("canvas_mouse")


@pytest.fixture
def widget(viewer: Any, aligned: Any) -> Any:
    aligned.go_to(key=FrameKey(0, 2))
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Curves")
    return widget


def test_regions_drawn_with_the_mouse_are_read_plotted_and_written(
    viewer: Any, widget: Any, aligned: Any, canvas_mouse: Any, press: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    assert "Draw regions first" in widget.message.text()
    assert not widget.read.isEnabled()
    layer = viewer.add_labels(np.zeros((27, 35), np.uint8), scale=(2.0, 1.5), name="drawn")
    layer.mode, layer.brush_size, layer.selected_label = "paint", 8, 1
    canvas_mouse.drag((24.0, 20.0), (24.0, 30.0))
    assert layer.data.sum() > 20, "the mouse drew"
    layer.selected_label = 2
    canvas_mouse.click((40.0, 40.0))
    press(widget.read)
    qtbot.waitUntil(lambda: widget.job is None, timeout=60_000)
    assert "2 regions, 4 frames." in widget.message.text()
    transforms = aligned.session.registration.transforms()
    series = aligned.session.series[0]
    running = label_curves(
        layer.data, series.grid, transforms, lambda k: warp_pixels(series.frame(k), transforms[k])[0], lambda k: series.frame(k)[0]
    )
    try:
        while True:
            next(running)
    except StopIteration as end:
        expected = end.value
    for found, known in zip(widget.curves.curves, expected, strict=True):
        for name in ("before", "after", "size", "strain"):
            np.testing.assert_allclose(getattr(found, name), getattr(known, name))
    lines = widget.plot.parts[0].get_lines()
    np.testing.assert_allclose(lines[1].get_ydata(), expected[0].after)
    np.testing.assert_allclose(lines[1].get_xdata(), [0.0, 0.5, 1.0, 1.5])
    widget.label.setCurrentIndex(1)
    np.testing.assert_allclose(widget.plot.parts[1].get_lines()[0].get_ydata(), expected[1].size)
    widget.write(tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert float(rows[2]["intensity_after"]) == pytest.approx(expected[0].after[2])
    assert (tmp_path / "out" / "curves.svg").exists()


def test_regions_of_another_frame_are_brought_to_the_reference(viewer: Any, widget: Any, aligned: Any) -> None:
    registration, place = aligned.session.registration, aligned.place
    box = np.zeros((27, 35), np.int64)
    box[10:16, 12:20] = 5
    layer = viewer.add_labels(box, scale=(2.0, 1.5))
    np.testing.assert_array_equal(regions_on_reference(layer, registration, place, None), box)
    np.testing.assert_array_equal(
        regions_on_reference(layer, registration, place, 2), warp_labels(box, registration.transforms()[2])
    )
    shapes = viewer.add_shapes(
        [
            np.array([[2, 10, 12], [2, 10, 19.0], [2, 15, 19], [2, 15, 12]]),
            np.array([[1, 0, 0], [1, 0, 4.0], [1, 4, 4], [1, 4, 0]]),
        ],
        shape_type="polygon",
        scale=(0.5, 2.0, 1.5),
    )
    found = regions_on_reference(shapes, registration, place, 2)
    assert set(np.unique(found)) == {0, 1}, "what is drawn in frame 1 is not of frame 2"
    assert abs(int((found == 1).sum()) - 48) < 10
