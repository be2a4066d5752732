"""The images that were registered, found again: kept in the folder of the result, or in the file it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from r2n2.errors import ReadError
from r2n2.io import read_series
from r2n2.results.kept_source import kept_source
from r2n2.results.manifest import input_sha256
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries

__all__ = ["read_sources", "source_series"]


def read_sources(registered: RegisteredSeries, path: Path | None = None) -> dict[str, ImageSeries]:
    """Hash -> series of every slice position in the file that a result was made of.

    Parameters
    ----------
    path
        Where the images lie now; None: where the result says.

    Raises
    ------
    ReadError
        If there is no such file, or it cannot be read.
    """
    record = registered.manifest.input
    place = path or Path(record.path)
    if (path is None and not record.path) or not place.exists():
        where = record.path or "they came from no file"
        raise ReadError(f"{registered.folder}: the images that were registered are not there ({where}); name them")
    selection: dict[str, Any] = {key: value for key, value in record.selection.items() if key not in ("keep_headers", "to")}
    # As it was registered, whatever the default is by now.
    found = read_series(place, **{"volumes": registered.grid.ndim == 3, **selection})
    if selection:
        found = tuple(replace(series, source={**series.source, "asked": selection}) for series in found)
    return {input_sha256(series): series for series in found}


def source_series(registered: RegisteredSeries, path: Path | None = None) -> ImageSeries:
    """The very images that were registered, by their hash.

    Raises
    ------
    ReadError
        If they cannot be found, or others lie there.
    """
    kept = kept_source(registered.folder) if path is None else None
    if kept is not None:
        return kept
    found = read_sources(registered, path)
    record = registered.manifest.input
    if record.sha256 not in found:
        raise ReadError(
            f"{registered.folder}: the images at {path or record.path} are not those that were registered; name the right ones"
        )
    return found[record.sha256]
