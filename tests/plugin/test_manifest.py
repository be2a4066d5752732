"""The manifest: npe2 accepts it, every command is there, and finding the plugin costs nothing."""

from __future__ import annotations

import importlib
import importlib.resources
import subprocess
import sys

import pytest
from npe2 import PluginManifest

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
