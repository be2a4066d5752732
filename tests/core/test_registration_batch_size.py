"""How many frames are registered at once, and what happens where they are too many."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ResourceError
from r2n2.geometry import Grid
from r2n2.registration import FitMethod, FrameResult, FrameStatus, Pairs, RegistrationStep, register_series
from r2n2.registration.batch_size import PROCESSOR_BUDGET_BYTES, bytes_a_frame, resolve_batch_size
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence, Transform

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
# With what can be trusted every batch would be seen twice.
ONE_GO = make.FAST.model_copy(update={"fit": make.FAST.fit.model_copy(update={"trust": False})})
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]


def _sequence(result: FrameResult) -> GaussianSequence:
    assert isinstance(result.transform, GaussianSequence)
    return result.transform


def _by_frame(series: ImageSeries, **changes: Any) -> dict[int, FrameResult]:
    config = ONE_GO.model_copy(update={"reference": 0, **changes})
    return {r.frame: r for progress in register_series(series, config) for r in progress.finished}


class _Narrow:
    """Fit on a machine whose memory holds ``most`` pairs; it fails in the midst of its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
        self.tried: list[int] = []
        register = FitMethod.register

        def narrow(method: FitMethod, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
            self.tried.append(len(pairs))
            for step in register(method, pairs, start=start):
                if len(pairs) > most and step.index > step.total // 2:
                    raise error
                yield step

        monkeypatch.setattr(FitMethod, "register", narrow)


@pytest.mark.parametrize("method", ["r2n2", "fit", "bspline"])
def test_small_frames_come_sixteen_at_once_and_large_ones_within_the_budget(method: str) -> None:
    config = RegistrationConfig(method=method)
    assert resolve_batch_size(config, Grid((256, 192), (1.0, 2.0)), CPU) == 16
    for shape in ((1024, 768), (3000, 2000), (120, 200, 180)):
        grid = Grid(shape, (1.0,) * len(shape))
        size = resolve_batch_size(config, grid, CPU)
        assert 1 <= size <= 16
        assert size == 1 or size * bytes_a_frame(config, grid) <= PROCESSOR_BUDGET_BYTES
        assert size == 16 or (size + 1) * bytes_a_frame(config, grid) > PROCESSOR_BUDGET_BYTES
    assert resolve_batch_size(config, Grid((30000, 20000)), CPU) == 1
    assert resolve_batch_size(config.model_copy(update={"batch_size": 33}), Grid((30000, 20000)), CPU) == 33


def test_on_cuda_half_of_what_is_free_is_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config, grid = RegistrationConfig(method="fit"), Grid((512, 384))
    one = bytes_a_frame(config, grid)
    for frames_free, expected in ((1, 1), (12, 6), (75, 37), (10_000, 64)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=frames_free * one: (free, 10**12))
        assert resolve_batch_size(config, grid, torch.device("cuda")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "bspline"])
def test_a_frame_needs_no_more_than_is_reckoned(method: str) -> None:
    """Measured in processes of their own: what eight frames need more than two."""
    code = f"""
import resource, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
import registration_factory as make
from r2n2.config import BSplineConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.registration import build_method
torch.set_num_threads(1)
grid = Grid((640, 512), (1.0, 2.0))
image = make.texture(grid.shape)
pairs = make.pairs_of(*[(image, image.roll(k, 1)) for k in range(int(sys.argv[1]))], grid=grid)
for step in build_method(RegistrationConfig(method={method!r}, bspline=BSplineConfig(iterations=2))).register(pairs):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (2, 8):
        done = subprocess.run([sys.executable, "-c", code, str(count)], capture_output=True, text=True, timeout=120, check=True)
        peaks.append(int(done.stdout) * 1024)
    reckoned = bytes_a_frame(RegistrationConfig(method=method), Grid((640, 512), (1.0, 2.0)))
    assert (peaks[1] - peaks[0]) / 6 < reckoned


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    series, _ = make.moving_series(12)
    alone = _by_frame(series, batch_size=2)
    narrow = _Narrow(monkeypatch, 2, error)
    results = _by_frame(series, batch_size=7)
    assert sorted(results) == list(range(12))
    # 7 and 4 fail; what failed once is not tried again for the frames that are left.
    assert narrow.tried == [7, 4, 2, 2, 2, 1, 2, 2]
    for k in range(1, 12):
        assert results[k].status is FrameStatus.OK
        torch.testing.assert_close(_sequence(results[k]).centres, _sequence(alone[k]).centres, rtol=0, atol=0.02)


def test_halving_keeps_order_start_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    series, _ = make.moving_series(9)
    narrow = _Narrow(monkeypatch, 2, NO_MEMORY[0])
    starts: list[tuple[Transform, ...]] = []
    register = FitMethod.register

    def noting(method: FitMethod, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        starts.append(tuple(start or ()))
        yield from register(method, pairs, start=start)

    monkeypatch.setattr(FitMethod, "register", noting)
    config = ONE_GO.model_copy(update={"reference": 3, "batch_size": 4, "warm_start": True})
    progress = list(register_series(series, config))
    assert [[r.frame for r in p.finished] for p in progress if p.finished] == [[3], [1, 2, 4, 5], [0, 6, 7, 8]]
    assert narrow.tried == [4, 2, 2, 2, 2]
    found = {r.frame: r.transform for p in progress for r in p.finished}
    assert starts == [(), (), (), (found[1], found[5]), (found[5], found[5])]
    fractions = [p.fraction for p in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_frame_that_does_not_fit_alone_ends_the_run_and_what_is_done_stays(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    series, _ = make.moving_series(4)
    _Narrow(monkeypatch, 0, error)
    running = register_series(series, ONE_GO.model_copy(update={"reference": 0}))
    assert [result.frame for result in next(running).finished] == [0]
    with pytest.raises(ResourceError, match="frame 1 of 61 x 83 does not fit even alone; free some memory"):
        list(running)


def test_auto_is_the_number_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    series, _ = make.moving_series(6)
    monkeypatch.setattr("r2n2.registration.batch_size.PROCESSOR_BUDGET_BYTES", 2 * bytes_a_frame(make.FAST, series.grid))
    narrow = _Narrow(monkeypatch, 6, NO_MEMORY[0])
    auto = _by_frame(series)
    assert narrow.tried == [2, 2, 1]
    by_hand = _by_frame(series, batch_size=2)
    for k in range(1, 6):
        np.testing.assert_array_equal(_sequence(auto[k]).centres.numpy(), _sequence(by_hand[k]).centres.numpy())
