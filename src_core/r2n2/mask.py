"""How much every pixel of a series counts, from 0 (not at all) to 1: a mask of the reference and masks of the moving frames."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.series import ImageSeries

__all__ = ["NO_MASKS", "Mask", "Masks"]


@dataclass(frozen=True, eq=False)
class Mask:
    """Weights of the pixels of one frame, or of every frame of a series.

    Parameters
    ----------
    weights
        (1 or T, *shape) bool, or float32 in [0, 1]; of one frame for all, or one a frame.
    name
        What to call it in messages.
    path
        File it was read from, "" for none.
    notes
        What was decided when it was read, one sentence each.

    Raises
    ------
    ReadError
        If nothing counts, or a weight is no number from 0 to 1.
    """

    weights: NDArray[Any]
    name: str = "mask"
    path: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weights.ndim not in (3, 4) or 0 in self.weights.shape:
            raise ReadError(
                f"{self.name}: expected masks of 2 or 3 axes behind that of the frames, got shape {self.weights.shape}; "
                "give it the shape of the frames"
            )
        if self.weights.dtype != np.bool_:
            object.__setattr__(self, "weights", np.asarray(self.weights, np.float32))
            if not ((self.weights >= 0) & (self.weights <= 1)).all():
                raise ReadError(f"{self.name}: expected weights from 0 to 1, got others; give 0 where nothing counts")
        if not self.weights.any():
            raise ReadError(f"{self.name}: every pixel is 0, so nothing would count; give other values than 0 where pixels count")

    @classmethod
    def of(cls, values: NDArray[Any], name: str = "mask", path: str = "", notes: tuple[str, ...] = ()) -> Mask:
        """From weights in [0, 1], or from labels: whole numbers, of which every other than 0 counts.

        Parameters
        ----------
        values
            (1 or T, *shape) of any real type.

        Raises
        ------
        ReadError
            If a value is complex, negative, not finite, or neither a weight nor a whole number; or nothing counts.
        """
        values = np.asarray(values)
        if values.dtype.kind not in "buif":
            raise ReadError(f"{name}: expected whole numbers or weights from 0 to 1, got {values.dtype}; convert it first")
        if values.dtype.kind != "b" and values.size:
            _check_values(values, name)
        whole = values.dtype.kind in "bui" or bool((values == np.rint(values)).all())
        return cls(values != 0 if whole else values.astype(np.float32), name, path, notes)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return tuple(self.weights.shape[1:])

    def frame(self, index: int) -> NDArray[np.float32]:
        """Weights (*shape) of a frame."""
        return np.asarray(self.weights[index if len(self) > 1 else 0], np.float32)

    def inside(self, index: int = 0) -> NDArray[np.bool_]:
        """(*shape) where pixels of a frame count at all."""
        return self.frame(index) > 0

    @property
    def sha256(self) -> str:
        """Hash of the weights; the same for bool as for 0 and 1."""
        digest = hashlib.sha256(repr(self.weights.shape).encode())
        for index in range(len(self)):
            digest.update(np.ascontiguousarray(self.weights[index], "<f4").tobytes())
        return digest.hexdigest()


def _check_values(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ReadError(f"{name}: {count} pixels are NaN or infinite, expected weights from 0 to 1 or labels; set them to 0")
    low, high = values.min(), values.max()
    if low < 0:
        raise ReadError(f"{name}: holds negative values (smallest {low:g}), expected weights from 0 to 1 or labels; set them to 0")
    if high > 1 and not (values == np.rint(values)).all():
        raise ReadError(
            f"{name}: holds {high:g}, expected weights from 0 to 1, or whole numbers as labels; divide the weights by {high:g}"
        )


@dataclass(frozen=True, eq=False)
class Masks:
    """What counts in a registration.

    Parameters
    ----------
    fixed
        Of the reference frame; None where all of it counts.
    moving
        Of the frames that are aligned, one for all or one a frame; None where all of them count.
    """

    fixed: Mask | None = None
    moving: Mask | None = None

    def __bool__(self) -> bool:
        return self.fixed is not None or self.moving is not None

    def check(self, series: ImageSeries) -> None:
        """See that they fit a series.

        Raises
        ------
        ReadError
            If shape or number do not fit.
        """
        for mask, counts in ((self.fixed, {1}), (self.moving, {1, len(series)})):
            if mask is None:
                continue
            if mask.shape != series.grid.shape:
                raise ReadError(
                    f"{mask.name}: has {_text(mask.shape)} pixels, the frames have {_text(series.grid.shape)}; "
                    f"resample it to the frames first"
                )
            if len(mask) not in counts:
                expected = "1 mask" if len(counts) == 1 else f"1 mask, or {len(series)} (one a frame)"
                raise ReadError(f"{mask.name}: holds {len(mask)} masks, expected {expected}; leave the others out")

    def inside(self, index: int) -> NDArray[np.bool_] | None:
        """(*shape) where pixels of a frame count at all, as far as can be said before its motion is known; None where all do.

        The mask of the reference stands for the same place in all frames.
        """
        parts = [mask.inside(number) for mask, number in ((self.fixed, 0), (self.moving, index)) if mask is not None]
        return np.logical_and.reduce(parts) if parts else None

    def hashes(self) -> dict[str, str]:
        """Name -> hash of those that are there."""
        return {name: mask.sha256 for name, mask in (("fixed", self.fixed), ("moving", self.moving)) if mask is not None}


NO_MASKS = Masks()
"""All of every frame counts."""


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
