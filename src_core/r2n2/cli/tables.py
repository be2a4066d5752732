"""Tables that the commands print on standard output."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from r2n2.evaluation import ErrorSummary, ObserverError, TRETable, summarise
from r2n2.quantities import LengthUnit, length_number, length_text, spacing_text
from r2n2.registration.results import FrameStatus
from r2n2.results.tre_table import slice_errors

if TYPE_CHECKING:
    from r2n2.benchmark.results import Benchmark, Row
    from r2n2.doctor import Check
    from r2n2.io import Description
    from r2n2.results.reader import RegisteredSeries

__all__ = [
    "print_benchmark",
    "print_checks",
    "print_descriptions",
    "print_errors",
    "print_observer",
    "print_registration",
    "print_slices",
    "print_values",
]

_WIDTH_WITHOUT_TERMINAL = 160
_MOST_LANDMARKS = 100


def _console() -> Console:
    # Into a pipe or file no line is wrapped at 80 columns.
    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False)


def _table(title: str, columns: Iterable[str], *, text: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    left = set(text)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def print_registration(registered: RegisteredSeries) -> None:
    """A row a frame, flagged frames with the reason, and where the result is."""
    with_errors = any(math.isfinite(row.tre_mm) for row in registered.metrics)
    with_radius = any(math.isfinite(row.uncertainty_mm) for row in registered.metrics)
    unit = registered.length_unit
    measure = registered.manifest.similarity_measure
    similar = "similarity before" if measure == "ssd" else f"agreement ({measure}) before"
    columns = ["frame", similar, "after", "folding %", "min. Jacobian", f"displacement {unit.value}"]
    columns += [f"uncertainty {unit.value}"] if with_radius else []
    columns += ["seconds"]
    columns += [f"TRE before {unit.value}", f"TRE {unit.value}", "max"] if with_errors else []
    table = _table("", [*columns, "status"], text=["status"])
    for row in registered.metrics:
        cells = [
            str(row.frame),
            _number(row.similarity_before, 4),
            _number(row.similarity_after, 4),
            _number(row.folding_percent, 2),
            _number(row.min_jacobian_proven, 2),
            length_number(row.max_displacement_mm, unit),
            *([length_number(row.uncertainty_mm, unit)] if with_radius else []),
            _number(row.seconds, 2),
        ]
        if with_errors:
            cells += [length_number(value, unit) for value in (row.tre_before_mm, row.tre_mm, row.tre_max_mm)]
        good = row.status.sound or row.status is FrameStatus.REFERENCE
        status = f"{row.status}: {row.message}" if row.message else str(row.status)
        table.add_row(*cells, escape(status), style=None if good else "yellow")
    console = _console()
    console.print(table)
    flagged = [row for row in registered.metrics if not row.status.sound and row.status is not FrameStatus.REFERENCE]
    total = len(registered.metrics)
    console.print(f"{total - len(flagged)} of {total} frames ok; reference {registered.reference}; result in {registered.folder}")
    doubtful = [str(row.frame) for row in flagged if row.status is FrameStatus.DOUBTFUL]
    if doubtful:
        console.print(f"doubtful frames, to be looked at before use: {', '.join(doubtful)}", style="yellow")
    failed = [str(row.frame) for row in flagged if row.status is FrameStatus.FAILED]
    if failed:
        console.print(f"failed frames: {', '.join(failed)}", style="red")


def print_errors(table: TRETable, unit: LengthUnit = LengthUnit.MM) -> None:
    """A row a landmark, then a row a frame and one of the series; what could not be used below."""
    console = _console()
    columns = ["n", "before mean", "max", "TRE mean", "median", "95 %", "max "]
    ids = list(dict.fromkeys(row.id for row in table.rows))
    console.print(f"[bold]Target registration error in {unit.value} by landmark[/bold]")
    by_id = _table("", ["id", *columns], text=["id"])
    for name in ids[:_MOST_LANDMARKS]:
        rows = [row for row in table.included() if row.id == name]
        before, after = summarise(row.before_mm for row in rows), summarise(row.after_mm for row in rows)
        by_id.add_row(escape(name), *_error_cells(before, after, unit))
    console.print(by_id)
    if len(ids) > _MOST_LANDMARKS:
        console.print(f"... {len(ids)} landmarks in all: tre.csv holds every one")
    console.print(f"[bold]Target registration error in {unit.value} by frame, reference {table.reference}[/bold]")
    shown = _table("", ["frame", *columns])
    for frame in (*table.frames, None):
        cells = _error_cells(table.before(frame), table.after(frame), unit)
        shown.add_row("series" if frame is None else str(frame), *cells, style="bold" if frame is None else None)
    console.print(shown)
    for note in (*table.notes, *_unmatched(table)):
        console.print(escape(note))


def _error_cells(before: ErrorSummary, after: ErrorSummary, unit: LengthUnit) -> list[str]:
    values = (before.mean_mm, before.max_mm, after.mean_mm, after.median_mm, after.q95_mm, after.max_mm)
    return [str(after.count), *(length_number(value, unit) for value in values)]


def _unmatched(table: TRETable) -> list[str]:
    """Every id without a partner, with the frames in which it has none."""
    frames: dict[str, list[int]] = {}
    for frame, name in table.unmatched:
        frames.setdefault(name, []).append(frame)
    return [f"unmatched id {name!r}: no partner in frame {', '.join(map(str, found))}" for name, found in frames.items()]


def print_slices(slices: Mapping[str, TRETable], method: str, unit: LengthUnit = LengthUnit.MM) -> None:
    """The paper's Table 1: a column a slice position, mean error of its frames and, small, the largest."""
    table = _table("", ["", *slices, "mean"], text=[""])
    pairs = [slice_errors(table) for table in slices.values()]
    for name, which in (("before", 0), (method, 1)):
        cells = [f"{length_number(pair[which][0], unit)} [dim]{length_number(pair[which][1], unit)}[/dim]" for pair in pairs]
        means = [pair[which][0] for pair in pairs if math.isfinite(pair[which][0])]
        table.add_row(name, *cells, length_number(sum(means) / len(means) if means else math.nan, unit))
    console = _console()
    # A line of its own: a title would be wrapped to the width of the table.
    console.print(f"[bold]Mean TRE in {unit.value} (and the largest of a frame)[/bold]")
    console.print(table)
    for name, errors in slices.items():
        for note in (*errors.notes, *_unmatched(errors)):
            console.print(escape(f"{name}: {note}"))


