"""Writes a registered series as derived DICOM, one file a frame, in the stored type and rescale of the series it came from.

Only the allow-list goes out: geometry, timing, modality and intensity scaling. Patient, study and equipment stay empty
unless the headers are asked for, and times of day start at 0 with the first frame. Nothing depends on when or where a file is
written: equal series and frames give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ReadError
from r2n2.io.atomic import atomic_write, resource_errors
from r2n2.io.dicom.bounded import BoundedFile, quiet
from r2n2.io.dicom.uids import settle_uids, stand_in, uid_of
from r2n2.series import ImageSeries

__all__ = ["write_dicom_series"]

_SOP_CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_TRIGGER_TAGS = ("TriggerTime", "NominalCardiacTriggerDelayTime")
_EMPTY_TYPE_2 = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID"),
    *("PatientBirthDate", "PatientSex", "StudyID", "SeriesNumber", "Manufacturer", "PositionReferenceIndicator", "Laterality"),
)
# RM is the term for research sequences
_MR_REQUIRED = {
    **{"ScanningSequence": "RM", "SequenceVariant": "NONE"},
    **dict.fromkeys(("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength")),
}
# what describes the pixels or the frames of the source and would be wrong in a derived single-frame file
_NOT_COPIED = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames", "FrameTime", "FrameTimeVector"),
    *("FrameIncrementPointer", "DimensionIndexSequence", "DimensionOrganizationSequence", "SequenceOfUltrasoundRegions"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "IconImageSequence", "ModalityLUTSequence", "VOILUTSequence"),
    *("PlanarConfiguration", "LossyImageCompressionRatio", "PixelAspectRatio", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RealWorldValueMappingSequence", "PresentationLUTShape", "DigitalSignaturesSequence", "MACParametersSequence"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
)


def write_dicom_series(
    folder: Path, series: ImageSeries, frames: Iterable[tuple[int, NDArray[Any]]], *, keep_headers: bool = False
) -> tuple[Path, ...]:
    """Write ``frame_0000.dcm`` and so on, each whole or not at all.

    Parameters
    ----------
    folder
        Existing folder to write to.
    series
        The series that was read from DICOM and registered: gives geometry, times, type and rescale.
    frames
        (index in ``series``, registered frame (C, rows, columns) in real values).
    keep_headers
        Copy every header of the source files, patient data included.

    Raises
    ------
    ArgumentError
        If the series was not read from DICOM, or a frame has another shape or is not finite.
    ReadError
        If ``keep_headers`` is asked for and a source file cannot be read any more.
    ResourceError
        If a file cannot be written.
    """
    _check_series(series)
    study_uid = str(series.source.get("study_uid") or stand_in("study"))
    written, content = [], hashlib.sha256()
    for index, frame in frames:
        stored = _stored_values(series, index, np.asarray(frame))
        with quiet():
            dataset = _source_headers(series, index) if keep_headers else _empty_headers(study_uid)
            dataset.SeriesInstanceUID = stand_in("series")
            dataset.SOPInstanceUID = stand_in("instance")
            _fill(dataset, series, index, stored)
        path = folder / f"frame_{index:04d}.dcm"
        with atomic_write(path) as temporary, quiet(), resource_errors(path):
            _save(dataset, temporary, Path(series.source["files"][index]) if keep_headers else path)
            content.update(temporary.read_bytes())
        written.append((path, index))
    _settle(written, content.digest(), study_too=study_uid == stand_in("study") and not keep_headers)
    return tuple(path for path, _ in written)


def _save(dataset: Any, temporary: Path, source: Path) -> None:
    try:
        dataset.save_as(temporary, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # an element that was copied without being understood
        reason = type(error).__name__
        raise ReadError(f"{source}: its headers cannot be written again ({reason}); restore it, or write without them") from None


def _settle(written: Sequence[tuple[Path, int]], content: bytes, *, study_too: bool) -> None:
    """Give every file the UIDs that follow from the content of all."""
    for path, index in written:
        uids = {stand_in("series"): uid_of("series", content), stand_in("instance"): uid_of("instance", content, str(index))}
        if study_too:
            uids[stand_in("study")] = uid_of("study", content)
        settle_uids(path, uids)


def _check_series(series: ImageSeries) -> None:
    if series.source.get("format") != "dicom":
        raise ArgumentError(f"{series.name}: was not read from DICOM, so it cannot be written as such; choose .mha or .tif")
    dtype = np.dtype(series.source["stored_dtype"])
    if dtype.kind not in "iub" or dtype.itemsize > 4:
        raise ArgumentError(f"{series.name}: stored {dtype.name} pixels cannot be written as DICOM; choose .mha or .tif")


def _stored_values(series: ImageSeries, index: int, frame: NDArray[Any]) -> NDArray[Any]:
    """Real values to the stored type: rounded, and clipped where interpolation left the range of the stored bits."""
    expected = (series.channels, *series.grid.shape)
    if frame.shape != expected or not 0 <= index < len(series):
        raise ArgumentError(f"{series.name}: frame {index} has shape {frame.shape}, expected {expected} and 0 to {len(series) - 1}")
    if not np.isfinite(frame).all():
        raise ArgumentError(f"{series.name}: frame {index} holds values that are not finite; register it again")
    source = series.source
    slope, intercept = source["rescale"][index]
    dtype = np.dtype(source["stored_dtype"])
    low, high = _stored_range(dtype, int(source["bits_stored"]))
    stored = np.rint((frame.astype(np.float64) - intercept) / slope)
    return np.clip(stored, low, high).astype(dtype)


def _stored_range(dtype: np.dtype[Any], bits: int) -> tuple[int, int]:
    bits = min(bits, 8 * dtype.itemsize)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.kind == "i" else (0, 2**bits - 1)


def _empty_headers(study_uid: str) -> Any:
    from pydicom import Dataset

    dataset = Dataset()
    dataset.StudyInstanceUID = study_uid
    for keyword in _EMPTY_TYPE_2:
        setattr(dataset, keyword, None)
    dataset.PatientName = dataset.PatientID = ""
    return dataset


def _source_headers(series: ImageSeries, index: int) -> Any:
    from pydicom import Dataset, dcmread

    path = Path(series.source["files"][index])
    try:
        with path.open("rb") as stream:
            original = dcmread(BoundedFile(stream, path.stat().st_size), stop_before_pixels=True)  # type: ignore[arg-type, unused-ignore]
            dataset = Dataset()
            dataset.update(original)
    except Exception as error:  # pydicom raises nearly everything on damaged headers
        raise ReadError(
            f"{path}: its headers cannot be copied ({type(error).__name__}); restore it, or write without them"
        ) from None
    for element in list(dataset.keys()):
        # overlays (60xx) would not move with the pixels; group lengths are out of date
        if (
            element.element == 0
            or element.group <= 0x0002
            or 0x6000 <= element.group <= 0x60FF
            or element.group in (0x0028, 0x7FE0)
        ):
            del dataset[element]
    for keyword in _NOT_COPIED:
        if keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def _fill(dataset: Any, series: ImageSeries, index: int, stored: NDArray[Any]) -> None:
    """Everything that is on the allow-list, over whatever was copied."""
    from pydicom.dataset import FileMetaDataset

    modality = series.modality or "OT"
    sop_class = _SOP_CLASSES.get(modality, _SECONDARY_CAPTURE)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = modality
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    # A map that was computed from the frames says what it is.
    dataset.SeriesDescription = str(series.source.get("derived_name", "R2N2 registered"))
    dataset.DerivationDescription = str(series.source.get("derived_how", "Frames aligned to a reference frame by napari-r2n2"))
    dataset.InstanceNumber = index + 1
    dataset.TemporalPositionIdentifier = index + 1
    dataset.NumberOfTemporalPositions = len(series)
    for keyword, value in (_MR_REQUIRED if modality == "MR" else {}).items():
        if keyword not in dataset:
            setattr(dataset, keyword, value)
    if sop_class == _SECONDARY_CAPTURE:
        dataset.ConversionType = "WSD"
    _fill_time(dataset, series, index)
    _fill_geometry(dataset, series)
    _fill_pixels(dataset, series, index, stored)


def _fill_time(dataset: Any, series: ImageSeries, index: int) -> None:
    if series.times_s is None:
        return
    time_s = series.times_s[index]
    if series.source.get("time_tag") in _TRIGGER_TAGS:
        dataset.TriggerTime = _decimal(1000 * time_s)
        return
    microseconds = round(1e6 * time_s)
    seconds, fraction = divmod(microseconds, 1_000_000)
    if 0 <= seconds < 86_400 and "AcquisitionDateTime" not in dataset:
        dataset.AcquisitionTime = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{fraction:06d}"


def _fill_geometry(dataset: Any, series: ImageSeries) -> None:
    if series.spacing_known:
        dataset.PixelSpacing = [_decimal(s) for s in series.grid.spacing]
    if series.patient_grid is None:
        return
    patient = series.patient_grid
    direction = np.array(patient.direction)
    # columns are slice, row and column index; the file wants x first, and the direction along a row before that of a column
    along_row, along_column = direction[::-1, 2], direction[::-1, 1]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*along_row, *along_column)]
    dataset.ImagePositionPatient = [_decimal(v) for v in patient.origin[::-1]]
    dataset.SliceThickness = _decimal(patient.spacing[0])
    dataset.SpacingBetweenSlices = _decimal(patient.spacing[0])
    dataset.FrameOfReferenceUID = dataset.get("FrameOfReferenceUID") or series.source.get("frame_of_reference_uid") or None


def _fill_pixels(dataset: Any, series: ImageSeries, index: int, stored: NDArray[Any]) -> None:
    slope, intercept = series.source["rescale"][index]
    bits = 8 * stored.dtype.itemsize
    dataset.Rows, dataset.Columns = series.grid.shape
    dataset.SamplesPerPixel = series.channels
    dataset.PhotometricInterpretation = "MONOCHROME2" if series.channels == 1 else "RGB"
    if series.channels > 1:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = bits
    dataset.BitsStored = min(int(series.source["bits_stored"]), bits)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if (slope, intercept) != (1, 0) or series.modality == "CT":
        dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(slope), _decimal(intercept)
        dataset.RescaleType = str(series.source.get("derived_unit", "US"))
    pixels = np.moveaxis(stored, 0, -1).astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
