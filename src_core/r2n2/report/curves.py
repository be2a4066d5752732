"""Label curves as figure and files: intensity before and after alignment, area or volume, and principal strains over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2n2.curves import LabelCurve
from r2n2.io.atomic import atomic_write, resource_errors
from r2n2.report.style import AFTER_COLOUR, BEFORE_COLOUR, STYLE, new_figure
from r2n2.results.curve_files import curve_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "draw_curves", "save_figure", "write_curves"]

_PRINCIPAL = (AFTER_COLOUR, "#6b9080", "#8a5a83")
_MOST_LABELS = 8
_ROW_IN = 1.75


def curves_figure(curves: Sequence[LabelCurve], times_s: Sequence[float] | None) -> Figure:
    """One row a label, at most eight: what a paper would show of them."""
    from matplotlib import rc_context

    shown = curves[:_MOST_LABELS]
    with rc_context(STYLE):
        figure = new_figure(_ROW_IN * len(shown) + 0.45)
        grid = figure.subplots(len(shown), 3, squeeze=False, sharex=True)
        for place, curve in enumerate(shown):
            draw_curves(grid[place], curve, times_s, first=place == 0, last=place == len(shown) - 1, named=len(shown) > 1)
    return figure


def draw_curves(
    axes: Sequence[Axes],
    curve: LabelCurve,
    times_s: Sequence[float] | None,
    *,
    first: bool = True,
    last: bool = True,
    named: bool = False,
) -> None:
    """Draw one label on three pairs of axes."""
    x = curve.frames if times_s is None else np.asarray(times_s)[curve.frames]
    ndim = curve.strain.shape[-1]
    if np.isfinite(curve.before).any():
        axes[0].plot(x, curve.before, color=BEFORE_COLOUR, linewidth=1.1, label="before alignment")
    axes[0].plot(x, curve.after, color=AFTER_COLOUR, linewidth=1.4, label="after")
    axes[1].plot(x, curve.size, color=AFTER_COLOUR, linewidth=1.4)
    for k, colour in zip(range(ndim), _PRINCIPAL, strict=False):
        axes[2].plot(x, 100 * curve.principal[:, k], color=colour, linewidth=1.2, label=("first", "second", "third")[k])
    axes[2].plot(
        x, 100 * curve.size_strain, color="#8a929c", linewidth=1.1, linestyle="--", label="area" if ndim == 2 else "volume"
    )
    for cell, what in zip(axes, _titles(ndim), strict=True):
        cell.margins(x=0.01)
        if first:
            cell.set_title(what, loc="left")
        if last:
            cell.set_xlabel("frame" if times_s is None else "time (s)")
    if first:
        # Above, beside the title: nowhere inside is sure to be free.
        options: dict[str, Any] = {
            "frameon": False,
            "fontsize": 7,
            "ncols": 3,
            "loc": "lower right",
            "bbox_to_anchor": (1.01, 0.99),
        }
        options |= {"borderpad": 0, "columnspacing": 0.8, "handlelength": 1.1, "handletextpad": 0.4}
        for cell in (axes[0], axes[2]):
            cell.legend(**options)
    if named:
        axes[0].set_ylabel(f"label {curve.label}")


def _titles(ndim: int) -> tuple[str, str, str]:
    size = "area (mm²)" if ndim == 2 else "volume (mm³)"
    return "mean intensity", size, "Green-Lagrange strain (%)"


def write_curves(
    folder: Path, curves: Sequence[LabelCurve], times_s: Sequence[float] | None, status: Mapping[int, str]
) -> list[Path]:
    """Write curves.csv, curves.png and curves.svg into a folder, which is made; their paths.

    Parameters
    ----------
    times_s
        Of all frames; None where they are not known.
    status
        Frame -> what became of it.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "curves.csv") as temporary:
        temporary.write_text(curve_table(curves, times_s, status), encoding="utf-8", newline="")
    return [folder / "curves.csv", *save_figure(curves_figure(curves, times_s), folder / "curves")]


def save_figure(figure: Figure, stem: Path, *, dpi: int = 200) -> list[Path]:
    """Write a figure as PNG and SVG beside one another.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    from matplotlib import rc_context

    written = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = stem.parent / f"{stem.name}.{kind}"
        # Letters of an SVG stay letters, which a person can edit, and its names do not change from run to run.
        with atomic_write(path) as temporary, rc_context({"svg.fonttype": "none", "svg.hashsalt": "r2n2"}):
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
        written.append(path)
    return written
