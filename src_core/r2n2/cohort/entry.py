"""What a cohort is made of: acquisitions with their options, and the tasks into which they fall, as values to send and keep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import Field

from r2n2 import __version__
from r2n2.config import Config, RegistrationConfig

__all__ = ["DerivativeName", "Entry", "Listing", "Outcome", "Selector", "Task"]


class DerivativeName(Config):
    """Where the files of a BIDS-like tree come from and go."""

    source_root: str
    """The data set, absolute."""
    source: str
    """The file in it, with slashes."""
    output_root: str
    """The data set of the derivatives, absolute."""


class Entry(Config):
    """One acquisition, and all that is asked of it."""

    name: str
    """Of its folder in the output folder."""
    path: str
    """File, folder or pattern, as ``read_series`` takes it."""
    settings: RegistrationConfig = RegistrationConfig()
    """How it is registered."""
    axes: str | None = None
    """As of ``read_series``, like what follows."""
    spacing: tuple[float, ...] | None = None
    """(y, x) or (z, y, x) in mm."""
    series: str | None = None
    """Which series, where there are several."""
    slice: int | None = Field(default=None, ge=0)
    """Only this slice position."""
    contrast_series: bool = False
    """One series of frames that were made in different ways."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Most bytes to hold in memory."""
    allow_missing: bool = False
    """Accept missing Zarr chunks."""
    drop_damaged: bool = False
    """Leave out damaged DICOM frames."""
    landmarks: str | None = None
    """File, or folder with one a slice position."""
    mask: str | None = None
    """Of the reference: file, or folder with one a slice position."""
    moving_mask: str | None = None
    """Of the other frames."""
    keep_headers: bool = False
    """Copy all DICOM headers, patient data included."""
    overwrite: bool = False
    """Replace an earlier result."""
    derivative: DerivativeName | None = None
    """In a BIDS-like tree."""

    @property
    def reading(self) -> dict[str, Any]:
        """The options that choose what is read, as ``read_series`` takes them and run.json records them."""
        chosen = {"axes": self.axes, "spacing": self.spacing, "series": self.series, "slice_index": self.slice}
        return {name: value for name, value in chosen.items() if value is not None} | (
            {"contrast_series": True} if self.contrast_series else {}
        )

    @property
    def limits(self) -> dict[str, Any]:
        """The options that say what is accepted."""
        bytes_ = {} if self.max_bytes is None else {"max_bytes": self.max_bytes}
        return {"allow_missing": self.allow_missing, "drop_damaged": self.drop_damaged, **bytes_}


class Selector(Config):
    """Which slice position of an acquisition a task is about."""

    index: int = 0
    """Among those of the acquisition, which names its folder."""
    count: int = 1
    """How many there are."""
    series: str | None = None
    """As ``read_series`` needs it to find this one."""
    slice: int | None = None
    """The same."""


class Listing(Config):
    """The task of finding out which slice positions an acquisition holds."""

    entry: Entry
    folder: str
    """Of the acquisition, absolute."""
    version: str = __version__
    """Of what asks; another one may not do it."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.entry.name

    @property
    def place(self) -> Path:
        """Folder of what it gives."""
        return Path(self.folder)


class Task(Listing):
    """The task of registering one slice position."""

    selector: Selector = Selector()

    @property
    def slice_name(self) -> str:
        """Name of its sub-folder; "" where the acquisition holds one slice position and has none."""
        return f"slice_{self.selector.index:02d}" if self.selector.count > 1 else ""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.entry.name}/{self.slice_name}" if self.slice_name else self.entry.name

    @property
    def place(self) -> Path:
        """Folder of the result."""
        return Path(self.folder) / self.slice_name


class Outcome(Config):
    """What became of a task: all that ever comes back from a worker, as results are on disk."""

    exit_code: int = 0
    """0, or that of the command line for what went wrong."""
    message: str = ""
    """What went wrong, in one line."""
    attempts: int = 1
    """How often it was begun."""
    slices: tuple[Selector, ...] = ()
    """Of a listing."""
    frames: int = 0
    flagged: int = 0
    """Frames to be looked at."""
    seconds: float = Field(default=math.nan, allow_inf_nan=True)
    """Wall time of this attempt."""
    was_there: bool = False
    """The result was there before."""
    worker: str = ""
    """Address of the worker, where there are several."""

    @property
    def final(self) -> bool:
        """Whether trying again would give nothing else: it was done, or what it was given is wrong."""
        return self.exit_code in (0, _USAGE, _BAD_INPUT)


_USAGE, _BAD_INPUT = 2, 3
