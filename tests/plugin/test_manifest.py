"""The manifest: npe2 accepts it, every command is there, and finding the plugin costs nothing."""

from __future__ import annotations

import importlib
import importlib.resources
import subprocess
import sys
from typing import Any

import pytest
from npe2 import PluginManifest
from qtpy.QtWidgets import QMenu

MANIFEST = PluginManifest.from_distribution("napari-r2n2")


def test_npe2_accepts_the_installed_manifest() -> None:
    MANIFEST.validate_imports()


@pytest.mark.parametrize("command", MANIFEST.contributions.commands or [], ids=lambda command: command.id)
def test_every_command_is_a_callable(command: object) -> None:
    module, name = command.python_name.split(":")  # type: ignore[attr-defined]
    assert callable(getattr(importlib.import_module(module), name))


def test_icon_is_in_the_package() -> None:
    package, name = str(MANIFEST.icon).split(":")
    assert (importlib.resources.files(package) / name).is_file()


def test_importing_the_commands_does_not_load_torch() -> None:
    modules = sorted({command.python_name.split(":")[0] for command in MANIFEST.contributions.commands or []})
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("menu", "entry"), [("Register", "Align (R2N2)"), ("Visualize", "Sequence (R2N2)"), ("Annotate", "Landmarks (R2N2)")]
)
def test_widgets_stand_in_the_layers_menu(viewer: Any, menu: str, entry: str) -> None:
    """Menus are opened as a mouse would, as napari fills them then."""
    found = set()
    for shown in viewer.window._qt_window.findChildren(QMenu):
        shown.aboutToShow.emit()
        if shown.title().replace("&", "") == menu:
            found |= {action.text().replace("&", "") for action in shown.actions()}
    assert entry in found
