"""The images to train from: read from folders of series in any readable format, or from a data file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from r2n2.errors import ArgumentError, AxesUnknownError, R2N2Error, ReadError
from r2n2.io.atomic import resource_errors
from r2n2.series import ImageSeries
from r2n2.training.data.contents import ContouredPair, TrainingData, is_held_out, split
from r2n2.training.data.file import read_data_file, save_data_file
from r2n2.training.data.finding import Found, find_series
from r2n2.training.data.planes import Amount, contoured_pairs, pairs_of, planes_of, slices_of

__all__ = ["Amount", "ContouredPair", "TrainingData", "is_held_out", "load_data", "read_data_file", "save_data_file", "split"]

_LOG = logging.getLogger(__name__)
_SMALLEST_MASK_PX = 200


def load_data(
    folders: Sequence[Path],
    *,
    exclude_patients: Sequence[str] = (),
    cache: Path | None = None,
    masks: Path | None = None,
    phases: int | None = None,
    axes: str | None = None,
    amount: Amount | None = None,
    progress: Callable[[str], None] | None = None,
) -> TrainingData:
    """Read every series below the folders; what no reader reads is left out with a note.

    Parameters
    ----------
    folders
        Data folders, single files, or data files (.safetensors).
    exclude_patients
        Never read these. A patient is DICOM's PatientID or named as ``finding`` says.
    cache
        Folder in which the data are kept, and found again while arguments and files stay as they are.
    masks
        Folder of outlines, one for each picture or file, under the same path as below its data folder.
    phases
        Frames a slice of pictures that are numbered through the slices, see ``find_series``.
    axes
        Names of the array axes of files that do not say; without, a file whose third axis may be time or slices gives single
        planes and no pairs.
    amount
        How much to take.
    progress
        Called with the path of everything before it is read.

    Raises
    ------
    ReadError
        If a folder is missing, or nothing at all can be read.
    ArgumentError
        If no folder is given.
    """
    amount = amount or Amount()
    places = [Path(folder) for folder in folders]
    if not places:
        raise ArgumentError("data: no folder is given; give one or more folders of image series")
    for place in places if masks is None else [*places, masks]:
        if not place.exists():
            raise ReadError(f"{place}: no such file or folder; check the path")
    arguments = (sorted(exclude_patients), str(masks), phases, axes, repr(amount))
    kept = None if cache is None else cache / f"data-{_fingerprint(places, masks, arguments)}.safetensors"
    if kept is not None and kept.is_file():
        try:
            return read_data_file(kept)
        except ReadError as error:
            _LOG.warning("%s; it is made again", error)
    data = _load(places, frozenset(exclude_patients), masks, phases, axes, amount, progress or (lambda _: None))
    if kept is None:
        return data
    with resource_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
    save_data_file(kept, data)
    # Read back, so that this run and the next, which finds the file, train on the same rounded pixels.
    return read_data_file(kept)


def _load(
    places: Sequence[Path],
    excluded: frozenset[str],
    masks: Path | None,
    phases: int | None,
    axes: str | None,
    amount: Amount,
    progress: Callable[[str], None],
) -> TrainingData:
    parts = []
    for place in places:
        if place.is_file() and place.suffix == ".safetensors":
            progress(str(place))
            data = read_data_file(place)
            parts.append(data.of([patient for patient in data.patients if patient not in excluded]))
            continue
        for found in find_series(place, phases=phases):
            if isinstance(found, str):
                parts.append(TrainingData(notes=(found,)))
                continue
            if found.kind != "dicom" and found.patient in excluded:
                parts.append(TrainingData(notes=(f"{found.path}: left out, patient {found.patient} is excluded",)))
                continue
            progress(str(found.path))
            parts.extend(_read(found, excluded, masks, axes, amount))
    whole = TrainingData(
        tuple(item for part in parts for item in part.slices),
        tuple(item for part in parts for item in part.pairs),
        tuple(item for part in parts for item in part.contoured),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )
    if not whole.patients:
        reason = f" ({whole.notes[0]})" if whole.notes else ""
        raise ReadError(f"{places[0]}: nothing to train from was found{reason}; give folders of image series")
    return whole


def _read(found: Found, excluded: frozenset[str], masks: Path | None, axes: str | None, amount: Amount) -> Iterator[TrainingData]:
    """One part for each series."""
    for series, patient, source, paired, notes in _acquisitions(found, axes):
        if patient in excluded:
            yield TrainingData(notes=(*notes, f"{source}: left out, patient {patient} is excluded"))
            continue
        slices, pairs, contoured = [], [], []
        remarks = list(notes)
        for plane in planes_of(series, source, amount) if series else ():
            try:
                # Frames that may be slices are counted as such.
                slices.extend(slices_of(plane, patient, amount if paired else replace(amount, frames=amount.planes)))
                pairs.extend(pairs_of(plane, patient, amount) if paired else [])
            except (ValueError, R2N2Error) as error:
                remarks.append(f"{plane.source}: left out ({error})")
        for item, outline in _outlines(found, series, masks, axes, remarks):
            try:
                contoured.extend(contoured_pairs(item, outline, patient, source, _SMALLEST_MASK_PX))
            except (ValueError, R2N2Error) as error:
                remarks.append(f"{source}: its outlines were left out ({error})")
        yield TrainingData(tuple(slices), tuple(pairs), tuple(contoured), tuple(remarks))


_Acquisition = tuple[Sequence[ImageSeries], str, str, bool, tuple[str, ...]]
"""Series of one acquisition, patient, what to call it, whether its frames show one place, notes."""


def _acquisitions(found: Found, axes: str | None) -> Iterator[_Acquisition]:
    try:
        if found.kind == "dicom":
            yield from _dicom(found)
        elif found.kind == "pictures":
            yield _pictures(found.files), found.patient, _source(found), True, ()
        else:
            yield from _file(found, axes)
    except (R2N2Error, OSError) as error:
        if len(found.files) < 2:
            yield (), found.patient, _source(found), False, (f"left out: {error}",)
            return
        note = f"{error}: its {len(found.files)} pictures were read one by one and not paired"
        for number, file in enumerate(found.files):
            one = Found("pictures", found.root, file, (file,), found.patient)
            yield from ((*item[:4], (note, *item[4]) if number == 0 else item[4]) for item in _acquisitions(one, axes))


def _pictures(files: Sequence[Path]) -> tuple[ImageSeries, ...]:
    from r2n2.io.assemble import assemble
    from r2n2.io.checks import DEFAULT_MAX_BYTES
    from r2n2.io.pictures.stack import read_picture_stack

    return assemble(read_picture_stack(files[0].parent, list(files), DEFAULT_MAX_BYTES))


def _file(found: Found, axes: str | None) -> Iterator[_Acquisition]:
    from r2n2.io.dispatch import read_series

    try:
        yield read_series(found.path, volumes=False), found.patient, _source(found), True, ()
    except ReadError as error:
        if axes is not None:
            yield read_series(found.path, axes=axes, volumes=False), found.patient, _source(found), True, ()
            return
        if not isinstance(error, AxesUnknownError) or "TYX" not in dict(error.choices) or "ZYX" not in dict(error.choices):
            raise
        note = f"{found.path}: its planes were taken one by one and not paired, as they may be times or slices; name the axes"
        yield read_series(found.path, axes="TYX", volumes=False), found.patient, _source(found), False, (note,)


def _dicom(found: Found) -> Iterator[_Acquisition]:
    """Acquisitions of a DICOM folder, one for each series of each patient."""
    from r2n2.io.dicom.listing import list_dicom
    from r2n2.io.dicom.reader import read_dicom

    notes: list[str] = []
    try:
        everything = list(read_dicom(found.path, drop_damaged=True, volumes=False))
    except ReadError:
        # One series that cannot be read must not cost the others.
        everything, listing = [], list_dicom(found.path, volumes=False)
        notes.extend(f"{file}: left out ({reason})" for file, reason in listing.damaged)
        for group in listing.groups:
            try:
                everything.extend(read_dicom(found.path, series=group.key, drop_damaged=True, volumes=False))
            except R2N2Error as error:
                notes.append(f"left out: {error}")
    acquisitions: dict[tuple[str, str], list[ImageSeries]] = {}
    for item in everything:
        notes.extend(f"{item.name}: {note}" for note in item.notes if "left out" in note)
        patient = _patient_id(Path(item.source["files"][0])) or found.patient
        acquisitions.setdefault((patient, str(item.source["series"]).rpartition("/")[0]), []).append(item)
    for number, ((patient, uid), series) in enumerate(acquisitions.items()):
        yield series, patient, f"{_source(found)} {uid[-8:]}", True, tuple(notes) if number == 0 else ()
    if not acquisitions:
        yield (), found.patient, _source(found), False, tuple(notes)


def _patient_id(path: Path) -> str:
    """PatientID of a DICOM file, "" where it has none."""
    from pydicom import dcmread

    from r2n2.io.dicom.bounded import quiet

    with quiet():
        return str(dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID") or "").strip()


def _outlines(
    found: Found, series: Sequence[ImageSeries], masks: Path | None, axes: str | None, remarks: list[str]
) -> Iterator[tuple[ImageSeries, ImageSeries]]:
    """Every series with the outlines drawn in it."""
    if masks is None or found.kind == "dicom" or not series:
        return
    files = [masks / file.relative_to(found.root) for file in found.files or (found.path,)]
    if not all(file.exists() for file in files):
        return
    try:
        if found.kind == "pictures":
            drawn: Sequence[ImageSeries] = _pictures(files)
        else:
            drawn = next(iter(_file(Found("file", masks, files[0], (), found.patient), axes)))[0]
    except R2N2Error as error:
        remarks.append(f"left out: {error}")
        return
    if len(drawn) != len(series):
        remarks.append(f"{files[0]}: {len(drawn)} slices of outlines for {len(series)} slices; they were left out")
        return
    yield from zip(series, drawn, strict=True)


def _source(found: Found) -> str:
    """What to call it: its path below the folder that holds the data folder."""
    path = found.path.relative_to(found.root) if found.path != found.root else Path()
    return str(Path(found.root.resolve().name) / path)


def _fingerprint(places: Sequence[Path], masks: Path | None, arguments: tuple[object, ...]) -> str:
    """Changes with every argument and with every file's name, size or time."""
    digest = hashlib.sha256(json.dumps([1, *map(str, arguments)]).encode())
    for place in [*places, *([] if masks is None else [masks])]:
        files = [place] if place.is_file() else [Path(folder) / name for folder, _, names in os.walk(place) for name in names]
        for file in sorted(files):
            status = file.stat()
            digest.update(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:24]
