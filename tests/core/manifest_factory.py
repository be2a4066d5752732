"""The record of a run that nobody made, for results put together by hand."""

from __future__ import annotations

from r2n2.config import RegistrationConfig
from r2n2.results.manifest import CONVENTION, InputRecord, RunManifest, versions
from r2n2.series import ImageSeries


def manifest_of(series: ImageSeries) -> RunManifest:
    """With frame 0 as the reference and the usual settings."""
    return RunManifest(
        run_sha256="",
        created="2024-01-01T00:00:00+00:00",
        versions=versions(),
        settings=RegistrationConfig(),
        device="cpu",
        weights_sha256=None,
        landmarks_sha256=None,
        input=InputRecord.of(series, "abc", {}),
        reference=0,
        similarity="correlation coefficient",
        convention=CONVENTION,
        status_counts={},
        messages={},
        wall_time_s=1.0,
        peak_memory_mib=None,
        files=(),
    )
