"""Gaussians edited by hand: what each edit changes, drags and clicks in a real window, taken back, written and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_r2n2.layers.gaussian_drag import Grip, dragged, grip
from napari_r2n2.layers.result_layers import View
from napari_r2n2.models.gaussian_edits import added, moved, pointed, turned, widened, without
from napari_r2n2.models.result_files import export_results, open_results
from napari_r2n2.models.session import FrameKey
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameStatus
from r2n2.transform import GaussianSequence

GRID = Grid((27, 35), (2.0, 1.5), (10.0, -7.0))
KEY = FrameKey(0, 2)


def _index(points: torch.Tensor) -> list[float]:
    return [float(value) for value in GRID.convert_points(points[None], Space.NORMALISED, Space.INDEX)[0]]


@pytest.fixture
def sequence() -> GaussianSequence:
    """Two Gaussians: at the frame's centre, 10 mm wide along x and 5 mm along y, aimed 8 mm down; and one elsewhere."""
    unit = GRID.unit_mm
    return GaussianSequence(
        torch.tensor([[0.0, 0.0], [-0.5, 0.5]]),
        torch.tensor([[10.0, 5.0], [6.0, 6.0]]) / unit,
        torch.zeros(2, 1),
        torch.tensor([[8.0, 0.0], [0.0, 3.0]]) / unit,
        GRID,
    )


def test_every_edit_changes_its_numbers_and_no_others(sequence: GaussianSequence) -> None:
    assert _index(moved(sequence, 1, (5.0, 9.0)).centres[0]) == pytest.approx([5, 9], abs=1e-4)
    aimed = pointed(sequence, 1, (15.0, 21.0))
    assert aimed.amplitudes_mm()[0].tolist() == pytest.approx([4.0, 6.0], abs=1e-4)  # from row 13, column 17
    assert widened(sequence, 1, 1.5).sigmas_mm()[0].tolist() == pytest.approx([15.0, 7.5], abs=1e-4)
    assert turned(sequence, 1, 30.0).angles_deg()[0].item() == pytest.approx(30.0, abs=1e-3)
    assert len(without(sequence, 1)) == 1
    torch.testing.assert_close(without(sequence, 1).centres[0], sequence.centres[1])
    more = added(sequence, (3.0, 4.0))
    assert _index(more.centres[2]) == pytest.approx([3, 4], abs=1e-4)
    assert not more.amplitudes[2].any()
    for edited in (moved(sequence, 1, (5.0, 9.0)), aimed, widened(sequence, 1, 1.5), turned(sequence, 1, 30.0)):
        torch.testing.assert_close(edited.displacement_at(edited.centres[1:]).isfinite().all(), torch.tensor(True))
        for name in ("centres", "sigmas", "orientation", "amplitudes"):
            torch.testing.assert_close(getattr(edited, name)[1], getattr(sequence, name)[1], rtol=0, atol=0)
    with pytest.raises(IndexError, match="no Gaussian 3"):
        without(sequence, 3)


def test_where_one_presses_decides_what_a_drag_does(sequence: GaussianSequence) -> None:
    centre, tip = (13.0, 17.0), (17.0, 17.0)
    assert grip(sequence, 1, tip) is Grip.TIP
    assert grip(sequence, 1, (13.0, 19.0)) is Grip.INSIDE
    rim = (13.0, 17.0 + 10 / 1.5)
    assert grip(sequence, 1, rim) is Grip.RIM
    assert grip(sequence, 1, (25.0, 30.0)) is None
    shifted = dragged(sequence, 1, Grip.INSIDE, (13.0, 19.0), (10.0, 20.0), turn=False)
    assert _index(shifted.centres[0]) == pytest.approx([10, 18], abs=1e-4)
    wide = dragged(sequence, 1, Grip.RIM, rim, (13.0, 17.0 + 20 / 1.5), turn=False)
    assert wide.sigmas_mm()[0].tolist() == pytest.approx([20.0, 10.0], rel=1e-3)
    quarter = dragged(sequence, 1, Grip.RIM, rim, (13.0 + 5, 17.0), turn=True)
    assert quarter.angles_deg()[0].item() % 180 == pytest.approx(90.0, abs=1e-2)
    assert dragged(sequence, 1, Grip.TIP, tip, centre, turn=False).amplitudes[0].abs().max() < 1e-6


