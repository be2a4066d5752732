"""From what a person names, files, folders, patterns and tables, to the acquisitions of a cohort with their options."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2n2.cohort.entry import DerivativeName, Entry
from r2n2.cohort.names import folder_names
from r2n2.cohort.table import read_table
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError

__all__ = ["Named", "find_inputs", "make_entries"]

_MOST_MATCHES = 100_000


@dataclass(frozen=True)
class Named:
    """An acquisition as it was named.

    Parameters
    ----------
    path
        Absolute; a pattern where its frames are files of their own.
    options
        Fields of ``Entry`` that are its own.
    settings
        Of ``RegistrationConfig``, that are its own.
    where
        What named it, for messages.
    """

    path: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    where: str
    derivative: DerivativeName | None = None


def find_inputs(inputs: Sequence[str], output: Path) -> tuple[tuple[Named, ...], tuple[str, ...]]:
    """The acquisitions that inputs name, each once, and what a person should know.

    A file or folder is one acquisition, as ``read_series`` takes it; a pattern is one for each match; a CSV one for each row.

    Parameters
    ----------
    output
        Left out where a pattern fits it.

    Raises
    ------
    ReadError
        If an input is not there, or a pattern fits nothing.
    ArgumentError
        If a table is wrong.
    """
    found: list[Named] = []
    notes: list[str] = []
    for text in inputs:
        for named in _named(text):
            place = Path(named.path)
            if place.exists() and place.resolve().is_relative_to(output.resolve()):
                notes.append(f"{named.path}: left out, it is the output folder or lies in it")
            else:
                found.append(named)
    once = list({repr(named): named for named in found}.values())
    if len(once) < len(found):
        notes.append(f"{len(found) - len(once)} inputs were named more than once and are taken once")
    if not once:
        raise ReadError(f"{', '.join(map(str, inputs))}: names no acquisition; give files, folders, patterns or a CSV of paths")
    return tuple(once), tuple(notes)


def _named(text: str) -> list[Named]:
    path = Path(text)
    if not path.exists() and any(sign in text for sign in "*?["):
        matches = sorted(itertools.islice(glob.iglob(text, recursive=True), _MOST_MATCHES))
        if not matches:
            raise ReadError(f"{text}: nothing fits this pattern; check it, and put it in quotes")
        return [Named(str(Path(match).absolute()), {}, {}, text) for match in matches]
    if not path.exists():
        raise ReadError(f"{text}: no such file or folder; check the path")
    if path.is_file() and path.suffix.lower() == ".csv":
        return [Named(row.path, row.options, row.settings, row.where) for row in read_table(path)]
    return [Named(str(path.absolute()), {}, {}, text)]


def make_entries(
    found: Sequence[Named], settings: RegistrationConfig, options: Mapping[str, Any], known: Mapping[str, str]
) -> tuple[Entry, ...]:
    """The acquisitions with all their options: those of all, and before them their own.

    Parameters
    ----------
    settings, options
        Of all.
    known
        Path -> name of its folder, as given before.

    Raises
    ------
    ArgumentError
        If a setting or an option is wrong, or two rows ask for one name.
    """
    asked = [str(named.options["name"]) for named in found if "name" in named.options]
    unnamed = [named.path for named in found if "name" not in named.options]
    names = folder_names(list(dict.fromkeys(unnamed)), known, taken=asked)
    used: dict[str, str] = {}
    entries = []
    for named in found:
        name = str(named.options.get("name", names.get(named.path)))
        if name.casefold() in used:
            raise ArgumentError(
                f"{named.where}: the name {name!r} is that of {used[name.casefold()]}, too; give each one in a column name of a CSV"
            )
        used[name.casefold()] = named.path
        entries.append(_entry(named, name, settings, options))
    return tuple(entries)


def _entry(named: Named, name: str, settings: RegistrationConfig, options: Mapping[str, Any]) -> Entry:
    try:
        if named.settings:
            settings = RegistrationConfig.parse({**settings.model_dump(exclude_unset=True), **named.settings})
        values = {**options, **named.options, "name": name, "path": named.path}
        return Entry.parse({**values, "settings": settings, "derivative": named.derivative})
    except ArgumentError as error:
        raise ArgumentError(f"{named.where}: {error}") from None
