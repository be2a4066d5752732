"""What the system says of a path is told as it is: a share that is gone is not a damaged file, and is not waited for for ever."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from r2n2.errors import ReadError, ResourceError
from r2n2.io import describe, read_series
from r2n2.io.checks import check_times, existing, read_errors


def test_a_share_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    released = threading.Event()
    monkeypatch.setattr(Path, "stat", lambda self, **_: released.wait(20))
    start = time.perf_counter()
    try:
        with pytest.raises(ResourceError, match=r"does not answer within 0\.05 s; check the disk or the network share"):
            existing("/share/a.nii", timeout_s=0.05)
        assert time.perf_counter() - start < 5
    finally:
        released.set()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_disk_that_fails_is_not_called_damage(code: int) -> None:
    with (
        pytest.raises(ResourceError, match=r"a\.nii: cannot be reached \(.*\); check the disk or the network share"),
        read_errors(Path("a.nii"), "NIfTI"),
    ):
        raise OSError(code, "x")


def test_a_file_that_went_away_is_not_called_damage() -> None:
    with pytest.raises(ReadError, match=r"a\.nii: is not there any more"), read_errors(Path("a.nii"), "NIfTI"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "a.nii")


@pytest.mark.parametrize("name", ["é 数据 a b", "CON", "x" * 240, "a*[b"])
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    import numpy as np

    folder = tmp_path / name
    folder.mkdir()
    np.save(folder / f"{name}.npy", np.zeros((6, 18, 20)))
    assert len(read_series(folder / f"{name}.npy")[0]) == 6
    assert describe(folder / f"{name}.npy")[0].problems == ()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", ""])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReadError):
        read_series(f"{tmp_path}/{name}/y.nii" if name else "")


def test_a_loop_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.npy").symlink_to(tmp_path / "b.npy")
    (tmp_path / "b.npy").symlink_to(tmp_path / "a.npy")
    with pytest.raises(ReadError, match=r"a\.npy"):
        read_series(tmp_path / "a.npy")


@pytest.mark.parametrize("values", [[0.0, float("nan"), 1.0], [0.0, 1.0], ["a", 1, 2], None])
def test_times_that_cannot_be(values: object) -> None:
    with pytest.raises(ReadError, match=r"a\.mha, entry X: "):
        check_times(values, 3, where="a.mha, entry X")  # type: ignore[arg-type]
    assert check_times(["0", 1, 2.5], 3, where="x") == (0.0, 1.0, 2.5)
