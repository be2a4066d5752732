"""The state of a training survives kills, damage and forgery, and comes back bit for bit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from r2n2.errors import ReadError, ResourceError
from r2n2.training import state as state_module
from r2n2.training.serialisation import flatten, rebuild
from r2n2.training.state import TrainingState, load_state, save_state, state_files


def _same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        same_bits = torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        return a.dtype == b.dtype and a.shape == b.shape and same_bits
    if isinstance(a, dict):
        return (
            list(a) == list(b) and all(type(k) is type(j) for k, j in zip(a, b, strict=True)) and all(_same(a[k], b[k]) for k in a)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _training(seed: int = 3) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3, bias=False))
    optimiser = torch.optim.Adam(
        [{"params": network[0].parameters(), "lr": 1e-2}, {"params": network[2].parameters()}], lr=3e-3, amsgrad=True
    )
    return network, optimiser, torch.Generator().manual_seed(seed)


def _train(network: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.randn(2, 1, 7, 9, generator=generator)).square().mean().backward()
        optimiser.step()


def _state(step: int = 2, **changes: Any) -> TrainingState:
    network, optimiser, generator = _training()
    _train(network, optimiser, generator, 2)
    state = TrainingState(
        step=step,
        sample=7 * step,
        elapsed_s=0.1 + 0.2,
        network=network.state_dict(),
        optimiser=optimiser.state_dict(),
        generators={"data": generator.get_state()},
        tensors={
            "hidden": torch.tensor([[1.5, -0.0, math.nan]], dtype=torch.bfloat16),
            "mask": torch.tensor([True, False]),
            "empty": torch.zeros(0, 3),
        },
        counters={"skipped": 3},
        best={"tre_mm": math.inf, "step": 1, "rates": (1.0, 2)},
        settings={"name": "paper", "channels": [32, 64], "minutes": None, "noise": {"p": 0.5}},
    )
    return replace(state, **changes)


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    state = _state()
    save_state(tmp_path, state)
    back = load_state(tmp_path)
    assert back is not None
    assert back.notes == ()
    for name in ("step", "sample", "elapsed_s", "optimiser", "counters", "best", "settings"):
        assert _same(getattr(back, name), getattr(state, name)), name
    for name in ("network", "generators", "tensors"):
        assert _same(dict(sorted(getattr(back, name).items())), dict(sorted(getattr(state, name).items()))), name
    moments = back.optimiser["state"][0]
    assert moments["step"].shape == ()
    assert "max_exp_avg_sq" in moments


def test_four_steps_equal_two_saved_loaded_and_two_more(tmp_path: Path) -> None:
    whole, optimiser, generator = _training()
    _train(whole, optimiser, generator, 4)
    save_state(tmp_path, _state())
    state = load_state(tmp_path)
    assert state is not None
    resumed, optimiser, generator = _training(seed=99)
    resumed.load_state_dict(state.network)
    optimiser.load_state_dict(state.optimiser)
    generator.set_state(state.generators["data"])
    _train(resumed, optimiser, generator, 2)
    assert _same(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_memory_layout_and_shared_tensors_come_back(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 5).contiguous(memory_format=torch.channels_last)
    turned = torch.randn(3, 5).T
    save_state(tmp_path, _state(network={"a": weight, "b": weight, "turned": turned}))
    state = load_state(tmp_path)
    assert state is not None
    assert state.network["a"].is_contiguous(memory_format=torch.channels_last)
    assert _same(state.network["a"].contiguous(), weight.contiguous())
    assert torch.equal(state.network["b"], weight)
    assert torch.equal(state.network["turned"], turned)


def test_no_state_is_none_and_the_newest_are_kept(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "absent") is None
    for step in (1, 9, 10, 100):
        save_state(tmp_path, _state(step))
    assert [file.name for file in state_files(tmp_path)] == ["state-000000100.safetensors", "state-000000010.safetensors"]
    save_state(tmp_path, _state(20), keep=3)  # went back: the later one is from an abandoned future
    assert [int(file.stem[6:]) for file in state_files(tmp_path)] == [20, 10]
    save_state(tmp_path, _state(21), keep=1)
    assert [int(file.stem[6:]) for file in state_files(tmp_path)] == [21]


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        middle = len(content) - 100
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    elif how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "pickle":
        content = b"\x80\x02}q\x00." + content
    elif how == "header":
        content = (2**60).to_bytes(8, "little") + content[8:]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "pickle", "header"])
def test_a_damaged_state_is_passed_over_with_a_note(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    save_state(tmp_path, _state(5))
    newest = save_state(tmp_path, _state(6))
    _damage(newest, how)
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 5
    assert len(state.notes) == 1
    assert newest.name in state.notes[0]
    assert "step 5" in state.notes[0]
    assert newest.name in caplog.text
    _damage(state_files(tmp_path)[1], how)
    with pytest.raises(ReadError, match="none of its 2 training states is whole"):
        load_state(tmp_path)


def _forge(path: Path, change: dict[str, Any], *, drop: str | None = None) -> None:
    """Rewrite a state with another content and a digest that fits it."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    content = json.loads(metadata["content"])
    content["trees"].update(change)
    if drop:
        del tensors[drop]
    metadata["content"] = json.dumps(content)
    metadata["sha256"] = state_module._digest(metadata["content"], tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "drop"),
    [
        ({"step": "seven"}, None),
        ({"optimiser": {"dict": [["state", {"tensor": "nowhere"}]]}}, None),
        ({"optimiser": [1, 2]}, None),
        ({"optimiser": {"tensor": ["a"]}}, None),
        ({"best": {"code": "import os"}}, None),
        ({"counters": {"dict": 5}}, None),
        ({"settings": {"float": "many"}}, None),
        ({}, "optimiser/000010"),
    ],
)
def test_a_forged_state_is_refused(tmp_path: Path, change: dict[str, Any], drop: str | None) -> None:
    path = save_state(tmp_path, _state())
    _forge(path, {})
    assert load_state(tmp_path) is not None  # the forgery itself is sound
    with safe_open(path, framework="pt") as file:
        drop = drop and next(name for name in file.keys() if name.startswith("optimiser/"))  # noqa: SIM118
    _forge(path, change, drop=drop)
    with pytest.raises(ReadError, match="damaged training state"):
        load_state(tmp_path)


