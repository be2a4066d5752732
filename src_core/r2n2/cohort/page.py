"""The page of a cohort: one self-contained HTML file in the look of the reports, whose only links lead to the reports beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any
from urllib.parse import quote

import numpy as np

from r2n2.cohort.figure import cohort_figure
from r2n2.cohort.outliers import Outlier, find_outliers
from r2n2.cohort.summary import DONE, FAILED, MISSING, SummaryRow
from r2n2.quantities import LengthUnit, length_number, length_text, length_unit
from r2n2.report.template import number_text, render_template

__all__ = ["PAGE_NAME", "render_cohort"]

PAGE_NAME = "cohort.html"
_DASH = "–"
# Widths on the map: of a letter, of the longest name, and of a field with the gap beside it, as its style says.
_LETTER_REM, _LONGEST_NAME_REM, _CELL_REM = 0.5, 20.0, 2.3


@dataclass(frozen=True)
class _Cell:
    """A slice position on the map."""

    text: str
    kind: str
    title: str
    link: str


def render_cohort(rows: Sequence[SummaryRow], title: str) -> str:
    """The HTML text.

    Parameters
    ----------
    rows
        In the order of the acquisitions.
    title
        What the cohort is called.
    """
    unit = _unit(rows)
    filters = {"number": number_text, "distance": partial(_distance, unit=unit), "link": _link}
    return render_template("cohort.html.j2", _context(rows, title, unit), filters)


def _context(rows: Sequence[SummaryRow], title: str, unit: LengthUnit) -> dict[str, Any]:
    done = [row for row in rows if row.state == DONE]
    outliers, missing = find_outliers(rows), [row for row in rows if row.state == MISSING]
    name_rem = round(min(_LETTER_REM * max(len(row.name) for row in rows) + 1, _LONGEST_NAME_REM), 1)
    marked = {outlier.row.label for outlier in outliers}
    return {
        "title": title,
        "verdict": _verdict(rows, outliers),
        "flagged": bool(outliers or missing),
        "tiles": _tiles(rows, done, unit),
        "outliers": outliers,
        "figure": cohort_figure(done, marked) if done else "",
        "map": [(name, tuple(_cell(row, row.label in marked) for row in group)) for name, group in _acquisitions(rows)],
        "name_rem": name_rem,
        "column_rem": round(name_rem + _CELL_REM * max(len(group) for _, group in _acquisitions(rows)), 1),
        "missing": f"{_count(len(missing), 'slice position')} not registered yet: run the same command again." if missing else "",
        "rows": rows,
        "with_errors": any(math.isfinite(row.tre_mm) for row in rows),
        "measures": ", ".join(sorted({row.similarity_measure for row in done})),
        "unit": unit.value,
    }


def _acquisitions(rows: Sequence[SummaryRow]) -> Iterable[tuple[str, list[SummaryRow]]]:
    return [(name, list(group)) for name, group in groupby(rows, key=lambda row: row.name)]


def _verdict(rows: Sequence[SummaryRow], outliers: Sequence[Outlier]) -> str:
    states = Counter(row.state for row in rows)
    whole = f"{states[DONE]} of {_count(len(rows), 'slice position')} registered"
    parts = [f"{states[FAILED]} failed"] if states[FAILED] else []
    parts += [f"{states[MISSING]} not registered yet"] if states[MISSING] else []
    far = len(outliers) - states[FAILED]
    parts += [f"{far} stand{'s' if far == 1 else ''} out"] if far else []
    return f"{whole}; {', '.join(parts)}." if parts else f"{whole}; none stands out."


def _tiles(rows: Sequence[SummaryRow], done: Sequence[SummaryRow], unit: LengthUnit) -> list[tuple[str, str, str]]:
    """(name, value, what stands below) of the numbers shown first."""
    acquisitions = len({row.name for row in rows})
    frames, flagged = sum(row.frames for row in done), sum(row.flagged for row in done)
    doubtful = sum(row.doubtful for row in done)
    tiles = [("Acquisitions", str(acquisitions), _count(len(rows), "slice position")), ("Frames", f"{frames:,}", "registered")]
    share = f"{100 * flagged / frames:.1f} %" if frames else _DASH
    tiles.append(("Frames to look at", share, f"{flagged} frames, {doubtful} of them doubtful"))
    before, after = (_finite(getattr(row, name) for row in done) for name in ("similarity_before", "similarity_after"))
    if after:
        first, last = (number_text(float(np.median(values)), 4) for values in (before, after))
        tiles.append(("Similarity, median", last, f"before {first}"))
    errors = _finite(row.tre_mm for row in done)
    if errors:
        was = float(np.mean(_finite(row.tre_before_mm for row in done)))
        small = f"before {length_text(was, unit)}; {_count(len(errors), 'slice position')} with landmarks"
        tiles.append(("Landmark error (TRE)", length_text(float(np.mean(errors)), unit), small))
    folding = _finite(row.folding_percent for row in done)
    if folding:
        tiles.append(
            (
                "Largest folding",
                f"{max(folding):.2g} %",
                f"any at all in {sum(value > 0 for value in folding)} of {len(folding)}",
            )
        )
    seconds, memory = sum(_finite(row.seconds for row in done)), _finite(row.peak_memory_mib for row in done)
    if frames:
        most = f"; at most {max(memory) / 1024:.1f} GiB a process" if memory else ""
        tiles.append(("Computing time", _duration(seconds), f"{seconds / frames:.2f} s a frame{most}"))
    return tiles


def _cell(row: SummaryRow, outlier: bool) -> _Cell:
    if row.state != DONE:
        return _Cell("×" if row.state == FAILED else "", row.state, f"{row.label}: {row.message}", "")
    kind = "failed" if row.failed_frames else "look" if outlier else "some" if row.flagged else "good"
    title = f"{row.label}: {row.frames} frames, {row.flagged} to look at, similarity {number_text(row.similarity_after, 4)}"
    return _Cell(str(row.flagged or ""), kind, title, _link(row))


def _link(row: SummaryRow) -> str:
    """To the report, relative, so that the folder can be moved; "" where there is none."""
    return f"{quote(row.label)}/report.html" if row.state == DONE else ""


def _unit(rows: Sequence[SummaryRow]) -> LengthUnit:
    return length_unit(_finite(row.spacing_mm for row in rows))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _distance(mm: float, unit: LengthUnit) -> str:
    return length_number(mm, unit) if math.isfinite(mm) else _DASH


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
