"""napari's way to the readers of r2n2: DICOM folders, DICOM, NIfTI, MetaImage, OME-Zarr, TIFF, npz and GIF files as image series.

napari's own reader accepts every folder and every one of these suffixes, so napari asks which of the two to take until it is told
to remember the answer. That "R2N2" may safely be remembered for TIFF and GIF, whatever has no time axis is passed on to napari's
own reader and opens as if R2N2 were not there.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2n2.series import ImageSeries

__all__ = ["get_reader", "reason_first"]

Reader = Callable[[str | Sequence[str]], list[Any]]

_LOG = logging.getLogger(__name__)
_FILES_LOOKED_AT = 64
_PICTURES = {".tif", ".tiff", ".gif"}
_LONG_SUFFIXES = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr")
_ZARR_MARKS = (".zgroup", ".zarray", "zarr.json", ".zattrs")
# What napari takes for "read, but there is no layer to add".
_NO_LAYER: list[Any] = [(None,)]
_SAME_DROP_S = 2.0
_TOLD_AT_MOST = 3
_OTHER_WAY = "'Taken as' in the Align widget takes them the other way."


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """The reading function, or None where the path is none of our formats.

    Parameters
    ----------
    path
        A file or folder; several files where napari is to stack them: for DICOM their folder is meant.
    """
    paths = [str(path)] if isinstance(path, str | Path) else [str(item) for item in path]
    if paths and all(_is_picture_without_time(Path(item), alone=len(paths) == 1) for item in paths):
        return _naparis_own(path)
    place = _place(paths)
    # In a window the choice fell on R2N2 already: reading then says what is wrong with the folder.
    if place is None or (place.is_dir() and not _is_ours(place) and not _in_window()):
        return None
    return _read


def _read(path: str | Sequence[str]) -> list[Any]:
    """Layers; a problem is told in napari's window and raised in a script."""
    from r2n2.errors import R2N2Error

    place = _place([str(path)] if isinstance(path, str | Path) else [str(item) for item in path])
    assert place is not None
    if _LAST.holds(place):
        return _NO_LAYER
    try:
        opened = _open_asking(place)
    except (R2N2Error, OSError, MemoryError) as error:
        if not _in_window():
            raise
        from napari.utils.notifications import show_error

        show_error(reason_first(str(error) or f"{place}: not enough memory; close other layers or crop the series", place))
        return _NO_LAYER
    for text in opened.said[:_TOLD_AT_MOST]:
        _say(text)
    for text in opened.warnings[:_TOLD_AT_MOST]:
        _warn(text)
    if len(opened.warnings) > _TOLD_AT_MOST:
        _warn(f"{place.name}: {len(opened.warnings) - _TOLD_AT_MOST} more warnings of the kind")
    return opened.layers


@dataclass
class _Opened:
    """Layers of a path, and what a person should know of it."""

    layers: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add(self, found: Sequence[ImageSeries], name: str, **asked: Any) -> None:
        """Layers of what was read with the options ``asked``, which are needed to read it again."""
        from napari_r2n2.layers.from_series import name_layer, series_to_layers
        from napari_r2n2.reading.dicom_window import window_of
        from r2n2.io.volume_choice import told_reading

        found = [replace(item, source={**item.source, "asked": asked}) for item in found] if asked else found
        layers = series_to_layers(found)
        for index, (_data, options, _kind) in enumerate(layers):
            position = found[index].source.get("slice_index", found[index].source.get("slice", index))
            part = "stack" if found[index].grid.ndim == 3 else "slice"
            name_layer(options, name if len(layers) == 1 else f"{name} {part} {position}")
            window = None if options["rgb"] else window_of(found[index])
            if window is not None:
                options["contrast_limits"] = window
        self.layers += layers
        reading = told_reading(found[0].notes)
        if reading and any(len(item) > 1 for item in found):
            self.said.append(f"{name}: {reading}. {_OTHER_WAY}")
        self.warnings += dict.fromkeys(note for item in found for note in item.notes if "left out as damaged" in note)
        if all(len(item) == 1 for item in found):
            held = "a single volume" if found[0].grid.ndim == 3 else "single images"
            self.warnings.append(
                f"{name}: holds {held} and no series in time, so there is nothing to align; "
                "open a file or folder with several frames of the same slice"
            )


