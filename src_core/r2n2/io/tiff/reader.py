"""TIFF: plain, ImageJ, OME and BigTIFF. What tifffile only logs as a warning is an error here where it then returns fewer pages."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.axes import axes_question
from r2n2.io.checks import DEFAULT_MAX_BYTES, check_dtype, check_memory, choose_named, import_package, read_errors, wrapped_note
from r2n2.io.mapped import MappedArray
from r2n2.io.tiff.metadata import Calibration, read_calibration
from r2n2.io.tiff.ome_files import find_ome_files
from r2n2.io.tiff.pages import PagedArray, check_chain, check_pages, decode_first

__all__ = ["read_tiff"]

_PRIVATE_TAGS = 32768
_METADATA = ("micromanager_metadata", "uic1tag", "fluoview", "GDAL_NODATA", "GeoKey", "eer_xml", "invalid ASCII", "get_resolution")


def _reopened(path: Path, name: str | None) -> Any:
    return read_tiff(path, None, DEFAULT_MAX_BYTES, name, asked=False).array


def read_tiff(path: Path, axes: str | None, max_bytes: int, name: str | None = None, *, asked: bool = True) -> FileContent:
    """What a TIFF holds; a plain stack of pages does not say what its pages are, so ``axes`` has to.

    Parameters
    ----------
    name
        Of the image that is meant, where the file holds several; its number also does.
    asked
        Whether axes that are not known are asked for.

    Raises
    ------
    ReadError
        If the file is truncated or damaged, part of its series is missing, or its axes are not known.
    MissingExtraError
        If its compression needs a package that is not installed.
    """
    tifffile = import_package("tifffile", "reading TIFF")
    with read_errors(path, "TIFF"), _warnings_assessed(path) as told:
        with tifffile.TiffFile(path, _multifile=False) as single:
            files = find_ome_files(path, single)
            check_chain(path, single)
        with tifffile.TiffFile(path, omexml=files.text) as tiff:
            series, more = _series(path, tiff, name)
            check_dtype(path, series.dtype)
            pages = tuple(series.pages)
            check_pages(path, series, pages)
            found: Calibration = read_calibration(path, tiff, series, files.text)
            letters = _letters(series.axes)
            if asked and not axes:
                _ask(path, found.kind, series)
            array = _pixels(path, tiff, series, pages, max_bytes, name)
    notes = [*found.notes, *files.notes, *more, *told]
    if array.dtype.kind == "i" and not isinstance(array, PagedArray) and array.nbytes < 2**28:
        notes += [note for note in [wrapped_note(float(array.min()), array.dtype)] if note]
    source: dict[str, Any] = {"tiff": series.kind}
    if len(files.names) > 1:
        source["files"] = list(files.names)
    return FileContent(
        path, found.kind, array, letters, spacing=found.spacing, times_s=found.times_s, notes=tuple(notes), source=source
    )


def _series(path: Path, tiff: Any, name: str | None) -> tuple[Any, tuple[str, ...]]:
    """The image that is meant, and a note where there are others."""
    every = [item for item in tiff.series if item.shape and math.prod(item.shape)]
    if not every:
        raise ReadError(f"{path}: holds no frame or no pixel; the file is damaged or empty, get an intact copy")
    names = [str(item.name or number) for number, item in enumerate(every)]
    names = names if len(set(names)) == len(names) else [str(number) for number in range(len(every))]
    if name is not None:
        return every[names.index(choose_named(path, names, name, "images"))], ()
    largest = max(math.prod(item.shape) for item in every)
    alike = [item for item in every if math.prod(item.shape) * 2 > largest]
    if len(alike) > 1:
        choose_named(path, names, None, "images")
    if len(every) == 1:
        return every[0], ()
    # A label, a thumbnail or an overview beside the series.
    return alike[0], (f"the file holds {len(every)} images: the largest is read",)


def _letters(axes: str) -> str:
    """The axes as tifffile names them, or nothing where one of them is only a count (I, Q) or unknown to us."""
    return axes if set(axes) <= set("TCZYXS") else ""


def _ask(path: Path, kind: str, series: Any) -> None:
    """Ask which axis is time, where pages are only counted or ImageJ calls them slices."""
    axes, shape = str(series.axes), tuple(series.shape)
    unknown = [a for a in axes if a not in "TCZYXS"]
    if len(unknown) == 1 and "Z" not in axes and "T" not in axes:
        count = shape[axes.index(unknown[0])]
        raise axes_question(path, shape, f"its {count} pages", axes.replace(unknown[0], "Z"))
    if unknown:
        raise axes_question(path, shape)
    if kind == "imagej" and "T" not in axes and "Z" in axes and (count := shape[axes.index("Z")]) > 1:
        raise axes_question(path, shape, f"its {count} slices, as ImageJ calls all frames that it was not told of,", axes)


def _pixels(path: Path, tiff: Any, series: Any, pages: tuple[Any, ...], max_bytes: int, name: str | None) -> Any:
    dtype = np.dtype(series.dtype)
    if series.dataoffset is not None:
        stored = dtype.newbyteorder(tiff.byteorder)
        return MappedArray(path, stored, int(series.dataoffset), tuple(series.shape))
    page_shape = tuple(pages[0].shape)
    leading = len(series.shape) - len(page_shape)
    decode_first(path, pages[0])
    if leading >= 0 and tuple(series.shape[leading:]) == page_shape and math.prod(series.shape[:leading]) == len(pages):
        check_memory(path, math.prod(page_shape) * dtype.itemsize, max_bytes)
        reopen = functools.partial(_reopened, path, name)
        return PagedArray(path, pages, tuple(series.shape), dtype, leading, reopen)
    check_memory(path, int(series.nbytes), max_bytes)
    return series.asarray()


@contextmanager
def _warnings_assessed(path: Path) -> Iterator[list[str]]:
    """Collect what tifffile logs: of metadata that we need not, a note; of pages, an error."""
    messages: list[str] = []
    notes: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(" ".join(record.getMessage().split())[:200])

    logger, collector = logging.getLogger("tifffile"), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield notes
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
    for message in messages:
        if not _concerns_metadata(message):
            if "missing" in message.lower():
                raise ReadError(f"{path}: part of its series is missing ({message}); put all files of the series in one folder")
            raise ReadError(f"{path}: damaged or truncated TIFF ({message}); get an intact copy")
    if messages:
        notes.append(f"metadata that is not needed for the pixels could not be read: {messages[0]}")


def _concerns_metadata(message: str) -> bool:
    tag = re.search(r"TiffTag (\d+)", message)
    if tag and int(tag[1]) >= _PRIVATE_TAGS:
        return True
    return any(word in message for word in _METADATA)
