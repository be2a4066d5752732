"""Pixel size and frame times of a TIFF, from ImageJ's and OME's metadata and the resolution tags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from r2n2.io.tiff.ome_files import check_ome_text

__all__ = ["Calibration", "read_calibration"]

_MM_PER_UNIT = {
    "nm": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1e3, "inch": 25.4, "inches": 25.4, "in": 25.4,
}  # fmt: skip
_SECONDS_PER_UNIT = {
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "min": 60.0,
    "h": 3600.0,
}
_TAG_UNIT_MM = {2: 25.4, 3: 10.0}
_SCREEN_DPI = (72.0, 96.0)


@dataclass(frozen=True)
class Calibration:
    """Kind of TIFF ("imagej", "ome-tiff", "tiff") and what it says of size and time."""

    kind: str
    spacing: tuple[float, ...] | None
    times_s: tuple[float, ...] | None
    notes: tuple[str, ...]


def read_calibration(path: Path, tiff: Any, series: Any, ome: str | None = None) -> Calibration:
    """Pixel size in mm, (y, x) or (z, y, x), and times; None where the file holds none that can be trusted.

    Parameters
    ----------
    ome
        OME header of the series, where it is not the file's own.

    Raises
    ------
    ReadError
        If the OME metadata is not valid XML or declares entities.
    """
    size = dict(zip(series.axes, series.shape, strict=True))
    text = ome or (tiff.ome_metadata if tiff.is_ome else None)
    if text:
        return _from_ome(path, text, int(size.get("T", 1)), str(series.name or ""))
    if tiff.is_imagej and tiff.imagej_metadata:
        return _from_imagej(tiff, int(size.get("T", 1)))
    spacing, notes = _from_tags(tiff)
    return Calibration("tiff", spacing, None, notes)


def _from_imagej(tiff: Any, frames: int) -> Calibration:
    metadata = tiff.imagej_metadata
    unit = str(metadata.get("unit", "")).lower()
    notes: tuple[str, ...] = ()
    pixel = _resolution(tiff)
    spacing: tuple[float, ...] | None = None
    if unit in _MM_PER_UNIT and pixel is not None:
        factor = _MM_PER_UNIT[unit]
        depth = abs(float(metadata.get("spacing", 0) or 0)) * factor
        spacing = tuple(p * factor for p in pixel)
        spacing = (depth, *spacing) if depth > 0 else spacing
    elif unit in ("", "pixel", "pixels"):
        spacing, notes = _from_tags(tiff) if unit == "" else (None, ())
    else:
        notes = (f"the unit {unit!r} of the pixel size is not known",)
    step = float(metadata.get("finterval", 0) or 0)
    time_unit = str(metadata.get("tunit", "sec")).lower()
    if not (math.isfinite(step) and step > 0) or time_unit not in _SECONDS_PER_UNIT:
        return Calibration("imagej", spacing, None, notes)
    return Calibration("imagej", spacing, tuple(step * k * _SECONDS_PER_UNIT[time_unit] for k in range(frames)), notes)


def _from_ome(path: Path, text: str, frames: int, name: str) -> Calibration:
    root = check_ome_text(path, text)
    images = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Image"]
    image = next((e for e in images if e.attrib.get("Name") == name), root)
    pixels = next((e for e in image.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return Calibration("ome-tiff", None, None, ())
    sizes = [_ome_size(pixels, axis) for axis in "ZYX"]
    spacing: tuple[float, ...] | None = None
    if sizes[1] and sizes[2]:
        spacing = tuple(s for s in sizes if s)
    deltas: dict[int, float] = {}
    for plane in pixels:
        if plane.tag.endswith("Plane") and "DeltaT" in plane.attrib:
            factor = _SECONDS_PER_UNIT.get(plane.attrib.get("DeltaTUnit", "s"), math.nan)
            deltas.setdefault(int(plane.attrib.get("TheT", 0)), float(plane.attrib["DeltaT"]) * factor)
    times = tuple(deltas.get(k, math.nan) for k in range(frames))
    if all(math.isfinite(t) for t in times):
        return Calibration("ome-tiff", spacing, times, ())
    step = float(pixels.attrib.get("TimeIncrement", 0)) * _SECONDS_PER_UNIT.get(
        pixels.attrib.get("TimeIncrementUnit", "s"), math.nan
    )
    regular = tuple(step * k for k in range(frames)) if math.isfinite(step) and step > 0 else None
    return Calibration("ome-tiff", spacing, regular, ())


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    value = float(pixels.attrib.get(f"PhysicalSize{axis}", 0))
    factor = _MM_PER_UNIT.get(pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm").lower())
    return value * factor if factor is not None and math.isfinite(value) and value > 0 else None


def _resolution(tiff: Any) -> tuple[float, float] | None:
    """Size of a pixel (y, x) in the unit of the resolution tags, which count pixels in a unit."""
    sizes = []
    for name in ("YResolution", "XResolution"):
        tag = tiff.pages[0].tags.get(name)
        if tag is None or not tag.value[0] or not tag.value[1]:
            return None
        sizes.append(tag.value[1] / tag.value[0])
    return sizes[0], sizes[1]


def _from_tags(tiff: Any) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    pixel = _resolution(tiff)
    tag = tiff.pages[0].tags.get("ResolutionUnit")
    unit = int(tag.value) if tag is not None else 1
    if pixel is None or unit not in _TAG_UNIT_MM:
        return None, ()
    if unit == 2 and any(abs(1 / p - dpi) < 0.01 for p in pixel for dpi in _SCREEN_DPI):
        return None, (f"the resolution of {1 / pixel[1]:.0f} dots an inch is a screen's default: not taken as spacing",)
    return tuple(p * _TAG_UNIT_MM[unit] for p in pixel), ()
