from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.io import check_plausible, read_landmarks, write_landmarks
from r2n2.series import ImageSeries, LandmarkSet

ROWS = [("a", 0, 12.5, -3.25), ("b", 0, 100.0, 40.125), ("a", 3, 13.5, -2.75)]
PLAIN = "id,frame,y_mm,x_mm\n" + "".join(f"{i},{f},{y},{x}\n" for i, f, y, x in ROWS)
SEMICOLON = PLAIN.replace(",", ";")
DIALECTS = {
    "plain": PLAIN.encode(),
    "semicolon": SEMICOLON.encode(),
    "decimal comma": SEMICOLON.replace(".", ",").encode(),
    "tab": PLAIN.replace(",", "\t").encode(),
    "tab, decimal comma": PLAIN.replace(",", "\t").replace(".", ",").encode(),
    "BOM": b"\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, no mark": PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "old Macintosh": PLAIN.replace("\n", "\r").encode(),
    "Excel's sep line": ("sep=;\n" + SEMICOLON).encode(),
    "comment above": ("# made by hand\n" + PLAIN).encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "quoted, spaces, blank lines": PLAIN.replace("a,", '"a", ').replace("ID", "id").replace("\n", "\n\n").encode(),
    "other order, capitals": ("X_mm,Frame,ID,y_mm,remark\n" + "".join(f"{x},{f},{i},{y},ok\n" for i, f, y, x in ROWS)).encode(),
}


def put(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def series(shape: tuple[int, int] = (100, 60), spacing: tuple[float, float] = (2.0, 0.5), frames: int = 5) -> ImageSeries:
    return ImageSeries(np.zeros((frames, 1, *shape), np.uint8), Grid(shape, spacing))


def marks(points: list[tuple[str, int, float, float]], space: Space = Space.INDEX) -> LandmarkSet:
    return LandmarkSet(
        tuple(p[0] for p in points), np.array([p[1] for p in points]), np.array([p[2:] for p in points], dtype=float), space
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_a_table_gives_the_same_points(tmp_path: Path, dialect: str) -> None:
    found = read_landmarks(put(tmp_path / "é l.csv", DIALECTS[dialect]))
    assert found.ids == ("a", "b", "a")
    assert found.frames.tolist() == [0, 0, 3]
    np.testing.assert_array_equal(found.points, [row[2:] for row in ROWS])
    assert found.space is Space.WORLD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id;frame;y_mm;x_mm\na;0;1,234;5,678\n", "'1,234' may be decimals or thousands"),
        ("id;frame;y_mm;x_mm\na;0;1,25;5.678\n", "'1,25', '5.678' may be decimals or thousands"),
        ("id;frame;y_mm;x_mm\na;0;1.234,5;2\n", "may be decimals or thousands"),
        ("id,frame,y_mm,x_mm\na,0,1,25,5,75\n", r"line 2 \('a,0,1,25,5,75'\) has 6 fields, the header has 4; with decimal commas"),
    ],
)
def test_ambiguous_numbers_are_refused_and_shown(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ReadError, match=words):
        read_landmarks(put(tmp_path / "l.csv", text))


