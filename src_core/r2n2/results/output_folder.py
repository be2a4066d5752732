"""The folder a result goes to: whether it can be used, what of ours it holds already, and clearing that."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from pathlib import Path

from r2n2.errors import ArgumentError, ReadError, ResourceError
from r2n2.io.atomic import check_writable, resource_errors
from r2n2.results.journal import JOURNAL_NAME
from r2n2.results.manifest import MANIFEST_NAME, TRUST_NAME, RunManifest, load_manifest
from r2n2.series import ImageSeries

__all__ = ["UNFINISHED_NAME", "check_folder", "check_space", "clear_folder", "estimated_bytes", "is_same_run"]

UNFINISHED_NAME = "unfinished.txt"
_OURS = (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    JOURNAL_NAME,
    "metrics.csv",
    "report.html",
    "sequence.csv",
    "sequence.npz",
    "initial.csv",
    "control_points.npz",
    "tre.csv",
    "tre_summary.csv",
    "mask.mha",
    "moving_mask.mha",
    TRUST_NAME,
    *(f"registered{suffix}" for suffix in ("", ".nii", ".nii.gz", ".mha", ".tif", ".ome.tif", ".npy", ".npz", ".zarr", ".gif")),
)
_FRAME_FOLDERS = ("fields", "uncertainty")
_NUMBER_BYTES = 4
_SPACE_MARGIN = 1.1


def check_folder(folder: Path) -> None:
    """Make the output folder and see that it can be written, before anything is computed.

    What says that a finished result is not goes: its run was killed right after its last file.

    Raises
    ------
    ResourceError
        If it cannot be made or written.
    ArgumentError
        If a file of that name is there, or some system cannot hold the name.
    """
    check_writable(folder)
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST_NAME).exists():
        for name in (JOURNAL_NAME, UNFINISHED_NAME):
            (folder / name).unlink(missing_ok=True)


def estimated_bytes(series: ImageSeries) -> int:
    """Size in bytes of what registering a series writes, without compression."""
    pixels = len(series) * math.prod(series.grid.shape)
    # A displacement, and a radius.
    return pixels * (series.channels * series.dtype.itemsize + (series.grid.ndim + 1) * _NUMBER_BYTES)


def check_space(folder: Path, series: ImageSeries) -> None:
    """Refuse to start what would fill the disk.

    Raises
    ------
    ResourceError
        Saying how much is needed and free.
    """
    free, needed = shutil.disk_usage(folder).free, int(estimated_bytes(series) * _SPACE_MARGIN)
    if free < needed:
        raise ResourceError(
            f"{folder}: about {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free; choose another disk"
        )


def is_same_run(folder: Path, run_hash: str) -> bool:
    """Whether the folder already holds the finished result of the very same run."""
    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        manifest = load_manifest(folder)
    except ReadError:
        return False
    return isinstance(manifest, RunManifest) and manifest.run_sha256 == run_hash


def clear_folder(folder: Path, *, overwrite: bool, keep: Collection[Path] = ()) -> None:
    """Remove what an earlier run of ours left, and nothing else.

    Parameters
    ----------
    overwrite
        Remove a finished result, too, and files of the same names that no run of ours left.
    keep
        Files from which a run goes on.

    Raises
    ------
    ArgumentError
        If that is a finished result, or files of the same names that no run of ours left, and ``overwrite`` is false.
    """
    finished = (folder / MANIFEST_NAME).exists()
    unfinished = any((folder / name).exists() for name in (UNFINISHED_NAME, JOURNAL_NAME))
    present = [path for path in folder.iterdir() if path.name in _OURS]
    for name in _FRAME_FOLDERS:
        present += sorted((folder / name).glob("frame_*.mha"))
    if not overwrite and finished:
        raise ArgumentError(f"{folder}: holds the finished result of another run; give --overwrite or another --output")
    if not overwrite and present and not unfinished and not _looks_killed(present):
        raise ArgumentError(
            f"{folder}: {present[0].name} is there and no run of r2n2 says so; give --overwrite or another --output"
        )
    with resource_errors(folder):
        # The marker goes first: a run killed while clearing must not look finished.
        for path in sorted(present, key=lambda path: path.name != MANIFEST_NAME):
            if path in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _looks_killed(present: list[Path]) -> bool:
    # A killed run left files of frames but had no time to write its note.
    return any(path.parent.name in _FRAME_FOLDERS for path in present)
