"""OME-TIFF over several files: the header that describes them all, and whether every file it names is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from r2n2.errors import ReadError
from r2n2.io.checks import import_package

__all__ = ["OmeFiles", "check_ome_text", "find_ome_files"]


@dataclass(frozen=True)
class OmeFiles:
    """The header of an OME-TIFF where it is not the file's own, and the names of all files of the series."""

    text: str | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_ome_text(path: Path, text: str) -> ElementTree.Element:
    """Parse an OME header.

    Raises
    ------
    ReadError
        If it is not valid XML or declares entities.
    """
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ReadError(f"{path}: its OME metadata declares entities, which no microscope writes; save the file again")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReadError(f"{path}: its OME metadata is damaged ({error}); get an intact copy") from None


def find_ome_files(path: Path, tiff: Any) -> OmeFiles:
    """What files belong to the series of an OME-TIFF.

    Raises
    ------
    ReadError
        Naming the files that its header declares and that are not there.
    """
    text = tiff.ome_metadata if tiff.is_ome else None
    if not text:
        return OmeFiles()
    root = check_ome_text(path, text)
    notes: tuple[str, ...] = ()
    own = None
    only = next((e for e in root if e.tag.rpartition("}")[2] == "BinaryOnly"), None)
    if only is not None:
        own = _text_of(path, only.attrib.get("MetadataFile", ""))
        root = check_ome_text(path, own)
        notes = (f"the header of the series lies in {only.attrib.get('MetadataFile')}",)
    named = _named_files(path, root)
    missing = [name for name in named if not (path.parent / name).is_file()]
    if missing and len(named) == 1:
        # A series in one file that was renamed: the header still has its old name.
        text = own or text
        own = re.sub(r'FileName="[^"]*"', lambda _: f'FileName="{_escaped(path.name)}"', text)
        return OmeFiles(own, (path.name,), (*notes, f"the header calls the file {named[0]}: it was renamed"))
    if missing:
        listed = ", ".join(missing[:5]) + (f", ... ({len(missing)} in all)" if len(missing) > 5 else "")
        raise ReadError(
            f"{path}: its OME header declares frames in {len(named)} files, of which are missing: {listed}; "
            f"put all of them in one folder"
        )
    return OmeFiles(own, tuple(named), notes)


def _text_of(path: Path, name: str) -> str:
    """The OME header in a companion file or in the first file of a series."""
    place = path.parent / name
    if not name or Path(name).name != name or not place.is_file():
        raise ReadError(
            f"{path}: one part of a series whose header lies in {name!r}, which is not beside it; put both in one folder"
        )
    if name.lower().endswith((".tif", ".tiff", ".btf", ".tf8")):
        tifffile = import_package("tifffile", "reading TIFF")
        with tifffile.TiffFile(place, _multifile=False) as master:
            return str(master.ome_metadata or "")
    return place.read_text(encoding="utf-8", errors="replace")


def _named_files(path: Path, root: ElementTree.Element) -> list[str]:
    """File names in the order in which the header has them; the file itself is left out where it is known by its UUID."""
    own = root.attrib.get("UUID")
    found: dict[str, None] = {}
    for element in root.iter():
        if element.tag.rpartition("}")[2] != "UUID" or "FileName" not in element.attrib:
            continue
        name = element.attrib["FileName"]
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise ReadError(f"{path}: its OME header names the file {name!r}, outside its folder; put all files in one folder")
        if own is not None and element.text == own and not (path.parent / name).is_file():
            continue
        found[name] = None
    return list(found)


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
