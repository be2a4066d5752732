"""Landmark errors, overlap and folding against numbers known beforehand, on non-square, anisotropic, rotated grids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2n2.errors import ReadError
from r2n2.evaluation import dice, folding, inter_observer_error, summarise, target_registration_error, warp_labels
from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.results.tre_table import read_tre_table, slice_errors, slice_table_csv, tre_summary_csv, tre_table_csv
from r2n2.series import LandmarkSet
from r2n2.transform import DisplacementField

TURN = ((0.8, -0.6), (0.6, 0.8))
GRID = Grid((31, 47), (2.0, 0.5), (5.0, -3.0), TURN)


def shift(rows: float, columns: float, grid: Grid = GRID) -> DisplacementField:
    """A constant displacement in pixels."""
    vectors = torch.tensor([rows, columns], dtype=torch.float64)[:, None, None].expand(2, *grid.shape).clone()
    return DisplacementField(vectors, grid, Space.INDEX)


def marks(rows: list[tuple[str, int, float, float]], space: Space = Space.INDEX) -> LandmarkSet:
    ids, frames, y, x = zip(*rows, strict=True)
    return LandmarkSet(ids, np.array(frames), np.array([y, x]).T, space)


def test_a_fixed_point_lies_at_p_plus_f_in_the_moving_frame() -> None:
    # The moving frame shows everything 3 rows further down and 4 columns to the right.
    landmarks = marks([("a", 0, 10, 10), ("a", 1, 13, 14)])
    right = target_registration_error({1: shift(3, 4)}, landmarks, 0, GRID)
    wrong = target_registration_error({1: shift(-3, -4)}, landmarks, 0, GRID)
    before_mm = math.hypot(3 * 2.0, 4 * 0.5)
    assert right.rows[0].before_mm == pytest.approx(before_mm)
    assert right.rows[0].after_mm == pytest.approx(0, abs=1e-9)
    assert wrong.rows[0].after_mm == pytest.approx(2 * before_mm)


def test_points_in_world_mm_give_the_same_errors() -> None:
    index = marks([("a", 0, 10, 10), ("b", 0, 4, 30.5), ("a", 1, 13, 12), ("b", 1, 5, 29)])
    world = index.to_space(Space.WORLD, GRID)
    tables = [target_registration_error({1: shift(2, 1)}, landmarks, 0, GRID) for landmarks in (index, world)]
    for one, other in zip(tables[0].rows, tables[1].rows, strict=True):
        assert one.after_mm == pytest.approx(other.after_mm, abs=1e-9)
        assert one.before_mm == pytest.approx(other.before_mm, abs=1e-9)
    assert tables[0].rows[0].after_mm == pytest.approx(math.hypot(1 * 2.0, 1 * 0.5))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_landmarks_does_not_matter(order: list[int]) -> None:
    rows = [(f"p{k}", frame, 5.0 + k + frame, 9.0 + 2 * k - frame) for frame in (0, 1) for k in range(6)]
    straight = target_registration_error({1: shift(1, 0)}, marks(rows), 0, GRID)
    shuffled = target_registration_error({1: shift(1, 0)}, marks([rows[k] for k in order]), 0, GRID)
    assert shuffled.rows == straight.rows
    assert straight.after().mean_mm == pytest.approx(0.5)


def test_what_cannot_be_paired_is_listed_not_cut_off() -> None:
    rows = [(f"p{k}", 0, 3 + k / 4, 20) for k in range(71)] + [(f"p{k}", 2, 3 + k / 4, 20) for k in range(69)]
    table = target_registration_error({2: shift(0, 0)}, marks([*rows, ("p0", 5, 3, 20), ("new", 2, 9, 9)]), 0, GRID)
    assert len(table.rows) == 69
    assert set(table.unmatched) >= {(2, "p69"), (2, "p70"), (2, "new")}
    assert table.unregistered == (5,)
    assert any("not registered" in note for note in table.notes)
    assert any("no partner" in note for note in table.notes)


def test_points_outside_are_flagged_left_out_and_counted() -> None:
    width = GRID.shape[1]
    rows = [("in", 0, 10, 10), ("left", 0, 10, -5), ("edge", 0, 0, width - 0.5), ("far", 0, 10, 20)]
    rows += [("in", 1, 10, 10), ("left", 1, 10, 3), ("edge", 1, 0, 20), ("far", 1, 10, width + 5.0)]
    table = target_registration_error({1: shift(0, 0)}, marks(rows), 0, GRID)
    assert {row.id: row.inside for row in table.rows} == {"in": True, "left": False, "edge": True, "far": False}
    assert table.outside == 2
    assert table.after().count == 2
    counted = target_registration_error({1: shift(0, 0)}, marks(rows), 0, GRID, include_outside=True)
    assert counted.after().count == 4
    assert counted.after().max_mm > table.after().max_mm


def test_a_reference_without_landmarks_or_common_ids_is_refused() -> None:
    with pytest.raises(ReadError, match="reference frame 3"):
        target_registration_error({1: shift(0, 0)}, marks([("a", 0, 1, 1), ("a", 1, 1, 1)]), 3, GRID)
    with pytest.raises(ReadError, match="no frame shares an id"):
        target_registration_error({1: shift(0, 0)}, marks([("a", 0, 1, 1), ("b", 1, 1, 1)]), 0, GRID)


def test_a_transform_of_another_space_is_refused() -> None:
    elsewhere = Grid(GRID.shape, (2.0, 0.5), (5.0, 30.0), TURN)
    with pytest.raises(GridMismatchError, match="frame 1"):
        target_registration_error({1: shift(0, 0, elsewhere)}, marks([("a", 0, 1, 1), ("a", 1, 1, 1)]), 0, GRID)


def test_half_an_image_apart_is_suspicious() -> None:
    grid = Grid((30, 40))
    rows = [(f"p{k}", 0, 2, 2 + k) for k in range(3)] + [(f"p{k}", 1, 28, 36 + k) for k in range(3)]
    table = target_registration_error({1: shift(0, 0, grid)}, marks(rows), 0, grid)
    assert any("unit" in note for note in table.notes)


def test_summary_of_known_numbers() -> None:
    summary = summarise([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (summary.count, summary.mean_mm, summary.median_mm, summary.max_mm) == (5, 4.0, 3.0, 10.0)
    assert summary.q95_mm == pytest.approx(8.8)
    assert math.isnan(summarise([1.0, 2.0, 3.0, 4.0]).q95_mm)
    assert math.isnan(summarise([]).mean_mm)


def test_tables_round_trip_and_the_papers_table(tmp_path: Path) -> None:
    rows = [("a", 0, 10, 10), ("b", 0, 20, 20), ("a", 1, 11, 10), ("b", 1, 23, 20), ("a", 2, 10, 14), ("b", 2, 20, 20)]
    table = target_registration_error({1: shift(0, 0), 2: shift(0, 0)}, marks(rows), 0, GRID)
    # Frame means: (2 + 6) / 2 = 4 mm and (2 + 0) / 2 = 1 mm.
    assert slice_errors(table)[1] == pytest.approx((2.5, 4.0))
    path = tmp_path / "tre.csv"
    path.write_text(tre_table_csv(table))
    for read, written in zip(read_tre_table(path, 0).rows, table.rows, strict=True):
        assert (read.id, read.frame, read.inside) == (written.id, written.frame, written.inside)
        assert (read.before_mm, read.after_mm) == pytest.approx((written.before_mm, written.after_mm), rel=1e-5)
    assert tre_summary_csv(table).splitlines()[-1].startswith("series,4,")
    paper = slice_table_csv({"slice_00": table, "slice_01": table}).splitlines()
    assert paper[1].split(",")[3:] == ["2.5", "4"]
    assert paper[-1].split(",")[3] == "2.5"
    path.write_text("id;frame\na;1\n")
    with pytest.raises(ReadError, match="damaged"):
        read_tre_table(path, 0)


def test_two_observers_are_compared_point_by_point() -> None:
    first = marks([("a", 0, 10, 10), ("b", 0, 5, 5), ("a", 1, 1, 1)])
    second = marks([("b", 0, 5, 9), ("a", 0, 13, 10), ("c", 0, 0, 0)])
    error = inter_observer_error(first, second, GRID)
    assert error.distances_mm == {(0, "a"): pytest.approx(6.0), (0, "b"): pytest.approx(2.0)}
    assert error.unmatched == ((0, "c"), (1, "a"))
    assert error.summary.mean_mm == pytest.approx(4.0)
    with pytest.raises(ReadError, match="share no id"):
        inter_observer_error(first, marks([("z", 0, 1, 1)]), GRID)


def test_labels_move_whole_and_are_never_mixed() -> None:
    labels = np.zeros(GRID.shape, np.uint64)
    labels[10:15, 20:26] = 2**63 + 1
    labels[12, 22] = 7
    moved = warp_labels(labels, shift(3, -5))
    assert moved.dtype == labels.dtype
    assert np.array_equal(moved[7:12, 25:31], labels[10:15, 20:26])
    assert set(np.unique(moved)) == set(np.unique(labels))
    with pytest.raises(ValueError, match="whole numbers"):
        warp_labels(labels.astype(float), shift(0, 0))
    with pytest.raises(ValueError, match="shape"):
        warp_labels(labels.T, shift(0, 0))


def test_dice_of_known_overlaps() -> None:
    a, b = np.zeros((5, 9), int), np.zeros((5, 9), int)
    a[0, :4], b[0, 2:6] = 1, 1
    a[2, :3] = 2
    assert dice(a, b) == {1: pytest.approx(0.5), 2: 0.0}
    with pytest.raises(ValueError, match="one shape"):
        dice(a, b[1:])


def test_folding_of_known_maps() -> None:
    rows, columns = torch.meshgrid(torch.arange(31.0), torch.arange(47.0), indexing="ij")
    stretched = DisplacementField(torch.stack((0.5 * rows, 0 * columns)), GRID, Space.INDEX)
    assert folding(stretched).min_jacobian == pytest.approx(1.5, abs=1e-5)
    flipped = DisplacementField(torch.stack((0 * rows, -2 * columns)), GRID, Space.INDEX)
    assert folding(flipped).percent == 100
    checkerboard = 0.6 * (-1.0) ** (rows + columns)
    assert folding(DisplacementField(torch.stack((checkerboard, 0 * rows)), GRID, Space.INDEX)).percent > 0
