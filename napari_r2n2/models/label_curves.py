"""Curves of labels from the registration of a window; generators, without Qt."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_r2n2.models.registration import Registration
    from r2n2.curves import LabelCurve

__all__ = ["Curves", "read_curves"]


@dataclass(frozen=True, eq=False)
class Curves:
    """What was read of one slice position.

    Parameters
    ----------
    curves
        One a label.
    times_s
        Of all frames; None where they are not known.
    status
        Frame -> what became of it.
    """

    curves: tuple[LabelCurve, ...]
    times_s: tuple[float, ...] | None
    status: dict[int, str]


def read_curves(registration: Registration, labels: NDArray[np.int64], slice_index: int = 0) -> Generator[Any, None, Curves]:
    """Intensity before and after, area and strain of every label, with what is switched on now.

    Parameters
    ----------
    labels
        (*shape) on the reference.
    """
    from napari_r2n2.models.registration import FrameKey
    from r2n2.curves import label_curves
    from r2n2.registration import warp_pixels

    series = registration.series[slice_index]
    transforms = registration.transforms(slice_index)

    def grey(image: NDArray[Any]) -> NDArray[np.floating]:
        return np.asarray(np.abs(image) if np.iscomplexobj(image) else image, np.float64).mean(axis=0)

    curves = yield from label_curves(
        labels,
        series.grid,
        transforms,
        lambda frame: grey(warp_pixels(series.frame(frame), transforms[frame])),
        lambda frame: grey(series.frame(frame)),
    )
    status = {frame: registration.result(FrameKey(slice_index, frame)).status.value for frame in transforms}
    return Curves(curves, series.times_s, status)
