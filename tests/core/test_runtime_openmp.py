"""Torch's threads are told to sleep before torch is loaded, unless the user has said how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from r2n2.runtime.openmp import wait_asleep

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
    ],
)
def test_what_the_user_set_comes_first(given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_asleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.parametrize("start", ["from r2n2.cli import main; main(['--version'])", "import napari_r2n2"])
def test_command_and_plugin_say_so_before_torch_is_loaded(start: str) -> None:
    program = f"import sys, os; {start}; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept)
    assert done.stdout.splitlines()[-1] == "False 10000"
