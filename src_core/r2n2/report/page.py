"""The report of a registered series: one self-contained HTML page without script or external link."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np

from r2n2.evaluation import TRETable
from r2n2.quantities import length_number, length_text, length_unit, spacing_text
from r2n2.registration.results import FrameStatus
from r2n2.report.data import ReportData, gather
from r2n2.report.figures import (
    difference_figure,
    error_figure,
    frames_figure,
    movie,
    sequence_figure,
    time_figure,
    trust_figure,
    uncertainty_figure,
    volume_figure,
)
from r2n2.report.template import number_text, render_template
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries
from r2n2.transform import BSplineField, GaussianSequence, Transform

__all__ = ["Verdict", "describe_trust", "describe_uncertainty", "render_report", "verdict"]

_LISTED = 10
_ARROWS = "Arrows point from the reference into the frame."
_GOOD = (FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.REFERENCE)
_STATUS_WORDS = {
    FrameStatus.WORSE: "no more similar and left as acquired",
    FrameStatus.FOLDED: "with folds",
    FrameStatus.DOUBTFUL: "doubtful",
    FrameStatus.CONSTANT: "without contrast",
    FrameStatus.FAILED: "failed",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the result can be used as it is.

    Parameters
    ----------
    good, flagged, total
        Frames: usable (the reference counts), to be looked at, and all.
    sentence
        The same in words.
    """

    good: int
    flagged: int
    total: int
    sentence: str


def verdict(metrics: tuple[FrameMetrics, ...]) -> Verdict:
    """Count what was flagged."""
    total = len(metrics)
    counts = {status: sum(row.status is status for row in metrics) for status in _STATUS_WORDS}
    flagged = sum(counts.values())
    if flagged == 0:
        return Verdict(total, 0, total, f"All {total} frames are aligned to the reference; none is flagged.")
    reasons = ", ".join(f"{count} {_STATUS_WORDS[status]}" for status, count in counts.items() if count)
    needs = "needs" if flagged == 1 else "need"
    return Verdict(total - flagged, flagged, total, f"{flagged} of {total} frames {needs} a look ({reasons}).")


def render_report(series: ImageSeries, registered: RegisteredSeries, errors: TRETable | None = None) -> str:
    """The HTML text of a report; reads and warps every frame once.

    Parameters
    ----------
    series
        The series as it was registered.
    registered
        Its result.
    errors
        Landmark errors, where landmarks are known.
    """
    filters = {"number": number_text, "distance": partial(length_number, unit=registered.length_unit)}
    return render_template("report.html.j2", _context(series, registered, errors), filters)


def _context(series: ImageSeries, registered: RegisteredSeries, errors: TRETable | None) -> dict[str, Any]:
    data = gather(series, registered)
    manifest, metrics = registered.manifest, registered.metrics
    flagged = [row for row in metrics if row.status not in _GOOD]
    return {
        "title": PurePath(manifest.input.path).name or "series",
        "verdict": verdict(metrics),
        "tiles": _tiles(registered, data, errors),
        "movie": movie(data),
        "difference": difference_figure(data) if data.examples else "",
        "volume": volume_figure(data) if data.views else "",
        "shown": _shown(data),
        "sequence": _sequence(registered, data),
        "sequence_frame": data.examples[0].frame if data.examples else None,
        "sequence_text": _describe(registered, data),
        "time": time_figure(data, series.times_s),
        "frames": frames_figure(metrics, series.times_s, registered.length_unit),
        "uncertainty": _uncertainty(series, registered, data),
        "uncertainty_text": describe_uncertainty(registered),
        "trust": trust_figure(data) if data.trust is not None else "",
        "trust_text": describe_trust(registered),
        "errors": errors,
        "error_figure": "" if errors is None else error_figure(errors, registered.length_unit),
        "unit": registered.length_unit.value,
        "metrics": metrics,
        "flagged": flagged,
        "manifest": manifest,
        "settings": _settings(registered),
        "masked": _masked_text(registered),
    }


def _shown(data: ReportData) -> str:
    """Which plane of a volume all pictures show; "" for 2D frames."""
    if data.plane.normal is None:
        return ""
    axis = "zyx"[data.plane.normal]
    return f"Pictures show the {data.plane.name.removesuffix(' plane')} plane of the largest motion, {axis} = {data.plane.index}."


def _sequence(registered: RegisteredSeries, data: ReportData) -> str:
    if not data.examples:
        return ""
    example = data.examples[0]
    return sequence_figure(data, example, registered.transforms[example.frame])


