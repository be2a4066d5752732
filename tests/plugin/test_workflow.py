"""From opening a series to its files, as a person does it: real clicks and real pixels; the files are those of the command line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import r2n2.registration
import r2n2.workflow
from napari_r2n2.layers.image_views import View
from napari_r2n2.models.session import FrameKey

pytestmark = pytest.mark.usefixtures("canvas_mouse")

# Of a run, not of its result.
_OF_THE_RUN = {"created", "wall_time_s", "peak_memory_mib"}


def _open(viewer: Any, name: str, qtbot: Any) -> Any:
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", name)
    qtbot.waitUntil(widget.isVisible)
    return widget


def _aligned(align: Any, press: Callable[[Any], None], qtbot: Any) -> Any:
    press(align._run)
    qtbot.waitUntil(lambda: align.job is None, timeout=300_000)
    assert align.session.complete, align._message.text()
    return align.results


def _lit(viewer: Any, qtbot: Any) -> NDArray[np.bool_]:
    """Pixels of the canvas that are coloured, as ellipses are and the images are not."""
    qtbot.wait(150)
    colours = viewer.screenshot(flash=False)[..., :3].astype(int)
    lit: NDArray[np.bool_] = colours.max(-1) - colours.min(-1) > 60
    return lit


@pytest.mark.slow
def test_from_the_sample_to_a_measured_error(
    viewer: Any, canvas_mouse: Any, press: Callable[[Any], None], tmp_path: Path, qtbot: Any
) -> None:
    viewer.open_sample("napari-r2n2", "breathing_thorax")
    truth = viewer.layers[-1]
    align = _open(viewer, "Align", qtbot)
    results = _aligned(align, press, qtbot)
    truth.visible = False

    results.go_to(key=FrameKey(0, 6), step=25)
    every = _lit(viewer, qtbot)
    results.go_to(step=4)
    few = _lit(viewer, qtbot)
    results.go_to(key=FrameKey(0, 3))
    other = _lit(viewer, qtbot)
    assert every.sum() > 1.3 * few.sum() > 0
    assert (few ^ other).sum() > 200, "another frame, other ellipses"

    # Two landmarks whose true places the sample knows, by mouse in the reference and in frame 6.
    reference, moving = results.session.reference(), 6
    ids = list(truth.features["id"])
    known = {(int(row[0]), name): row[1:] for row, name in zip(truth.data, ids, strict=True)}
    names = [name for name in dict.fromkeys(ids) if (reference, name) in known and (moving, name) in known][:2]
    press(align.files._measure)
    marks = viewer.window.dock_widgets["Landmarks (napari-r2n2)"]
    qtbot.wait(100)
    press(marks.place.new)
    assert marks.place.place.isChecked()
    assert results.step == 0, "landmarks are placed in the frames as they came"
    scale = truth.scale[-2:]
    for frame in (reference, moving):
        results.go_to(key=FrameKey(0, frame))
        viewer.reset_view()
        qtbot.wait(150)
        for name in names:
            canvas_mouse.click(tuple(known[frame, name] * scale))
            qtbot.wait(80)
    placed = results.session.landmarks()
    assert len(placed) == 4
    table = results.session.errors()
    before = [np.linalg.norm((known[moving, name] - known[reference, name]) * scale) for name in names]
    # A click lies within half a pixel of 3 mm of what was aimed at, in both frames.
    np.testing.assert_allclose([row.before_mm for row in table.rows], before, atol=3.0)
    assert table.after().mean_mm < table.before().mean_mm
    qtbot.waitUntil(lambda: not marks._timer.isActive())
    shown = " ".join(label.text() for label in marks.errors.findChildren(type(marks.message)))
    assert f"{table.after().mean_mm:.2f}" in re.sub(r"<[^>]+>", " ", shown)

    # What is switched off changes the error at once.
    error = table.after().mean_mm
    for step in range(1, 26):
        results.session.switch(FrameKey(0, moving), step, False)
    assert results.session.errors().after().mean_mm == pytest.approx(table.before().mean_mm)
    results.session.switch_all_on(FrameKey(0, moving))
    assert results.session.errors().after().mean_mm == pytest.approx(error)

    align.files.export(tmp_path / "out")
    qtbot.waitUntil(lambda: align.job is None, timeout=120_000)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status_counts"] == {"ok": 19, "reference": 1}
    assert "tre_mm" in (tmp_path / "out" / "metrics.csv").read_text()


@pytest.fixture
def equal_sums(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Torch counts threads for each thread that calls it, and sums in another order with another count."""
    register = r2n2.registration.register_series

    def alone(*arguments: Any, **named: Any) -> Iterator[Any]:
        torch.set_num_threads(1)
        yield from register(*arguments, **named)

    monkeypatch.setattr(r2n2.registration, "register_series", alone)
    monkeypatch.setattr(r2n2.workflow, "register_series", alone)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