def print_observer(error: ObserverError, unit: LengthUnit = LengthUnit.MM, name: str = "") -> None:
    """One line of how far two observers are apart, and which points only one of them has marked."""
    both = error.summary
    console = _console()
    console.print(
        f"{name}inter-observer error: mean {length_text(both.mean_mm, unit)}, median {length_text(both.median_mm, unit)}, "
        f"max {length_text(both.max_mm, unit)}, n = {both.count}; {len(error.unmatched)} points marked by one only"
    )
    if error.unmatched:
        listed = ", ".join(f"{point!r} in frame {frame}" for frame, point in error.unmatched[:_MOST_LANDMARKS])
        console.print(escape(f"{name}marked by one only: {listed}"))


def print_descriptions(descriptions: Sequence[Description]) -> None:
    """A row a slice position or a series of volumes, with what the reader noticed below."""
    console = _console()
    volumes = any(item.orientation for item in descriptions)
    what = "slice" if not volumes else "volume" if all(item.orientation for item in descriptions) else "series"
    columns = [what, "name", "format", "frames", "size", "channels", "spacing", "time s", "type", "modality"]
    columns += ["orientation"] if volumes else []
    table = _table("", columns, text=["name", "format", "type", "modality", "orientation"])
    for index, item in enumerate(descriptions):
        spacing = "unknown" if item.spacing_mm is None else spacing_text(item.spacing_mm)
        times = "none" if item.times_s is None else f"{item.times_s[0]:g} .. {item.times_s[-1]:g}"
        size = " x ".join(map(str, item.shape))
        cells = [str(index), item.name, item.format, str(item.frames), size, str(item.channels), spacing, times]
        cells += [item.dtype, item.modality or "-", *([item.orientation or "-"] if volumes else [])]
        table.add_row(*map(escape, cells))
    if any(item.frames for item in descriptions):
        console.print(table)
    for text, entries in (("note", "notes"), ("problem", "problems")):
        lines = [(index, line) for index, item in enumerate(descriptions) for line in getattr(item, entries)]
        for line in dict.fromkeys(line for _, line in lines):
            slices = [str(index) for index, other in lines if other == line]
            console.print(escape(f"{text} ({what} {', '.join(slices)}): {line}"))


