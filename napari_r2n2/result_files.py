"""A registration written to the folder that ``r2n2 register`` writes, and read back from it; generators, without Qt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_r2n2.registration import FrameKey, Registration

if TYPE_CHECKING:
    from r2n2.results.reader import RegisteredSeries
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["export_results", "open_results"]


@dataclass(frozen=True)
class FileProgress:
    """Share done in [0, 1] and what is at work."""

    fraction: float
    text: str


def export_results(
    registration: Registration, folder: Path, *, landmarks: Mapping[int, LandmarkSet], overwrite: bool = False
) -> Iterator[FileProgress]:
    """Write every slice position, in one folder or in sub-folders slice_00 ..., as the command line does.

    Gaussians that were switched off are left out, with the status "edited"; frames that were not reached keep their place, with the
    status "failed" and a message.

    Parameters
    ----------
    landmarks
        Slice position -> landmarks in INDEX space; where given, their errors are written too.
    overwrite
        Replace an earlier result.

    Raises
    ------
    ArgumentError
        If the folder holds a result and ``overwrite`` is false, or nothing was registered.
    ResourceError
        If it cannot be written.
    """
    from r2n2.errors import ArgumentError
    from r2n2.results.acquisition import finish_acquisition, slice_names

    if not registration.references:
        raise ArgumentError("export: no frame is aligned yet; press Run first")
    started, total = time.monotonic(), sum(len(item) for item in registration.series)
    several = len(registration.series) > 1
    names = slice_names(len(registration.series))
    failed: dict[str, str] = {}
    before = 0
    for index, series in enumerate(registration.series):
        place = folder / names[index] if several else folder
        if index in registration.references:
            for done in _export_one(registration, index, place, landmarks.get(index), overwrite):
                yield FileProgress((before + done) / total, f"writing {place.name}")
        else:
            failed[names[index]] = "cancelled before this slice position was reached"
        before += len(series)
    if several:
        done_names = tuple(name for name in names if name not in failed)
        finish_acquisition(folder, done_names, failed, time.monotonic() - started)
    yield FileProgress(1.0, f"written to {folder}")


def _export_one(
    registration: Registration, index: int, folder: Path, landmarks: LandmarkSet | None, overwrite: bool
) -> Iterator[int]:
    """Yields the number of frames written."""
    from r2n2.registration import FrameStatus, unregistered
    from r2n2.report.page import render_report
    from r2n2.results.manifest import RunFacts
    from r2n2.results.writer import ResultWriter

    series, config = registration.series[index], registration.config
    assert config is not None
    writer = ResultWriter(
        folder,
        series,
        config,
        facts=RunFacts.of(config),
        landmarks=_as_read(landmarks, series),
        overwrite=overwrite,
    )
    with writer:
        for frame in range(len(series)):
            key = FrameKey(index, frame)
            if key in registration.results:
                writer.add(registration.result(key))
            else:
                message = f"frame {frame}: cancelled before it was reached; it is left as it is"
                writer.add(unregistered(frame, series.grid, FrameStatus.FAILED, message))
            yield frame + 1
        writer.finish(render_report)


def _as_read(landmarks: LandmarkSet | None, series: ImageSeries) -> LandmarkSet | None:
    """In the grid that error tables are computed in."""
    from r2n2.geometry import Space

    return None if landmarks is None else landmarks.to_space(Space.INDEX, series.grid)


def open_results(folder: Path, source: Path | None = None) -> Registration:
    """A registration read back from its folder.

    Parameters
    ----------
    folder
        Of one series, or of several slice positions.
    source
        The images that were registered, where they lie elsewhere than the folder says.

    Raises
    ------
    ReadError
        If the folder is no finished result, or the images cannot be found or are others.
    """
    from r2n2.results.reader import read_result, slice_folders

    found = [read_result(place) for place in slice_folders(folder)]
    everything = _read_source(found[0], source)
    registration = Registration([_its_series(one, everything) for one in found], found[0].manifest.settings)
    for index, one in enumerate(found):
        for metrics in one.metrics:
            registration.add(index, one.reference, one.result(metrics.frame))
    return registration


def _read_source(registered: RegisteredSeries, source: Path | None) -> dict[str, ImageSeries]:
    from r2n2.errors import ReadError
    from r2n2.io import read_series
    from r2n2.results.manifest import input_sha256

    record = registered.manifest.input
    path = source or Path(record.path)
    if (source is None and not record.path) or not path.exists():
        raise ReadError(
            f"{registered.folder}: the images that were registered ({record.path or 'no path is known'}) are not there; choose them"
        )
    selection: dict[str, Any] = {key: value for key, value in record.selection.items() if key != "keep_headers"}
    return {input_sha256(series): series for series in read_series(path, **selection)}


def _its_series(registered: RegisteredSeries, everything: Mapping[str, ImageSeries]) -> ImageSeries:
    from r2n2.errors import ReadError

    sha256 = registered.manifest.input.sha256
    if sha256 not in everything:
        path = registered.manifest.input.path
        raise ReadError(f"{registered.folder}: the images at {path} are not those that were registered; choose the right ones")
    return everything[sha256]
