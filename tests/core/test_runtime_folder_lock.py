"""One writer a folder: two at once, a dead one, one on another machine, and files that say nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from r2n2.errors import ResourceError
from r2n2.runtime.folder_lock import LOCK_NAME, folder_lock

_HOLD = """
import sys
from pathlib import Path
from r2n2.errors import ResourceError
from r2n2.runtime.folder_lock import folder_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with folder_lock(Path(sys.argv[1])):
        print("holds", flush=True)
        sys.stdin.readline()
except ResourceError as error:
    print(error, flush=True)
"""


def _process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("left", [None, "", json.dumps({"pid": 2**22 - 3, "host": socket.gethostname()})])
def test_of_processes_that_start_at_once_one_wins_and_nothing_is_left(tmp_path: Path, left: str | None) -> None:
    if left is not None:
        (tmp_path / LOCK_NAME).write_text(left)
    processes = [_process(tmp_path) for _ in range(3)]
    for process in processes:
        _go_on(process)
    said = [_said(process) for process in processes]
    winners = [process for process, words in zip(processes, said, strict=True) if words == "holds\n"]
    assert len(winners) == 1
    others = [words for words in said if words != "holds\n"]
    assert all("writes there now; wait for it" in words for words in others)
    with pytest.raises(ResourceError, match=f"process {winners[0].pid} writes there now"), folder_lock(tmp_path):
        pass
    _go_on(winners[0])
    for process in processes:
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = _process(tmp_path)
    _go_on(process)
    assert _said(process) == "holds\n"
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == process.pid
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "garbage", "[1]", "[" * 100_000, '{"pid": "x", "host": "y"}', "\x00\x00"])
def test_a_file_that_names_nobody_blocks_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_NAME).write_text(content)
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_machine_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": 7, "host": "another.machine"}))
    with (
        pytest.raises(ResourceError, match=r"process 7 on another\.machine writes there; delete \.r2n2\.lock"),
        folder_lock(tmp_path),
    ):
        pass
    (tmp_path / LOCK_NAME).unlink()
    with folder_lock(tmp_path):
        pass


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
            raise KeyboardInterrupt


def test_where_nothing_can_be_written_the_folder_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write there"), folder_lock(tmp_path / "file"):
        pass
