"""Figures of a report, each drawn off screen and given as the data URI of a PNG (or of a WebP movie)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2n2.evaluation import TRETable
from r2n2.quantities import LengthUnit
from r2n2.registration.results import FrameStatus
from r2n2.report.data import Example, ReportData, View
from r2n2.report.planes import Image, Plane
from r2n2.report.style import (
    AFTER_COLOUR,
    BEFORE_COLOUR,
    FLAG_COLOUR,
    STYLE,
    WIDTH_IN,
    data_uri,
    figure_uri,
    new_figure,
    show_image,
)
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.transform import GaussianSequence, Transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "difference_figure",
    "error_figure",
    "frames_figure",
    "movie",
    "sequence_figure",
    "time_figure",
    "trust_figure",
    "uncertainty_figure",
    "volume_figure",
]

_STEPS_SHOWN = (2, 4, 8, 25)
# Of the radius: what lies above is as dark, or one pixel would leave all others black.
_RADIUS_SHOWN = _DEVIATION_SHOWN = 0.98


def _height(data: ReportData, columns: int, rows: int, extra_in: float = 0.35) -> float:
    shape, spacing = data.reference.shape, data.spacing_mm
    ratio = min(max(shape[0] * spacing[0] / (shape[1] * spacing[1]), 0.3), 2.2)
    return rows * (WIDTH_IN * 0.93 / columns * ratio + extra_in)


def _grey(data: ReportData) -> dict[str, Any]:
    return {"cmap": "gray", "vmin": data.limits[0], "vmax": data.limits[1]}


def difference_figure(data: ReportData) -> str:
    """Reference, frame, registered frame and the two differences, a row an example."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = new_figure(_height(data, 5, len(data.examples)))
        axes = figure.subplots(len(data.examples), 5, squeeze=False)
        for k, (row, example) in enumerate(zip(axes, data.examples, strict=True)):
            differences = [image - data.reference for image in (example.moving, example.warped)]
            most = float(np.nanquantile(np.abs(differences[0]), 0.995)) or 1.0
            head = k == 0
            why = "largest motion" if head else "low similarity"
            show_image(row[0], data.reference, data.spacing_mm, "reference" if head else "", **_grey(data))
            show_image(row[1], example.moving, data.spacing_mm, f"frame {example.frame} ({why})", **_grey(data))
            show_image(row[2], example.warped, data.spacing_mm, "registered" if head else "", **_grey(data))
            for cell, image, title in zip(row[3:], differences, ("difference before", "difference after"), strict=True):
                drawn = show_image(cell, image, data.spacing_mm, title if head else "", cmap="RdBu_r", vmin=-most, vmax=most)
            bar = figure.colorbar(drawn, ax=row[4], fraction=0.05, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7)
        return figure_uri(figure)


def volume_figure(data: ReportData) -> str:
    """A frame of a volume series in three planes, before and after, and its longest displacement along each line of sight."""
    from matplotlib import rc_context

    titles = ("reference", f"frame {data.examples[0].frame}", "registered", "difference before", "difference after")
    with rc_context(STYLE):
        figure = new_figure(sum(_view_height(view) for view in data.views))
        axes = figure.subplots(3, 6, squeeze=False, height_ratios=[_view_height(view) for view in data.views])
        longest = max(float(view.projected_mm.max()) for view in data.views) or 1.0
        per_mm = data.unit.per_mm
        for number, (row, view) in enumerate(zip(axes, data.views, strict=True)):
            spacing = view.plane.spacing_mm
            differences = [image - view.reference for image in (view.moving, view.warped)]
            most = float(np.nanquantile(np.abs(differences[0]), 0.995)) or 1.0
            for cell, image in zip(row[:3], (view.reference, view.moving, view.warped), strict=True):
                show_image(cell, image, spacing, **_grey(data))
            for cell, image in zip(row[3:5], differences, strict=True):
                show_image(cell, image, spacing, cmap="RdBu_r", vmin=-most, vmax=most)
            drawn = show_image(
                row[5], view.projected_mm * per_mm, view.projected_spacing_mm, cmap="viridis", vmin=0, vmax=longest * per_mm
            )
            row[0].set_ylabel(view.plane.name)
            if number == 0:
                for cell, title in zip(row, (*titles, "longest displacement"), strict=True):
                    cell.set_title(title, loc="left")
        bar = figure.colorbar(drawn, ax=axes[:, 5], fraction=0.05, pad=0.02, shrink=0.6)
        bar.set_label(f"displacement ({data.unit.value})")
        bar.outline.set_visible(False)
        return figure_uri(figure)


