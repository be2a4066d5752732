"""Which image of a Zarr folder is meant: the folder itself, one of bioformats2raw's numbered images, or an array inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from r2n2.errors import ReadError
from r2n2.io.checks import choose_named, import_package

__all__ = ["find_image"]

_LAYOUT = "bioformats2raw.layout"
_MOST_MEMBERS = 1000


def find_image(path: Path, node: Any, name: str | None) -> tuple[Path, Any, tuple[str, ...]]:
    """Folder and node of an image, and a note where it is not the whole folder.

    Raises
    ------
    ReadError
        If there is none, or there are several and none was named.
    ArgumentError
        If none has that name.
    """
    if hasattr(node, "chunks"):
        return path, node, ()
    attributes = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise ReadError(f"{path}: its attribute ome must be a table, got {type(ome).__name__}; correct the metadata")
    if ome.get("multiscales") and name is None:
        return path, node, ()
    if "plate" in ome or "well" in ome:
        raise ReadError(f"{path}: a plate of many images; choose the folder of one of them, such as {path.name}/A/1/0")
    members = _members(path, ome)
    if _LAYOUT not in ome and name is None:
        inside = f", pass --series with the name of one of {', '.join(members[:10])}" if members else ""
        raise ReadError(
            f"{path}: a Zarr group without multiscales, so not an OME-Zarr image; "
            f"choose the image or array inside it{inside}, and pass --axes for a bare array"
        )
    chosen = choose_named(path, members, name, "images")
    folder = (path / chosen).resolve()
    if path.resolve() not in folder.parents:
        raise ReadError(f"{path}: its image is said to lie in {chosen!r}, outside the folder; the metadata is forged")
    inner = import_package("zarr", "reading Zarr").open(store=os.fspath(path / chosen), mode="r")
    if not hasattr(inner, "chunks") and not dict(inner.attrs).get("ome", dict(inner.attrs)).get("multiscales"):
        raise ReadError(f"{path}: its part {chosen} is no image; choose the image inside it")
    return path / chosen, inner, (f"image {chosen} of the folder was read",)


def _members(path: Path, ome: dict[str, Any]) -> list[str]:
    """Names of the images: those that bioformats2raw lists, or the folders inside that are images or arrays."""
    if _LAYOUT in ome:
        listed = _listed(path / "OME")
        if listed:
            return listed
    found = []
    for entry in sorted(path.iterdir(), key=lambda e: (len(e.name), e.name))[:_MOST_MEMBERS]:
        if entry.name != "OME" and any((entry / mark).is_file() for mark in (".zgroup", ".zarray", "zarr.json")):
            found.append(entry.name)
    return found


def _listed(folder: Path) -> list[str]:
    if not any((folder / mark).is_file() for mark in (".zgroup", "zarr.json")):
        return []
    attributes = dict(import_package("zarr", "reading Zarr").open(store=os.fspath(folder), mode="r").attrs)
    series = attributes.get("ome", attributes).get("series", [])
    return [str(name) for name in series] if isinstance(series, list) else []
