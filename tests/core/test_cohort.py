"""Cohorts: what inputs mean, names, parts, what is kept between commands, summaries, and who is looked at first."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import dicom_factory as make
import numpy as np
import pytest
from cli_factory import GRID, ROWS, one_line, run, save, scene, table
from cohort_factory import no_figures, write_series, write_settings
from hypothesis import given
from hypothesis import strategies as st

from r2n2.cohort.bids import find_bids
from r2n2.cohort.entry import Entry, Outcome, Task
from r2n2.cohort.job_scripts import JobScript
from r2n2.cohort.lease import await_lock, held_lock
from r2n2.cohort.listing import find_inputs, make_entries
from r2n2.cohort.log import SeriesLog
from r2n2.cohort.names import folder_names
from r2n2.cohort.outliers import find_outliers
from r2n2.cohort.page import render_cohort
from r2n2.cohort.perform import perform
from r2n2.cohort.run import run_cohort
from r2n2.cohort.shard import Shard
from r2n2.cohort.summary import SummaryRow
from r2n2.cohort.table import read_table
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.io import write_landmarks
from r2n2.results.manifest import load_manifest
from r2n2.results.reader import read_result
from r2n2.runtime.folder_lock import LOCK_NAME, folder_lock
from r2n2.series import LandmarkSet

__all__ = ["no_figures"]
pytestmark = pytest.mark.usefixtures("no_figures", "one_thread")


def stack(offset: float = 0.0) -> np.ndarray:
    return np.stack([scene(rows + offset) for rows in ROWS])[:, None].astype(np.float32)


def row(name: str, **values) -> SummaryRow:
    shared = {"frames": 20, "similarity_after": 0.9, "similarity_before": 0.7, "similarity_measure": "ssd", "spacing_mm": 1.0}
    return SummaryRow(name, "", "done", **{**shared, **values})


# ---- what is named


def test_names_are_short_and_differ_where_paths_do() -> None:
    names = folder_names(["/d/p1/cine.nii.gz", "/d/p2/cine.nii.gz", "/d/p2/lung.mha", "/d/2026.11.27"], {})
    assert list(names.values()) == ["p1_cine", "p2_cine", "lung", "2026.11.27"]


def test_names_stay_when_inputs_are_added() -> None:
    before = folder_names(["/d/p1/cine.mha"], {})
    after = folder_names(["/d/p1/cine.mha", "/d/p2/cine.mha"], before)
    assert after == {"/d/p1/cine.mha": "cine", "/d/p2/cine.mha": "p2_cine"}


@given(st.lists(st.text(alphabet="aAb./ _-é:*", min_size=1, max_size=12), unique=True, max_size=12))
def test_every_path_gets_a_name_of_its_own_that_any_system_takes(paths: list[str]) -> None:
    names = folder_names(paths, {})
    assert set(names) == set(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    assert all(re.fullmatch(r"[\w.=+@-]+", name) and not name.startswith(".") for name in names.values())


def test_a_pattern_is_an_acquisition_a_match_and_leaves_the_output_out(tmp_path) -> None:
    write_series(tmp_path, 2)
    (tmp_path / "out").mkdir()
    found, notes = find_inputs([str(tmp_path / "*")], tmp_path / "out")
    assert [Path(item.path).name for item in found] == ["s0.mha", "s1.mha"]
    assert any("left out" in note for note in notes)
    with pytest.raises(ReadError, match="nothing fits"):
        find_inputs([str(tmp_path / "*.dcm")], tmp_path / "out")


def test_a_row_has_options_of_its_own(tmp_path) -> None:
    write_series(tmp_path, 2)
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("Path;method;spacing;no-folding;steps;name\ns0.mha;fit;2.5,1.25;yes;7;first\ns1.mha;;;;;\n")
    found, _ = find_inputs([str(cohort)], tmp_path / "out")
    first, second = make_entries(found, RegistrationConfig(method="bspline"), {"drop_damaged": True}, {})
    assert (first.name, first.spacing, first.settings.method) == ("first", (2.5, 1.25), "fit")
    assert (first.settings.no_folding, first.settings.steps) == (True, 7)
    assert (second.name, second.settings.method, second.spacing, second.drop_damaged) == ("s1", "bspline", None, True)
    assert Path(first.path) == tmp_path / "s0.mha"


def test_a_row_may_take_another_slice_of_the_same_file_under_a_name_of_its_own(tmp_path) -> None:
    write_series(tmp_path, 1)
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("path,slice,name\ns0.mha,0,a\ns0.mha,1,b\n")
    found, _ = find_inputs([str(cohort)], tmp_path / "out")
    assert [(entry.name, entry.slice) for entry in make_entries(found, RegistrationConfig(), {}, {})] == [("a", 0), ("b", 1)]
    cohort.write_text("path,slice\ns0.mha,0\ns0.mha,1\n")
    found, _ = find_inputs([str(cohort)], tmp_path / "out")
    with pytest.raises(ArgumentError, match="the name 's0'"):
        make_entries(found, RegistrationConfig(), {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,spacin\na,1\n", "did you mean 'spacing'"),
        ("file,method\na,fit\n", "names no column path"),
        ("path,method\n,fit\n", "line 2: names no path"),
        ("path,method\n", "holds no row"),
        ("path,method\na,fit,extra\n", "expected 2 cells"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path, text, message) -> None:
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises((ReadError, ArgumentError), match=message):
        read_table(tmp_path / "cohort.csv")


def test_a_wrong_value_names_its_line(tmp_path) -> None:
    (tmp_path / "cohort.csv").write_text("path,steps\na.mha,0\n")
    found, _ = find_inputs([str(tmp_path / "cohort.csv")], tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"cohort\.csv line 2: steps"):
        make_entries(found, RegistrationConfig(), {}, {})


# ---- parts


@given(st.integers(1, 9), st.lists(st.integers(1, 14), min_size=1, max_size=30))
def test_every_slice_position_is_in_one_part(count: int, slices: list[int]) -> None:
    parts = [Shard(number, count) for number in range(1, count + 1)]
    for place, here in enumerate(slices):
        for index in range(here):
            assert sum(part.holds(place, index) for part in parts) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "-1/4", "1/0"])
def test_a_part_is_one_of_n(text) -> None:
    with pytest.raises(ArgumentError, match="I/N"):
        Shard.parse(text)


def test_parts_and_their_merger_give_what_one_command_gives(tmp_path, capsys) -> None:
    inputs, settings = write_series(tmp_path / "in", 4), write_settings(tmp_path)
    inputs.append(save(tmp_path / "in" / "single.mha", stack()[:1]))
    assert run("batch", *inputs, "-o", tmp_path / "one", "--config", settings) == 3
    codes = [run("batch", *inputs, "-o", tmp_path / "parts", "--config", settings, "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert sorted(codes) == [0, 0, 3]
    assert not (tmp_path / "parts" / "summary.csv").exists()
    assert run("batch", "--collect", "-o", tmp_path / "parts") == 3
    measured = ("seconds", "peak_memory_mib")
    one, parts = (
        [{k: v for k, v in r.items() if k not in measured} for r in table(tmp_path / f / "summary.csv")] for f in ("one", "parts")
    )
    parts[-1]["message"] = parts[-1]["message"].replace("/parts/", "/one/")
    assert one == parts
    assert [row["state"] for row in parts] == ["done"] * 4 + ["failed"]
    assert {row["state"] for row in table(tmp_path / "parts" / "status.csv")} == {"done", "failed"}
    capsys.readouterr()
    (tmp_path / "parts" / "s1" / "run.json").unlink()
    assert run("batch", "--collect", "-o", tmp_path / "parts") == 3
    assert "missing: s1: not registered yet" in capsys.readouterr().out


# ---- what is kept


def test_a_second_command_does_what_is_missing_only(tmp_path) -> None:
    inputs, settings = write_series(tmp_path / "in", 3), write_settings(tmp_path)
    out = tmp_path / "out"
    command = ("batch", *inputs, "-o", out, "--config", settings)
    assert run(*command) == 0
    (out / "s1" / "run.json").unlink()
    logs = {name: (out / name / "log.txt").read_text() for name in ("s0", "s1", "s2")}
    assert run(*command) == 0
    now = {name: (out / name / "log.txt").read_text() for name in logs}
    assert (now["s0"], now["s2"]) == (logs["s0"], logs["s2"])
    assert now["s1"].count("begun") == logs["s1"].count("begun") + 1
    # Touched but with the same pixels: they are read, nothing is registered.
    os.utime(inputs[0])
    made = (out / "s0" / "run.json").stat().st_mtime_ns
    assert run(*command) == 0
    assert (out / "s0" / "run.json").stat().st_mtime_ns == made
    assert (out / "s0" / "log.txt").read_text().count("begun") == 2


def test_other_settings_are_refused_and_overwrite_replaces(tmp_path, capsys) -> None:
    inputs, settings = write_series(tmp_path / "in", 1), write_settings(tmp_path)
    command = ("batch", *inputs, "-o", tmp_path / "out", "--config", settings)
    assert run(*command) == 0
    capsys.readouterr()
    assert run(*command, "--reference", 1) == 2
    assert "--overwrite" in one_line(capsys)
    assert [row["state"] for row in table(tmp_path / "out" / "summary.csv")] == ["failed"]
    assert read_result(tmp_path / "out" / "s0").reference == 0
    assert run(*command, "--reference", 1, "--overwrite") == 0
    assert read_result(tmp_path / "out" / "s0").reference == 1


def test_slice_positions_get_folders_and_an_acquisition_ends_as_register_ends_it(tmp_path) -> None:
    slices = np.stack([stack(0.3 * z)[:, 0] for z in range(3)], axis=1)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "many.npy", slices)
    landmarks = tmp_path / "marks"
    landmarks.mkdir()
    points = np.array([[12.0 + 2 * rows, 20.0 + k] for rows in ROWS for k in range(3)])
    marks = LandmarkSet(("a", "b", "c") * 4, np.repeat(np.arange(4), 3), points, space=row_space())
    write_landmarks(landmarks / "slice_01.csv", marks, replace(GRID, spacing=(1.0, 1.0), origin=(0.0, 0.0)))
    cohort = tmp_path / "in" / "cohort.csv"
    cohort.write_text("path,axes,landmarks\nmany.npy,TZYX,../marks\n")
    settings, out = write_settings(tmp_path), tmp_path / "out"
    assert run("batch", cohort, "-o", out, "--config", settings) == 0
    assert run("register", tmp_path / "in" / "many.npy", "--axes", "TZYX", "-o", tmp_path / "one", "--config", settings) == 0
    for name in ("slice_00", "slice_02"):
        one, many = (load_manifest(folder / name) for folder in (out / "many", tmp_path / "one"))
        assert one.run_sha256 == many.run_sha256
    assert load_manifest(out / "many").slices == load_manifest(tmp_path / "one").slices
    rows = table(out / "summary.csv")
    assert [row["slice"] for row in rows] == ["slice_00", "slice_01", "slice_02"]
    assert [bool(row["tre_mm"]) for row in rows] == [False, True, False]


def row_space():
    from r2n2.geometry import Space

    return Space.INDEX


def test_a_task_whose_worker_was_lost_three_times_is_given_up(tmp_path) -> None:
    (source,) = write_series(tmp_path, 1)
    task = Task(entry=Entry(name="s0", path=str(source)), folder=str(tmp_path / "out" / "s0"))
    task.place.mkdir(parents=True)
    log = SeriesLog(task.place, "run1")
    assert [log.begin() for _ in range(3)] == [1, 2, 3]
    outcome = perform(task, "run1")
    assert (outcome.exit_code, outcome.attempts) == (4, 3)
    assert "lost 3 times" in outcome.message
    assert not outcome.final


def test_a_worker_of_another_version_refuses(tmp_path) -> None:
    task = Task(entry=Entry(name="s0", path="x.mha"), folder=str(tmp_path / "s0"), version="0.0.0")
    outcome = perform(task, "run1")
    assert outcome.exit_code == 2
    assert "0.0.0" in outcome.message


class Flaky:
    """An engine with one task that fails on the first worker and one that always does."""

    workers, dashboard, free, busy = 2, "", 1, 0

    def __init__(self) -> None:
        self.handed: list[tuple[str, str]] = []

    def submit(self, job, *, avoid="") -> None:
        self.handed.append((job.label, avoid))
        self.job, self.busy, self.free = job, 1, 0

    def wait(self):
        self.busy, self.free = 0, 1
        tries = sum(label == self.job.label for label, _ in self.handed)
        if self.job.label == "lost" or (self.job.label == "twice" and tries == 1):
            return [(self.job, Outcome(exit_code=4, message="no memory", worker="w1", attempts=tries))]
        if self.job.label == "bad":
            return [(self.job, Outcome(exit_code=3, message="damaged", worker="w1"))]
        return [(self.job, Outcome(frames=4, worker="w1"))]


def test_what_went_wrong_is_tried_elsewhere_twice_and_what_is_damaged_is_not(tmp_path) -> None:
    engine = Flaky()
    entries = [Entry(name=name, path=f"{name}.mha") for name in ("twice", "lost", "bad", "fine")]
    last = list(run_cohort(entries, tmp_path, engine))[-1]
    assert (last.done, last.failed, last.total) == (2, 2, 4)
    assert [avoid for label, avoid in engine.handed if label == "lost"] == ["", "w1", "w1"]
    assert [avoid for label, avoid in engine.handed if label == "twice"] == ["", "w1"]
    assert [avoid for label, avoid in engine.handed if label == "bad"] == [""]
    states = {row["name"]: (row["state"], row["attempts"], row["message"]) for row in table(tmp_path / "status.csv")}
    assert states["lost"] == ("failed", "3", "no memory")
    assert states["bad"] == ("failed", "1", "damaged")


def test_a_lock_left_by_a_machine_that_is_gone_is_removed_and_a_fresh_one_waited_for(tmp_path, monkeypatch) -> None:
    lock, witness = tmp_path / LOCK_NAME, tmp_path / "log.txt"
    witness.write_text("log")
    monkeypatch.setattr("r2n2.cohort.lease._ASKED_EVERY_S", 0.0)
    now = witness.stat().st_mtime

    def left_by(host: str, pid: int, age_s: float) -> None:
        lock.write_text(json.dumps({"pid": pid, "host": host}))
        os.utime(lock, (now - age_s, now - age_s))

    left_by("elsewhere", 1, 3600)
    assert await_lock(tmp_path, witness).startswith("removed the lock of process 1 on elsewhere")
    assert not lock.exists()
    asked = []
    left_by("elsewhere", 1, 0)
    found = await_lock(tmp_path, witness, lambda: asked.append(1) or (len(asked) == 3 and lock.unlink()))
    assert (found, len(asked)) == ("waited for process 1 on elsewhere, which held the folder", 3)
    # Of this machine's own locks the system knows whether they hold, also of a process that is dead and not yet buried.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    left_by(socket.gethostname(), ended.pid, 0)
    assert await_lock(tmp_path, witness) == ""
    ended.wait()
    with folder_lock(tmp_path), pytest.raises(StopIteration):
        await_lock(tmp_path, witness, iter([None, None]).__next__)


def test_a_lock_is_kept_fresh_while_it_is_ours(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("r2n2.cohort.lease._TOUCHED_EVERY_S", 0.01)
    lock = tmp_path / LOCK_NAME
    for pid, touched in ((os.getpid(), True), (os.getpid() + 1, False)):
        lock.write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
        os.utime(lock, (1.0, 1.0))
        with held_lock(tmp_path):
            deadline = time.monotonic() + (5 if touched else 0.1)
            while lock.stat().st_mtime == 1.0 and time.monotonic() < deadline:
                time.sleep(0.005)
        assert (lock.stat().st_mtime > 1.0) is touched


# ---- what is looked at


def test_outliers_are_the_failed_the_far_and_no_others() -> None:
    rows = [row(f"s{k}", similarity_after=0.9 + 0.002 * k, tre_mm=1 + 0.01 * k) for k in range(12)]
    rows += [row("far", similarity_after=0.4, tre_mm=9.0), row("broken", failed_frames=2)]
    rows += [SummaryRow("lost", "", "failed", message="damaged")]
    found = find_outliers(rows)
    assert [outlier.row.name for outlier in found] == ["lost", "broken", "far"]
    assert found[2].reasons == ("landmark error 9.00 mm", "similarity 0.400")
    assert not find_outliers(rows[:12])
    # Of seven nobody can say what is far.
    assert not find_outliers([*rows[:6], rows[12]])


def test_the_page_links_to_reports_and_shows_no_name_as_html() -> None:
    rows = [row(f"s{k}", similarity_after=0.9 + 0.001 * k) for k in range(9)]
    rows += [
        row("<b>x", similarity_after=0.2),
        replace(row("many"), slice="slice_03"),
        SummaryRow("gone", "", "missing", message="not"),
    ]
    page = render_cohort(rows, "a <i>title")
    assert "<b>x" not in page
    assert "<i>" not in page
    assert 'href="%3Cb%3Ex/report.html"' in page
    assert 'href="many/slice_03/report.html"' in page
    assert "gone/report.html" not in page
    assert "11 of 12 slice positions registered; 1 not registered yet, 1 stands out." in page
    assert "http" not in re.sub(r"data:[^\"]*", "", page)


# ---- BIDS-like trees, scripts, options


def bids_tree(root: Path) -> Path:
    for subject in ("01", "02"):
        folder = root / f"sub-{subject}" / "mr"
        save(folder / f"sub-{subject}_acq-free_cine.nii.gz", stack(), kind="nifti").rename(
            folder / f"sub-{subject}_acq-free_cine.nii.gz"
        )
        (folder / f"sub-{subject}_acq-free_cine.json").write_text(json.dumps({"EchoTime": 0.002, "PatientName": "secret"}))
    save(root / "sub-01" / "mr" / "sub-01_scout.nii.gz", stack()[:1], kind="nifti")
    return root


def test_results_of_a_bids_like_tree_get_its_names(tmp_path) -> None:
    data = bids_tree(tmp_path / "data")
    found, notes = find_bids([str(data)], tmp_path / "out")
    assert len(found) == 2
    assert any("1 images without a time axis" in note for note in notes)
    out, settings = tmp_path / "out", write_settings(tmp_path)
    command = ("batch", data, "--bids", "-o", out, "--config", settings)
    assert run(*command) == 0
    folder = out / "sub-02" / "mr"
    transforms = [f"sub-02_acq-free_from-frame{k:04d}_to-frame0000_mode-image_xfm.mha" for k in (1, 2, 3)]
    series = "sub-02_acq-free_desc-moco_cine"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*transforms, f"{series}.nii.gz", f"{series}.json"])
    result = out / "sub-02_acq-free_cine"
    assert (folder / transforms[1]).read_bytes() == (result / "fields" / "frame_0002.mha").read_bytes()
    told = json.loads((folder / f"{series}.json").read_text())
    assert told["Sources"] == ["bids:raw:sub-02/mr/sub-02_acq-free_cine.nii.gz"]
    assert told["SpatialReference"] == told["Sources"][0]
    assert (told["EchoTime"], told["ReferenceFrame"]) == (0.002, 0)
    assert "PatientName" not in told
    about = json.loads((out / "dataset_description.json").read_text())
    assert (out / about["DatasetLinks"]["raw"]).resolve() == data.resolve()
    (folder / f"{series}.json").unlink()
    assert run(*command) == 0
    assert (folder / f"{series}.json").exists()


def test_scripts_hold_the_command_as_it_was_given(tmp_path, capsys) -> None:
    (source,) = write_series(tmp_path / "a b", 1)
    out = tmp_path / "out"
    assert run("batch", source, "-o", out, "--steps", 7, "--no-refine", "--no-folding", "--script", "array:4") == 0
    text = capsys.readouterr().out
    assert "#SBATCH --array=1-4" in text
    command = f"exec r2n2 batch --output {out} --no-refine --steps 7 --no-folding '{source}' --shard"
    assert command in text
    assert f"r2n2 batch --collect -o {out}" in text
    assert not (out / "summary.csv").exists()
    compile(JobScript.parse("jobqueue:4").text(["r2n2", "batch", "it's"], str(out)), "jobqueue.py", "exec")
    with pytest.raises(ArgumentError, match="array:N"):
        JobScript.parse("array")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 2, "--shard", "1/2"), "--workers and --shard"),
        (("--workers", 0), "--workers: expected 1 to"),
        (("--scheduler", "nowhere.json"), "neither an address"),
    ],
)
def test_who_does_the_work_is_one_of_them(tmp_path, capsys, arguments, message) -> None:
    pytest.importorskip("distributed")
    (source,) = write_series(tmp_path / "in", 1)
    assert run("batch", source, "-o", tmp_path / "out", *arguments) in (2, 4)
    assert message in one_line(capsys)


def test_a_result_of_register_is_no_cohort(tmp_path, capsys) -> None:
    (source,), settings = write_series(tmp_path / "in", 1), write_settings(tmp_path)
    assert run("register", source, "-o", tmp_path / "out", "--config", settings) == 0
    capsys.readouterr()
    assert run("batch", source, "-o", tmp_path / "out", "--config", settings) == 2
    assert "holds the result of r2n2 register" in one_line(capsys)
    assert run("batch", "--collect", "-o", tmp_path / "in") == 3


def dicom_study(folder: Path) -> Path:
    """Two slice positions and a scout, whose free texts name the patient; the scout comes first."""
    folder.mkdir()
    texts = {"PatientName": "CANARY", "PatientID": "CANARY", "SeriesDescription": "CANARY", "StudyDate": "19510203"}
    scout = make.dataset_of(0, scene(0).astype(np.int16), SeriesInstanceUID="1.2.3.1", SOPInstanceUID="1.2.3.1.1", **texts)
    make.save(scout, folder / "scout.dcm")
    for z in range(2):
        for k, rows in enumerate(ROWS):
            place = {
                "ImagePositionPatient": [10.0 + 9 * z, 20.0 - 7 * z, 30.0 + 11 * z],
                "SOPInstanceUID": f"1.2.9.{10 * z + k + 1}",
            }
            make.save(make.dataset_of(k, scene(rows + z).astype(np.int16), **place, **texts), folder / f"{z}{k}.dcm")
    return folder


def test_a_dicom_study_gives_what_register_gives_and_names_nobody(tmp_path, capsys) -> None:
    study, settings, out = dicom_study(tmp_path / "study"), write_settings(tmp_path), tmp_path / "out"
    assert run("batch", study, "-o", out, "--config", settings) == 0
    shown = capsys.readouterr()
    assert run("register", study, "-o", tmp_path / "one", "--config", settings) == 3, "the scout alone fails there"
    rows = table(out / "summary.csv")
    assert [(row["name"], row["slice"], row["frames"]) for row in rows] == [("study", "slice_01", "4"), ("study", "slice_02", "4")]
    for row in rows:
        one, many = (load_manifest(folder / row["slice"]) for folder in (out / "study", tmp_path / "one"))
        assert one.run_sha256 == many.run_sha256
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 30
    for content in (shown.out.encode(), shown.err.encode(), *(path.read_bytes() for path in files)):
        assert b"CANARY" not in content
        assert b"19510203" not in content
    log = (out / "study" / "slice_01" / "log.txt").read_text()
    assert re.search(r"begun by process \d+ on ", log)
    assert re.search(r"done: 4 frames, \d to look at", log)
