from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from r2n2.errors import ArgumentError, ResourceError
from r2n2.io.atomic import atomic_folder, atomic_write, check_output_name, check_writable, clean_stale


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.nii.gz") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        assert not (tmp_path / "a.nii.gz").exists()
    assert names(tmp_path) == ["a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == b"new"


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == ["a.csv"]
    assert target.read_text() == "old"


def test_full_disk_names_the_free_space_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with (
        pytest.raises(ResourceError, match=r"a\.csv: not written, no space is left \(\d+\.\d MiB free\); free some"),
        atomic_write(target) as _,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
def test_file_size_limit(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from r2n2.errors import ResourceError
from r2n2.io.atomic import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write({str(tmp_path / "a.bin")!r}) as temporary:
        with open(temporary, "wb") as file:
            file.write(bytes(5000))
except ResourceError as error:
    raise SystemExit(0 if "no space" in str(error) else 1)
raise SystemExit(2)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "read-only"), (errno.EIO, "try again")])
def test_read_only_folder(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(ResourceError, match=words), atomic_write(tmp_path / "a.csv") as _:
        raise OSError(number, os.strerror(number))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="does not exist"), atomic_write(tmp_path / "no" / "a.csv") as temporary:
        temporary.write_text("x")


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "a.zarr") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / content).write_text(content)
    assert names(tmp_path) == ["a.zarr"]
    assert names(tmp_path / "a.zarr" / "inner") == ["two"]


def test_a_failing_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a.zarr") as temporary:
            (temporary / "x").write_text("x")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert names(tmp_path) == []


class _Disk:
    """What is asked of the system, in order: which file or folder is flushed, and what gets which name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, int]] = []
        fsync, replace = os.fsync, os.replace

        def flushed(handle: int) -> None:
            self.done.append(("flushed", os.fstat(handle).st_ino))
            fsync(handle)

        def renamed(source: Path, target: Path) -> None:
            self.done.append(("named", os.stat(source).st_ino))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr(os, "replace", renamed)


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be flushed there")
def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_right_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = _Disk(monkeypatch)
    with atomic_write(tmp_path / "a.csv") as temporary:
        temporary.write_text("x")
    file, folder = (tmp_path / "a.csv").stat().st_ino, tmp_path.stat().st_ino
    assert disk.done == [("flushed", file), ("named", file), ("flushed", folder)]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be flushed there")
def test_all_of_a_folder_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = _Disk(monkeypatch)
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "x").write_text("x")
    target, inner = tmp_path / "a", tmp_path / "a" / "inner"
    named = disk.done.index(("named", target.stat().st_ino))
    assert set(disk.done[:named]) == {("flushed", path.stat().st_ino) for path in (target, inner, inner / "x")}
    assert disk.done[named + 1 :] == [("flushed", tmp_path.stat().st_ino)]


def _replace_folder(target: Path) -> None:
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")


def _fail_to_name(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Renaming fails the so-manieth time, from 1."""
    replace, count = os.replace, iter(range(1, 100))

    def failing(source: Path, target: Path) -> None:
        if next(count) in calls:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)


@pytest.mark.parametrize("call", [1, 2])
def test_a_folder_that_cannot_be_replaced_is_there_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    target = tmp_path / "a.zarr"
    target.mkdir()
    (target / "old").write_text("old")
    _fail_to_name(monkeypatch, call)
    with pytest.raises(ResourceError, match=r"a\.zarr: not written, .*choose another folder"):
        _replace_folder(target)
    assert names(tmp_path) == ["a.zarr"]
    assert names(target) == ["old"]
    _replace_folder(target)
    assert names(tmp_path) == ["a.zarr"]
    assert names(target) == ["new"]


