"""Small synthetic DICOM files for the tests of the DICOM reader and writer."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
SERIES = "1.2.826.0.1.3680043.8.498.1.100"
OBLIQUE = [0.6, 0.0, 0.8, 0.0, 1.0, 0.0]
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def pixels_of(index: int, shape: tuple[int, int] = (5, 7), dtype: Any = np.int16) -> np.ndarray:
    """A frame whose every pixel differs, from its neighbours and from other frames."""
    rows, columns = shape
    return (100 * index + np.arange(rows * columns).reshape(rows, columns)).astype(dtype)


def dataset_of(index: int = 0, pixels: np.ndarray | None = None, **values: Any) -> Dataset:
    """A classic MR frame; ``values`` replace tags, None removes one."""
    frame = pixels_of(index) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    defaults: dict[str, Any] = {
        "SOPClassUID": MR,
        "SOPInstanceUID": f"{SERIES}.7.{index + 1}",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "SeriesInstanceUID": SERIES,
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.2",
        "Modality": "MR",
        "InstanceNumber": index + 1,
        "TriggerTime": f"{40 * index + 10}",
        "AcquisitionTime": f"0841{index:02d}.250000",
        "ContentTime": f"0942{index:02d}.500000",
        "TemporalPositionIdentifier": 1,
        "PixelSpacing": [1.2, 2.5],
        "SliceThickness": "8",
        "ImageOrientationPatient": OBLIQUE,
        "ImagePositionPatient": [10.0, 20.0, 30.0],
        "Rows": frame.shape[0],
        "Columns": frame.shape[1],
        "SamplesPerPixel": 1 if frame.ndim == 2 else frame.shape[2],
        "PhotometricInterpretation": "MONOCHROME2" if frame.ndim == 2 else "RGB",
        "BitsAllocated": 8 * frame.dtype.itemsize,
        "BitsStored": 8 * frame.dtype.itemsize,
        "HighBit": 8 * frame.dtype.itemsize - 1,
        "PixelRepresentation": int(frame.dtype.kind == "i"),
    }
    for keyword, value in {**defaults, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if frame.ndim == 3:
        dataset.PlanarConfiguration = 0
    data = frame.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW"
    return dataset


def with_text(dataset: Dataset, keyword: str, vr: str, values: Any) -> Dataset:
    """Give an element values that break the rules of its type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.add_new(keyword, vr, [str(value) for value in values])
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a data set, however odd its values are."""
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int = 4, **values: Any) -> list[Path]:
    """``count`` frames in time as ``00.dcm`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(dataset_of(k, **values), folder / f"{k:02d}.dcm") for k in range(count)]


def enhanced(slices: int = 2, phases: int = 3, *, shape: tuple[int, int] = (5, 7), measures: bool = True) -> Dataset:
    """An enhanced multi-frame MR file, frames stored slice by slice with the phases backwards."""
    order = [(s, p) for s in range(slices) for p in reversed(range(phases))]
    stack = np.stack([pixels_of(10 * s + p, shape) for s, p in order])
    dataset = dataset_of(0, stack[0], SOPClassUID=ENHANCED_MR, TriggerTime=None, AcquisitionTime=None, PixelSpacing=None)
    for keyword in (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "SliceThickness",
        "TemporalPositionIdentifier",
        "ContentTime",
    ):
        delattr(dataset, keyword)
    dataset.NumberOfFrames = len(order)
    dataset.PixelData = stack.tobytes()
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=OBLIQUE)]
    if measures:
        shared.PixelMeasuresSequence = [_item(PixelSpacing=[1.2, 2.5], SliceThickness=8, SpacingBetweenSlices=9)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_functional_group(s, p) for s, p in order]
    return dataset


def _functional_group(slice_index: int, phase: int) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = [_item(ImagePositionPatient=[10.0 - 7.2 * slice_index, 20.0, 30.0 + 5.4 * slice_index])]
    group.CardiacSynchronizationSequence = [_item(NominalCardiacTriggerDelayTime=50.0 * phase)]
    group.PixelValueTransformationSequence = [_item(RescaleSlope=phase + 1, RescaleIntercept=-5, RescaleType="US")]
    return group


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def ultrasound(count: int = 4, **values: Any) -> Dataset:
    """A colour multi-frame ultrasound cine without PixelSpacing, but with a region in cm."""
    stack = np.stack([np.stack([pixels_of(k, dtype=np.uint8) // (c + 1) for c in range(3)], axis=-1) for k in range(count)])
    region = _item(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.05, PhysicalDeltaY=0.04)
    settings = {"Modality": "US", "TriggerTime": None, "AcquisitionTime": None, "ContentTime": None, "PixelSpacing": None}
    dataset = dataset_of(0, stack[0], SOPClassUID=US_MULTIFRAME, **{**settings, **values})
    dataset.NumberOfFrames = count
    dataset.FrameTime = "33.5"
    dataset.SequenceOfUltrasoundRegions = [region]
    dataset.PixelData = stack.tobytes()
    return dataset


def segmentation(masks: dict[int, np.ndarray], names: dict[int, str], kind: str = "BINARY") -> Dataset:
    """A segmentation object: (slices, rows, columns) of every segment, slices 7.5 mm apart; an empty slice is left out."""
    frames = [(number, s, mask[s]) for number, mask in masks.items() for s in range(len(mask)) if mask[s].any()]
    first = frames[0][2]
    dataset = dataset_of(0, np.zeros(first.shape, np.uint8), SOPClassUID=SEGMENTATION, Modality="SEG", TriggerTime=None)
    for keyword in (
        "PixelSpacing",
        "SliceThickness",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "TemporalPositionIdentifier",
    ):
        delattr(dataset, keyword)
    dataset.SegmentationType = kind
    dataset.NumberOfFrames = len(frames)
    dataset.SegmentSequence = [_item(SegmentNumber=number, SegmentLabel=name) for number, name in names.items()]
    measures = _item(PixelSpacing=[1.2, 2.5], SliceThickness=7.5, SpacingBetweenSlices=7.5)
    dataset.SharedFunctionalGroupsSequence = [
        _item(PlaneOrientationSequence=[_item(ImageOrientationPatient=AXIAL)], PixelMeasuresSequence=[measures])
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[10.0, 20.0, 30.0 + 7.5 * s])],
            **({} if kind == "LABELMAP" else {"SegmentIdentificationSequence": [_item(ReferencedSegmentNumber=number)]}),
        )
        for number, s, _ in frames
    ]
    stack = np.stack([frame for _, _, frame in frames]).astype(np.uint8)
    if kind == "BINARY":
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
        stack = np.packbits(stack.ravel(), bitorder="little")
    elif kind == "FRACTIONAL":
        dataset.MaximumFractionalValue = 200
    data = stack.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    return dataset


def pixel_offset(path: Path) -> int:
    """Where the value of an uncompressed PixelData element starts."""
    data = path.read_bytes()
    return data.rindex(b"\xe0\x7f\x10\x00OW\0\0") + 12


def nested_sequence(levels: int, tag: tuple[int, int] = (0x0008, 0x1110)) -> bytes:
    """Sequences of undefined length inside each other, as bytes of an explicit little endian element."""
    opening = struct.pack("<HH2sHL", *tag, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return opening * levels + closing * levels


def insert_nested(path: Path, levels: int) -> Path:
    """Put nested sequences behind the file's Modality element."""
    data = path.read_bytes()
    place = data.index(b"\x08\x00\x60\x00CS") + 10
    path.write_bytes(data[:place] + nested_sequence(levels) + data[place:])
    return path


def dicomdir(folder: Path, names: list[list[str]]) -> Path:
    """A DICOMDIR that names files, one list of path parts each."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.1.3.10"
    records = [Dataset() for _ in names]
    for record, parts in zip(records, names, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record.add(DataElement(0x00041500, "CS", parts, already_converted=True))
        record.DirectoryRecordType = "IMAGE"
    dataset.DirectoryRecordSequence = Sequence(records)
    return save(dataset, folder / "DICOMDIR")
