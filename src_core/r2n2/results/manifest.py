"""What run.json says about a run: every setting, version and hash that is needed to trust or repeat it, and no patient data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from r2n2.config import Config, Precision, RegistrationConfig
from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.guides import Guides
from r2n2.mask import NO_MASKS, Mask, Masks
from r2n2.series import ImageSeries, LandmarkSet

__all__ = [
    "CONVENTION",
    "MANIFEST_NAME",
    "TRUST_NAME",
    "AcquisitionManifest",
    "GridRecord",
    "GuideRecord",
    "InputRecord",
    "MaskRecord",
    "RunFacts",
    "RunManifest",
    "TrustRecord",
    "UncertaintyRecord",
    "guides_sha256",
    "input_sha256",
    "landmarks_sha256",
    "load_manifest",
    "run_sha256",
    "versions",
]

MANIFEST_NAME = "run.json"
TRUST_NAME = "trust.mha"
CONVENTION = {
    "displacement": "f maps points of the reference into the moving frame (pull-back): registered(x) = moving(x + f(x))",
    "sequence": "the steps of a sequence are summed; the original moving frame is resampled once with the sum",
    "order": "array order (z,)y,x in every table and archive; fields/*.mha hold ITK's x-first vectors",
    "unit": "mm in tables and fields; pixel centres are 0-based; archives say which normalised unit they use",
    "outside": "edge pixels repeated",
}
# What a reader may pass on about a file; anything else could name a patient.
_SOURCE_ALLOWED = ("format", "axes", "time_tag", "time_axis", "slice_index", "slice_count", "intensity_scaling", "frames_dropped")


def _entry_name(name: str) -> str:
    """The name of an entry of the folder itself: what run.json names is read, and written, nowhere else."""
    if not name or name.startswith(".") or any(sign in name for sign in "/\\:\0"):
        raise ValueError(f"expected the name of an entry of this folder, got {name[:60]!r}")
    return name


MaskKind = Literal["fixed", "moving"]
EntryName = Annotated[str, AfterValidator(_entry_name)]


class GridRecord(Config):
    """A grid as plain numbers."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        self.grid()
        return self

    @classmethod
    def of(cls, grid: Grid) -> GridRecord:
        """The record of a grid."""
        return cls(shape=grid.shape, spacing=grid.spacing, origin=grid.origin, direction=grid.direction)

    def grid(self) -> Grid:
        """The grid again."""
        return Grid(self.shape, self.spacing, self.origin, self.direction)


class InputRecord(Config):
    """The series that was registered."""

    path: str
    """As given by the person who ran it."""
    sha256: str
    """Over pixel values, geometry and times."""
    frames: int
    channels: int
    dtype: str
    modality: str
    grid: GridRecord
    patient_grid: GridRecord | None
    spacing_known: bool
    times_s: tuple[float, ...] | None
    source: dict[str, Any]
    """How it was read: format, axis order, which tag gave the time."""
    selection: dict[str, Any]
    """Options that chose what was read: axes, spacing, series, slice."""
    notes: tuple[str, ...]

    @classmethod
    def of(cls, series: ImageSeries, sha256: str, selection: Mapping[str, Any]) -> InputRecord:
        """The record of a series; of its source only what is on the list of allowed keys."""
        return cls(
            path=str(series.source.get("path", "")),
            sha256=sha256,
            frames=len(series),
            channels=series.channels,
            dtype=str(series.dtype),
            modality=series.modality,
            grid=GridRecord.of(series.grid),
            patient_grid=None if series.patient_grid is None else GridRecord.of(series.patient_grid),
            spacing_known=series.spacing_known,
            times_s=series.times_s,
            source={key: series.source[key] for key in _SOURCE_ALLOWED if key in series.source},
            selection=dict(selection),
            notes=series.notes,
        )


class MaskRecord(Config):
    """A mask that was used; it lies in the folder, too."""

    path: str
    """As given by the person who ran it, "" where it came from no file."""
    sha256: str
    """Over the weights on the pixels of the series."""
    masks: int
    """1, or one a frame."""
    notes: tuple[str, ...]

    @classmethod
    def of(cls, masks: Masks) -> dict[MaskKind, MaskRecord]:
        """The records of those that are there."""
        given: dict[MaskKind, Mask | None] = {"fixed": masks.fixed, "moving": masks.moving}
        return {
            kind: cls(path=mask.path, sha256=mask.sha256, masks=len(mask), notes=mask.notes)
            for kind, mask in given.items()
            if mask is not None
        }


