"""Layers from series and back, on napari's own layer classes but without a window."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.layers import Image, Layer
from numpy.typing import NDArray

from napari_r2n2.layers import from_series
from napari_r2n2.layers.from_series import landmarks_to_layer, series_to_layers
from napari_r2n2.layers.landmarks.series import is_series
from napari_r2n2.layers.place import Place
from napari_r2n2.layers.to_series import AXES_CHOICES, VOLUME_AXES, axes_of, layer_to_series, slices_first
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet


def _layers(*series: ImageSeries) -> list[Layer]:
    return [Layer.create(*data) for data in series_to_layers(series)]


def _frames(series: ImageSeries) -> NDArray[Any]:
    return np.stack([series.frame(index) for index in range(len(series))])


def test_layer_carries_scale_units_and_labels(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    assert layer.data.shape == (4, 27, 35)
    assert layer.data.dtype == np.int16
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5))
    assert layer.axis_labels == ("time", "y", "x")
    assert [str(unit) for unit in layer.units] == ["second", "millimeter", "millimeter"]


def test_there_and_back_is_the_same_series(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    (back,) = layer_to_series(layer)
    np.testing.assert_array_equal(_frames(back), series.frames)
    assert (back.grid, back.times_s, back.modality, back.dtype) == (series.grid, series.times_s, "MR", np.int16)


def test_slices_that_agree_become_one_layer(series: ImageSeries) -> None:
    def place(z: float) -> Grid:
        return Grid((1, 27, 35), (8.0, 2.0, 1.5), (z, 0.0, 0.0))

    second = replace(series, frames=series.frames[:][::-1].copy(), patient_grid=place(12.0))  # type: ignore[index]
    (layer,) = _layers(replace(series, patient_grid=place(2.0)), second)
    assert layer.axis_labels == ("slice", "time", "y", "x")
    np.testing.assert_allclose(layer.scale, (10.0, 0.5, 2.0, 1.5))
    back = layer_to_series(layer)
    assert len(back) == 2
    np.testing.assert_array_equal(_frames(back[1]), second.frames)


def test_slices_that_differ_stay_apart(series: ImageSeries) -> None:
    longer = replace(series, grid=replace(series.grid, spacing=(2.0, 1.6)))
    assert len(_layers(series, longer)) == 2


def test_colour_frames(series: ImageSeries) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 3, 27, 35), dtype=np.uint8)
    (layer,) = _layers(replace(series, frames=frames))
    assert layer.rgb
    assert layer.data.shape == (4, 27, 35, 3)
    np.testing.assert_array_equal(_frames(layer_to_series(layer)[0]), frames)


def test_unknown_pixel_size_is_said(series: ImageSeries) -> None:
    (layer,) = _layers(replace(series, spacing_known=False, times_s=None))
    assert [str(unit) for unit in layer.units] == ["pixel"] * 3
    assert not layer_to_series(layer)[0].spacing_known


def test_a_layer_in_micrometres_is_converted() -> None:
    layer = Image(np.zeros((2, 5, 7)), scale=(1, 250, 500), units=("s", "um", "um"))
    assert layer_to_series(layer)[0].grid.spacing == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("shape", [(5, 7), (2, 2, 2, 5, 7)])
def test_a_layer_that_is_no_series_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"layer 'x'.*\(frame, y, x\)"):
        layer_to_series(Image(np.zeros(shape), name="x"))


def test_a_series_read_from_a_file_keeps_all_that_a_writer_needs(series: ImageSeries) -> None:
    placed = Grid((1, 27, 35), (8.0, 2.0, 1.5), (3.0, 10.0, -7.0))
    source = {"format": "dicom", "path": "x", "files": ["a", "b"], "rescale": [[1.0, 0.0], [2.0, -1.0]], "bits_stored": 12}
    read = replace(series, patient_grid=placed, source=source, notes=("read",))
    (layer,) = _layers(read)
    json.dumps(layer.metadata)
    layer.name = "renamed"
    (back,) = layer_to_series(layer)
    assert back.name == "renamed", "a name that a person gave"
    for name in ("grid", "patient_grid", "source", "notes", "times_s", "spacing_known"):
        assert getattr(back, name) == getattr(read, name), name


def test_nothing_is_read_from_a_lazy_layer_until_a_frame_is_asked_for() -> None:
    asked: list[int] = []

    def load(block: Any, block_info: Any = None) -> Any:
        asked.append(block_info[0]["chunk-location"][0] if block_info else -1)
        return block

    data = dask.array.zeros((3, 20, 30), chunks=(1, 20, 30), dtype=np.float32).map_blocks(load, dtype=np.float32)
    layer = Image(data, contrast_limits=(0, 1))
    asked.clear()
    (series,) = layer_to_series(layer)
    assert not asked
    series.frame(2)
    assert asked == [2]


def test_the_finest_level_of_a_multiscale_layer_is_used() -> None:
    fine = np.random.default_rng(0).random((3, 40, 60)).astype(np.float32)
    layer = Image([fine, fine[:, ::2, ::2]], multiscale=True)
    np.testing.assert_array_equal(layer_to_series(layer)[0].frame(1)[0], fine[1])


def test_four_axes_without_names_are_asked_about() -> None:
    data = np.random.default_rng(0).random((2, 3, 20, 30)).astype(np.float32)
    layer = Image(data, name="x")
    assert axes_of(layer) == ()
    with pytest.raises(ArgumentError, match="'x': has 4 axes whose names do not say"):
        layer_to_series(layer)
    slices = layer_to_series(layer, AXES_CHOICES[0])
    assert [len(item) for item in slices] == [3, 3]
    np.testing.assert_array_equal(slices[1].frame(2)[0], data[1, 2])
    (channels,) = layer_to_series(layer, AXES_CHOICES[1])
    assert (len(channels), channels.channels) == (2, 3)
    np.testing.assert_array_equal(channels.frame(1), data[1])


@pytest.mark.parametrize("labels", [("frame", "slice", "y", "x"), ("time", "slice", "y", "x")])
def test_slices_behind_the_time_are_not_taken_for_channels(labels: tuple[str, ...]) -> None:
    data = np.random.default_rng(0).random((2, 3, 20, 30))
    units = ("s", "mm", "mm", "mm")
    layer = Image(data, name="x", axis_labels=labels, units=units, scale=(0.5, 8, 2, 1.5), translate=(0, 1, 2, 3))
    assert axes_of(layer) == ()
    with pytest.raises(ArgumentError, match="say it under 'Axes'"):
        layer_to_series(layer)
    turned, options = slices_first(layer)
    again = Image(turned, **options)
    assert np.shares_memory(turned, data)
    assert again.axis_labels == ("slice", "time", "y", "x")
    assert (tuple(again.scale), tuple(again.translate)) == ((8, 0.5, 2, 1.5), (1, 0, 2, 3))
    slices = layer_to_series(again)
    assert [len(item) for item in slices] == [2, 2, 2]
    np.testing.assert_array_equal(slices[2].frame(1)[0], data[1, 2])


def test_contrast_comes_from_nearly_all_pixels_of_the_series(series: ImageSeries) -> None:
    frames = np.asarray(series.frames).copy()
    frames[0, 0, 3, 4] = 30000  # one bright vessel
    (layer,) = _layers(replace(series, frames=frames))
    low, high = layer.contrast_limits
    assert low == 0
    assert 800 < high < 1000
    (dark,) = _layers(replace(series, frames=np.zeros_like(frames)))
    assert dark.contrast_limits[0] < dark.contrast_limits[1]
    broken = frames.astype(np.float32)
    broken[:, :, :5] = np.nan
    (holes,) = _layers(replace(series, frames=broken))
    assert 800 < holes.contrast_limits[1] < 1000


@pytest.mark.parametrize("turn", [{"rotate": 20}, {"shear": [0.0, 0.0, 0.3]}, {"affine": np.diag([1.0, 2.0, 1.0, 1.0])}])
def test_a_turned_layer_is_refused(turn: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="turned, sheared or has an affine"):
        layer_to_series(Image(np.zeros((3, 20, 30)), **turn))


def test_layers_of_a_result_lie_where_the_series_lies(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    layer.contrast_limits = (3, 500)
    layer.translate = (0.0, 5.0, -3.0)
    place = Place.of(layer, axes_of(layer))
    stack = Image(np.zeros((2, 4, 27, 35), np.int16), **place.stack_options("aligned"), **place.display)
    assert stack.name == "disc aligned"
    assert stack.axis_labels == ("step", "time", "y", "x")
    np.testing.assert_allclose(stack.scale, (1.0, 0.5, 2.0, 1.5))
    np.testing.assert_allclose(stack.translate, (0.0, 0.0, 5.0, -3.0))
    assert [str(unit) for unit in stack.units] == ["pixel", "second", "millimeter", "millimeter"]
    assert stack.contrast_limits == [3, 500]
    drawn = place.plane_options("Gaussians")
    assert (drawn["axis_labels"], drawn["translate"]) == (("y", "x"), (5.0, -3.0))
    assert place.plane == (2.0, 1.5)


def test_landmarks_lie_on_the_image(series: ImageSeries) -> None:
    landmarks = LandmarkSet(("a", "b"), np.array([0, 2]), np.array([[30.0, 8.0], [10.0, -7.0]]), Space.WORLD)
    layer = Layer.create(*landmarks_to_layer(landmarks, series))
    np.testing.assert_allclose(layer.data, [[0, 10, 10], [2, 0, 0]])
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5))
    assert list(layer.features["id"]) == ["a", "b"]


def test_the_names_of_landmarks_lie_beside_their_rims(series: ImageSeries) -> None:
    landmarks = LandmarkSet(("a",), np.array([1]), np.array([[30.0, 8.0]]), Space.WORLD)
    layer = Layer.create(*landmarks_to_layer(landmarks, series))
    away = np.broadcast_to(layer.text.translation, 3)
    assert away[0] == 0, "in the frame of their landmark"
    assert np.linalg.norm(away[1:]) == pytest.approx(layer.current_size / 2, rel=0.02)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_series_is_read_as_it_is_looked_at(
    series: ImageSeries, slices: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, channels, 27, 35), dtype=np.uint8)
    items = [replace(series, frames=frames + index, times_s=None) for index in range(slices)]
    whole = series_to_layers(items)[0]
    asked: list[int] = []
    frame = ImageSeries.frame
    monkeypatch.setattr(ImageSeries, "frame", lambda self, index: asked.append(index) or frame(self, index))
    monkeypatch.setattr(from_series, "LARGE_BYTES", 1000)
    lazy = series_to_layers(items)[0]
    layer = Layer.create(*lazy)
    assert len(asked) < 9, "opening reads a few frames only"
    np.testing.assert_array_equal(np.asarray(layer.data), whole[0])
    assert layer.rgb == (channels == 3)
    asked.clear()
    back = layer_to_series(layer)
    assert not asked
    np.testing.assert_array_equal(back[-1].frame(5), frame(items[-1], 5))
    assert set(asked) == {5}


# Slices to the left, rows to the head, columns to the back.
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))


def _volumes(channels: int = 1) -> ImageSeries:
    frames = np.random.default_rng(0).integers(0, 900, (3, channels, 6, 7, 9)).astype(np.int16)
    grid = Grid((6, 7, 9), (2.5, 1.5, 0.5), (10.0, -20.0, 30.0), SAGITTAL)
    return ImageSeries(frames, grid, times_s=(0.0, 0.5, 1.0), name="lung", source={"format": "nifti", "path": "l.nii"})


def test_volumes_are_one_layer_in_time(viewer: Any) -> None:
    volumes = _volumes()
    (layer,) = _layers(volumes)
    viewer.add_layer(layer)
    assert layer.data.shape == (3, 6, 7, 9)
    assert layer.axis_labels == ("time", "z", "y", "x")
    assert [str(unit) for unit in layer.units] == ["second", *["millimeter"] * 3]
    np.testing.assert_allclose(layer.scale, (0.5, 2.5, 1.5, 0.5))
    # Along z, y, x of the volume: to the left 30, to the head 10, to the back -20 mm.
    np.testing.assert_allclose(layer.translate, (0, 30, 10, -20))
    viewer.dims.set_point(range(2), (0.5, 30 + 4 * 2.5))
    np.testing.assert_array_equal(layer._data_view, volumes.frame(1)[0, 4])
    viewer.dims.ndisplay = 3
    assert layer._data_view.shape == (6, 7, 9)


def test_volumes_there_and_back() -> None:
    volumes = _volumes()
    (layer,) = _layers(volumes)
    (again,) = layer_to_series(layer, VOLUME_AXES)
    assert (again.grid, again.times_s, again.name, again.source) == (volumes.grid, volumes.times_s, "lung", volumes.source)
    np.testing.assert_array_equal(_frames(again), volumes.frames)
    (several,) = _layers(_volumes(2))
    assert several.axis_labels == ("time", "channel", "z", "y", "x")
    np.testing.assert_array_equal(_frames(layer_to_series(several, VOLUME_AXES)[0]), _volumes(2).frames)
    with pytest.raises(ArgumentError, match=r"needs axes \(frame, z, y, x\)"):
        layer_to_series(Image(np.zeros((3, 4, 5))), VOLUME_AXES)
    assert axes_of(layer) == VOLUME_AXES
    assert is_series(layer), "landmarks are placed in volumes"


def test_landmarks_lie_in_the_volume() -> None:
    volumes = _volumes()
    marks = LandmarkSet(("a",), np.array([1]), np.array([[4.0, 2.0, 7.0]]), Space.INDEX)
    points = Layer.create(*landmarks_to_layer(marks, volumes))
    (image,) = _layers(volumes)
    np.testing.assert_allclose(points.data, [[1, 4, 2, 7]])
    np.testing.assert_allclose(points.data_to_world(points.data[0]), image.data_to_world((1, 4, 2, 7)))


def test_a_large_volume_is_read_once_for_all_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_series, "LARGE_BYTES", 100)
    volumes, read = _volumes(), []

    class Counted:
        shape, dtype = volumes.frames.shape, volumes.dtype

        def __getitem__(self, index: int) -> NDArray[Any]:
            read.append(index)
            return np.asarray(volumes.frames[index])

    ((data, _options, _kind),) = series_to_layers([replace(volumes, frames=Counted())])
    read.clear()
    for z in range(6):
        np.testing.assert_array_equal(data[1:2, z : z + 1][0, 0], volumes.frame(1)[0, z])
    assert read == [1]
