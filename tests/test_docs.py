"""Pages that are made by a script are up to date, and the Python code of the how-to pages runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from r2n2.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_of_settings_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/make_settings.py"


def test_python_code_of_the_core_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "-o", "demo/input", "--frames", "3", "--size", "48,64"]) == 0
    core = (DOCS / "how-to" / "python.md").read_text(encoding="utf-8").split("## In napari")[0]
    blocks = re.findall(r"```python\n(.*?)```", core, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert (tmp_path / "result" / "run.json").is_file()
    assert "done: 100%" in capsys.readouterr().out
    assert sorted(names["aligned"]) == [0, 1, 2]  # type: ignore[call-overload]


def test_python_code_of_the_simulation_runs() -> None:
    page = (DOCS / "how-to" / "simulate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    # Fewer voxels: the numbers are not what is tested.
    exec(compile(block.replace("(40, 56, 64)", "(9, 28, 9)"), "simulate.md", "exec"), names)
    assert names["labels"].shape == (9, 28, 9)  # type: ignore[attr-defined]
    assert names["out_of_plane"].shape == (9, 9)  # type: ignore[attr-defined]
