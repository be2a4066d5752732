"""The output folder of a registered series, written frame by frame and marked complete by run.json, its last file.

With a journal (``journal``) a run that was stopped or killed goes on where it stopped, and gives what it would have given.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.evaluation import TRETable, target_registration_error
from r2n2.guides import Guides
from r2n2.io.atomic import atomic_write
from r2n2.mask import NO_MASKS, Masks
from r2n2.registration.results import FrameResult, Trust
from r2n2.results.field_lattice import lattice_of
from r2n2.results.frame_metrics import metrics_table
from r2n2.results.frame_store import FrameStore
from r2n2.results.guide_files import with_guides, write_guides
from r2n2.results.journal import JOURNAL_NAME, Earlier, RunJournal, earlier_parts
from r2n2.results.landmark_doubts import doubts
from r2n2.results.landmark_radius import with_radii
from r2n2.results.manifest import MANIFEST_NAME, TRUST_NAME, RunFacts, RunManifest, TrustRecord
from r2n2.results.mask_files import write_masks
from r2n2.results.output_folder import UNFINISHED_NAME, check_folder, check_space, clear_folder, estimated_bytes, is_same_run
from r2n2.results.reader import RegisteredSeries, StoredResults, read_result
from r2n2.results.registered_series import write_registered, written_as_dicom
from r2n2.results.run_record import Course, RunRecord
from r2n2.results.sequence_file import read_sequences
from r2n2.results.transform_files import write_transforms
from r2n2.results.tre_table import status_notes, tre_table_csv
from r2n2.runtime.folder_lock import folder_lock
from r2n2.runtime.memory import give_back_freed_memory, peak_memory_mib
from r2n2.series import ImageSeries, LandmarkSet

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
    given what the run decided; it is kept in run.json. ``trust`` may be given how far pixels of the reference were trusted. Once
    it is finished, ``doubts`` says in which other convention the landmarks would fit far better.

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
    guides
        Pairs that guided the registration; kept beside the result, and left out of the errors.
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
        guides: Guides | None = None,
        overwrite: bool = False,
        keep_headers: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if keep_headers and not written_as_dicom(series):
            raise ArgumentError(f"--keep-headers: {series.name or 'the series'} is not written as DICOM, which alone can hold them")
        self._keep_headers = keep_headers
        self._folder = folder
        self._run = RunRecord(series, config, dict(selection or {}), facts or RunFacts(), landmarks, masks, input_hash, guides)
        lattice = lattice_of(series.grid, config.fields)
        self._frames = FrameStore(folder, series, lattice=lattice, maps=config.estimates_uncertainty)
        self._overwrite = overwrite
        self._finished = False
        self._started = time.monotonic()
        self._earlier = Earlier()
        self._journal: RunJournal | None = None
        self._held = contextlib.ExitStack()
        self.batch_size = batch_size
        self.note = ""
        self.run_notes: tuple[str, ...] = ()
        self.trust: Trust | None = None
        self.doubts: tuple[str, ...] = ()
        self._trust_record: TrustRecord | None = None

    def __enter__(self) -> Self:
        check_folder(self._folder)
        self._held.enter_context(folder_lock(self._folder))
        try:
            if self.batch_size is not None and not self._overwrite and not (self._folder / MANIFEST_NAME).exists():
                head = self._run.head(self.batch_size, self._course().parts)
                self._take_up(earlier_parts(self._folder, head, len(self._run.series)))
            kept = self._frames.paths
            clear_folder(self._folder, overwrite=self._overwrite, keep={*kept, self._folder / JOURNAL_NAME} if kept else ())
            self._frames.make_folders()
            if self.batch_size is not None:
                head = self._run.head(self.batch_size, self._course().parts)
                self._journal = RunJournal(self._folder, head, self._run.series.grid, self._earlier.records)
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
    def done(self) -> StoredResults:
        """Results of the frames that are there already; what ``register_series`` needs to go on."""
        return StoredResults(dict(self._frames.metrics), self._frames.transforms())

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
            self._frames.add(result)
        if self._journal is not None and results:
            course = self._course()
            self._journal.append(
                self._frames.record([result.frame for result in results], course.elapsed_s, course.peak_memory_mib)
            )
            give_back_freed_memory()

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
        missing, run = self._frames.missing(), self._run
        if missing:
            raise ValueError(f"ResultWriter.finish: frames {missing[:10]} were never added; leave the context instead")
        errors, notes = self._landmark_errors()
        files = [*self._write_transforms(), self._write_registered(), *self._write_tables(errors)]
        files += write_masks(self._folder, run.series, run.masks)
        files += [] if self.trust is None else [self._write_trust(self.trust)]
        files += write_guides(self._folder, run.guides)
        files += [] if render is None else ["report.html"]
        manifest, rows = self._manifest(files, notes), self._frames.ordered(errors)
        registered = RegisteredSeries(self._folder, manifest, rows, self._frames.transforms())
        if render is not None:
            _write_text(self._folder / "report.html", render(run.series, registered, errors))
        # Anew, as the report took its time and memory, too.
        manifest = self._manifest(files, notes)
        _write_text(self._folder / MANIFEST_NAME, manifest.model_dump_json(indent=1) + "\n")
        self._finished = True
        if self._journal is not None:
            self._journal.remove()
        return replace(registered, manifest=manifest)

    def _take_up(self, earlier: Earlier) -> None:
        self._earlier = earlier
        self.note = earlier.note
        if self._run.config.batch_size == "auto":
            self.batch_size = earlier.batch_size or self.batch_size
        self._frames.take_up(earlier.records)

    def _course(self) -> Course:
        peaks = [peak for peak in (self._earlier.peak_memory_mib, peak_memory_mib()) if peak is not None]
        elapsed_s = self._earlier.elapsed_s + time.monotonic() - self._started
        return Course(elapsed_s, max(peaks, default=None), self._earlier.parts + 1)

    def _manifest(self, files: list[str], notes: tuple[str, ...]) -> RunManifest:
        rows, reference = self._frames.ordered(), self._frames.reference()
        return self._run.manifest(rows, reference, files, (*self.run_notes, *notes), self._course(), self._trust_record)

    def _write_trust(self, trust: Trust) -> str:
        from r2n2.io.scalar_maps import write_scalar_map

        values = trust.on(self._run.series.grid).numpy()
        write_scalar_map(self._folder / TRUST_NAME, values, self._run.series.grid)
        share = round(100 * float((values < 0.5).mean()), 2)
        self._trust_record = TrustRecord(frames=trust.frames, noise=round(trust.noise, 4), less_than_half_percent=share)
        return TRUST_NAME

    def _landmark_errors(self) -> tuple[TRETable | None, tuple[str, ...]]:
        run, transforms, reference = self._run, self._frames.transforms(), self._frames.reference()
        if run.landmarks is None:
            return None, ()
        mask = None if run.masks.fixed is None else run.masks.fixed.inside()
        landmarks, left_out = run.landmarks, ""
        if run.guides is not None:
            landmarks, left_out = run.guides.left_out_of(landmarks, reference, run.series.grid)
        try:
            table = target_registration_error(transforms, landmarks, reference, run.series.grid, mask=mask)
        except ReadError as error:
            # Landmarks that do not fit must not cost a finished registration.
            _LOG.warning("%s", error)
            return None, (str(error),)
        self.doubts = doubts(transforms, landmarks, reference, run.series.grid, table)
        table = with_radii(table, landmarks, run.series.grid, self._frames.radius)
        if run.guides is not None:
            table = with_guides(table, run.guides.counts(reference, run.series.grid), left_out)
        return table, (*run.landmarks.notes, *status_notes(self._frames.ordered()), *table.notes, *self.doubts)

    def _write_transforms(self) -> list[str]:
        return [*self._frames.folders, *write_transforms(self._folder, self._frames.compact, self._run.series.grid)]

    def _write_registered(self) -> str:
        done = self.done
        results = (done[frame] for frame in range(len(done)))
        return write_registered(self._folder, self._run.series, results, keep_headers=self._keep_headers)

    def _write_tables(self, errors: TRETable | None) -> list[str]:
        text = metrics_table(self._frames.ordered(errors), with_errors=errors is not None)
        _write_text(self._folder / "metrics.csv", text)
        if errors is None:
            return ["metrics.csv"]
        _write_text(self._folder / "tre.csv", tre_table_csv(errors))
        return ["metrics.csv", "tre.csv"]

    def _keep_partial(self, reason: str) -> None:
        done, total = len(self._frames.metrics), len(self._run.series)
        remedy = "Run r2n2 register again to complete it."
        if self._journal is not None:
            remedy = "The same command goes on from there."
        text = f"This result is not finished: {reason}, {done} of {total} frames done. {remedy}\n"
        (self._folder / UNFINISHED_NAME).write_text(text, encoding="utf-8")
        if self._frames.metrics:
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
