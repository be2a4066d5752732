"""The Function widget in a real window: a phantom of known ventilation, from a proposed, a painted and a read mask to the files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.models.lung_function import aligned_parts, read_functions
from napari_r2n2.models.registration import Registration
from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid
from r2n2.lung.settings import LungConfig
from r2n2.registration import FrameStatus, unregistered
from r2n2.simulation.tissue_phantom import TissuePhantom, simulate_tissue

pytestmark = pytest.mark.usefixtures("canvas_mouse")


@pytest.fixture(scope="module")
def phantom() -> TissuePhantom:
    made = simulate_tissue(3, frames=100, snr=60, shape=(72, 90))
    return replace(made, series=replace(made.series, grid=Grid((72, 90), (4.0, 3.5)), name="lung"))


@pytest.fixture
def widget(viewer: Any, phantom: TissuePhantom, qtbot: Any) -> Iterator[Any]:
    data, options, _kind = series_to_layers([phantom.series])[0]
    layer = viewer.add_image(data, **options)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Function")
    assert "choose an aligned layer" in widget.message.text()
    assert not widget.start.isEnabled()
    widget.aligned_layer.choose(layer)
    yield widget
    # Closed before the layers go: napari 0.9 crashes in software GL if the canvas changes its size once they are gone.
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.wait(50)


def _done(widget: Any, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: widget.job is None and widget.run is not None, timeout=60_000)


def test_without_a_mask_one_is_proposed_and_shown(
    viewer: Any, widget: Any, phantom: TissuePhantom, press: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    press(widget.start)
    _done(widget, qtbot)
    mask = widget.mask_layer.layer
    assert "proposed" in mask.name
    assert mask.visible
    inside = mask.data > 0
    assert 2 * (inside & phantom.lung).sum() / (inside.sum() + phantom.lung.sum()) > 0.85
    maps = {layer.name.removeprefix("lung "): layer for layer in viewer.layers}
    ventilation = maps["fractional ventilation"]
    known = inside & (phantom.ventilation > 0.1)
    np.testing.assert_allclose(ventilation.data[known], phantom.ventilation[known], atol=0.04)
    np.testing.assert_array_equal(ventilation.scale, (4.0, 3.5))
    assert [str(unit) for unit in ventilation.units] == ["millimeter", "millimeter"]
    assert ventilation.contrast_limits[0] == 0
    assert 0.1 < ventilation.contrast_limits[1] < 0.5
    assert ventilation.visible
    assert not maps["perfusion (of large vessels)"].visible
    delay = maps["breathing delay (s)"].contrast_limits
    assert delay[0] == -delay[1]
    assert "proposal" in widget.message.text()
    assert [widget.table.item(row, 0).text() for row in range(3)] == ["right", "left", "both"]
    assert float(widget.table.item(2, 1).text()) == pytest.approx(float(np.nanmedian(ventilation.data[inside])), abs=1e-3)
    labels = [line.get_label() for line in widget.plot.axes.get_lines()]
    assert f"breathing {phantom.breathing_hz:.2f} Hz" in labels
    widget.write(tmp_path / "out")
    qtbot.waitUntil(lambda: widget.job is None, timeout=60_000)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"fractional_ventilation.nii.gz", "perfusion.nii.gz", "lung.csv", "lung.json", "report.html"} <= names
    rows = list(csv.DictReader((tmp_path / "out" / "lung.csv").read_text().splitlines()))
    assert float(rows[2]["ventilation"]) == pytest.approx(float(np.nanmedian(ventilation.data[inside])), rel=1e-5)


def test_a_drawn_mask_counts_and_a_second_run_replaces_the_maps(
    viewer: Any, widget: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    drawn = np.zeros((72, 90), np.uint8)
    drawn[25:50, 20:32] = 1
    layer = viewer.add_labels(drawn, scale=(4.0, 3.5), name="painted")
    widget.mask_layer.choose(layer)
    press(widget.start)
    _done(widget, qtbot)
    assert "layer 'painted'" in widget.run.mask_text
    np.testing.assert_array_equal(widget.run.functions[0].mask, layer.data > 0)
    count = len(viewer.layers)
    viewer.layers["lung fractional ventilation"].visible = False
    widget.form._share.setValue(0.4)
    press(widget.start)
    qtbot.waitUntil(lambda: widget.run.functions[0].config.defect_share == 0.4, timeout=60_000)
    _done(widget, qtbot)
    assert len(viewer.layers) == count
    assert not viewer.layers["lung fractional ventilation"].visible, "what was hidden stays hidden"


def test_a_mask_from_a_file_and_a_proposal_are_layers_to_look_at(
    viewer: Any, widget: Any, phantom: TissuePhantom, press: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "mask.npy", phantom.lung.astype(np.uint8))
    widget.read_mask(tmp_path / "mask.npy")
    np.testing.assert_array_equal(widget.mask_layer.layer.data, phantom.lung)
    widget.read_mask(tmp_path / "none.npy")
    assert "no such file" in widget.message.text()
    press(widget.propose)
    qtbot.waitUntil(lambda: widget.job is None, timeout=60_000)
    assert "proposed" in widget.mask_layer.layer.name
    widget.form._breathing._ends[1].setValue(0.8)
    press(widget.start)
    assert "set them apart" in widget.message.text()


def test_a_registration_gives_its_frames_aligned_and_says_which_count(phantom: TissuePhantom) -> None:
    registration = Registration([phantom.series], RegistrationConfig(method="fit"))
    for frame in range(len(phantom.series)):
        status = FrameStatus.DOUBTFUL if frame in (7, 8) else FrameStatus.OK
        registration.add(0, 0, unregistered(frame, phantom.series.grid, status, ""))
    (part,) = aligned_parts(registration)
    assert part.left_out == (7, 8)
    np.testing.assert_allclose(part.frame(5), phantom.series.frame(5)[0], atol=0.01)
    running = read_functions((part,), [phantom.lung], LungConfig(), "drawn")
    try:
        while True:
            assert 0 < next(running).fraction <= 1
    except StopIteration as end:
        (function,) = end.value.functions
    assert function.left_out == (7, 8)
    assert function.jacobian is not None
    np.testing.assert_allclose(function.jacobian[phantom.lung], 0, atol=1e-9)
    assert np.abs(function.ventilation - phantom.ventilation)[phantom.lung].mean() < 0.01


def test_too_few_frames_are_refused_in_words(viewer: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Function")
    viewer.add_labels(np.ones((27, 35), np.uint8), scale=(2.0, 1.5), name="all")
    widget.mask_layer.choose(viewer.layers["all"])
    qtbot.waitUntil(widget.start.isVisible)
    press(widget.start)
    qtbot.waitUntil(lambda: "at least 16 aligned frames" in widget.message.text(), timeout=60_000)
    qtbot.waitUntil(lambda: widget.job is None)
