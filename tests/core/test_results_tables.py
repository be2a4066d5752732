"""Every CSV that is written: names that a spreadsheet would run are disarmed, and small numbers keep their digits."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_factory import images

from r2n2.benchmark.case import Case
from r2n2.benchmark.contestant import Settings
from r2n2.benchmark.files import table_csv
from r2n2.benchmark.results import Benchmark, CaseResult
from r2n2.evaluation import LandmarkError, TRETable
from r2n2.geometry import Grid
from r2n2.io.spreadsheet import original_cell, safe_cell
from r2n2.registration.results import FrameStatus
from r2n2.results.acquisition import summary_table
from r2n2.results.frame_metrics import FrameMetrics, metrics_table
from r2n2.results.sequence_file import sequence_table
from r2n2.results.tre_table import read_tre_table, slice_table_csv, tre_summary_csv, tre_table_csv
from r2n2.transform import GaussianSequence

RUN = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "'=1", "''-x", "\n+1")
SMALL = 1.083e-4


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("name", [*RUN, "plain", "'quoted'", "a=1", "", "'"])
def test_names_are_disarmed_and_come_back(name: str) -> None:
    assert original_cell(safe_cell(name)) == name
    assert not safe_cell(name).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert (safe_cell(name) == name) == (name not in RUN)


def test_landmark_errors_give_their_ids_back(tmp_path: Path) -> None:
    table = TRETable(0, tuple(LandmarkError(name, 1, SMALL, SMALL / 3, True) for name in RUN), (), ())
    text = tre_table_csv(table)
    assert not [row["id"] for row in rows(text) if not row["id"].startswith("'")]
    path = tmp_path / "tre.csv"
    path.write_text(text, encoding="utf-8", newline="")
    read = read_tre_table(path, 0)
    assert tuple(row.id for row in read.rows) == RUN
    assert read.rows[0].after_mm == pytest.approx(SMALL / 3, rel=1e-8)
    assert float(rows(tre_summary_csv(table))[0]["tre_mean_mm"]) == pytest.approx(SMALL / 3, rel=1e-8)


def test_names_of_slices_and_series_are_disarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = TRETable(0, (LandmarkError("a", 1, 2.0, 1.0, True),), (), ())
    assert rows(slice_table_csv({"=1+1": table}))[0]["slice"] == "'=1+1"
    outside = TRETable(0, (LandmarkError("a", 1, 2.0, 1.0, False),), (), ())
    assert rows(slice_table_csv({"one": table, "two": outside}))[2]["tre_mean_mm"] == "1"

    class Registered:
        metrics = (row_of(0, FrameStatus.REFERENCE), row_of(1))

    monkeypatch.setattr("r2n2.results.acquisition.read_result", lambda _: Registered())
    (found,) = rows(summary_table(Path("x"), ["@slice"]))
    assert found["slice"] == "'@slice"
    assert float(found["max_displacement_mm"]) == pytest.approx(SMALL, rel=1e-8)
    benchmark = Benchmark(Settings(threads=1), 1, (), (CaseResult(Case("=HYPERLINK(1)", images(2), 0, (1,), 2), (), ()),))
    assert {row["series"] for row in rows(table_csv(benchmark))} == {"'=HYPERLINK(1)"}


def row_of(frame: int, status: FrameStatus = FrameStatus.OK) -> FrameMetrics:
    return FrameMetrics(frame, math.nan, 0.9, 0.99, 0.0, 0.9, SMALL, 0.1, status)


def test_small_numbers_keep_their_digits_in_metrics_and_sequence() -> None:
    assert float(rows(metrics_table([row_of(1)], with_errors=False))[0]["max_displacement_mm"]) == pytest.approx(SMALL, rel=1e-8)
    grid = Grid((31, 45), (SMALL, 2 * SMALL))
    sequence = GaussianSequence(
        torch.tensor([[0.1, -0.2]]), torch.tensor([[0.3, 0.4]]), torch.zeros(1, 1), torch.tensor([[0.01, 0.02]]), grid
    )
    (row,) = rows(sequence_table({1: sequence}))
    assert float(row["sigma1_mm"]) == pytest.approx(sequence.sigmas_mm()[0, 0].item(), rel=1e-6)
    np.testing.assert_allclose([float(row["vy_mm"]), float(row["vx_mm"])], sequence.amplitudes_mm()[0].numpy(), rtol=1e-6)
    assert 0 < float(row["vy_mm"]) < 1e-4
