"""Series in a BIDS-like tree: sub-*/**/sub-*.nii or .nii.gz that hold more than one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from r2n2.cohort.entry import DerivativeName
from r2n2.cohort.listing import Named, find_inputs
from r2n2.errors import ArgumentError, ReadError

__all__ = ["find_bids"]

_SUFFIXES = (".nii", ".nii.gz")


def find_bids(inputs: Sequence[str], output: Path) -> tuple[tuple[Named, ...], tuple[str, ...]]:
    """The series of a data set, or those that are named in it, and what a person should know.

    Parameters
    ----------
    inputs
        A data set, a folder in it, or files or patterns of files in it.

    Raises
    ------
    ReadError
        If there is none.
    ArgumentError
        If inputs lie in no data set or in several.
    """
    named, notes = find_inputs(inputs, output)
    chosen: list[Named] = []
    still: list[str] = []
    roots: set[Path] = set()
    for item in named:
        path = Path(item.path)
        files = sorted(_files(path)) if path.is_dir() else [path]
        for file in files:
            root = _root(file, item.where)
            roots.add(root)
            if not _moves(file) and path.is_dir():
                still.append(file.name)
                continue
            derivative = DerivativeName(
                source_root=str(root), source=file.relative_to(root).as_posix(), output_root=str(output.absolute())
            )
            chosen.append(Named(str(file), item.options, item.settings, item.where, derivative))
    if not chosen:
        raise ReadError(f"{', '.join(inputs)}: no sub-*/**/sub-*_*.nii or .nii.gz with more than one frame; check the folder")
    if len(roots) > 1:
        raise ArgumentError(f"--bids: the inputs lie in {len(roots)} data sets; give those of one, and another -o for another")
    if still:
        notes = (
            *notes,
            f"{len(still)} images without a time axis are left out ({', '.join(still[:3])}{', ...' * (len(still) > 3)})",
        )
    return tuple(chosen), notes


def _files(folder: Path) -> Iterator[Path]:
    subjects = (
        folder.rglob("sub-*.nii*")
        if _in_subject(folder)
        else (file for s in folder.glob("sub-*") for file in s.rglob("sub-*.nii*"))
    )
    for file in subjects:
        if file.name.endswith(_SUFFIXES) and "_" in file.name and file.is_file():
            yield file.absolute()


def _in_subject(path: Path) -> bool:
    return any(part.startswith("sub-") for part in path.absolute().parts)


def _root(file: Path, where: str) -> Path:
    """The folder that holds the subject's."""
    for place in file.absolute().parents:
        if place.name.startswith("sub-"):
            return place.parent
    raise ArgumentError(f"{where}: --bids: {file.name} lies in no folder sub-*; give a BIDS-like data set or leave --bids out")


def _moves(file: Path) -> bool:
    """Whether the header tells of several frames; a damaged one is left to be reported where it is read."""
    import nibabel

    try:
        shape = nibabel.load(file).shape
    except Exception:
        return True
    return len(shape) > 3 and shape[3] > 1