def test_a_folder_that_cannot_even_come_back_is_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.zarr"
    target.mkdir()
    (target / "old").write_text("old")
    _fail_to_name(monkeypatch, 2, 3)
    with pytest.raises(ResourceError, match="rename it back") as told:
        _replace_folder(target)
    (kept,) = names(tmp_path)
    assert kept in str(told.value)
    assert names(tmp_path / kept) == ["old"]
    assert clean_stale(tmp_path) == ()
    assert names(tmp_path) == [kept], "it is all there is of it, so nothing cleans it up"


@pytest.mark.parametrize(
    "name", ["CON", "con.mha", "NUL.tar.gz", "COM1.csv", "", "a\nb.csv", "a:b", "é" * 128, "COM¹.csv", "a.", "a "]
)
def test_names_that_some_system_cannot_hold(name: str) -> None:
    with pytest.raises(ArgumentError, match="output name"):
        check_output_name(name)


@pytest.mark.parametrize("name", ["é 数据 a b.mha", "x" * 240 + ".nii.gz", "contour.csv", "CONTROL.csv"])
def test_names_that_are_fine(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_bytes(b"x")
    assert names(tmp_path) == [name]


def test_only_temporaries_of_dead_processes_of_ours_are_cleaned(tmp_path: Path) -> None:
    code = f"""
import time
from r2n2.io.atomic import atomic_write
with atomic_write({str(tmp_path / "a.bin")!r}) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"ready"
    assert clean_stale(tmp_path) == ()  # its process lives
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(50):
        if len(names(tmp_path)) == 1:
            break
        time.sleep(0.01)
    (tmp_path / ".r2n2-tmp-notours").write_text("x")
    (tmp_path / "mine.tmp").write_text("x")
    (removed,) = clean_stale(tmp_path)
    assert removed.endswith(".bin")
    assert names(tmp_path) == [".r2n2-tmp-notours", "mine.tmp"]


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, ResourceError, OSError])
def test_an_error_of_who_writes_never_names_the_temporary(tmp_path: Path, kind: type[Exception]) -> None:
    def fail(writer: Callable[[Path], AbstractContextManager[Path]], target: Path) -> None:
        with writer(target) as temporary:
            raise kind(f"could not write {temporary}: {temporary.name} is broken")

    for writer, target in ((atomic_write, tmp_path / "a.mha"), (atomic_folder, tmp_path / "b.zarr")):
        with pytest.raises(ResourceError) as told:
            fail(writer, target)
        assert "r2n2-tmp" not in str(told.value)
        assert f"could not write {target}: {target.name} is broken" in str(told.value)
    assert names(tmp_path) == []


def test_other_errors_of_who_writes_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.mha"):
        raise ZeroDivisionError


@pytest.mark.parametrize("inside", ["", "new", "new/é 数据 a b", "n" * 240])
def test_whether_a_folder_can_be_written_is_seen_without_making_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    place = tmp_path / inside
    check_writable(place)
    assert names(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    check_writable(Path(inside or "."))

    def refused(path: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(ResourceError, match="read-only or not yours"):
        check_writable(place)


@pytest.mark.parametrize("inside", ["CON", "new/NUL.x/y", "a:b/c", "é" * 200])
def test_a_folder_that_some_system_cannot_hold_is_refused_before_it_is_made(tmp_path: Path, inside: str) -> None:
    with pytest.raises(ArgumentError, match="output name"):
        check_writable(tmp_path / inside)


def test_a_folder_cannot_be_made_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(ArgumentError, match=r"a is a file|is a file; --output needs a folder"):
            check_writable(place)


@pytest.mark.skipif(sys.platform != "linux", reason="the attribute is Linux's")
def test_a_folder_that_even_root_cannot_write_is_seen(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", locked], capture_output=True).returncode:
        locked.chmod(0o500)
        if os.access(locked, os.W_OK):
            pytest.skip("nothing is read-only for this user here")
    try:
        for place in (locked, locked / "new"):
            with pytest.raises(ResourceError, match="read-only or not yours"):
                check_writable(place)
    finally:
        subprocess.run(["chattr", "-i", locked], capture_output=True, check=False)
        locked.chmod(0o700)
