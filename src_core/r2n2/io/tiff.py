"""TIFF: plain, ImageJ, OME and BigTIFF. What tifffile only logs as a warning is an error here, for it then returns fewer pages."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.checks import (
    DEFAULT_MAX_BYTES,
    check_declared_bytes,
    check_dtype,
    check_memory,
    import_package,
    read_errors,
    wrapped_note,
)
from r2n2.io.mapped import MappedArray
from r2n2.io.tiff_metadata import Calibration, read_calibration
from r2n2.io.tiff_writing import write_tiff

__all__ = ["read_tiff", "write_tiff"]


@dataclass(frozen=True, eq=False)
class _PagedArray:
    """Array whose leading axes are pages; a page is read when indexed, the file being closed in between."""

    path: Path
    pages: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    leading: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        numbers = np.arange(len(self.pages)).reshape(self.shape[: self.leading])[where[: self.leading]]
        inside = (slice(None),) * numbers.ndim + tuple(where[self.leading :])
        handle = self.pages[0].parent.filehandle
        with read_errors(self.path, "TIFF"), self.lock:
            handle.open()
            try:
                read = [np.asarray(self.pages[int(k)].asarray()) for k in numbers.ravel()]
            finally:
                handle.close()
        stack = np.stack(read).reshape(*numbers.shape, *self.shape[self.leading :])
        return np.asarray(stack[inside])

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes by its path: pages hold locks and functions."""
        return _reopened, (self.path,)


def _reopened(path: Path) -> Any:
    return read_tiff(path, None, DEFAULT_MAX_BYTES).array


def read_tiff(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a TIFF holds; a plain stack of pages does not say what its pages are, so ``axes`` has to.

    Raises
    ------
    ReadError
        If the file is truncated or damaged, or its axes are not known.
    MissingExtraError
        If its compression needs a package that is not installed.
    """
    tifffile = import_package("tifffile", "reading TIFF")
    with read_errors(path, "TIFF"), _warnings_as_errors(path), tifffile.TiffFile(path, _multifile=False) as tiff:
        if not tiff.series or not tiff.series[0].shape or math.prod(tiff.series[0].shape) == 0:
            raise ReadError(f"{path}: holds no frame or no pixel; the file is damaged or empty, get an intact copy")
        series = tiff.series[0]
        check_dtype(path, series.dtype)
        pages = tuple(series.pages)
        _check_pages(path, series, pages)
        found: Calibration = read_calibration(path, tiff, series)
        notes = list(found.notes)
        if len(tiff.series) > 1:
            notes.append(f"the file holds {len(tiff.series)} images: the first is read")
        letters = _letters(series.axes)
        array = _pixels(path, tiff, series, pages, max_bytes)
    if array.dtype.kind == "i" and not isinstance(array, _PagedArray) and array.nbytes < 2**28:
        notes += [note for note in [wrapped_note(float(array.min()), array.dtype)] if note]
    return FileContent(
        path,
        found.kind,
        array,
        letters,
        spacing=found.spacing,
        times_s=found.times_s,
        notes=tuple(notes),
        source={"tiff": series.kind},
    )


def _letters(axes: str) -> str:
    """The axes as tifffile names them, or nothing where one of them is only a count (I, Q) or unknown to us."""
    return axes if set(axes) <= set("TCZYXS") else ""


def _check_pages(path: Path, series: Any, pages: tuple[Any, ...]) -> None:
    size = path.stat().st_size
    if any(page is None for page in pages):
        raise ReadError(f"{path}: some of its pages lie in other files or are missing; save the series as one file")
    if series.dataoffset is not None:
        check_declared_bytes(path, int(series.nbytes), size - int(series.dataoffset))
        return
    for number, page in enumerate(pages):
        ends = [int(o) + int(n) for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > size:
            raise ReadError(
                f"{path}: truncated, page {number} of {len(pages)} lies beyond the end of the file; get a complete copy"
            )


def _pixels(path: Path, tiff: Any, series: Any, pages: tuple[Any, ...], max_bytes: int) -> Any:
    dtype = np.dtype(series.dtype)
    if series.dataoffset is not None:
        stored = dtype.newbyteorder(tiff.byteorder)
        return MappedArray(path, stored, int(series.dataoffset), tuple(series.shape))
    page_shape = tuple(pages[0].shape)
    leading = len(series.shape) - len(page_shape)
    _decode_first(path, pages[0])
    if leading >= 0 and tuple(series.shape[leading:]) == page_shape and math.prod(series.shape[:leading]) == len(pages):
        check_memory(path, math.prod(page_shape) * dtype.itemsize, max_bytes)
        return _PagedArray(path, pages, tuple(series.shape), dtype, leading)
    check_memory(path, int(series.nbytes), max_bytes)
    return series.asarray()


def _decode_first(path: Path, page: Any) -> None:
    try:
        page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise MissingExtraError(
                f"{path}: {page.compression.name} compression needs the package imagecodecs: pip install imagecodecs, "
                "or save the file without compression"
            ) from error
        raise


@contextmanager
def _warnings_as_errors(path: Path) -> Iterator[None]:
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger("tifffile"), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
    if messages:
        raise ReadError(f"{path}: damaged or truncated TIFF ({' '.join(messages[0].split())[:200]}); get an intact copy")