def _open_asking(place: Path) -> _Opened:
    """What a path holds; in a window a person is asked what the axes of an array mean that does not say so."""
    from r2n2.errors import AxesUnknownError, ReadError

    try:
        return _open(place)
    except AxesUnknownError as question:
        if not _in_window():
            raise
        from napari_r2n2.widgets.axes_question import ask_axes

        axes = ask_axes(place, question)
        if axes is None:
            raise ReadError(f"{place}: not opened, as what its axes mean is not known; open it again and say so") from question
        return _open(place, axes=axes)


def _open(place: Path, **asked: Any) -> _Opened:
    from napari_r2n2.preferences import read_preferences
    from r2n2.io import read_series
    from r2n2.io.dispatch import detect_format

    opened = _Opened()
    volumes = read_preferences().volumes
    if volumes is not None:
        asked["volumes"] = volumes
    if detect_format(place) != "dicom":
        opened.add(read_series(place, **asked), _stem(place), **asked)
    elif place.is_dir():
        _open_dicom_folder(place, opened, volumes)
    else:
        asked = {"drop_damaged": True, **asked}
        found = read_series(place, **asked)
        opened.add(found, found[0].name if len(found) == 1 else _stem(place), **asked)
        _LAST.remember(place, (str(file) for item in found for file in item.source.get("files", ())))
    return opened


def _open_dicom_folder(folder: Path, opened: _Opened, volumes: bool | None) -> None:
    """Every series of a folder that moves; single images, such as localisers, only where there is nothing else."""
    from r2n2.errors import R2N2Error, ReadError, ResourceError
    from r2n2.io import read_series
    from r2n2.io.checks import DEFAULT_MAX_BYTES
    from r2n2.io.dicom.listing import list_dicom

    name = folder.resolve().name or "DICOM"
    asked: dict[str, Any] = {"drop_damaged": True, **({} if volumes is None else {"volumes": volumes})}
    listing = list_dicom(folder, volumes=volumes)
    groups, stacks = listing.groups, listing.volumes
    series = list(dict.fromkeys([*(stack.key for stack in stacks), *(group.series_key for group in groups)]))
    if len(series) <= 1:
        opened.add(read_series(folder, **asked), name, **asked)
        return
    held = [*((stack.key, stack.frames) for stack in stacks), *((group.series_key, group.frames) for group in groups)]
    moving = [key for key in series if any(frames > 1 for other, frames in held if other == key)]
    needed = sum(2 * g.frames * g.channels * g.shape[0] * g.shape[1] for g in groups if g.series_key in moving)
    if needed > DEFAULT_MAX_BYTES:
        raise ResourceError(
            f"{folder}: its {len(moving)} series would take about {needed / 2**30:.0f} GiB of memory; open the folders one by one"
        )
    problems: list[str] = []
    labels = {stack.key: stack.label for stack in stacks} | {group.series_key: group.label for group in groups}
    for number, key in enumerate(series, start=1):
        if key in moving or not moving:
            try:
                title = f"{name} series {number}" + (f", {labels[key]}" if labels[key] else "")
                found = read_series(folder, series=key, **asked)
                opened.add(found, title, series=key, **asked)
            except R2N2Error as error:
                problems.append(f"series {number} of {len(series)} is not shown: {error}")
    if not opened.layers:
        raise ReadError(f"{folder}: none of its {len(series)} series can be shown. {problems[0]}")
    opened.warnings += [reason_first(problem, folder) for problem in problems]
    if moving and len(moving) < len(series):
        still = len(series) - len(moving)
        opened.warnings.append(f"{name}: {still} of {len(series)} series hold single images only and are not shown")


