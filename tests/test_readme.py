"""The README's Python code does what it says, on a series made as the README's demonstration makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from r2n2.cli.app import app

    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["simulate", "-o", "demo/input", "--frames", "3", "--size", "48,64"])
    assert made.exit_code == 0, made.output
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    first = names["first"]
    assert tuple(first.vectors.shape) == (2, 48, 64)  # type: ignore[attr-defined]
    assert names["progress"].frames_done == 3  # type: ignore[attr-defined]


def test_pictures_of_the_readme_exist() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert pictures
    assert all((README.parent / picture).is_file() for picture in pictures)