class GuideRecord(Config):
    """Guiding pairs that were used; they lie in the folder, too."""

    path: str
    """As given by the person who ran it, "" where they came from no file."""
    sha256: str
    """Over ids, frames, places and strength."""
    strength_mm: float
    """To within which distance they are right."""
    pairs: dict[int, int]
    """Frame -> number of its pairs."""

    @classmethod
    def of(cls, guides: Guides | None, reference: int, grid: Grid) -> Self | None:
        """The record; None without any."""
        if guides is None:
            return None
        counts = dict(guides.counts(reference, grid))
        return cls(path=guides.path, sha256=guides_sha256(guides), strength_mm=guides.strength_mm, pairs=counts)


class UncertaintyRecord(Config):
    """How the maps of uncertainty were made."""

    probability: float = 0.9
    """With which a position is not farther from the true one than the radius says."""
    both_ways: bool
    """Whether every frame was registered back as well."""
    calibrated_on: str
    """Kinds of series and seeds from which the probability is known."""
    tables_sha256: str
    uncalibrated: dict[int, str]
    """Frame -> why the probability is not known to hold for it."""

    @classmethod
    def of(cls, config: RegistrationConfig, uncalibrated: Mapping[int, str]) -> Self | None:
        """Of a run with these settings, the measure that frames were compared by among them; None where none were made."""
        if not config.estimates_uncertainty:
            return None
        from r2n2.registration.uncertainty.tables import method_key, shipped_tables, tables_sha256

        tables = shipped_tables()
        table = tables.methods.get(method_key(config))
        return cls(
            both_ways=config.uncertainty == "full",
            calibrated_on="" if table is None else table.calibrated_on or tables.calibrated_on,
            tables_sha256=tables_sha256(),
            uncalibrated=dict(uncalibrated),
        )


class TrustRecord(Config):
    """How far pixels of the reference were trusted in the last steps; the map lies in the folder."""

    frames: int
    """That the map is made of."""
    noise: float
    """Up to which a pixel is fully trusted: root mean square of what is left, in standard deviations of the intensity."""
    less_than_half_percent: float
    """Share of the pixels that count less than half."""


class RunFacts(Config):
    """What a run uses, taken down when it runs: files may be written later, by another process or on another machine."""

    device: str = "cpu"
    weights_sha256: str | None = None
    precision: Precision = "float32"
    """Of the network's convolutions."""
    threads: int | None = None
    """That torch computes with; null where that is not known."""
    wall_time_s: float | None = None
    """Of a run that is over when its files are written; None counts up to their end."""

    @classmethod
    def of(cls, config: RegistrationConfig) -> Self:
        """Of a run with these settings in this process; where the machine has to measure its precision, that is done here.

        Raises
        ------
        R2N2Error
            If the device is not there or the weights cannot be used.
        """
        import torch

        from r2n2.network.checkpoint import read_manifest
        from r2n2.registration import resolve_device
        from r2n2.registration.precision import precision_of_run

        device = resolve_device(config.device)
        return cls(
            device=str(device),
            weights_sha256=read_manifest(config.weights).sha256 if config.method == "r2n2" else None,
            precision=precision_of_run(config, device),
            threads=torch.get_num_threads(),
        )

    def held_to(self, config: RegistrationConfig) -> RegistrationConfig:
        """Settings under which a run uses just these, whatever "auto" would mean by then."""
        return config.model_copy(update={"device": self.device, "precision": self.precision})


class RunManifest(Config):
    """The run.json of one registered series, written last."""

    format_version: Literal[1] = 1
    kind: Literal["series"] = "series"
    run_sha256: str
    """Equal for a run of the same version over the same input with the same settings."""
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    settings: RegistrationConfig
    device: str
    precision: Precision | None = None
    """Of the network's convolutions, whatever "auto" meant; null where an older version wrote the file."""
    threads: int | None = None
    """That torch computed with, in the last part of the run; null where that is not known."""
    weights_sha256: str | None
    landmarks_sha256: str | None
    masks: dict[MaskKind, MaskRecord] = Field(default_factory=dict)
    """What counted, in the reference and in the other frames; what is missing was all there is."""
    guides: GuideRecord | None = None
    """What guided the registration; null where nothing did."""
    input: InputRecord
    reference: int
    similarity: str
    """What the columns similarity_before and similarity_after are."""
    similarity_measure: str = "ssd"
    """What frames were compared by, whatever "auto" meant."""
    convention: dict[str, str]
    status_counts: dict[str, int]
    messages: dict[int, str]
    """Frame -> why its result is not simply ok."""
    uncertainty: UncertaintyRecord | None = None
    """How the maps of uncertainty were made; null where there are none."""
    trust: TrustRecord | None = None
    """How far pixels of the reference were trusted; null where all counted alike."""
    wall_time_s: float
    """Of all parts of the run; what a killed part did after the last batch that it finished is not known and does not count."""
    peak_memory_mib: float | None
    """Largest resident memory of any part's process; null where the system does not tell."""
    parts: int = 1
    """In how many goes it was done: 1, and 1 more for each time that it was stopped or killed and went on."""
    files: tuple[EntryName, ...]

    @property
    def registered_file(self) -> str | None:
        """Name of the aligned series in the folder; None where there is none."""
        return next((file for file in self.files if file.startswith("registered")), None)

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        frames = self.input.frames
        if not 0 <= self.reference < frames:
            raise ValueError(f"reference: expected a frame from 0 to {frames - 1}, got {self.reference}")
        if self.input.times_s is not None and len(self.input.times_s) != frames:
            raise ValueError(f"input.times_s: expected {frames} times, got {len(self.input.times_s)}")
        return self


