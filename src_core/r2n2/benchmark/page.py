"""The page of a comparison: one self-contained HTML file without script or external link, in the look of the reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from r2n2.benchmark.figure import Point, accuracy_figure
from r2n2.benchmark.results import Benchmark, Row, before_row, row_of
from r2n2.quantities import LengthUnit, length_number, spacing_text
from r2n2.report.template import number_text, render_template

__all__ = ["render_page"]

_DASH = "–"


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Parameters
    ----------
    title, value, digits
        Its head, the number of a row, and how many decimals are shown.
    better
        -1: less is better, 1: more, 0: neither.
    unit
        Behind the number where it stands alone.
    """

    title: str
    value: Callable[[Row], float]
    digits: int
    better: int = -1
    unit: str = ""

    def told(self, row: Row) -> str:
        """The number with its unit."""
        return f"{number_text(self.value(row), self.digits)}{self.unit}"


@dataclass(frozen=True)
class _Line:
    """A row of the table: cells are text and whether it is the best of its column."""

    name: str
    kind: str
    cells: list[tuple[str, bool]]


def render_page(benchmark: Benchmark, facts: dict[str, str], created: str) -> str:
    """The HTML text.

    Parameters
    ----------
    facts
        About the machine.
    created
        UTC, ISO 8601.
    """
    filters = {
        "number": number_text,
        "mean": _mean,
        "largest": lambda values: max(values, default=math.nan),
        "distance": partial(length_number, unit=benchmark.length_unit),
    }
    return render_template("benchmark.html.j2", _context(benchmark, facts, created), filters)


def _context(benchmark: Benchmark, facts: dict[str, str], created: str) -> dict[str, Any]:
    rows = benchmark.rows()
    nothing, taking_part = rows[0], rows[1:]
    accuracy = _accuracy(rows, benchmark.length_unit)
    columns, points = _columns(rows, benchmark.length_unit), _points(benchmark, taking_part, accuracy)
    results = [(outcome, result) for outcome in benchmark.cases for result in outcome.results]
    return {
        "title": _title(benchmark),
        "verdict": _verdict(taking_part, accuracy),
        "tiles": _tiles(nothing, taking_part, accuracy),
        "figure": accuracy_figure(points, accuracy.value(nothing), accuracy.title) if points else "",
        "columns": [column.title for column in columns],
        "lines": _lines(benchmark, rows, columns),
        "wanted": nothing.wanted,
        "rounds": benchmark.rounds,
        "cases": [outcome.case for outcome in benchmark.cases],
        "troubles": _troubles(benchmark),
        "accuracy_name": accuracy.title,
        "by_series": _by_series(benchmark, accuracy),
        "who": [(r.contestant.name, r.contestant.about, r.contestant.version) for r in benchmark.cases[0].results],
        "settings": benchmark.settings,
        "notes": list(dict.fromkeys(note for outcome in benchmark.cases for note in outcome.case.notes)),
        "facts": _facts(benchmark, facts, created),
        "timings": [
            (outcome.case.name, result.contestant.name, _rounds(result.seconds, benchmark.rounds)) for outcome, result in results
        ],
        "scores": [(outcome.case.name, result.contestant.name, score) for outcome, result in results for score in result.scores],
        "unit": benchmark.length_unit.value,
        "with_errors": nothing.tre.count > 0,
        "with_labels": math.isfinite(nothing.dice),
    }


def _title(benchmark: Benchmark) -> str:
    names = [outcome.case.name for outcome in benchmark.cases]
    return names[0] if len(names) == 1 else f"{len(names)} series: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _accuracy(rows: Sequence[Row], unit: LengthUnit) -> _Column:
    """What the methods are assessed by: landmark errors where they are known, else how much less alike than equal images are."""
    if rows[0].tre.count:
        return _Column(f"mean TRE ({unit.value})", lambda row: row.tre.mean_mm * unit.per_mm, 2, unit=f" {unit.value} mean TRE")
    return _Column("1 − correlation", lambda row: 1 - row.correlation, 4, unit=" from a correlation of 1")


def _columns(rows: Sequence[Row], unit: LengthUnit) -> list[_Column]:
    columns = [
        _Column("s a frame", lambda row: row.seconds, 3),
        _Column("fastest", lambda row: row.fastest, 3, 0),
        _Column("slowest", lambda row: row.slowest, 3, 0),
        _Column("memory (MiB)", lambda row: row.peak_mib, 0),
        _Column("correlation", lambda row: row.correlation, 4, 1),
        _Column("folding (%)", lambda row: row.folding_percent, 3, 0),
    ]
    if rows[0].tre.count:
        columns += [
            _Column(f"TRE mean ({unit.value})", lambda row: row.tre.mean_mm * unit.per_mm, 2),
            _Column("median", lambda row: row.tre.median_mm * unit.per_mm, 2),
            _Column("95 %", lambda row: row.tre.q95_mm * unit.per_mm, 2),
            _Column("max", lambda row: row.tre.max_mm * unit.per_mm, 2),
        ]
    if math.isfinite(rows[0].dice):
        columns.append(_Column("Dice", lambda row: row.dice, 3, 1))
    return [*columns, _Column("numbers", lambda row: row.numbers, 0)]


