"""``r2n2 train`` and ``r2n2 adapt``: settings and data in, weights out, progress on the way."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.errors import ArgumentError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from r2n2.series import ImageSeries
    from r2n2.training.adapt import Adapting
    from r2n2.training.data.contents import TrainingData
    from r2n2.training.run import Trained
    from r2n2.training.settings import TrainingConfig

__all__ = ["adapt", "train"]

_DATA = "Data"
_NOTES_SHOWN = 5


def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Settings as TOML; see --write-config.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for weights, checkpoints and log.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="paper|paper-gpu|paper-as-published|general", help="Settings by name in place of CONFIG; default general."
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Weights to begin with, of the settings' network; default: random ones.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in DIR, with its settings.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything drawn at random.")] = None,
    write_config: Annotated[
        Path | None, typer.Option("--write-config", metavar="FILE", help="Write the settings as TOML and stop.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of series in any readable format; several times.", rich_help_panel=_DATA),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATIENT", help="Never use this patient; several times.", rich_help_panel=_DATA)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what was read there, to start quicker next time. Holds images and patients' names as the files give them: "
            "as confidential as the data.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Train the network on folders of series, split by patient. Ctrl-C saves and stops; --resume goes on."""
    given = {"folders": data, "exclude": exclude, "minutes": minutes, "seed": seed, "init": init}
    settings = _settings(config, preset, output if resume else None, given)
    if write_config is not None:
        _write_settings(write_config, settings)
        return
    if output is None:
        raise ArgumentError("--output: no folder is given; say where weights and checkpoints are to go, such as -o training")
    seeds = settings.data.thorax_seeds
    if not settings.data.folders and seeds[0] >= seeds[1]:
        raise ArgumentError("--data: no folder is given; give one or more folders of image series")
    from r2n2.io.atomic import check_writable
    from r2n2.registration import resolve_device
    from r2n2.training.state import state_files

    resolve_device(device)
    check_writable(output)
    if state_files(output) and not resume:
        raise ArgumentError(f"--output {output}: holds a training run; give --resume to go on with it, or another folder")
    say = _silent if quiet else _say
    images = _data(settings, cache, say)
    stop = context.ensure_object(StopRequest)
    last = _train(settings, output, images, resume, device, stop, quiet)
    _print_training(settings, output, last)
    stop.check()


def adapt(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="The series to be registered; formats as for r2n2 register.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="WEIGHTS.safetensors", help="File for the adapted weights.")],
    weights: Annotated[str, typer.Option(metavar="NAME|FILE", help="Weights to start from.")] = "general",
    minutes: Annotated[float, typer.Option(help="Time to adapt.")] = 2.0,
    reference: Annotated[str, typer.Option(metavar="auto|N", help="Frame that the series will be aligned to.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    slice_index: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="One slice position.", rich_help_panel=_DATA)
    ] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="DICOM series.", rich_help_panel=_DATA)] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.", rich_help_panel=_DATA)] = None,
    spacing: Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel size in mm.", rich_help_panel=_DATA)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Go on training on the very series to be registered; what is written is never worse on frames held out."""
    from r2n2.cli.options import parse_reference, parse_spacing

    frame = parse_reference(reference)
    pixel_size = None if spacing is None else parse_spacing(spacing)
    if minutes <= 0:
        raise ArgumentError(f"--minutes: must be positive, got {minutes:g}")
    if output.suffix != ".safetensors":
        raise ArgumentError(f"--output {output}: weights are written as .safetensors only; give a name that ends in it")
    if output.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: exists already; give --overwrite or another name")
    if not output.parent.is_dir():
        raise ArgumentError(f"--output {output}: the folder {output.parent} does not exist; make it first")
    from r2n2.io import read_series
    from r2n2.io.atomic import check_output_name, check_writable
    from r2n2.network.checkpoint import load_network, read_manifest, save_network
    from r2n2.registration import resolve_device

    resolve_device(device)
    check_output_name(output.name)
    check_writable(output.parent)
    network = load_network(weights, ndim=2)
    found = read_series(source, axes=axes, spacing=pixel_size, series=series, slice_index=slice_index, volumes=False)
    if len(found) != 1:
        raise ArgumentError(f"{source}: holds {len(found)} slice positions; pick one with --slice")
    stop = context.ensure_object(StopRequest)
    last = _adapt(found[0], network, {"seconds": 60 * minutes, "reference": frame, "device": device, "seed": seed}, stop, quiet)
    info = {
        "name": "adapted",
        "started_from": read_manifest(weights).sha256,
        "updates": str(last.update),
        "minutes": f"{last.seconds / 60:.1f}",
        "similarity_before": f"{last.start.similarity:.4f}",
        "similarity": f"{last.best.similarity:.4f}",
    }
    save_network(output, last.network, info=info)
    _print_adapting(source, output, last)
    stop.check()