@pytest.fixture
def widget(viewer: Any, aligned: Any, canvas_mouse: Any, qtbot: Any) -> Any:
    """The Sequence widget over the aligned disc, frame 2 and its ellipses on display."""
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    aligned.show(View.GAUSSIANS)
    aligned.go_to(key=KEY)
    viewer.reset_view()
    qtbot.wait(200)
    return widget


def test_a_gaussian_is_dragged_and_the_drag_is_taken_back(
    widget: Any, aligned: Any, viewer: Any, canvas_mouse: Any, press: Any
) -> None:
    session = aligned.session
    before = session.results[KEY]
    sequence = session.sequence(KEY)
    middle = min(range(len(sequence)), key=lambda k: float(sequence.centres[k].norm()))
    session.select(middle + 1)
    viewer.layers.selection.active = viewer.layers["disc aligned"]
    y, x = _index(sequence.centres[middle])
    # Inside, away from the tip of the arrow.
    press(widget.editor.edit)
    canvas_mouse.drag((2.0 * y, 1.5 * x), (2.0 * (y + 3), 1.5 * (x - 4)))
    after = session.results[KEY]
    assert after.status is FrameStatus.EDITED
    assert f"Gaussian {middle + 1}" in after.message
    changed = [k for k in range(len(sequence)) if not torch.equal(sequence.centres[k], session.sequence(KEY).centres[k])]
    aimed = [k for k in range(len(sequence)) if not torch.equal(sequence.amplitudes[k], session.sequence(KEY).amplitudes[k])]
    assert (changed or aimed) == [middle]
    if changed:
        assert _index(session.sequence(KEY).centres[middle]) == pytest.approx([y + 3, x - 4], abs=1.5)
    assert viewer.scene.camera.mouse_pan
    press(widget.editor.undo)
    assert session.results[KEY] is before
    assert not widget.editor.undo.isEnabled()
    press(widget.editor.redo)
    assert session.results[KEY] is after


def test_buttons_edit_the_selected_one_and_the_others_follow(
    widget: Any, aligned: Any, press: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    session = aligned.session
    count = len(session.sequence(KEY))
    assert not widget.editor.delete.isEnabled()
    session.select(2)
    press(widget.editor.wider)
    press(widget.editor.turn)
    held = session.sequence(KEY).select(slice(1, 2))
    rest = session.sequence(KEY).select(slice(2, None))
    press(widget.editor.around)
    qtbot.waitUntil(lambda: widget.editor.job is None, timeout=120_000)
    found = session.sequence(KEY)
    for name in ("centres", "sigmas", "orientation", "amplitudes"):
        torch.testing.assert_close(getattr(found, name)[1:2], getattr(held, name), rtol=0, atol=0)
    assert not torch.equal(found.amplitudes[2:], rest.amplitudes)
    assert session.results[KEY].status is FrameStatus.EDITED
    press(widget.editor.add)
    assert len(session.sequence(KEY)) == count + 1
    assert session.selection == count + 1
    press(widget.editor.delete)
    assert len(session.sequence(KEY)) == count
    list(export_results(session.registration, tmp_path / "out", landmarks={}))
    again = open_results(tmp_path / "out")
    assert again.results[KEY].status is FrameStatus.EDITED
    assert again.results[KEY].message == session.results[KEY].message
    np.testing.assert_allclose(again.sequence(KEY).amplitudes, session.sequence(KEY).amplitudes, atol=1e-6)


def test_what_was_switched_off_has_to_be_switched_on_first(widget: Any, aligned: Any) -> None:
    aligned.session.select(1)
    aligned.session.switch(KEY, 1, False)
    assert not widget.editor.wider.isEnabled()
    assert "Switch all on" in widget.editor.told.text()
    aligned.session.switch_all_on(KEY)
    assert widget.editor.wider.isEnabled()
