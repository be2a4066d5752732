"""A lazy stack against the array it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_r2n2.layers.stacks import LazyStack

WHOLE = np.arange(3 * 4 * 5 * 7, dtype=np.int16).reshape(3, 4, 5, 7)


def _stack(asked: list[tuple[int, ...]] | None = None) -> LazyStack:
    def compute(step: int, frame: int) -> NDArray[Any]:
        if asked is not None:
            asked.append((step, frame))
        return WHOLE[step, frame]

    return LazyStack((3, 4), (5, 7), np.int16, compute)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        (1, 2),
        (slice(1, 2), slice(3, 4)),
        (slice(None), -2, slice(1, 4), 3),
        (2, slice(None, None, 2)),
        (slice(0, 0), 1),
        (slice(0, 0), slice(None)),
        (1, 2, 3, 4),
        (..., 3),
        (1, ..., slice(2, 5)),
        ...,
        (np.array([2, 0]), 1),
        (np.int64(1), np.int64(3)),
    ],
    ids=repr,
)
def test_every_index_gives_what_numpy_gives(index: Any) -> None:
    found = _stack()[index]
    np.testing.assert_array_equal(found, WHOLE[index])
    assert found.dtype == np.int16


def test_only_what_is_asked_for_is_computed() -> None:
    asked: list[tuple[int, ...]] = []
    stack = _stack(asked)
    assert (stack.shape, stack.ndim, stack.size, len(stack)) == (WHOLE.shape, 4, WHOLE.size, 3)
    stack[1:2, 2:3, :, 0:2]
    assert asked == [(1, 2)]


def test_it_becomes_a_whole_array() -> None:
    np.testing.assert_array_equal(np.asarray(_stack()), WHOLE)
    assert np.asarray(_stack(), dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy=False"):
        np.array(_stack(), copy=False)


def test_an_index_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        _stack()[3]