class _LastSeries:
    """The files of the DICOM series read last: files dropped together each stand for the whole series, which is wanted once."""

    def __init__(self) -> None:
        self._files: frozenset[str] = frozenset()
        self._asked: set[str] = set()
        self._seen = 0.0

    def remember(self, place: Path, files: Iterable[str]) -> None:
        self._files, self._asked, self._seen = frozenset(files), {str(place)}, time.monotonic()

    def holds(self, place: Path) -> bool:
        """Whether the file belongs to the series read a moment ago; a file that is asked for twice was dropped anew."""
        name = str(place)
        if name not in self._files or name in self._asked or time.monotonic() - self._seen > _SAME_DROP_S:
            return False
        self._asked.add(name)
        self._seen = time.monotonic()
        return True


_LAST = _LastSeries()


def _place(paths: Sequence[str]) -> Path | None:
    """The file or folder that is meant; of several files the folder, if it holds DICOM."""
    if len(paths) == 1:
        return Path(paths[0])
    folders = {Path(file).parent for file in paths}
    one = folders.pop() if len(folders) == 1 else None
    return one if one is not None and _holds_dicom(one) else None


def _is_ours(folder: Path) -> bool:
    return folder.suffix == ".zarr" or any((folder / mark).exists() for mark in _ZARR_MARKS) or _holds_dicom(folder)


def _holds_dicom(folder: Path) -> bool:
    """Whether one of the first files has the DICOM mark, so that other plugins keep their folders."""
    for file in itertools.islice((entry for entry in folder.rglob("*") if entry.is_file()), _FILES_LOOKED_AT):
        try:
            with file.open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    return True
        except OSError:
            continue
    return False


def _is_picture_without_time(file: Path, *, alone: bool) -> bool:
    """Whether a TIFF or GIF is to be left to napari: several that are to be stacked, or one that does not move.

    A damaged file is not: its reading says what is wrong.
    """
    if file.suffix.lower() not in _PICTURES or not file.is_file():
        return False
    if not alone:
        return True
    try:
        if file.suffix.lower() == ".gif":
            from PIL import Image

            with Image.open(file) as image:
                return int(getattr(image, "n_frames", 1)) < 2
        import tifffile

        with tifffile.TiffFile(file) as tiff:
            first = tiff.series[0]
            return int(dict(zip(first.axes, first.shape, strict=True)).get("T", 1)) < 2
    except Exception:
        # Whatever the libraries raise on damage, which the true reading explains.
        _LOG.debug("%s: not understood at first sight", file, exc_info=True)
        return False


def _naparis_own(path: str | Sequence[str]) -> Reader | None:
    # Part of napari; it has no types and, where napari is not installed, is not there for a type checker.
    reader: Reader | None = importlib.import_module("napari_builtins.io").napari_get_reader(path)
    return reader


def _stem(place: Path) -> str:
    lower = place.name.lower()
    suffix = next((suffix for suffix in _LONG_SUFFIXES if lower.endswith(suffix)), place.suffix)
    return place.name[: len(place.name) - len(suffix)] or place.name


def _in_window() -> bool:
    """Whether a click or drop asks, not a script: then no error may pass, as napari would only say that reading failed."""
    qt = sys.modules.get("qtpy.QtCore")
    return qt is not None and qt.QCoreApplication.instance() is not None and qt.QThread.currentThread().loopLevel() > 0


def _say(text: str) -> None:
    if _in_window():
        from napari.utils.notifications import show_info

        show_info(text)
    else:
        _LOG.info(text)


def _warn(text: str) -> None:
    if _in_window():
        from napari.utils.notifications import show_warning

        show_warning(text)
    else:
        _LOG.warning(text)


def reason_first(text: str, place: Path) -> str:
    """A message that begins with its reason and ends with the file's name: of a long path a notification shows nothing else."""
    reason = text.removeprefix(f"{place}: ")
    reason = reason[:1].upper() + reason[1:]
    named = reason if place.name in reason else f"{reason} ({place.name})"
    return f"{named} Options such as --axes are those of the command r2n2 in a terminal." if " --" in named else named
