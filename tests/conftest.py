"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_folder() -> Path | None:
    """Folder of the real image series, or None where it is absent: $R2N2_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("R2N2_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("no real image series here; set R2N2_DATA to their folder")
    return folder
