"""The folder of a lung analysis: maps in the format of the series, a table of figures, what they mean, and a page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io import write_series
from r2n2.io.atomic import atomic_write, resource_errors
from r2n2.io.dicom.write import write_dicom_series
from r2n2.io.spreadsheet import table_text
from r2n2.lung.analysis import LungFunction
from r2n2.quantities import exact_number
from r2n2.results.manifest import versions
from r2n2.series import ImageSeries

__all__ = ["MEANINGS", "lung_table", "maps_of", "write_lung"]

MEANINGS = {
    "fractional_ventilation": ("", "(S_exp - S_insp) / S_exp, S = offset +- amplitude of breathing, noise bias taken away"),
    "perfusion": ("", "amplitude of the heart beat as a share of that of large vessels (a percentile inside the mask), at most 1"),
    "ventilation_perfusion_ratio": ("", "fractional ventilation and perfusion, each divided by its median in the mask"),
    "breathing_delay": ("s", "how much later than the mean of the lung a place breathes"),
    "heart_delay": ("s", "how much later than the mean of the lung the heart beat arrives"),
    "jacobian_ventilation": ("", "area at inspiration / area at expiration - 1, by the Jacobian determinant of the displacements"),
    "defects": ("", "0 none, 1 ventilation, 2 perfusion, 3 both"),
    "mask": ("", "1 where lung is"),
    "mean": ("signal", "the signal without breathing and heart beat"),
}
"""Name of a map -> unit and formula."""

_LARGEST_STORED = 32767.0

_COLUMNS = (
    "slice",
    "region",
    "area_mm2",
    "ventilation",
    "perfusion",
    "jacobian_ventilation",
    "vdp_percent",
    "qdp_percent",
    "vqm_percent",
    "both_defects_percent",
    "breathing_hz",
    "breathing_spread_hz",
    "breaths",
    "heart_hz",
    "heart_spread_hz",
    "frames",
    "frames_left_out",
)


def maps_of(function: LungFunction) -> dict[str, NDArray[Any]]:
    """Name -> (H, W) of every map that is known, float32 or uint8; outside the mask NaN, but for the mean."""
    outside = ~function.mask
    found: dict[str, NDArray[Any]] = {"mean": function.mean.astype(np.float32)}
    for name, values in (
        ("fractional_ventilation", function.ventilation),
        ("perfusion", function.perfusion),
        ("ventilation_perfusion_ratio", function.ratio),
        ("breathing_delay", function.breathing_delay_s),
        ("heart_delay", function.heart_delay_s),
        ("jacobian_ventilation", function.jacobian),
    ):
        if values is not None:
            found[name] = np.where(outside, np.nan, values).astype(np.float32)
    marked = function.ventilation_defects.astype(np.uint8)
    if function.perfusion_defects is not None:
        marked = marked + 2 * function.perfusion_defects.astype(np.uint8)
    return {**found, "defects": marked, "mask": function.mask.astype(np.uint8)}


def write_lung(
    folder: Path, series: ImageSeries, function: LungFunction, page: str, *, name: str = "", facts: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write maps, ``lung.csv``, ``lung.json`` and ``report.html``; the paths, the page last.

    Parameters
    ----------
    series
        The aligned series, whose geometry and format the maps take.
    facts
        What else is to be recorded: inputs, where the mask came from.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    written = []
    for title, values in maps_of(function).items():
        still = replace(series, frames=values[None, None], times_s=None, name=title, notes=())
        if series.source.get("format") == "dicom":
            # DICOM holds whole numbers and no NaN: the maps stand beside it in a format that does.
            written.append(_write_dicom(folder / "dicom" / title, still, title))
            still = replace(still, source={"format": "nifti", "path": f"{title}.nii.gz"})
        written.append(write_series(folder, title, still, iter([values[None]])))
    record = {
        "settings": function.config.model_dump(mode="json"),
        "maps": {title: {"unit": MEANINGS[title][0], "formula": MEANINGS[title][1]} for title in maps_of(function)},
        "noise": {"sigma": function.noise.sigma, "from": function.noise.source},
        "frames_left_out": list(function.left_out),
        "notes": list(function.notes),
        "versions": versions(),
        **(facts or {}),
    }
    texts = {
        "lung.csv": lung_table({name: function}),
        "lung.json": json.dumps(record, indent=1) + "\n",
        "report.html": page,
    }
    for file, text in texts.items():
        with atomic_write(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
        written.append(folder / file)
    return written


def _write_dicom(folder: Path, series: ImageSeries, title: str) -> Path:
    """A map as one derived DICOM file: 16-bit whole numbers with a slope; 0 where the map is not known."""
    values = np.nan_to_num(series.frame(0).astype(np.float64), posinf=0, neginf=0)
    whole = np.asarray(series.frame(0)).dtype.kind in "iub"
    largest = float(np.abs(values).max())
    unit, formula = MEANINGS[title]
    source = {
        **series.source,
        "stored_dtype": "int16",
        "bits_stored": 16,
        "rescale": [(1.0 if whole or largest == 0 else largest / _LARGEST_STORED, 0.0)],
        "derived_name": f"R2N2 {title.replace('_', ' ')}",
        "derived_how": f"{formula} [{unit or 'no unit'}]; by napari-r2n2",
        "derived_unit": unit or "US",
    }
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return write_dicom_series(folder, replace(series, source=source), [(0, values)])[0]


def lung_table(functions: Mapping[str, LungFunction]) -> str:
    """Text of lung.csv: a row a region of every slice; for several slices the whole lung last, weighted by area."""
    rows = []
    for name, function in functions.items():
        rhythms = _rhythms(function)
        rows += [[name, region.name, *map(exact_number, _figures(region)), *rhythms] for region in function.regions]
    if len(functions) > 1:
        for region in ("right", "left", "both"):
            parts = [(f, r) for f in functions.values() for r in f.regions if r.name == region]
            if parts:
                rows.append(["all", region, *map(exact_number, _weighted([_figures(r) for _, r in parts])), *[""] * 7])
    return table_text(_COLUMNS, rows, text=("slice", "region"))


def _figures(region: Any) -> list[float]:
    shares = region.defects
    return [region.area_mm2, region.ventilation, region.perfusion, region.jacobian, shares.vdp, shares.qdp, shares.vqm, shares.both]


def _weighted(rows: Sequence[Sequence[float]]) -> list[float]:
    """Sum of the areas, and means weighted by them; equal slice thickness makes areas volumes."""
    values = np.array(rows, np.float64)
    area = values[:, 0]
    means = []
    for column in values[:, 1:].T:
        known = np.isfinite(column)
        means.append(float((column[known] * area[known]).sum() / area[known].sum()) if area[known].sum() > 0 else float("nan"))
    return [float(area.sum()), *means]


def _rhythms(function: LungFunction) -> list[str]:
    heart = function.heart
    numbers = [
        function.breathing.frequency_hz,
        function.breathing.spread_hz,
        function.breathing.cycles,
        float("nan") if heart is None else heart.frequency_hz,
        float("nan") if heart is None else heart.spread_hz,
    ]
    return [*(exact_number(number) for number in numbers), str(len(function.signal)), str(len(function.left_out))]
