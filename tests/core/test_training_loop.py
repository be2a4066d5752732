"""What the training loop does with a loss: learn from it, refuse it, go back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import training_factory as make

from r2n2.errors import ArgumentError
from r2n2.registration.recurrent_steps import Progress
from r2n2.training.loop import build_network, learning_rate, stage_at
from r2n2.training.resuming import capture, restore, under_way
from r2n2.training.settings import OptimiserConfig, Stage


class _Spoilt(torch.nn.Module):
    """A chunk whose loss is not finite in some calls."""

    def __init__(self, chunk: torch.nn.Module, calls: set[int], factor: float = math.nan) -> None:
        super().__init__()
        self.chunk, self.calls, self.factor, self.count = chunk, calls, factor, 0

    def forward(self, *arguments: Any) -> Any:
        loss, *rest = self.chunk(*arguments)
        self.count += 1
        return (loss * self.factor if self.count in self.calls else loss, *rest)


def _spoilt(calls: set[int], updates: int = 40, **changes: Any) -> Any:
    settings = make.config(updates, **changes)
    return make.trainer(settings, wrap=lambda chunk: _Spoilt(chunk, calls))


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_a_tiny_network_learns_one_pair_by_heart() -> None:
    settings = make.config(44, steps=3, batch=1, optimiser=OptimiserConfig(learning_rate=3e-4))
    losses = [step.loss for step in make.trainer(settings, make.OnePair(seed=1)).run()]
    assert len(losses) == 44
    assert sum(losses[-4:]) / 4 < 0.65 * losses[0]


def test_stages_follow_each_other_and_the_last_goes_on() -> None:
    stages = (Stage(updates=3, working_size=32, steps=2), Stage(updates=2, working_size=64, steps=5))
    assert [stage_at(stages, update).steps for update in range(7)] == [2, 2, 2, 5, 5, 5, 5]


def test_learning_rate_rises_and_falls() -> None:
    plain = OptimiserConfig(learning_rate=0.5)
    stages = (Stage(updates=30, working_size=32, steps=2), Stage(updates=70, working_size=32, steps=2))
    assert [learning_rate(plain, stages, update) for update in (0, 99)] == [0.5, 0.5]
    shaped = OptimiserConfig(learning_rate=0.5, warmup=4, decay="cosine")
    assert learning_rate(shaped, stages, 0) == pytest.approx(0.125)
    assert learning_rate(shaped, stages, 50) == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    assert learning_rate(shaped, stages, 100) == pytest.approx(0.005)


def test_a_stage_may_have_a_step_size_that_falls_within_it() -> None:
    plain = OptimiserConfig(learning_rate=0.5)
    first, second = Stage(updates=10, working_size=32, steps=2), Stage(updates=20, working_size=32, steps=2)
    falling = second.model_copy(update={"learning_rate": 0.2, "fall": 0.1})
    found = [learning_rate(plain, (first, falling, falling), update) for update in (0, 9, 10, 20, 30, 40, 50)]
    assert found == pytest.approx([0.5, 0.5, 0.2, 0.2 * 0.55, 0.2, 0.2 * 0.55, 0.02])


def test_the_same_seed_gives_the_same_network_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    one, other = (build_network(make.config(seed=7)).state_dict() for _ in range(2))
    assert make.same(dict(one), dict(other))
    assert torch.equal(before, torch.get_rng_state())
    different = build_network(make.config(seed=8)).state_dict()
    assert not make.same(dict(one), dict(different))


def test_the_optimiser_is_the_papers_by_default() -> None:
    trainer = make.trainer(make.config(2))
    assert isinstance(trainer.optimiser, torch.optim.AdamW)
    group = trainer.optimiser.param_groups[0]
    assert (group["lr"], group["amsgrad"], group["weight_decay"]) == (1e-4, True, 0.0)
    trainer.make_update()
    trainer.make_update()
    assert all("max_exp_avg_sq" in state for state in trainer.optimiser.state.values())


def test_the_gradient_is_clipped() -> None:
    settings = make.config(1, optimiser=OptimiserConfig(clip=1e-3))
    trainer = make.trainer(settings)
    step = trainer.make_update()
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.network.parameters()]).norm()
    assert step.gradient_norm > 1e-2
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_is_skipped_and_counted() -> None:
    trainer = _spoilt({2})
    trainer.make_update()
    before = _weights(trainer)
    optimiser = trainer.optimiser.state_dict()["state"][0]["step"].clone()
    step = trainer.make_update()
    assert math.isnan(step.loss)
    assert (step.update, step.skipped, step.rolled_back) == (2, 1, 0)
    assert make.same(before, _weights(trainer))
    assert torch.equal(optimiser, trainer.optimiser.state_dict()["state"][0]["step"])
    step = trainer.make_update()
    assert math.isfinite(step.loss)
    assert trainer.failures == 0
    assert not make.same(before, _weights(trainer))


def test_a_batch_that_failed_is_left_and_the_next_one_begun() -> None:
    source = make.OnePair()
    settings = make.config(9, steps=4, chunk=2)
    trainer = make.trainer(settings, source, wrap=lambda chunk: _Spoilt(chunk, {2}))
    for _ in range(4):
        trainer.make_update()
    # The first batch fails at its second chunk of two, the next is taken to its end.
    assert source.asked == [(0, 2), (2, 2)]
    assert trainer.skipped == 1


def test_after_five_failures_the_good_weights_come_back_each_time() -> None:
    trainer = _spoilt({3, 4, 5, 6, 7, 10, 11, 12, 13, 14}, optimiser={"averaging": 0.5, "learning_rate": 1e-2})
    trainer.make_update()
    trainer.remember()
    good, average = _weights(trainer), {name: value.clone() for name, value in trainer.average.items()}
    moments = trainer.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    for expected, until in ((1, 7), (2, 14)):
        while trainer.update < until:
            step = trainer.make_update()
            assert step.rolled_back == expected - (trainer.update < until)
        assert make.same(good, _weights(trainer))
        assert make.same(average, trainer.average)
        assert torch.equal(moments, trainer.optimiser.state_dict()["state"][0]["exp_avg"])
        assert trainer.groups == [None]
    assert trainer.skipped == 10


def test_weights_that_stop_being_finite_go_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make.trainer(make.config(5, optimiser={"averaging": 0.5}))
    trainer.make_update()
    trainer.remember()
    good = _weights(trainer)

    def break_weights() -> None:
        with torch.no_grad():
            trainer.network.entry.bias.fill_(math.inf)

    monkeypatch.setattr(trainer.optimiser, "step", break_weights)
    step = trainer.make_update()
    assert (step.skipped, step.rolled_back) == (1, 1)
    assert make.same(good, _weights(trainer))
    assert all(bool(torch.isfinite(value).all()) for value in trainer.average.values())


def test_one_process_that_fails_makes_all_skip() -> None:
    trainer = make.trainer(make.config(2), agree=lambda _: True)
    before = _weights(trainer)
    step = trainer.make_update()
    assert math.isfinite(step.loss)
    assert step.skipped == 1
    assert make.same(before, _weights(trainer))


def test_the_mean_of_the_weights_follows_them() -> None:
    trainer = make.trainer(make.config(3, optimiser={"averaging": 0.15, "learning_rate": 1e-2}))
    expected = _weights(trainer)
    for update in (1, 2, 3):
        trainer.make_update()
        decay = min(0.15, (1 + update) / (10 + update))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in _weights(trainer).items()}
    network = trainer.averaged()
    assert not network.training
    assert trainer.network.training
    for name, value in network.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-7), name
    assert not make.same(dict(network.state_dict()), _weights(trainer))


@pytest.mark.parametrize(("steps", "chunk", "groups"), [(6, 2, 3), (25, 9, 2), (4, 7, 2), (25, 5, 5)])
def test_groups_begin_at_different_places_and_never_run_over(steps: int, chunk: int, groups: int) -> None:
    trainer = make.trainer(make.config(groups, steps=steps, chunk=chunk, groups=groups, batch=1), make.OnePair())
    lengths = []
    for number in range(groups):
        begun = trainer._under_way(number, trainer.config.stages[0])
        trainer.update += 1
        lengths.append(begun.length)
    assert lengths == sorted(lengths)
    assert max(lengths) <= steps
    assert lengths[0] < steps or chunk >= steps
    if (steps, chunk, groups) == (6, 2, 3):
        assert lengths == [2, 4, 6]


def test_every_process_takes_its_own_part_of_the_stream() -> None:
    asked = {}
    for rank in range(3):
        source = make.OnePair()
        trainer = make.trainer(make.config(2), source, rank=rank, world=3)
        trainer.make_update()
        trainer.make_update()
        asked[rank] = source.asked
        assert trainer.sample == 12
    assert asked == {0: [(0, 2), (6, 2)], 1: [(2, 2), (8, 2)], 2: [(4, 2), (10, 2)]}
    with pytest.raises(ArgumentError, match="rank: must be 0 to 1"):
        make.trainer(make.config(), rank=2, world=2)


def test_positions_that_are_no_numbers_are_skipped_without_going_back_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loss is finite, as the sampler shows a pixel there; going back through them ended the process."""
    trainer = make.trainer(make.config(3))
    plain = type(trainer.chunk).forward
    calls = iter(range(10))

    def broken(chunk: Any, *arguments: Any) -> Any:
        loss, progress, logged = plain(chunk, *arguments)
        if next(calls) == 1:
            progress = Progress(tuple(d / 0 * 0 for d in progress.displacements), progress.state)
            loss.register_hook(lambda gradient: pytest.fail("went back"))
        return loss, progress, logged

    monkeypatch.setattr(type(trainer.chunk), "forward", broken)
    assert [step.skipped for step in trainer.run()] == [0, 1, 1]