def _uncertainty(series: ImageSeries, registered: RegisteredSeries, data: ReportData) -> str:
    known = [example for example in data.examples if example.radius_mm is not None]
    return uncertainty_figure(data, known[0], registered.metrics, series.times_s) if known else ""


def describe_uncertainty(registered: RegisteredSeries) -> str:
    """What the radius means, and for which frames that is not known to hold; "" where there is none."""
    record = registered.manifest.uncertainty
    if record is None:
        return ""
    text = f"With {100 * record.probability:.0f} % probability the true position is not farther off than the radius."
    frames = sorted(record.uncalibrated)
    if not frames:
        return text
    moved = [row for row in registered.metrics if row.status is not FrameStatus.REFERENCE]
    which = "all frames" if len(frames) == len(moved) else f"{len(frames)} of {len(moved)} frames"
    reasons = "; ".join(dict.fromkeys(record.uncalibrated[frame] for frame in frames))
    return f"{text} Uncalibrated for {which}, where it is a hint and no probability: {reasons}."


def describe_trust(registered: RegisteredSeries) -> str:
    """Which pixels counted less in the last steps, and why; "" where all counted alike."""
    record = registered.manifest.trust
    if record is None:
        return ""
    return (
        f"In the last steps of every frame pixels counted the less, the more they stayed different from the reference over all "
        f"{record.frames} aligned frames: blood that flows, structures that pass through the slice, noise. "
        f"{record.less_than_half_percent:.0f} % of the frame counted less than half."
    )


def _describe(registered: RegisteredSeries, data: ReportData) -> str:
    if not data.examples:
        return ""
    transform = registered.transforms[data.examples[0].frame]
    if isinstance(transform, GaussianSequence) and len(transform):
        return (
            f"Its displacement is {_whole_text(transform)}the sum of {len(transform)} Gaussians, {_numbers(transform)} numbers in "
            f"all. Ellipses show one standard deviation of those placed so far"
            + ("" if data.plane.normal is None else ", projected onto the plane and fainter the farther they lie from it")
            + f"; the newest is bold. {_ARROWS}"
        )
    if isinstance(transform, BSplineField):
        return f"Its displacement is a cubic B-spline of {_numbers(transform)} numbers. {_ARROWS}"
    return _ARROWS


def _whole_text(sequence: GaussianSequence) -> str:
    """What moves the frame as a whole, before its Gaussians; "" where nothing does."""
    if sequence.linear is None:
        return ""
    turned = bool(sequence.linear[:, :-1].any())
    length = float(sequence.linear[:, -1].norm()) * sequence.grid.unit_mm
    what = "a linear map of the whole frame" if turned else "a shift of the whole frame"
    return f"{what} (by {length_text(length, length_unit(sequence.grid.spacing))} at its centre) and "


def _numbers(transform: Transform) -> int:
    if isinstance(transform, GaussianSequence):
        width, linear = transform.orientation.shape[1] + 3 * transform.grid.ndim, transform.linear
        whole = 0 if linear is None else linear.numel() if bool(linear[:, :-1].any()) else len(linear)
        return len(transform) * width + whole
    if isinstance(transform, BSplineField):
        return transform.control.numel()
    return transform.grid.ndim * math.prod(transform.grid.shape)


def _tiles(registered: RegisteredSeries, data: ReportData, errors: TRETable | None) -> list[tuple[str, str, str]]:
    """(name, value, what it was before) of the numbers shown first."""
    moved = [row for row in registered.metrics if row.status is not FrameStatus.REFERENCE]
    tiles, unit = [], registered.length_unit
    if errors is not None:
        before, after = errors.before(), errors.after()
        was = f"before {length_text(before.mean_mm, unit)}, n = {after.count}"
        tiles.append(("Landmark error (TRE)", length_text(after.mean_mm, unit), was))
    similar = [_mean([getattr(row, name) for row in moved]) for name in ("similarity_after", "similarity_before")]
    tiles.append((_similarity_name(registered), number_text(similar[0], 4), f"before {number_text(similar[1], 4)}"))
    left = float(data.deviation_after.mean()) / (float(data.deviation_before.mean()) or 1.0)
    tiles.append(("Variation over time left", f"{100 * left:.0f} %", "of the mean standard deviation before"))
    most = max((row.max_displacement_mm for row in moved), default=0.0)
    tiles.append(("Largest displacement", length_text(most, unit), f"{most / min(registered.grid.spacing):.1f} pixels"))
    folds = max((row.folding_percent for row in moved), default=0.0)
    smallest = min((row.min_jacobian for row in moved), default=1.0)
    proven = min((row.min_jacobian_proven for row in moved), default=1.0)
    how = f"smallest Jacobian determinant {smallest:.2f}" + (f", between pixels {proven:.2f}" if math.isfinite(proven) else "")
    tiles.append(("Folding", f"{folds:.2g} %", how))
    radii = [row.uncertainty_mm for row in moved if math.isfinite(row.uncertainty_mm)]
    if radii:
        largest = max(row.uncertainty_95_mm for row in moved if math.isfinite(row.uncertainty_95_mm))
        value = length_text(float(np.median(radii)), unit)
        tiles.append(("Uncertainty (90 % radius)", value, f"95 % of every frame below {length_text(largest, unit)}"))
    seconds = _mean([row.seconds for row in moved])
    tiles.append(("Time a frame", f"{seconds:.2f} s", f"on {registered.manifest.device}"))
    return tiles


