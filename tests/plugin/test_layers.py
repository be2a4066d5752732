"""Layers from series and back, on napari's own layer classes but without a window."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image, Layer

from napari_r2n2.layers import METADATA_KEY, landmarks_to_layer, layer_to_series, registered_layer, series_to_layers
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet


def _layers(*series: ImageSeries) -> list[Layer]:
    return [Layer.create(*data) for data in series_to_layers(series)]


def test_layer_carries_scale_units_and_labels(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    assert layer.data.shape == (4, 27, 35)
    assert layer.data.dtype == np.int16
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5))
    assert layer.axis_labels == ("frame", "y", "x")
    assert [str(unit) for unit in layer.units] == ["second", "millimeter", "millimeter"]


def test_there_and_back_is_the_same_series(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    (back,) = layer_to_series(layer)
    np.testing.assert_array_equal(back.frames, series.frames)
    assert (back.grid, back.times_s, back.modality, back.dtype) == (series.grid, series.times_s, "MR", np.int16)


def test_slices_that_agree_become_one_layer(series: ImageSeries) -> None:
    def place(z: float) -> Grid:
        return Grid((1, 27, 35), (8.0, 2.0, 1.5), (z, 0.0, 0.0))

    second = replace(series, frames=series.frames[:][::-1].copy(), patient_grid=place(12.0))  # type: ignore[index]
    (layer,) = _layers(replace(series, patient_grid=place(2.0)), second)
    assert layer.axis_labels == ("slice", "frame", "y", "x")
    np.testing.assert_allclose(layer.scale, (10.0, 0.5, 2.0, 1.5))
    back = layer_to_series(layer)
    assert len(back) == 2
    np.testing.assert_array_equal(back[1].frames, second.frames)


def test_slices_that_differ_stay_apart(series: ImageSeries) -> None:
    longer = replace(series, grid=replace(series.grid, spacing=(2.0, 1.6)))
    assert len(_layers(series, longer)) == 2


def test_colour_frames(series: ImageSeries) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 3, 27, 35), dtype=np.uint8)
    (layer,) = _layers(replace(series, frames=frames))
    assert layer.rgb
    assert layer.data.shape == (4, 27, 35, 3)
    np.testing.assert_array_equal(layer_to_series(layer)[0].frames, frames)


def test_unknown_pixel_size_is_said(series: ImageSeries) -> None:
    (layer,) = _layers(replace(series, spacing_known=False, times_s=None))
    assert [str(unit) for unit in layer.units] == ["pixel"] * 3
    assert not layer_to_series(layer)[0].spacing_known


def test_a_layer_in_micrometres_is_converted() -> None:
    layer = Image(np.zeros((2, 5, 7)), scale=(1, 250, 500), units=("s", "um", "um"))
    assert layer_to_series(layer)[0].grid.spacing == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("shape", [(5, 7), (2, 2, 5, 7)])
def test_a_layer_that_is_no_series_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"layer 'x'.*\(frame, y, x\)"):
        layer_to_series(Image(np.zeros(shape), name="x"))


def test_registered_layer_shows_like_its_source(series: ImageSeries) -> None:
    (layer,) = _layers(series)
    layer.contrast_limits = (3, 500)
    result = Layer.create(*registered_layer(layer, layer.data + 1, complete=True, settings={"method": "fit"}))
    assert result.name == "disc registered"
    np.testing.assert_allclose(result.scale, layer.scale)
    assert (result.units, result.axis_labels, result.contrast_limits) == (layer.units, layer.axis_labels, [3, 500])
    assert json.loads(json.dumps(result.metadata))[METADATA_KEY]["registration"]["settings"]["method"] == "fit"
    assert "registration" not in layer.metadata[METADATA_KEY]


def test_landmarks_lie_on_the_image(series: ImageSeries) -> None:
    landmarks = LandmarkSet(("a", "b"), np.array([0, 2]), np.array([[30.0, 8.0], [10.0, -7.0]]), Space.WORLD)
    layer = Layer.create(*landmarks_to_layer(landmarks, series))
    np.testing.assert_allclose(layer.data, [[0, 10, 10], [2, 0, 0]])
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5))
    assert list(layer.features["id"]) == ["a", "b"]
