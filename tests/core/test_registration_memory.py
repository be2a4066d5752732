"""Larger than memory: of a series read lazily no pass holds more than a batch, neither of frames nor of what is made of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import zarr

from r2n2.cli import main
from r2n2.registration import batch
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, BATCH = 33, 3


class _Frame(np.ndarray):
    """An array whose life can be followed, as can no plain one's; who holds a part of it holds it."""

    @classmethod
    def of(cls, values: np.ndarray) -> _Frame:
        own = np.ndarray.__new__(cls, values.shape, values.dtype)
        own[...] = values
        return own


class Alive:
    """How many objects of a kind there are, and how many there were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0

    def follow(self, thing: Any) -> Any:
        self.now += 1
        self.ever += 1
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self._gone)
        return thing

    def _gone(self) -> None:
        self.now -= 1

    def patch(self, monkeypatch: pytest.MonkeyPatch, kind: type) -> Alive:
        made: Callable[..., None] = kind.__init__

        def init(thing: Any, *arguments: Any, **named: Any) -> None:
            made(thing, *arguments, **named)
            self.follow(thing)

        monkeypatch.setattr(kind, "__init__", init)
        return self


@pytest.mark.parametrize("options", [("--method", "fit"), ("--method", "bspline"), ("--method", "fit", "--warm-start")])
def test_no_pass_over_a_series_holds_more_than_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    frames = np.array(make.moving_series(FRAMES, dtype=np.uint16)[0].frames)[:, 0]
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=frames.shape, chunks=(7, *frames.shape[1:]), dtype="u2", dimension_names=list("tyx")
    )
    array[:] = frames
    (tmp_path / "settings.toml").write_text(
        "steps = 4\ndevice = 'cpu'\n[fit]\nsizes = [16, 32, 48]\nrounds = 1\nsteps_a_round = 2\nfinal_steps = 2\n"
        "regulariser_size = 12\n[bspline]\ncontrol_points = 12\niterations = 2\n"
    )
    read, loaded, dense = Alive(), Alive(), Alive()
    frame = ImageSeries.frame
    monkeypatch.setattr(ImageSeries, "frame", lambda self, index: read.follow(_Frame.of(frame(self, index))))
    loaded.patch(monkeypatch, batch.LoadedFrame)
    dense.patch(monkeypatch, DisplacementField)
    command = ["register", tmp_path / "in.zarr", "-o", tmp_path / "out", "--spacing", "1.7,0.9", "--batch-size", BATCH, *options]
    assert main([str(part) for part in (*command, "--config", tmp_path / "settings.toml", "--quiet")]) == 0
    # Hash, reference, registration, aligned series, report, each but the last two of every frame once at least.
    assert read.ever >= 5 * FRAMES
    assert read.most <= 2
    # Once, and once more by fit, whose second go knows what can be trusted.
    assert loaded.ever == (FRAMES if "bspline" in options else 2 * FRAMES - 1)
    # The reference stays.
    assert loaded.most == BATCH + 1
    assert dense.ever >= 2 * FRAMES
    assert dense.most <= 2
