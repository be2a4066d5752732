"""A registration written to the folder that ``r2n2 register`` writes, and read back from it; generators, without Qt."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_r2n2.models.registration import FrameKey, Registration
from r2n2.results.kept_source import SOURCE_NAME, has_file, keep_source, kept_source

if TYPE_CHECKING:
    from r2n2.results.reader import RegisteredSeries
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["SOURCE_NAME", "FileProgress", "export_results", "holds_result", "open_results", "result_folder"]

_FINISHED_NAME = "run.json"
_UNFINISHED_PREFIX = ".r2n2-unfinished-"


@dataclass(frozen=True)
class FileProgress:
    """Share done in [0, 1] and what is at work."""

    fraction: float
    text: str


def holds_result(folder: Path) -> bool:
    """Whether a finished result lies there."""
    return (folder / _FINISHED_NAME).exists()


def result_folder(chosen: Path, name: str) -> Path:
    """Where a result goes if a person chose this folder: itself if it is empty or holds a result, else a folder in it."""
    if not chosen.exists() or holds_result(chosen) or not any(chosen.iterdir()):
        return chosen
    plain = "".join(letter if letter.isalnum() or letter in " ._-" else "_" for letter in name).strip(" .") or "series"
    return chosen / f"{plain} aligned"


def export_results(
    registration: Registration, folder: Path, *, landmarks: Mapping[int, LandmarkSet], overwrite: bool = False
) -> Iterator[FileProgress]:
    """Write every slice position that was aligned, in one folder or in sub-folders slice_00 ..., as the command line does.

    Gaussians that were switched off are left out, with the status "edited"; frames that were not reached keep their place, with the
    status "failed" and a message. All is written beside its place and moved there at the end: if this is stopped, the folder is as
    it was. Images that lie in no file are kept in the folder.

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
    from r2n2.results.output_folder import check_folder

    if not registration.references:
        raise ArgumentError("export: no frame is aligned yet; press Run first")
    if holds_result(folder) and not overwrite:
        raise ArgumentError(f"{folder}: holds a result already; choose another folder, or overwrite it")
    existed = folder.exists()
    check_folder(folder)
    staged = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=folder))
    finished = False
    try:
        yield from _write(registration, staged, landmarks)
        _put_in_place(staged, folder, overwrite=overwrite)
        finished = True
        yield FileProgress(1.0, f"written to {folder}")
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not finished and not existed:
            shutil.rmtree(folder, ignore_errors=True)


def _write(registration: Registration, folder: Path, landmarks: Mapping[int, LandmarkSet]) -> Iterator[FileProgress]:
    from r2n2.results.acquisition import finish_acquisition, slice_names

    several = len(registration.series) > 1
    names = slice_names(len(registration.series))
    total = sum(len(registration.series[index]) for index in registration.references)
    failed: dict[str, str] = {}
    before = 0
    for index, series in enumerate(registration.series):
        if index not in registration.references:
            failed[names[index]] = "not aligned: left out or cancelled before this slice position was reached"
            continue
        place = folder / names[index] if several else folder
        place.mkdir(exist_ok=True)
        if not has_file(series):
            keep_source(series, place)
        for done in _export_one(registration, index, place, landmarks.get(index)):
            yield FileProgress((before + done) / (total + 1), f"writing {names[index] if several else 'the result'}")
        before += len(series)
    if several:
        seconds = sum(facts.wall_time_s or 0.0 for facts in registration.facts.values())
        finish_acquisition(folder, tuple(name for name in names if name not in failed), failed, seconds)


def _export_one(registration: Registration, index: int, folder: Path, landmarks: LandmarkSet | None) -> Iterator[int]:
    """Yields the number of frames written."""
    from r2n2.results.manifest import RunFacts
    from r2n2.workflow import save_to_folder

    series, config = registration.series[index], registration.config
    assert config is not None
    keys = [key for key in registration.results if key.slice_index == index]
    work = save_to_folder(
        series,
        {key.frame: registration.result(key) for key in sorted(keys)},
        folder,
        config,
        facts=registration.facts.get(index) or RunFacts.of(config),
        landmarks=_as_read(landmarks, series),
        masks=registration.masks_of(index),
        guides=registration.guides_of(index),
        selection=_selection(series),
        overwrite=True,  # the images kept beside the result are there already
    )
    with contextlib.closing(work):
        for progress in work:
            yield round(progress.fraction * len(series))


def _selection(series: ImageSeries) -> dict[str, Any]:
    """Options with which the file has to be read again to give this series."""
    asked = series.source.get("asked", {})
    return {name: tuple(value) if isinstance(value, list) else value for name, value in dict(asked).items()}


