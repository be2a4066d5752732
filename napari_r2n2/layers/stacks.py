"""Lazy image stacks: only the image that is on display is computed, of a volume only the slice of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["LazyParts", "LazyStack"]


class LazyStack:
    """An array (*leading, *item) whose items are computed when they are looked at.

    It has what napari asks of an image: ``shape``, ``ndim``, ``dtype``, ``size``, ``len`` and indexing.

    Parameters
    ----------
    leading
        Lengths of the axes that choose an item, such as (steps, frames).
    item
        Shape of one item.
    dtype
        Of every item.
    compute
        Called with one index a leading axis; gives one item.
    """

    def __init__(
        self, leading: tuple[int, ...], item: tuple[int, ...], dtype: DTypeLike, compute: Callable[..., NDArray[Any]]
    ) -> None:
        self.shape = (*leading, *item)
        self.ndim = len(self.shape)
        self.size = math.prod(self.shape)
        self.dtype = np.dtype(dtype)
        self.leading = leading
        self._compute = compute

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        index = index if isinstance(index, tuple) else (index,)
        # By identity: an array in the index cannot be compared.
        for place in [place for place, part in enumerate(index) if part is Ellipsis]:
            index = (*index[:place], *(slice(None),) * (self.ndim - len(index) + 1), *index[place + 1 :])
        index = (*index, *(slice(None),) * (self.ndim - len(index)))
        count = len(self.leading)
        chosen = [np.arange(length)[part] for length, part in zip(self.leading, index[:count], strict=True)]
        places = itertools.product(*(np.atleast_1d(part).tolist() for part in chosen))
        items = [self._item(place, index[count:]) for place in places]
        lengths = tuple(len(part) for part in chosen if part.ndim)
        if not items:
            return np.zeros((*lengths, *np.empty(self.shape[count:], self.dtype)[index[count:]].shape), self.dtype)
        return np.stack(items).reshape((*lengths, *items[0].shape))

    def _item(self, place: tuple[int, ...], index: tuple[Any, ...]) -> NDArray[Any]:
        return self._compute(*place)[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("LazyStack: an array of it is always a new one; leave out copy=False")
        return np.asarray(self[...], dtype=dtype)


class LazyParts(LazyStack):
    """A lazy stack of volumes of which only the part that is looked at is computed.

    Parameters
    ----------
    leading, item, dtype
        As of ``LazyStack``; ``item`` holds z, y, x and may hold another axis before or behind them.
    compute
        Called with one index a leading axis and a slice of voxels along each of z, y, x; gives that part of an item.
    first
        Where z stands in ``item``.
    """

    def __init__(
        self,
        leading: tuple[int, ...],
        item: tuple[int, ...],
        dtype: DTypeLike,
        compute: Callable[..., NDArray[Any]],
        *,
        first: int = 0,
    ) -> None:
        super().__init__(leading, item, dtype, compute)
        self._spatial = range(first, first + 3)

    def _item(self, place: tuple[int, ...], index: tuple[Any, ...]) -> NDArray[Any]:
        lengths = self.shape[len(self.leading) :]
        part, left = [], list(index)
        for axis in self._spatial:
            wanted, n = index[axis], lengths[axis]
            if isinstance(wanted, slice) and wanted.step in (None, 1):
                start, stop, _step = wanted.indices(n)
                part.append(slice(start, max(start, stop)))
                left[axis] = slice(None)
            elif isinstance(wanted, int | np.integer):
                at = range(n)[int(wanted)]
                part.append(slice(at, at + 1))
                left[axis] = 0
            else:
                part.append(slice(0, n))
        found = self._compute(*place, tuple(part))
        return found[tuple(left)]
