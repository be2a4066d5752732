"""What a person draws on the images says what counts: from the layer to the result, the command, and back into the window."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels, Shapes
from qtpy.QtWidgets import QApplication

import r2n2.report.page
from napari_r2n2.layers.from_series import series_to_layers
from napari_r2n2.layers.masks import layer_to_masks, masks_to_layer
from napari_r2n2.layers.place import Place
from r2n2.errors import ArgumentError
from r2n2.io import write_series
from r2n2.results.mask_files import kept_masks, read_masks
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries

SHAPE = (27, 35)


def place_of(several: bool = False) -> Place:
    axes = ("slice", "frame", "y", "x") if several else ("frame", "y", "x")
    scale, translate = ((8.0, 0.5, 2.0, 1.5), (3.0, 0.0, 10.0, -7.0)) if several else ((0.5, 2.0, 1.5), (0.0, 10.0, -7.0))
    return Place("disc", axes, ("mm",) * len(axes), scale, translate, False, {})


def box(rows: slice = slice(5, 20), columns: slice = slice(8, 30)) -> np.ndarray:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[rows, columns] = 3
    return drawn


def inside(masks: Any, index: int = 0) -> np.ndarray:
    return masks[index].fixed.inside()


def test_labels_on_any_frame_count_together(series: ImageSeries) -> None:
    place = place_of()
    stack = np.zeros((4, *SHAPE), np.uint8)
    stack[1], stack[3, 22, 4] = box(), 1
    labels = Labels(stack, scale=place.scale, translate=place.translate, name="lung")
    expected = box() > 0
    expected[22, 4] = True
    found = layer_to_masks(labels, place, [series], (0,))
    assert np.array_equal(inside(found), expected)
    flat = layer_to_masks(Labels(box(), scale=place.scale[-2:], translate=place.translate[-2:]), place, [series], (0,))
    assert np.array_equal(inside(flat), box() > 0)
    with pytest.raises(ArgumentError, match="layer 'lung': nothing is drawn on the images"):
        layer_to_masks(Labels(np.zeros_like(stack), name="lung"), place, [series], (0,))


def test_labels_of_another_size_lie_where_they_are_seen(series: ImageSeries) -> None:
    fine = np.zeros((60, 60), np.uint8)
    fine[20:40, 10:30] = 1  # centres from 20.7 to 39.7 mm and from -2.2 to 16.8 mm
    found = inside(layer_to_masks(Labels(fine, scale=(1, 1), translate=(0.7, -12.2)), place_of(), [series], (0,)))
    rows, columns = 10 + 2.0 * np.arange(27), -7 + 1.5 * np.arange(35)
    expected = ((rows > 20.2) & (rows < 40.2))[:, None] & (columns > -2.7) & (columns < 17.3)
    assert np.array_equal(found, expected)


def test_shapes_are_filled_where_they_are_seen(series: ImageSeries) -> None:
    """In an upright layer drawn in mm, as napari's own are over ours."""
    place = place_of()
    rectangle = np.array([[20, 5], [20, 26], [44, 26], [44, 5]], float)
    line = np.array([[12, -5], [60, 40]], float)
    found = inside(layer_to_masks(Shapes([rectangle, line], shape_type=["rectangle", "line"]), place, [series], (0,)))
    rows, columns = 10 + 2.0 * np.arange(27), -7 + 1.5 * np.arange(35)
    expected = ((rows >= 20) & (rows <= 44))[:, None] & (columns >= 5) & (columns <= 26)
    assert (found != expected).sum() <= expected.sum() * 0.15  # pixels on the border
    assert not (found & ~expected).sum() > 30
    deep = np.column_stack((np.full(4, 1.0), rectangle))
    assert np.array_equal(inside(layer_to_masks(Shapes([deep], shape_type="polygon"), place, [series], (0,))), found)


def test_slices_have_what_is_drawn_on_them(series: ImageSeries) -> None:
    place, slices = place_of(several=True), [series, series, series]
    drawn = np.zeros((3, 4, *SHAPE), np.uint8)
    drawn[0, 2], drawn[2, 1] = box(), box(slice(1, 9))
    layer = Labels(drawn, scale=place.scale, translate=place.translate, name="heart")
    masks = layer_to_masks(layer, place, slices, (0, 2))
    assert np.array_equal(inside(masks, 2), box(slice(1, 9)) > 0)
    assert masks[1].fixed is None
    with pytest.raises(ArgumentError, match="nothing is drawn on slice position 1"):
        layer_to_masks(layer, place, slices, (0, 1, 2))
    shown = masks_to_layer(masks, place)
    assert shown is not None
    assert shown[0].shape == (3, 1, *SHAPE)
    again = layer_to_masks(Labels(shown[0], scale=shown[1]["scale"], translate=shown[1]["translate"]), place, slices, (0, 2))
    assert all(np.array_equal(inside(again, k), inside(masks, k)) for k in (0, 2))
    assert masks_to_layer((), place) is None


@pytest.fixture
def filed(series: ImageSeries, tmp_path: Path) -> ImageSeries:
    path = write_series(tmp_path, "disc", replace(series, source={"format": "mha"}), iter(series.frames))
    return replace(series, source={"format": "mha", "path": str(path)})


def test_from_the_drawing_to_the_result_the_command_and_back(
    viewer: Any,
    filed: ImageSeries,
    widget: Any,
    press: Callable[[Any], None],
    finished: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(r2n2.report.page, "render_report", lambda *_arguments: "<html></html>")
    data, options, _kind = series_to_layers([filed])[0]
    layer = viewer.add_image(data, **options)
    form = widget.form
    assert form.mask.box.currentText() == "none"
    labels = viewer.add_labels(np.zeros(data.shape, np.uint8), name="disc only", scale=layer.scale, translate=layer.translate)
    form._method.setCurrentIndex(form._method.findData("fit"))
    form._steps.setValue(2)
    form.mask.choose(labels)
    assert form.mask.layer is labels
    press(widget._run)
    assert "nothing is drawn" in widget._message.text()
    labels.data[0] = box()
    labels.refresh()
    labels.name = "disc alone"
    assert form.mask.box.currentText() == "disc alone"
    press(widget._run)
    finished(widget)
    assert "Done: 4 frames" in widget._message.text()
    press(widget.files._command)
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    words = shlex.split(clipboard.text())
    saved = Path(words[words.index("--mask") + 1])
    assert saved.parent == tmp_path
    assert str(saved) in widget._message.text()
    widget.files.export(tmp_path / "out")
    finished(widget)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["masks"]["fixed"]["notes"] == ["layer 'disc alone'"]
    kept = kept_masks(read_result(tmp_path / "out")).fixed
    assert kept is not None
    assert np.array_equal(kept.inside(), box() > 0)
    (by_command,), _notes = read_masks([filed], saved, None)
    assert by_command.fixed is not None
    assert by_command.fixed.sha256 == record["masks"]["fixed"]["sha256"]
    viewer.layers.clear()
    assert form.mask.box.count() == 1
    widget.files.open(tmp_path / "out")
    finished(widget)
    assert isinstance(form.mask.layer, Labels)
    assert form.mask.layer.visible
    assert np.array_equal(np.asarray(form.mask.layer.data) > 0, box() > 0)
    (mask,) = form.masks()
    assert mask.fixed.sha256 == record["masks"]["fixed"]["sha256"]