def _settings(path: Path | None, preset_name: str | None, run: Path | None, given: dict[str, Any]) -> TrainingConfig:
    """From a file, by name, or those of the run that is resumed; what is given on the command line comes first."""
    from r2n2.training.presets import preset
    from r2n2.training.run import SETTINGS_FILE
    from r2n2.training.settings import TrainingConfig
    from r2n2.training.state import load_state

    if path is not None and preset_name is not None:
        raise ArgumentError(f"--preset {preset_name}: the settings come from {path} already; give one of both")
    saved = None
    if path is None and preset_name is None and run is not None:
        if (run / SETTINGS_FILE).is_file():
            path = run / SETTINGS_FILE
        else:
            # Begun where no TOML could be written.
            saved = load_state(run)
    if path is not None and not path.is_file():
        raise ArgumentError(f"CONFIG {path}: no such file; give settings as TOML, which --write-config writes")
    if path is not None:
        settings = TrainingConfig.from_toml(path)
    else:
        settings = preset(preset_name or "general") if saved is None else TrainingConfig.parse(dict(saved.settings))
    values = settings.model_dump(mode="json")
    for name in ("minutes", "seed", "init"):
        if given[name] is not None:
            values[name] = given[name]
    if values["init"] is not None and Path(values["init"]).suffix:
        values["init"] = str(Path(values["init"]).absolute())
    if given["folders"]:
        values["data"]["folders"] = given["folders"]
    # Whole paths, so that the run can be resumed from anywhere.
    values["data"]["folders"] = [str(Path(folder).absolute()) for folder in values["data"]["folders"]]
    if values["data"]["masks"] is not None:
        values["data"]["masks"] = str(Path(values["data"]["masks"]).absolute())
    values["data"]["exclude"] = list(dict.fromkeys([*values["data"]["exclude"], *(given["exclude"] or ())]))
    return TrainingConfig.parse(values)


def _write_settings(path: Path, settings: TrainingConfig) -> None:
    from r2n2.io.atomic import atomic_write

    if path.exists():
        raise ArgumentError(f"--write-config {path}: exists already; give another name")
    with atomic_write(path) as temporary:
        temporary.write_text(settings.to_toml(), encoding="utf-8")
    print(f"{path}: the settings; train with: r2n2 train {shlex.quote(str(path))} -o DIR")


def _data(settings: TrainingConfig, cache: Path | None, say: Callable[[str], None]) -> TrainingData:
    from r2n2.training.data.contents import TrainingData
    from r2n2.training.data.reading import load_data

    source = settings.data
    if not source.folders:
        return TrainingData()
    data = load_data(
        source.folders,
        exclude_patients=source.exclude,
        cache=cache,
        masks=source.masks,
        phases=source.phases,
        axes=source.axes,
        progress=lambda path: say(f"reading {path}"),
    )
    for note in data.notes[:_NOTES_SHOWN]:
        say(f"note: {note}")
    if len(data.notes) > _NOTES_SHOWN:
        say(f"note: {len(data.notes) - _NOTES_SHOWN} more of the kind")
    say(
        f"{len(data.patients)} patients: {len(data.slices)} images, {len(data.pairs)} pairs of frames, "
        f"{len(data.contoured)} with outlines"
    )
    return data


