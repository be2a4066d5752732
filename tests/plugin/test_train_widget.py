"""The Train widget in a real window: adapting with real clicks, to its end, stopped, refused and closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import platformdirs
import pytest
import training_factory
from qtpy.QtWidgets import QFileDialog

import r2n2.training.adapt as core
from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.models import training_run
from napari_r2n2.models.training_run import adapted_weights, resolve_weights, weights_added
from napari_r2n2.widgets.loss_plot import LossPlot, smoothed
from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid
from r2n2.series import ImageSeries
from r2n2.training.adapt import Adapting, Score

pytestmark = pytest.mark.usefixtures("one_thread")

LOW, HIGH = Score(0.941, 0.01), Score(0.953, 0.02)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adapted weights are kept in the folder of the test."""
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_names, **_options: tmp_path / "user")
    return tmp_path / "user" / "weights"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Weights of a network so small that an update takes a blink."""
    import torch

    from r2n2.network import MatchingPursuit
    from r2n2.network.checkpoint import save_network

    torch.manual_seed(0)
    network = MatchingPursuit(training_factory.network_config(least_squares_sizes=(32,)))
    training_factory.shaken(network)
    save_network(tmp_path / "tiny.safetensors", network)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def movie() -> ImageSeries:
    """A bright disc on a slope that goes up and down: 9 frames of 40 x 56 anisotropic pixels."""
    y, x = np.meshgrid(np.arange(40.0), np.arange(56.0), indexing="ij")
    frames = []
    for k in range(9):
        centre = 20 + 3 * np.sin(2 * np.pi * k / 9)
        frames.append(100 / (1 + np.exp(((y - centre) ** 2 + (x - 28) ** 2 - 64) / 20)) + 0.3 * x + 5 * np.sin(0.4 * x))
    return ImageSeries(np.stack(frames).astype(np.float32)[:, None], Grid((40, 56), (1.5, 1.0)), name="disc")


@pytest.fixture
def widget(viewer: Any, movie: ImageSeries) -> Any:
    """The widget as the entry of the Plugins menu opens it, with a series in the window."""
    data, options, _kind = series_to_layers([movie])[0]
    viewer.add_image(data, **options)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Train")
    return widget


def _fake(monkeypatch: pytest.MonkeyPatch, scores: dict[int, Score], *, updates: int = 10**6, start: Score = LOW) -> list[Any]:
    """``adapt`` whose scores are known, and which ends after some updates or when it is told to; gives what it was asked."""
    from r2n2.network.r2n2 import R2N2

    network, asked = R2N2(training_factory.network_config()).eval(), []

    def adapt(series: ImageSeries, _network: Any, *, stop: Callable[[], bool], **options: Any) -> Iterator[Adapting]:
        asked.append((series, options))
        best = start
        yield Adapting(0.1, 0, float("nan"), start, best, network, True, ("frame 3 is not used: damaged",))
        for update in range(1, updates + 1):
            over = stop() or update == updates
            best = scores.get(update, best)
            yield Adapting(0.1 * update, update, 1 / update, start, best, network, update in scores or over)
            if over:
                return

    monkeypatch.setattr(core, "adapt", adapt)
    return asked


def _ended(qtbot: Any, widget: Any, timeout: int = 60_000) -> None:
    qtbot.waitUntil(lambda: widget._worker is None, timeout=timeout)


def test_real_adapting_is_drawn_assessed_and_never_worse(
    widget: Any, press: Callable[[Any], None], qtbot: Any, tiny: Path, folder: Path
) -> None:
    widget.weights.add(tiny.stem, tiny)
    widget._minutes.setValue(0.2)
    press(widget._start)
    assert not widget._start.isEnabled()
    assert "left" in widget._phase.text()
    _ended(qtbot, widget)
    run = widget.run
    assert run.last.update >= 1
    assert [update for update, _loss in run.losses] == list(range(1, run.last.update + 1))
    assert run.checks[-1].update == run.last.update
    assert run.checks[-1].similarity >= run.checks[0].similarity
    assert run.last.best == run.last.start or run.last.best.better_than(run.last.start, run.last.start)
    assert run.better == (len(list(folder.glob("*"))) == 1)
    assert f"{run.last.start.similarity:.4f}" in widget._message.text()
    assert widget._start.isEnabled()
    assert not widget._stop.isEnabled()


def test_real_stop_ends_after_the_update_with_a_last_look(
    widget: Any, press: Callable[[Any], None], qtbot: Any, tiny: Path
) -> None:
    widget.weights.add(tiny.stem, tiny)
    widget._minutes.setValue(10)
    press(widget._start)
    qtbot.waitUntil(lambda: widget.run.last is not None and widget.run.last.update >= 2, timeout=60_000)
    assert widget._stop.isEnabled()
    press(widget._stop)
    assert not widget._stop.isEnabled()
    assert "Stopping" in widget._phase.text()
    _ended(qtbot, widget)
    assert widget.run.last.checked
    assert widget.run.checks[-1].update == widget.run.last.update


def test_better_weights_are_kept_known_and_usable(
    viewer: Any, widget: Any, press: Callable[[Any], None], qtbot: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r2n2.network.checkpoint import load_network, read_manifest

    asked = _fake(monkeypatch, {3: HIGH}, updates=5)
    heard: list[tuple[str, Path]] = []

    def hear(name: str, file: Path) -> None:
        heard.append((name, file))

    weights_added.connect(hear)
    widget._reference.setValue(2)
    widget._device.setCurrentText("cpu")
    press(widget._start)
    _ended(qtbot, widget)
    weights_added.disconnect(hear)
    (series, options) = asked[0]
    assert series.frames.shape == (9, 1, 40, 56)
    assert (options["reference"], options["device"]) == (2, "cpu")
    assert 100 < options["seconds"] <= 120
    ((name, file),) = adapted_weights().items()
    assert heard == [(name, file)]
    assert file.parent == folder
    assert name.startswith("disc_20")
    assert load_network(file, ndim=2).config.working_size == 32
    assert RegistrationConfig(weights=resolve_weights(name)).weights == str(file)
    info = read_manifest(file).info
    assert info["started_from"] == read_manifest("general").sha256
    assert (info["name"], info["updates"], info["similarity_before"], info["similarity"]) == ("adapted", "5", "0.9410", "0.9530")
    text = widget._message.text()
    assert "0.9410 → 0.9530, folding 0.02 % (was 0.01 %) after 5 updates: better weights kept" in text
    assert "frame 3 is not used: damaged" in text
    assert widget.weights.box.findData(str(file)) > 0
    assert widget._progress.value() == widget._progress.maximum()


def test_saved_as_another_file(
    widget: Any, press: Callable[[Any], None], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r2n2.network.checkpoint import load_network

    assert not widget._save.isEnabled()
    _fake(monkeypatch, {1: HIGH}, updates=1)
    press(widget._start)
    _ended(qtbot, widget)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "mine"), ""))
    press(widget._save)
    assert load_network(tmp_path / "mine.safetensors").config.working_size == 32


def test_no_better_weights_keep_what_was_there(
    widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(monkeypatch, {}, updates=3)
    press(widget._start)
    _ended(qtbot, widget)
    assert adapted_weights() == {}
    assert "No better weights were found after 3 updates" in widget._message.text()
    assert "'general' stays as it is" in widget._message.text()
    assert not widget._save.isEnabled()


def test_stopped_before_anything_was_learnt(
    widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    told = threading.Event()
    _fake(monkeypatch, {})
    true = core.adapt

    def slow(*given: Any, **options: Any) -> Iterator[Adapting]:
        told.wait(20)
        yield from true(*given, **options)

    monkeypatch.setattr(core, "adapt", slow)
    press(widget._start)
    press(widget._stop)
    told.set()
    _ended(qtbot, widget)
    assert widget.run.last.update == 0
    assert "Stopped before anything was learnt" in widget._message.text()


def test_a_problem_is_told_in_plain_words(widget: Any, press: Callable[[Any], None], qtbot: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    widget.weights.add("broken", tmp_path / "broken.safetensors")
    press(widget._start)
    _ended(qtbot, widget)
    assert "broken.safetensors" in widget._message.text()
    assert widget._start.isEnabled()


def test_no_memory_on_the_device_is_told_with_a_way_out(
    widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_given: Any, **_options: Any) -> Iterator[Adapting]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        yield

    monkeypatch.setattr(core, "adapt", full)
    press(widget._start)
    _ended(qtbot, widget)
    assert "choose the device cpu" in widget._message.text()


def test_weights_that_cannot_be_written_are_not_lost_without_a_word(
    widget: Any, press: Callable[[Any], None], qtbot: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    _fake(monkeypatch, {1: HIGH}, updates=1)
    press(widget._start)
    _ended(qtbot, widget)
    assert "could not be saved" in widget._message.text()
    assert "0.9530" in widget._message.text()


def test_an_internal_error_is_shown_and_the_widget_goes_on(
    widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_given: Any, **_options: Any) -> Iterator[Adapting]:
        raise KeyError("a mistake of ours")
        yield

    monkeypatch.setattr(core, "adapt", wrong)
    with qtbot.capture_exceptions() as raised:
        press(widget._start)
        _ended(qtbot, widget)
    assert len(raised) == 1
    assert "Internal error, KeyError" in widget._message.text()
    assert widget._start.isEnabled()


def test_closing_the_dock_ends_the_training_and_breaks_nothing(
    viewer: Any, widget: Any, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(monkeypatch, {1: HIGH})
    press(widget._start)
    qtbot.waitUntil(lambda: widget.run.last is not None and widget.run.last.update > 3)
    worker, run = widget._worker, widget.run
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: not worker.is_running)
    assert run.stopping
    viewer.theme = "light"
    viewer.add_image(np.zeros((5, 20, 20)))


def test_only_a_long_enough_series_can_be_started(viewer: Any, widget: Any) -> None:
    assert widget._start.isEnabled()
    viewer.add_image(np.random.default_rng(1).random((3, 20, 20)), name="short")
    widget.chooser.layers.setCurrentIndex(widget.chooser.layers.findText("short"))
    assert not widget._start.isEnabled()
    assert "'short'" in widget._phase.text()
    assert "at least 3 others" in widget._phase.text()
    viewer.layers.clear()
    assert not widget._start.isEnabled()
    assert "Open Sample" in widget._phase.text()


def test_a_slice_is_chosen_of_several(
    viewer: Any, widget: Any, movie: ImageSeries, press: Callable[[Any], None], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not widget._slice.isVisible()
    other = replace(movie, frames=np.asarray(movie.frames) * 2)
    data, options, _kind = series_to_layers([movie, other])[0]
    viewer.add_image(data, **{**options, "name": "two"})
    widget.chooser.layers.setCurrentIndex(widget.chooser.layers.findText("two"))
    assert widget._slice.isVisible()
    asked = _fake(monkeypatch, {}, updates=1)
    widget._slice.setValue(1)
    press(widget._start)
    _ended(qtbot, widget)
    np.testing.assert_array_equal(asked[0][0].frame(0), np.asarray(other.frames)[0])


def test_axes_without_names_are_asked_for(viewer: Any, widget: Any) -> None:
    viewer.add_image(np.random.default_rng(1).random((2, 5, 20, 20)), name="four")
    widget.chooser.layers.setCurrentIndex(widget.chooser.layers.findText("four"))
    assert widget.chooser.axes_box.isVisible()
    assert not widget._start.isEnabled()
    widget.chooser.axes_box.setCurrentIndex(1)
    assert widget._start.isEnabled()
    assert widget._slice.maximum() == 1


def test_newest_weights_come_first_and_names_fit_a_file_system(folder: Path, movie: ImageSeries) -> None:
    import os

    folder.mkdir(parents=True)
    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        (folder / f"{name}.safetensors").write_bytes(b"")
        os.utime(folder / f"{name}.safetensors", (10**9 - age, 10**9 - age))
    (folder / "notes.txt").write_text("")
    assert list(adapted_weights()) == ["new", "middle", "old"]
    first = training_run._free_name(folder, "Müller / 4: a*b?")
    assert first.name.startswith("Müller_4_a_b_20")
    first.write_bytes(b"")
    assert training_run._free_name(folder, "Müller / 4: a*b?") not in (first, None)
    assert training_run._free_name(folder, "...").name.startswith("series_")


def test_curves_lie_inside_their_axes(qtbot: Any) -> None:
    assert smoothed([(1, 4.0), (2, 4.0), (3, 4.0)]) == [(1, pytest.approx(4)), (2, pytest.approx(4)), (3, pytest.approx(4))]
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.resize(300, 190)
    plot.show_curves([(k, 1 / k) for k in range(1, 101)], [(0, 0.94), (50, 0.95), (100, 0.96)])
    plot.show()
    qtbot.waitExposed(plot)
    assert plot.axes.get_xlim() == (0, 100)
    low, high = plot.similarity_axes.get_ylim()
    assert low < 0.94 < 0.96 < high
    plot.draw()
    image = plot.grab().toImage()
    for axes, point, colour in (
        (plot.similarity_axes, (100, 0.96), "#3fa0dc"),
        (plot.axes, plot.means.get_xydata()[60], "#e69f00"),
    ):
        x, y = axes.transData.transform(point) / plot.device_pixel_ratio
        near = {image.pixelColor(round(x) + dx, round(plot.height() - y) + dy).name() for dx in (-2, -1, 0) for dy in range(-3, 4)}
        assert colour in near


def test_the_ink_of_a_plot_follows_the_theme(qtbot: Any) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    inks = []
    for theme in ("dark", "light"):
        plot.show_theme(theme)
        ink = {
            matplotlib.colors.to_hex(label.get_color()) for label in (plot.axes.xaxis.label, *plot.figure.legends[0].get_texts())
        }
        assert len(ink) == 1
        inks.append(sum(matplotlib.colors.to_rgb(ink.pop())))
    assert inks[0] > 2.4, "light on dark"
    assert inks[1] < 0.6, "dark on light"


def test_one_bad_batch_does_not_flatten_the_others(qtbot: Any) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    losses = [(k, 1 / k + 0.1) for k in range(1, 101)]
    plot.show_curves([(update, 1e6 if update == 40 else loss) for update, loss in losses], [])
    assert plot.axes.get_ylim()[1] < 2
    assert max(plot.means.get_ydata()) < 2