def test_another_safetensors_file_is_no_state(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "state-000000003.safetensors")
    with pytest.raises(ReadError, match="no training state of schema"):
        load_state(tmp_path)


def test_a_failed_write_leaves_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, _state(1))

    def lossy(path: Path, content: bytes) -> None:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(state_module, "_write_through", lossy)
    with pytest.raises(ResourceError, match="reads back differently"):
        save_state(tmp_path, _state(2), keep=1)

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module, "_write_through", full)
    with pytest.raises(ResourceError, match="no space is left"):
        save_state(tmp_path, _state(2), keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state-000000001.safetensors"]
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 1


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a set cannot be kept"):
        save_state(tmp_path, _state(settings={"a": {1, 2}}))
    with pytest.raises(TypeError, match="keys must be int or str"):
        save_state(tmp_path, _state(best={1.5: 1}))
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save_state(tmp_path, _state(), keep=0)
    with pytest.raises(ValueError, match="must not be negative"):
        save_state(tmp_path, _state(-1))
    assert not list(tmp_path.iterdir())


_KEYS = st.one_of(st.text(max_size=5), st.integers())
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.builds(torch.tensor, st.floats(width=32))
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(_KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(_TREES)
def test_any_nesting_comes_back(tree: Any) -> None:
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(flatten(tree, "x/", tensors), allow_nan=False))
    assert _same(rebuild(plain, tensors), tree)


_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from r2n2.training.state import TrainingState, load_state, save_state
torch.set_num_threads(1)
folder = Path(sys.argv[1])

def state(step):
    weight = {"w": torch.full((40_000,), float(step))}
    return TrainingState(step, step, 1.0, weight, {"state": {0: {"step": torch.tensor(float(step))}}})

draw, done, interrupted = random.Random(5), 0, 0
for _ in range(15):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        step = done
        while True:
            step += 1
            save_state(folder, state(step))
            os.write(writer, step.to_bytes(4, "big"))
    os.close(writer)
    told = int.from_bytes(os.read(reader, 4), "big")  # the first save of the child is through
    time.sleep(draw.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := os.read(reader, 4):
        told = int.from_bytes(rest, "big")
    os.close(reader)
    interrupted += any(entry.name.startswith(".r2n2-tmp") for entry in folder.iterdir())
    back = load_state(folder)
    assert back is not None and back.step >= told, (back, told)
    assert (back.network["w"] == back.step).all() and float(back.optimiser["state"][0]["step"]) == back.step
    assert back.notes == (), back.notes
    done = back.step
save_state(folder, state(done + 1))
assert not [entry for entry in folder.iterdir() if entry.name.startswith(".r2n2-tmp")]
print(interrupted, done)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_at_any_moment_leaves_a_whole_state(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    interrupted, steps = map(int, done.stdout.split())
    assert interrupted > 0, "no kill came in the middle of a write: the test tested nothing"
    assert steps >= 15
