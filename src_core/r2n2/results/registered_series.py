"""The aligned series of a result, in the format of its input."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.registration import warp_frame
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.runtime.memory import FRAMES_BETWEEN, give_back_freed_memory
from r2n2.series import ImageSeries

__all__ = ["write_registered", "written_as_dicom"]

_NAME = "registered"
_LOG = logging.getLogger(__name__)


def written_as_dicom(series: ImageSeries) -> bool:
    """Whether the aligned series is DICOM, which alone can hold headers."""
    from r2n2.io.writing import output_name

    return series.source.get("format") == "dicom" and output_name(_NAME, series) == _NAME


def write_registered(folder: Path, series: ImageSeries, results: Iterable[FrameResult], *, keep_headers: bool) -> str:
    """Warp and write every frame, one at a time; the name of the file or folder.

    Parameters
    ----------
    results
        One a frame, in their order.
    keep_headers
        Copy all DICOM headers, patient data included.

    Raises
    ------
    ReadError
        If a frame that was registered can no longer be read.
    ResourceError
        If it cannot be written.
    """
    from r2n2.io import atomic_folder, write_series

    frames = _warped(series, results)
    if not keep_headers:
        return write_series(folder, _NAME, series, frames).name
    from r2n2.io.dicom.write import write_dicom_series

    with atomic_folder(folder / _NAME) as temporary:
        write_dicom_series(temporary, series, enumerate(frames), keep_headers=True)
    return _NAME


def _warped(series: ImageSeries, results: Iterable[FrameResult]) -> Iterator[NDArray[Any]]:
    for count, result in enumerate(results):
        if count % FRAMES_BETWEEN == 0:
            give_back_freed_memory()
        try:
            yield warp_frame(series, result)
        except ReadError as error:
            if result.status is not FrameStatus.FAILED:
                raise
            _LOG.warning("frame %d is left black: %s", result.frame, error)
            yield np.zeros((series.channels, *series.grid.shape), series.dtype)
