"""The output folder of a registered series, written frame by frame and marked complete by run.json, its last file.

With a journal (``journal``) a run that was stopped or killed goes on where it stopped, and gives what it would have given.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.evaluation import TRETable, target_registration_error
from r2n2.io.atomic import atomic_write, clean_stale, resource_errors
from r2n2.mask import NO_MASKS, Masks
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.results.journal import JOURNAL_NAME, BatchRecord, Earlier, JournalHead, RunJournal, earlier_parts
from r2n2.results.landmark_doubts import doubts
from r2n2.results.landmark_radius import with_radii
from r2n2.results.manifest import (
    CONVENTION,
    MANIFEST_NAME,
    InputRecord,
    MaskRecord,
    RunFacts,
    RunManifest,
    UncertaintyRecord,
    input_sha256,
    landmarks_sha256,
    run_sha256,
    versions,
)
from r2n2.results.mask_files import write_masks
from r2n2.results.output_folder import UNFINISHED_NAME, check_folder, check_space, clear_folder, estimated_bytes, is_same_run
from r2n2.results.reader import (
    FrameMetrics,
    RegisteredSeries,
    StoredTransforms,
    field_path,
    metrics_table,
    read_result,
    uncertainty_path,
)
from r2n2.results.registered_series import write_registered, written_as_dicom
from r2n2.results.sequence_file import read_sequences
from r2n2.results.transform_files import write_transforms
from r2n2.results.tre_table import status_notes, tre_table_csv
from r2n2.runtime.folder_lock import folder_lock
from r2n2.runtime.memory import give_back_freed_memory, peak_memory_mib
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import BSplineField, GaussianSequence, Transform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Renderer",
    "ResultWriter",
    "check_folder",
    "check_space",
    "estimated_bytes",
    "is_same_run",
    "read_result",
    "read_sequences",
]

_LOG = logging.getLogger(__name__)

Renderer: TypeAlias = Callable[[ImageSeries, RegisteredSeries, TRETable | None], str]
"""Makes a page of a finished series and its landmark errors; given in, so that results know nothing of figures."""


class ResultWriter:
    """Writes results as they come; memory holds numbers and compact transforms only, never frames.

    Use it as a context: leaving it before ``finish`` keeps the frames written so far, with a note, and no run.json. Once it is
    entered, ``done`` says which frames are there already, and ``note`` what was found in the folder. ``run_notes`` may be
    given what the run decided; it is kept in run.json. Once it is finished, ``doubts`` says in which other convention the landmarks
    would fit far better.

    Parameters
    ----------
    folder
        Output folder; made where it is missing.
    series, config
        What is registered and how.
    input_hash
        ``input_sha256(series)`` where it is known already.
    selection
        Reading options that chose the series, for the record.
    facts
        What the run uses, taken down when it runs.
    landmarks
        If given, tre.csv and the error columns of metrics.csv are written.
    masks
        What counted; kept beside the result, and landmarks of the reference outside of its mask are left out of the errors.
    overwrite
        Replace a finished result, or files of the same names that are not ours.
    keep_headers
        Copy all headers of a DICOM input into the aligned DICOM series, patient data included.
    batch_size
        Frames that are going to be registered at once. Given, a journal is kept, and if the folder holds that of the same run, it
        goes on from there, with the batch size it had where ``config`` leaves that open.

    Raises
    ------
    ArgumentError
        If the folder holds a result or files of the same names and ``overwrite`` is false, or ``keep_headers`` is asked for
        where the aligned series is not DICOM.
    ResourceError
        If the folder cannot be written, or another run writes to it.
    """

    def __init__(
        self,
        folder: Path,
        series: ImageSeries,
        config: RegistrationConfig,
        *,
        input_hash: str | None = None,
        selection: Mapping[str, Any] | None = None,
        facts: RunFacts | None = None,
        landmarks: LandmarkSet | None = None,
        masks: Masks = NO_MASKS,
        overwrite: bool = False,
        keep_headers: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if keep_headers and not written_as_dicom(series):
            raise ArgumentError(f"--keep-headers: {series.name or 'the series'} is not written as DICOM, which alone can hold them")
        self._keep_headers = keep_headers
        self._folder = folder
        self._series = series
        self._config = config
        self._input_hash = input_hash
        self._selection = dict(selection or {})
        self._facts = facts or RunFacts()
        self._landmarks = landmarks
        self._masks = masks
        self._overwrite = overwrite
        self._metrics: dict[int, FrameMetrics] = {}
        self._compact: dict[int, Transform] = {}
        self._finished = False
        self._started = time.monotonic()
        self._earlier = Earlier()
        self._journal: RunJournal | None = None
        self._held = contextlib.ExitStack()
        self.batch_size = batch_size
        self.note = ""
        self.run_notes: tuple[str, ...] = ()
        self.doubts: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        check_folder(self._folder)
        self._held.enter_context(folder_lock(self._folder))
        try:
            if self.batch_size is not None and not self._overwrite and not (self._folder / MANIFEST_NAME).exists():
                self._take_up(earlier_parts(self._folder, self._head(self.batch_size), len(self._series)))
            kept = {path(self._folder, frame) for frame in self._metrics for path in (field_path, uncertainty_path)}
            clear_folder(self._folder, overwrite=self._overwrite, keep={*kept, self._folder / JOURNAL_NAME} if kept else ())
            with resource_errors(self._folder):
                for name in ("fields", *self._maps):
                    (self._folder / name).mkdir(exist_ok=True)
                    clean_stale(self._folder / name)
            if self.batch_size is not None:
                self._journal = RunJournal(self._folder, self._head(self.batch_size), self._series.grid, self._earlier.records)
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not self._finished:
                self._keep_partial(_reason(kind, error))
        except (OSError, ResourceError) as second:
            # The first error is the one to report.
            _LOG.warning("%s: the partial result could not be completed (%s)", self._folder, second)
        finally:
            if self._journal is not None:
                self._journal.close()
            self._held.close()

    @property
    def done(self) -> dict[int, Transform | None]:
        """Frames that are there already, each with its transform if that is ok; what ``register_series`` needs to go on."""
        transforms = self._transforms()
        return {frame: transforms[frame] if row.status.sound else None for frame, row in self._metrics.items()}

    def add(self, *results: FrameResult) -> None:
        """Write the fields of frames that were registered together, keep their numbers, and write the journal if there is one.

        Raises
        ------
        ValueError
            If a frame was added before or does not exist.
        ResourceError
            If something cannot be written.
        """
        for result in results:
            self._add(result)
        if self._journal is not None and results:
            frames = [result.frame for result in results]
            compact = {frame: self._compact[frame] for frame in frames if frame in self._compact}
            rows = [self._metrics[frame] for frame in frames]
            self._journal.append(BatchRecord.of(self._folder, rows, compact, self._elapsed_s(), self._peak_memory_mib()))
            give_back_freed_memory()

    def _add(self, result: FrameResult) -> None:
        if result.frame in self._metrics or not 0 <= result.frame < len(self._series):
            raise ValueError(f"ResultWriter.add: frame {result.frame} was added before or is none of {len(self._series)} frames")
        if not self._series.grid.same_space(result.transform.grid):
            raise ValueError(
                f"ResultWriter.add: the transform of frame {result.frame} lies on {result.transform.grid}, "
                f"the series on {self._series.grid}"
            )
        from r2n2.io.fields import write_field

        write_field(field_path(self._folder, result.frame), result.transform.displacement_field())
        if self._maps:
            self._write_map(result)
        if isinstance(result.transform, GaussianSequence | BSplineField):
            self._compact[result.frame] = result.transform
        times = self._series.times_s
        self._metrics[result.frame] = FrameMetrics.of(result, math.nan if times is None else times[result.frame])

    @property
    def _maps(self) -> tuple[str, ...]:
        """Name of the folder of the maps of uncertainty, where there are to be any."""
        return () if self._config.uncertainty == "off" else ("uncertainty",)

    def _write_map(self, result: FrameResult) -> None:
        from r2n2.io.scalar_maps import write_scalar_map

        grid, found = self._series.grid, result.uncertainty
        values = np.full(grid.shape, np.nan, np.float32) if found is None else found.on(grid).numpy()
        write_scalar_map(uncertainty_path(self._folder, result.frame), values, grid)

    def _radius_of(self, frame: int) -> Tensor | None:
        import torch

        from r2n2.io.scalar_maps import read_scalar_map

        if not self._maps:
            return None
        return torch.from_numpy(read_scalar_map(uncertainty_path(self._folder, frame), self._series.grid.shape).copy())

    def finish(self, render: Renderer | None = None) -> RegisteredSeries:
        """Write the aligned series, tables, report and, last, run.json.

        Parameters
        ----------
        render
            Makes the text of report.html; without it none is written.

        Raises
        ------
        ValueError
            If a frame is missing.
        ResourceError
            If something cannot be written.
        """
        missing = sorted(set(range(len(self._series))) - set(self._metrics))
        if missing:
            raise ValueError(f"ResultWriter.finish: frames {missing[:10]} were never added; leave the context instead")
        errors, notes = self._landmark_errors()
        files = [*self._write_transforms(), self._write_registered(), *self._write_tables(errors)]
        files += write_masks(self._folder, self._series, self._masks)
        files += [] if render is None else ["report.html"]
        registered = RegisteredSeries(self._folder, self._manifest(files, notes), self._ordered(errors), self._transforms())
        if render is not None:
            _write_text(self._folder / "report.html", render(self._series, registered, errors))
        manifest = self._manifest(files, notes)
        _write_text(self._folder / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
        self._finished = True
        if self._journal is not None:
            self._journal.remove()
        return replace(registered, manifest=manifest)

    def _take_up(self, earlier: Earlier) -> None:
        self._earlier = earlier
        self.note = earlier.note
        if self._config.batch_size == "auto":
            self.batch_size = earlier.batch_size or self.batch_size
        for record in earlier.records:
            self._metrics.update({row.frame: row for row in record.metrics})
            self._compact.update(record.compact)

    def _head(self, batch_size: int) -> JournalHead:
        return JournalHead(
            run_sha256=self._run_sha256(),
            versions=versions(),
            device=self._facts.device,
            batch_size=batch_size,
            parts=self._parts(),
        )

    def _run_sha256(self) -> str:
        self._input_hash = self._input_hash or input_sha256(self._series)
        return run_sha256(
            self._config,
            self._input_hash,
            self._selection,
            weights_sha256=self._facts.weights_sha256,
            landmarks_sha256=None if self._landmarks is None else landmarks_sha256(self._landmarks),
            precision=self._facts.precision,
            masks=self._masks,
        )

    def _elapsed_s(self) -> float:
        """Wall time of all parts of the run."""
        return self._earlier.elapsed_s + time.monotonic() - self._started

    def _peak_memory_mib(self) -> float | None:
        found = [peak for peak in (self._earlier.peak_memory_mib, peak_memory_mib()) if peak is not None]
        return max(found, default=None)

    def _parts(self) -> int:
        return self._earlier.parts + 1

    def _transforms(self) -> StoredTransforms:
        return StoredTransforms(self._folder, list(self._metrics), self._compact)

    def _reference(self) -> int:
        marked = [frame for frame, metrics in self._metrics.items() if metrics.status is FrameStatus.REFERENCE]
        if len(marked) != 1:
            raise ValueError(f"ResultWriter: exactly one frame must have the status reference, got {marked}")
        return marked[0]

    def _ordered(self, errors: TRETable | None = None) -> tuple[FrameMetrics, ...]:
        rows = [self._metrics[frame] for frame in sorted(self._metrics)]
        return tuple(rows if errors is None else [row.with_errors(errors) for row in rows])

    def _landmark_errors(self) -> tuple[TRETable | None, tuple[str, ...]]:
        if self._landmarks is None:
            return None, ()
        mask = None if self._masks.fixed is None else self._masks.fixed.inside()
        try:
            table = target_registration_error(self._transforms(), self._landmarks, self._reference(), self._series.grid, mask=mask)
        except ReadError as error:
            # Landmarks that do not fit must not cost a finished registration.
            _LOG.warning("%s", error)
            return None, (str(error),)
        self.doubts = doubts(self._transforms(), self._landmarks, self._reference(), self._series.grid, table)
        table = with_radii(table, self._landmarks, self._series.grid, self._radius_of)
        return table, (*self._landmarks.notes, *status_notes(self._ordered()), *table.notes, *self.doubts)

    def _write_transforms(self) -> list[str]:
        return ["fields", *self._maps, *write_transforms(self._folder, self._compact, self._series.grid)]

    def _write_registered(self) -> str:
        transforms = self._transforms()
        results = (self._metrics[frame].result(transforms[frame]) for frame in range(len(self._series)))
        return write_registered(self._folder, self._series, results, keep_headers=self._keep_headers)

    def _write_tables(self, errors: TRETable | None) -> list[str]:
        text = metrics_table(self._ordered(errors), with_errors=errors is not None)
        _write_text(self._folder / "metrics.csv", text)
        if errors is None:
            return ["metrics.csv"]
        _write_text(self._folder / "tre.csv", tre_table_csv(errors))
        return ["metrics.csv", "tre.csv"]

    def _manifest(self, files: list[str], notes: tuple[str, ...]) -> RunManifest:
        run_hash = self._run_sha256()
        assert self._input_hash is not None
        record = InputRecord.of(self._series, self._input_hash, self._selection)
        measure = self._metrics[self._reference()].similarity_measure
        used = self._config.model_copy(update={"similarity": measure})
        return RunManifest(
            run_sha256=run_hash,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            settings=self._config,
            device=self._facts.device,
            precision=self._facts.precision,
            threads=self._facts.threads,
            weights_sha256=self._facts.weights_sha256,
            landmarks_sha256=None if self._landmarks is None else landmarks_sha256(self._landmarks),
            masks=MaskRecord.of(self._masks),
            input=record.model_copy(update={"notes": (*record.notes, *self.run_notes, *notes)}),
            reference=self._reference(),
            similarity="correlation coefficient" if measure == "ssd" else f"agreement by {measure}",
            similarity_measure=measure,
            convention=CONVENTION,
            status_counts=dict(Counter(str(row.status) for row in self._ordered())),
            messages={row.frame: row.message for row in self._ordered() if row.message},
            uncertainty=UncertaintyRecord.of(used, {r.frame: r.uncalibrated for r in self._ordered() if r.uncalibrated}),
            wall_time_s=round(self._elapsed_s() if self._facts.wall_time_s is None else self._facts.wall_time_s, 3),
            peak_memory_mib=self._peak_memory_mib(),
            parts=self._parts(),
            files=tuple(files),
        )

    def _keep_partial(self, reason: str) -> None:
        done, total = len(self._metrics), len(self._series)
        remedy = "Run r2n2 register again to complete it."
        if self._journal is not None:
            remedy = "The same command goes on from there."
        text = f"This result is not finished: {reason}, {done} of {total} frames done. {remedy}\n"
        (self._folder / UNFINISHED_NAME).write_text(text, encoding="utf-8")
        if self._metrics:
            self._write_transforms()
            self._write_tables(None)


def _reason(kind: type[BaseException] | None, error: BaseException | None) -> str:
    """Why a result stays unfinished, in words."""
    if kind is None or kind is GeneratorExit:
        return "stopped"
    return " ".join(str(error).split()) or kind.__name__


def _write_text(path: Path, text: str) -> None:
    _write_bytes(path, text.encode("utf-8"))


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
