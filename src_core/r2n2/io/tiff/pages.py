"""Pages of a TIFF: read one at a time, and whether all of them are there: a chain that is cut ends like one that is whole."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.checks import check_declared_bytes, read_errors

__all__ = ["PagedArray", "check_chain", "check_pages", "decode_first"]

_MOST_SCANNED = 2**28


@dataclass(frozen=True, eq=False)
class PagedArray:
    """Array whose leading axes are pages, of one file or several; a page is read when indexed, its file closed in between."""

    path: Path
    pages: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    leading: int
    reopen: Callable[[], Any]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        numbers = np.arange(len(self.pages)).reshape(self.shape[: self.leading])[where[: self.leading]]
        inside = (slice(None),) * numbers.ndim + tuple(where[self.leading :])
        with read_errors(self.path, "TIFF"), self.lock:
            read = [self._page(int(k)) for k in numbers.ravel()]
        stack = np.stack(read).reshape(*numbers.shape, *self.shape[self.leading :])
        return np.asarray(stack[inside])

    def _page(self, number: int) -> NDArray[Any]:
        page = self.pages[number]
        with opened_page(page):
            try:
                pixels = np.asarray(page.asarray())
            except MemoryError:
                raise
            except Exception as error:
                reason = " ".join(str(error).split())[:150] or type(error).__name__
                raise ReadError(f"{self.path}: its page {number} cannot be decoded ({reason}); get an intact copy") from error
        if pixels.shape != self.shape[self.leading :]:
            expected = self.shape[self.leading :]
            raise ReadError(f"{self.path}: its page {number} has shape {pixels.shape} and not {expected}; get an intact copy")
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes by its path: pages hold locks and functions."""
        return self.reopen, ()


@contextmanager
def opened_page(page: Any) -> Iterator[None]:
    """The file of a page, opened for as long as it is read."""
    handle = page.parent.filehandle
    closed = handle.closed
    if closed:
        handle.open()
    try:
        yield
    finally:
        if closed:
            handle.close()


def check_pages(path: Path, series: Any, pages: Sequence[Any]) -> None:
    """Refuse a series of which a page is missing or lies beyond the end of its file.

    Raises
    ------
    ReadError
        Naming the page.
    """
    if any(page is None for page in pages):
        missing = sum(page is None for page in pages)
        raise ReadError(f"{path}: {missing} of the {len(pages)} planes that its header declares are missing; get a complete copy")
    if series.dataoffset is not None:
        check_declared_bytes(path, int(series.nbytes), path.stat().st_size - int(series.dataoffset))
        return
    sizes: dict[str, int] = {}
    for number, page in enumerate(pages):
        file = str(page.parent.filehandle.path)
        size = sizes.setdefault(file, Path(file).stat().st_size)
        ends = [int(o) + int(n) for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > size:
            raise ReadError(
                f"{file}: truncated, page {number} of {len(pages)} lies beyond the end of the file; get a complete copy"
            )


def check_chain(path: Path, tiff: Any) -> None:
    """Refuse a file that holds a page without content, or one that its chain of pages does not lead to.

    Raises
    ------
    ReadError
        Naming the page or its place.
    """
    pages = list(tiff.pages)
    for number, page in enumerate(pages):
        if not page.shape or 0 in page.shape:
            raise ReadError(f"{path}: damaged TIFF, page {number} of {len(pages)} or more has no content; get an intact copy")
    width = tiff.pages.first.tags.get(256)
    # ImageJ writes series of more than 4 GB behind a single page.
    behind_one = any(len(series.pages) == 1 and math.prod(series.shape) > math.prod(pages[0].shape) for series in tiff.series)
    if width is None or behind_one or path.stat().st_size > _MOST_SCANNED:
        return
    known = {int(offset) for page in _with_inner(pages) for offset in page.dataoffsets}
    entry_size, count_size = (20, 8) if tiff.is_bigtiff else (12, 2)
    data = path.read_bytes()
    entry = data[width.offset : width.offset + entry_size]
    place = data.find(entry)
    while place >= 0:
        # An entry of the same width that stands at the start of a list of tags, whose pixels no page has.
        for before in range(3):
            start = place - before * entry_size - count_size
            offset = _first_pixels(data, start, count_size, "little" if tiff.byteorder == "<" else "big")
            if offset is not None and offset not in known:
                raise ReadError(
                    f"{path}: damaged TIFF, its chain of pages ends after {len(pages)} and another page begins at byte {start}; "
                    "get an intact copy"
                )
        place = data.find(entry, place + 1)


def _with_inner(pages: Sequence[Any]) -> Iterator[Any]:
    """The pages and the smaller ones inside them."""
    for page in pages:
        yield page
        if getattr(page, "subifds", None):
            yield from (inner for inner in page.pages if inner is not None)


def _first_pixels(data: bytes, start: int, count_size: int, order: Literal["little", "big"]) -> int | None:
    """Where the pixels of the page at ``start`` begin, or None if no list of tags stands there."""
    if start < 8:
        return None
    entry_size, word = (20, 8) if count_size == 8 else (12, 4)
    count = int.from_bytes(data[start : start + count_size], order)
    if not 8 <= count <= 200:
        return None
    codes: dict[int, int] = {}
    for k in range(count):
        place = start + count_size + k * entry_size
        code, kind = (int.from_bytes(data[place + at : place + at + 2], order) for at in (0, 2))
        number = int.from_bytes(data[place + 4 : place + 4 + word], order)
        size = {3: 2, 4: 4, 16: 8}.get(kind, word)
        at = place + 4 + word
        if number * size > word:  # the value stands elsewhere
            at = int.from_bytes(data[at : at + word], order)
        if code <= max(codes, default=0) or not 1 <= kind <= 18:
            return None
        codes[code] = int.from_bytes(data[at : at + size], order)
    offset = codes.get(273, codes.get(324))
    return offset if 257 in codes and offset is not None and 8 <= offset < len(data) else None


def decode_first(path: Path, page: Any) -> None:
    """Decode a page, to learn whether its compression is understood.

    Raises
    ------
    MissingExtraError
        If it needs a package that is not installed.
    """
    try:
        with opened_page(page):
            page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise MissingExtraError(
                f"{path}: {page.compression.name} compression needs the package imagecodecs: pip install imagecodecs, "
                "or save the file without compression"
            ) from error
        raise
