"""``r2n2 register``: settings, checks in order of their cost, then every slice position into its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.series_options import (
    INPUT_PANEL,
    AllowMissing,
    Axes,
    BatchSize,
    ConfigFile,
    ContrastSeries,
    Device,
    DropDamaged,
    Fields,
    GuideStrength,
    Initial,
    KeepHeaders,
    MaxBytes,
    Method,
    NoFolding,
    Overwrite,
    Quiet,
    Reference,
    Refine,
    SeriesName,
    Similarity,
    Spacing,
    Steps,
    Target,
    Uncertainty,
    Volumes,
    WarmStart,
    WeightsName,
    reading_of,
    settings_of,
)
from r2n2.errors import ArgumentError, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.guides import Guides
    from r2n2.mask import Masks
    from r2n2.registration import Survey
    from r2n2.results.against import Against
    from r2n2.results.manifest import RunFacts
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["register"]

_BAD_INPUT = 3


@dataclass(frozen=True)
class _Job:
    """What is the same for every slice position of a run."""

    config: RegistrationConfig
    facts: RunFacts
    selection: dict[str, Any]
    masks: tuple[Masks, ...]
    """One item a slice position."""
    overwrite: bool
    quiet: bool

    def options(self) -> dict[str, Any]:
        """As ``register_to_folder`` takes them."""
        return {
            "selection": self.selection,
            "facts": self.facts,
            "overwrite": self.overwrite,
            "keep_headers": "keep_headers" in self.selection,
        }


@dataclass(frozen=True)
class _Looked:
    """What is known of a slice position before it is registered."""

    landmarks: LandmarkSet | None = None
    survey: Survey | None = None
    guides: Guides | None = None


def register(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="DICOM folder or file, NIfTI, Analyze, MHA, NRRD, TIFF, OME-Zarr, npy/npz, MATLAB, HDF5, GIF, animated PNG, "
            "video, or a folder or pattern of single frames.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the result.")],
    method: Method = None,
    refine: Refine = None,
    similarity: Similarity = None,
    reference: Reference = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FIXED",
            help="Image to align to in place of a frame; it becomes frame 0 of the result.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None,
    target: Target = None,
    initial: Initial = None,
    weights: WeightsName = None,
    steps: Steps = None,
    warm_start: WarmStart = None,
    no_folding: NoFolding = None,
    batch_size: BatchSize = None,
    uncertainty: Uncertainty = None,
    fields: Fields = None,
    device: Device = None,
    config: ConfigFile = None,
    spacing: Spacing = None,
    axes: Axes = None,
    series: SeriesName = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="One slice position.", rich_help_panel=INPUT_PANEL)
    ] = None,
    volumes: Volumes = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Landmarks; a folder with slice_00.csv ... for several slices.", rich_help_panel=INPUT_PANEL
        ),
    ] = None,
    guide: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pairs of points that hold, in the formats of --landmarks: frames that have some are fitted again to meet "
            "them. They never count as landmarks.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None,
    guide_strength: GuideStrength = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What of the reference counts: labels (not 0) or weights from 0 to 1, in any format that is read; a volume, or a "
            "folder with slice_00.* ..., for several slices.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None,
    moving_mask: Annotated[
        Path | None,
        typer.Option(
            "--moving-mask",
            metavar="FILE",
            help="What of the other frames counts: one for all, or one a frame.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None,
    max_bytes: MaxBytes = None,
    allow_missing: AllowMissing = False,
    drop_damaged: DropDamaged = False,
    contrast_series: ContrastSeries = False,
    overwrite: Overwrite = False,
    keep_headers: KeepHeaders = False,
    quiet: Quiet = False,
) -> None:
    """Align every frame of a series to one reference frame."""
    if to is not None and reference is not None:
        raise ArgumentError(f"--reference {reference}: --to names the image to align to; leave one of them out")
    settings = settings_of(context.params, **({} if to is None else {"reference": 0}))
    reading = reading_of(context.params)
    from r2n2.cli.running import show_registration
    from r2n2.cli.scanning import scan_progress
    from r2n2.io import read_series
    from r2n2.results.manifest import RunFacts
    from r2n2.results.mask_files import read_masks
    from r2n2.results.writer import check_folder

    facts = RunFacts.of(settings)
    _check_paths(
        source, output, {"--landmarks": landmarks, "--guide": guide, "--mask": mask, "--moving-mask": moving_mask, "--to": to}
    )
    check_folder(output)
    limits = {} if max_bytes is None else {"max_bytes": max_bytes}
    with scan_progress(quiet=quiet) as progress:
        found = read_series(source, **reading, **limits, allow_missing=allow_missing, drop_damaged=drop_damaged, progress=progress)
    _check_frames(source, found)
    selection = reading | ({"keep_headers": True} if keep_headers else {})
    stop = context.ensure_object(StopRequest)
    before = None if to is None else _against(found, to)
    if before is not None:
        found, selection["to"] = [before.series], str(to)
    masks, notes = read_masks(found, mask, moving_mask)
    if before is not None:
        masks = (before.masks(masks[0]),)
    job = _Job(settings, facts, selection, masks, overwrite, quiet)
    for note in notes:
        _note(job, note)
    marked, guided = _landmark_files(found, landmarks, "--landmarks"), _landmark_files(found, guide, "--guide")
    looked = [_with_landmarks(*item, job) for item in zip(found, marked, guided, job.masks, strict=True)]
    failed = show_registration(
        found,
        output,
        job.config,
        stop=stop,
        quiet=quiet,
        landmarks=[item.landmarks for item in looked],
        surveys=[item.survey for item in looked],
        guides=[item.guides for item in looked],
        masks=job.masks,
        **job.options(),
    )
    if failed:
        raise typer.Exit(_BAD_INPUT)


def _check_paths(source: Path, output: Path, others: dict[str, Path | None]) -> None:
    if not any(sign in str(source) for sign in "*?[") and not source.exists():
        raise ReadError(f"{source}: no such file or folder; check the path")
    inside = source.resolve() in (output.resolve(), *output.resolve().parents)
    if inside and (source.is_dir() or source.resolve() == output.resolve()):
        raise ArgumentError(f"--output {output}: lies inside the input {source}, which must stay as it is; choose another folder")
    for option, path in others.items():
        if path is not None and not path.exists():
            raise ReadError(f"{option} {path}: no such file; check the path")


def _against(found: Sequence[ImageSeries], to: Path) -> Against:
    """One slice position with the image that it is to be aligned to before it."""
    from r2n2.io import read_series
    from r2n2.results.against import against

    if len(found) != 1:
        raise ArgumentError(f"--to {to}: the input holds {len(found)} slice positions; pick one with --slice")
    # A volume is aligned to a volume, a slice to a slice.
    fixed = read_series(to, volumes=found[0].grid.ndim == 3)
    if len(fixed) != 1:
        raise ArgumentError(f"--to {to}: holds {len(fixed)} slice positions; give a file of one image")
    return against(found[0], fixed[0], f"--to {to.name}")


def _check_frames(source: Path, found: Sequence[ImageSeries]) -> None:
    """One message where there are several images and none of them moves, instead of one for each."""
    if len(found) < 2 or any(len(series) > 1 for series in found):
        return
    why = next((f" ({note})" for series in found for note in series.notes if "not joined" in note), "")
    raise ReadError(f"{source}: holds {len(found)} single images and no series in time, so there is nothing to register{why}")


def _landmark_files(found: Sequence[ImageSeries], path: Path | None, option: str) -> list[Path | None]:
    """Of every slice position."""
    from r2n2.io import landmarks_of_slice
    from r2n2.results.acquisition import slice_names

    if path is None or len(found) == 1:
        return [path] * len(found)
    if not path.is_dir():
        raise ArgumentError(
            f"{option} {path}: the input holds {len(found)} slice positions; give a folder with slice_00.csv ..., "
            f"or pick one slice with --slice"
        )
    paths = [landmarks_of_slice(path, name) for name in slice_names(len(found))]
    if not any(paths):
        raise ReadError(f"{option} {path}: holds no slice_00.csv ... of the {len(found)} slice positions; rename them")
    return paths


def _with_landmarks(series: ImageSeries, path: Path | None, guide: Path | None, masks: Masks, job: _Job) -> _Looked:
    """Landmarks of a slice position, read and checked before anything is registered, and what had to be looked at for that."""
    from r2n2.io import check_plausible, check_usable, read_landmarks
    from r2n2.registration import chosen_reference, survey_for

    if path is None and guide is None:
        return _Looked()
    place = series.patient_grid or series.grid
    survey = survey_for(series, job.config, masks)
    reference = chosen_reference(job.config.reference, survey, len(series))
    guides = None if guide is None else _guides(guide, series, reference, job)
    if path is None:
        return _Looked(survey=survey, guides=guides)
    marks = read_landmarks(path, place)
    check_usable(marks, series, reference)
    for note in marks.notes:
        _note(job, f"landmarks: {note}")
    for warning in check_plausible(marks, series, reference):
        print(f"r2n2: landmarks: {warning}", file=sys.stderr)
    if guides is not None and (left_out := guides.left_out_of(marks, reference, series.grid)[1]):
        print(f"r2n2: landmarks: {left_out}", file=sys.stderr)
    return _Looked(marks, survey, guides)


def _guides(path: Path, series: ImageSeries, reference: int, job: _Job) -> Guides:
    """Guiding pairs of a slice position, checked against it."""
    from r2n2.guides import Guides, strength_mm
    from r2n2.io import check_usable, read_landmarks

    marks = read_landmarks(path, series.patient_grid or series.grid)
    try:
        check_usable(marks, series, reference)
    except ReadError as error:
        raise ReadError(f"--guide {path}: {error}") from None
    for note in marks.notes:
        _note(job, f"guide: {note}")
    guides = Guides(marks, strength_mm(job.config.guide_strength_mm, series.grid), str(path))
    guides.pairs(reference, series.grid)
    return guides


def _note(job: _Job, text: str) -> None:
    if not job.quiet:
        print(text, file=sys.stderr)