def _view_height(view: View) -> float:
    (rows, columns), (dy, dx) = view.reference.shape, view.plane.spacing_mm
    return WIDTH_IN * 0.9 / 6 * min(max(rows * dy / (columns * dx), 0.3), 2.2) + 0.2


def time_figure(data: ReportData, times_s: Sequence[float] | None) -> str:
    """Temporal mean and deviation, and one line of pixels through time, before and after."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = new_figure(_height(data, 4, 1) + 2.3)
        # A subfigure leaves no room above its first titles of its own accord.
        figure.set_layout_engine("constrained", h_pad=0.1)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(_height(data, 4, 1), 2.3))[:, 0]
        cells = upper.subplots(1, 4)
        for cell, image, title in zip(cells[:2], (data.mean_before, data.mean_after), ("before", "after"), strict=True):
            show_image(cell, image, data.spacing_mm, f"mean over time, {title}", **_grey(data))
            _draw_line(cell, data)
        most = float(np.nanquantile(data.deviation_before, 0.999)) or 1.0
        deviations = (data.deviation_before, data.deviation_after)
        for cell, image, title in zip(cells[2:], deviations, ("before", "after"), strict=True):
            drawn = show_image(cell, image, data.spacing_mm, f"standard deviation, {title}", cmap="viridis", vmin=0, vmax=most)
        upper.colorbar(drawn, ax=cells[3], fraction=0.05, pad=0.02).outline.set_visible(False)
        count = data.line_before.shape[1]
        first, last = (0.0, count - 1.0) if times_s is None else (times_s[0], times_s[-1])
        step = (last - first) / max(count - 1, 1) or 1.0
        length = data.line_before.shape[0] * data.spacing_mm[data.line_axis] * data.unit.per_mm
        extent = (first - step / 2, last + step / 2, length, 0)
        titles = ("the marked line through time, before", "after")
        for cell, line, title in zip(lower.subplots(1, 2, sharey=True), (data.line_before, data.line_after), titles, strict=True):
            cell.imshow(line, aspect="auto", extent=extent, interpolation="nearest", **_grey(data))
            cell.set_title(title, loc="left")
            cell.set_xlabel("frame" if times_s is None else "time (s)")
            if line is data.line_before:
                cell.set_ylabel(f"{'zyx'[3 - data.plane.grid.ndim + data.plane.axes[data.line_axis]]} ({data.unit.value})")
        return figure_uri(figure)


def _draw_line(axes: Axes, data: ReportData) -> None:
    place = data.line_index * data.spacing_mm[1 - data.line_axis]
    draw = axes.axvline if data.line_axis == 0 else axes.axhline
    draw(place, color="#ffd166", linewidth=0.9, linestyle=(0, (4, 3)))


def frames_figure(metrics: Sequence[FrameMetrics], times_s: Sequence[float] | None, unit: LengthUnit = LengthUnit.MM) -> str:
    """Similarity before and after, and the largest displacement, of every frame."""
    from matplotlib import rc_context

    where = np.array([row.frame for row in metrics] if times_s is None else times_s, dtype=float)
    with rc_context(STYLE):
        figure = new_figure(3.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for name, colour, label in (("similarity_before", BEFORE_COLOUR, "before"), ("similarity_after", AFTER_COLOUR, "after")):
            values = np.array([getattr(row, name) for row in metrics], dtype=float)
            upper.plot(where, values, color=colour, linewidth=1.3, marker="o", markersize=2.4, label=label)
        flagged = [k for k, row in enumerate(metrics) if not row.status.sound and row.status is not FrameStatus.REFERENCE]
        if flagged:
            values = np.array([metrics[k].similarity_after for k in flagged], dtype=float)
            values = np.where(np.isfinite(values), values, upper.get_ylim()[0])
            upper.plot(where[flagged], values, "x", color=FLAG_COLOUR, markersize=6, markeredgewidth=1.6, label="flagged")
        reference = [k for k, row in enumerate(metrics) if row.status is FrameStatus.REFERENCE]
        for cell in (upper, lower):
            for k in reference:
                cell.axvline(where[k], color="#8a929c", linewidth=0.8, linestyle=(0, (2, 3)))
            cell.grid(axis="y", color="#e4e7eb", linewidth=0.7)
            cell.set_axisbelow(True)
        upper.set_ylabel("correlation\nwith the reference")
        upper.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, borderpad=0)
        motion = np.array([row.max_displacement_mm for row in metrics], dtype=float) * unit.per_mm
        lower.fill_between(where, motion, color=AFTER_COLOUR, alpha=0.18, linewidth=0)
        lower.plot(where, motion, color=AFTER_COLOUR, linewidth=1.2)
        lower.set_ylim(bottom=0)
        lower.margins(x=0.01)
        lower.set_ylabel(f"largest\ndisplacement ({unit.value})")
        lower.set_xlabel("frame" if times_s is None else "time (s)")
        return figure_uri(figure)


def uncertainty_figure(data: ReportData, example: Example, metrics: Sequence[FrameMetrics], times_s: Sequence[float] | None) -> str:
    """The radius of 90 % probability over one frame, and of every frame."""
    from matplotlib import rc_context

    assert example.radius_mm is not None
    radius, per_mm = example.radius_mm * data.unit.per_mm, data.unit.per_mm
    where = np.array([row.frame for row in metrics] if times_s is None else times_s, dtype=float)
    with rc_context(STYLE):
        figure = new_figure(max(_height(data, 4, 1), 2.4))
        reference, chart, curve = figure.subplots(1, 3, width_ratios=(1, 1.18, 1.9))
        show_image(reference, data.reference, data.spacing_mm, "a  reference", **_grey(data))
        most = float(np.quantile(radius, _RADIUS_SHOWN)) or 1.0
        drawn = show_image(chart, radius, data.spacing_mm, f"b  frame {example.frame}", cmap="inferno", vmin=0, vmax=most)
        bar = figure.colorbar(drawn, ax=chart, fraction=0.05, pad=0.03, extend="max")
        bar.set_label(f"radius ({data.unit.value})")
        bar.outline.set_visible(False)
        # At the reference it is 0 by definition, which is no news: a gap.
        moved = np.array([row.status is not FrameStatus.REFERENCE for row in metrics])
        half, most_of_it = (
            np.where(moved, [getattr(row, name) for row in metrics], np.nan) * per_mm
            for name in ("uncertainty_mm", "uncertainty_95_mm")
        )
        curve.fill_between(where, half, most_of_it, color=AFTER_COLOUR, alpha=0.18, linewidth=0, label="to that of 95 %")
        curve.plot(
            where, half, color=AFTER_COLOUR, linewidth=1.3, marker="o", markersize=2.4, label="radius of half of what is seen"
        )
        flagged = [k for k, row in enumerate(metrics) if row.status is FrameStatus.DOUBTFUL and np.isfinite(half[k])]
        if flagged:
            curve.plot(where[flagged], half[flagged], "x", color=FLAG_COLOUR, markersize=6, markeredgewidth=1.6, label="doubtful")
        curve.set_title("c  every frame", loc="left")
        for place in where[~moved]:
            curve.axvline(place, color="#8a929c", linewidth=0.8, linestyle=(0, (2, 3)))
        # Room for the legend.
        curve.set_ylim(0, 1.3 * max(float(np.nanmax(most_of_it)), 1e-9))
        curve.margins(x=0.02)
        curve.grid(axis="y", color="#e4e7eb", linewidth=0.7)
        curve.set_axisbelow(True)
        curve.set_ylabel(f"radius ({data.unit.value})")
        curve.set_xlabel("frame" if times_s is None else "time (s)")
        curve.legend(frameon=False, fontsize=8, loc="upper right", borderpad=0)
        return figure_uri(figure)


def trust_figure(data: ReportData) -> str:
    """The reference, how much its pixels counted in the last steps, and what their brightness still does once all is aligned."""
    from matplotlib import rc_context

    assert data.trust is not None
    with rc_context(STYLE):
        figure = new_figure(_height(data, 3, 1))
        reference, chart, left = figure.subplots(1, 3)
        show_image(reference, data.reference, data.spacing_mm, "a  reference", **_grey(data))
        drawn = show_image(chart, data.trust, data.spacing_mm, "b  how much a pixel counts", cmap="viridis", vmin=0, vmax=1)
        most = float(np.quantile(data.deviation_after, _DEVIATION_SHOWN)) or 1.0
        seen = show_image(left, data.deviation_after, data.spacing_mm, "c  deviation over time", cmap="inferno", vmin=0, vmax=most)
        for axes, shown, extend in ((chart, drawn, "neither"), (left, seen, "max")):
            bar = figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.03, extend=extend)
            bar.outline.set_visible(False)
        return figure_uri(figure)


def error_figure(table: TRETable, unit: LengthUnit = LengthUnit.MM) -> str:
    """Target registration error of every landmark and the mean, frame by frame."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = new_figure(2.6)
        axes = figure.subplots()
        frames = [frame for frame in table.frames if table.included(frame)]
        for shift, name, colour, label in (
            (-0.15, "before_mm", BEFORE_COLOUR, "before"),
            (0.15, "after_mm", AFTER_COLOUR, "after"),
        ):
            for frame in frames:
                values = [getattr(row, name) * unit.per_mm for row in table.included(frame)]
                axes.plot([frame + shift] * len(values), values, ".", color=colour, alpha=0.35, markersize=4)
            means = [np.mean([getattr(row, name) * unit.per_mm for row in table.included(frame)]) for frame in frames]
            axes.plot(frames, means, color=colour, linewidth=1.4, label=f"mean {label}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("frame")
        axes.set_ylabel(f"landmark error ({unit.value})")
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
        axes.legend(frameon=False, ncols=2, fontsize=8)
        return figure_uri(figure)


def sequence_figure(data: ReportData, example: Example, transform: Transform) -> str:
    """The paper's Figure 7: a pair, its result, and the displacement after some steps with the Gaussians so far."""
    from matplotlib import rc_context

    sequence = transform if isinstance(transform, GaussianSequence) else None
    steps = _steps_shown(0 if sequence is None else len(sequence))
    rows = 1 if not steps else 2
    fields = [data.plane.displacement_mm(transform, upto=step) for step in steps]
    final = np.hypot(*example.displacement_mm)
    most = max([float(final.max()), *(float(np.hypot(*field).max()) for field in fields)]) or 1.0
    with rc_context(STYLE):
        figure = new_figure(_height(data, 4, rows))
        axes = figure.subplots(rows, 4, squeeze=False)
        tops = ((data.reference, "fixed"), (example.moving, f"moving, frame {example.frame}"), (example.warped, "warped"))
        letters = iter("abcdefgh")
        for cell, (image, title) in zip(axes[0], tops, strict=False):
            show_image(cell, image, data.spacing_mm, f"{next(letters)}  {title}", **_grey(data))
        per_mm = data.unit.per_mm
        scale = {"cmap": "viridis", "vmin": 0, "vmax": most * per_mm}
        drawn = show_image(axes[0, 3], final * per_mm, data.spacing_mm, f"{next(letters)}  final displacement", **scale)
        _draw_vectors(axes[0, 3], example.displacement_mm, data.spacing_mm)
        for cell, field, step in zip(axes[-1] if steps else (), fields, steps, strict=False):
            show_image(cell, np.hypot(*field) * per_mm, data.spacing_mm, f"{next(letters)}  t = {step}", **scale)
            if sequence is not None:
                _draw_ellipses(cell, data.plane, sequence, step)
        for cell in axes[-1, len(steps) :] if steps else ():
            cell.set_visible(False)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.02, pad=0.01, shrink=0.9)
        bar.set_label(f"displacement ({data.unit.value})")
        bar.outline.set_visible(False)
        return figure_uri(figure)


