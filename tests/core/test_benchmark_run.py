"""The comparison: turns, processes that fail in every way, what is measured, and the files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark_factory import GRID, contestant, images, scene, smooth_motion

from r2n2.benchmark import files
from r2n2.benchmark.case import Case, make_case, sample_case
from r2n2.benchmark.contestant import Contestant, Settings
from r2n2.benchmark.contestants import OTHERS, OURS, absence, chosen
from r2n2.benchmark.own import own_method
from r2n2.benchmark.process import ContestantProcess
from r2n2.benchmark.results import Benchmark
from r2n2.benchmark.run import run_benchmark
from r2n2.benchmark.scores import FrameTruth, score_frame
from r2n2.benchmark.worker import Answer, Ready
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import DisplacementField

SMALL = Grid((40, 56), (2.0, 1.5))


def case(count: int = 2, **changes: object) -> Case:
    return replace(Case("a scene", images(count, SMALL), 0, tuple(range(1, count + 1)), count + 1), **changes)


def compare(contestants: list[Contestant], one: Case | None = None, rounds: int = 1) -> Benchmark:
    settings = Settings(threads=1)
    outcomes = [p.finished for p in run_benchmark([one or case()], contestants, settings, rounds=rounds) if p.finished]
    return Benchmark(settings, rounds, (), tuple(outcomes))


@pytest.fixture(scope="module")
def mixed() -> Benchmark:
    """Two rounds of who registers, who fails on frame 2 alone, who crashes on two frames, who cannot be loaded, who gives NaN."""
    one = case(3)
    moving = one.images.moving.copy()
    moving[1, 0, 0] = -1
    one = replace(one, images=replace(one.images, moving=moving))
    return compare([contestant(kind) for kind in ("identity", "picky", "crash", "unready", "nan")], one, rounds=2)


def of(benchmark: Benchmark, name: str):
    return next(result for result in benchmark.cases[0].results if result.contestant.name == name)


def test_the_order_is_rotated_every_round(mixed) -> None:
    names = ("identity", "picky", "crash", "unready", "nan")
    assert mixed.cases[0].orders == (names, names[1:] + names[:1])
    assert len(of(mixed, "identity").seconds) == 2


def test_a_frame_that_fails_is_reported_and_the_others_are_scored(mixed) -> None:
    picky = of(mixed, "picky")
    assert picky.errors == ((2, "RuntimeError: negative corner"),)
    assert [score.frame for score in picky.scores] == [1, 3]
    assert not picky.stopped


def test_a_crash_ends_one_contestant_only(mixed) -> None:
    crash = of(mixed, "crash")
    assert crash.stopped == "its process ended with SIGKILL (corrupted heap)"
    assert crash.scores == ()
    assert len(of(mixed, "nan").seconds) == 2


def test_what_cannot_be_loaded_says_why(mixed) -> None:
    assert "libfancy.so" in of(mixed, "unready").stopped


def test_a_displacement_that_is_not_finite_is_no_result(mixed) -> None:
    nan = of(mixed, "nan")
    assert nan.scores == ()
    assert [frame for frame, _ in nan.errors] == [1, 2, 3]
    assert "not finite" in nan.errors[0][1]


def test_nothing_that_libraries_print_reaches_our_output(mixed, capfd) -> None:
    compare([contestant("picky")])
    assert capfd.readouterr() == ("", "")


def test_rows_count_frames_and_start_with_doing_nothing(mixed) -> None:
    rows = {row.name: row for row in mixed.rows()}
    assert next(iter(rows)) == "not registered"
    assert (rows["picky"].frames, rows["picky"].wanted) == (2, 3)
    assert (rows["crash"].frames, rows["not registered"].frames) == (0, 3)
    assert rows["identity"].correlation == pytest.approx(rows["not registered"].correlation)
    assert rows["identity"].seconds == pytest.approx(np.median(of(mixed, "identity").seconds))


def test_stopping_midway_leaves_no_process() -> None:
    import psutil

    run = run_benchmark([case()], [contestant("identity")], Settings(), rounds=1)
    while next(run).done < 1:
        pass
    assert [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    run.close()
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_threads_are_set_before_libraries_load() -> None:
    before = dict(os.environ)
    with ContestantProcess(contestant("environment"), SMALL, Settings(threads=3)) as process:
        assert isinstance(process.reply(600), Ready)
    assert dict(os.environ) == before


def test_memory_is_of_the_contestant_alone() -> None:
    held = np.ones(2**26)  # 512 MiB here, which the other process must not be charged with
    with ContestantProcess(contestant("memory"), SMALL, Settings()) as process:
        ready = process.reply(600)
        process.register(images(4, SMALL))
        answer = process.reply(600)
    assert isinstance(ready, Ready)
    assert isinstance(answer, Answer)
    assert ready.loaded_mib is not None
    assert ready.loaded_mib < held.nbytes / 2**20
    assert answer.peak_mib - ready.loaded_mib == pytest.approx(4 * 32, abs=24)


def test_scores_of_a_known_motion() -> None:
    grid = GRID
    some = images(1, grid)
    exact = DisplacementField(torch.from_numpy(smooth_motion(grid.shape)), grid, Space.INDEX)
    points = np.array([[30.0, 40.0], [60.0, 90.0]])
    there = points + smooth_motion(grid.shape)[:, [30, 60], [40, 90]].T
    marks = LandmarkSet(("a", "b") * 2, np.array([5, 5, 7, 7]), np.concatenate([points, there]), Space.INDEX)
    inside = np.zeros(grid.shape, np.int64)
    inside[40:60, 50:90] = 3
    after = np.roll(inside, (2, -1), (0, 1))
    score = score_frame(some, 0, exact, FrameTruth(7, 5, marks, np.stack([inside, after])))
    assert score.tre_mm == pytest.approx((0, 0), abs=1e-4)
    steps = (there - points) * np.array(grid.spacing)
    assert score.before_mm == pytest.approx(np.hypot(*steps.T))
    assert score.correlation > 0.999 > 0.95 > score.correlation_before
    assert score.folding_percent == 0
    assert score.dice > 0.95 > 0.93 > score.dice_before
    backward = DisplacementField(-exact.vectors, grid, Space.INDEX)
    worse = score_frame(some, 0, backward, FrameTruth(7, 5, marks))
    assert worse.tre_mm == pytest.approx(2 * np.hypot(*steps.T), rel=1e-3)
    assert math.isnan(worse.dice)


@pytest.mark.parametrize("choice", ["network", "refined", "fit"])
def test_ours_find_a_known_motion_in_pixels(choice: str, one_thread) -> None:
    register, batch = own_method(choice, GRID, Settings())
    assert batch > 1
    found = register(images(2, GRID))
    assert len(found) == 2
    errors = np.hypot(*(found[1].vectors_px - smooth_motion(GRID.shape)))[12:-12, 12:-12]
    assert errors.mean() < 1.0 < 2.9 < np.hypot(*smooth_motion(GRID.shape)).mean()
    # The network alone stops where several Gaussians in a row changed nothing.
    assert found[1].numbers == 25 * 7 if choice != "network" else found[1].numbers in range(7 * 7, 25 * 7 + 1, 7)


def series(frames: int = 9, **changes: object) -> ImageSeries:
    stack = np.stack([np.roll(scene(SMALL.shape), k, 0) for k in range(frames)])[:, None].astype(np.float32)
    return ImageSeries(stack, SMALL, name="rolled", **changes)


def test_frames_are_spread_evenly_over_the_series() -> None:
    chosen_frames = make_case(series(), frames=3, reference=4).frames
    assert chosen_frames == (0, 5, 8)
    assert make_case(series(), frames=99, reference=4).frames == (0, 1, 2, 3, 5, 6, 7, 8)


def test_with_landmarks_the_frames_that_hold_them_are_taken() -> None:
    marks = LandmarkSet(("a", "a", "a", "b"), np.array([2, 6, 7, 8]), np.full((4, 2), 9.0), Space.INDEX)
    one = make_case(series(), frames=8, landmarks=marks)
    assert (one.reference, one.frames) == (2, (6, 7))
    assert "Frame 2 is the reference" in " ".join(one.notes)
    with pytest.raises(ReadError, match="reference frame 3"):
        make_case(series(), frames=8, reference=3, landmarks=marks)


def test_a_frame_that_cannot_be_used_is_named() -> None:
    broken = series()
    broken.frames[3] = 7.0
    one = make_case(broken, frames=8, reference=0)
    assert 3 not in one.frames
    assert "every pixel has the same value" in " ".join(one.notes)
    broken.frames[1:] = 7.0
    with pytest.raises(ReadError, match="no frame can be registered"):
        make_case(broken, frames=8, reference=0)


def test_labels_must_fit_the_series() -> None:
    labels = ImageSeries(np.arange(9)[:, None, None, None] * np.ones((1, 1, *SMALL.shape), np.int16), SMALL)
    one = make_case(series(), frames=3, reference=4, labels=labels)
    assert one.labels is not None
    assert one.labels[:, 0, 0].tolist() == [4, 0, 5, 8]
    with pytest.raises(ArgumentError, match="9 frames of"):
        make_case(series(), frames=3, labels=replace(labels, frames=labels.frames[:4]))
    with pytest.raises(ArgumentError, match="float32"):
        make_case(series(), frames=3, labels=series())


def test_the_sample_is_known_exactly() -> None:
    one = sample_case(2, shape=(64, 80))
    assert len(one.frames) == 2
    assert one.landmarks is not None
    assert {*one.frames, one.reference} <= set(one.landmarks.frames.tolist())
    assert one.labels is not None
    assert (one.labels[0] != one.labels[1]).any()


def test_volumes_are_refused() -> None:
    volume = ImageSeries(np.zeros((2, 1, 4, 20, 20), np.float32), Grid((4, 20, 20)), name="volume")
    with pytest.raises(ArgumentError, match="2D"):
        make_case(volume, frames=1)


def test_names_are_checked_and_near_ones_offered() -> None:
    assert [item.name for item in chosen(["elastix"], OTHERS, "--against")] == ["elastix, 16 px", "elastix, 8 px"]
    with pytest.raises(ArgumentError, match=r"--against: 'elastics' is not known; did you mean elastix\?"):
        chosen(["demons", "elastics"], OTHERS, "--against")
    with pytest.raises(ArgumentError, match="choose among network, refined, fit, bspline"):
        chosen(["zzz"], OURS, "--methods")
    with pytest.raises(ArgumentError, match="'fit' is not known"):
        chosen(["fit"], OTHERS, "--against")


def test_an_absent_package_comes_with_its_install_line() -> None:
    assert absence(replace(contestant("identity"), package=("no-such-thing", "nothing"))) == (
        "no-such-thing is not installed: pip install no-such-thing"
    )
    assert "without its module" in str(absence(replace(contestant("identity"), package=("numpy", "numpyy"))))
    assert absence(replace(contestant("identity"), package=("numpy", "numpy"))) is None
    assert not [item.name for item in chosen(["demons", "tvl1"], OTHERS, "") if absence(item)]


def test_the_csv_names_everyone(mixed) -> None:
    absent = replace(contestant("identity"), name="fancy")
    lines = list(csv.DictReader(io.StringIO(files.table_csv(replace(mixed, absent=((absent, "not there: pip install fancy"),))))))
    status = {line["method"]: line["status"] for line in lines}
    assert status["identity"] == "ok"
    assert status["picky"] == "frame 2: RuntimeError: negative corner"
    assert status["crash"].startswith("stopped: its process ended with SIGKILL")
    assert status["fancy"] == "not there: pip install fancy"
    assert {line["frames"] for line in lines if line["method"] == "picky"} == {"2"}
    assert all(None not in line and None not in line.values() for line in lines)


def test_several_series_are_pooled_frame_by_frame(mixed) -> None:
    other = compare([contestant("identity")], case(1, name="another"))
    both = Benchmark(mixed.settings, 2, (), (*mixed.cases, *other.cases))
    row = next(row for row in both.rows() if row.name == "identity")
    assert (row.frames, row.wanted) == (4, 4)
    lines = [line for line in csv.DictReader(io.StringIO(files.table_csv(both))) if line["method"] == "identity"]
    assert [line["series"] for line in lines] == ["a scene", "another", "all"]


def test_the_json_holds_every_timing_and_no_nan(mixed) -> None:
    text = files.record(mixed, {"processor": "abacus"}, "2026-01-02T03:04:05+00:00")
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["machine"]["processor"] == "abacus"
    (one,) = found["series"]
    assert one["order_of_every_round"][1][0] == "picky"
    methods = {line["method"]: line for line in one["methods"]}
    assert methods["identity"]["seconds_a_frame"] == list(of(mixed, "identity").seconds)
    assert methods["identity"]["scores"][0]["frame"] == 1
    assert methods["picky"]["errors"] == [{"frame": 2, "reason": "RuntimeError: negative corner"}]
    assert found["settings"] == {"threads": 1, "device": "cpu", "weights": "general", "rounds": 2}


def test_an_earlier_comparison_is_not_replaced_unasked(tmp_path) -> None:
    (tmp_path / files.JSON_NAME).write_text("{}")
    with pytest.raises(ArgumentError, match="--overwrite"):
        files.check_free(tmp_path, overwrite=False)
    files.check_free(tmp_path, overwrite=True)
