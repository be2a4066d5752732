"""The files of a comparison: a table as CSV, and everything that was measured as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from r2n2.benchmark.results import Benchmark, CaseResult, ContestantResult, Row, before_row, row_of
from r2n2.errors import ArgumentError
from r2n2.io.atomic import atomic_write
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number

__all__ = ["CSV_NAME", "HTML_NAME", "JSON_NAME", "check_free", "record", "table_csv", "write_text"]

CSV_NAME, JSON_NAME, HTML_NAME = "benchmark.csv", "benchmark.json", "benchmark.html"
_FORMAT_VERSION = 1
_COLUMNS = (
    "series",
    "method",
    "package",
    "status",
    "seconds_a_frame",
    "fastest",
    "slowest",
    "peak_memory_mib",
    "memory_before_first_image_mib",
    "correlation",
    "folding_percent",
    "worst_folding_percent",
    "landmarks",
    "tre_mean_mm",
    "tre_median_mm",
    "tre_q95_mm",
    "tre_max_mm",
    "dice",
    "numbers",
    "frames",
    "frames_wanted",
)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a comparison already.

    Raises
    ------
    ArgumentError
        Unless it is to be replaced.
    """
    if not overwrite and (folder / JSON_NAME).exists():
        raise ArgumentError(f"--output {folder}: holds a {JSON_NAME}; give --overwrite or another folder")


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def table_csv(benchmark: Benchmark) -> str:
    """A row a series and method, then a row a method over all series where there are several; empty where a number is not known."""
    rows = []
    for outcome in benchmark.cases:
        rows.append(_cells(outcome.case.name, "", "", before_row([outcome])))
        for result in outcome.results:
            rows.append(_cells(outcome.case.name, result.contestant.version, _status(result), row_of([result], [outcome])))
    if len(benchmark.cases) > 1:
        rows += [_cells("all", "", "", row) for row in benchmark.rows()]
    empty = [""] * (len(_COLUMNS) - 4)
    rows += [["", contestant.name, "", reason, *empty] for contestant, reason in benchmark.absent]
    return table_text(_COLUMNS, rows, text=_COLUMNS[:4])


def _status(result: ContestantResult) -> str:
    if result.stopped:
        return f"stopped: {result.stopped}"
    return "; ".join(f"frame {frame}: {reason}" for frame, reason in result.errors) or "ok"


def _cells(series: str, package: str, status: str, row: Row) -> list[str]:
    times_and_memory = (row.seconds, row.fastest, row.slowest, row.peak_mib, row.loaded_mib)
    images = (row.correlation, row.folding_percent, row.worst_folding_percent)
    truth = (row.tre.count, row.tre.mean_mm, row.tre.median_mm, row.tre.q95_mm, row.tre.max_mm, row.dice)
    numbers = (*times_and_memory, *images, *truth, row.numbers, row.frames, row.wanted)
    return [series, row.name, package, status, *map(exact_number, numbers)]


def record(benchmark: Benchmark, facts: dict[str, str], created: str) -> str:
    """The JSON text of everything that was measured.

    Parameters
    ----------
    facts
        About the machine.
    created
        UTC, ISO 8601.
    """
    content = {
        "format_version": _FORMAT_VERSION,
        "created": created,
        "machine": facts,
        "settings": {**asdict(benchmark.settings), "rounds": benchmark.rounds},
        "absent": [{"method": contestant.name, "reason": reason} for contestant, reason in benchmark.absent],
        "table": [asdict(row) for row in benchmark.rows()],
        "series": [_series(outcome) for outcome in benchmark.cases],
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n"


def _series(outcome: CaseResult) -> dict[str, Any]:
    case = outcome.case
    return {
        "name": case.name,
        "shape": list(case.grid.shape),
        "spacing_mm": list(case.grid.spacing) if case.spacing_known else None,
        "frames_of_the_series": case.total,
        "reference": case.reference,
        "frames": list(case.frames),
        "notes": list(case.notes),
        "order_of_every_round": [list(order) for order in outcome.orders],
        "methods": [_method(result) for result in outcome.results],
    }


def _method(result: ContestantResult) -> dict[str, Any]:
    return {
        "method": result.contestant.name,
        "about": result.contestant.about,
        "package": result.contestant.version,
        "stopped": result.stopped,
        "seconds_a_frame": list(result.seconds),
        "peak_memory_mib": result.peak_mib,
        "memory_before_first_image_mib": result.loaded_mib,
        "numbers": result.numbers,
        "errors": [{"frame": frame, "reason": reason} for frame, reason in result.errors],
        "scores": [asdict(score) for score in result.scores],
    }


def _plain(value: Any) -> Any:
    """The same for JSON, which has no word for what is not a number."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
