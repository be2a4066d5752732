"""Results in the Align widget: whose is written, what a stopped export leaves, how it is opened again, what deleted layers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import r2n2.report.page
from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.layers.image_views import View
from napari_r2n2.models import result_files
from napari_r2n2.models.session import FrameKey
from r2n2.io import read_series
from r2n2.series import ImageSeries

Finished = Callable[..., None]
Press = Callable[[Any], None]


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures take seconds, and another test reads it."""
    monkeypatch.setattr(r2n2.report.page, "render_report", lambda *_arguments: "<html></html>")


@pytest.fixture
def other(viewer: Any, series: ImageSeries, in_layer: Any) -> Any:
    """A second series of the same size, in the window above the first."""
    data, options, _kind = series_to_layers([replace(series, name="other", frames=np.asarray(series.frames)[::-1].copy())])[0]
    return viewer.add_image(data, **options)


@pytest.mark.usefixtures("quick")
def test_what_is_written_is_that_of_the_chosen_series(
    viewer: Any, widget: Any, in_layer: Any, other: Any, press: Press, finished: Finished, tmp_path: Path
) -> None:
    chooser, files = widget.form.chooser, widget.files
    chooser.choose(in_layer)
    press(widget._run)
    finished(widget)
    assert "disc: 4 of 4 frames aligned, reference frame 0" in files._named.text()
    chooser.choose(other)
    assert not files._export.isEnabled()
    assert "other is not aligned yet" in files._export.toolTip()
    assert "Done" not in widget._message.text(), "what was said belongs to the other series"
    press(widget._run)
    finished(widget)
    chooser.choose(in_layer)
    assert "disc: 4 of 4" in widget._message.text()
    in_layer.name = "patient 3"
    chooser.choose(other)
    chooser.choose(in_layer)
    assert "patient 3: 4 of 4" in files._named.text()
    files.export(tmp_path / "out")
    finished(widget)
    assert f"Written to {tmp_path / 'out'}: patient 3" in widget._message.text()
    (written,) = read_series(next((tmp_path / "out").glob("registered.*")))
    np.testing.assert_array_equal(written.frame(0)[0], in_layer.data[0])
    viewer.layers.remove(in_layer)
    assert chooser.layer is other
    files.export(tmp_path / "other")
    finished(widget)
    (written,) = read_series(next((tmp_path / "other").glob("registered.*")))
    np.testing.assert_array_equal(written.frame(0)[0], other.data[0])


@pytest.mark.usefixtures("quick")
def test_a_result_of_images_in_memory_can_be_opened_again(
    viewer: Any, widget: Any, in_layer: Any, press: Press, finished: Finished, tmp_path: Path
) -> None:
    press(widget._run)
    finished(widget)
    expected = np.asarray(widget.results.layer(View.ALIGNED).data)[-1]
    widget.files.export(tmp_path / "out")
    finished(widget)
    viewer.layers.clear()
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "Opened: 4 frames" in widget._message.text()
    np.testing.assert_array_equal(np.asarray(widget.results.layer(View.ALIGNED).data)[-1], expected)
    opened = widget.form.chooser.layer
    np.testing.assert_array_equal(opened.data, in_layer.data)
    assert tuple(opened.scale) == tuple(in_layer.scale)
    # Without the kept images the open layer that they are is found; without that, one is asked to open it.
    (tmp_path / "out" / result_files.SOURCE_NAME).unlink()
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "Opened: 4 frames" in widget._message.text()
    viewer.layers.clear()
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "open them in this window first" in widget._message.text()


