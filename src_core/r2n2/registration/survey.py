"""One look at all frames of a series, before anything is registered, from which its reference and its measure are chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.config import RegistrationConfig
from r2n2.errors import R2N2Error
from r2n2.mask import NO_MASKS, Masks
from r2n2.preprocessing import Square, luminance, one_channel
from r2n2.registration.contrast import ContrastFinding, examine_series, examine_squares, examined_frames, prepare_frame
from r2n2.series import ImageSeries

__all__ = ["Survey", "survey_for", "survey_series"]


@dataclass(frozen=True, eq=False)
class Survey:
    """What a look at a series says.

    Parameters
    ----------
    means
        (frames,) mean intensity of each frame, of the one channel that is registered, where masks let it count; NaN of a frame that
        cannot be the reference: without contrast, with too many invalid pixels, or not to be read.
    contrast
        Whether contrast changes from frame to frame.
    unusable
        Why a frame cannot be the reference, for when none can.
    """

    means: NDArray[np.float64]
    contrast: ContrastFinding
    unusable: str


def survey_series(series: ImageSeries, masks: Masks = NO_MASKS, *, frames: int | None = None) -> Survey:
    """Look at all frames, each read once and let go of.

    Parameters
    ----------
    masks
        What counts; motion is not known yet, so the mask of the reference stands for the same place in all frames.
    frames
        Only so many from the first on.
    """
    count = len(series) if frames is None else frames
    means, unusable = np.full(count, np.nan), "no frame has any contrast"
    chosen = examined_frames(count)
    examined: dict[int, Square | None] = {}
    for index in range(count):
        try:
            frame = series.frame(index)
            values = one_channel(frame)
            if index in chosen:
                examined[index] = prepare_frame(*luminance(frame), series.grid, index, masks)
        except (OSError, ValueError, RuntimeError, R2N2Error) as error:
            unusable = f"no frame can be used (frame {index}: {error})"
            continue
        inside = masks.inside(index)
        counted = values[np.isfinite(values) if inside is None else np.isfinite(values) & inside]
        if counted.size and counted.min() < counted.max():
            # Halved, so that the largest numbers there are do not add up to infinity.
            means[index] = (counted / 2).mean()
    return Survey(means, examine_squares(examined, series.grid), unusable)


def survey_for(series: ImageSeries, config: RegistrationConfig, masks: Masks = NO_MASKS) -> Survey | None:
    """What settings leave to a look at the series; None where they leave nothing to it.

    Where the reference is named, some frames tell the contrast, and no mean is known.
    """
    if config.reference == "auto":
        return survey_series(series, masks)
    if config.similarity == "auto":
        return Survey(np.full(len(series), np.nan), examine_series(series, masks), "no frame was looked at")
    return None
