"""Volumes from the file to the result and back, through the Align widget of a real window."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volume_case
from napari.layers import Image, Labels, Shapes
from qtpy.QtWidgets import QApplication

import r2n2.report.page
from napari_r2n2.layers.image_views import View
from napari_r2n2.layers.masks import layer_to_masks
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.retake import can_be_either, retaken
from napari_r2n2.layers.to_series import axes_of, layer_to_series
from napari_r2n2.models.session import FrameKey
from r2n2.errors import ArgumentError
from r2n2.geometry import Space
from r2n2.io import read_series, write_series
from r2n2.registration import FrameResult
from r2n2.transform import BSplineField

GRID = volume_case.GRID
Press = Callable[[Any], None]
Finished = Callable[..., None]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures take seconds."""
    monkeypatch.setattr(r2n2.report.page, "render_report", lambda *_arguments: "<html></html>")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    series = dataclasses.replace(volume_case.volumes(), source={"format": "nifti", "path": "lung.nii"})
    return write_series(tmp_path, "lung", series, (series.frame(k) for k in range(3)))


def _open(viewer: Any, file: Path) -> Any:
    (layer,) = viewer.open(str(file), plugin="napari-r2n2")
    return layer


def test_the_network_is_grey_and_gaussians_are_fitted_instead(viewer: Any, widget: Any, file: Path, in_layer: Any) -> None:
    form = widget.form
    method = form._method
    assert method.currentData() == "r2n2"
    assert not form.chooser.stack_box.isVisible()
    layer = _open(viewer, file)
    form.chooser.choose(layer)
    network = method.model().item(method.findData("r2n2"))
    assert not network.isEnabled()
    assert "made for slices" in network.toolTip()
    assert method.currentData() == "fit"
    assert not form._refine.isEnabled()
    config = form.config()
    assert (config.method, config.volume_steps, config.steps) == ("fit", 100, 25)
    assert form._steps.value() == 100
    form._steps.setValue(40)
    assert form.config().volume_steps == 40
    assert widget._run.isEnabled()
    text = widget._message.text()
    assert text.startswith("Read as a volume: 14 slices 3 mm apart, of pixels of 1.5 mm.")
    assert "GiB of memory" in text
    assert "--" not in text
    form._steps.setValue(100)
    form.chooser.choose(in_layer)
    assert network.isEnabled()
    assert method.currentData() == "r2n2"
    assert form._steps.value() == 25


@pytest.mark.usefixtures("no_report")
def test_volumes_are_aligned_written_and_opened_again(
    viewer: Any, widget: Any, file: Path, press: Press, finished: Finished, tmp_path: Path
) -> None:
    layer = _open(viewer, file)
    before = np.array(layer.data)
    form = widget.form
    form._steps.setValue(2)
    form._auto.setChecked(False)
    form._reference.setValue(0)
    press(widget._run)
    finished(widget)
    assert "Done: 3 frames" in widget._message.text()
    assert "memory: about" in widget._message.text()
    results = widget.results
    aligned = results.layer(View.ALIGNED)
    assert aligned.data.shape == (3, 3, *GRID.shape)
    error = [np.abs(np.asarray(data, float) - before[0]).mean() for data in (before[2], aligned.data[-1, 2])]
    assert error[1] < 0.7 * error[0]
    assert results.shown(View.GAUSSIANS)
    np.testing.assert_array_equal(layer.data, before)
    moved = np.asarray(aligned.data[-1, 1])
    press(widget.files._command)
    command = shlex.split(QApplication.clipboard().text())
    assert command[:3] == ["r2n2", "register", str(file)]
    assert command[command.index("--method") + 1] == "fit"
    assert command[command.index("--steps") + 1] == "2"
    widget.files.export(tmp_path / "out")
    finished(widget)
    (written,) = read_series(next((tmp_path / "out").glob("registered.*")), volumes=True)
    assert written.grid.ndim == 3
    np.testing.assert_allclose(written.frame(1)[0], moved, atol=1)
    assert "z_mm" in (tmp_path / "out" / "sequence.csv").read_text().splitlines()[0]
    viewer.layers.clear()
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "Opened: 3 frames" in widget._message.text()
    np.testing.assert_allclose(np.asarray(results.layer(View.ALIGNED).data)[-1, 1], moved, atol=1)
    assert form._steps.value() == 2
    assert form._method.currentData() == "fit"
    for view in View:
        results.show(view)
    assert np.isfinite(np.asarray(results.layer(View.UNCERTAINTY).data[-1, 1, 7])).any()
    press(widget.files._plain)
    np.testing.assert_allclose(viewer.layers[-1].data[1], moved, atol=1)