@pytest.mark.usefixtures("quick", "in_layer")
@pytest.mark.parametrize("there", [False, True])
def test_a_cancelled_export_leaves_nothing(
    widget: Any, press: Press, finished: Finished, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    press(widget._run)
    finished(widget)
    original = result_files._export_one

    def slow(*arguments: Any) -> Iterator[int]:
        for done in original(*arguments):
            yield done
            for _ in range(2000):
                yield done

    monkeypatch.setattr(result_files, "_export_one", slow)
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
    widget.files.export(folder)
    assert "Writing disc to" in widget._message.text()
    qtbot.waitUntil(lambda: widget._progress.value() > 0)
    press(widget._cancel)
    finished(widget)
    assert widget._message.text() == f"Cancelled: nothing was written to {folder}."
    assert not folder.exists() or (there and not list(folder.iterdir()))
    assert widget._run.isEnabled()


@pytest.mark.usefixtures("quick", "in_layer")
def test_a_folder_with_other_files_gets_a_folder_in_it(widget: Any, press: Press, finished: Finished, tmp_path: Path) -> None:
    press(widget._run)
    finished(widget)
    (tmp_path / "letter.txt").write_text("mine")
    target = result_files.result_folder(tmp_path, "disc: a/b")
    assert target == tmp_path / "disc_ a_b aligned"
    widget.files.export(target)
    finished(widget)
    assert (tmp_path / "letter.txt").read_text() == "mine"
    assert result_files.result_folder(target, "disc") == target, "one that holds a result is replaced"
    (target / "notes.txt").write_text("mine")
    old = (target / "run.json").stat().st_mtime_ns
    widget.files.export(target, overwrite=True)
    finished(widget)
    assert (target / "run.json").stat().st_mtime_ns > old
    assert (target / "notes.txt").read_text() == "mine"
    assert not [entry for entry in target.iterdir() if entry.name.startswith(".r2n2-unfinished")]


@pytest.mark.usefixtures("in_layer")
def test_what_the_run_used_is_written_not_what_holds_at_the_export(
    widget: Any, press: Press, finished: Finished, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    threads = torch.get_num_threads()
    press(widget._run)
    finished(widget)
    facts = widget.session.registration.facts[0].model_copy(update={"wall_time_s": 12.5, "device": "cuda:7"})
    widget.session.registration.facts[0] = facts
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 5)
    widget.files.export(tmp_path / "out")
    finished(widget)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["wall_time_s"], record["device"], record["threads"]) == (12.5, "cuda:7", threads)


@pytest.mark.usefixtures("quick")
def test_chosen_slices_are_aligned_and_written(
    viewer: Any, widget: Any, series: ImageSeries, press: Press, finished: Finished, tmp_path: Path
) -> None:
    slices = [replace(series, frames=np.asarray(series.frames) * k) for k in (1, 2, 3)]
    data, options, _kind = series_to_layers(slices)[0]
    layer = viewer.add_image(data, **options)
    form = widget.form
    assert form.slices.isVisible()
    assert form.config().reference == "auto"
    assert form._one_reference.isChecked()
    viewer.dims.set_point(0, 2 * layer.scale[0])
    form.slices.which.setCurrentIndex(1)
    press(widget._run)
    finished(widget)
    assert {key.slice_index for key in widget.session.results} == {2}
    form.slices.which.setCurrentIndex(2)
    form.slices.first.setValue(1)
    press(widget._run)
    finished(widget)
    assert {key.slice_index for key in widget.session.results} == {1, 2}
    assert widget.results.key.slice_index == 2, "what is on the screen stays there"
    assert "in all slices" in widget._message.text()
    widget.files.export(tmp_path / "out")
    finished(widget)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["slices"] == ["slice_01", "slice_02"]
    assert "left out" in record["failed"]["slice_00"]
    assert not (tmp_path / "out" / "slice_00").exists()
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "Opened: 8 frames" in widget._message.text()


