"""napari's way to the readers of r2n2: DICOM folders, DICOM, NIfTI, MetaImage, OME-Zarr, npz and GIF files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["get_reader"]

_FILES_LOOKED_AT = 64


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """The reading function, or None where the path is none of our formats (several DICOM files: their folder is meant)."""
    place = _place(path)
    if place is None or (place.is_dir() and not (place.suffix == ".zarr" or _holds_dicom(place))):
        return None
    return _read


def _read(path: str | Sequence[str]) -> list[Any]:
    from napari_r2n2.layers import series_to_layers
    from r2n2.io import read_series

    place = _place(path)
    return [] if place is None else list(series_to_layers(read_series(place)))


def _place(path: str | Sequence[str]) -> Path | None:
    if isinstance(path, str | Path):
        return Path(path)
    folders = {Path(file).parent for file in path}
    if len(path) == 1:
        return Path(path[0])
    # napari hands over a list when "open as stack" is chosen; only the files of one DICOM folder make one series.
    one = folders.pop() if len(folders) == 1 else None
    return one if one is not None and _holds_dicom(one) else None


def _holds_dicom(folder: Path) -> bool:
    """Whether one of the first files has the DICOM mark, so that other plugins keep their folders."""
    for file in itertools.islice((entry for entry in folder.rglob("*") if entry.is_file()), _FILES_LOOKED_AT):
        with file.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                return True
    return False
