"""``r2n2 batch``: a cohort into one folder, by this process, by dask workers, or in parts that know nothing of one another."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.series_options import (
    AllowMissing,
    Axes,
    BatchSize,
    ConfigFile,
    ContrastSeries,
    Device,
    DropDamaged,
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
    WarmStart,
    WeightsName,
    reading_of,
    settings_of,
)
from r2n2.errors import ArgumentError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.cohort.engine import Engine
    from r2n2.cohort.entry import Entry
    from r2n2.cohort.shard import Shard

__all__ = ["batch"]

_WHO = "Who does the work"


def batch(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results, one for each acquisition.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Acquisitions: files and folders as r2n2 register takes them, patterns with one for each match, or a CSV with "
            "one a row: path and options of its own.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Start so many dask workers on this machine.", rich_help_panel=_WHO)
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|FILE", help="Join a dask scheduler: tcp://host:8786, or its file.", rich_help_panel=_WHO),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do part I of N, with no engine: for job arrays.", rich_help_panel=_WHO)
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Register nothing: merge what parts have done.", rich_help_panel=_WHO)
    ] = False,
    script: Annotated[
        str | None,
        typer.Option(
            metavar="array:N|jobqueue:N", help="Print a script for SLURM that runs this command in N jobs.", rich_help_panel=_WHO
        ),
    ] = None,
    bids: Annotated[
        bool,
        typer.Option("--bids", help="BIDS-like: INPUT is a data set, results also get names such as _desc-moco_ and _xfm."),
    ] = False,
    method: Method = None,
    refine: Refine = None,
    similarity: Similarity = None,
    reference: Reference = None,
    target: Target = None,
    initial: Initial = None,
    weights: WeightsName = None,
    steps: Steps = None,
    warm_start: WarmStart = None,
    no_folding: NoFolding = None,
    batch_size: BatchSize = None,
    uncertainty: Uncertainty = None,
    device: Device = None,
    config: ConfigFile = None,
    spacing: Spacing = None,
    axes: Axes = None,
    series: SeriesName = None,
    max_bytes: MaxBytes = None,
    allow_missing: AllowMissing = False,
    drop_damaged: DropDamaged = False,
    contrast_series: ContrastSeries = False,
    overwrite: Overwrite = False,
    keep_headers: KeepHeaders = False,
    quiet: Quiet = False,
) -> None:
    """Align many series with the same settings: every slice position of every acquisition, again and again what is missing."""
    given = [
        name
        for name, value in {"--workers": workers, "--scheduler": scheduler, "--shard": shard, "--collect": collect}.items()
        if value
    ]
    if len(given) > 1:
        raise ArgumentError(f"{' and '.join(given)}: who does the work is one of them; leave the others out")
    if collect:
        _collect(output, again=True)
        return
    if not inputs:
        raise ArgumentError("INPUT: expected files, folders, patterns or a CSV of paths, got none")
    from r2n2.cohort.job_scripts import JobScript
    from r2n2.cohort.shard import Shard

    wanted = None if script is None else JobScript.parse(script)
    part = None if shard is None else Shard.parse(shard)
    entries = _entries(context, inputs, output)
    if wanted is not None:
        print(wanted.text(_command(context), str(output)), end="")
        return
    stop = context.ensure_object(StopRequest)
    codes = _run(entries, output, stop, workers=workers, scheduler=scheduler, shard=part, quiet=quiet)
    code = max(codes) if part is not None else _collect(output, again=False)
    if code:
        raise typer.Exit(code)


def _entries(context: typer.Context, inputs: list[str], output: Path) -> tuple[Entry, ...]:
    """The cohort, checked as far as that goes without reading an image, and its record in the output folder."""
    from r2n2.cohort.bids import find_bids
    from r2n2.cohort.derivative import describe_dataset
    from r2n2.cohort.listing import find_inputs, make_entries
    from r2n2.cohort.record import load_cohort, save_cohort
    from r2n2.results.manifest import MANIFEST_NAME
    from r2n2.results.output_folder import check_folder

    options = context.params
    settings = settings_of(options)
    accepted = ("max_bytes", "allow_missing", "drop_damaged", "keep_headers", "overwrite")
    shared: dict[str, Any] = reading_of(options) | {name: options[name] for name in accepted}
    found, notes = (find_bids if options["bids"] else find_inputs)(inputs, output)
    if (output / MANIFEST_NAME).exists():
        raise ArgumentError(f"--output {output}: holds the result of r2n2 register; choose another folder for a cohort")
    before = load_cohort(output)
    entries = make_entries(found, settings, shared, {} if before is None else before.names)
    check_folder(output)
    save_cohort(output, entries, before)
    if entries[0].derivative is not None:
        describe_dataset(Path(entries[0].derivative.source_root), output.absolute())
    if not options["quiet"]:
        for note in notes:
            typer.echo(note, err=True)
    return entries


def _run(
    entries: tuple[Entry, ...],
    output: Path,
    stop: StopRequest,
    *,
    workers: int | None,
    scheduler: str | None,
    shard: Shard | None,
    quiet: bool,
) -> set[int]:
    """Do what is missing; the exit codes of what ended."""
    from r2n2.cli.batch_progress import CohortDisplay
    from r2n2.cohort.run import run_cohort

    codes = {0}
    with stop.patiently(), _engine(entries, workers, scheduler, stop) as engine:
        if engine.dashboard and not quiet:
            typer.echo(f"dashboard: {engine.dashboard}", err=True)
        with CohortDisplay(quiet=quiet) as display:
            for progress in run_cohort(entries, output, engine, shard=shard):
                display.show(progress)
                codes |= {item.outcome.exit_code for item in progress.ended}
                stop.check()
    return codes


@contextlib.contextmanager
def _engine(entries: tuple[Entry, ...], workers: int | None, scheduler: str | None, stop: StopRequest) -> Iterator[Engine]:
    from r2n2.cohort.dask_engine import joined_scheduler, local_workers
    from r2n2.cohort.engine import InProcess

    run = secrets.token_hex(4)
    if scheduler is not None:
        with joined_scheduler(scheduler, run) as joined:
            yield joined
        return
    _check_settings(entries)
    if workers is not None:
        with local_workers(workers, run) as local:
            yield local
        return
    yield InProcess(run, stop.check)


def _check_settings(entries: tuple[Entry, ...]) -> None:
    """See that device and weights are there, before the first of hundreds fails for want of them."""
    from r2n2.results.manifest import RunFacts

    for settings in {entry.settings for entry in entries}:
        RunFacts.of(settings)


def _collect(output: Path, *, again: bool) -> int:
    from r2n2.cli.batch_progress import print_summary
    from r2n2.cohort.collect import collect

    rows = collect(output, status=again)
    print_summary(rows, output)
    code = max(row.exit_code for row in rows)
    if code and again:
        raise typer.Exit(code)
    return code


def _command(context: typer.Context) -> list[str]:
    """The command as it was given, without what a script adds."""
    words = ["r2n2", "batch"]
    left_out = {"inputs", "script", "shard", "scheduler", "workers", "collect"}
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in left_out or value is None:
            continue
        if value is False:
            words += parameter.secondary_opts[:1]
        else:
            words += parameter.opts[:1] if value is True else [parameter.opts[0], str(value)]
    return [*words, *context.params["inputs"]]
