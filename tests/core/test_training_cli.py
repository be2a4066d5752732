"""``r2n2 train`` and ``r2n2 adapt``: what they refuse, leave behind and say, and how signals end them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r2n2.cli import main
from r2n2.config import NetworkConfig
from r2n2.geometry import Grid
from r2n2.io import write_series
from r2n2.network.checkpoint import load_network, read_manifest, save_network
from r2n2.network.r2n2 import R2N2
from r2n2.series import ImageSeries
from r2n2.training import adapt as adapt_module
from r2n2.training import run as run_module
from r2n2.training.adapt import Adapting, Score
from r2n2.training.data.thorax import write_thorax_data
from r2n2.training.presets import preset
from r2n2.training.settings import Stage, TrainingConfig
from r2n2.training.state import load_state

NETWORK = NetworkConfig(channels=(4, 4, 6, 6), working_size=32, keep_probability=0.8)

CONFIG = """
name = "tiny"
batch = 1
data_size = 32
[network]
channels = [4, 4, 6, 6]
working_size = 32
[[stages]]
updates = 4
working_size = 32
steps = 2
[data]
held_out = 0.0
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_VALIDATION_PAIRS", 2)
    monkeypatch.setattr(run_module, "can_draw", lambda: False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two patients, a moving spot each."""
    y, x = np.mgrid[:34, :49]
    for name in "ab":
        stack = np.stack([100 + 800 * np.exp(-((y - 15 - t) ** 2) / 40 - (x - 25) ** 2 / 150) for t in range(4)])
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        series = ImageSeries(stack[:, None], Grid((34, 49), (2.0, 1.5)), source={"format": "mha", "path": str(folder / "s.mha")})
        write_series(folder, "s", series, (series.frame(k) for k in range(4)))
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text(CONFIG)
    return str(tmp_path / "config.toml")


def _run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_train_leaves_weights_and_says_how_to_use_them(
    data: Path, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    assert _run("train", config, "--data", data, "-o", folder, "--device", "cpu", "--exclude", "b", "--seed", 3) == 0
    captured = capsys.readouterr()
    assert f"r2n2 register SERIES -o RESULT --method r2n2 --weights '{folder}/weights.safetensors'" in captured.out
    assert "4 of 4" in captured.out
    assert "1 patients" in captured.err
    assert "updates/s" in captured.err
    assert "no patient is held out" in captured.err.replace("\n", " ")
    assert load_network(folder / "weights.safetensors").config.channels == (4, 4, 6, 6)
    settings = TrainingConfig.from_toml(folder / "config.toml")
    assert (settings.seed, settings.data.exclude, settings.data.folders) == (3, ("b",), (data,))
    assert (folder / "journal.jsonl").is_file()
    assert _run("train", config, "--data", data, "-o", folder) == 2
    assert "holds a training run; give --resume" in _said(capsys)
    assert _run("train", "--resume", "-o", folder, "--device", "cpu") == 0
    assert "nothing to do" in _said(capsys)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_update_and_saves(
    number: int,
    code: int,
    data: Path,
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    plain = run_module.Trainer.make_update

    def interrupted(trainer: Any) -> Any:
        if trainer.update == 1:
            signal.raise_signal(number)
        return plain(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Trainer, "make_update", interrupted)
        assert _run("train", config, "--data", data, "-o", folder, "--device", "cpu", "--quiet") == code
    state = load_state(folder)
    assert state is not None
    assert state.step == 2
    captured = capsys.readouterr()
    assert f"go on with: r2n2 train --resume -o {folder}" in captured.out
    assert "(not validated yet)" in captured.out
    assert captured.err == f"r2n2: stopped by {signal.Signals(number).name}\n"
    load_network(folder / "weights.safetensors")
    assert _run("train", "--resume", "-o", folder, "--device", "cpu", "-q") == 0
    whole = tmp_path / "whole"
    assert _run("train", config, "--data", data, "-o", whole, "--device", "cpu", "-q") == 0
    one, other = (load_network(path / "weights.safetensors").state_dict() for path in (folder, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_what_train_refuses(data: Path, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, message in (
        (["--data", data], 2, "--output: no folder is given"),
        ([config, "-o", tmp_path / "new"], 2, "--data: no folder is given"),
        ([tmp_path / "none.toml", "--data", data, "-o", tmp_path / "new"], 2, "none.toml: no such file"),
        ([config, "--preset", "paper", "--data", data, "-o", tmp_path / "new"], 2, "--preset paper: the settings come from"),
        (["--preset", "papper", "--data", data, "-o", tmp_path / "new"], 2, "choose paper, paper-gpu, paper-as-published, general"),
        ([config, "--data", tmp_path / "absent", "-o", tmp_path / "new"], 3, "absent: no such file or folder"),
        ([config, "--data", data, "-o", tmp_path / "new", "--device", "tpu"], 4, "device: 'tpu' is not known"),
        ([config, "--data", data, "-o", tmp_path / "new", "--minutes", -1], 2, "minutes"),
        ([config, "--data", data, "-o", tmp_path / "new", "--exclude", "a", "--exclude", "b"], 3, "nothing to train from"),
    ):
        assert _run("train", *arguments) == code, message
        said = _said(capsys)
        assert message in said
        assert "Traceback" not in said
    assert not (tmp_path / "new").exists()


def test_the_settings_can_be_written_and_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my settings.toml"
    assert _run("train", "--preset", "paper", "--minutes", 90, "--data", tmp_path, "--write-config", file) == 0
    assert "r2n2 train" in _said(capsys)
    found = TrainingConfig.from_toml(file)
    data = preset("paper").data.model_copy(update={"folders": (tmp_path,)})
    assert found == preset("paper").model_copy(update={"minutes": 90.0, "data": data})
    assert _run("train", "--write-config", file) == 2
    assert "exists already" in _said(capsys)
    other = tmp_path / "general.toml"
    assert _run("train", "--write-config", other) == 0
    assert TrainingConfig.from_toml(other) == preset("general")


def test_training_begins_with_given_weights(
    data: Path, config: str, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    # With a step size this small nothing is learnt.
    still = tmp_path / "still.toml"
    still.write_text(Path(config).read_text() + "[optimiser]\nlearning_rate = 1e-30\n")
    assert _run("train", still, "--init", weights, "--data", data, "-o", folder, "--device", "cpu", "-q") == 0
    one, other = load_network(folder / "weights.safetensors"), load_network(weights)
    assert all(torch.allclose(value, other.state_dict()[name], atol=1e-20) for name, value in one.state_dict().items())
    assert one.config.keep_probability == 0.5
    assert read_manifest(folder / "weights.safetensors").info["init"] == weights.name
    # Gone on with, it takes its own weights.
    weights.unlink()
    assert _run("train", "--resume", "-o", folder, "--device", "cpu", "-q") == 0
    capsys.readouterr()
    save_network(weights, R2N2(NETWORK.model_copy(update={"amplitude_scale": 0.5})))
    assert _run("train", config, "--init", weights, "--data", data, "-o", tmp_path / "new", "--device", "cpu") == 2
    assert "amplitude_scale 0.5 where the settings have 1.0" in _said(capsys)


def test_a_cache_is_used_again(data: Path, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    for name in ("one", "two"):
        assert _run("train", config, "--data", data, "-o", tmp_path / name, "--cache", cache, "--device", "cpu") == 0
        reading = "reading" in capsys.readouterr().err
        assert reading == (name == "one")
    assert len(list(cache.iterdir())) == 1


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "start.safetensors", R2N2(NETWORK))
    return tmp_path / "start.safetensors"


def _adapting(better: bool) -> Any:
    def adapt(series: ImageSeries, network: R2N2, **options: Any) -> Any:
        assert len(series) == 4
        assert (options["seconds"], options["reference"], options["device"], options["seed"]) == (30.0, 2, "cpu", 7)
        start = Score(0.9, 0.0)
        yield Adapting(0.1, 0, float("nan"), start, start, network, True, ("frame 9 is not used",))
        best = Score(0.95, 0.0) if better else start
        if better:
            with torch.no_grad():
                network.entry.bias.add_(1)
        yield Adapting(0.2, 1, 0.5, start, best, network, True)
        if options["stop"]():
            return
        yield Adapting(0.3, 2, 0.4, start, best, network, True)

    return adapt


@pytest.mark.parametrize("better", [True, False])
def test_adapt_writes_the_best_weights(
    better: bool, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapt_module, "adapt", _adapting(better))
    output = tmp_path / "adapted.safetensors"
    options = ["--weights", weights, "--minutes", 0.5, "--reference", 2, "--seed", 7, "--device", "cpu"]
    assert _run("adapt", data / "a" / "s.mha", "-o", output, *options) == 0
    captured = capsys.readouterr()
    assert ("nothing better was found" in captured.out) == (not better)
    assert ("0.9000 -> 0.9500" in captured.out) == better
    assert f"--weights {output}" in captured.out.replace("\n", " ")
    assert "frame 9 is not used" in captured.err
    change = load_network(output).state_dict()["entry.bias"] - load_network(weights).state_dict()["entry.bias"]
    assert torch.allclose(change, torch.full_like(change, float(better)))
    info = read_manifest(output).info
    assert info["started_from"] == read_manifest(weights).sha256
    assert info["updates"] == "2"


def test_adapt_interrupted_keeps_what_it_has(data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def adapt(*arguments: Any, **options: Any) -> Any:
        for number, step in enumerate(_adapting(True)(*arguments, **options)):
            yield step
            if number == 0:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(adapt_module, "adapt", adapt)
    output = tmp_path / "adapted.safetensors"
    options = ["--weights", weights, "--minutes", 0.5, "--reference", 2, "--seed", 7, "--device", "cpu"]
    assert _run("adapt", data / "a" / "s.mha", "-o", output, *options) == 130
    assert read_manifest(output).info["updates"] == "1"


def test_what_adapt_refuses(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = data / "a" / "s.mha"
    for arguments, code, message in (
        ([series, "-o", tmp_path / "new.pt"], 2, "written as .safetensors only"),
        ([series, "-o", weights, "--weights", weights], 2, "exists already; give --overwrite"),
        ([series, "-o", tmp_path / "absent" / "new.safetensors"], 2, "does not exist; make it first"),
        ([series, "-o", tmp_path / "new.safetensors", "--minutes", 0], 2, "--minutes: must be positive"),
        ([series, "-o", tmp_path / "new.safetensors", "--reference", "first"], 2, "--reference: expected auto"),
        ([tmp_path / "none.mha", "-o", tmp_path / "new.safetensors", "--weights", weights], 3, "none.mha"),
        ([tmp_path / "none.mha", "-o", tmp_path / "CON.safetensors"], 2, "output name 'CON.safetensors'"),
        ([tmp_path / "none.mha", "-o", tmp_path / "new.safetensors", "--device", "cpu:3"], 4, "choose cpu"),
    ):
        assert _run("adapt", *arguments) == code, message
        assert message in _said(capsys)
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("command", ["train", "adapt"])
def test_where_nothing_can_be_written_nothing_is_read(
    command: str, data: Path, config: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refused(path: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    arguments = {
        "train": ["train", config, "--data", data, "-o", tmp_path / "new"],
        "adapt": ["adapt", data / "a" / "s.mha", "--weights", weights, "-o", tmp_path / "new.safetensors"],
    }[command]
    monkeypatch.setattr(Path, "write_bytes", refused)
    monkeypatch.setattr("r2n2.io.dispatch.read_series", lambda *_, **__: pytest.fail("read"))
    assert _run(*arguments) == 4
    assert "read-only or not yours" in _said(capsys)


_BLOCKED = """
import importlib.abc, pathlib, sys
needed = {"torch", "numpy", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "safetensors"}
needed |= {"sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "packaging", "torchgen", "functorch"}
places = [pathlib.Path(place) for place in sys.path if place.endswith("-packages")]
installed = {path.name.split(".")[0].split("-")[0] for place in places for path in place.iterdir()}
blocked = {name for name in installed - needed if not name.startswith(("r2n2", "setuptools", "_distutils", "__editable__"))}
finders = list(sys.meta_path)
class Some(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            return None
        return next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)
sys.meta_path[:] = [Some()]
for name in ("typer", "rich", "scipy", "skimage", "tifffile", "matplotlib"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} was not blocked")
import r2n2.training, r2n2.training.run
from r2n2.training.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_bare_machine_can_train(config: str, tmp_path: Path) -> None:
    """With torch, numpy, pydantic and safetensors alone, from a data file."""
    from r2n2.simulation.slices import RealSlice
    from r2n2.training.data.contents import TrainingData
    from r2n2.training.data.file import save_data_file

    image = torch.rand(1, 40, 33, generator=torch.Generator().manual_seed(0))
    save_data_file(tmp_path / "s.safetensors", TrainingData((RealSlice(image, None, (1.0, 2.0), "a", "a"),)))
    with open(config, "a") as file:
        file.write(f"folders = ['{tmp_path / 's.safetensors'}']\n")
    command = [sys.executable, "-c", _BLOCKED, config, "-o", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "update 4 of 4" in done.stderr
    load_network(tmp_path / "run" / "weights.safetensors")


def test_the_commands_are_light_to_import() -> None:
    code = "import r2n2.cli, sys; print(sorted(set(sys.modules) & {'torch', 'numpy', 'matplotlib', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_command_by_preset_goes_on_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine that is lent for minutes repeats: as many updates as fit in, then the same again."""
    from r2n2.training import presets
    from r2n2.training.__main__ import main as train_main

    write_thorax_data(tmp_path / "people.safetensors", range(1000, 1002), pairs=1, size=32, acquisitions=False)
    small = presets.preset("paper-gpu")
    stages = (Stage(updates=1, working_size=32, steps=2), Stage(updates=1, working_size=32, steps=3, truth=False))
    network = small.network.model_copy(update={"channels": (4, 4, 6, 6), "working_size": 32})
    changes = {"network": network, "stages": stages, "batch": 1, "data_size": 32, "validation_steps": 2}
    monkeypatch.setitem(presets.PRESETS, "paper-gpu", lambda: small.model_copy(update=changes))
    command = ["--preset", "paper-gpu", "--data", str(tmp_path / "people.safetensors"), "--held-out", "thorax-1001"]
    command += ["-o", str(tmp_path / "run"), "--resume", "--device", "cpu", "--minutes", "1e-9"]
    for done in (1, 2, 2):
        assert train_main(command) == 0
        state = load_state(tmp_path / "run")
        assert state is not None
        assert state.step == done
    settings = TrainingConfig.from_toml(tmp_path / "run" / "config.toml")
    # Where a bare machine could not write them, the checkpoint tells them.
    (tmp_path / "run" / "config.toml").unlink()
    assert main(["train", "--resume", "-o", str(tmp_path / "run"), "--device", "cpu", "-q"]) == 0
    assert TrainingConfig.from_toml(tmp_path / "run" / "config.toml") == settings
    assert settings.data.held_out == ("thorax-1001",)
    assert (settings.recompute, settings.precision) == (True, "bfloat16")
    assert train_main(["--data", "people.safetensors", "-o", str(tmp_path / "other")]) == 2


def test_the_recipe_for_a_gpu_ends_as_published_on_the_papers_squares() -> None:
    recipe = preset("paper-gpu")
    last, published = recipe.stages[-1], preset("paper-as-published")
    assert (last.steps, last.working_size, last.truth) == (25, 256, False)
    assert recipe.network.keep_probability == published.network.keep_probability == 0.5
    assert recipe.chunk == 0
    assert recipe.objective.total_variation == published.objective.total_variation
