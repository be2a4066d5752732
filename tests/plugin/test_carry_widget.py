"""Carry along in a real window: every kind of layer through the disc's registration, against the transforms themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_r2n2.layers.carry.drawings import _outline
from napari_r2n2.layers.carry.layer import carry_layer
from napari_r2n2.layers.carry.way import Way
from napari_r2n2.models.session import FrameKey
from r2n2.errors import ArgumentError
from r2n2.evaluation import warp_labels
from r2n2.geometry import Space
from r2n2.registration import warp_pixels
from r2n2.transform import inverse, map_points

pytestmark = pytest.mark.usefixtures("canvas_mouse")

PLACE = {"scale": (2.0, 1.5), "translate": (0.0, 0.0), "units": ("mm", "mm"), "axis_labels": ("y", "x")}


@pytest.fixture
def widget(viewer: Any, aligned: Any) -> Any:
    aligned.go_to(key=FrameKey(0, 2))
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Carry along")
    return widget


def _square() -> np.ndarray:
    labels = np.zeros((27, 35), np.uint16)
    labels[10:18, 12:22], labels[13:15, 15:18] = 3, 700
    return labels


def _pressed(widget: Any, press: Callable[[Any], None], qtbot: Any) -> Any:
    press(widget.carry)
    qtbot.waitUntil(lambda: widget.job is None, timeout=60_000)
    return widget.viewer.layers[-1]


def _carried(layer: Any, aligned: Any, source: Any, target: str) -> tuple[Any, dict[str, Any], str]:
    running = carry_layer(layer, aligned.session.registration, aligned.place, Way(source, target))  # type: ignore[arg-type]
    while True:
        try:
            assert 0 < next(running).fraction <= 1
        except StopIteration as end:
            return end.value


def test_without_a_result_it_says_what_to_do(viewer: Any) -> None:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Carry along")
    assert "Align widget first" in widget.message.text()
    assert not widget.carry.isEnabled()


def test_a_segmentation_of_the_shown_frame_becomes_one_of_all(
    viewer: Any, widget: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    layer = viewer.add_labels(_square(), name="drawn", **PLACE)
    widget.choice.choose(layer)
    assert (widget.source.currentData(), widget.target.currentData()) == ("shown", "every"), "what is most likely meant"
    made = _pressed(widget, press, qtbot)
    assert made.name == "drawn of frame 2 in every frame"
    assert made.data.shape == (4, 27, 35)
    np.testing.assert_array_equal(made.data[2], _square(), "its own frame is not touched")
    transforms = aligned.session.registration.transforms()
    on_reference = warp_labels(_square(), transforms[2])
    assert (made.data[0] == on_reference).mean() > 0.99
    assert set(np.unique(made.data)) == {0, 3, 700}
    assert tuple(made.scale) == (0.5, 2.0, 1.5)
    assert tuple(made.axis_labels) == ("time", "y", "x")
    assert [str(unit) for unit in made.units] == ["second", "millimeter", "millimeter"]
    assert layer.data.shape == (27, 35)
    assert "Added" in widget.message.text()


def test_a_labels_layer_of_the_series_with_one_frame_drawn_is_that_frames(viewer: Any, widget: Any, aligned: Any) -> None:
    data = np.zeros((4, 27, 35), np.uint16)
    data[2] = _square()
    layer = viewer.add_labels(data, scale=(0.5, 2.0, 1.5), name="one")
    widget.choice.choose(layer)
    assert widget.source.currentData() == "shown"
    made, options, _kind = _carried(layer, aligned, 2, "reference")
    np.testing.assert_array_equal(made, warp_labels(_square(), aligned.session.registration.transforms()[2]))
    assert options["scale"] == (2.0, 1.5)


def test_a_second_channel_and_a_movie_of_channels_come_onto_the_reference(
    viewer: Any, widget: Any, aligned: Any, in_layer: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    movie = np.asarray(in_layer.data).astype(np.float32) * 0.5 + 7
    layer = viewer.add_image(movie, scale=in_layer.scale, name="second", colormap="magma")
    widget.choice.choose(layer)
    assert (widget.source.currentData(), widget.target.currentData()) == ("every", "reference")
    made = _pressed(widget, press, qtbot)
    transforms = aligned.session.registration.transforms()
    np.testing.assert_allclose(made.data[2], warp_pixels(movie[2][None], transforms[2])[0], atol=1e-3)
    assert made.colormap.name == "magma"
    np.testing.assert_array_equal(made.scale, in_layer.scale)
    channels = viewer.add_image(
        np.stack([movie, 2 * movie], axis=1), scale=(0.5, 1, 2, 1.5), axis_labels=("time", "channel", "y", "x"), name="two"
    )
    both, options, _kind = _carried(channels, aligned, "every", "reference")
    np.testing.assert_allclose(both[2, 1], 2 * made.data[2], rtol=1e-4, atol=1e-2)
    assert options["axis_labels"] == ("time", "channel", "y", "x")


def test_another_lattice_keeps_its_own_pixels(viewer: Any, aligned: Any) -> None:
    fine = np.kron(_square(), np.ones((2, 3), np.uint16))
    # Pixels of half and of a third the size cover the same area: their first centre lies a quarter, and a third, of a pixel before.
    layer = viewer.add_labels(fine, scale=(1.0, 0.5), translate=(-0.5, -0.5), name="fine")
    made, options, _kind = _carried(layer, aligned, 2, "reference")
    coarse = warp_labels(_square(), aligned.session.registration.transforms()[2])
    assert made.shape == (54, 105)
    assert (made[::2, 1::3] == coarse).mean() > 0.98
    assert options["translate"] == (-0.5, -0.5)


def test_points_follow_and_keep_what_they_are_called(
    viewer: Any, widget: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any
) -> None:
    points = viewer.add_points([[12.0, 16.0], [14.0, 20.0]], features={"name": ["a", "b"]}, size=[2, 5], name="marks", **PLACE)
    widget.choice.choose(points)
    widget.source.setCurrentIndex(widget.source.findData("reference"))
    made = _pressed(widget, press, qtbot)
    assert made.data.shape == (8, 3)
    assert made.features["name"].tolist() == ["a", "b"] * 4
    assert made.size.tolist() == [2, 5] * 4
    for frame, transform in aligned.session.registration.transforms().items():
        expected = map_points(transform, torch.tensor(points.data), Space.INDEX).numpy()
        np.testing.assert_allclose(made.data[made.data[:, 0] == frame, 1:], expected, atol=1e-5)
    back, options, _kind = _carried(made, aligned, "every", "reference")
    np.testing.assert_allclose(back[:, 1:], np.tile(points.data, (4, 1)), atol=0.02)
    assert options["scale"] == (0.5, 2.0, 1.5)


def test_shapes_bend_and_tracks_stand_still(viewer: Any, aligned: Any) -> None:
    shapes = viewer.add_shapes(
        [np.array([[8.0, 10], [8, 24], [20, 24], [20, 10]]), np.array([[6.0, 6], [6, 26]])],
        shape_type=["ellipse", "line"],
        edge_color=["red", "blue"],
        features={"name": ["heart", "wall"]},
        **PLACE,
    )
    made, options, kind = _carried(shapes, aligned, 2, "reference")
    assert kind == "shapes"
    assert options["shape_type"] == ["polygon", "path"]
    assert options["features"]["name"].tolist() == ["heart", "wall"]
    back = inverse(aligned.session.registration.transforms()[2]).field
    outline = _outline(shapes.data[0], "ellipse", np.array([4.0, 4.0]))
    np.testing.assert_allclose(made[0], map_points(back, torch.tensor(outline), Space.INDEX).numpy(), atol=1e-4)
    viewer.add_shapes(made, **options)
    followed, options, _kind = _carried(viewer.add_tracks([[1, 2, 12.0, 16.0]], scale=(0.5, 2.0, 1.5)), aligned, 2, "every")
    assert followed[:, 0].tolist() == [1] * 4
    assert followed[:, 1].tolist() == [0, 1, 2, 3]
    assert followed[2, 2:].tolist() == [12.0, 16.0]
    tracks = viewer.add_tracks(followed, **options)
    still, _options, _kind = _carried(tracks, aligned, "every", "reference")
    assert np.ptp(still[:, 2:], axis=0).max() < 0.02
    assert np.ptp(followed[:, 2]) > 0.8, "the disc moves by two pixels"


def test_what_cannot_be_meant_is_said(viewer: Any, widget: Any, aligned: Any) -> None:
    layer = viewer.add_labels(_square(), name="flat", **PLACE)
    with pytest.raises(ArgumentError, match="has no frames of its own"):
        _carried(layer, aligned, "every", "reference")
    with pytest.raises(ArgumentError, match="choose another end"):
        Way("reference", "reference")
    turned = viewer.add_labels(_square(), rotate=20, name="turned")
    with pytest.raises(ArgumentError, match="turned, sheared"):
        _carried(turned, aligned, 2, "every")
    short = viewer.add_image(np.zeros((3, 27, 35)), axis_labels=("time", "y", "x"), name="short")
    with pytest.raises(ArgumentError, match="3 frames along axis 0, the aligned series has 4"):
        _carried(short, aligned, "every", "reference")
    with pytest.raises(ArgumentError, match="nothing is drawn in frame 1"):
        _carried(viewer.add_points([[2, 5.0, 5.0]], scale=(0.5, 2, 1.5)), aligned, 1, "every")
    del aligned.session.registration.results[FrameKey(0, 3)]
    with pytest.raises(ArgumentError, match=r"1 frames \(3\) are not aligned yet"):
        _carried(layer, aligned, 2, "every")


def test_a_choice_that_moves_nothing_gives_way(widget: Any, aligned: Any) -> None:
    for source in ("every", "reference", "shown"):
        widget.source.setCurrentIndex(widget.source.findData(source))
        for target in ("every", "reference"):
            widget.target.setCurrentIndex(widget.target.findData(target))
            assert widget.source.currentData() != widget.target.currentData()
            widget.way()
