"""What is registered and how, as a run is recorded: by a hash while it is under way, in run.json once it is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from r2n2.config import RegistrationConfig
from r2n2.guides import Guides
from r2n2.mask import NO_MASKS, Masks
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.journal import JournalHead
from r2n2.results.manifest import (
    CONVENTION,
    GuideRecord,
    InputRecord,
    MaskRecord,
    RunFacts,
    RunManifest,
    TrustRecord,
    UncertaintyRecord,
    input_sha256,
    landmarks_sha256,
    run_sha256,
    versions,
)
from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["Course", "RunRecord"]


@dataclass(frozen=True)
class Course:
    """What was measured of a run, over all of its parts."""

    elapsed_s: float
    peak_memory_mib: float | None
    parts: int


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run's input, settings and what it uses.

    Parameters
    ----------
    series, config
        What is registered and how.
    selection
        Reading options that chose the series.
    facts
        What the run uses, taken down when it runs.
    landmarks, masks, guides
        Where there are any.
    known_input_sha256
        ``input_sha256(series)`` where it is known already; else it is computed once it is asked for.
    """

    series: ImageSeries
    config: RegistrationConfig
    selection: dict[str, Any] = field(default_factory=dict)
    facts: RunFacts = field(default_factory=RunFacts)
    landmarks: LandmarkSet | None = None
    masks: Masks = NO_MASKS
    known_input_sha256: str | None = None
    guides: Guides | None = None

    @cached_property
    def input_sha256(self) -> str:
        """Over pixel values, geometry and times."""
        return self.known_input_sha256 or input_sha256(self.series)

    @cached_property
    def landmarks_sha256(self) -> str | None:
        """Over the landmarks; None without any."""
        return None if self.landmarks is None else landmarks_sha256(self.landmarks)

    @cached_property
    def sha256(self) -> str:
        """Over all that decides the result."""
        return run_sha256(
            self.config,
            self.input_sha256,
            self.selection,
            weights_sha256=self.facts.weights_sha256,
            landmarks_sha256=self.landmarks_sha256,
            precision=self.facts.precision,
            masks=self.masks,
            guides=self.guides,
        )

    def head(self, batch_size: int, parts: int) -> JournalHead:
        """Which run a journal belongs to."""
        return JournalHead(
            run_sha256=self.sha256, versions=versions(), device=self.facts.device, batch_size=batch_size, parts=parts
        )

    def manifest(
        self,
        rows: Sequence[FrameMetrics],
        reference: int,
        files: Sequence[str],
        notes: Sequence[str],
        course: Course,
        trust: TrustRecord | None = None,
    ) -> RunManifest:
        """Content of run.json.

        Parameters
        ----------
        rows
            The numbers of all frames, in order.
        files
            What the folder holds.
        notes
            What was decided or noticed after the series was read.
        trust
            How far pixels of the reference were trusted, if not all alike.
        """
        record = InputRecord.of(self.series, self.input_sha256, self.selection)
        measure = rows[reference].similarity_measure
        used = self.config.model_copy(update={"similarity": measure})
        return RunManifest(
            run_sha256=self.sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            settings=self.config,
            device=self.facts.device,
            precision=self.facts.precision,
            threads=self.facts.threads,
            weights_sha256=self.facts.weights_sha256,
            landmarks_sha256=self.landmarks_sha256,
            masks=MaskRecord.of(self.masks),
            guides=GuideRecord.of(self.guides, reference, self.series.grid),
            input=record.model_copy(update={"notes": (*record.notes, *notes)}),
            reference=reference,
            similarity="correlation coefficient" if measure == "ssd" else f"agreement by {measure}",
            similarity_measure=measure,
            convention=CONVENTION,
            status_counts=dict(Counter(str(row.status) for row in rows)),
            messages={row.frame: row.message for row in rows if row.message},
            uncertainty=UncertaintyRecord.of(used, {row.frame: row.uncalibrated for row in rows if row.uncalibrated}),
            trust=trust,
            wall_time_s=round(course.elapsed_s if self.facts.wall_time_s is None else self.facts.wall_time_s, 3),
            peak_memory_mib=course.peak_memory_mib,
            parts=course.parts,
            files=tuple(files),
        )