@pytest.mark.parametrize(
    "header",
    [
        "a,0,1.5,2.5",
        "x,y",
        "id,frame,y,x",
        "id,y_mm,x_mm",
        "id,frame,y_mm,x_px",
        "X,Y",
        "id frame y_mm x_mm",
        "id,id,frame,y_mm,x_mm",
    ],
)
def test_wrong_headers_show_the_expected_one(tmp_path: Path, header: str) -> None:
    with pytest.raises(ReadError, match=r"l\.csv: unknown header .*expected id,frame,y_mm,x_mm or id,frame,y_px,x_px"):
        read_landmarks(put(tmp_path / "l.csv", header + "\na,0,1.5,2.5\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty; expected the header"),
        (b"id,frame,y_mm,x_mm\n", "a header and no landmark"),
        (b"id,frame,y_mm,x_mm\na,0,nan,1\n", "line 2, column y_mm: expected a finite number, got 'nan'"),
        (b"id,frame,y_mm,x_mm\na,0,,1\n", "line 2, column y_mm: expected a finite number, got ''"),
        (b"id,frame,y_mm,x_mm\na,0.5,2,1\n", "line 2, column frame: expected a whole number of at least 0 .*, got 0.5"),
        (b"id,frame,y_mm,x_mm\na,-1,2,1\n", "line 2, column frame: expected a whole number of at least 0 .*, got -1"),
        (b"id,frame,y_mm,x_mm\n,0,2,1\n", "point 1 has no id"),
        (b"id,frame,y_mm,x_mm,y_px,x_px\na,0,2,1,2,1\n", "both mm and px"),
        (b"\xff\xfei\0d", "damaged UTF-16"),
        (b"\x89PNG\r\n\x1a\n", "line 2 holds the byte 0x1a, so this is not text"),
    ],
)
def test_bad_content(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ReadError, match=words):
        read_landmarks(put(tmp_path / "l.csv", content))


def test_duplicates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="id 'a' occurs twice in frame 3"):
        read_landmarks(put(tmp_path / "l.csv", PLAIN + "a,3,1,1\n"))


def test_unequal_sets_are_read(tmp_path: Path) -> None:
    rows = [f"{k},{frame},{k},{k}" for frame, count in ((0, 71), (1, 69)) for k in range(count)]
    found = read_landmarks(put(tmp_path / "l.csv", "id,frame,y_px,x_px\n" + "\n".join(rows)))
    assert (len(found.in_frame(0)), len(found.in_frame(1))) == (71, 69)
    assert found.space is Space.INDEX
    (warning,) = check_plausible(found, series((100, 100), (1.0, 1.0)), 1)
    assert "2 landmarks have no partner in the reference frame and are not used (69 in frame 0, 70 in frame 0)" in warning


def test_napari_points(tmp_path: Path) -> None:
    text = "index,axis-0,axis-1,axis-2\n0,0.0,10.5,20.25\n1,0.0,11.0,21.0\n2,3.0,12.5,22.0\n3,3.0,13.0,23.0\n"
    found = read_landmarks(put(tmp_path / "l.csv", text), Grid((100, 60)))
    assert found.ids == ("0", "1", "0", "1")
    assert found.frames.tolist() == [0, 0, 3, 3]
    assert found.points[2].tolist() == [12.5, 22.0]
    assert found.space is Space.INDEX
    with pytest.raises(ReadError, match=r"different numbers of points \(frame 0: 2, frame 3: 1\).*add ids"):
        read_landmarks(put(tmp_path / "m.csv", text[: text.rindex("3,3.0")]))
    with pytest.raises(ReadError, match="napari points of 2 axes"):
        read_landmarks(put(tmp_path / "n.csv", "index,axis-0,axis-1\n0,1,2\n"))


def slicer(points: list[dict[str, object]], system: str = "LPS", **extra: object) -> str:
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": points, **extra}]})


def test_slicer_points_are_projected_onto_the_slice(tmp_path: Path) -> None:
    coronal = Grid((1, 100, 60), (5.0, 2.0, 0.5), (30.0, -7.0, 11.0), ((0, -1, 0), (1, 0, 0), (0, 0, 1)))
    # Pixel (y, x) = (10, 20): z = 30 - 2 * 10, y = -7, x = 11 + 0.5 * 20
    for system, position in (("LPS", [21.0, -7.0, 10.0]), ("RAS", [-21.0, 7.0, 10.0])):
        text = slicer([{"label": "tip@2", "position": position}], system)
        found = read_landmarks(put(tmp_path / "l.mrk.json", text), coronal)
        assert (found.ids, found.frames.tolist(), found.space) == (("tip",), [2], Space.INDEX)
        np.testing.assert_allclose(found.points, [[10.0, 20.0]], atol=1e-9)


