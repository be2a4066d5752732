"""Landmark files of other programs: each gives the same known points on a series with oblong pixels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import read_landmarks, write_landmarks
from r2n2.series import LandmarkSet

# Axial slice: index (y, x) lies at LPS (-8 + 0.8 x, 3 + 1.5 y, 12).
SLICE = Grid((1, 40, 56), (5.0, 1.5, 0.8), (12.0, 3.0, -8.0))
INDEX = [("a", 0, 10, 20), ("b", 0, 30, 41), ("a", 2, 12, 21), ("b", 2, 33, 44)]


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lps(y: float, x: float) -> tuple[float, float, float]:
    return -8 + 0.8 * x, 3 + 1.5 * y, 12.0


def check(found: LandmarkSet, ids: tuple[str, ...] = ("a", "b", "a", "b")) -> None:
    assert (found.ids, found.frames.tolist(), found.space) == (ids, [0, 0, 2, 2], Space.INDEX)
    np.testing.assert_allclose(found.points, [row[2:] for row in INDEX], atol=1e-6)


def fcsv(head: str, row: str, sign: int) -> str:
    lines = []
    for name, frame, y, x in INDEX:
        px, py, pz = lps(y, x)
        lines.append(row.format(x=sign * px, y=sign * py, z=pz, label=f"{name}@{frame}"))
    return head + "".join(line + "\n" for line in lines)


COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
ROW = "vtk_0,{x},{y},{z},0,0,0,1,1,1,0,{label},,"
FCSV = {
    "4.11 LPS": fcsv("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n" + COLUMNS, ROW, 1),
    "4.11 RAS": fcsv("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n" + COLUMNS, ROW, -1),
    "4.6 by number": fcsv("# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n" + COLUMNS, ROW, -1),
    "5.x, 3 trailing": fcsv("# Markups fiducial file version = 5.2\n# CoordinateSystem = 1\n" + COLUMNS, ROW + ",2,0", 1),
    "Slicer 3": fcsv("# Fiducial List file /x/F.fcsv\n# columns = label,x,y,z,sel,vis\n", "{label},{x},{y},{z},1,1", -1),
}


@pytest.mark.parametrize("version", FCSV)
def test_fcsv_of_every_version_lands_on_the_pixels(tmp_path: Path, version: str) -> None:
    check(read_landmarks(put(tmp_path / "F.fcsv", FCSV[version]), SLICE))


def test_fcsv_in_other_systems_and_with_damaged_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="coordinates in IJK are not supported; save the points in LPS or RAS"):
        read_landmarks(put(tmp_path / "F.fcsv", FCSV["4.11 LPS"].replace("= LPS", "= IJK")), SLICE)
    with pytest.raises(ReadError, match=r"line 4, column x: expected a finite number, got 'east'"):
        read_landmarks(put(tmp_path / "F.fcsv", FCSV["4.11 LPS"].replace(f",{lps(10, 20)[0]},", ",east,", 1)), SLICE)
    with pytest.raises(ReadError, match=r"line 4: expected the columns id,x,y,z"):
        read_landmarks(put(tmp_path / "F.fcsv", "\n".join(FCSV["4.11 LPS"].splitlines()[:3]) + "\nx,1\n"), SLICE)


@pytest.mark.parametrize("unit", ["mm", "cm", ["mm", "UCUM", "millimeter"]])
def test_markups_in_other_units_are_converted(tmp_path: Path, unit: object) -> None:
    factor = 0.1 if unit == "cm" else 1.0
    points = [{"label": f"{i}@{f}", "position": [v * factor for v in lps(y, x)]} for i, f, y, x in INDEX]
    text = json.dumps({"markups": [{"coordinateSystem": "LPS", "coordinateUnits": unit, "controlPoints": points}]})
    check(read_landmarks(put(tmp_path / "l.mrk.json", text), SLICE))


def test_tables_with_three_coordinates_fit_a_series_of_one_slice(tmp_path: Path) -> None:
    rows = "".join(f"{i},{f},{12.0},{3 + 1.5 * y},{-8 + 0.8 * x}\n" for i, f, y, x in INDEX)
    path = put(tmp_path / "l.csv", "id,frame,z_mm,y_mm,x_mm\n" + rows)
    check(read_landmarks(path, SLICE))
    flat = read_landmarks(path, Grid((40, 56), (1.5, 0.8), (3.0, -8.0)))
    assert flat.space is Space.WORLD
    np.testing.assert_allclose(flat.points[0], [18.0, 8.0])
    assert "z is the same for all points and left out" in flat.notes[0]
    pixels = put(tmp_path / "p.csv", "id,frame,z_px,y_px,x_px\n" + "".join(f"{i},{f},4,{y},{x}\n" for i, f, y, x in INDEX))
    check(read_landmarks(pixels, SLICE))
    far = read_landmarks(put(tmp_path / "f.csv", "id,frame,z_mm,y_mm,x_mm\n" + rows.replace("12.0", "20.0")), SLICE)
    assert "points lie up to 8.00 mm away from the slice" in far.notes[0]


def test_ants_points_are_lps(tmp_path: Path) -> None:
    rows = "".join(f"{lps(y, x)[0]},{lps(y, x)[1]},12.0,{f},{i},note\n" for i, f, y, x in INDEX)
    check(read_landmarks(put(tmp_path / "l.csv", "x,y,z,t,label,comment\n" + rows), SLICE))


@pytest.mark.parametrize("kind", ["pixels", "calibrated", "hyperstack", "renamed"])
def test_imagej_results_in_pixels_or_calibrated(tmp_path: Path, kind: str) -> None:
    scale = (1.5, 0.8) if kind == "calibrated" else (1.0, 1.0)
    rows = [
        (k, f"{x * scale[1]:.3f}".rstrip("0"), f"{y * scale[0]:.3f}".rstrip("0"), f + 1) for k, (_, f, y, x) in enumerate(INDEX)
    ]
    text = {
        "pixels": " \tX\tY\tSlice\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows),
        "calibrated": " ,Area,X,Y,Slice\n" + "".join(f"{k},0,{x},{y},{t}\n" for k, x, y, t in rows),
        "hyperstack": ",X,Y,Ch,Slice,Frame\n" + "".join(f"{k},{x},{y},1,7,{t}\n" for k, x, y, t in rows),
        "renamed": ",x_px,y_px,Slice\n" + "".join(f"{k},{x},{y},{t}\n" for k, x, y, t in rows),
    }[kind]
    found = read_landmarks(put(tmp_path / "Results.csv", text), SLICE)
    check(found, ("0", "1", "0", "1"))
    assert "which counts from 1" in found.notes[0]


def test_imagej_results_that_could_be_both_are_asked_about(tmp_path: Path) -> None:
    text = ",X,Y,Slice\n1,10.33,12.71,1\n2,11.77,20.19,1\n"
    with pytest.raises(ReadError, match=r"may be pixels or lengths.*rename the columns to x_px and y_px, or to x_mm and y_mm"):
        read_landmarks(put(tmp_path / "Results.csv", text), SLICE)
    with pytest.raises(ReadError, match=r"line 2, column Slice: expected a whole number of at least 1"):
        read_landmarks(put(tmp_path / "Results.csv", text.replace("12.71,1", "12.71,0")), SLICE)
    with pytest.raises(ReadError, match="both Slice and Frame change"):
        read_landmarks(put(tmp_path / "Results.csv", ",X,Y,Slice,Frame\n1,1,1,1,1\n2,1,1,2,2\n"), SLICE)


def of_frame(frame: int, *, one_based: bool = False, z: str = "") -> str:
    return "".join(f"{x + one_based} {y + one_based}{z}\n" for _, f, y, x in INDEX if f == frame)


@pytest.mark.parametrize(("kind", "head"), [("index", "index\n2\n"), ("dirlab", "")])
def test_a_folder_of_point_lists_is_one_set(tmp_path: Path, kind: str, head: str) -> None:
    for frame in (0, 2):
        listed = of_frame(frame, one_based=kind == "dirlab", z=" 1" if kind == "dirlab" else " 0")
        put(tmp_path / (f"case1_300_T{frame}0_xyz.txt" if kind == "dirlab" else f"points_{frame}.txt"), head + listed)
    found = read_landmarks(tmp_path, SLICE)
    check(found, ("0", "1", "0", "1"))
    assert "frames by the names of the files" in found.notes[-1]


def test_elastix_positions_are_mm_with_x_first(tmp_path: Path) -> None:
    text = "point\n2\n" + "".join("{} {} {}\n".format(*lps(y, x)) for _, f, y, x in INDEX if f == 2)
    found = read_landmarks(put(tmp_path / "frame_0002.pts.txt", text), SLICE)
    assert found.frames.tolist() == [2, 2]
    np.testing.assert_allclose(found.points, [[12, 21], [33, 44]], atol=1e-6)
    line = "Point\t0\t; InputIndex = [ 1 2 ]\t; InputPoint = [ 0.0 0.0 ]\t; OutputPoint = [ 4.5 6.25 ]\t; Deformation = [ 0 0 ]\n"
    mapped = read_landmarks(put(tmp_path / "outputpoints.txt", line))
    assert (mapped.points.tolist(), mapped.space) == ([[6.25, 4.5]], Space.WORLD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index\n3\n1 2\n3 4\n", r"line 2: announces 3 points, 2 follow"),
        ("index\n1 2\n", r"line 2: expected the number of points"),
        ("point\n2\n1 2\n3 4 5\n", r"line 4: expected 2 numbers, x y \(z\), got '3 4 5'"),
        ("point\n1\n1 east\n", r"line 3, column y: expected a finite number, got 'east'"),
        ("4 5 6\n4.5 5 6\n", r"line 2: expected whole voxels counted from 1"),
        ("4 5 6\n0 5 6\n", r"line 2: expected whole voxels counted from 1"),
        ("1.5 2.5\n", "unknown header '1.5 2.5'"),
    ],
)
def test_wrong_lists_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ReadError, match=words):
        read_landmarks(put(tmp_path / "l.txt", text), SLICE)


def test_the_frame_of_a_file_is_told_or_asked_for(tmp_path: Path) -> None:
    alone = read_landmarks(put(tmp_path / "P18_list.txt", of_frame(0, z=" 1")), SLICE)
    assert alone.frames.tolist() == [0, 0]
    assert "no frame is named: all 2 points are taken for frame 0" in alone.notes[-1]
    with pytest.raises(ReadError, match=r"holds several frame numbers \[3, 5\]"):
        read_landmarks(put(tmp_path / "frame3_T5.txt", of_frame(0, z=" 1")), SLICE)
    folder = tmp_path / "both"
    folder.mkdir()
    put(folder / "left.txt", of_frame(0, z=" 1"))
    put(folder / "right.txt", of_frame(2, z=" 1"))
    with pytest.raises(ReadError, match=r"the frame of each file must be clear from its name, but left\.txt names none"):
        read_landmarks(folder, SLICE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="expected 1 to 10000 landmark files"):
        read_landmarks(tmp_path / "empty", SLICE)


def test_latin_1_ids_are_read(tmp_path: Path) -> None:
    found = read_landmarks(put(tmp_path / "l.csv", "id;frame;y_px;x_px\nPlèvre;0;1,5;2\n".encode("latin-1")))
    assert (found.ids, found.points.tolist()) == (("Plèvre",), [[1.5, 2.0]])


NAMES = ("=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "'=x", "''+x", "'quoted'", "plain", "-7", "＝1")


def test_ids_that_spreadsheets_run_are_disarmed_and_come_back(tmp_path: Path) -> None:
    marks = LandmarkSet(NAMES, np.zeros(len(NAMES)), np.full((len(NAMES), 2), 1.083e-4), Space.WORLD)
    path = write_landmarks(tmp_path / "l.csv", marks)
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r＝"]
    assert cells[-3:-1] == ["plain", "'-7"]
    back = read_landmarks(path)
    assert back.ids == NAMES
    np.testing.assert_array_equal(back.points, marks.points)


SAMPLES: dict[str, bytes] = {
    "l.csv": b"id,frame,y_mm,x_mm\na,0,12.5,-3.25\nb,1,10,4\n",
    "n.csv": b"index,axis-0,axis-1,axis-2\n0,0.0,10.5,20.25\n1,1.0,11.0,21.0\n",
    "Results.csv": b" ,X,Y,Slice\n1,14,24.0,1\n2,18,30.0,2\n",
    "u.csv": "id;frame;z_mm;y_mm;x_mm\na;0;12;5,5;1\n".encode("utf-16"),
    "a.csv": b"x,y,z,t,label\n1,2,12,0,a\n3,4,12,1,a\n",
    "F.fcsv": FCSV["4.11 RAS"].encode(),
    "m.mrk.json": b'{"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"label": "a@0", "position": [1, 2, 12]}]}]}',
    "point.txt": b"point\n2\n1.5 2.5 12\n3 4 12\n",
    "dir_T10.txt": b"14 24 1\n18 30 1\n",
    "outputpoints.txt": b"Point\t0\t; OutputPoint = [ 4.5 6.25 ]\t; Deformation = [ 0 0 ]\n",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_of_any_kind_is_told_as_an_error_of_the_file(tmp_path: Path, name: str) -> None:
    original = SAMPLES[name]
    assert len(read_landmarks(put(tmp_path / name, original), SLICE))
    random = np.random.default_rng(7)
    inserted = (b"\0", b"\xff", b"1e999", b"nan", b"-", b"{", b"[" * 3000, b",", b'"', b"\n", b"9" * 400, b"@", b";", b"\t", b"\r")
    for _ in range(120):
        data = bytearray(original)
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(0, max(len(data), 1)))
            kind = int(random.integers(0, 4))
            if kind == 0:
                data[at : at + 1] = bytes([int(random.integers(0, 256))])
            elif kind == 1:
                del data[at : at + int(random.integers(1, 9))]
            elif kind == 2:
                data[at:at] = inserted[int(random.integers(0, len(inserted)))]
            else:
                data = data[:at]
        # Whatever it is now: read, or refused by a line that names the file.
        message = name
        try:
            found = read_landmarks(put(tmp_path / name, bytes(data)), SLICE)
            assert np.abs(found.points).max() < 1e13
            assert found.points.shape[1] == 2
        except ReadError as error:
            message = str(error)
        assert name in message


def test_numbers_beyond_any_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"position 1e\+300 lies nowhere"):
        read_landmarks(put(tmp_path / "l.csv", "id,frame,y_mm,x_mm\na,0,1e300,1\n"), SLICE)