@pytest.mark.usefixtures("equal_sums")
def test_the_window_writes_what_the_command_line_writes(
    viewer: Any, press: Callable[[Any], None], tmp_path: Path, qtbot: Any, suffix: str
) -> None:
    from dataclasses import replace

    from r2n2.cli.app import app
    from r2n2.io import write_series
    from r2n2.simulation import ThoraxConfig, thorax_series

    made = thorax_series(ThoraxConfig(shape=(48, 64), frames=4)).series
    kind = {".mha": "mha", ".nii.gz": "nifti"}[suffix]
    path = write_series(tmp_path, "series", replace(made, source={"format": kind, "path": f"x{suffix}"}), map(made.frame, range(4)))
    viewer.open(path, plugin="napari-r2n2")
    align = _open(viewer, "Align", qtbot)
    results = _aligned(align, press, qtbot)
    align.files.export(tmp_path / "window")
    qtbot.waitUntil(lambda: align.job is None, timeout=120_000)
    press(align.files._command)
    command = shlex.split(align._message.text().splitlines()[1])
    command[command.index("-o") + 1] = str(tmp_path / "terminal")
    done = CliRunner().invoke(app, command[1:])
    assert done.exit_code == 0, done.output
    for folder in ("window", "terminal"):
        assert (tmp_path / folder / "report.html").is_file()
    compared = 0
    for file in sorted((tmp_path / "terminal").rglob("*")):
        twin = tmp_path / "window" / file.relative_to(tmp_path / "terminal")
        if file.is_file():
            assert twin.is_file(), twin
            compared += _compare(file, twin)
    assert compared >= 4 + 3
    assert results.shown(View.ALIGNED)


def _compare(file: Path, twin: Path) -> int:
    """1 if the files hold the same; 0 where they tell of the run itself."""
    if file.name == "report.html":
        return 0
    if file.name == "run.json":
        mine, other = ({k: v for k, v in json.loads(p.read_text()).items() if k not in _OF_THE_RUN} for p in (file, twin))
        # The command line was told which series of a file; the layer was that series.
        assert mine == other
    elif file.name == "metrics.csv":
        rows = [[line.split(",") for line in p.read_text().splitlines()] for p in (file, twin)]
        timed = rows[0][0].index("seconds")
        assert [r[:timed] + r[timed + 1 :] for r in rows[0]] == [r[:timed] + r[timed + 1 :] for r in rows[1]]
    elif file.suffix == ".npz":
        with np.load(file) as mine_arrays, np.load(twin) as other_arrays:
            assert set(mine_arrays) == set(other_arrays)
            for name in mine_arrays:
                np.testing.assert_array_equal(mine_arrays[name], other_arrays[name])
    elif file.suffix == ".gz":
        import gzip

        assert gzip.decompress(file.read_bytes()) == gzip.decompress(twin.read_bytes())
    else:
        assert file.read_bytes() == twin.read_bytes(), file.name
    return 1