def test_slicer_single_frame_and_undefined_points_are_said(tmp_path: Path) -> None:
    points: list[dict[str, object]] = [
        {"label": "F-1", "position": [4.0, 6.0, 0.0]},
        {"label": "F-2", "position": [0.0, 0.0, 0.0], "positionStatus": "undefined"},
    ]
    found = read_landmarks(put(tmp_path / "l.mrk.json", slicer(points)), Grid((100, 60)))
    assert (found.ids, found.frames.tolist(), found.points.tolist()) == (("F-1",), [0], [[6.0, 4.0]])
    assert "taken for frame 0" in " ".join(found.notes)
    assert "1 points without a defined position" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"l\.mrk\.json"),
        ("[]", r"l\.mrk\.json"),
        ('{"markups": []}', "no point with a defined position"),
        (slicer([{"label": "a@b", "position": [1, 2, 3]}]), "'a@b' is not id@frame"),
        (slicer([{"label": "a@1", "position": [1, 2, 3]}, {"label": "b", "position": [1, 2, 3]}]), "'b' is not id@frame"),
        (slicer([{"label": "a@1", "position": [1, 2, 3]}], "XYZ"), "coordinates in XYZ are not supported"),
        (slicer([{"label": "a@1", "position": [1, 2, 3]}], coordinateUnits="inch"), "coordinates in inch are not supported"),
        (slicer([{"label": "a@1", "position": [1, 2]}]), r"l\.mrk\.json"),
    ],
)
def test_bad_slicer_files(tmp_path: Path, text: str, words: str) -> None:
    path = put(tmp_path / "l.mrk.json", text)
    with pytest.raises(ReadError, match=words):
        read_landmarks(path, Grid((100, 60)))


def test_slicer_points_need_their_series(tmp_path: Path) -> None:
    path = put(tmp_path / "l.mrk.json", slicer([{"label": "a@1", "position": [1, 2, 3]}]))
    with pytest.raises(ReadError, match="together with their image series"):
        read_landmarks(path)


def test_axes_must_fit_the_series(tmp_path: Path) -> None:
    path = put(tmp_path / "l.csv", "id,frame,z_mm,y_mm,x_mm\na,0,1,2,3\nb,0,4,2,3\n")
    assert read_landmarks(path, Grid((5, 6, 7))).points.tolist() == [[1, 2, 3], [4, 2, 3]]
    with pytest.raises(ReadError, match="landmarks have 3 coordinates with z from 1 to 4, the series has 2 axes"):
        read_landmarks(path, Grid((6, 7)))
    with pytest.raises(ReadError, match="landmarks have 2 coordinates, the series has 3 axes"):
        read_landmarks(put(tmp_path / "m.csv", PLAIN), Grid((5, 6, 7)))


IDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = data.draw(st.lists(st.tuples(IDS, st.integers(0, 9)), min_size=1, max_size=6, unique=True))
    ndim = data.draw(st.sampled_from([2, 3]))
    number = st.floats(-1e4, 1e4)
    points = data.draw(st.lists(st.tuples(*[number] * ndim), min_size=len(keys), max_size=len(keys)))
    space = data.draw(st.sampled_from([Space.INDEX, Space.WORLD]))
    landmarks = LandmarkSet(tuple(k[0] for k in keys), np.array([k[1] for k in keys]), np.array(points), space)
    folder = tmp_path_factory.mktemp("round")
    back = read_landmarks(write_landmarks(folder / "l.csv", landmarks))
    assert (back.ids, back.space) == (landmarks.ids, space)
    np.testing.assert_array_equal(back.frames, landmarks.frames)
    np.testing.assert_array_equal(back.points, landmarks.points)
    grid = Grid((5, 9, 7)[-ndim:], (3.0, 2.0, 0.5)[-ndim:], (1.0, -2.0, 4.0)[-ndim:])
    slicer_file = write_landmarks(folder / "l.mrk.json", landmarks, grid)
    again = read_landmarks(slicer_file, grid)
    assert again.ids == landmarks.ids
    np.testing.assert_allclose(again.points, landmarks.to_space(Space.WORLD, grid).points, atol=1e-6)


