"""The Align widget in a real window: opened from the menu, run and cancelled with real clicks."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

import r2n2.registration
from napari_r2n2.layers.image_views import View
from napari_r2n2.models.session import FrameKey
from napari_r2n2.widgets.comparison import choose
from r2n2.config import RegistrationConfig, SimilarityName
from r2n2.errors import ResourceError
from r2n2.io import write_series
from r2n2.registration import FrameStatus, unregistered
from r2n2.registration.results import SeriesProgress
from r2n2.series import ImageSeries

pytestmark = pytest.mark.usefixtures("canvas_mouse")


def test_without_a_layer_it_says_what_to_do(widget: Any) -> None:
    assert not widget._run.isEnabled()
    assert "Open Sample" in widget._message.text()


def test_run_aligns_with_the_network_and_shows_ellipses(
    viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], finished: Callable[..., None]
) -> None:
    before = in_layer.data.copy()
    widget.form._auto.setChecked(False)
    widget.form._reference.setValue(0)
    press(widget._run)
    assert not widget._run.isEnabled()
    config = widget.session.config
    assert (config.method, config.weights, config.refine, config.reference) == ("r2n2", "general", True, 0)
    finished(widget)
    result = viewer.layers["disc aligned"]
    np.testing.assert_array_equal(in_layer.data, before)
    aligned = result.data[-1]
    np.testing.assert_array_equal(aligned[0], before[0])
    error = [np.abs(stack[2].astype(float) - before[0]).mean() for stack in (before, aligned)]
    assert error[1] < 0.5 * error[0]
    assert "disc Gaussians" in viewer.layers
    assert widget._progress.value() == widget._progress.maximum()
    assert "Done: 4 frames" in widget._message.text()
    assert widget._run.isEnabled()


@pytest.mark.usefixtures("quick")
def test_frames_appear_as_they_are_done(
    viewer: Any, widget: Any, in_layer: Any, disc_results: Any, press: Callable[[Any], None], finished: Callable[..., None]
) -> None:
    seen: list[tuple[int, bool]] = []
    press(widget._run)
    layer = widget.results.layer(View.ALIGNED)
    assert layer in viewer.layers, "the layer is there before the first frame is done"

    def look(key: FrameKey) -> None:
        seen.append((key.frame, np.array_equal(layer.data[-1, 2], in_layer.data[2])))

    widget.session.added.connect(look)
    finished(widget)
    assert seen == [(result.frame, result.frame < 2) for result in disc_results]


@pytest.mark.usefixtures("endless")
def test_cancel_keeps_the_frames_that_are_ready(
    widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any, finished: Callable[..., None]
) -> None:
    press(widget._run)
    qtbot.waitUntil(lambda: widget._progress.value() >= 250)
    assert "1 of 4 frames" in widget._message.text()
    press(widget._cancel)
    finished(widget)
    assert list(widget.session.results) == [FrameKey(0, 0)]
    assert not widget.session.complete
    assert "Cancelled: 1 of 4 frames" in widget._message.text()
    np.testing.assert_array_equal(widget.results.layer(View.ALIGNED).data[-1], in_layer.data)
    assert widget._run.isEnabled()
    assert widget.files._export.isEnabled(), "what is done can be written"
    assert not widget._cancel.isEnabled()


@pytest.mark.usefixtures("endless", "in_layer")
def test_pressing_run_twice_runs_once(
    viewer: Any, widget: Any, press: Callable[[Any], None], finished: Callable[..., None]
) -> None:
    press(widget._run)
    worker = widget.job.worker
    QTest.mouseClick(widget._run, Qt.LeftButton)
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key_Return, Qt.ControlModifier)
    assert widget.job.worker is worker
    press(widget._cancel)
    finished(widget)
    assert sum("aligned" in layer.name for layer in viewer.layers) == 1


@pytest.mark.usefixtures("endless", "in_layer")
def test_ctrl_enter_runs(viewer: Any, widget: Any, press: Callable[[Any], None], qtbot: Any, finished: Callable[..., None]) -> None:
    canvas = viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    qtbot.wait(50)
    QTest.keyClick(canvas, Qt.Key_Return, Qt.ControlModifier)
    assert widget.job is not None
    press(widget._cancel)
    finished(widget)


@pytest.mark.usefixtures("endless")
def test_the_input_layer_may_be_renamed_and_deleted_meanwhile(
    viewer: Any, widget: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any, finished: Callable[..., None]
) -> None:
    press(widget._run)
    qtbot.waitUntil(lambda: bool(widget.session.results))
    in_layer.name = "other"
    assert widget.form.chooser.layers.currentText() == "other"
    viewer.layers.remove(in_layer)
    qtbot.wait(100)
    assert widget.job is not None, "what runs goes on"
    press(widget._cancel)
    finished(widget)
    assert "disc aligned" in viewer.layers
    np.testing.assert_array_equal(viewer.layers["disc aligned"].data[-1, 1], in_layer.data[1])


@pytest.mark.usefixtures("endless", "in_layer")
def test_closing_the_dock_stops_the_worker(viewer: Any, widget: Any, press: Callable[[Any], None], qtbot: Any) -> None:
    ended: list[None] = []
    widget.session.ended.connect(lambda: ended.append(None))
    press(widget._run)
    qtbot.waitUntil(lambda: bool(widget.session.results))
    worker = widget.job.worker
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not worker.is_running)
    assert ended
    assert gc.isenabled()
    viewer.add_image(np.zeros((3, 20, 30)), name="nobody listens any more")


@pytest.mark.usefixtures("endless")
def test_closing_the_window_meanwhile_is_harmless(
    own_viewer: Any, series: ImageSeries, press: Callable[[Any], None], qtbot: Any
) -> None:
    viewer = own_viewer
    viewer.add_image(np.asarray(series.frames)[:, 0], name="disc")
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Align")
    qtbot.waitUntil(widget._run.isVisible)
    press(widget._run)
    qtbot.waitUntil(lambda: bool(widget.session.results))
    worker = widget.job.worker
    viewer.close()
    qtbot.waitUntil(lambda: not worker.is_running, timeout=20_000)
    qtbot.waitUntil(gc.isenabled, timeout=20_000)


@pytest.mark.usefixtures("in_layer")
def test_a_problem_is_shown_in_plain_words(
    widget: Any, press: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, finished: Callable[..., None]
) -> None:
    def refuse(_series: ImageSeries, _config: Any, **_masks: Any) -> Iterator[SeriesProgress]:
        raise ResourceError("the device has no memory left; use a smaller batch")
        yield

    monkeypatch.setattr(r2n2.registration, "register_series", refuse)
    press(widget._run)
    finished(widget)
    assert widget._message.text() == "the device has no memory left; use a smaller batch"
    assert widget._run.isEnabled()


@pytest.mark.usefixtures("in_layer")
def test_an_error_of_ours_is_told_and_what_was_done_is_kept(
    widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch, finished: Callable[..., None]
) -> None:
    def broken(item: ImageSeries, _config: Any, **_masks: Any) -> Iterator[SeriesProgress]:
        yield SeriesProgress(0, 1, 4, 0.25, (unregistered(0, item.grid, FrameStatus.REFERENCE, ""),))
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(r2n2.registration, "register_series", broken)
    with qtbot.capture_exceptions():
        press(widget._run)
        finished(widget)
    assert "ZeroDivisionError: a bug; what was finished is kept" in widget._message.text()
    assert list(widget.session.results) == [FrameKey(0, 0)]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((27, 35), "needs axes"), ((1, 27, 35), "one frame"), ((4, 9, 35), "too small"), ((2, 3, 27, 35), "4 axes whose names")],
)
def test_wrong_input_is_refused_before_run(viewer: Any, widget: Any, shape: tuple[int, ...], reason: str) -> None:
    viewer.add_image(np.zeros(shape), name="photo")
    assert not widget._run.isEnabled()
    assert "'photo'" in widget._message.text()
    assert reason in widget._message.text()


def test_the_meaning_of_four_axes_can_be_said(viewer: Any, widget: Any) -> None:
    viewer.add_image(np.random.default_rng(0).random((2, 3, 27, 35)).astype(np.float32), name="photo")
    assert widget.form.chooser.axes_box.isVisible()
    widget.form.chooser.axes_box.setCurrentIndex(1)
    assert widget._run.isEnabled()
    assert [len(item) for item in widget.form.chooser.series()] == [3, 3]
    viewer.add_image(np.zeros((4, 27, 35)), name="plain")
    widget.form.chooser.layers.setCurrentText("plain")
    assert not widget.form.chooser.axes_box.isVisible()


def test_the_reference_slider_shows_its_frame(viewer: Any, widget: Any, in_layer: Any) -> None:
    widget.form._auto.setChecked(False)
    widget.form._reference.setValue(3)
    assert viewer.dims.current_step[0] == 3
    assert widget.form.config().reference == 3
    assert widget.form._reference.maximum() == 3
    widget.form._auto.setChecked(True)
    assert widget.form.config().reference == "auto"
    assert in_layer.visible


def test_results_are_not_offered_as_series(widget: Any, aligned: Any) -> None:
    aligned.show(View.RESIDUAL)
    assert [widget.form.chooser.layers.itemText(k) for k in range(widget.form.chooser.layers.count())] == ["disc"]


def test_removed_layer_leaves_the_list(viewer: Any, widget: Any, in_layer: Any) -> None:
    viewer.layers.remove(in_layer)
    assert widget.form.chooser.layer is None
    assert not widget._run.isEnabled()


@pytest.mark.usefixtures("in_layer")
def test_advanced_settings_reach_the_configuration(widget: Any) -> None:
    form = widget.form
    form._method.setCurrentIndex(form._method.findData("fit"))
    assert not form.weights.box.isEnabled()
    assert form.config().batch_size == "auto"
    assert form._batch.text() == "automatic"
    form._steps.setValue(12)
    form._batch.setValue(3)
    form._warm.setChecked(True)
    form._unfolded.setChecked(True)
    form._device.setCurrentText("cpu")
    assert (form.config().similarity, form.config().target) == ("auto", "reference")
    form._measure.setCurrentIndex(form._measure.findText("edges"))
    form._target.setCurrentIndex(form._target.findText("2 components"))
    config = form.config()
    assert (config.similarity, config.target) == ("ngf", "pca:2")
    assert config.no_folding
    assert (config.method, config.steps, config.batch_size, config.warm_start, config.device) == ("fit", 12, 3, True, "cpu")


@pytest.mark.usefixtures("in_layer")
def test_every_measure_is_offered_and_the_network_only_where_it_takes_part(widget: Any) -> None:
    form = widget.form
    offered = {form._measure.itemData(k) for k in range(form._measure.count())}
    assert offered == {*get_args(SimilarityName), "auto"}
    for measure in sorted(offered):
        choose(form._measure, measure)
        assert form.weights.box.isEnabled() == form._refine.isEnabled() == (measure in ("auto", "ssd"))
        assert form.config().similarity == measure
    for k in range(form._target.count()):
        form._target.setCurrentIndex(k)
        assert form.config().target == form._target.itemData(k)
    form._warm.setChecked(True)
    choose(form._target, "previous")
    assert not form._warm.isEnabled()
    assert (form.config().target, form.config().warm_start) == ("previous", False)
    choose(form._target, "mean")
    assert form.config().warm_start
    form.advanced.expand(animate=False)
    QApplication.processEvents()
    for box in (form._measure, form._target):
        room = box.minimumSizeHint().width() - 30  # for the arrow and the frame
        names = [box.itemText(k) for k in range(box.count())]
        assert [name for name in names if box.fontMetrics().horizontalAdvance(name) > room] == [], "each can be read whole"


@pytest.mark.usefixtures("in_layer")
@pytest.mark.parametrize("reference", [2, "auto"])
def test_settings_of_a_result_are_chosen(viewer: Any, widget: Any, reference: int | str, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"")
    made_with = RegistrationConfig.parse(
        {
            "refine": False,
            "similarity": "lncc",
            "reference": reference,
            "target": "pca:7",
            "initial": "rigid",
            "weights": str(weights),
            "steps": 12,
            "warm_start": True,
            "no_folding": True,
        }
    )
    seen = viewer.dims.current_step
    widget.form.show_settings(made_with)
    assert widget.form.config() == made_with
    assert viewer.dims.current_step == seen
    defaults = RegistrationConfig(device="cuda", batch_size=3)
    widget.form.show_settings(defaults)
    assert widget.form.config() == RegistrationConfig(), "device and batch are of the machine it was made on"


def test_weights_of_a_file_can_be_chosen(widget: Any, tmp_path: Path) -> None:
    from napari_r2n2.models.training_run import weights_added

    names = [widget.form.weights.box.itemText(k) for k in range(widget.form.weights.box.count())]
    assert {"general", "paper"} <= set(names)
    weights_added.emit("mine", tmp_path / "mine.safetensors")
    assert widget.form.config().weights == str(tmp_path / "mine.safetensors")
    assert widget.form.weights.box.currentText() == "mine"


def test_the_command_is_copied_for_a_shell(
    viewer: Any, widget: Any, series: ImageSeries, press: Callable[[Any], None], tmp_path: Path
) -> None:
    folder = tmp_path / "it's a; folder"
    folder.mkdir()
    path = write_series(folder, "in", replace(series, source={"format": "mha"}), map(series.frame, range(4)))
    viewer.open(path, plugin="napari-r2n2")
    press(widget.files._command)
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    seen = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {clipboard.text()}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert seen[:5] == ["r2n2", "register", str(path), "-o", str(folder / "in aligned")]


@pytest.mark.usefixtures("in_layer")
def test_there_is_no_command_for_what_lies_in_memory(widget: Any) -> None:
    assert not widget.files._command.isEnabled()
    assert "'disc' lies in memory only" in widget.files._command.toolTip()


def test_a_result_is_written_and_opened_again(
    viewer: Any,
    widget: Any,
    series: ImageSeries,
    disc_config: Any,
    disc_results: Any,
    tmp_path: Path,
    finished: Callable[..., None],
) -> None:
    from napari_r2n2.layers.from_series import series_to_layers
    from napari_r2n2.layers.place import Place
    from napari_r2n2.layers.to_series import axes_of, layer_to_series
    from r2n2.io import read_series

    path = write_series(tmp_path, "in", replace(series, source={"format": "mha"}), (series.frame(k) for k in range(4)))
    (read,) = read_series(path)
    data, options, _kind = series_to_layers([read])[0]
    layer = viewer.add_image(data, **options)
    widget.session.begin(layer_to_series(layer), disc_config)
    widget.results.begin(Place.of(layer, axes_of(layer)), layer)
    for result in disc_results:
        grid = widget.session.series[0].grid
        widget.session.add(0, 0, replace(result, transform=replace(result.transform, grid=grid)))
    widget.session.switch(FrameKey(0, 2), 3, False)
    expected = np.asarray(widget.results.layer(View.ALIGNED).data)[-1]
    widget.files.export(tmp_path / "out")
    finished(widget)
    assert (tmp_path / "out" / "run.json").is_file()
    assert str(tmp_path / "out") in widget._message.text()
    (written,) = read_series(next((tmp_path / "out").glob("registered.*")))
    np.testing.assert_array_equal(np.stack([written.frame(k)[0] for k in range(4)]), expected)
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "Opened: 4 frames" in widget._message.text()
    chosen = widget.form.config()
    assert (chosen.method, chosen.steps, chosen.reference) == ("fit", 6, 0), "as it was made"
    assert len(widget.session.sequence(FrameKey(0, 2)) or ()) == 5, "the step that was switched off was not written"
    assert widget.session.results[FrameKey(0, 2)].status is FrameStatus.EDITED
    np.testing.assert_array_equal(np.asarray(widget.results.layer(View.ALIGNED).data)[-1], expected)


def test_a_folder_that_is_no_result_is_refused(widget: Any, tmp_path: Path, finished: Callable[..., None]) -> None:
    widget.files.open(tmp_path)
    finished(widget)
    assert "run.json" in widget._message.text()


@pytest.mark.usefixtures("quick")
def test_an_existing_result_is_not_replaced_unasked(
    widget: Any, in_layer: Any, press: Callable[[Any], None], tmp_path: Path, finished: Callable[..., None]
) -> None:
    press(widget._run)
    finished(widget)
    widget.files.export(tmp_path / "out")
    finished(widget)
    stamp = (tmp_path / "out" / "run.json").stat().st_mtime_ns
    widget.files.export(tmp_path / "out")
    finished(widget)
    assert "holds a result already" in widget._message.text()
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == stamp
    assert in_layer.visible


@pytest.mark.usefixtures("quick")
def test_slices_run_one_after_the_other(
    viewer: Any, widget: Any, series: ImageSeries, press: Callable[[Any], None], tmp_path: Path, finished: Callable[..., None]
) -> None:
    from napari_r2n2.layers.from_series import series_to_layers
    from r2n2.results.reader import read_result, slice_folders

    other = replace(series, frames=np.asarray(series.frames) * 2)
    data, options, _kind = series_to_layers([series, other])[0]
    viewer.add_image(data, **options)
    press(widget._run)
    finished(widget)
    assert set(widget.session.results) == {FrameKey(index, frame) for index in (0, 1) for frame in range(4)}
    assert "Done: 8 frames" in widget._message.text()
    widget.files.export(tmp_path / "out")
    finished(widget)
    folders = slice_folders(tmp_path / "out")
    assert [folder.name for folder in folders] == ["slice_00", "slice_01"]
    assert len(read_result(folders[1]).metrics) == 4