def _as_read(landmarks: LandmarkSet | None, series: ImageSeries) -> LandmarkSet | None:
    """In the grid that error tables are computed in."""
    from r2n2.geometry import Space

    return None if landmarks is None else landmarks.to_space(Space.INDEX, series.grid)


def _put_in_place(staged: Path, folder: Path, *, overwrite: bool) -> None:
    """Move a finished result to its folder, in which nothing that is not ours is touched; run.json last."""
    from r2n2.io.atomic import resource_errors
    from r2n2.results.output_folder import clear_folder

    clear_folder(folder, overwrite=overwrite)
    with resource_errors(folder):
        for entry in sorted(staged.iterdir(), key=lambda path: path.name == _FINISHED_NAME):
            if entry.name.startswith("."):
                continue  # locks and temporary files of the writer
            target = folder / entry.name
            if entry.is_dir() and target.is_dir() and not entry.name.startswith("registered"):
                _put_in_place(entry, target, overwrite=overwrite)
            else:
                os.replace(entry, target)


def open_results(folder: Path, source: Path | None = None, opened: Sequence[ImageSeries] = ()) -> Registration:
    """A registration read back from its folder.

    Parameters
    ----------
    folder
        Of one series, or of several slice positions.
    source
        The images that were registered, where they lie elsewhere than the folder says.
    opened
        Series that are open already, which may be those images.

    Raises
    ------
    ReadError
        If the folder is no finished result, or the images cannot be found or are others.
    """
    from r2n2.results.guide_files import kept_guides
    from r2n2.results.mask_files import kept_masks
    from r2n2.results.reader import read_result, slice_folders

    found = [read_result(place) for place in slice_folders(folder)]
    masks = [kept_masks(one) for one in found]
    registration = Registration(_sources(found, source, opened), found[0].manifest.settings, masks if any(masks) else ())
    for index, one in enumerate(found):
        registration.facts[index] = _facts(one)
        for metrics in one.metrics:
            registration.add(index, one.reference, one.result(metrics.frame))
        guides = kept_guides(one)
        if guides is not None:
            registration.guides[index] = guides
            registration.guided |= {FrameKey(index, frame) for frame in guides.counts(one.reference, one.grid)}
    return registration


def _facts(registered: RegisteredSeries) -> Any:
    """What the run used, so that a result that is edited and written again still says so."""
    from r2n2.results.manifest import RunFacts

    manifest = registered.manifest
    return RunFacts(
        device=manifest.device,
        weights_sha256=manifest.weights_sha256,
        precision=manifest.precision or "float32",
        threads=manifest.threads,
        wall_time_s=manifest.wall_time_s,
    )


def _sources(found: Sequence[RegisteredSeries], source: Path | None, opened: Sequence[ImageSeries]) -> list[ImageSeries]:
    """The images of every slice position: kept in its folder, open already, or in the file they were read from."""
    kept = [kept_source(one.folder) for one in found]
    if all(series is not None for series in kept):
        return [series for series in kept if series is not None]
    missing = [one for one, series in zip(found, kept, strict=True) if series is None]
    known = {} if source is not None else _known(missing, opened)
    if any(one.manifest.input.sha256 not in known for one in missing):
        known |= _read_source(missing[0], source)
    return [series or _its_series(one, known) for one, series in zip(found, kept, strict=True)]


def _known(missing: Sequence[RegisteredSeries], opened: Sequence[ImageSeries]) -> dict[str, ImageSeries]:
    """Of the open series those that can be meant, by the hash of their images."""
    from r2n2.results.manifest import input_sha256

    shapes = {(one.manifest.input.frames, one.grid.shape) for one in missing}
    return {input_sha256(series): series for series in opened if (len(series), series.grid.shape) in shapes}


def _read_source(registered: RegisteredSeries, source: Path | None) -> dict[str, ImageSeries]:
    from r2n2.errors import ReadError
    from r2n2.results.source_series import read_sources

    path = source or Path(registered.manifest.input.path)
    if (not str(registered.manifest.input.path) and source is None) or not path.exists():
        where = registered.manifest.input.path or "they came from no file"
        raise ReadError(
            f"{registered.folder}: the images that were registered are not there ({where}); open them in this window first, "
            "then open the result again"
        )
    return read_sources(registered, source)


def _its_series(registered: RegisteredSeries, everything: Mapping[str, ImageSeries]) -> ImageSeries:
    from r2n2.errors import ReadError

    sha256 = registered.manifest.input.sha256
    if sha256 not in everything:
        path = registered.manifest.input.path
        raise ReadError(
            f"{registered.folder}: the images at {path} are not those that were registered; open the right ones in this window "
            "first, then open the result again"
        )
    return everything[sha256]