class AcquisitionManifest(Config):
    """The run.json of a folder that holds one sub-folder a slice position, written last."""

    format_version: Literal[1] = 1
    kind: Literal["acquisition"] = "acquisition"
    created: str
    versions: dict[str, str]
    slices: tuple[EntryName, ...]
    """Sub-folders that are complete."""
    failed: dict[str, str]
    """Sub-folder -> reason."""
    wall_time_s: float
    """Of the slice positions that are complete, whenever they were registered."""


def load_manifest(folder: Path) -> RunManifest | AcquisitionManifest:
    """The manifest of a finished folder.

    Raises
    ------
    ReadError
        If there is none (the run did not finish) or it is damaged.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise ReadError(f"{folder}: no such folder; give the folder that r2n2 register wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = AcquisitionManifest if values["kind"] == "acquisition" else RunManifest
        return kind.model_validate_json(json.dumps(values))
    except FileNotFoundError:
        raise ReadError(f"{folder}: holds no {MANIFEST_NAME}, so its run did not finish; run r2n2 register again") from None
    except (ValueError, TypeError, KeyError, ValidationError, RecursionError) as error:
        reason = _reason(error)
        raise ReadError(f"{path}: damaged or of another version ({reason}); run r2n2 register again with --overwrite") from None


def _reason(error: Exception) -> str:
    """In one line, naming the entry where one is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        return f"{entry}: {first['msg']}" if entry else str(first["msg"])
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]


def input_sha256(series: ImageSeries) -> str:
    """Hash of pixel values, pixel type, geometry and times; independent of byte order and of the file's name."""
    digest = hashlib.sha256()
    place = [series.grid, series.patient_grid, series.times_s, str(series.dtype.newbyteorder("=")), len(series), series.channels]
    digest.update(repr(place).encode())
    for index in range(len(series)):
        frame = series.frame(index)
        digest.update(np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def landmarks_sha256(landmarks: LandmarkSet) -> str:
    """Hash of ids, frames and places."""
    order = sorted(range(len(landmarks)), key=lambda k: (int(landmarks.frames[k]), landmarks.ids[k]))
    rows = [(landmarks.ids[k], int(landmarks.frames[k]), landmarks.points[k].tolist()) for k in order]
    return hashlib.sha256(json.dumps([landmarks.space.value, rows]).encode()).hexdigest()


def guides_sha256(guides: Guides) -> str:
    """Hash of guiding pairs and of their strength."""
    return hashlib.sha256(f"{landmarks_sha256(guides.landmarks)} {guides.strength_mm!r}".encode()).hexdigest()


def run_sha256(
    settings: RegistrationConfig,
    input_hash: str,
    selection: Mapping[str, Any],
    *,
    weights_sha256: str | None = None,
    landmarks_sha256: str | None = None,
    precision: Precision = "float32",
    masks: Masks = NO_MASKS,
    guides: Guides | None = None,
) -> str:
    """Hash of all that decides the result; two runs of one version with the same hash would write the same numbers."""
    # Device and batch size change no result that matters: a finished run need not be repeated for them. The precision does, and
    # it is the one computed in that counts, not "auto".
    chosen = settings.model_dump(mode="json", exclude={"device", "batch_size", "precision", "guide_strength_mm"})
    parts = [versions()["r2n2"], chosen, input_hash, dict(selection), weights_sha256, landmarks_sha256, precision]
    # Only where there are any: earlier results without are still the same run.
    parts += [masks.hashes()] if masks else []
    parts += [] if guides is None else [guides_sha256(guides)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what computes the result, read without importing it."""
    from r2n2 import __version__

    found = {"r2n2": __version__, "python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in ("torch", "numpy", "SimpleITK"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
