"""The package map in setup.py, and what an installed r2n2 must find again: manifest, icon, weights folder, type marker."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import r2n2

ROOT = Path(__file__).resolve().parents[2]


def _assigned(name: str) -> Any:
    """Value of a literal in setup.py, read without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py assigns no {name}")


def test_every_package_folder_is_in_the_map() -> None:
    folders = {
        file.parent.relative_to(ROOT).as_posix()
        for top in ("napari_r2n2", "src_core", "resources")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert folders == set(_assigned("PACKAGE_DIR").values())


def test_names_in_the_map_follow_the_folders() -> None:
    for name, folder in _assigned("PACKAGE_DIR").items():
        start = {"napari_r2n2": "", "resources": "r2n2."}.get(folder.split("/")[0], "")
        assert name == start + folder.removeprefix("src_core/").replace("/", ".")


def test_installed_manifest_is_the_one_at_the_top() -> None:
    (entry,) = [e for e in importlib.metadata.entry_points(group="napari.manifest") if e.name == "napari-r2n2"]
    installed = importlib.resources.files(entry.module) / entry.attr
    assert installed.read_text(encoding="utf-8") == (ROOT / "napari.yaml").read_text(encoding="utf-8")


def test_manifest_names_the_distribution() -> None:
    name = re.search(r"^name: (\S+)$", (ROOT / "napari.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert name is not None
    assert name[1] == "napari-r2n2" == importlib.metadata.metadata("napari-r2n2")["Name"]


def test_icon_is_a_readable_drawing_without_background() -> None:
    text = (importlib.resources.files("r2n2.resources.icons") / "r2n2.svg").read_text(encoding="utf-8")
    icon = ElementTree.fromstring(text)
    assert icon.tag.endswith("svg")
    assert icon.get("viewBox") == "0 0 128 128"
    assert not icon.findall(".//{*}rect")


def test_weights_folder_and_type_marker_are_found() -> None:
    assert (importlib.resources.files("r2n2.resources") / "weights").is_dir()
    assert (importlib.resources.files("r2n2") / "py.typed").is_file()


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("napari-r2n2") == r2n2.__version__
    assert f"## [{r2n2.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_qt_binding_and_no_gui_in_the_requirements() -> None:
    core = {re.split(r"[<>=!\[; ]", requirement)[0].lower() for requirement in _assigned("CORE")}
    plugin = {re.split(r"[<>=!\[; ]", requirement)[0].lower() for requirement in _assigned("PLUGIN")}
    bindings = {"pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert not core & (bindings | plugin)
    assert not plugin & bindings


def test_constraints_pin_every_requirement_exactly() -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    wanted = {re.split(r"[<>=!\[; ]", r)[0].lower() for r in [*_assigned("CORE"), *_assigned("PLUGIN"), *_assigned("TEST")]}
    assert wanted <= pinned
    assert "torch==2.13.0" in lines


def test_build_backend_understands_the_licence_expression() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert build["requires"] == ["setuptools>=77"], "older ones do not know license_files with an SPDX expression"
