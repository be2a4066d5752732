"""Lung function of the slice positions of a window: masks proposed, maps and figures read, files written; without Qt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.models.registration import FrameKey
from napari_r2n2.models.result_files import FileProgress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_r2n2.models.registration import Registration
    from r2n2.lung.analysis import LungFunction
    from r2n2.lung.settings import LungConfig
    from r2n2.results.aligned_series import AlignedSeries
    from r2n2.series import ImageSeries
    from r2n2.transform import Transform

__all__ = ["LungRun", "aligned_parts", "propose_masks", "read_functions", "series_parts", "write_functions"]

Inside = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LungRun:
    """What was read of the slice positions.

    Parameters
    ----------
    parts
        The aligned slice positions.
    functions
        One a slice position.
    mask_text
        Where the mask came from.
    """

    parts: tuple[AlignedSeries, ...]
    functions: tuple[LungFunction, ...]
    mask_text: str

    @property
    def named(self) -> dict[str, LungFunction]:
        """Name of a slice position -> its function."""
        return {part.name: function for part, function in zip(self.parts, self.functions, strict=True)}


class _AlignedFrames:
    """Frames of a series aligned when they are asked for, (T, C, y, x)."""

    def __init__(self, series: ImageSeries, transforms: Mapping[int, Transform]) -> None:
        self._series, self._transforms = series, transforms
        self.shape, self.dtype = series.frames.shape, series.dtype

    def __getitem__(self, index: int) -> NDArray[Any]:
        from r2n2.registration import warp_pixels

        frame = self._series.frame(index)
        return warp_pixels(frame, self._transforms[index]) if index in self._transforms else frame


def aligned_parts(registration: Registration, frame_time_s: float = 0.0) -> tuple[AlignedSeries, ...]:
    """The slice positions of a registration, by what is switched on now; frames that are not aligned are left out.

    Parameters
    ----------
    frame_time_s
        Time between frames where the file is wrong; 0: as in the file.

    Raises
    ------
    ReadError
        If they are no grey 2D frames with times.
    """
    from r2n2.results.aligned_series import AlignedSeries, counts

    parts = []
    for index, series in enumerate(registration.series):
        transforms = registration.transforms(index)
        left_out = tuple(
            frame
            for frame in range(len(series))
            if frame not in transforms or not counts(registration.results[FrameKey(index, frame)].status)
        )
        aligned = replace(_timed(series, frame_time_s), frames=_AlignedFrames(series, transforms))
        how = "" if registration.config is None else f", {registration.config.method}"
        parts.append(AlignedSeries(_name(registration.series, index), aligned, transforms, left_out, f"napari-r2n2{how}"))
    return tuple(parts)


def series_parts(series: Sequence[ImageSeries], frame_time_s: float = 0.0) -> tuple[AlignedSeries, ...]:
    """Slice positions that somebody else aligned."""
    from r2n2.results.aligned_series import AlignedSeries

    return tuple(AlignedSeries(_name(series, index), _timed(one, frame_time_s)) for index, one in enumerate(series))


def _timed(series: ImageSeries, frame_time_s: float) -> ImageSeries:
    if frame_time_s <= 0:
        return series
    return replace(series, times_s=tuple(frame_time_s * index for index in range(len(series))))


def _name(series: Sequence[ImageSeries], index: int) -> str:
    from r2n2.results.acquisition import slice_names

    return slice_names(len(series))[index] if len(series) > 1 else series[0].name or "series"


def propose_masks(parts: Sequence[AlignedSeries]) -> Generator[FileProgress, None, tuple[Inside, ...]]:
    """Where lung may be on every slice position."""
    from r2n2.results.lung_run import proposed_mask

    masks = []
    for done, part in enumerate(parts):
        yield FileProgress(done / len(parts), part.name)
        masks.append(proposed_mask(part))
    return tuple(masks)


def read_functions(
    parts: Sequence[AlignedSeries], masks: Sequence[Inside], config: LungConfig, mask_text: str
) -> Generator[FileProgress, None, LungRun]:
    """Maps and figures of every slice position.

    Raises
    ------
    ReadError
        As ``analyse``.
    """
    from r2n2.results.lung_run import read_function

    functions = []
    for index, (part, inside) in enumerate(zip(parts, masks, strict=True)):
        running = read_function(part, inside, config)
        while True:
            try:
                share = next(running).fraction
            except StopIteration as end:
                functions.append(end.value)
                break
            yield FileProgress((index + share) / len(parts), f"{part.name}: reading rhythms")
    return LungRun(tuple(parts), tuple(functions), mask_text)


def write_functions(run: LungRun, folder: Path) -> Generator[FileProgress, None, Path]:
    """Write what ``r2n2 lung`` writes: one folder, or one a slice position with a table of all.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    from r2n2.io.atomic import atomic_write
    from r2n2.report.lung import render_lung
    from r2n2.results.lung_files import lung_table
    from r2n2.results.lung_run import write_function

    several = len(run.parts) > 1
    for done, (part, function) in enumerate(zip(run.parts, run.functions, strict=True)):
        yield FileProgress(done / len(run.parts), f"writing {part.name}")
        spacing = part.series.grid.spacing
        page = render_lung(function, part.times_s, (spacing[0], spacing[1]), title=part.name, mask_text=run.mask_text)
        write_function(folder / part.name if several else folder, part, function, page, run.mask_text)
    if several:
        with atomic_write(folder / "lung.csv") as temporary:
            temporary.write_text(lung_table(run.named), encoding="utf-8", newline="")
    return folder
