"""Several processes train as one with a larger batch; when one dies, the others end and say so."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_factory as make
from safetensors.torch import load_file

from r2n2.errors import ArgumentError, ResourceError
from r2n2.simulation.slices import RealSlice
from r2n2.training.data.contents import TrainingData
from r2n2.training.data.file import save_data_file
from r2n2.training.processes import Processes, team_of_environment
from r2n2.training.state import load_state

_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("training_factory", sys.argv[1])
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
import torch
from safetensors.torch import save_file
from r2n2.training.processes import end_process, team_of_environment
team = team_of_environment("cpu")
for kind in sys.argv[3].split(","):
    trainer = make.parallel_trainer(kind, 1, rank=team.rank, world=team.world, wrap=team.wrap, agree=team.agree)
    losses = torch.tensor([step.loss for step in trainer.run()])
    parts = team.gather({"losses": losses})
    if team.leads:
        mean = torch.stack([part["losses"] for part in parts]).mean(0)
        save_file({"losses": mean, **trainer.network.state_dict()}, f"{sys.argv[2]}/{kind}.safetensors")
    del trainer
assert team.agree_on(team.rank == 1, False, True) == (True, False, True)
assert team.alike(7) and not team.alike(team.rank)
team.leave()
end_process(0)
"""


def _environment(rank: int, port: int) -> dict[str, str]:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return {**os.environ, **{name: str(value) for name, value in own.items()}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs Linux or macOS")
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    kinds = ("paper", "pursuit")
    factory = str(Path(__file__).with_name("training_factory.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-c", _PROGRAM, factory, str(tmp_path), ",".join(kinds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for kind in kinds:
        alone = make.parallel_trainer(kind, 2)
        losses = torch.tensor([step.loss for step in alone.run()])
        found = load_file(tmp_path / f"{kind}.safetensors")
        assert torch.allclose(found.pop("losses"), losses, atol=1e-5)
        start = make.build_network(alone.config).state_dict()
        for name, value in alone.network.state_dict().items():
            assert torch.allclose(found[name], value, atol=1e-5), name
        assert max(float((value - start[name]).abs().max()) for name, value in found.items()) > 1e-3, "nothing was learnt"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_dead_process_ends_the_other_with_a_message(tmp_path: Path) -> None:
    image = torch.rand(1, 40, 33, generator=torch.Generator().manual_seed(0))
    data = tmp_path / "data.safetensors"
    save_data_file(data, TrainingData((RealSlice(image, None, (1.0, 2.0), "a", "a"),)))
    settings = make.config(100_000, save_minutes=1e-9, data={"folders": (data,), "held_out": 0.0})
    (tmp_path / "config.toml").write_text(settings.to_toml())
    folder, port = tmp_path / "run", _free_port()
    command = [sys.executable, "-m", "r2n2.training", str(tmp_path / "config.toml"), "-o", str(folder), "--device", "cpu"]
    team = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment(rank, port)) for rank in range(2)]
    try:
        assert team[0].stderr is not None
        for line in team[0].stderr:
            if line.startswith("update 2 "):
                break
        team[1].send_signal(signal.SIGKILL)
        _, said = team[0].communicate(timeout=60)
        assert team[0].returncode == 4, said
        assert "process 0 of 2: another process is gone or silent" in said.splitlines()[-1]
        assert "--resume" in said.splitlines()[-1]
    finally:
        for process in team:
            process.kill()
            process.communicate()
    state = load_state(folder)
    assert state is not None
    assert state.step >= 2
    assert state.counters["processes"] == 2
    assert {name.split("/")[0] for name in state.tensors} == {"rank0", "rank1"}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"settings": {"batch": 3}}, "settings"),
        ({"seed": 1, "images": "x"}, "seed and images"),
    ],
)
def test_what_differs_between_processes_is_named_on_each(
    other: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"version": "1", "seed": 0, "settings": {"batch": 2}, "images": "abc"}
    sent: list[list[float]] = []
    both = [mine, {**mine, **other}]

    def largest(team: Processes, values: list[float]) -> list[float]:
        sent.append(values)
        return [max(a, b) for a, b in zip(sent[0], sent[-1], strict=True)]

    monkeypatch.setattr(Processes, "_largest", largest)
    Processes(0, 2).require_alike(**mine)  # both say the same
    for rank, facts in enumerate(both):
        # What the other one says is heard first.
        sent[:] = []
        with contextlib.suppress(ArgumentError):
            Processes(1 - rank, 2).require_alike(**both[1 - rank])
        with pytest.raises(ArgumentError, match=f"process {rank} of 2: .* the same {named}; give every one the same CONFIG"):
            Processes(rank, 2).require_alike(**facts)
    Processes.alone().require_alike(**mine)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs Linux or macOS")
def test_processes_that_were_started_with_something_else_all_end_and_say_so(tmp_path: Path) -> None:
    port, team = _free_port(), []
    for rank in range(2):
        image = torch.rand(1, 40, 33, generator=torch.Generator().manual_seed(rank))
        data = tmp_path / f"data{rank}.safetensors"
        save_data_file(data, TrainingData((RealSlice(image, None, (1.0, 2.0), "a", "a"),)))
        settings = make.config(
            5,
            steps=2 + rank,
            seed=rank,
            data={"folders": (data,), "held_out": 0.0},
        )
        (tmp_path / f"{rank}.toml").write_text(settings.to_toml())
        command = [sys.executable, "-m", "r2n2.training", str(tmp_path / f"{rank}.toml"), "-o", str(tmp_path / "run")]
        command += ["--device", "cpu"]
        team.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment(rank, port)))
    try:
        said = [process.communicate(timeout=60)[1] for process in team]
    finally:
        for process in team:
            process.kill()
            process.communicate()
    assert [process.returncode for process in team] == [2, 2], said
    for rank in range(2):
        assert f"process {rank} of 2: not all processes were started with the same seed and settings and images;" in said[rank]


def test_alone_there_is_nobody_to_ask() -> None:
    team = Processes.alone()
    assert team.leads
    assert team.agree_on(True, False) == (True, False)
    assert team.alike(3)
    assert team.gather({"a": torch.ones(1)})[0]["a"] == 1
    chunk = torch.nn.Linear(1, 1)
    assert team.wrap(chunk) is chunk
    team.leave()


def test_only_lost_connections_are_said_to_be_lost() -> None:
    team = Processes(1, 2)
    with pytest.raises(ResourceError, match=r"process 1 of 2: .* could not save together .*--resume"), team.together("save"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="shapes") as caught, team.together("save"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, ResourceError)
    with pytest.raises(RuntimeError, match="Connection") as caught, Processes.alone().together("save"):
        raise RuntimeError("Connection closed by peer")
    assert not isinstance(caught.value, ResourceError)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert team_of_environment("cpu") == Processes.alone()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert team_of_environment("cpu").world == 1


def test_others_that_cannot_be_reached_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ResourceError, match="process 0 of 2 cannot reach the others"):
        team_of_environment("cpu")


def test_a_process_that_ends_says_all_it_had_to_say() -> None:
    lines = (
        "import sys; from r2n2.training.processes import end_process",
        "print('a', end=''); print('b', end='', file=sys.stderr); end_process(5)",
    )
    program = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "a", "b")
