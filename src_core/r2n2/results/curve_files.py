"""The table of label curves: one row a label and frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from r2n2.curves import LabelCurve
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number

__all__ = ["curve_columns", "curve_table"]

_AXES = {2: "yx", 3: "zyx"}


def curve_columns(ndim: int) -> tuple[str, ...]:
    """Names of the columns; units in the names, shares and strains have none."""
    axes = _AXES[ndim]
    size, share = ("area_mm2", "area_strain") if ndim == 2 else ("volume_mm3", "volume_strain")
    strains = [f"strain_{axes[i]}{axes[j]}" for i in range(ndim) for j in range(i, ndim)]
    principal = [f"principal_strain_{k + 1}" for k in range(ndim)]
    return (
        "label",
        "frame",
        "time_s",
        "intensity_before",
        "intensity_after",
        size,
        share,
        *strains,
        *principal,
        "status",
    )


def curve_table(curves: Sequence[LabelCurve], times_s: Sequence[float] | None, status: Mapping[int, str]) -> str:
    """Text of curves.csv.

    Parameters
    ----------
    times_s
        Of all frames of the series; None where they are not known.
    status
        Frame -> what became of it, so that a curve is not read where the alignment is in doubt.
    """
    ndim = curves[0].strain.shape[-1]
    upper = np.triu_indices(ndim)
    rows = []
    for curve in curves:
        for k, frame in enumerate(curve.frames.tolist()):
            values = [
                np.nan if times_s is None else times_s[frame],
                curve.before[k],
                curve.after[k],
                curve.size[k],
                curve.size_strain[k],
                *curve.strain[k][upper],
                *curve.principal[k],
            ]
            rows.append([curve.label, frame, *(exact_number(float(value)) for value in values), status.get(frame, "")])
    return table_text(curve_columns(ndim), rows)
