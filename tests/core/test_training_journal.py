"""The journal keeps every line, forgets what is done again, and feeds TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from r2n2.errors import MissingExtraError, ReadError, ResourceError
from r2n2.training.journal import Journal, read_journal


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_lines_are_there_at_once_and_read_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "run", tensorboard=False, clock=False) as journal:
        journal.scalars(3, {"loss": torch.tensor(0.25), "grad": math.nan, "up": math.inf, "down": -math.inf})
        journal.text(3, "note", "zwölf\nlines")
        # Read before the journal is closed: a killed process closes nothing.
        assert _lines(tmp_path / "new" / "run") == [
            {"step": 3, "kind": "scalars", "loss": 0.25, "grad": "nan", "up": "inf", "down": "-inf"},
            {"step": 3, "kind": "text", "note": "zwölf\nlines"},
        ]
    first, second = read_journal(tmp_path / "new" / "run")
    assert (first["loss"], first["up"], first["down"]) == (0.25, math.inf, -math.inf)
    assert math.isnan(first["grad"])
    assert second["note"] == "zwölf\nlines"
    assert not (tmp_path / "new" / "run" / "tensorboard").exists()


def test_resuming_forgets_later_steps_and_an_unfinished_line(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal:
        for step in range(6):
            journal.scalars(step, {"loss": step})
    before = (tmp_path / "journal.jsonl").read_bytes()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "ki')
    with Journal(tmp_path, step=3, tensorboard=False) as journal:
        assert "removed 2 lines about steps after 3" in journal.notes[0]
        assert "unfinished" in journal.notes[1]
        assert not journal.takes_pictures
        journal.scalars(4, {"loss": 40.0})
    assert [(line["step"], line["loss"]) for line in read_journal(tmp_path)] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40)]
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(b"\n".join(before.split(b"\n")[:4]) + b"\n")
    with Journal(tmp_path, step=4, tensorboard=False) as journal:
        assert journal.notes == ()
    with Journal(tmp_path, tensorboard=False):
        pass
    assert [line["step"] for line in read_journal(tmp_path)] == [0]


def test_equal_trainings_write_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Journal(tmp_path / name, tensorboard=False, clock=False) as journal:
            journal.scalars(1, {"loss": 1 / 3})
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == (tmp_path / "b" / "journal.jsonl").read_bytes()


def test_a_killed_process_loses_no_line(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from r2n2.training.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), tensorboard=False)\n"
        "for step in range(50): journal.scalars(step, {'loss': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert [line["step"] for line in read_journal(tmp_path)] == list(range(50))


@pytest.mark.parametrize("line", ["3", "{}", '{"step": "1", "kind": "scalars"}', "not json", '{"step": 1, "kind": 2}'])
def test_another_file_is_no_journal_and_stays(tmp_path: Path, line: str) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_text('{"step": 9, "kind": "text"}\n' + line + "\n")
    content = file.read_text()
    with pytest.raises(ReadError, match="line 2 is no line of a journal"):
        Journal(tmp_path, tensorboard=False)
    with pytest.raises(ReadError, match="line 2 is no line of a journal"):
        read_journal(tmp_path)
    assert file.read_text() == content


def test_wrong_names_and_places(tmp_path: Path) -> None:
    with Journal(tmp_path, tensorboard=False) as journal, pytest.raises(ValueError, match="'step' is a word of the journal"):
        journal.scalars(1, {"step": 3.0})
    with pytest.raises(ReadError, match="no journal can be read"):
        read_journal(tmp_path / "absent.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        Journal(tmp_path / "file", tensorboard=False)


@pytest.mark.usefixtures("without_tensorboard")
def test_without_tensorboard(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert "TensorBoard is not installed" in journal.notes[-1]
        assert not journal.takes_pictures
        journal.image(1, "warp", torch.zeros(5, 7))
        journal.scalars(1, {"loss": 1.0})
    assert len(read_journal(tmp_path)) == 1
    with pytest.raises(MissingExtraError, match=r"napari-r2n2\[training\]"):
        Journal(tmp_path, tensorboard=True)


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(3, 2), dpi=20)
    figure.subplots().plot([0, 1], [1, 0])
    for last in (4, 3):  # the second run resumes after step 2
        with Journal(tmp_path, step=0 if last == 4 else 2, tensorboard=True) as journal:
            assert journal.takes_pictures
            for step in range(1 if last == 4 else 3, last + 1):
                journal.scalars(step, {"loss": 10.0 * last + step})
            journal.image(last, "warp", torch.linspace(-1, 2, 35).reshape(5, 7).to(torch.bfloat16))
            journal.image(last, "colour", torch.rand(3, 5, 7))
            journal.figure(last, "sequence", figure)
            journal.text(last, "note", "words")
            journal.flush()
    events = [event for file in sorted((tmp_path / "tensorboard").iterdir()) for event in loader.EventFileLoader(str(file)).Load()]
    values = [(event.step, value) for event in events for value in event.summary.value]
    losses = [(step, value.tensor.float_val[0]) for step, value in values if value.tag == "loss"]
    assert losses == [(1, 41), (2, 42), (3, 43), (4, 44), (3, 33)]
    # From here TensorBoard drops what it has of steps from 3 on.
    assert 3 in [event.step for event in events if event.HasField("session_log") and event.session_log.status == 1]
    sizes = {value.tag: tuple(value.tensor.string_val[:2]) for _, value in values if value.tag in ("warp", "colour", "sequence")}
    assert sizes == {"warp": (b"7", b"5"), "colour": (b"7", b"5"), "sequence": (b"60", b"40")}
    assert any(value.tag.startswith("note") for _, value in values)
