"""Takes a Siemens MOSAIC apart: one file that shows all slices of a moment side by side becomes one frame for each slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.values import number, private_value

__all__ = ["split_mosaic"]

_WORD = "MOSAIC"
_REMEDY = "convert the files first, for example with dcm2niix, or export single images from the scanner"


def split_mosaic(frame: FrameHeader, dataset: Any) -> tuple[FrameHeader, ...]:
    """One header for each slice of a MOSAIC, or the frame itself where it is none; refused where the number is not told.

    Parameters
    ----------
    frame
        Description of the whole image, whose position is that of the MOSAIC's corner.
    dataset
        Its header with the vendor's private elements.
    """
    if _WORD not in frame.attributes.get("ImageType", ()) or frame.multiframe:  # type: ignore[operator]
        return (frame,)
    csa = _csa(dataset)
    count = _count(dataset, csa)
    if count is None:
        return (replace(frame, refusal=f"Siemens {_WORD}: all slices side by side, but their number is not told; {_REMEDY}"),)
    across = math.ceil(math.sqrt(count))
    if count > across * across or any(side % across for side in frame.shape):
        reason = f"Siemens {_WORD} of {count} slices, but {frame.shape} pixels are not {across} x {across} equal parts; {_REMEDY}"
        return (replace(frame, refusal=reason),)
    shape = (frame.shape[0] // across, frame.shape[1] // across)
    remarks = [*frame.remarks, f"each file is a Siemens {_WORD}: it was taken apart into its {count} slices"]
    normal = _normal(frame, csa)
    if normal is not None and not csa:
        remarks.append(f"the {_WORD} does not tell in which direction its slices follow: the normal of rows and columns was taken")
    return tuple(
        replace(
            frame,
            shape=shape,
            tile=(k, across),
            position_mm=_position(frame, shape, normal, k),
            slice_location=float(k),
            remarks=tuple(remarks),
        )
        for k in range(count)
    )


def _csa(dataset: Any) -> dict[str, list[Any]]:
    """Siemens' own header: values by name, empty where it is missing or damaged."""
    raw = private_value(dataset, 0x0029, 0x10)
    if not isinstance(raw, bytes) or len(raw) < 100:
        return {}
    from nibabel.nicom import csareader

    try:
        tags = csareader.read(raw)["tags"]
        return {str(name): list(tag["items"]) for name, tag in tags.items()}
    except Exception:  # the parser raises nearly everything on forged headers
        return {}


def _count(dataset: Any, csa: dict[str, list[Any]]) -> int | None:
    values = [private_value(dataset, 0x0019, 0x0A), *csa.get("NumberOfImagesInMosaic", [])[:1]]
    for value in values:
        found = number({"n": value}, "n")
        if found is not None and math.isfinite(found) and 1 <= found <= 10_000:
            return int(found)
    return None


def _normal(frame: FrameHeader, csa: dict[str, list[Any]]) -> tuple[float, ...] | None:
    """Direction in which the slices follow, LPS x first."""
    told = csa.get("SliceNormalVector", [])
    if len(told) == 3 and all(isinstance(v, float) and math.isfinite(v) for v in told):
        return tuple(told)
    if frame.orientation is None:
        return None
    return tuple(float(v) for v in np.cross(frame.orientation[:3], frame.orientation[3:]))


def _position(
    frame: FrameHeader, shape: tuple[int, int], normal: Sequence[float] | None, k: int
) -> tuple[float, float, float] | None:
    """First pixel of slice ``k``: the header's position is the corner of a MOSAIC-sized image around the slice's centre."""
    if frame.position_mm is None or frame.orientation is None or frame.spacing is None or normal is None:
        return None
    along_row, along_column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    rows, columns = (frame.shape[0] - shape[0]) / 2, (frame.shape[1] - shape[1]) / 2
    corner = np.array(frame.position_mm) + along_row * columns * frame.spacing[1] + along_column * rows * frame.spacing[0]
    x, y, z = corner + k * (frame.thickness_mm or 1.0) * np.array(normal)
    return float(x), float(y), float(z)
