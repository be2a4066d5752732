"""Adapting to a series: what is held out teaches nothing, the result is never worse than the start, the start stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from training_factory import network_config

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.network import MatchingPursuit, RecurrentNetwork
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.series import ImageSeries
from r2n2.training import adapt as module
from r2n2.training.adapt import Adapting, Score, adapt
from r2n2.training.loop import DivergenceError, Trainer, TrainingStep

pytestmark = pytest.mark.usefixtures("one_thread")


def _network() -> MatchingPursuit:
    torch.manual_seed(0)
    return MatchingPursuit(network_config(least_squares_sizes=(32,))).eval()


def _series(count: int = 9, shape: tuple[int, ...] = (40, 56)) -> ImageSeries:
    """A bright disc on a slope that goes up and down; anisotropic pixels."""
    y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape[-2:]), indexing="ij")
    frames = []
    for k in range(count):
        centre = 20 + 3 * np.sin(2 * np.pi * k / count)
        disc = 1 / (1 + np.exp(((y - centre) ** 2 + (x - 28) ** 2 - 64) / 20))
        frames.append(100 * disc + 0.3 * x + 5 * np.sin(0.4 * x) * np.cos(0.3 * y))
    stack = np.stack(frames).astype(np.float32)[:, None]
    return ImageSeries(stack, Grid(shape[-2:], (1.5, 1.0)), name="disc")


def _run(series: ImageSeries, network: RecurrentNetwork, updates: int = 3, **options: Any) -> list[Adapting]:
    seen: list[Adapting] = []
    for adapting in adapt(series, network, seconds=1e6, reference=0, stop=lambda: len(seen) >= updates, **options):
        seen.append(adapting)
    return seen


def test_the_result_is_never_worse_and_the_start_stays_as_it_is() -> None:
    network = _network()
    before = copy.deepcopy(network.state_dict())
    seen = _run(_series(), network)
    assert [step.update for step in seen] == [0, 1, 2, 3]
    assert seen[0].best == seen[0].start
    assert seen[-1].best.similarity >= seen[0].start.similarity
    assert seen[-1].checked
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not seen[-1].network.training


def test_weights_that_make_the_held_out_frames_worse_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: Trainer) -> RecurrentNetwork:
        network = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            network.parameter_head.output.bias[2:4] = 5.0  # every Gaussian moves by half its width
        return network

    monkeypatch.setattr(Trainer, "averaged", spoilt)
    network = _network()
    last = _run(_series(), network)[-1]
    assert last.checked
    assert last.best == last.start
    torch.testing.assert_close(last.network.parameter_head.output.bias, network.parameter_head.output.bias)


def test_an_adaptation_that_diverges_keeps_the_best_before_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    update, remember, remembered = Trainer.make_update, Trainer.remember, []

    def diverging(self: Trainer) -> TrainingStep:
        if self.update == 2:
            raise DivergenceError("optimiser.learning_rate: the training diverges")
        return update(self)

    monkeypatch.setattr(Trainer, "make_update", diverging)
    monkeypatch.setattr(Trainer, "remember", lambda self: (remembered.append(self.update), remember(self)))
    scores = iter([Score(0.5, 0.0), Score(0.6, 0.0), Score(0.7, 0.0)])
    monkeypatch.setattr(module, "_score", lambda *_: next(scores))
    clock = iter(range(0, 10**6, 30))  # every look is due
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    seen = list(adapt(_series(), _network(), seconds=1e6, reference=0))
    assert [step.update for step in seen] == [0, 1, 2, 2]
    assert [step.checked for step in seen] == [True, True, True, False]
    last = seen[-1]
    assert last.best == seen[2].best
    assert last.best.similarity == 0.7
    assert last.network is seen[2].network
    assert len(last.notes) == 1
    assert "the best weights before are kept" in last.notes[0]
    assert not any(step.notes for step in seen[:-1])
    assert remembered == [0, 1, 2], "a divergence goes back to the best, not to the start"


def test_a_hole_of_a_held_out_frame_moves_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether weights are kept must not depend on pixels that are not measured."""
    grid, valid = Grid((40, 56)), torch.ones(1, 1, 40, 56, dtype=torch.bool)
    moving = torch.rand(1, 1, 40, 56, generator=torch.Generator().manual_seed(0))
    fixed = moving.roll(-6, 3)
    valid[..., 10:25, 20:34] = False
    frames = module._Frames(fixed[0], torch.ones(1, 40, 56, dtype=torch.bool), torch.where(valid, moving, 5.0), valid, (1,))
    shift = torch.zeros(1, 2, 40, 56)
    shift[:, 1] = 6 * 2 / 55
    monkeypatch.setattr(module, "displacements", lambda method, pairs: shift)
    series = ImageSeries(np.zeros((2, 1, 40, 56), np.float32), grid)
    score = module._score(RecurrentMethod(_network()), frames, series, torch.device("cpu"))
    assert score.similarity > 0.999
    (taught,) = module._taught(frames, series, torch.device("cpu"))
    assert torch.equal(taught.displacement, shift[0])


def test_better_is_more_alike_without_more_folding() -> None:
    start = Score(0.9, 0.1)
    assert Score(0.95, 0.1).better_than(start, start)
    assert not Score(0.9, 0.0).better_than(start, start)
    assert not Score(0.95, 0.2).better_than(start, start)
    assert not Score(0.92, 0.1).better_than(Score(0.95, 0.1), start)


def test_held_out_frames_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Any] = []
    engine = module.PairEngine

    def spy(slices: Any, pairs: Any, *others: Any, **options: Any) -> Any:
        taught.extend(item.image for item in slices)
        taught.extend(pair.moving for pair in pairs)
        return engine(slices, pairs, *others, **options)

    monkeypatch.setattr(module, "PairEngine", spy)
    series = _series(9)
    _run(series, _network(), updates=1)
    shown = [[k for k in range(9) if torch.equal(image, torch.from_numpy(series.frame(k)))] for image in taught]
    numbers = {k for found in shown for k in found}
    assert len(shown) > 7  # slices, and pairs with what fit found
    assert numbers == {0, 1, 3, 4, 5, 7, 8}, "frames 2 and 6 are held out"


def test_frames_that_cannot_be_used_are_named() -> None:
    series = _series(9)
    broken = np.array(series.frames[:])
    broken[4] = np.nan
    notes = _run(ImageSeries(broken, series.grid, name="broken"), _network(), updates=1)[0].notes
    assert len(notes) == 1
    assert "frame 4" in notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"series": _series(3)}, "at least 3 other usable frames"), ({"seconds": 0.0}, "must be positive")],
)
def test_what_cannot_be_adapted_to_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"series": _series(), "seconds": 1.0, **change}
    with pytest.raises(ArgumentError, match=message):
        next(adapt(arguments["series"], _network(), seconds=arguments["seconds"], reference=0))
