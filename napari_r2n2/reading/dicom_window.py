"""The window of grey values that a DICOM file asks to be shown with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2n2.series import ImageSeries

__all__ = ["window_of"]


def window_of(series: ImageSeries) -> tuple[float, float] | None:
    """Darkest and brightest value shown, in real values as the frames hold them; None where the file names none.

    Of several windows the first counts, which is the one that viewers show at first. Where white is the smallest value, the frames
    were turned round and a window in the file's own values no longer fits.
    """
    source = series.source
    if source.get("format") != "dicom" or source.get("inverted") or not source.get("files"):
        return None
    import pydicom

    try:
        header = pydicom.dcmread(source["files"][0], stop_before_pixels=True, force=True)
        centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    except Exception:  # whatever pydicom raises on a damaged header: the images were read, how they are shown is no reason to fail
        return None
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        return None
    return centre - width / 2, centre + width / 2


def _first(value: Any) -> float:
    """The first of one number or several; NaN where there is none."""
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else math.nan
