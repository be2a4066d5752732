"""A series whose contrast reverses, registered in a real window with the settings as they are: what was done is said, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from napari_r2n2.models.session import FrameKey
from r2n2.registration import FrameStatus

REVERSED = 2
SHIFTS_PX = (0.0, 1.5, 3.0, 1.0)


@pytest.fixture
def reversing(viewer: Any) -> Any:
    """A layer of 4 frames of 64 x 52 pixels that move down by up to 3 pixels, one of them a negative."""
    picture = gaussian_filter(np.random.default_rng(100).random((64, 52)), 3)
    picture = 200 * (picture - picture.min()) / np.ptp(picture)
    frames = np.stack([shift(picture, (down, 0), order=3, mode="reflect") for down in SHIFTS_PX])
    frames[REVERSED] = 200 - frames[REVERSED]
    return viewer.add_image(frames.astype(np.float32), name="recovery")


def test_a_reversed_contrast_is_noticed_told_and_aligned_by_edges(
    viewer: Any, widget: Any, reversing: Any, press: Callable[[Any], None], finished: Callable[..., None]
) -> None:
    form = widget.form
    form._method.setCurrentIndex(form._method.findData("fit"))
    assert (form.config().similarity, form.config().target) == ("auto", "reference"), "nothing was chosen by hand"
    press(widget._run)
    finished(widget)
    told = widget._message.text().splitlines()
    assert told[0].startswith("Done: 4 frames")
    assert told[1].startswith(f"similarity: ngf, as contrast changes along the series: in frame {REVERSED} edges agree (")
    session = widget.session
    result = session.results[FrameKey(0, REVERSED)]
    assert result.status is FrameStatus.OK
    assert result.similarity_after > 0.9
    # The middle of the frame, where nothing comes in from outside, lies where it was moved to.
    found = result.transform.displacement_field().vectors[..., 16:48, 13:39]
    moved_px = SHIFTS_PX[REVERSED] - SHIFTS_PX[session.reference()]
    grid = session.series[0].grid
    assert float(found[0].mean()) * grid.spacing[0] * grid.shape[0] / 2 == pytest.approx(moved_px, abs=0.3)
    _dock, sequence = viewer.window.add_plugin_dock_widget("napari-r2n2", "Sequence")
    widget.results.go_to(key=FrameKey(0, REVERSED))
    assert sequence._quality.text().startswith(f"Agreement (ngf) {result.similarity_before:.4f}")
    assert "Correlation" not in sequence._quality.text()
    assert reversing in viewer.layers
