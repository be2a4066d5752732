"""MetaImages whose pixels lie in several files, tracked ultrasound sequences, and headers that say what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from r2n2.errors import ReadError
from r2n2.io import describe, read_series

FRAMES = (np.arange(4 * 18 * 20).reshape(4, 18, 20) % 250).astype(np.uint8)


def header(data: str, **entries: object) -> str:
    fixed = {"ObjectType": "Image", "NDims": 3, "BinaryData": True, "ElementSpacing": "1.2 1.5 0.3", "DimSize": "20 18 4"}
    lines = {**fixed, "ElementType": "MET_UCHAR", **entries, "ElementDataFile": data}
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def one_file_a_frame(folder: Path, names: list[str]) -> list[str]:
    for name, frame in zip(names, FRAMES, strict=True):
        (folder / name).write_bytes(frame.tobytes())
    return names


def attached(path: Path, more: bytes = b"", **entries: object) -> Path:
    path.write_bytes(header("LOCAL", **entries).encode() + FRAMES.tobytes() + more)
    return path


@pytest.mark.parametrize("word", ["LIST", "LIST 2D"])
def test_a_list_names_a_file_for_each_frame(tmp_path: Path, word: str) -> None:
    names = one_file_a_frame(tmp_path, ["b.raw", "a.raw", "d.raw", "c c.raw"])
    (tmp_path / "a.mhd").write_text(header(word) + "".join(f"{name}\n" for name in names) + "\n")
    (series,) = read_series(tmp_path / "a.mhd", axes="TYX")
    assert (len(series), series.grid.spacing) == (4, (1.5, 1.2))
    for t in (2, 0, 3):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])


def test_listed_frames_are_frames_in_time_and_told(tmp_path: Path) -> None:
    names = one_file_a_frame(tmp_path, [f"f{k}.raw" for k in range(4)])
    (tmp_path / "a.mhd").write_text(header("LIST") + "\n".join(names))
    (series,) = read_series(tmp_path / "a.mhd")
    assert len(series) == 4
    np.testing.assert_array_equal(series.frame(3)[0], FRAMES[3])
    assert any("taken as a frame in time; pass --axes ZYX" in note for note in series.notes)
    assert [len(item) for item in read_series(tmp_path / "a.mhd", axes="ZYX", volumes=False)] == [1] * 4


@pytest.mark.parametrize(("pattern", "names"), [("f%02d.raw 1 4 1", "f%02d.raw"), ("f %d.raw 1 4", "f %d.raw")])
def test_a_pattern_counts_the_files(tmp_path: Path, pattern: str, names: str) -> None:
    one_file_a_frame(tmp_path, [names % k for k in range(1, 5)])
    (tmp_path / "a.mhd").write_text(header(pattern))
    (series,) = read_series(tmp_path / "a.mhd", axes="TYX")
    np.testing.assert_array_equal(series.frame(3)[0], FRAMES[3])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("LIST\nf1.raw\nf2.raw\nf3.raw", "names 3 files of pixels, and its size needs 4"),
        ("LIST\nf1.raw\nf2.raw\nf3.raw\nf9.raw", "'f9.raw', and there is no such file beside it"),
        ("LIST 9D\nf1.raw", "'LIST 9D' is not understood"),
        ("f%s.raw 1 4 1", "the pattern of file names 'f%s.raw' is not understood"),
        ("f%d.raw 1 4 0", "counts from 1 to 4 by 0"),
        ("f%d.raw 1 999999999 1", "counts from 1 to 999999999 by 1"),
    ],
)
def test_a_list_that_does_not_fit_is_told(tmp_path: Path, data: str, words: str) -> None:
    one_file_a_frame(tmp_path, [f"f{k}.raw" for k in range(1, 5)])
    (tmp_path / "a.mhd").write_text(header(data) + "\n")
    with pytest.raises(ReadError, match=words):
        read_series(tmp_path / "a.mhd", axes="TYX")


def test_a_short_file_of_a_list_is_named(tmp_path: Path) -> None:
    names = one_file_a_frame(tmp_path, [f"f{k}.raw" for k in range(4)])
    (tmp_path / "f2.raw").write_bytes(FRAMES[2].tobytes()[:-7])
    (tmp_path / "a.mhd").write_text(header("LIST") + "\n".join(names))
    with pytest.raises(ReadError, match=r"f2\.raw: truncated"):
        read_series(tmp_path / "a.mhd", axes="TYX")


def tracked(path: Path, **changes: str) -> Path:
    fields: dict[str, object] = {"UltrasoundImageOrientation": "MF"}
    for k in range(4):
        name = f"Seq_Frame{k:04d}"
        fields |= {f"{name}_Timestamp": 100.5 + 0.04 * k, f"{name}_ImageStatus": "INVALID" if k == 2 else "OK"}
        fields[f"{name}_ProbeToTrackerTransform"] = f"1 0 0 {5 * k} 0 1 0 0 0 0 1 0 0 0 0 1"
    return attached(path, **{"ElementSpacing": "0.2 0.3 1", **fields, **changes})


def test_a_tracked_sequence_gives_its_times_and_what_it_says_of_its_frames(tmp_path: Path) -> None:
    (series,) = read_series(tracked(tmp_path / "a.igs.mha"))
    assert series.times_s == pytest.approx((0, 0.04, 0.08, 0.12))
    assert (series.modality, series.grid.spacing) == ("US", (0.3, 0.2))
    notes = " ".join(series.notes)
    assert "frames 2 (1 in all) are marked as invalid" in notes
    assert "probetotrackertransform change from frame to frame" in notes
    np.testing.assert_array_equal(series.frame(3)[0], FRAMES[3])


def test_a_spacing_of_1_in_a_tracked_sequence_is_unknown(tmp_path: Path) -> None:
    (series,) = read_series(tracked(tmp_path / "a.igs.mha", ElementSpacing="1 1 1"))
    assert not series.spacing_known


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"R2N2Axes": "TYX", "R2N2Times0": "0 1 k.2 3"}, "the entry r2n2times0 must be numbers"),
        ({"R2N2Axes": "TYX", "R2N2Times0": "0 1 nan 3"}, "entry R2N2Times: the time of frame 2 is nan"),
        ({"R2N2Axes": "TYX", "R2N2Times0": "0 1 2"}, "entry R2N2Times: holds 3 times for 4 frames"),
        ({"R2N2Axes": "TQX"}, "axes 'TQX'"),
        ({"HeaderSize": -100}, "the entry HeaderSize is -100"),
        ({"DimSize": "20 18 x"}, "the entry dimsize must be numbers"),
        ({"NDims": 2.5}, "the entry ndims must be a whole number"),
        ({"Offset": "0 nan 0", "R2N2Axes": "TYX"}, "Offset"),
        ({"R2N2Axes": "TYX", "Seq_Frame0000_Timestamp": "noon"}, "must be numbers, got 'noon'"),
    ],
)
def test_an_entry_that_cannot_be_is_named(tmp_path: Path, entries: dict[str, object], words: str) -> None:
    if any("Seq" in key for key in entries):
        entries |= {f"Seq_Frame{k:04d}_Timestamp": k for k in range(1, 4)}
    path = attached(tmp_path / "a.mha", **entries)
    with pytest.raises(ReadError, match=words):
        read_series(path)
    (found,) = describe(path)
    assert words in " ".join(found.problems)


@pytest.mark.parametrize("more", [17, 360, 1500])
def test_more_pixels_than_the_header_declares_are_damage(tmp_path: Path, more: int) -> None:
    path = attached(tmp_path / "a.mha", bytes(more))
    with pytest.raises(ReadError, match=f"goes on for {more} bytes .* after the pixels its header declares"):
        read_series(path, axes="TYX")


def test_a_newline_after_the_pixels_is_none(tmp_path: Path) -> None:
    assert len(read_series(attached(tmp_path / "a.mha", b"\n"), axes="TYX")[0]) == 4


def test_pixels_written_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_text(header("LOCAL", BinaryData=False) + " ".join(map(str, FRAMES.ravel())))
    (series,) = read_series(tmp_path / "a.mha", axes="TYX")
    np.testing.assert_array_equal(series.frame(1)[0], FRAMES[1])
    (tmp_path / "a.mha").write_text(header("LOCAL", BinaryData=False) + " ".join(map(str, FRAMES.ravel()[:-1])))
    with pytest.raises(ReadError, match="holds 1439 numbers of pixels, the header declares 1440"):
        read_series(tmp_path / "a.mha", axes="TYX")
