"""What is known of one DICOM frame without decoding it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r2n2.io.dicom.attributes import Value

__all__ = ["FrameHeader"]


@dataclass(frozen=True)
class FrameHeader:
    """What is known of one frame without decoding it.

    Parameters
    ----------
    path, index
        File, and which of its frames (0-based).
    shape
        (rows, columns).
    spacing
        (row, column) distance = (y, x) in mm, or None where unknown or unusable.
    position_mm, orientation
        ImagePositionPatient and ImageOrientationPatient as in the file: LPS, x first; None where missing.
    compressed
        Whether the pixels lie in fragments.
    thickness_mm
        Distance to the next slice, or None.
    between_mm
        SpacingBetweenSlices, or None.
    times
        Value by tag of all that may order the frames: s, or whole microseconds for ``CLOCK_TAGS``, or a plain number.
    temporal_resolution_s
        Duration of one temporal position, or None.
    attributes
        What kind of image it is, by name: frames that differ in one are not of one series in time.
    acquisition
        Number of the acquisition, or None.
    dimensions
        Index of the frame in every dimension of an enhanced file that is none of place, time or a known attribute.
    grouped
        Whether the file describes each of its frames on its own, so that frames of several files may make one series.
    phase
        Percent of the cycle that the description of the series names, and a stand-in for the rest of its words; None without.
    tile
        Which part of a MOSAIC, counted along its rows, and how many parts lie side by side; None for a whole frame.
    remarks
        What a person should know, without any header value outside the allow-list.
    spacing_problem, refusal, damage
        What makes spacing, frame or pixels unusable; "" if nothing.
    """

    path: Path
    index: int
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    sop_uid: str
    instance: int | None
    shape: tuple[int, int]
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    pixel_keyword: str
    transfer_syntax: str
    compressed: bool
    slope: float
    intercept: float
    modality: str
    spacing: tuple[float, float] | None
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    slice_location: float | None
    thickness_mm: float | None
    times: Mapping[str, float]
    temporal_resolution_s: float | None
    attributes: Mapping[str, Value] = field(default_factory=dict)
    between_mm: float | None = None
    acquisition: int | None = None
    series_number: int | None = None
    dimensions: Mapping[str, int] = field(default_factory=dict)
    multiframe: bool = False
    grouped: bool = False
    phase: tuple[float, str] | None = None
    tile: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    spacing_problem: str = ""
    refusal: str = ""
    damage: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """How messages call the frame: InstanceNumber, and frame number for multi-frame files."""
        instance = "without InstanceNumber" if self.instance is None else f"InstanceNumber {self.instance}"
        return f"{instance}, frame {self.index}" if self.multiframe else instance

    @property
    def channels(self) -> int:
        """Channels after decoding: a palette makes three of one sample."""
        return 3 if "PALETTE" in self.photometric else self.samples
