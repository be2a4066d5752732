"""Rules about the plugin's own source: the models know no viewer, the layers no Qt, the widgets stand above both."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "napari_r2n2"
QT = {"qtpy", "superqt", "PyQt5", "PyQt6", "PySide6", "matplotlib"}
GUI = QT | {"napari", "npe2", "magicgui", "vispy"}

# Folder -> what its files must not import, nor anything below it, even inside functions.
FORBIDDEN = {
    "models": GUI | {"napari_r2n2.layers", "napari_r2n2.widgets", "napari_r2n2.reading", "napari_r2n2.preferences"},
    "layers": QT | {"napari_r2n2.widgets", "napari_r2n2.reading"},
    "widgets": {"napari_r2n2.reading"},
}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_nothing_above_it(folder: str) -> None:
    files = sorted((PLUGIN / folder).rglob("*.py"))
    assert len(files) > 2, f"{folder} has no files: nothing would be tested"
    wrong = {
        f"{file.relative_to(PLUGIN)}: {name}"
        for file in files
        for name in _imports(file)
        if any(name == other or name.startswith(f"{other}.") for other in FORBIDDEN[folder])
    }
    assert not wrong