def _similarity_name(registered: RegisteredSeries) -> str:
    measure = registered.manifest.similarity_measure
    return "Correlation with the reference" if measure == "ssd" else f"Agreement with the reference ({measure})"


def _settings(registered: RegisteredSeries) -> list[tuple[str, str]]:
    manifest, grid = registered.manifest, registered.grid
    known = manifest.input.spacing_known
    spacing = spacing_text(grid.spacing) if known else "unknown: the file holds no pixel size, 1 pixel is called 1 mm"
    rows = [
        (
            "Method",
            _method(registered),
        ),
        (
            "Reference frame",
            f"{manifest.reference} ({_chosen(manifest.settings.reference == 'auto')})",
        ),
        ("Frames", f"{manifest.input.frames} of {' x '.join(map(str, grid.shape))} pixels, {manifest.input.dtype}"),
        ("Spacing", spacing),
        (
            "Time axis",
            str(manifest.input.source.get("time_tag", "as in the file" if manifest.input.times_s else "none in the file")),
        ),
        ("Compared by", f"{manifest.similarity_measure} ({_chosen(manifest.settings.similarity == 'auto')})"),
        ("Similarity", manifest.similarity),
        *_masks(registered),
        *_guides(registered),
        ("Outside the image", manifest.convention["outside"]),
        ("Displacement", manifest.convention["displacement"]),
        ("Device", manifest.device),
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("Input SHA-256", manifest.input.sha256),
        ("Weights SHA-256", manifest.weights_sha256 or "no weights used"),
        ("Wall time", f"{manifest.wall_time_s:.1f} s"),
        ("Peak memory", "unknown" if manifest.peak_memory_mib is None else f"{manifest.peak_memory_mib:.0f} MiB"),
        ("Date", manifest.created),
    ]
    return rows


def _masked_text(registered: RegisteredSeries) -> str:
    """Said where the numbers are, or "" without a mask."""
    if not registered.manifest.masks:
        return ""
    return "Every number is that inside the mask" + ("s" if len(registered.manifest.masks) > 1 else "") + "."


def _masks(registered: RegisteredSeries) -> list[tuple[str, str]]:
    """What counted, and that the figures are of it."""
    records, rows = registered.manifest.masks, []
    for kind, name, figures in (
        (
            "fixed",
            "Mask of the reference",
            "; similarity, folding, displacement, doubt and landmark errors are those inside the mask",
        ),
        ("moving", "Mask of the other frames", ""),
    ):
        record = records.get(kind)  # type: ignore[call-overload]
        if record is not None:
            rows.append((name, f"{PurePath(record.path).name or 'drawn'}: {'; '.join(record.notes)}{figures}"))
            rows.append((f"{name}, SHA-256", record.sha256))
    return rows


def _guides(registered: RegisteredSeries) -> list[tuple[str, str]]:
    """What guided the registration."""
    record = registered.manifest.guides
    if record is None:
        return []
    count, unit = sum(record.pairs.values()), registered.length_unit
    what = f"{count} pair{'s' if count > 1 else ''} in frame{'s' if len(record.pairs) > 1 else ''} {_listed(record.pairs)}"
    return [("Guided by", f"{what}, each right to within {length_text(record.strength_mm, unit)}; none counts as a landmark")]


def _listed(frames: Iterable[int]) -> str:
    names = [str(frame) for frame in sorted(frames)]
    return ", ".join(names[:_LISTED]) + (f" ... ({len(names)} in all)" if len(names) > _LISTED else "")


def _method(registered: RegisteredSeries) -> str:
    settings = registered.manifest.settings
    if settings.method != "r2n2":
        return settings.method
    if registered.manifest.similarity_measure != "ssd":
        return "r2n2, without its network, which compares intensities: fit"
    return "r2n2 + refine" if settings.refine else "r2n2"


def _chosen(automatically: bool) -> str:
    return "chosen automatically" if automatically else "as asked for"


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
