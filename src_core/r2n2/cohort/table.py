"""A cohort as a table: a row an acquisition, with its path and whatever options are its own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2n2.cohort.entry import Entry
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.io.atomic import check_output_name
from r2n2.io.spreadsheet import Sheet, decode_text, original_cell, read_sheets

__all__ = ["Row", "read_table"]

_LARGEST_BYTES = 64 * 2**20
_PATHS = ("path", "landmarks", "mask", "moving_mask")
_TEXTS = ("name", "axes", "series", "weights", "device", *_PATHS)
_OPTIONS = tuple(name for name in Entry.model_fields if name not in ("settings", "derivative", "overwrite", "keep_headers"))
_NESTED = ("network", "stopping", "fit", "bspline")
_SETTINGS = tuple(name for name in RegistrationConfig.model_fields if name not in _NESTED)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Row:
    """One acquisition.

    Parameters
    ----------
    path
        Absolute.
    options
        Fields of ``Entry`` that the row gives.
    settings
        Of ``RegistrationConfig``, that the row gives.
    where
        File and line.
    """

    path: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    where: str


def read_table(path: Path) -> tuple[Row, ...]:
    """The rows of a CSV whose header names ``path`` and options of ``r2n2 register``; an empty cell leaves an option open.

    Relative paths are from the folder of the table.

    Raises
    ------
    ReadError
        If it is no table or holds no row.
    ArgumentError
        If a column is no option, or a cell no value of it.
    """
    if path.stat().st_size > _LARGEST_BYTES:
        raise ReadError(f"{path}: larger than {_LARGEST_BYTES // 2**20} MiB, which is no table of paths; give another")
    sheet = _sheet(path, decode_text(path, path.read_bytes()))
    columns = [name.replace("-", "_") for name in sheet.header]
    for name in columns:
        if name not in (*_OPTIONS, *_SETTINGS):
            near = difflib.get_close_matches(name, (*_OPTIONS, *_SETTINGS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns are path, {', '.join((*_OPTIONS[2:], *_SETTINGS))}"
            raise ArgumentError(f"{path}: column {name!r} is no option: {hint}")
    rows = []
    for cells, line in zip(sheet.rows, sheet.lines, strict=True):
        where = f"{path} line {line}"
        if len(cells) != len(columns):
            raise ReadError(f"{where}: expected {len(columns)} cells as in the header, got {len(cells)}; put quotes around commas")
        given = {name: original_cell(cell.strip()) for name, cell in zip(columns, cells, strict=True) if cell.strip()}
        if "path" not in given:
            raise ReadError(f"{where}: names no path; fill the column path or leave the row out")
        values = {name: _value(name, text, path.parent) for name, text in given.items()}
        if "name" in values:
            check_output_name(values["name"])
        options = {name: value for name, value in values.items() if name in _OPTIONS and name != "path"}
        rows.append(Row(values["path"], options, {n: v for n, v in values.items() if n in _SETTINGS}, where))
    if not rows:
        raise ReadError(f"{path}: holds no row; give a row an acquisition below the header")
    return tuple(rows)


def _sheet(path: Path, text: str) -> Sheet:
    sheets: Iterable[Sheet] = read_sheets(path, text)
    for sheet in sheets:
        if "path" in sheet.header:
            return sheet
    lines = [(number, line.strip().strip('"')) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if lines and lines[0][1].lower() == "path":
        return Sheet(path, ("path",), tuple((line,) for _, line in lines[1:]), tuple(number for number, _ in lines[1:]), ",")
    raise ReadError(f"{path}: its first line names no column path; give a header such as path,method,spacing")


def _value(name: str, text: str, folder: Path) -> Any:
    if name in _PATHS:
        return str((folder / text).absolute())
    if name in _TEXTS:
        return text
    if name == "spacing":
        try:
            return tuple(float(part) for part in text.replace(";", ",").replace(" ", ",").split(","))
        except ValueError:
            return text
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
