"""The pixel size of a DICOM frame in mm: from the patient, the detector, or the regions of an ultrasound image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from r2n2.io.dicom.values import FunctionalGroups, integer, is_filled, number, numbers

__all__ = ["Spacing", "read_spacing"]

_CENTIMETRE = 3
_UNIT_NAMES = {1: "per cent", 2: "dB", 4: "s", 5: "hertz", 6: "dB/s", 7: "cm/s", 8: "cm2", 9: "cm2/s", 12: "degrees"}
_MOSTLY = 0.5
"""Share of the frame that a region must cover to speak for all of it."""
_SAME = 1e-3


@dataclass(frozen=True)
class Spacing:
    """Pixel size, or why there is none.

    Parameters
    ----------
    mm
        (y, x), None where unknown.
    problem
        What makes the header's numbers unusable or ambiguous, "" if nothing.
    remarks
        Where the numbers come from, unless from PixelSpacing.
    """

    mm: tuple[float, float] | None = None
    problem: str = ""
    remarks: tuple[str, ...] = ()


def read_spacing(groups: FunctionalGroups, shape: tuple[int, int]) -> Spacing:
    """Spacing of a frame of ``shape`` (rows, columns)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        holder = groups.holder(keyword)
        if not is_filled(holder, keyword):
            continue
        values = numbers(holder, keyword, 2)
        if values is None or any(v <= 0 for v in values):
            return Spacing(problem=f"{keyword} is not two positive numbers")
        pixel = (values[0], values[1])
        return _detector(groups.dataset, pixel) if keyword == "ImagerPixelSpacing" else Spacing(pixel)
    return _ultrasound(groups.dataset.get("SequenceOfUltrasoundRegions") or [], shape)


def _detector(dataset: Any, pixel: tuple[float, float]) -> Spacing:
    """ImagerPixelSpacing is measured at the detector; what lies in the patient is smaller by the magnification."""
    keyword = "EstimatedRadiographicMagnificationFactor"
    factor = _positive(dataset, keyword)
    if factor is None:
        detector, patient = (_positive(dataset, f"DistanceSourceTo{place}") for place in ("Detector", "Patient"))
        keyword = "DistanceSourceToDetector / DistanceSourceToPatient"
        factor = detector / patient if detector and patient else None
    if factor is None:
        return Spacing(pixel, remarks=("the spacing is ImagerPixelSpacing, measured at the detector and not in the patient",))
    remark = f"the spacing is ImagerPixelSpacing {pixel[0]:g} x {pixel[1]:g} mm at the detector, divided by {keyword} {factor:g}"
    return Spacing((round(pixel[0] / factor, 9), round(pixel[1] / factor, 9)), remarks=(remark,))


def _positive(dataset: Any, keyword: str) -> float | None:
    value = number(dataset, keyword)
    return value if value is not None and math.isfinite(value) and value > 0 else None


@dataclass(frozen=True)
class _Region:
    """A rectangle of an ultrasound image: its share of the frame, its units and its pixel size (y, x)."""

    share: float
    units: tuple[int, int]
    delta: tuple[float, float]

    @property
    def spatial(self) -> bool:
        return self.units == (_CENTIMETRE, _CENTIMETRE) and min(self.delta) > 0


def _ultrasound(regions: Any, shape: tuple[int, int]) -> Spacing:
    """The pixel size of the region that covers the image; a question where regions disagree and none covers it."""
    found = [_region(item, shape) for item in regions]
    if not found:
        return Spacing()
    spatial = sorted((region for region in found if region.spatial), key=lambda region: -region.share)
    if not spatial:
        return Spacing(remarks=(f"the ultrasound regions are measured in {_units(found[0])}, not in cm: they give no pixel size",))
    largest = spatial[0]
    other = max((region for region in found if not region.spatial), key=lambda region: region.share, default=None)
    if other is not None and other.share > largest.share:
        return Spacing(problem=f"most of the ultrasound image is a region measured in {_units(other)}, the rest in cm")
    if len({_rounded(region.delta) for region in spatial}) > 1 and (
        largest.share < _MOSTLY or largest.share < 2 * _next_other(spatial)
    ):
        sizes = ", ".join(f"{10 * r.delta[0]:g} x {10 * r.delta[1]:g} mm on {100 * r.share:.0f} % of it" for r in spatial)
        return Spacing(problem=f"the ultrasound regions have different pixel sizes and none covers the image ({sizes})")
    mm = (round(10 * largest.delta[0], 9), round(10 * largest.delta[1], 9))
    remark = f"the spacing is that of the ultrasound region in cm that covers {100 * largest.share:.0f} % of the frame"
    others = len(found) - 1
    return Spacing(mm, remarks=(remark + (f"; it holds {others} more regions" if others else ""),))


def _units(region: _Region) -> str:
    return " and ".join(dict.fromkeys(_UNIT_NAMES.get(unit, "no length") for unit in region.units))


def _region(item: Any, shape: tuple[int, int]) -> _Region:
    corners = [integer(item, f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    share = 1.0
    if all(corner is not None for corner in corners):
        x0, y0, x1, y1 = (int(corner or 0) for corner in corners)
        width, height = min(x1, shape[1] - 1) - max(x0, 0) + 1, min(y1, shape[0] - 1) - max(y0, 0) + 1
        share = max(0, width) * max(0, height) / (shape[0] * shape[1])
    units = (integer(item, "PhysicalUnitsXDirection") or 0, integer(item, "PhysicalUnitsYDirection") or 0)
    delta = tuple(number(item, f"PhysicalDelta{axis}") or 0.0 for axis in "YX")
    y, x = (abs(d) if math.isfinite(d) else 0.0 for d in delta)
    return _Region(share, units, (y, x))


def _rounded(delta: tuple[float, float]) -> tuple[int, int]:
    return round(math.log(delta[0]) / _SAME), round(math.log(delta[1]) / _SAME)


def _next_other(spatial: list[_Region]) -> float:
    """Share of the largest region whose pixel size differs from that of the first."""
    first = _rounded(spatial[0].delta)
    return max((region.share for region in spatial if _rounded(region.delta) != first), default=0.0)
