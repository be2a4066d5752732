"""``r2n2 register``: settings, checks in order of their cost, then every slice position into its folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.options import parse_batch_size, parse_reference, parse_spacing, parse_steps
from r2n2.errors import ArgumentError, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.mask import Masks
    from r2n2.results.against import Against
    from r2n2.results.manifest import RunFacts
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["register"]

_INPUT = "Input"
_METHOD = "Method"
_BAD_INPUT = 3


@dataclass(frozen=True)
class _Job:
    """What is the same for every slice position of a run."""

    config: RegistrationConfig
    facts: RunFacts
    selection: dict[str, Any]
    landmarks: Path | None
    masks: tuple[Masks, ...]
    """One item a slice position."""
    overwrite: bool
    quiet: bool
    stop: StopRequest

    def options(self) -> dict[str, Any]:
        """As ``register_to_folder`` takes them."""
        return {
            "selection": self.selection,
            "facts": self.facts,
            "overwrite": self.overwrite,
            "keep_headers": "keep_headers" in self.selection,
        }


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
    method: Annotated[str | None, typer.Option(help="r2n2 (the default), fit or bspline.", rich_help_panel=_METHOD)] = None,
    refine: Annotated[
        bool | None,
        typer.Option("--refine/--no-refine", help="Refine the network's Gaussians by fit (the default).", rich_help_panel=_METHOD),
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ssd|lncc|mind|ngf|curve",
            help="What frames are compared by; auto: intensities (ssd), or edges (ngf) where the contrast changes.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(metavar="auto|N", help="Frame to align to.", rich_help_panel=_METHOD)] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FIXED", help="Image to align to in place of a frame; it becomes frame 0 of the result.", rich_help_panel=_INPUT
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="reference|median|pca:L",
            help="What frames are registered to in the reference's place: that frame, or an image made of the aligned series.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|...",
            help="Motion of the frame as a whole, found first: auto (a translation, where it lies far away), none, translation, "
            "rigid or affine.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Weights of the network: general (the default), or a file.", rich_help_panel=_METHOD
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Number of Gaussians; auto: as many as each frame needs.", rich_help_panel=_METHOD),
    ] = None,
    warm_start: Annotated[
        bool | None,
        typer.Option("--warm-start/--no-warm-start", help="Start from the neighbour in time.", rich_help_panel=_METHOD),
    ] = None,
    no_folding: Annotated[
        bool | None,
        typer.Option("--no-folding", help="Change what folds until it provably does not.", rich_help_panel=_METHOD),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="auto|N", help="Frames registered at once; auto: as many as fit.", rich_help_panel=_METHOD),
    ] = None,
    uncertainty: Annotated[
        str | None,
        typer.Option(
            metavar="on|off|full",
            help="Map of how far each position may be off; full: from both ways, twice the time.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_METHOD)] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Settings; options given here come first.", rich_help_panel=_METHOD)
    ] = None,
    spacing: Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel size in mm.", rich_help_panel=_INPUT)] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.", rich_help_panel=_INPUT)] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="UID|NAME", help="DICOM series, or which of several images in a file.", rich_help_panel=_INPUT),
    ] = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="One slice position.", rich_help_panel=_INPUT)
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Landmarks; a folder with slice_00.csv ... for several slices.", rich_help_panel=_INPUT),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What of the reference counts: labels (not 0) or weights from 0 to 1, in any format that is read; a volume, or a "
            "folder with slice_00.* ..., for several slices.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    moving_mask: Annotated[
        Path | None,
        typer.Option(
            "--moving-mask",
            metavar="FILE",
            help="What of the other frames counts: one for all, or one a frame.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Most bytes to hold in memory.", rich_help_panel=_INPUT)] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Accept missing Zarr chunks.", rich_help_panel=_INPUT)
    ] = False,
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Leave out damaged DICOM frames.", rich_help_panel=_INPUT)
    ] = False,
    contrast_series: Annotated[
        bool,
        typer.Option(
            "--contrast-series",
            help="One series of DICOM frames that differ in inversion time, echo, b-value ...",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    keep_headers: Annotated[
        bool, typer.Option("--keep-headers", help="Copy all DICOM headers, patient data included, to the aligned series.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Align every frame of a series to one reference frame."""
    given = {
        "method": method,
        "refine": refine,
        "similarity": similarity,
        "reference": None if reference is None else parse_reference(reference),
        "target": target,
        "initial": initial,
        "weights": weights,
        "steps": None if steps is None else parse_steps(steps),
        "warm_start": warm_start,
        "no_folding": no_folding,
        "uncertainty": uncertainty,
        "batch_size": None if batch_size is None else parse_batch_size(batch_size),
        "device": device,
    }
    given["volume_steps"] = given["steps"]
    if to is not None:
        if reference is not None:
            raise ArgumentError(f"--reference {reference}: --to names the image to align to; leave one of them out")
        given["reference"] = 0
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    pixel_size = None if spacing is None else parse_spacing(spacing)
    from r2n2.cli.scanning import scan_progress
    from r2n2.io import read_series
    from r2n2.results.manifest import RunFacts
    from r2n2.results.mask_files import read_masks
    from r2n2.results.writer import check_folder

    facts = RunFacts.of(settings)
    _check_paths(source, output, {"--landmarks": landmarks, "--mask": mask, "--moving-mask": moving_mask, "--to": to})
    check_folder(output)
    reading: dict[str, Any] = {"axes": axes, "spacing": pixel_size, "series": series, "slice_index": slice_index}
    if contrast_series:
        reading["contrast_series"] = True
    limits = {} if max_bytes is None else {"max_bytes": max_bytes}
    with scan_progress(quiet=quiet) as progress:
        found = read_series(source, **reading, **limits, allow_missing=allow_missing, drop_damaged=drop_damaged, progress=progress)
    _check_frames(source, found)
    reading["keep_headers"] = keep_headers or None
    selection = {name: value for name, value in reading.items() if value is not None}
    stop = context.ensure_object(StopRequest)
    before = None if to is None else _against(found, to)
    if before is not None:
        found, selection["to"] = [before.series], str(to)
    masks, notes = read_masks(found, mask, moving_mask)
    if before is not None:
        masks = (before.masks(masks[0]),)
    job = _Job(settings, facts, selection, landmarks, masks, overwrite, quiet, stop)
    for note in notes:
        _note(job, note)
    marks = _all_landmarks(found, job)
    failed = _register_one(found[0], output, job, marks[0]) if len(found) == 1 else _register_all(found, output, job, marks)
    if failed:
        raise typer.Exit(_BAD_INPUT)


