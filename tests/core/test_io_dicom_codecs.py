"""Compressed pixels: every decoder gives the values that were encoded, and a missing one names its package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import dicom_factory as make
import imagecodecs
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.dicom.codecs import declared_shape
from r2n2.io.dicom.listing import list_dicom
from r2n2.io.dicom.reader import read_dicom

NOISE = np.random.default_rng(3).integers(0, 4096, (33, 47)).astype(np.uint16)
COLOUR = np.random.default_rng(4).integers(0, 256, (21, 30, 3)).astype(np.uint8)


def _compressed(pixels: np.ndarray, stream: bytes, syntax: Any, **values: Any) -> Any:
    dataset = make.dataset_of(0, pixels, **values)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


LOSSLESS = [
    (NOISE, JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=16)),
    (NOISE, JPEGLossless, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=6, bitspersample=16)),
    (NOISE, JPEGLSLossless, imagecodecs.jpegls_encode),
    (NOISE.astype(np.int16) - 2000, JPEGLosslessSV1, lambda a: imagecodecs.ljpeg_encode(a.view(np.uint16))),
    (NOISE.astype(np.int16) - 2000, JPEGLSLossless, lambda a: imagecodecs.jpegls_encode(a.view(np.uint16))),
    (COLOUR, JPEGLSLossless, imagecodecs.jpegls_encode),
]


@pytest.mark.parametrize(
    ("pixels", "syntax", "encode"), LOSSLESS, ids=["sv1", "predictor6", "ls", "signed", "ls-signed", "ls-colour"]
)
def test_lossless_streams_are_read_to_the_bit(tmp_path, pixels, syntax, encode):
    path = make.save(_compressed(pixels, encode(pixels), syntax), tmp_path / "a.dcm")
    (series,) = read_dicom(path)
    assert series.dtype == pixels.dtype
    assert_array_equal(np.moveaxis(series.frames[0], 0, -1).squeeze(), pixels)


def test_near_lossless_and_twelve_bit_streams_stay_near(tmp_path):
    smooth = (np.add.outer(np.arange(40.0), np.arange(56.0)) * 40).astype(np.uint16)
    streams = {
        JPEGLSNearLossless: (imagecodecs.jpegls_encode(smooth, level=3), 3),
        JPEGExtended12Bit: (imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12), 24),
    }
    for syntax, (stream, tolerance) in streams.items():
        path = make.save(_compressed(smooth, stream, syntax, BitsStored=12, HighBit=11), tmp_path / f"{syntax}.dcm")
        (series,) = read_dicom(path)
        assert np.abs(series.frames[0, 0].astype(int) - smooth).max() <= tolerance
        path.unlink()


# name of the file, sum of all values, largest value: as two other decoders (libjpeg and CharLS through pydicom) have it
REFERENCES = [
    ("JPEGLSNearLossless_08.dcm", 25000, 255),
    ("JPEGLSNearLossless_16.dcm", 6007250, 65535),
    ("MR_small_jpeg_ls_lossless.dcm", 2125338, 2145),
    ("SC_rgb_jls_lossy_line.dcm", 3840000, 255),
    ("SC_rgb_jls_lossy_sample.dcm", 3840000, 255),
    ("SC_rgb_jpeg_gdcm.dcm", 3831000, 255),
]


@pytest.mark.parametrize(("name", "total", "largest"), REFERENCES)
def test_pydicoms_own_files_are_decoded_as_others_decode_them(tmp_path, name, total, largest):
    path = Path(shutil.copy(get_testdata_file(name, download=False), tmp_path))
    series = read_dicom(path)
    frames = np.concatenate([item.frames for item in series])
    slopes = np.array([scale for item in series for scale in item.source["rescale"]])
    stored = (frames.astype(np.float64) - slopes[:, 1, None, None, None]) / slopes[:, 0, None, None, None]
    assert (int(stored.sum()), int(stored.max())) == (total, largest)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=["lossless", "ls", "2000"])
def test_a_missing_decoder_names_its_package_in_listing_and_reading(tmp_path, monkeypatch, syntax):
    package = "pylibjpeg-openjpeg" if syntax == JPEG2000Lossless else "imagecodecs"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "imagecodecs" else find_spec(name, *rest))
    for attribute in ("_available", "_unavailable"):
        monkeypatch.setattr(get_decoder(syntax), attribute, {})
    path = make.save(_compressed(NOISE, imagecodecs.jpegls_encode(NOISE), syntax), tmp_path / "a.dcm")
    with pytest.raises(MissingExtraError, match=rf"a\.dcm: no decoder for JPEG.* is installed: pip install {package}$") as caught:
        read_dicom(path)
    assert caught.value.exit_code == 4
    assert list_dicom(path).groups[0].problems == (str(caught.value),)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=["lossless", "ls", "2000"])
@pytest.mark.parametrize("stream", [b"\0\0", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc3\0\4", b"nothing at all, at any length"])
def test_streams_that_declare_nothing_are_damage(tmp_path, syntax, stream):
    path = make.save(_compressed(NOISE, stream, syntax), tmp_path / "a.dcm")
    with pytest.raises(ReadError, match=r"a\.dcm \(InstanceNumber 1\): the compressed pixels"):
        read_dicom(path)
    assert "the compressed pixels" in list_dicom(path).groups[0].problems[0]


def test_a_stream_larger_than_the_header_is_refused_before_decoding(tmp_path):
    stream = bytearray(imagecodecs.jpegls_encode(NOISE))
    place = stream.index(b"\xff\xf7") + 5
    stream[place : place + 4] = b"\xff\xff\xff\xff"
    assert declared_shape(bytes(stream)) == (65535, 65535)
    path = make.save(_compressed(NOISE, bytes(stream), JPEGLSLossless), tmp_path / "a.dcm")
    with pytest.raises(ReadError, match=r"compressed stream is 65535 x 65535 pixels, the header says \(33, 47\)"):
        read_dicom(path)


def test_a_stream_without_end_is_damage_and_says_so(tmp_path):
    stream = imagecodecs.jpeg8_encode(NOISE, lossless=True, predictor=1, bitspersample=16)
    path = make.save(_compressed(NOISE, stream[: len(stream) // 2], JPEGLosslessSV1), tmp_path / "a.dcm")
    with pytest.raises(ReadError, match="the stream ends before its end marker"):
        read_dicom(path)


def test_segmented_palettes_are_looked_up(tmp_path):
    dataset = make.dataset_of(0, make.pixels_of(0, dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR", Modality="US")
    for c, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        # one value, then a straight line of 255 to the last
        table = np.array([0, 1, c, 1, 255, 64500 + c], "<u2")
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", table.tobytes())
    (series,) = read_dicom(make.save(dataset, tmp_path / "a.dcm"))
    assert series.channels == 3
    assert series.frames[0, 1, 0, 0] == 1
    assert abs(int(series.frames[0, 2, 4, 6]) - 64500 * 34 / 255) < 10


def test_colours_are_converted_once(tmp_path):
    ramp = np.linspace(20, 230, 48).astype(np.uint8)
    colour = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, ::-1], np.uint8(90)), axis=-1)
    stream = imagecodecs.jpeg8_encode(colour, level=98, colorspace="RGB", outcolorspace="YCBCR")
    path = make.save(_compressed(colour, stream, JPEGExtended12Bit, PhotometricInterpretation="YBR_FULL"), tmp_path / "a.dcm")
    (series,) = read_dicom(path)
    assert np.abs(np.moveaxis(series.frames[0], 0, -1).astype(int) - colour).max() < 16
