"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def data_folder() -> Path | None:
    """Folder of the real image series, or None where it is absent: $R2N2_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("R2N2_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a machine remembers about itself is no business of the tests, nor theirs of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2N2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("no real image series here; set R2N2_DATA to their folder")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread, so that equal sums are equal to the bit and small tensors cost no waiting."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
