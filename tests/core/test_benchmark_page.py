"""The page of a comparison: what it says is what was measured, and it needs nothing beside itself."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from benchmark_factory import contestant, images

from r2n2.benchmark.case import Case
from r2n2.benchmark.contestant import Settings
from r2n2.benchmark.contestants import OTHERS, OURS, chosen
from r2n2.benchmark.figure import Point, accuracy_figure, best_compromises
from r2n2.benchmark.page import render_page
from r2n2.benchmark.results import Benchmark, CaseResult, ContestantResult
from r2n2.benchmark.scores import FrameScore

ERRORS_MM = {"network": 0.9, "fit": 0.4, "demons": 0.5, "TV-L1": 0.2}
SECONDS = {"network": 0.1, "fit": 0.2, "demons": 2.0, "TV-L1": 1.0}


def result(name: str, known: bool) -> ContestantResult:
    who = next(item for item in (*chosen(OURS, OURS, ""), *chosen(OTHERS, OTHERS, "")) if item.name == name)
    before, after = ((4.0, 6.0), (ERRORS_MM[name] - 0.1, ERRORS_MM[name] + 0.1)) if known else ((), ())
    score = FrameScore(1, 0.8, 1 - ERRORS_MM[name] / 10, 0.0, 0.5, before, after, math.nan, math.nan)
    seconds = (SECONDS[name] * 0.9, SECONDS[name], SECONDS[name] * 1.5)
    return ContestantResult(who, seconds, 100.0, 200.0, 175, (score, replace(score, frame=2)))


def benchmark(*, known: bool = True, series: tuple[str, ...] = ("a <b> series",)) -> Benchmark:
    results = tuple(result(name, known) for name in ERRORS_MM)
    cases = tuple(CaseResult(Case(name, images(2), 0, (1, 2), 3), results, (tuple(ERRORS_MM),) * 3) for name in series)
    return Benchmark(Settings(threads=5), 3, (), cases)


def page(outcome: Benchmark) -> str:
    return render_page(outcome, {"processor": "abacus"}, "2026-01-02T03:04:05+00:00")


def cells(text: str, method: str) -> list[str]:
    """The first row of a table that begins with a method."""
    row = re.search(rf"<tr[^>]*><td>{re.escape(method)}</td>(.*?)</tr>", text)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row[1])


def test_the_best_compromises_are_those_that_no_other_beats_twice() -> None:
    def point(name: str, seconds: float, error: float) -> Point:
        return Point(name, True, seconds, seconds, seconds, error, math.nan)

    points = [point("slow", 9, 1), point("bad", 5, 8), point("fast", 1, 9), point("middle", 3, 4), point("as fast", 1, 9.5)]
    assert [p.name for p in best_compromises(points)] == ["fast", "middle", "slow"]


def test_numbers_are_those_measured_and_the_best_are_marked() -> None:
    text = page(benchmark())
    assert "Most accurate: TV-L1 (0.20 mm mean TRE, 1 s a frame). Fastest: network (0.90 mm mean TRE, 0.1 s a frame)." in text
    assert cells(text, "fit")[:4] == ["0.200", "0.180", "0.300", "200"]
    assert cells(text, "not registered")[6] == "5.00"
    assert '<td class="best">0.20</td>' in text
    assert '<td class="best">0.90</td>' not in text
    assert '<tr class="ours"><td>network</td>' in text
    assert '<tr class=""><td>demons</td>' in text
    assert "abacus" in text
    assert "5 for every method" in text


def test_the_page_is_complete_in_itself_and_escapes_names() -> None:
    text = page(benchmark())
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 1
    assert "a &lt;b&gt; series" in text
    assert "--paper" in text  # the style sheet of the reports


def test_without_landmarks_similarity_is_shown() -> None:
    text = page(benchmark(known=False))
    assert "Similarity against time" in text
    assert "Most alike: TV-L1 (0.0200 from a correlation of 1" in text
    assert "TRE" not in text


def test_whoever_failed_is_named_with_the_reason() -> None:
    outcome = benchmark()
    (case,) = outcome.cases
    failed = replace(case.results[2], scores=case.results[2].scores[:1], errors=((2, "RuntimeError: <odd>"),))
    stopped = replace(case.results[3], scores=(), seconds=(), numbers=None, stopped="its process ended with SIGSEGV")
    case = replace(case, results=(*case.results[:2], failed, stopped))
    absent = ((replace(contestant("identity"), name="fancy"), "not there: pip install fancy"),)
    text = page(replace(outcome, cases=(case,), absent=absent))
    assert "frame 2: RuntimeError: &lt;odd&gt;" in text
    assert "its process ended with SIGSEGV" in text
    assert "not there: pip install fancy" in text
    assert "demons (1 of 2 frames)" in text
    assert "TV-L1 (0 of 2 frames)" in text


def test_where_nothing_was_registered_the_page_says_so() -> None:
    outcome = benchmark()
    nothing = [replace(result, scores=(), numbers=None, stopped="gone") for result in outcome.cases[0].results]
    text = page(replace(outcome, cases=(replace(outcome.cases[0], results=tuple(nothing)),)))
    assert "No method registered a frame." in text
    assert "<img" not in text


def test_several_series_have_a_table_of_their_own() -> None:
    text = page(benchmark(series=("first", "second")))
    assert "Series by series" in text
    assert "4 frames of 2 series" in text


@pytest.mark.parametrize("error", [0.0, 3.0])
def test_a_point_alone_or_without_error_can_be_drawn(error: float) -> None:
    one = Point("alone", True, 1.0, 1.0, 1.0, error, math.nan)
    assert accuracy_figure([one], error, "mean TRE (mm)").startswith("data:image/png;base64,")
