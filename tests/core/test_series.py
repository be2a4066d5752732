"""Series and landmarks: what fits a grid, what is refused, and that frames come as the file holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.series import ImageSeries, LandmarkSet

GRID = Grid((3, 5), (2.0, 0.5), (10.0, -4.0))


def _frames(count: int = 4, dtype: Any = np.uint16) -> np.ndarray[Any, Any]:
    return np.arange(count * 15).reshape(count, 1, 3, 5).astype(dtype)


class _Lazy:
    """Frames that are made when asked for and count how often."""

    shape = (4, 1, 3, 5)
    dtype = np.dtype("int16")

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int, /) -> Any:
        self.asked.append(index)
        return _frames(dtype=np.int16)[index]


def test_lazy_frames_are_read_one_at_a_time_and_only_when_asked() -> None:
    lazy = _Lazy()
    series = ImageSeries(lazy, GRID)
    assert (len(series), series.channels, series.dtype) == (4, 1, np.dtype("int16"))
    assert lazy.asked == []
    np.testing.assert_array_equal(series.frame(2), _frames(dtype=np.int16)[2])
    assert lazy.asked == [2]


@pytest.mark.parametrize("dtype", [">i2", "<i2", ">f4", "u1", "?", "c8"])
def test_a_frame_keeps_its_type_in_native_order(dtype: str) -> None:
    frame = ImageSeries(_frames(dtype=dtype), GRID).frame(1)
    assert frame.dtype == np.dtype(dtype).newbyteorder("=")
    assert frame.dtype.isnative
    np.testing.assert_array_equal(frame, _frames(dtype=dtype)[1])


def test_a_mirrored_view_becomes_contiguous() -> None:
    frame = ImageSeries(_frames()[:, :, ::-1, ::-1], GRID).frame(0)
    assert frame.flags.c_contiguous
    assert frame[0, 0, 0] == 14


@pytest.mark.parametrize("index", [-1, 4])
def test_a_frame_that_does_not_exist_is_named(index: int) -> None:
    with pytest.raises(IndexError, match=rf"frame {index} does not exist: cine has frames 0 to 3"):
        ImageSeries(_frames(), GRID, name="cine").frame(index)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 3, 5)), r"shape \(T, C, 3, 5\)"),
        (np.zeros((4, 1, 5, 3)), r"shape \(T, C, 3, 5\)"),
        (np.zeros((0, 1, 3, 5)), "no frame or no channel"),
        (np.zeros((4, 0, 3, 5)), "no frame or no channel"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSeries(frames, GRID)


def test_times_must_be_as_many_as_frames() -> None:
    with pytest.raises(ValueError, match="3 times_s were given for 4 frames"):
        ImageSeries(_frames(), GRID, times_s=(0.0, 1.0, 2.0))


def test_notes_are_added_to_a_copy() -> None:
    series = ImageSeries(_frames(), GRID, notes=("first",))
    assert series.with_note("second").notes == ("first", "second")
    assert series.notes == ("first",)


def _landmarks() -> LandmarkSet:
    points = np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 1.5], [0.5, 4.0]])
    return LandmarkSet(("a", "b", "b", "a"), np.array([0, 0, 1, 1]), points, Space.INDEX)


def test_landmarks_of_a_frame_in_the_order_of_the_ids_asked_for() -> None:
    in_one = _landmarks().in_frame(1)
    assert in_one.ids == ("b", "a")
    np.testing.assert_array_equal(in_one.select(("a", "b")).points, [[0.5, 4.0], [1.0, 1.5]])
    assert len(_landmarks().in_frame(7)) == 0


def test_landmarks_in_mm() -> None:
    world = _landmarks().to_space(Space.WORLD, GRID)
    np.testing.assert_allclose(world.points, [[10, -3.5], [14, -2.5], [12, -3.25], [11, -2]])
    np.testing.assert_allclose(world.to_space(Space.INDEX, GRID).points, _landmarks().points)
    with pytest.raises(GridMismatchError, match="2 coordinates, the grid has 3 axes"):
        _landmarks().to_space(Space.WORLD, Grid((3, 4, 5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("a",), [0, 1], [[0.0, 0.0]], Space.INDEX), "1 ids need frames"),
        ((("a",), [0], [0.0, 0.0], Space.INDEX), "1 ids need frames"),
        ((("a",), [0], [[0.0, 0.0]], Space.NORMALISED), "INDEX or WORLD"),
        ((("a",), [0], [[0.0, np.nan]], Space.INDEX), "must be finite"),
        ((("a",), [-1], [[0.0, 0.0]], Space.INDEX), "frame at least 0"),
        ((("a", "a"), [3, 3], [[0.0, 0.0], [1.0, 1.0]], Space.INDEX), "'a' occurs twice in frame 3"),
    ],
)
def test_landmarks_that_cannot_be_are_refused(arguments: Any, message: str) -> None:
    ids, frames, points, space = arguments
    with pytest.raises(ValueError, match=message):
        LandmarkSet(ids, np.array(frames), np.array(points), space)
