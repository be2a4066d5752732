"""A training that was stopped, killed or closed goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_factory as make

from r2n2.errors import ArgumentError, ResourceError
from r2n2.network.checkpoint import load_network, read_manifest
from r2n2.runtime.folder_lock import folder_lock
from r2n2.simulation.slices import RealSlice
from r2n2.training import run as run_module
from r2n2.training.data.contents import TrainingData
from r2n2.training.data.file import read_data_file, save_data_file
from r2n2.training.loop import Trainer
from r2n2.training.pictures import can_draw
from r2n2.training.resuming import capture, restore, under_way
from r2n2.training.run import SETTINGS_FILE, WEIGHTS_FILE, train
from r2n2.training.settings import TrainingConfig
from r2n2.training.state import load_state, save_state, state_files


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_VALIDATION_PAIRS", 2)
    monkeypatch.setattr(run_module, "can_draw", lambda: False)


def _everything(trainer: Trainer) -> dict[str, Any]:
    """All that the next update depends on."""
    return {
        "network": dict(trainer.network.state_dict()),
        "optimiser": trainer.optimiser.state_dict(),
        "average": trainer.average,
        "under way": under_way(trainer),
        "counts": [trainer.update, trainer.sample, trainer.skipped, trainer.rolled_back, trainer.failures],
    }


def _saved(folder: Path, trainer: Trainer) -> None:
    save_state(folder, capture(trainer, [under_way(trainer)], 12.0, {}))


def test_a_state_with_the_names_of_before_goes_on(tmp_path: Path) -> None:
    """The settings ``data`` and ``least_squares_sizes`` were once called otherwise, and ``force_channels`` is no more."""
    first = make.trainer(make.rich_config(4))
    first.make_update()
    state = capture(first, [under_way(first)], 12.0, {})
    older = dict(state.settings)
    older["stock"] = older.pop("data")
    older["network"] = {**older["network"], "evidence_sizes": older["network"]["least_squares_sizes"], "force_channels": False}
    del older["network"]["least_squares_sizes"]
    save_state(tmp_path, replace(state, settings=older))
    found = load_state(tmp_path)
    assert found is not None
    assert restore(make.trainer(make.rich_config(4)), found, 0, 1) == ()
    assert TrainingConfig.parse(older) == first.config


@pytest.mark.parametrize("stopped_after", [1, 2, 5])
@pytest.mark.parametrize("kind", ["paper", "rich", "orthogonal"])
def test_stopped_and_resumed_is_the_same_bit_for_bit(kind: str, stopped_after: int, tmp_path: Path) -> None:
    noisy = make.network_config(keep_probability=0.6)
    settings = make.config(7, network=noisy) if kind == "paper" else make.rich_config(7, orthogonal=kind == "orthogonal")
    whole = make.trainer(settings)
    expected = list(whole.run())
    first = make.trainer(settings)
    steps = [first.make_update() for _ in range(stopped_after)]
    _saved(tmp_path, first)
    torch.manual_seed(99)
    second = make.trainer(settings)
    state = load_state(tmp_path)
    assert state is not None
    assert restore(second, state, 0, 1) == ()
    steps += list(second.run())
    assert [step.loss for step in steps] == [step.loss for step in expected]
    assert make.same(_everything(second), _everything(whole))


@pytest.mark.parametrize("told", [True, False])
def test_a_batch_under_way_goes_on_with_or_without_its_truth(told: bool) -> None:
    plain = make.rich_config(7)
    stages = tuple(stage.model_copy(update={"truth": told}) for stage in plain.stages)
    settings = plain.model_copy(update={"stages": stages})
    first = make.trainer(settings)
    steps = [first.make_update() for _ in range(7)]
    second = make.trainer(settings)
    for _ in range(3):
        second.make_update()
    state = capture(second, [under_way(second)], 1.0, {})
    third = make.trainer(settings)
    restore(third, state, 0, 1)
    assert [step.loss for step in third.run()] == [step.loss for step in steps[3:]]


def test_the_noise_depends_on_the_random_state() -> None:
    """Else the test above could not notice that it was not restored."""
    settings = make.config(2, network=make.network_config(keep_probability=0.6))
    losses = []
    for seed in (5, 5, 6):
        trainer = make.trainer(settings)
        trainer.make_update()
        torch.manual_seed(seed)
        losses.append(trainer.make_update().loss)
    assert losses[0] == losses[1] != losses[2]


def test_a_run_is_the_same_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "can_draw", can_draw)
    settings = make.rich_config(6)
    whole = list(train(settings, tmp_path / "whole", TrainingData(), device="cpu"))
    asked = iter([False, False, True])
    parts = list(train(settings, tmp_path / "parts", TrainingData(), device="cpu", stop=lambda: next(asked)))
    assert len(parts) == 3
    assert parts[-1].saved
    assert parts[-1].validation is None, "who stops a run does not wait for a validation"
    assert read_manifest(tmp_path / "parts" / WEIGHTS_FILE).info["updates"] == "3"
    parts += list(train(settings, tmp_path / "parts", TrainingData(), device="cpu", resume=True))
    assert [done.step for done in parts] == [done.step for done in whole]
    one, other = (load_state(tmp_path / name) for name in ("whole", "parts"))
    assert one is not None
    assert other is not None
    for name in ("step", "sample", "network", "optimiser", "tensors", "counters", "best"):
        assert make.same(getattr(one, name), getattr(other, name)), name
    assert make.same(parts[-1].validation.numbers(), whole[-1].validation.numbers())
    assert parts[-1].best["update"] == 6
    weights = [load_network(tmp_path / name / WEIGHTS_FILE).state_dict() for name in ("whole", "parts")]
    assert make.same(*map(dict, weights))
    assert TrainingConfig.from_toml(tmp_path / "parts" / SETTINGS_FILE) == settings
    assert not list(train(settings, tmp_path / "parts", TrainingData(), device="cpu", resume=True)), "it had been finished"


def test_a_validation_on_other_pairs_is_no_measure_of_the_best(tmp_path: Path) -> None:
    list(train(make.config(2), tmp_path, TrainingData(), device="cpu"))
    same = list(train(make.config(3), tmp_path, TrainingData(), device="cpu", resume=True))
    assert not any("forgotten" in note for note in same[0].notes)
    other = list(train(make.config(4, data_size=40), tmp_path, TrainingData(), device="cpu", resume=True))
    assert any("is forgotten" in note for note in other[0].notes)
    assert other[-1].best["update"] == 4


def test_closing_the_generator_saves(tmp_path: Path) -> None:
    running = train(make.config(9), tmp_path, TrainingData(), device="cpu")
    for _ in range(3):
        next(running)
    assert not state_files(tmp_path)
    running.close()
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 3
    with folder_lock(tmp_path):
        pass  # free again


def test_a_folder_that_holds_a_run_is_not_begun_again(tmp_path: Path) -> None:
    settings = make.config(1)
    list(train(settings, tmp_path, TrainingData(), device="cpu"))
    with pytest.raises(ArgumentError, match="give --resume"):
        next(train(settings, tmp_path, TrainingData(), device="cpu"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    running = train(make.config(3), tmp_path, TrainingData(), device="cpu")
    next(running)
    with pytest.raises(ResourceError, match="writes there now"):
        next(train(make.config(3), tmp_path, TrainingData(), device="cpu", resume=True))
    running.close()


def test_another_network_or_optimiser_cannot_be_resumed(tmp_path: Path) -> None:
    trainer = make.trainer(make.config(3))
    trainer.make_update()
    _saved(tmp_path, trainer)
    state = load_state(tmp_path)
    assert state is not None
    for changes, named in (
        ({"network": make.network_config(channels=(4, 4, 6, 8))}, "network.channels"),
        ({"network": make.network_config(keep_probability=0.5)}, "network.keep_probability 1.0 -> 0.5"),
        ({"optimiser": {"amsgrad": False}}, "optimiser.amsgrad True -> False"),
    ):
        with pytest.raises(ArgumentError, match=named):
            restore(make.trainer(make.config(3, **changes)), state, 0, 1)


def test_other_settings_or_processes_are_said(tmp_path: Path) -> None:
    trainer = make.trainer(make.config(3, steps=4, chunk=2))
    trainer.make_update()
    _saved(tmp_path, trainer)
    state = load_state(tmp_path)
    assert state is not None
    changed = make.trainer(make.config(3, steps=4, chunk=2, batch=1, optimiser={"weight_decay": 0.5, "averaging": 0.5}))
    notes = restore(changed, state, 0, 1)
    assert "batch 2 -> 1" in notes[0]
    assert "optimiser.weight_decay 0.0 -> 0.5" in notes[0]
    assert changed.optimiser.param_groups[0]["weight_decay"] == 0.5
    assert make.same(changed.average, dict(trainer.network.state_dict()))
    assert changed.update == 1
    changed.make_update()
    timed = make.trainer(make.config(3, steps=4, chunk=2, minutes=5, save_minutes=1))
    assert restore(timed, state, 0, 1) == ()
    assert timed.groups[0] is not None
    assert "resumed with 2 processes what 1 had begun" in restore(timed, state, 1, 2)[0]


def test_validation_and_saving_keep_their_times(tmp_path: Path) -> None:
    settings = make.config(3, validate_minutes=1e-9, save_minutes=100)
    done = list(train(settings, tmp_path, TrainingData(), device="cpu"))
    assert all(item.validation is not None and item.saved for item in done)
    done = list(train(make.config(3, save_minutes=1e-9), tmp_path / "other", TrainingData(), device="cpu"))
    assert [item.saved for item in done] == [True, True, True]
    assert [item.validation is None for item in done] == [True, True, False]
    done = list(train(make.config(50, minutes=1e-9), tmp_path / "short", TrainingData(), device="cpu"))
    assert len(done) == 1
    assert done[0].validation is not None


def test_failing_updates_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    plain = run_module.Trainer.make_update

    def failing(trainer: Trainer) -> Any:
        step = plain(trainer)
        if next(calls) >= 2:
            trainer.failures += 1
            with torch.no_grad():
                trainer.network.entry.bias.add_(1e3)
        return step

    monkeypatch.setattr(run_module.Trainer, "make_update", failing)
    settings = make.config(4, save_minutes=1e-9)
    done = list(train(settings, tmp_path, TrainingData(), device="cpu"))
    assert [item.saved for item in done] == [True, True, False, True]
    state = load_state(tmp_path)
    assert state is not None
    assert float(state.network["entry.bias"].abs().max()) < 10
    # Once for the burst of the weights that the test spoilt, once for the end amid failures.
    assert state.counters["rolled_back"] == 2


def test_a_validation_that_is_not_finite_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run_module.validate
    calls = []

    def broken(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        found = plain(*arguments, **options)
        return found if len(calls) > 1 else type(found)(*[float("nan")] * 7)

    monkeypatch.setattr(run_module, "validate", broken)
    done = list(train(make.config(2, validate_minutes=1e-9), tmp_path, TrainingData(), device="cpu"))
    assert done[0].best == {}
    assert done[1].best["update"] == 2
    assert (tmp_path / WEIGHTS_FILE).is_file()


@pytest.mark.parametrize("killed_after", [1, 4])
def test_a_killed_run_has_the_loss_curve_of_one_that_was_not(tmp_path: Path, killed_after: int) -> None:
    """What a kill leaves is the folder as it is at some moment: here, when an update has just been saved, its lock included."""
    settings = make.rich_config(7).model_copy(update={"save_minutes": 1e-9})
    whole, copy = [], tmp_path / "copy"
    for done in train(settings, tmp_path / "whole", TrainingData(), device="cpu"):
        whole.append(done.step.loss)
        if done.step.update == killed_after:
            shutil.copytree(tmp_path / "whole", copy)
    rest = [done.step.loss for done in train(settings, copy, TrainingData(), device="cpu", resume=True)]
    assert rest == whole[killed_after:]
    assert len(set(rest)) == len(rest)


def test_a_run_killed_in_its_last_validation_is_finished_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            list(train(make.config(2), tmp_path, TrainingData(), device="cpu"))
    assert not (tmp_path / WEIGHTS_FILE).exists()
    (done,) = train(make.config(2), tmp_path, TrainingData(), device="cpu", resume=True)
    assert done.step.update == 2
    assert done.validation is not None
    assert done.best["update"] == 2
    assert (tmp_path / WEIGHTS_FILE).is_file()
    assert not list(train(make.config(2), tmp_path, TrainingData(), device="cpu", resume=True)), "now it is finished"
    assert list(train(make.config(3), tmp_path, TrainingData(), device="cpu", resume=True))[-1].step.update == 3


def _small_data(path: Path) -> Path:
    image = torch.rand(1, 40, 33, generator=torch.Generator().manual_seed(0))
    save_data_file(path, TrainingData(tuple(RealSlice(image, None, (1.0, 2.0), name, name) for name in "abc")))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_kill_at_any_moment_costs_at_most_the_last_interval(tmp_path: Path) -> None:
    """Here every update is saved, so every update that was said to be saved must be there."""
    data = _small_data(tmp_path / "data.safetensors")
    settings = make.config(100_000, save_minutes=1e-9, data={"folders": (data,), "held_out": ("a",)})
    (tmp_path / "config.toml").write_text(settings.to_toml())
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "r2n2.training", str(tmp_path / "config.toml"), "-o", str(folder), "--device", "cpu"]
    said, wait = 0, 0.137 * (1 + os.getpid() % 7)
    process = subprocess.Popen(
        [*command, "--resume"], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    next(line for line in lines if line.startswith("update 3 "))
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    for line in lines:
        said = int(line.split()[1]) if line.startswith("update ") and line.endswith("\n") else said
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    state = load_state(folder)
    assert state is not None
    assert state.step >= max(said, 3)
    longer = settings.model_copy(update={"minutes": 1e-9})
    (done,) = train(longer, folder, read_data_file(data), device="cpu", resume=True)
    assert done.step.update == state.step + 1
    assert done.notes == ()
    lines_kept = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert all(line["step"] <= state.step + 1 for line in lines_kept)
