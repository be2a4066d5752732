"""Landmarks as a table, their errors and their files: known numbers on 2 x 1.5 mm pixels, without any window."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_r2n2.models.landmarks import files
from napari_r2n2.models.landmarks.errors import report
from napari_r2n2.models.landmarks.marks import COPIED, PLACED, PREDICTED, Marks
from napari_r2n2.models.landmarks.predictions import Predictions
from napari_r2n2.models.session import FrameKey, Session
from r2n2.errors import ArgumentError, ReadError
from r2n2.evaluation import target_registration_error
from r2n2.geometry import Grid, Space
from r2n2.io import read_landmarks
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import DisplacementField


def key(frame: int, slice_index: int = 0) -> FrameKey:
    return FrameKey(slice_index, frame)


def shift(grid: Grid, rows: float, columns: float) -> DisplacementField:
    vectors = torch.tensor([rows, columns], dtype=torch.float64)[:, None, None].expand(2, *grid.shape).clone()
    return DisplacementField(vectors, grid, Space.INDEX)


def registered(series: ImageSeries, shifts: dict[int, tuple[float, float]], reference: int = 0) -> Session:
    session = Session()
    session.begin([series])
    for frame, (rows, columns) in shifts.items():
        transform = shift(series.grid, rows, columns)
        session.add(0, reference, FrameResult(frame, transform, FrameStatus.OK, "", 0.5, 0.9, 0.0, 1.0, 1.0, 0.1))
    return session


@pytest.fixture
def pairs() -> Marks:
    """In frame 2 landmark 1 lies (3, 4) pixels = (6, 6) mm off and landmark 2 (0, 2) pixels = 3 mm; in frame 1 one is at rest."""
    marks = Marks.empty(3)
    for frame, name, yx in (
        (0, "1", (10, 10)),
        (0, "2", (4, 20)),
        (2, "1", (13, 14)),
        (2, "2", (4, 22)),
        (1, "1", (10, 10)),
    ):
        marks = marks.place(key(frame), name, yx)
    return marks


def test_a_name_placed_twice_in_a_frame_moves_the_point(pairs: Marks) -> None:
    moved = pairs.place(key(2), "1", (1.5, 2.5))
    assert len(moved) == len(pairs)
    assert moved.positions()[2].tolist() == [1.5, 2.5]
    assert pairs.positions()[2].tolist() == [13, 14]


def test_names_go_on_after_the_last_and_are_not_used_twice(pairs: Marks) -> None:
    assert Marks.empty(3).next_name(0) == "1"
    assert pairs.next_name(0) == "3"
    without = pairs.without([pairs.find(key(0), "2") or -1])
    assert without.next_name(0) == "3"  # frame 2 still has a 2
    assert pairs.place(key(0), "L07", (0, 0)).next_name(0) == "L08"
    assert Marks.empty(3).place(key(0), "apex", (0, 0)).next_name(0) == "1"


def test_slices_count_for_themselves() -> None:
    marks = Marks.empty(4).place(key(0, 1), "5", (1, 2)).place(key(0, 0), "1", (1, 2))
    assert (marks.next_name(0), marks.next_name(1), marks.next_name(2)) == ("2", "6", "1")
    assert marks.rows.tolist() == [[1, 0, 1, 2], [0, 0, 1, 2]]
    assert set(marks.sets()) == {0, 1}


def test_missing_comes_in_the_order_of_the_reference(pairs: Marks) -> None:
    more = pairs.place(key(0), "9", (1, 1)).place(key(0), "3", (1, 1))
    assert more.missing(key(0), key(1)) == ("2", "9", "3")


def test_copies_are_drafts_and_replace_nothing(pairs: Marks) -> None:
    copied = pairs.copied(pairs.rows_in(key(0)), [key(t) for t in (1, 2, 3)])
    assert [copied.ids_in(key(t)) for t in (1, 2, 3)] == [("1", "2"), ("1", "2"), ("1", "2")]
    assert copied.positions()[copied.find(key(2), "1")].tolist() == [13, 14]
    assert copied.drafted == 3
    assert copied.sets()[0].ids == pairs.sets()[0].ids
    assert copied.confirmed(range(len(copied))).drafted == 0


def test_rows_of_a_click_between_frames_are_rounded() -> None:
    assert Marks(np.array([[2.0000004, 5.25, 6.5]]), ("1",)).rows.tolist() == [[2, 5.25, 6.5]]


def test_errors_before_and_after_are_the_hand_computed_ones(pairs: Marks, series: ImageSeries) -> None:
    session = registered(series, {0: (0, 0), 2: (3, 2)})
    found = report(pairs, (series,), 0, 0, Predictions(session))
    assert [(row.frame, row.id) for row in found.rows] == [(1, "1"), (2, "1"), (2, "2")]
    assert [row.before_mm for row in found.rows] == pytest.approx([0, math.hypot(6, 6), 3])
    # 1 misses by (0, 2) pixels = 3 mm; 2 is at (4, 22) and expected at (7, 22): 3 pixels = 6 mm; frame 1 is not registered.
    assert [row.after_mm for row in found.rows] == pytest.approx([math.nan, 3, 6], nan_ok=True)
    assert found.after(2) == pytest.approx((2, 4.5, 4.5, 6))
    assert found.before() == pytest.approx((3, (math.hypot(6, 6) + 3) / 3, 3, math.hypot(6, 6)))
    assert any("1 of 3" in note for note in found.notes)


def test_the_report_agrees_with_the_session(series: ImageSeries) -> None:
    """On a turned grid with random points and motion, and again after points moved and frames were registered anew."""
    turned = replace(series, grid=Grid((27, 35), (2.0, 1.5), (10.0, -7.0), ((0.8, -0.6), (0.6, 0.8))))
    session = registered(turned, {t: (0.4 * t, -0.7 * t) for t in range(4)})
    predictions = Predictions(session)
    random = np.random.default_rng(0)
    marks = Marks.empty(3)
    for turn in range(3):
        for t in range(4):
            for k in range(4 if turn == 0 else 2):  # in later turns only some points move
                marks = marks.place(key(t), str(k), random.uniform(0, 26, 2).tolist())
        session.set_landmarks(marks.sets())
        table = session.errors()
        found = report(marks, (turned,), 0, 0, predictions)
        assert {(r.frame, r.id): (r.before_mm, r.after_mm) for r in found.rows} == {
            (r.frame, r.id): (pytest.approx(r.before_mm), pytest.approx(r.after_mm)) for r in table.rows
        }
        assert found.after(1)[1:] == pytest.approx((table.after(1).mean_mm, table.after(1).median_mm, table.after(1).max_mm))
        session.add(0, 0, FrameResult(2, shift(turned.grid, turn, 1), FrameStatus.OK, "", 0.5, 0.9, 0.0, 1.0, 1.0, 0.1))
        predictions.forget(key(2))


def test_distances_before_agree_with_the_evaluation(pairs: Marks, series: ImageSeries) -> None:
    turned = replace(series, grid=Grid((27, 35), (2.0, 1.5), (10.0, -7.0), ((0.8, -0.6), (0.6, 0.8))))
    transforms = {t: shift(turned.grid, 1, 1) for t in range(4)}
    table = target_registration_error(transforms, pairs.sets()[0], 0, turned.grid)
    found = report(pairs, (turned,), 0, 0, None)
    assert {(r.frame, r.id): r.before_mm for r in found.rows} == pytest.approx({(r.frame, r.id): r.before_mm for r in table.rows})


def test_what_does_not_count_is_left_out_and_said(pairs: Marks, series: ImageSeries) -> None:
    marks = pairs.place(key(3), "1", (10, 12), PREDICTED).place(key(3), "2", (4, 20), COPIED)
    marks = marks.place(key(1), "2", (4, 35.4)).place(key(1), "lonely", (3, 3))
    session = registered(series, dict.fromkeys(range(4), (0, 0)))
    found = report(marks, (series,), 0, 0, Predictions(session))
    assert [row.remark for row in found.rows] == ["", "outside", "no partner", "", "", "predicted", "copied"]
    assert found.after().number == found.before().number == 3
    assert found.frames == (1, 2)
    assert [note.split(" not counted")[0] for note in found.notes] == ["1"] * 4


def test_without_pairs_there_are_no_numbers(series: ImageSeries) -> None:
    found = report(
        Marks.empty(3).place(key(0), "1", (3, 3)), (series,), 0, 0, Predictions(registered(series, {0: (0, 0), 1: (1, 1)}))
    )
    assert found.rows == ()
    assert math.isnan(found.before().mean_mm)


@pytest.mark.parametrize(("kind", "name"), [("mm", "marks.csv"), ("px", "marks.csv"), ("slicer", "marks.mrk.json")])
def test_written_and_read_again_is_the_same(pairs: Marks, series: ImageSeries, tmp_path: Path, kind: str, name: str) -> None:
    (written,) = files.write(tmp_path / name, pairs, (series,), kind)
    sets, notes = files.read(written, (series,), [0])
    again = Marks.from_sets(sets, 3)
    assert again.ids == pairs.ids
    np.testing.assert_allclose(again.rows, pairs.rows, atol=1e-9)
    assert notes == ()


def test_slicer_gets_patient_positions(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    """Of a coronal slice: rows run down the body, against z, columns to the left, along x."""
    direction = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    coronal = replace(series, patient_grid=Grid((1, 27, 35), (6.0, 2.0, 1.5), (100.0, -40.0, 20.0), direction))
    (written,) = files.write(tmp_path / "marks.mrk.json", pairs, (coronal,), "slicer")
    point = json.loads(written.read_text())["markups"][0]["controlPoints"][0]
    assert point["position"] == pytest.approx([20 + 10 * 1.5, -40, 100 - 10 * 2.0])
    sets, _notes = files.read(written, (coronal,), [0])
    np.testing.assert_allclose(sets[0].points, pairs.positions(), atol=1e-9)


def test_millimetres_are_those_of_the_grid(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    (written,) = files.write(tmp_path / "marks", pairs, (series,), "mm")
    with written.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["id"], row["frame"]) == ("1", "0")
    assert (float(row["y_mm"]), float(row["x_mm"])) == pytest.approx((10 + 10 * 2.0, -7 + 10 * 1.5))


def test_kinds_keep_their_endings(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    (written,) = files.write(tmp_path / "landmarks.csv", pairs, (series,), "slicer")
    assert written.name == "landmarks.mrk.json"
    label = json.loads(written.read_text())["markups"][0]["controlPoints"][0]["label"]
    assert label == "1@0"


def test_napari_file_keeps_pairs_by_order(series: ImageSeries, tmp_path: Path) -> None:
    marks = Marks.empty(3)
    for frame, name, yx in ((0, "7", (1, 2)), (0, "8", (3, 4)), (2, "8", (5, 6)), (2, "7", (7, 8))):
        marks = marks.place(key(frame), name, yx)
    (written,) = files.write(tmp_path / "points.csv", marks, (series,), "napari")
    found = read_landmarks(written, series.grid)
    assert found.ids == ("0", "1", "0", "1")
    assert found.points.tolist() == [[1, 2], [3, 4], [7, 8], [5, 6]]


def test_napari_file_refuses_unequal_frames(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has no ids"):
        files.write(tmp_path / "points.csv", pairs, (series,), "napari")
    assert list(tmp_path.iterdir()) == []


def test_drafts_are_not_exported(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    marks = pairs.place(key(3), "1", (1, 1), PREDICTED)
    (written,) = files.write(tmp_path / "marks.csv", marks, (series,), "px")
    assert len(read_landmarks(written)) == len(pairs)
    with pytest.raises(ArgumentError, match="no landmark to export"):
        files.write(tmp_path / "none.csv", Marks.empty(3).place(key(3), "1", (1, 1), COPIED), (series,), "px")


def test_slices_go_to_a_folder_and_come_back(series: ImageSeries, tmp_path: Path) -> None:
    marks = Marks.empty(4).place(key(0, 1), "1", (3.5, 4)).place(key(2, 1), "1", (5, 6)).place(key(1, 0), "1", (7, 8))
    both = (series, series)
    written = files.write(tmp_path / "marks", marks, both, "mm")
    assert [path.name for path in written] == ["slice_00.csv", "slice_01.csv"]
    sets, _notes = files.read(tmp_path / "marks", both, [0, 0])
    assert sorted(Marks.from_sets(sets, 4).rows.round(9).tolist()) == sorted(marks.rows.tolist())
    with pytest.raises(ReadError, match=r"choose a folder with slice_00\.csv"):
        files.read(written[0], both, [0, 0])
    with pytest.raises(ReadError, match="holds no slice_00"):
        files.read(tmp_path, both, [0, 0])


def test_frames_that_do_not_exist_are_refused(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    (written,) = files.write(tmp_path / "marks.csv", pairs.place(key(4), "1", (1, 1)), (series,), "px")
    with pytest.raises(ReadError, match=r"frame 4, the series has frames 0 to 3"):
        files.read(written, (series,), [0])


def test_oddities_are_told(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    (written,) = files.write(tmp_path / "marks.csv", pairs.place(key(3), "1", (26, 60)), (series,), "px")
    _sets, notes = files.read(written, (series,), [0])
    assert any("outside the image" in note for note in notes)
    slicer = tmp_path / "no_frames.mrk.json"
    points = [{"label": "F-1", "position": [0, 20, 0]}]
    slicer.write_text(json.dumps({"markups": [{"coordinateSystem": "LPS", "controlPoints": points}]}))
    _sets, notes = files.read(slicer, (series,), [0])
    assert any("id@frame" in note for note in notes)


def test_pixels_of_unknown_size_are_not_written_as_mm(pairs: Marks, series: ImageSeries, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="export in pixels"):
        files.write(tmp_path / "marks.csv", pairs, (replace(series, spacing_known=False),), "mm")


def test_inter_observer_error_is_the_hand_computed_one(pairs: Marks, series: ImageSeries) -> None:
    other = pairs.place(key(0), "1", (11, 10)).place(key(2), "2", (4, 24)).place(key(3), "1", (1, 1))
    found = files.compare(pairs.sets(), other.sets(), (series,))
    # 1 pixel down = 2 mm, 2 pixels right = 3 mm, the other three agree.
    assert (found.summary.count, found.summary.mean_mm, found.summary.max_mm) == pytest.approx((5, 1.0, 3.0))
    assert found.worst[:2] == ((0, 2, "2", pytest.approx(3.0)), (0, 0, "1", pytest.approx(2.0)))
    assert found.alone == 1


def test_observers_without_a_common_point_are_told(pairs: Marks, series: ImageSeries) -> None:
    stranger = {0: LandmarkSet(("x",), np.array([0]), np.array([[1.0, 1.0]]), Space.INDEX)}
    with pytest.raises(ReadError, match="share no id"):
        files.compare(pairs.sets(), stranger, (series,))


def test_observers_of_several_slices_count_together(series: ImageSeries) -> None:
    one: Any = Marks.empty(4).place(key(0, 0), "1", (1, 1)).place(key(0, 1), "1", (1, 1)).place(key(0, 1), "2", (5, 5))
    two = one.place(key(0, 1), "1", (1, 3)).without([2])
    found = files.compare(one.sets(), two.sets(), (series, series))
    assert found.worst[0] == (1, 0, "1", pytest.approx(3.0))
    assert (found.summary.count, found.alone) == (2, 1)


def test_placing_needs_neither_qt_nor_torch() -> None:
    """The model works in a viewer without a window, and distances before cost no start of torch."""
    script = """
import sys
import numpy as np
from napari.components import ViewerModel
from napari_r2n2.layers.landmarks.model import LandmarkModel
from napari_r2n2.models.session import FrameKey, session_of

viewer = ViewerModel()
model = LandmarkModel(viewer)
viewer.add_image(np.zeros((4, 27, 35)), scale=(0.5, 2, 1.5), axis_labels=("frame", "y", "x"), units=("s", "mm", "mm"))
model.new_layer()
model.go_to(FrameKey(0, 0))
model.layer.add([0, 10, 10])
model.go_to(FrameKey(0, 1))
model.layer.add([1, 13, 14])
assert model.marks.ids == ("1", "1")
assert abs(model.errors().before().mean_mm - 72**0.5) < 1e-9
assert session_of(viewer).landmarks().ids == ("1", "1")
model.undo()
assert model.marks.ids == ("1",)
model.close()
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "PyQt6", "PySide6"}, loaded & {"torch", "PyQt6", "PySide6"}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_marks_refuse_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="2 rows need as many ids"):
        Marks(np.zeros((2, 3)), ("1",), (PLACED,))
