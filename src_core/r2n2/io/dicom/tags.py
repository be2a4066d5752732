"""The allow-list: which header elements are read at all, and so all that can reach a series, its notes and its messages."""

from __future__ import annotations

__all__ = ["HEADER_TAGS", "PIXEL_TAGS", "PRIVATE_TAGS", "SEGMENTATION_TAGS"]

HEADER_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber"),
    *("InstanceNumber", "NumberOfFrames", "ImageType", "Modality", "BurnedInAnnotation"),
    "SeriesDescription",  # of which only the number of a phase is kept
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "EstimatedRadiographicMagnificationFactor"),
    *("DistanceSourceToDetector", "DistanceSourceToPatient"),
    *("SequenceOfUltrasoundRegions", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"),
    # when
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
    *("ContentDate", "ContentTime", "TemporalPositionIdentifier", "TemporalResolution", "FrameReferenceTime"),
    *("FrameTime", "FrameTimeVector", "ActualFrameDuration", "CineRate", "RecommendedDisplayFrameRate"),
    # how: what makes an image another one than its neighbour at the same place
    *("EchoTime", "EchoNumbers", "EffectiveEchoTime", "InversionTime", "FlipAngle", "RepetitionTime", "ComplexImageComponent"),
    *("DiffusionBValue", "DiffusionGradientOrientation", "SequenceName", "ReceiveCoilName", "TransmitCoilName"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MagnetizationTransfer", "ASLContext", "TagAngleFirstAxis"),
    *("VelocityEncodingMaximumValue", "PixelBandwidth", "NumberOfAverages", "EchoTrainLength"),
    *("ContrastBolusAgentPhase", "KVP", "ConvolutionKernel", "AcquisitionNumber", "StageNumber", "ViewNumber"),
    *("EnergyWindowVector", "DetectorVector", "RotationVector", "PhaseVector", "RRIntervalVector", "AngularViewVector"),
    *("TimeSlotVector", "TimeSliceVector", "SliceVector"),
    *("DimensionIndexSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""Keywords of standard elements."""

PRIVATE_TAGS = (
    (0x0019, 0x0A, "SIEMENS MR HEADER"),  # number of images in a mosaic
    (0x0019, 0x0C, "SIEMENS MR HEADER"),  # b-value
    (0x0051, 0x0F, "SIEMENS MR HEADER"),  # coil elements
    (0x0029, 0x10, "SIEMENS CSA HEADER"),
    (0x0043, 0x39, "GEMS_PARM_01"),  # b-value
    (0x0043, 0x2F, "GEMS_PARM_01"),  # magnitude, phase, real or imaginary part
    (0x2001, 0x03, "Philips Imaging DD 001"),
    (0x0065, 0x09, "Image Private Header"),
)
"""Group, element within its block and creator of the private elements that are read: numbers, and coil names to compare."""

SEGMENTATION_TAGS = ("SegmentSequence", "SegmentationType", "MaximumFractionalValue")

PIXEL_TAGS = (
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PaletteColorLookupTableUID"),
    *(f"{c}PaletteColorLookupTableDescriptor" for c in ("Red", "Green", "Blue")),
    *(f"{kind}{c}PaletteColorLookupTableData" for kind in ("", "Segmented") for c in ("Red", "Green", "Blue")),
)
"""What the decoders need."""
