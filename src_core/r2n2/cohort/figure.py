"""The figure of a cohort: every slice position before and after, in order, outliers marked."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2n2.cohort.summary import SummaryRow
from r2n2.report.style import AFTER_COLOUR, BEFORE_COLOUR, FLAG_COLOUR, STYLE, figure_uri, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["cohort_figure"]


def cohort_figure(rows: Sequence[SummaryRow], outliers: Collection[str]) -> str:
    """The data URI of a PNG: similarity, and landmark errors where they are known, else the largest displacement.

    Parameters
    ----------
    rows
        Slice positions that are done.
    outliers
        Labels of those to be marked.
    """
    from matplotlib import rc_context

    with_errors = any(math.isfinite(row.tre_mm) for row in rows)
    with rc_context(STYLE):
        figure = new_figure(2.9)
        left, right = figure.subplots(1, 2)
        pairs = [(row.similarity_before, row.similarity_after) for row in rows]
        _in_order(left, rows, pairs, outliers)
        left.set_title("mean similarity with the reference", loc="left")
        left.legend(
            frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handletextpad=0.2
        )
        if with_errors:
            _in_order(right, rows, [(row.tre_before_mm, row.tre_mm) for row in rows], outliers)
            right.set_title("mean landmark error (mm)", loc="left")
        else:
            _in_order(right, rows, [(math.nan, row.max_displacement_mm) for row in rows], outliers)
            right.set_title("largest displacement (mm)", loc="left")
        right.set_ylim(bottom=0)
        return figure_uri(figure)


def _in_order(axes: Axes, rows: Sequence[SummaryRow], pairs: Sequence[tuple[float, float]], outliers: Collection[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    known = [
        (before, after, row.label in outliers) for row, (before, after) in zip(rows, pairs, strict=True) if math.isfinite(after)
    ]
    known.sort(key=lambda item: item[1])
    values = np.array([(before, after) for before, after, _ in known]).reshape(-1, 2)
    far = np.array([flag for *_, flag in known], bool)
    place = np.arange(1, len(values) + 1)
    size = float(np.clip(400 / max(len(values), 1), 3, 22))
    if np.isfinite(values[:, 0]).any():
        axes.vlines(place, values[:, 0], values[:, 1], color="#c9ced4", linewidth=0.8, zorder=1)
        axes.scatter(place, values[:, 0], s=size, color=BEFORE_COLOUR, label="before", zorder=2)
    axes.scatter(place[~far], values[~far, 1], s=size, color=AFTER_COLOUR, label="after", zorder=3)
    if far.any():
        axes.scatter(place[far], values[far, 1], s=size * 1.8, color=FLAG_COLOUR, marker="D", label="outlier", zorder=4)
    axes.set_xlabel("slice positions in order of the value after")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
