"""The Movie widget in a real window: movies and figures that are pressed for, read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qtpy.QtWidgets import QFileDialog

from napari_r2n2.models.session import FrameKey

pytestmark = pytest.mark.usefixtures("canvas_mouse")


@pytest.fixture
def widget(viewer: Any, aligned: Any) -> Any:
    aligned.go_to(key=FrameKey(0, 2), step=6)
    _dock, widget = viewer.window.add_plugin_dock_widget("napari-r2n2", "Movie")
    return widget


def test_both_movies_are_written(
    widget: Any, press: Callable[[Any], None], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.height.setValue(64)
    for kind, name, count in (("frames", "all", 4), ("steps", "one", 7)):
        widget.kind.setCurrentIndex(widget.kind.findData(kind))
        monkeypatch.setattr(
            QFileDialog, "getSaveFileName", staticmethod(lambda *_a, name=name: (str(tmp_path / name), "GIF (*.gif)"))
        )
        press(widget.start)
        qtbot.waitUntil(lambda: widget.job is None, timeout=60_000)
        assert f"Written to {tmp_path / name}.gif" in widget.message.text()
        with Image.open(tmp_path / f"{name}.gif") as movie:
            assert movie.n_frames == count


def test_the_view_is_written_with_a_bar_of_true_length(
    viewer: Any, widget: Any, press: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", staticmethod(lambda *_a: (str(tmp_path / "view.png"), "")))
    viewer.reset_view()  # the canvas became narrower as the widget opened
    picture, mm_a_pixel = widget._view()
    # The disc's frames are 54 x 52.5 mm.
    assert mm_a_pixel is not None
    assert picture.shape[0] * mm_a_pixel == pytest.approx(54, rel=0.03)
    assert picture.shape[1] * mm_a_pixel == pytest.approx(52.5, rel=0.03)
    assert picture.max() > 100, "the image is on it"
    press(widget.figure)
    assert "view.png and view.svg" in widget.message.text()
    assert "10 mm" in (tmp_path / "view.svg").read_text()
    with Image.open(tmp_path / "view.png") as found:
        assert np.asarray(found).std() > 5
    viewer.dims.ndisplay = 3
    assert widget._view()[1] is None, "there is no one length in a view of 3D"
    viewer.dims.ndisplay = 2
