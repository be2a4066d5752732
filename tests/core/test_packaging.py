"""The package map in setup.py, and what an installed r2n2 must find again: manifest, icon, weights folder, type marker."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import runpy
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools

import r2n2

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **values: found.update(values))
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_every_package_folder_is_in_the_map(given: dict[str, Any]) -> None:
    folders = {
        file.parent.relative_to(ROOT).as_posix()
        for top in ("napari_r2n2", "src_core", "resources")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert folders == set(given["package_dir"].values())
    assert set(given["packages"]) == set(given["package_dir"])


def test_data_beside_the_modules_is_found(given: dict[str, Any]) -> None:
    for name, patterns in given["package_data"].items():
        for pattern in patterns:
            assert pattern == "napari.yaml" or list((ROOT / given["package_dir"][name]).glob(pattern)), (name, pattern)


def test_names_in_the_map_follow_the_folders(given: dict[str, Any]) -> None:
    for name, folder in given["package_dir"].items():
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


def test_the_tables_of_uncertainty_come_with_their_card() -> None:
    folder = importlib.resources.files("r2n2.resources") / "uncertainty"
    card = (folder / "radius.md").read_text(encoding="utf-8")
    assert "| data |" in card
    assert (folder / "radius.json").is_file()


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("napari-r2n2") == r2n2.__version__
    assert f"## [{r2n2.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!\[; ]", requirement)[0].lower() for requirement in requirements}


def test_no_qt_binding_and_no_gui_in_the_requirements(given: dict[str, Any]) -> None:
    core, plugin = _names(given["install_requires"]), _names(given["extras_require"]["plugin"])
    bindings = {"pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert not core & (bindings | plugin)
    assert not plugin & bindings


def test_constraints_pin_every_requirement_exactly(given: dict[str, Any]) -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    for requirements in (given["install_requires"], *given["extras_require"].values()):
        assert _names(requirements) <= pinned
    assert "torch==2.13.0" in lines


def test_build_backend_understands_the_licence_expression() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert build["requires"] == ["setuptools>=77"], "older ones do not know license_files with an SPDX expression"
