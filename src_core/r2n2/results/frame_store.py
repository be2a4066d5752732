"""The frames of a result while it is written: fields and maps on disk, numbers and compact transforms in memory, never images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2n2.evaluation import TRETable
from r2n2.io.atomic import clean_stale, resource_errors
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.journal import BatchRecord
from r2n2.results.reader import StoredTransforms, field_path, uncertainty_path
from r2n2.series import ImageSeries
from r2n2.transform import BSplineField, GaussianSequence, Transform

__all__ = ["FrameStore"]


class FrameStore:
    """Takes the results of a series frame by frame.

    Parameters
    ----------
    folder
        Of the result.
    series
        What is registered.
    maps
        Whether a map of uncertainty is written of each frame.
    """

    def __init__(self, folder: Path, series: ImageSeries, *, maps: bool) -> None:
        self._folder, self._series = folder, series
        self.folders = ("fields", "uncertainty") if maps else ("fields",)
        """Names of the folders that hold a file a frame."""
        self.metrics: dict[int, FrameMetrics] = {}
        """Frame -> its numbers."""
        self.compact: dict[int, Transform] = {}
        """Frame -> its transform, where that is more than its field."""

    def make_folders(self) -> None:
        """Make what is missing, and take away what an earlier run left half written.

        Raises
        ------
        ResourceError
            If that cannot be done.
        """
        with resource_errors(self._folder):
            for name in self.folders:
                (self._folder / name).mkdir(exist_ok=True)
                clean_stale(self._folder / name)

    @property
    def paths(self) -> set[Path]:
        """Files of the frames that are there."""
        return {path(self._folder, frame) for frame in self.metrics for path in (field_path, uncertainty_path)}

    def take_up(self, records: Sequence[BatchRecord]) -> None:
        """Frames whose files are there from an earlier part of the run."""
        for record in records:
            self.metrics.update({row.frame: row for row in record.metrics})
            self.compact.update(record.compact)

    def add(self, result: FrameResult) -> None:
        """Write the files of a frame and keep its numbers.

        Raises
        ------
        ValueError
            If the frame was added before or does not exist, or its transform lies on another grid.
        ResourceError
            If something cannot be written.
        """
        frame, transform = result.frame, result.transform
        if frame in self.metrics or not 0 <= frame < len(self._series):
            raise ValueError(f"FrameStore.add: frame {frame} was added before or is none of {len(self._series)} frames")
        if not self._series.grid.same_space(transform.grid):
            raise ValueError(
                f"FrameStore.add: the transform of frame {frame} lies on {transform.grid}, the series on {self._series.grid}"
            )
        from r2n2.io.fields import write_field

        write_field(field_path(self._folder, frame), transform.displacement_field())
        if "uncertainty" in self.folders:
            self._write_map(result)
        if isinstance(transform, GaussianSequence | BSplineField):
            self.compact[frame] = transform
        times = self._series.times_s
        self.metrics[frame] = FrameMetrics.of(result, math.nan if times is None else times[frame])

    def _write_map(self, result: FrameResult) -> None:
        from r2n2.io.scalar_maps import write_scalar_map

        grid, found = self._series.grid, result.uncertainty
        values = np.full(grid.shape, np.nan, np.float32) if found is None else found.on(grid).numpy()
        write_scalar_map(uncertainty_path(self._folder, result.frame), values, grid)

    def record(self, frames: Sequence[int], elapsed_s: float, peak_memory_mib: float | None) -> BatchRecord:
        """What the journal keeps of frames that are there."""
        compact = {frame: self.compact[frame] for frame in frames if frame in self.compact}
        return BatchRecord.of(self._folder, [self.metrics[frame] for frame in frames], compact, elapsed_s, peak_memory_mib)

    def missing(self) -> list[int]:
        """Frames that were never added."""
        return sorted(set(range(len(self._series))) - set(self.metrics))

    def transforms(self) -> StoredTransforms:
        """Frame -> transform."""
        return StoredTransforms(self._folder, list(self.metrics), self.compact)

    def reference(self) -> int:
        """The frame that is the reference.

        Raises
        ------
        ValueError
            If there is none or more than one.
        """
        marked = [frame for frame, row in self.metrics.items() if row.status is FrameStatus.REFERENCE]
        if len(marked) != 1:
            raise ValueError(f"FrameStore: exactly one frame must have the status reference, got {marked}")
        return marked[0]

    def ordered(self, errors: TRETable | None = None) -> tuple[FrameMetrics, ...]:
        """The numbers in order of frames, with landmark errors where there are any."""
        rows = [self.metrics[frame] for frame in sorted(self.metrics)]
        return tuple(rows if errors is None else [row.with_errors(errors) for row in rows])
