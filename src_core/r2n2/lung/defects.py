"""Defects: where a map lies below a stated share of a stated reference value, and what share of the lung that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DefectFigures", "defect_figures", "defects", "reference_value"]


def reference_value(values: NDArray[np.float64], mask: NDArray[np.bool_], of: str) -> float:
    """Median ("median") or percentile ("p75") of a map inside the mask, places without a value left out."""
    inside = values[mask & np.isfinite(values)]
    if not inside.size:
        return float("nan")
    return float(np.percentile(inside, 50.0 if of == "median" else float(of[1:])))


def defects(values: NDArray[np.float64], mask: NDArray[np.bool_], share: float, of: str) -> NDArray[np.bool_]:
    """Where a map is below ``share`` of its reference value, inside the mask; places without a value are defects too."""
    threshold = share * reference_value(values, mask, of)
    return mask & ~(values >= threshold)


@dataclass(frozen=True)
class DefectFigures:
    """Shares of one lung, or of both, in percent.

    Parameters
    ----------
    vdp, qdp
        Ventilation defects and perfusion defects.
    vqm
        Matched: neither is a defect.
    both
        Both are.
    """

    vdp: float
    qdp: float
    vqm: float
    both: float


def defect_figures(ventilation: NDArray[np.bool_], perfusion: NDArray[np.bool_], region: NDArray[np.bool_]) -> DefectFigures:
    """Of two maps of defects inside a region, NaN where that is empty."""
    count = int(region.sum())
    if not count:
        return DefectFigures(*(float("nan"),) * 4)
    v, q = ventilation[region], perfusion[region]
    shares = (v, q, ~v & ~q, v & q)
    return DefectFigures(*(100 * float(share.mean()) for share in shares))
