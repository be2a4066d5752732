"""File > Open Sample: the simulated thorax opens, is a series that moves, and its landmarks lie where they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_r2n2.layers.to_series import layer_to_series
from napari_r2n2.reading.sample_data import breathing_thorax


@pytest.fixture
def layers(viewer: Any) -> Any:
    """The sample as the menu opens it."""
    viewer.open_sample("napari-r2n2", "breathing_thorax")
    return viewer.layers


def test_image_and_landmarks_share_their_world(layers: Any) -> None:
    image, points = layers
    np.testing.assert_allclose(points.scale, image.scale)
    assert points.units == image.units
    assert tuple(str(unit) for unit in image.units) == ("second", "millimeter", "millimeter")
    assert points.axis_labels == image.axis_labels == ("time", "y", "x")
    assert image.name == "breathing thorax"
    assert points.name == "breathing thorax landmarks"


def test_every_landmark_lies_in_the_image_once_a_frame(layers: Any) -> None:
    image, points = layers
    assert (points.data >= 0).all()
    assert (points.data <= np.array(image.data.shape) - 1).all()
    keys = list(zip(points.features["id"], points.data[:, 0].astype(int), strict=True))
    assert len(set(keys)) == len(keys) >= 2 * len(set(points.features["id"]))


def test_it_is_a_series_that_moves_and_the_landmarks_with_it(layers: Any) -> None:
    image, points = layers
    (series,) = layer_to_series(image)
    assert len(series) >= 10
    assert series.times_s is not None
    frames = np.asarray(image.data, np.float32)
    assert np.abs(frames - frames[0]).mean(axis=(1, 2)).max() > 0.02 * np.ptp(frames)
    paths = [points.data[points.features["id"] == name, 1:] for name in set(points.features["id"])]
    assert max(np.ptp(path, axis=0).max() for path in paths) > 2


def test_it_is_the_same_at_every_opening() -> None:
    (first, *_), (second, *_) = breathing_thorax(), breathing_thorax()
    np.testing.assert_array_equal(np.asarray(first[0]), np.asarray(second[0]))