def _lines(benchmark: Benchmark, rows: Sequence[Row], columns: Sequence[_Column]) -> list[_Line]:
    ours = _ours(benchmark)
    best = [_best(column, [row for row in rows[1:] if row.frames]) for column in columns]
    lines = []
    for row in rows:
        texts = [number_text(column.value(row), column.digits) for column in columns]
        cells = [(text, text == winner and row is not rows[0]) for text, winner in zip(texts, best, strict=True)]
        name = row.name if row.frames == row.wanted else f"{row.name} ({row.frames} of {row.wanted} frames)"
        lines.append(_Line(name, "nothing" if row is rows[0] else "ours" if row.name in ours else "", cells))
    return lines


def _best(column: _Column, rows: Sequence[Row]) -> str | None:
    """The best number as it is shown, so that numbers that look alike are treated alike."""
    values = [column.value(row) for row in rows if math.isfinite(column.value(row))]
    if not column.better or not values:
        return None
    return number_text(max(values) if column.better > 0 else min(values), column.digits)


def _points(benchmark: Benchmark, rows: Sequence[Row], accuracy: _Column) -> list[Point]:
    ours, per_mm = _ours(benchmark), benchmark.length_unit.per_mm
    return [
        Point(
            row.name,
            row.name in ours,
            row.seconds,
            row.fastest,
            row.slowest,
            accuracy.value(row),
            row.tre.q95_mm * per_mm,
        )
        for row in rows
        if math.isfinite(accuracy.value(row))
    ]


def _verdict(rows: Sequence[Row], accuracy: _Column) -> str:
    there = [row for row in rows if math.isfinite(accuracy.value(row))]
    if not there:
        return "No method registered a frame."
    best, fastest = min(there, key=accuracy.value), min(there, key=lambda row: row.seconds)

    def told(row: Row) -> str:
        return f"{row.name} ({accuracy.told(row)}, {row.seconds:.2g} s a frame)"

    most = "accurate" if math.isfinite(best.tre.mean_mm) else "alike"
    if best is fastest:
        return f"Most {most} and fastest: {told(best)}."
    return f"Most {most}: {told(best)}. Fastest: {told(fastest)}."


def _tiles(nothing: Row, rows: Sequence[Row], accuracy: _Column) -> list[tuple[str, str, str]]:
    """(name, method, its number) of the numbers shown first."""
    tiles = [("Not registered", number_text(accuracy.value(nothing), accuracy.digits), accuracy.title)]
    for name, column in (
        ("Most accurate" if nothing.tre.count else "Most alike", accuracy),
        ("Fastest", _Column("", lambda row: row.seconds, 3, unit=" s a frame")),
        ("Least memory", _Column("", lambda row: row.peak_mib, 0, unit=" MiB")),
        ("Shortest description", _Column("", lambda row: row.numbers, 0, unit=" numbers")),
    ):
        known = [row for row in rows if row.frames and math.isfinite(column.value(row))]
        if known:
            least = min(known, key=column.value)
            names = ", ".join(row.name for row in known if column.value(row) == column.value(least))
            tiles.append((name, names, column.told(least)))
    return tiles


def _by_series(benchmark: Benchmark, accuracy: _Column) -> list[tuple[str, str, list[str]]]:
    ours = _ours(benchmark)
    texts: dict[str, list[str]] = {}
    for outcome in benchmark.cases:
        rows = [before_row([outcome]), *(row_of([result], [outcome]) for result in outcome.results)]
        for row in rows:
            texts.setdefault(row.name, []).append(number_text(accuracy.value(row), accuracy.digits))
    kinds = {name: "ours" if name in ours else "" for name in texts} | {"not registered": "nothing"}
    return [(name, kinds[name], cells) for name, cells in texts.items()]


def _troubles(benchmark: Benchmark) -> list[tuple[str, str, str]]:
    found = [(contestant.name, _DASH, reason) for contestant, reason in benchmark.absent]
    for outcome in benchmark.cases:
        for result in outcome.results:
            if result.stopped:
                found.append((result.contestant.name, outcome.case.name, result.stopped))
            found += [(result.contestant.name, outcome.case.name, f"frame {frame}: {reason}") for frame, reason in result.errors]
    return found


def _facts(benchmark: Benchmark, facts: dict[str, str], created: str) -> list[tuple[str, str]]:
    series = []
    for outcome in benchmark.cases:
        case = outcome.case
        size = " x ".join(map(str, case.grid.shape))
        unit = spacing_text(case.grid.spacing) if case.spacing_known else "size unknown: 1 pixel is called 1 mm"
        frames = ", ".join(map(str, case.frames))
        series.append((case.name, f"{size} pixels of {unit}; frames {frames} of {case.total} to frame {case.reference}"))
    return [*series, *facts.items(), ("weights", benchmark.settings.weights), ("date", created)]


def _ours(benchmark: Benchmark) -> set[str]:
    return {result.contestant.name for outcome in benchmark.cases for result in outcome.results if result.contestant.ours}


def _rounds(seconds: Sequence[float], count: int) -> list[float]:
    return [*seconds, *[math.nan] * (count - len(seconds))]


def _mean(values: Iterable[float]) -> float:
    known = [*values]
    return float(np.mean(known)) if known else math.nan
