"""A movie of the registration of a window; generators, without Qt."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_r2n2.models.registration import FrameKey
from napari_r2n2.models.result_files import FileProgress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_r2n2.models.registration import Registration
    from r2n2.movies.pictures import MovieSeries

__all__ = ["write_registration_movie"]


def write_registration_movie(
    registration: Registration, path: Path, key: FrameKey, *, steps: bool = False, rate_hz: float = 8.0, height: int = 320
) -> Generator[FileProgress, None, Path]:
    """Every frame of a slice position before beside after, or one frame step by step, with what is switched on now.

    Parameters
    ----------
    key
        Slice position, and the frame for its steps.

    Raises
    ------
    ArgumentError, ResourceError
        As ``write_movie``, and if the frame is not aligned yet.
    """
    from r2n2.errors import ArgumentError
    from r2n2.movies.pictures import before_after, step_by_step
    from r2n2.movies.writing import write_movie
    from r2n2.transform import GaussianSequence

    series, reference = registration.series[key.slice_index], registration.references[key.slice_index]
    shown = _shown(registration, key.slice_index)
    if steps:
        transform = registration.transform(key)
        if transform is None:
            raise ArgumentError(f"movie: frame {key.frame} is not aligned yet; choose another or wait")
        count = len(transform) + 1 if isinstance(transform, GaussianSequence) else 2
        pictures = step_by_step(shown, key.frame, reference, transform, height=height)
    else:
        count = len(series)
        pictures = before_after(shown, height=height)
    for done in write_movie(path, pictures, rate_hz=rate_hz):
        yield FileProgress(done / count, f"{done} of {count} pictures")
    return path


def _shown(registration: Registration, slice_index: int) -> MovieSeries:
    from r2n2.movies.pictures import MovieSeries
    from r2n2.registration import warp_pixels

    series, transforms = registration.series[slice_index], registration.transforms(slice_index)

    def aligned(frame: int) -> NDArray[Any]:
        image = series.frame(frame)
        # What is not aligned is shown as it came, as on the screen.
        return warp_pixels(image, transforms[frame]) if frame in transforms else image

    return MovieSeries(len(series), series.frame, aligned, series.grid.spacing, series.times_s, series.spacing_known)