def _train(
    settings: TrainingConfig, folder: Path, data: TrainingData, resume: bool, device: str, stop: StopRequest, quiet: bool
) -> Trained | None:
    """Train with a progress bar; what the last update gave, None where the run was finished before."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from r2n2.training.run import train as run

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    last: Trained | None = None
    pace = _Pace(settings.minutes)
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar, stop.patiently():
        task = bar.add_task("training", total=sum(stage.updates for stage in settings.stages), said="")
        for last in run(settings, folder, data, resume=resume, device=device, stop=lambda: stop.asked):
            bar.update(task, completed=last.step.update, said=pace.said(last))
            if not quiet:
                for note in last.notes:
                    bar.console.print(f"note: {note}", markup=False, highlight=False)
                if last.validation is not None:
                    found = last.validation
                    line = f"update {last.step.update}: error {found.error_percent:.3f} % of the frame's side, "
                    line += f"{found.error_before_percent:.3f} % before; folding {found.folding_percent:.3f} %"
                    bar.console.print(line, markup=False, highlight=False)
    return last


class _Pace:
    """Rate, smoothed loss and time left, in words."""

    def __init__(self, minutes: float | None) -> None:
        self._began = time.monotonic()
        self._minutes = minutes
        self._count = 0
        self._loss = float("nan")

    def said(self, last: Trained) -> str:
        self._count += 1
        passed = time.monotonic() - self._began
        rate = self._count / max(passed, 1e-6)
        loss = last.step.loss
        if not math.isnan(loss):
            self._loss = loss if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        left = (last.step.updates - last.step.update) / rate
        if self._minutes is not None:
            left = min(left, max(0.0, 60 * self._minutes - passed))
        best = f", best error {last.best['error_percent']:.3f} %" if last.best else ""
        skipped = f", {last.step.skipped} skipped" if last.step.skipped else ""
        return f"{rate:.2f} updates/s, loss {self._loss:.4g}{best}{skipped}, {_duration(left)} left"


def _print_training(settings: TrainingConfig, folder: Path, last: Trained | None) -> None:
    from r2n2.cli.tables import print_values
    from r2n2.training.run import WEIGHTS_FILE
    from r2n2.training.state import load_state

    state = load_state(folder)
    if state is None:
        return
    updates = sum(stage.updates for stage in settings.stages)
    best = state.best
    if last is None:
        print(f"{folder}: this run has made its {state.step} updates; nothing to do (more in stages.updates of CONFIG)")
    rows = [("updates", f"{state.step} of {updates}"), ("time", _duration(state.elapsed_s))]
    if last is not None:
        rows.append(("last loss", f"{last.step.loss:.4g}"))
    for count, name in ((state.counters["skipped"], "updates skipped"), (state.counters["rolled_back"], "times gone back")):
        rows += [(name, str(count))] if count else []
    if best:
        rows += [
            ("best at update", str(best["update"])),
            ("error, % of side", f"{best['error_before_percent']:.3f} -> {best['error_percent']:.3f}"),
            ("correlation", f"{best['correlation_before']:.4f} -> {best['correlation']:.4f}"),
            ("folding, %", f"{best['folding_percent']:.3f}"),
        ]
        if not math.isnan(best["dice"]):
            rows.append(("Dice", f"{best['dice_before']:.3f} -> {best['dice']:.3f}"))
    print_values(f"training of {settings.name}", rows)
    quoted = shlex.quote(str(folder))
    if state.step < updates:
        print(f"go on with: r2n2 train --resume -o {quoted}")
    if (folder / WEIGHTS_FILE).is_file():
        print(f"weights: {folder / WEIGHTS_FILE}" + ("" if best else " (not validated yet)"))
        print(f"use them: r2n2 register SERIES -o RESULT --method r2n2 --weights {shlex.quote(str(folder / WEIGHTS_FILE))}")


def _adapt(series: ImageSeries, network: Any, options: dict[str, Any], stop: StopRequest, quiet: bool) -> Adapting:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from r2n2.training.adapt import adapt as run

    columns = (TextColumn("adapting"), BarColumn(), TextColumn("{task.fields[said]}"))
    last: Adapting | None = None
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar, stop.patiently():
        task = bar.add_task("adapting", total=options["seconds"], said="")
        for last in run(series, network, **options, stop=lambda: stop.asked):
            said = f"{last.update} updates, similarity {last.start.similarity:.4f} -> {last.best.similarity:.4f}"
            bar.update(task, completed=min(last.seconds, options["seconds"]), said=said)
            for note in () if quiet else last.notes:
                bar.console.print(f"note: {note}", markup=False, highlight=False)
    assert last is not None
    return last


def _print_adapting(source: Path, output: Path, last: Adapting) -> None:
    from r2n2.cli.tables import print_values

    start, best = last.start, last.best
    rows = [
        ("updates", str(last.update)),
        ("time", _duration(last.seconds)),
        ("similarity", f"{start.similarity:.4f} -> {best.similarity:.4f}"),
        ("folding, %", f"{start.folding_percent:.3f} -> {best.folding_percent:.3f}"),
    ]
    print_values("frames held out, before and after adapting", rows)
    if best == start:
        print(f"nothing better was found: {output} holds the weights it started from")
    print(f"use them: r2n2 register {shlex.quote(str(source))} -o RESULT --method r2n2 --weights {shlex.quote(str(output))}")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _silent(_: str) -> None:
    return
