"""What makes a frame another kind of image than its neighbours at the same place: echo, b-value, component, coil and so on.

Values that vary from frame to frame in any series (trigger and acquisition times, heart rate, window, rescale, SAR, tube
current, table position) are no attributes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from r2n2.io.dicom.values import FunctionalGroups, clean_uid, integer, number, numbers, private_value, text, words

__all__ = ["ATTRIBUTES", "Attribute", "Value", "acquisition_number", "frame_attributes", "other_dimensions"]

Value = float | tuple[float, ...] | frozenset[str] | str
"""A number, a direction, the words of an image type, or a name that is compared but never shown."""


@dataclass(frozen=True)
class Attribute:
    """How an attribute is compared and told.

    Parameters
    ----------
    joinable
        Whether a series may be made of frames that differ in it, on request.
    unit
        Of the numbers.
    relative, absolute
        Numbers that differ by less than the larger of both are the same: scanners note what they measured.
    """

    joinable: bool = True
    unit: str = ""
    relative: float = 0.0
    absolute: float = 0.0


# In the order in which a person is told of them.
ATTRIBUTES: Mapping[str, Attribute] = {
    "ComplexImageComponent": Attribute(joinable=False),
    "ImageType": Attribute(joinable=False),
    "InversionTime": Attribute(unit=" ms", relative=0.01, absolute=1),
    "EchoTime": Attribute(unit=" ms", relative=0.01, absolute=0.01),
    "DiffusionBValue": Attribute(relative=0.05, absolute=2),
    "FlipAngle": Attribute(unit=" degrees", relative=0.02, absolute=0.1),
    "RepetitionTime": Attribute(unit=" ms", relative=0.1, absolute=0.5),
    "ContrastBolusAgentPhase": Attribute(),
    "ASLContext": Attribute(),
    "MagnetizationTransfer": Attribute(),
    "ScanOptions": Attribute(),
    "ScanningSequence": Attribute(),
    "SequenceVariant": Attribute(),
    "VelocityEncodingMaximumValue": Attribute(unit=" cm per s", relative=0.01),
    "VelocityEncodingDirection": Attribute(absolute=0.02),
    "TagAngleFirstAxis": Attribute(unit=" degrees", absolute=1),
    "DiffusionGradientOrientation": Attribute(absolute=0.02),
    "EchoNumbers": Attribute(),
    "EchoTrainLength": Attribute(),
    "NumberOfAverages": Attribute(),
    "PixelBandwidth": Attribute(unit=" Hz", relative=0.02),
    "KVP": Attribute(unit=" kV", relative=0.02, absolute=1),
    "StageNumber": Attribute(),
    "ViewNumber": Attribute(),
    "EnergyWindowVector": Attribute(joinable=False),
    "DetectorVector": Attribute(joinable=False),
    "RotationVector": Attribute(),
    "AngularViewVector": Attribute(),
    "PhaseVector": Attribute(),
    "RRIntervalVector": Attribute(),
    "SequenceName": Attribute(),
    "ReceiveCoilName": Attribute(joinable=False),
    "TransmitCoilName": Attribute(joinable=False),
    "ConvolutionKernel": Attribute(joinable=False),
}

_KEYWORDS = {"EchoTime": ("EffectiveEchoTime", "EchoTime"), "InversionTime": ("InversionTimes", "InversionTime")}
_NUMBERS = (
    *("InversionTime", "EchoTime", "FlipAngle", "RepetitionTime", "EchoNumbers", "KVP", "StageNumber", "ViewNumber"),
    *("VelocityEncodingMaximumValue", "TagAngleFirstAxis", "EchoTrainLength", "NumberOfAverages", "PixelBandwidth"),
)
_WORDS = ("ContrastBolusAgentPhase", "ASLContext", "MagnetizationTransfer", "ScanOptions", "ScanningSequence", "SequenceVariant")
_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
_KNOWN_KEYWORDS = {*ATTRIBUTES, "EffectiveEchoTime", "InversionTimes", "FrameType"}
_DIRECTIONS = ("VelocityEncodingDirection", "DiffusionGradientOrientation")
_NAMES = ("SequenceName", "ReceiveCoilName", "TransmitCoilName", "ConvolutionKernel")
_B_VALUE_BLOCKS = {(0x0019, 0x0C), (0x0043, 0x39), (0x2001, 0x03), (0x0065, 0x09)}
_DIMENSIONS_OF_PLACE_OR_TIME = (
    *("StackID", "InStackPositionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PlanePositionSequence"),
    *("TemporalPositionIndex", "TemporalPositionTimeOffset", "FrameAcquisitionDateTime", "FrameReferenceDateTime", "TriggerTime"),
    *("NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "CardiacCyclePosition"),
    *("NominalRespiratoryTriggerDelayTime", "ActualRespiratoryTriggerDelayTime", "NominalPercentageOfRespiratoryPhase"),
    *("RespiratoryCyclePosition", "FrameAcquisitionNumber", "FrameAcquisitionDuration", "ReferencedSegmentNumber"),
)
_GE_SCALE = 1_000_000_000


def frame_attributes(groups: FunctionalGroups, index: int) -> dict[str, Value]:
    """The attributes that the header of frame ``index`` holds, from its functional groups or the data set."""
    found: dict[str, Value | None] = {
        "ComplexImageComponent": _component(groups),
        "ImageType": _image_type(groups),
        "DiffusionBValue": _b_value(groups),
    }
    for name in _WORDS:
        found[name] = frozenset(words(groups.holder(name), name)) or None
    for name in _NUMBERS:
        keywords = _KEYWORDS.get(name, (name,))
        values = (numbers(groups.holder(keyword), keyword) for keyword in keywords)
        found[name] = next((v[0] if len(v) == 1 else v for v in values if v is not None and math.isfinite(v[0])), None)
    for name in _DIRECTIONS:
        found[name] = numbers(groups.holder(name), name, 3)
    for name in _NAMES:
        found[name] = _hidden(text(groups.holder(name), name))
    coil = private_value(groups.dataset, 0x0051, 0x0F)
    if coil:
        found["ReceiveCoilName"] = _hidden(f"{found['ReceiveCoilName'] or ''} {coil}")
    for name in (name for name in ATTRIBUTES if name.endswith("Vector")):
        vector = numbers(groups.dataset, name)
        found[name] = vector[index] if vector is not None and index < len(vector) else None
    return {name: value for name, value in found.items() if value is not None}


def acquisition_number(groups: FunctionalGroups) -> int | None:
    """Number of the acquisition that a frame belongs to."""
    own = integer(groups.holder("FrameAcquisitionNumber"), "FrameAcquisitionNumber")
    return integer(groups.dataset, "AcquisitionNumber") if own is None else own


def other_dimensions(groups: FunctionalGroups) -> dict[str, int]:
    """Index in every dimension of an enhanced file that is none of place, time or a known attribute."""
    from pydicom.datadict import keyword_for_tag

    values = numbers(groups.holder("DimensionIndexValues"), "DimensionIndexValues")
    items = groups.dataset.get("DimensionIndexSequence") or []
    if values is None or len(values) != len(items):
        return {}
    found = {}
    for item, value in zip(items, values, strict=True):
        pointer = item.get("DimensionIndexPointer")
        name = keyword_for_tag(pointer) if isinstance(pointer, int) else ""
        if name not in _DIMENSIONS_OF_PLACE_OR_TIME and name not in _KNOWN_KEYWORDS and isinstance(pointer, int):
            found[name or f"({pointer >> 16:04x},{pointer & 0xFFFF:04x})"] = int(value)
    return found


def _component(groups: FunctionalGroups) -> frozenset[str] | None:
    """Magnitude, phase, real or imaginary part, from the standard's element or GE's own."""
    told = frozenset(words(groups.holder("ComplexImageComponent"), "ComplexImageComponent"))
    own = number({"n": private_value(groups.dataset, 0x0043, 0x2F)}, "n")
    if not told and own is not None and own in range(len(_GE_COMPONENTS)):
        return frozenset({_GE_COMPONENTS[int(own)]})
    return told or None


def _image_type(groups: FunctionalGroups) -> frozenset[str] | None:
    frame_type = words(groups.holder("FrameType"), "FrameType")
    kinds = frame_type or words(groups.dataset, "ImageType")
    return frozenset(word for word in kinds if word) or None


def _b_value(groups: FunctionalGroups) -> float | None:
    """The b-value in s/mm2, from the standard's element or the vendor's own."""
    value = number(groups.holder("DiffusionBValue"), "DiffusionBValue")
    if value is not None and math.isfinite(value):
        return value
    for group, element in _B_VALUE_BLOCKS:
        raw = private_value(groups.dataset, group, element)
        values = [raw] if isinstance(raw, (str, int, float)) else list(raw) if hasattr(raw, "__iter__") else []
        try:
            first = float(values[0]) if values and not isinstance(raw, bytes) else math.nan
        except (TypeError, ValueError):
            continue
        if math.isfinite(first) and first >= 0:
            return first % _GE_SCALE if group == 0x0043 else first  # GE adds 1e9 to tell its kinds apart
    # Siemens writes it into the name of the sequence, such as *ep_b1000#3
    match = re.search(r"ep_b(\d+)", text(groups.holder("SequenceName"), "SequenceName"))
    return float(match[1]) if match and len(match[1]) < 7 else None


def _hidden(name: str) -> str | None:
    """A stand-in of a free text: equal for equal texts, and telling nothing."""
    return hashlib.sha256(clean_uid(name).encode()).hexdigest()[:16] if name else None
