"""What reading DICOM within bounds needs: a file that never gives more than it holds, two kinds of failure, and quiet.

Files declare lengths that may be forged; pydicom's warnings and errors may quote header values.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["BoundedFile", "DamagedDicomError", "NotAnImageError", "quiet"]

_MAX_INFLATED_BYTES = 2**30


class NotAnImageError(Exception):
    """The file is no DICOM file or holds no image, so that leaving it out loses nothing."""

    def __init__(self, reason: str, series_uid: str = "") -> None:
        super().__init__(reason)
        self.series_uid = series_uid


class DamagedDicomError(Exception):
    """The file is DICOM but cannot be trusted: leaving it out would shorten a series.

    Attributes
    ----------
    series_uid
        SeriesInstanceUID as far as it could still be read, else "".
    """

    def __init__(self, reason: str, series_uid: str = "") -> None:
        super().__init__(reason)
        self.series_uid = series_uid


class BoundedFile:
    """A binary file that refuses to read more than it holds, however much a header declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self.size = size
        self.inflated = False
        """Whether the data set is deflated, so that positions are not those of the file."""
        self.torn = False
        """Whether the file ended within the head of an element."""

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; pydicom reads to the end (-1) only to inflate a deflated data set."""
        left = max(0, self.size - self.tell())
        if size < 0:
            self.inflated = True
            return self._checked_deflated(self._stream.read(left))
        # element heads of at most 8 bytes are asked for at the regular end of a file, too
        if size > left and size > 8:
            raise DamagedDicomError(f"a value of {size} bytes is declared where {left} bytes are left")
        data = self._stream.read(size)
        # nothing left where a head (8 bytes) or anything (1) is looked for is the regular end
        self.torn |= len(data) < size and (len(data) > 0 or size not in (1, 8))
        return data

    @staticmethod
    def _checked_deflated(data: bytes) -> bytes:
        inflater, pending, total = zlib.decompressobj(-zlib.MAX_WBITS), data, 0
        while pending:
            total += len(inflater.decompress(pending, 2**22))
            pending = inflater.unconsumed_tail
            if total > _MAX_INFLATED_BYTES:
                raise DamagedDicomError(f"the deflated data set inflates to more than {_MAX_INFLATED_BYTES} bytes")
        return data


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect the warnings of pydicom instead of showing them, for they may quote header values."""
    messages: list[str] = []
    logger = logging.getLogger("pydicom")
    propagate, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
        messages.extend(str(w.message) for w in caught)
    finally:
        logger.propagate = propagate