@pytest.mark.usefixtures("endless")
def test_a_run_of_volumes_can_be_cancelled(
    viewer: Any, widget: Any, file: Path, press: Press, finished: Finished, qtbot: Any
) -> None:
    _open(viewer, file)
    press(widget._run)
    qtbot.waitUntil(lambda: len(widget.session.results) == 1)
    press(widget._cancel)
    finished(widget)
    assert "Cancelled: 1 of 3 frames" in widget._message.text()


def test_taken_as_slices_and_back_again(viewer: Any, widget: Any, file: Path, qtbot: Any) -> None:
    layer, chooser = _open(viewer, file), widget.form.chooser
    assert chooser.stack_box.isVisible()
    assert chooser.stack_box.currentText() == "volumes"
    qtbot.keyClick(chooser.stack_box, "s")
    slices = chooser.layer
    assert slices is not layer
    assert slices.axis_labels == ("slice", "time", "y", "x")
    assert slices.name == "lung by slice"
    assert not layer.visible
    assert len(chooser.series()) == 14
    assert chooser.series()[3].source["asked"]["volumes"] is False, "read from the file, as r2n2 register --slices does"
    np.testing.assert_array_equal(slices.data[3], np.asarray(layer.data)[:, 3])
    # Within that time two keys are the beginning of one word.
    qtbot.wait(QApplication.keyboardInputInterval() + 100)
    qtbot.keyClick(chooser.stack_box, "v")
    again = chooser.layer
    assert again.axis_labels == ("time", "z", "y", "x")
    assert chooser.series()[0].grid == layer_to_series(layer)[0].grid
    np.testing.assert_array_equal(again.data, layer.data)


def test_pixels_that_are_not_those_of_the_file_are_kept(viewer: Any, file: Path) -> None:
    layer = _open(viewer, file)
    layer.data = np.asarray(layer.data) + 1
    data, options = retaken(layer, volumes=False)
    np.testing.assert_array_equal(data[3], layer.data[:, 3])
    assert options["axis_labels"] == ("slice", "time", "y", "x")
    slices = Image(data, **options)
    back, options = retaken(slices, volumes=True)
    np.testing.assert_array_equal(back, layer.data)
    np.testing.assert_allclose(options["scale"], layer.scale)
    apart = Image(np.zeros((4, 3, 20, 20)), axis_labels=("slice", "time", "y", "x"), units=("pixel", "s", "mm", "mm"))
    assert can_be_either(apart)
    with pytest.raises(ArgumentError, match="distance of its slices is not known"):
        retaken(apart, volumes=True)


def test_a_layer_without_names_is_named(viewer: Any, widget: Any) -> None:
    data = np.random.default_rng(0).random((3, 17, 18, 19)).astype(np.float32)
    layer = viewer.add_image(data, name="cells", scale=(1, 2, 1.5, 1.5))
    widget.form.chooser.axes_box.setCurrentText("time, z, y, x")
    chosen = widget.form.chooser.layer
    assert chosen is not layer
    assert axes_of(chosen) == ("frame", "z", "y", "x")
    (series,) = widget.form.chooser.series()
    assert series.grid.shape == (17, 18, 19)
    assert series.grid.spacing == (2, 1.5, 1.5)
    assert widget._run.isEnabled()


