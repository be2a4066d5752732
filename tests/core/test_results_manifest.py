"""A manifest that cannot be read is bad input, and the message names the file and the entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r2n2.errors import ReadError
from r2n2.results.manifest import MANIFEST_NAME, GridRecord, load_manifest

ACQUISITION = {"kind": "acquisition", "created": "x", "versions": {}, "slices": ["slice_00"], "failed": {}, "wall_time_s": 1.0}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"kind": ' * 50_000])
def test_entries_nested_without_end(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(ReadError, match=r"run\.json: damaged or of another version \(nested too deeply\)"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(("entry", "value"), [("slices", 3), ("wall_time_s", "long"), ("format_version", 9)])
def test_an_entry_that_cannot_be_is_named(tmp_path: Path, entry: str, value: object) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(ACQUISITION))
    load_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**ACQUISITION, entry: value}))
    with pytest.raises(ReadError, match=rf"run\.json: damaged or of another version \({entry}: "):
        load_manifest(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("spacing", (0.0, 1.0)), ("shape", (0, 4)), ("direction", ((1.0, 0.0), (1.0, 0.0)))])
def test_a_grid_that_cannot_be_is_no_record(field: str, value: object) -> None:
    good = {"shape": (3, 4), "spacing": (1.0, 2.0), "origin": (0.0, 0.0), "direction": ((1.0, 0.0), (0.0, 1.0))}
    assert GridRecord(**good).grid().spacing == (1.0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Grid: "):
        GridRecord(**{**good, field: value})  # type: ignore[arg-type]
