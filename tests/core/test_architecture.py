"""Rules about the source itself: what imports what, and which names may occur where."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "src_core" / "r2n2"
FILES = sorted(CORE.rglob("*.py"))

# A part may import parts of its own level (without a cycle) and of the levels before it.
LEVELS = [
    {"errors", "config", "geometry", "quantities", "resources", "runtime"},
    {"series", "mask", "guides", "transform"},
    {"io", "preprocessing", "similarity", "simulation", "working", "network"},
    {"registration"},
    {"training"},
    {"curves", "evaluation", "lung"},
    {"results"},
    {"movies", "report"},
    {"doctor", "benchmark", "workflow"},
    {"cohort"},
    {"cli"},
]
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}


def _part(file: Path) -> str:
    """Name of the module or sub-package directly below r2n2 that a file belongs to; "" for r2n2/__init__.py."""
    first = file.relative_to(CORE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def _module(file: Path) -> str:
    """Dotted name by which a file is imported."""
    inside = CORE.parent if file.is_relative_to(CORE) else ROOT
    parts = file.relative_to(inside).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(file: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, also inside functions."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}; write the absolute name"
            yield str(node.module)
            if node.module == "r2n2":
                yield from (f"r2n2.{alias.name}" for alias in node.names)


def _names(file: Path) -> set[str]:
    tree = _tree(file)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names | attributes | imported


def _uses() -> dict[str, set[str]]:
    """Which parts of the core each part imports."""
    uses: dict[str, set[str]] = {}
    for file in FILES:
        if part := _part(file):
            imported = {name.split(".")[1] for name in _imports(file) if name.startswith("r2n2.")}
            uses.setdefault(part, set()).update(imported - {part, "__version__"})
    return uses


def _circles(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """What remains of an import graph when all that imports nothing, or that nothing imports, is taken away again and again."""
    while True:
        imported = set().union(*uses.values())
        kept = {name: others & set(uses) for name, others in uses.items() if others & set(uses) and name in imported}
        if kept == uses:
            return uses
        uses = kept


def test_every_part_has_a_level() -> None:
    unknown = {_part(file) for file in FILES} - set(LEVEL) - {""}
    assert not unknown, f"give {unknown} a place in LEVELS, and in the layout of the documentation"


@pytest.mark.parametrize("part", sorted({_part(file) for file in FILES} - {""}))
def test_imports_go_one_way(part: str) -> None:
    upward = {other for other in _uses()[part] if LEVEL.get(other, 0) > LEVEL.get(part, 0)}
    assert not upward, f"r2n2.{part} must not import {upward}: they come after it"


def test_no_circle_between_parts() -> None:
    assert not _circles(_uses())


def test_no_circle_between_files() -> None:
    modules = {_module(file): file for file in [*FILES, *(ROOT / "napari_r2n2").rglob("*.py")]}
    circles = _circles({name: set(_imports(file)) - {name} for name, file in modules.items()})
    assert not circles, "these files import each other; imports inside functions count"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_core_knows_no_gui(file: Path) -> None:
    gui = {"napari", "napari_r2n2", "npe2", "magicgui", "qtpy", "superqt", "PyQt5", "PyQt6", "PySide6", "vispy"}
    assert not {name.split(".")[0] for name in _imports(file)} & gui


def test_only_warp_samples_images() -> None:
    callers = {str(file.relative_to(CORE)) for file in FILES if "grid_sample" in _names(file)}
    assert callers == {"transform/warp.py"}, "the one place that knows torch's x-first order and align_corners"


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{file.relative_to(CORE)}:{node.lineno}"
        for file in FILES
        if not _part(file).startswith("cli")
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing


def test_no_module_without_a_subject() -> None:
    vague = {"utils", "util", "helpers", "common", "misc", "types"}
    assert not [file for file in [*FILES, *(ROOT / "napari_r2n2").rglob("*.py")] if file.stem in vague]


def test_every_module_says_what_it_is() -> None:
    for file in FILES:
        docstring = ast.get_docstring(_tree(file))
        assert docstring, f"{file} needs a docstring"
        assert len(docstring.splitlines()[0]) > 20, f"{file}: the docstring's first line must say the responsibility"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("r2n2", {"torch", "numpy", "pydantic"}),
        ("r2n2.config", {"torch", "numpy"}),
        ("r2n2.io", {"torch", "SimpleITK", "nibabel", "pydicom", "zarr", "ngff_zarr", "matplotlib"}),
        ("napari_r2n2", {"napari", "qtpy", "torch", "numpy"}),
    ],
)
def test_import_is_light(module: str, heavy: set[str]) -> None:
    code = f"import {module}, sys; print(' '.join(sorted(set(sys.modules) & {heavy!r})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded, f"import {module} must not load {loaded}"