def test_too_small_volumes_say_so(viewer: Any, widget: Any) -> None:
    labels = ("time", "z", "y", "x")
    viewer.add_image(np.random.default_rng(0).random((3, 5, 9, 40)), axis_labels=labels, name="flat")
    assert "frames of 5 x 9 x 40 pixels are too small" in widget._message.text()
    thin = viewer.add_image(np.random.default_rng(0).random((3, 1, 29, 40)), axis_labels=labels, name="thin")
    widget.form.chooser.choose(thin)
    assert "have one slice" in widget._message.text()


def test_the_network_cannot_be_trained_on_volumes(viewer: Any, canvas_mouse: Any) -> None:
    volume_case.show(viewer, dataclasses.replace(volume_case.volumes(), frames=np.zeros((5, 1, *GRID.shape)), times_s=None))
    _dock, train = viewer.window.add_plugin_dock_widget("napari-r2n2", "Train")
    assert not train._start.isEnabled()
    assert "learns nothing from volumes" in train._phase.text()


def test_masks_of_volumes(viewer: Any) -> None:
    layer = volume_case.show(viewer)
    place = Place.of(layer, axes_of(layer))
    series = layer_to_series(layer)
    drawn = np.zeros((3, *GRID.shape), np.uint8)
    drawn[1, 4:9, 5:12, 3:10], drawn[2, 12, 20, 17] = 2, 1
    labels = Labels(drawn, scale=layer.scale, translate=layer.translate)
    expected = drawn.any(axis=0)
    (masks,) = layer_to_masks(labels, place, series, (0,))
    np.testing.assert_array_equal(masks.fixed.inside(), expected)
    # Of another lattice: every voxel takes the label that lies nearest.
    coarse = Labels(drawn[1, ::2, ::2, ::2], scale=2 * layer.scale[1:], translate=layer.translate[1:])
    (masks,) = layer_to_masks(coarse, place, series, (0,))
    assert masks.fixed.inside()[4, 6, 4]
    assert not masks.fixed.inside()[12, 20, 17]
    with pytest.raises(ArgumentError, match="needs z, y and x"):
        layer_to_masks(Labels(drawn[0, 0]), place, series, (0,))
    # A rectangle on a coronal slice, y = 7.
    corners = np.array([[0, 2, 7, 3], [0, 2, 7, 9], [0, 8, 7, 9], [0, 8, 7, 3]], float)
    shapes = Shapes([corners], scale=layer.scale, translate=layer.translate)
    (masks,) = layer_to_masks(shapes, place, series, (0,))
    found = masks.fixed.inside()
    assert found[3:8, 7, 4:9].all()
    assert found.any(axis=(0, 2)).nonzero()[0].tolist() == [7]


def test_a_b_spline_is_shown_without_gaussians(viewer: Any, canvas_mouse: Any) -> None:
    import torch

    layer = volume_case.show(viewer)
    results = volume_case.align(viewer, layer)
    control = 0.05 * torch.randn(3, 5, 6, 5, generator=torch.Generator().manual_seed(1))
    spline = BSplineField(control, GRID)
    results.session.begin(results.session.series, volume_case.CONFIG.model_copy(update={"method": "bspline"}))
    results.begin(Place.of(layer, axes_of(layer)), layer)
    known: FrameResult = dataclasses.replace(volume_case.results()[2], transform=spline, gaussians=None)
    for result in (volume_case.results()[0], known):
        results.session.add(0, 0, result)
    results.go_to(key=FrameKey(0, 2), step=1)
    for view in (View.MAGNITUDE, View.ARROWS, View.GAUSSIANS):
        results.show(view)
    expected = spline.displacement_field()
    data = results.layer(View.MAGNITUDE).data
    assert data.shape[0] == 2
    np.testing.assert_allclose(data[1, 2, :, 9], expected.magnitude_mm().numpy()[:, 9], atol=1e-4)
    arrows = results.layer(View.ARROWS).data * results.layer(View.ARROWS).scale
    at = np.rint(arrows[0, 0] / GRID.spacing).astype(int)
    vector = expected.to_space(Space.INDEX).vectors[(slice(None), *at)].numpy() * GRID.spacing
    np.testing.assert_allclose(arrows[0, 1, 1:], vector[1:], atol=1e-4)
    assert len(results.layer(View.GAUSSIANS).data) == 0