def _steps_shown(count: int) -> list[int]:
    """2, 4, 8 and the last step; for short sequences what there is."""
    return sorted({step for step in (*_STEPS_SHOWN[:3], count) if 0 < step <= count})


def _draw_vectors(axes: Axes, displacement: Image, spacing: tuple[float, float]) -> None:
    rows, columns = displacement.shape[1:]
    step = max(rows, columns) // 14 or 1
    y, x = np.mgrid[step // 2 : rows : step, step // 2 : columns : step]
    dy, dx = displacement[:, y, x]
    longest = float(np.hypot(dy, dx).max())
    if longest == 0:
        return
    # The longest arrow spans one cell of the lattice of arrows: directions stay readable whatever the size of the motion.
    factor = longest / (step * max(spacing)) if longest > step * max(spacing) else 1.0
    options = {"angles": "xy", "scale_units": "xy", "scale": factor, "color": "white", "width": 0.006, "headwidth": 4}
    axes.quiver(x * spacing[1], y * spacing[0], dx, dy, **options)


def _draw_ellipses(axes: Axes, plane: Plane, sequence: GaussianSequence, upto: int) -> None:
    """One standard deviation of the Gaussians as seen through the volume, the fainter the farther from the plane."""
    from matplotlib.patches import Ellipse

    places, covariances, heights = plane.outlines_mm(sequence)
    limits = axes.get_xlim(), axes.get_ylim()
    for k in range(upto):
        newest = k == upto - 1
        variances, directions = np.linalg.eigh(covariances[k])
        down, right = directions[:, 1]
        axes.add_patch(
            Ellipse(
                (places[k, 1], places[k, 0]),
                *(2 * np.sqrt(variances[::-1])),
                angle=math.degrees(math.atan2(down, right)),
                fill=False,
                edgecolor="white",
                linewidth=2.2 if newest else 0.9,
                alpha=1.0 if newest else 0.65 * float(heights[k]),
            )
        )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def movie(data: ReportData) -> str:
    """Frames before (left) and after (right) as a looping WebP; empty where Pillow cannot write it."""
    from PIL import Image as Picture
    from PIL import features

    if len(data.movie) < 3 or not features.check("webp"):
        return ""
    low, high = data.limits
    pictures = []
    for _, moving, warped in data.movie:
        gap = np.full((moving.shape[0], 6), low, np.float32)
        both = np.nan_to_num(np.concatenate((moving, gap, warped), axis=1), nan=low)
        grey = np.clip((both - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        height = round(grey.shape[0] * data.spacing_mm[0] / data.spacing_mm[1])
        enlarge = max(1, math.floor(300 / max(moving.shape[1], 1)))
        pictures.append(Picture.fromarray(grey).resize((grey.shape[1] * enlarge, max(height, 1) * enlarge)))
    stream = io.BytesIO()
    pictures[0].save(stream, "WEBP", save_all=True, append_images=pictures[1:], duration=120, loop=0, quality=55)
    return data_uri(stream.getvalue(), "image/webp")
