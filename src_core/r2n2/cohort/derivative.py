"""Results under the names of a BIDS-like tree, beside one another: aligned series, its JSON, and a transform for each frame.

BIDS-like, as BIDS has no datatype for series of heart or lung: names, entities and JSON follow BIDS Derivatives 1.10, the validator
does not know them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from r2n2 import __version__
from r2n2.cohort.entry import DerivativeName, Task
from r2n2.io.atomic import atomic_write, resource_errors

if TYPE_CHECKING:
    from r2n2.results.manifest import RunManifest

__all__ = ["describe_dataset", "export_derivative"]

_LARGEST_SIDECAR = 2**20
# What tells how images were made and not of whom; the rest of a source's JSON stays there.
_PASSED_ON = (
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "PulseSequenceType",
    "ScanningSequence",
    "SequenceVariant",
    "SliceThickness",
    "SliceTiming",
    "SpacingBetweenSlices",
    "TaskName",
    "FrameTimesStart",
    "FrameDuration",
)
_IGNORED = "sub-*_*/\n*.csv\ncohort.json\ncohort.html\n"
_DESCRIPTIONS = "desc_id\tdescription\nmoco\tEvery frame aligned to one reference frame of the same series by napari-r2n2\n"


def export_derivative(task: Task, manifest: RunManifest, *, again: bool) -> None:
    """Give a finished result its names in the tree; they are links to its files where the file system has links, else copies.

    Parameters
    ----------
    again
        Also where they are there already.

    Raises
    ------
    ResourceError
        If something cannot be written.
    """
    name = task.entry.derivative
    if name is None:
        return
    source = PurePosixPath(name.source)
    entities, _, suffix = _stem(source.name).rpartition("_")
    if task.slice_name:
        entities += f"_chunk-{task.selector.index:02d}"
    folder = Path(name.output_root, *source.parts[:-1])
    sidecar = folder / f"{entities}_desc-moco_{suffix}.json"
    if sidecar.exists() and not again:
        return
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    reference = manifest.reference
    for frame in range(manifest.input.frames):
        field = task.place / "fields" / f"frame_{frame:04d}.mha"
        if frame != reference and field.exists():  # none are there with --fields none
            target = f"{entities}_from-frame{frame:04d}_to-frame{reference:04d}_mode-image_xfm.mha"
            _link(field, folder / target)
    registered = manifest.registered_file
    assert registered is not None, "every finished result holds its aligned series"
    _link(task.place / registered, folder / f"{entities}_desc-moco_{suffix}{registered.removeprefix('registered')}")
    # Last: it says that the others are there.
    _write(sidecar, json.dumps(_sidecar(name, task, manifest), indent=1) + "\n")


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _sidecar(name: DerivativeName, task: Task, manifest: RunManifest) -> dict[str, Any]:
    uri = f"bids:raw:{name.source}"
    where = os.path.relpath(task.place, name.output_root).replace(os.sep, "/")
    values = _passed_on(Path(name.source_root, *PurePosixPath(name.source).parts))
    if task.slice_name:
        values["SliceIndex"] = task.selector.index
    return values | {
        "Description": "Every frame aligned to the reference frame",
        "Sources": [uri],
        "SpatialReference": uri,
        "ReferenceFrame": manifest.reference,
        "Method": manifest.settings.method,
        "Result": f"bids::{where}/run.json",
    }


def _passed_on(source: Path) -> dict[str, Any]:
    path = source.with_name(f"{_stem(source.name)}.json")
    try:
        if path.stat().st_size > _LARGEST_SIDECAR:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: values[key] for key in _PASSED_ON if key in values} if isinstance(values, dict) else {}


def _link(source: Path, target: Path) -> None:
    """A hard link, which needs no room, or a copy; whole under its name or not there."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with resource_errors(target):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            # Of two names of one file a rename keeps both.
            with contextlib.suppress(OSError):
                temporary.unlink()


def describe_dataset(source_root: Path, output_root: Path) -> None:
    """Write what is said of the derivatives as a whole; raises as ``atomic_write``."""
    link = os.path.relpath(source_root, output_root).replace(os.sep, "/")
    about = {
        "Name": "Motion-corrected series",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "napari-r2n2", "Version": __version__}],
        "SourceDatasets": [{"URL": link}],
        "DatasetLinks": {"raw": link},
    }
    _write(output_root / "dataset_description.json", json.dumps(about, indent=1) + "\n")
    _write(output_root / "descriptions.tsv", _DESCRIPTIONS)
    _write(output_root / ".bidsignore", _IGNORED)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
