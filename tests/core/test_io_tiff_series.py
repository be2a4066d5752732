"""TIFF series as microscopes leave them: over several files, with odd tags, packed, called slices; lost pages are named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from r2n2.errors import ArgumentError, AxesUnknownError, ReadError
from r2n2.io import describe, read_series

FRAMES = (np.arange(6 * 18 * 20).reshape(6, 18, 20) % 999).astype(np.uint16)


def ome(files: dict[str, int], *, own: str = "", size: int = 6, companion: bool = False) -> str:
    """OME header of a series over files (name -> frames in it); ``own`` is the name of the file that holds the header."""
    planes, first = "", 0
    for name, count in files.items():
        for k in range(count):
            planes += (
                f'<TiffData FirstT="{first + k}" IFD="{k}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
            )
        first += count
    uuid = 'UUID="urn:uuid:companion"' if companion else f'UUID="urn:uuid:{own}"' if own else ""
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {uuid}><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="20" SizeY="18" SizeC="1" SizeZ="1" SizeT="{size}" '
        f'PhysicalSizeX="0.25" PhysicalSizeY="0.5" TimeIncrement="2" TimeIncrementUnit="s">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}'
        "</Pixels></Image></OME>"
    )


def write(path: Path, frames: np.ndarray, description: str = "", **options: Any) -> Path:
    tifffile.imwrite(path, frames, photometric="minisblack", metadata=None, description=description.encode() or None, **options)
    return path


def over_two_files(folder: Path, *, own: bool = True, compression: str | None = None) -> list[Path]:
    files = {"a.ome.tif": 4, "b.ome.tif": 2}
    paths = []
    for name, part in zip(files, (FRAMES[:4], FRAMES[4:]), strict=True):
        paths.append(write(folder / name, part, ome(files, own=name if own else ""), compression=compression))
    return paths


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_frame_that_the_ome_header_declares(tmp_path: Path, own: bool, compression: str | None) -> None:
    for path in [*over_two_files(tmp_path, own=own, compression=compression), tmp_path]:
        (series,) = read_series(path)
        assert (len(series), series.grid.spacing) == (6, pytest.approx((0.0005, 0.00025)))
        assert series.times_s == (0, 2, 4, 6, 8, 10)
        for t in (5, 0, 3):
            np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])


def test_a_missing_file_of_the_series_is_named(tmp_path: Path) -> None:
    first, second = over_two_files(tmp_path)
    second.unlink()
    with pytest.raises(ReadError, match=r"declares frames in 2 files, of which are missing: b\.ome\.tif; put all of them in one"):
        read_series(first)
    (found,) = describe(first)
    assert "b.ome.tif" in found.problems[0]


def test_fewer_frames_than_the_ome_header_declares_are_damage(tmp_path: Path) -> None:
    first, second = over_two_files(tmp_path)
    write(second, FRAMES[4:5], ome({"a.ome.tif": 4, "b.ome.tif": 2}, own="b.ome.tif"))
    with pytest.raises(ReadError, match=r"ome\.tif: (damaged|part of its series|1 of the)"):
        read_series(first)


def test_a_series_in_one_file_may_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "new & name.ome.tif", FRAMES, ome({"old.ome.tif": 6}))
    (series,) = read_series(path)
    assert len(series) == 6
    assert any("the header calls the file old.ome.tif: it was renamed" in note for note in series.notes)


def test_the_header_may_lie_in_a_companion_file(tmp_path: Path) -> None:
    files = {"a.ome.tif": 4, "b.ome.tif": 2}
    only = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<BinaryOnly MetadataFile="x.companion.ome" UUID="urn:uuid:companion"/></OME>'
    )
    for name, part in zip(files, (FRAMES[:4], FRAMES[4:]), strict=True):
        write(tmp_path / name, part, only)
    with pytest.raises(ReadError, match=r"whose header lies in 'x\.companion\.ome', which is not beside it"):
        read_series(tmp_path / "a.ome.tif")
    (tmp_path / "x.companion.ome").write_text(ome(files, companion=True))
    for name in files:
        (series,) = read_series(tmp_path / name)
        assert (len(series), series.times_s) == (6, (0, 2, 4, 6, 8, 10))
        np.testing.assert_array_equal(series.frame(5)[0], FRAMES[5])


@pytest.mark.parametrize("name", ["../a.ome.tif", "/etc/hostname", "..\\\\a.ome.tif"])
def test_a_header_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.ome.tif", FRAMES[:4], ome({"a.ome.tif": 4, name: 2}, own="a.ome.tif"))
    with pytest.raises(ReadError, match="outside its folder"):
        read_series(path)


@pytest.mark.parametrize("value", [b"{bad", b"\xff\xfe\x00"])
def test_metadata_that_is_not_needed_is_told_and_does_not_stop(tmp_path: Path, value: bytes) -> None:
    tag = (51123, 2, len(value) + 1, value, True)
    path = write(tmp_path / "a_MMStack_Pos0.ome.tif", FRAMES, ome({"a_MMStack_Pos0.ome.tif": 6}), extratags=[tag])
    (series,) = read_series(path)
    assert len(series) == 6
    assert any("metadata that is not needed for the pixels could not be read" in note for note in series.notes)


def test_a_private_tag_that_points_nowhere_does_not_stop(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", FRAMES, ome({"a.ome.tif": 6}), extratags=[(65000, 2, 20, b"x" * 19, True)])
    data = path.read_bytes()
    place = data.index(struct.pack("<HHI", 65000, 2, 20)) + 8
    path.write_bytes(data[:place] + struct.pack("<I", 2**31) + data[place + 4 :])
    (series,) = read_series(path)
    assert len(series) == 6
    assert any("65000" in note for note in series.notes)


def test_imagej_slices_are_asked_about(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", FRAMES, imagej=True, metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"}, resolution=(2, 4)
    )
    with pytest.raises(AxesUnknownError, match=r"its 6 slices, as ImageJ calls .* may be time or slices; pass --axes TYX"):
        read_series(tmp_path / "a.tif")
    (series,) = read_series(tmp_path / "a.tif", axes="TYX")
    assert (len(series), series.grid.spacing) == (6, pytest.approx((0.00025, 0.0005)))
    np.testing.assert_array_equal(series.frame(4)[0], FRAMES[4])


@pytest.mark.parametrize("codec", ["lzw", "zlib", "zstd", "lzma", "packbits", "lerc", "jpeg2000", "jpegxl", "webp", "png"])
def test_codecs_are_understood(tmp_path: Path, codec: str) -> None:
    frames = (FRAMES % 250).astype(np.uint8)
    options: dict[str, Any] = {"photometric": "minisblack"}
    if codec == "webp":
        frames, options = np.repeat(frames[..., None], 3, axis=-1), {"photometric": "rgb", "compressionargs": {"lossless": True}}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression=codec, metadata={"axes": "TYXS" if codec == "webp" else "TYX"}, **options)
    (series,) = read_series(path)
    for t in (5, 1):
        np.testing.assert_array_equal(series.frame(t), np.moveaxis(frames[t].reshape(18, 20, -1), -1, 0))


def test_a_page_that_cannot_be_decoded_is_named_by_both(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 999, FRAMES.shape).astype(np.uint16)
    tifffile.imwrite(path, noise, photometric="minisblack", compression="zlib", metadata={"axes": "TYX"})
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[4].dataoffsets[0]
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes(40) + data[place + 40 :])
    with pytest.raises(ReadError, match="its page 4 cannot be decoded"):
        read_series(path)[0].frame(4)
    (found,) = describe(path)
    assert "its page 4 cannot be decoded" in found.problems[0]


def chained(path: Path, order: str, big: bool) -> tuple[bytes, list[int]]:
    """A file of six pages and where the place of the next page is kept in each."""
    tifffile.imwrite(path, FRAMES, photometric="minisblack", contiguous=False, metadata=None, byteorder=order, bigtiff=big)
    with tifffile.TiffFile(path) as tiff:
        size, entry = (8, 20) if big else (2, 12)
        places = [page.offset + size + entry * len(page.tags) for page in tiff.pages]
    return path.read_bytes(), places


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("kept", [1, 4])
def test_a_chain_of_pages_that_is_cut_is_named(tmp_path: Path, order: str, big: bool, kept: int) -> None:
    path = tmp_path / "a.tif"
    data, places = chained(path, order, big)
    length = 8 if big else 4
    assert len(read_series(path, axes="TYX")[0]) == 6
    path.write_bytes(data[: places[kept - 1]] + bytes(length) + data[places[kept - 1] + length :])
    with pytest.raises(ReadError, match=f"damaged TIFF, its chain of pages ends after {kept} and another page begins at byte"):
        read_series(path, axes="TYX")


def test_a_page_without_content_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data, places = chained(path, "<", False)
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[4].offset
    path.write_bytes(data[:start] + bytes(places[4] + 4 - start) + data[places[4] + 4 :])
    with pytest.raises(ReadError, match="damaged TIFF, page 4 of 5 or more has no content"):
        read_series(path, axes="TYX")


def test_several_images_in_a_file_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(FRAMES, photometric="minisblack", metadata={"axes": "TYX", "Name": "left"})
        writer.write(FRAMES + 1, photometric="minisblack", metadata={"axes": "TYX", "Name": "right"})
    with pytest.raises(ReadError, match="holds several images; pass --series with the name of one of left, right"):
        read_series(path)
    (series,) = read_series(path, series="right")
    np.testing.assert_array_equal(series.frame(3)[0], FRAMES[3] + 1)
    with pytest.raises(ArgumentError, match="--series 'up' is none of its images"):
        read_series(path, series="up")


@pytest.mark.parametrize(
    ("unit", "size_um"),
    [("nm", 108.3), ("um", 0.1083), ("\u00b5m", 0.1083), ("mm", 1.083e-4), ("cm", 1.083e-5), ("inch", 4.2638e-6)],
)
def test_pixel_sizes_of_microscopes_arrive_in_mm(tmp_path: Path, unit: str, size_um: float) -> None:
    factor = {"nm": 1e-6, "um": 1e-3, "\u00b5m": 1e-3, "mm": 1.0, "cm": 10.0, "inch": 25.4}[unit]
    tifffile.imwrite(
        tmp_path / "a.tif",
        FRAMES,
        imagej=True,
        metadata={"axes": "TYX", "unit": unit.replace("\u00b5", "\\u00B5")},
        resolution=(1 / size_um,) * 2,
    )
    (series,) = read_series(tmp_path / "a.tif")
    assert series.grid.spacing == pytest.approx((size_um * factor,) * 2, rel=1e-5)


def test_pixels_without_a_unit_have_no_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True, metadata={"axes": "TYX", "unit": "pixel"}, resolution=(3, 3))
    assert not read_series(tmp_path / "a.tif")[0].spacing_known


def test_a_page_of_another_pixel_type_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True, metadata={"axes": "TYX"})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        data[tiff.pages[0].tags["BitsPerSample"].valueoffset] = 238
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ReadError, match=r"a\.tif"):
        read_series(tmp_path / "a.tif")[0].frame(0)