def test_weights_that_burst_go_back_and_the_steps_become_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 1e6 leaves finite weights and, through tanh, a finite loss."""
    trainer = make.trainer(make.config(60, optimiser={"learning_rate": 1e6}))
    good = _weights(trainer)
    steps = []
    while trainer.skipped == len(steps):
        steps.append(trainer.make_update())
    assert steps[0].rolled_back == 1
    assert [step.learning_rate for step in steps[:4]] == [1e6, 0.5e6, 1e6 * 2**-3, 1e6 * 2**-6]
    assert 1e-4 < steps[-1].learning_rate < 10, "the first one that is no worse"
    assert trainer.returns == 0
    after = _weights(trainer)
    assert sum(float(value.square().sum()) for value in after.values()) < 100 * sum(float(v.square().sum()) for v in good.values())


def test_a_training_that_always_diverges_ends_and_says_so() -> None:
    trainer = _spoilt(set(range(1, 1000)), updates=200)
    with pytest.raises(
        ArgumentError, match=r"learning_rate: the training diverges, even at .*45 updates skipped.* 9 times.*smaller"
    ):
        list(trainer.run())


def test_the_step_size_stays_smaller_when_resumed() -> None:
    trainer = make.trainer(make.config(9))
    trainer.returns, trainer.halvings = 1, 3
    state = capture(trainer, [under_way(trainer)], 0.0, {})
    other = make.trainer(make.config(9))
    restore(other, state, 0, 1)
    assert (other.returns, other.halvings) == (1, 3)
    assert other.make_update().learning_rate == pytest.approx(trainer.config.optimiser.learning_rate / 8)