@pytest.mark.usefixtures("endless")
def test_deleting_both_layers_ends_the_run_and_forgets_it(
    viewer: Any, widget: Any, in_layer: Any, press: Press, finished: Finished, qtbot: Any
) -> None:
    press(widget._run)
    qtbot.waitUntil(lambda: bool(widget.session.results))
    widget.results.show(View.GAUSSIANS)
    viewer.layers.selection = {in_layer, widget.results.layer(View.ALIGNED)}
    viewer.layers.remove_selected()
    finished(widget)
    assert widget._message.text() == "Stopped: the layers that it was for are gone."
    widget.form.chooser.changed.emit()  # it may also come after the run has ended
    assert widget._message.text() == "Stopped: the layers that it was for are gone."
    assert not widget.session.series
    assert not widget.files._export.isEnabled()
    assert not widget.files._step_through.isEnabled()
    qtbot.waitUntil(lambda: not len(viewer.layers), timeout=5000)
    viewer.add_image(np.zeros((2, 9, 7)), name="another")
    assert "gone" not in widget._message.text()


@pytest.mark.usefixtures("quick")
def test_a_second_run_tells_its_layer_from_the_first(
    viewer: Any, widget: Any, in_layer: Any, press: Press, finished: Finished
) -> None:
    for _ in range(3):
        press(widget._run)
        finished(widget)
    aligned = [layer.name for layer in viewer.layers if "aligned" in layer.name]
    assert len(set(aligned)) == 3
    assert widget.results.layer(View.ALIGNED).name == "disc aligned"
    assert [layer.visible for layer in viewer.layers if "earlier" in layer.name] == [False, False]
    assert widget.form.chooser.layer is in_layer


@pytest.mark.filterwarnings("ignore:<tifffile")  # napari's writer takes four frames for colours
@pytest.mark.usefixtures("quick")
def test_the_aligned_series_as_a_plain_layer_can_be_saved(
    viewer: Any, widget: Any, in_layer: Any, press: Press, finished: Finished, tmp_path: Path
) -> None:
    import tifffile

    press(widget._run)
    finished(widget)
    widget.session.switch(FrameKey(0, 2), 3, False)
    expected = np.asarray(widget.results.layer(View.ALIGNED).data)[-1]
    press(widget.files._plain)
    plain = viewer.layers["disc aligned, plain"]
    assert plain.axis_labels == ("time", "y", "x")
    np.testing.assert_array_equal(plain.data, expected)
    np.testing.assert_allclose(plain.scale, in_layer.scale)
    plain.save(str(tmp_path / "plain.tif"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "plain.tif"), expected)


def test_pixels_that_are_no_numbers_are_told_of(viewer: Any, widget: Any, series: ImageSeries) -> None:
    frames = np.asarray(series.frames)[:, 0].astype(np.float32)
    holes = frames.copy()
    holes[:, :3] = np.nan
    viewer.add_image(holes, name="holes")
    assert widget._run.isEnabled()
    assert "11 % of the pixels are not numbers" in widget._message.text()
    widget.form.chooser.choose(viewer.add_image(np.full_like(frames, np.nan), name="nothing"))
    assert not widget._run.isEnabled()
    assert "no pixel is a number" in widget._message.text()


def test_a_series_with_time_before_slices_is_shown_slices_first(viewer: Any, widget: Any) -> None:
    data = np.random.default_rng(0).random((5, 3, 27, 35)).astype(np.float32)
    layer = viewer.add_image(data, name="photo")
    chooser = widget.form.chooser
    assert not widget._run.isEnabled()
    chooser.axes_box.setCurrentText("time, slice, y, x")
    assert chooser.layer is not layer
    assert chooser.layer.name == "photo by slice"
    assert not layer.visible
    assert [len(item) for item in chooser.series()] == [5, 5, 5]
    np.testing.assert_array_equal(chooser.series()[2].frame(4)[0], data[4, 2])
    assert widget._run.isEnabled()


def test_results_without_their_images_say_what_to_do(widget: Any, tmp_path: Path, finished: Finished, aligned: Any) -> None:
    widget.files.export(tmp_path / "out")
    finished(widget)
    file = tmp_path / "out" / result_files.SOURCE_NAME
    file.write_bytes(b"PK" + bytes(40))
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert "the images of the result cannot be read" in widget._message.text()