def print_checks(checks: Sequence[Check]) -> None:
    """A row a check; what is wrong is marked and told what to do."""
    table = _table("", ["", "what", "found", "to do"], text=["", "what", "found", "to do"])
    for check in checks:
        table.add_row("ok" if check.fine else "!!", *(escape(part) for part in (check.name, check.value, check.hint)))
    _console().print(table)


def print_benchmark(benchmark: Benchmark) -> None:
    """A row a method over all series, then who did not take part or not to the end, and why."""
    rows = benchmark.rows()
    with_errors = any(row.tre.count for row in rows)
    with_labels = any(math.isfinite(row.dice) for row in rows)
    columns = ["method", "s/frame", "fastest", "slowest", "memory MiB", "correlation", "folding %"]
    unit = benchmark.length_unit
    columns += [f"TRE mean {unit.value}", "median", "95 %", "max"] if with_errors else []
    columns += ["Dice"] if with_labels else []
    series = f"{len(benchmark.cases)} series" if len(benchmark.cases) > 1 else benchmark.cases[0].case.name
    title = f"{series}: {rows[0].wanted} frames, {benchmark.rounds} rounds in turn, {benchmark.settings.threads} threads"
    table = _table("", [*columns, "numbers", "frames"], text=["method"])
    for row in rows:
        cells = _benchmark_cells(row, unit if with_errors else None, with_labels)
        table.add_row(escape(row.name), *cells, style="yellow" if row.frames < row.wanted else None)
    console = _console()
    console.print(f"[bold]{escape(title)}[/bold]")
    console.print(table)
    for contestant, reason in benchmark.absent:
        console.print(escape(f"{contestant.name} took no part: {reason}"), style="yellow")
    for outcome in benchmark.cases:
        for result in outcome.results:
            reasons = [f"stopped, {result.stopped}"] if result.stopped else []
            reasons += [f"frame {frame} failed, {reason}" for frame, reason in result.errors]
            for reason in reasons:
                console.print(escape(f"{outcome.case.name}, {result.contestant.name}: {reason}"), style="yellow")


def _benchmark_cells(row: Row, unit: LengthUnit | None, with_labels: bool) -> list[str]:
    cells = [_number(value, 3) for value in (row.seconds, row.fastest, row.slowest)]
    cells += [_number(row.peak_mib, 0), _number(row.correlation, 4), _number(row.folding_percent, 3)]
    if unit is not None:
        errors = (row.tre.mean_mm, row.tre.median_mm, row.tre.q95_mm, row.tre.max_mm)
        cells += [length_number(value, unit) for value in errors]
    if with_labels:
        cells.append(_number(row.dice, 3))
    return [*cells, _number(row.numbers, 0), f"{row.frames} of {row.wanted}"]


def print_values(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A name and a value a row."""
    # A line of its own: a title would be wrapped to the width of the table.
    _console().print(f"[bold]{escape(title)}[/bold]")
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    _console().print(table)