def test_slicer_needs_a_grid_for_pixels(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="pass grid"):
        write_landmarks(tmp_path / "l.mrk.json", marks([("a", 0, 1, 2)]))
    patient = Grid((1, 100, 60), (5.0, 2.0, 0.5), (30.0, -7.0, 11.0), ((0, -1, 0), (1, 0, 0), (0, 0, 1)))
    path = write_landmarks(tmp_path / "l.mrk.json", marks([("a", 2, 10, 20)]), patient)
    assert json.loads(path.read_text())["markups"][0]["controlPoints"][0]["position"] == [21.0, -7.0, 10.0]
    np.testing.assert_allclose(read_landmarks(path, patient).points, [[10, 20]], atol=1e-9)


GOOD = [("a", 0, 90.0, 50.0), ("b", 0, 5.0, 7.0), ("a", 3, 92.0, 51.0), ("b", 3, 4.0, 8.0)]


def test_good_landmarks_give_no_warning() -> None:
    assert check_plausible(marks(GOOD), series(), 0) == ()
    assert check_plausible(marks([(i, f, y * 2, x * 0.5) for i, f, y, x in GOOD], Space.WORLD), series(), 0) == ()


@pytest.mark.parametrize(
    ("points", "space", "words"),
    [
        ([(i, f, x, y) for i, f, y, x in GOOD], Space.INDEX, "when x and y are exchanged"),
        ([(i, f, y * 2, x * 0.5) for i, f, y, x in GOOD], Space.INDEX, "were mm given in columns named px"),
        (GOOD, Space.WORLD, "were px given in columns named mm"),
        ([*GOOD, ("c", 0, 100, 60)], Space.INDEX, "are pixels counted from 1"),
        ([("a", 1, 5, 5), ("a", 5, 5, 5)], Space.INDEX, "are frames counted from 1"),
        ([("a", 1, 5, 5)], Space.INDEX, "no landmark lies in the reference frame 0"),
    ],
)
def test_mistakes_are_named(points: list[tuple[str, int, float, float]], space: Space, words: str) -> None:
    assert any(words in warning for warning in check_plausible(marks(points, space), series(), 0))


def test_whole_numbers_in_the_other_unit_are_asked_about() -> None:
    place = series((100, 60), (1.7, 0.9))
    pixels = [("a", 0, 20.0, 30.0), ("b", 0, 41.0, 27.0), ("c", 0, 55.0, 11.0), ("a", 1, 22.0, 33.0)]
    (asked,) = check_plausible(marks(pixels, Space.WORLD), place, 0)[:1]
    assert "every number in the columns named mm is whole, as pixels are" in asked
    in_mm = [(i, f, y * 1.7, x * 0.9) for i, f, y, x in pixels]
    assert "were mm given in columns named px?" in check_plausible(marks(in_mm, Space.INDEX), place, 0)[0]
    for points, space in ((pixels, Space.INDEX), (in_mm, Space.WORLD)):
        assert not [w for w in check_plausible(marks(points, space), place, 0) if "were" in w]


def test_phases_in_percent_are_explained() -> None:
    found = marks([("a", 0, 5, 5), ("a", 40, 5, 5)])
    assert any("T50 of ten is frame 5" in warning for warning in check_plausible(found, series(), 0))


def test_ids_that_do_not_match() -> None:
    far = [("a", 0, 2.0, 2.0), ("b", 0, 97.0, 57.0), ("a", 1, 97.0, 57.0), ("b", 1, 2.0, 2.0)]
    assert any("do the ids match" in warning for warning in check_plausible(marks(far), series(), 0))


def test_points_outside_are_counted() -> None:
    warnings = check_plausible(marks([*GOOD, ("c", 0, 50.0, -5.0), ("d", 0, 50.0, 64.0)]), series(), 0)
    assert "2 of 6 landmarks lie outside the image (c in frame 0, d in frame 0)" in warnings[0]
