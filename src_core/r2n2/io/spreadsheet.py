"""Tables as text: bytes to text in any usual encoding, rows with their line numbers, and cells that no spreadsheet runs."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import ReadError

__all__ = ["Sheet", "decode_text", "original_cell", "read_sheets", "safe_cell", "table_text"]

# UTF-32 before UTF-16, whose mark it starts with.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DELIMITERS = (",", ";", "\t")
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
# What Excel, LibreOffice and Google Sheets take for the start of a formula, full-width forms included.
_RUN = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_RUNS = re.compile(f"'*[{_RUN}]")
_MADE_SAFE = re.compile(f"'+[{_RUN}]")


def safe_cell(text: str) -> str:
    """Text for a CSV cell, with an apostrophe before what a spreadsheet would run; ``original_cell`` takes it away again.

    Text that starts with apostrophes and then such a sign gets one more, so that the way back is always exact.
    """
    return f"'{text}" if _RUNS.match(text) else text


def original_cell(text: str) -> str:
    """The text that ``safe_cell`` was given."""
    return text[1:] if _MADE_SAFE.match(text) else text


def table_text(header: Sequence[str], rows: Iterable[Sequence[object]], *, text: Collection[str] = ()) -> str:
    """CSV text of a table of ours.

    Parameters
    ----------
    text
        Columns whose cells are names that people gave, made safe for spreadsheets.
    """
    free = [name in text for name in header]
    lines = [_row_text(header)]
    lines += [_row_text([safe_cell(str(cell)) if named else cell for cell, named in zip(row, free, strict=True)]) for row in rows]
    return "".join(lines)


def _row_text(cells: Sequence[object]) -> str:
    written = io.StringIO()
    # With this end of line the writer puts quotes around a cell that holds either sign of it, else a name could end a row.
    csv.writer(written, lineterminator="\r\n").writerow(cells)
    return written.getvalue().removesuffix("\r\n") + "\n"


def decode_text(path: Path, data: bytes) -> str:
    """Text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, else in Latin-1.

    Raises
    ------
    ReadError
        If it is no text.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None) or _utf16_by_zeros(data)
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        if encoding is not None:
            raise ReadError(f"{path}: damaged {encoding.upper()} text; save it anew as CSV (UTF-8)") from None
        text = data.decode("cp1252", errors="replace")
    found = _BINARY.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise ReadError(f"{path}: line {line} holds the byte {ord(found[0]):#04x}, so this is not text; give a table saved as text")
    return text


def _utf16_by_zeros(data: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of plain Latin text is 0."""
    half = len(data[:4096]) // 2
    low, high = data[1:4096:2].count(0), data[0:4096:2].count(0)
    if half < 2 or max(low, high) < 0.7 * half or min(low, high) > 0.1 * half:
        return None
    return "utf-16-le" if low > high else "utf-16-be"


@dataclass(frozen=True)
class Sheet:
    """A table with a header; every row as long as it.

    Parameters
    ----------
    header
        Column names in lower case without blanks around them.
    rows
        Cells of every row.
    lines
        Line of the file on which each row ends, counted from 1.
    delimiter
        What parts the cells.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    delimiter: str


def read_sheets(path: Path, text: str) -> Iterable[Sheet]:
    """The text as a table parted by comma, semicolon and tab, in this order, where the header has at least two columns."""
    if "\n" not in text:
        text = text.replace("\r", "\n")  # old Macintosh files
    found = re.match(r"\s*sep=([,;\t])\s*?\n", text, re.IGNORECASE)
    for delimiter in (found[1],) if found else _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")
        rows: list[tuple[str, ...]] = []
        lines: list[int] = []
        for row in reader:
            first = row[0].lstrip().lower() if row else ""
            if not any(cell.strip() for cell in row) or (not rows and (first.startswith("#") or first.startswith("sep="))):
                continue
            rows.append(tuple(row))
            lines.append(reader.line_num)
        if rows and len(rows[0]) > 1:
            header = tuple(name.strip().lower() for name in rows[0])
            yield Sheet(path, header, tuple(rows[1:]), tuple(lines[1:]), delimiter)