def _settings(path: Path | None, given: dict[str, Any]) -> RegistrationConfig:
    from r2n2.config import RegistrationConfig

    if path is None:
        return RegistrationConfig.parse(given)
    if not path.is_file():
        raise ArgumentError(f"--config {path}: no such file; give a TOML file of settings")
    return RegistrationConfig.parse({**RegistrationConfig.from_toml(path).model_dump(exclude_unset=True), **given})


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
    fixed = read_series(to)
    if len(fixed) != 1:
        raise ArgumentError(f"--to {to}: holds {len(fixed)} slice positions; give a file of one image")
    return against(found[0], fixed[0], f"--to {to.name}")


def _check_frames(source: Path, found: Sequence[ImageSeries]) -> None:
    """One message where there are several images and none of them moves, instead of one for each."""
    if len(found) < 2 or any(len(series) > 1 for series in found):
        return
    why = next((f" ({note})" for series in found for note in series.notes if "not joined" in note), "")
    raise ReadError(f"{source}: holds {len(found)} single images and no series in time, so there is nothing to register{why}")


def _register_one(series: ImageSeries, output: Path, job: _Job, marks: LandmarkSet | None) -> bool:
    """Register one series; true if a frame failed."""
    from r2n2.cli.progress import RunDisplay
    from r2n2.workflow import register_to_folder

    running = register_to_folder(series, output, job.config, landmarks=marks, masks=job.masks[0], **job.options())
    with contextlib.closing(running), RunDisplay(job.stop, quiet=job.quiet) as display:
        flagged = False
        for progress in running:
            flagged |= display.show(progress, series, output)
        return flagged


def _register_all(found: Sequence[ImageSeries], output: Path, job: _Job, marks: Sequence[LandmarkSet | None]) -> bool:
    """Every slice position into its sub-folder; true if a frame or a slice position failed."""
    from r2n2.cli.progress import RunDisplay
    from r2n2.workflow import register_slices_to_folder

    flagged, seen = False, -1
    failed: dict[str, str] = {}
    running = register_slices_to_folder(found, output, job.config, landmarks=marks, masks=job.masks, **job.options())
    with contextlib.closing(running), RunDisplay(job.stop, quiet=job.quiet) as display:
        for step in running:
            series = found[step.index]
            if step.index != seen:
                seen = step.index
                display.note(f"{step.name}: {series.name}, {len(series)} frames")
            if step.progress is None:
                failed[step.name] = step.failure
                display.fail(f"{step.name}: {step.failure}")
            else:
                flagged |= display.show(step.progress, series, output / step.name)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    return bool(failed) or flagged


def _all_landmarks(found: Sequence[ImageSeries], job: _Job) -> list[LandmarkSet | None]:
    """Of every slice position, read and checked before anything is registered."""
    from r2n2.io import landmarks_of_slice
    from r2n2.results.acquisition import slice_names

    if job.landmarks is None:
        return [None] * len(found)
    if len(found) == 1:
        return [_landmarks(job.landmarks, found[0], job)]
    if not job.landmarks.is_dir():
        raise ArgumentError(
            f"--landmarks {job.landmarks}: the input holds {len(found)} slice positions; give a folder with slice_00.csv ..., "
            f"or pick one slice with --slice"
        )
    paths = [landmarks_of_slice(job.landmarks, name) for name in slice_names(len(found))]
    if not any(paths):
        raise ReadError(f"--landmarks {job.landmarks}: holds no slice_00.csv ... of the {len(found)} slice positions; rename them")
    return [None if path is None else _landmarks(path, series, job) for path, series in zip(paths, found, strict=True)]


def _landmarks(path: Path, series: ImageSeries, job: _Job) -> LandmarkSet:
    from r2n2.io import check_plausible, check_usable, read_landmarks
    from r2n2.registration.reference import resolve_reference

    marks = read_landmarks(path, series.patient_grid or series.grid)
    reference = resolve_reference(series, job.config.reference)
    check_usable(marks, series, reference)
    for note in marks.notes:
        _note(job, f"landmarks: {note}")
    for warning in check_plausible(marks, series, reference):
        print(f"r2n2: landmarks: {warning}", file=sys.stderr)
    return marks


def _note(job: _Job, text: str) -> None:
    if not job.quiet:
        print(text, file=sys.stderr)
