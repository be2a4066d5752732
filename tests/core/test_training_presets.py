"""Every preset, in small, all the way: settings as a file, data, training, validation, weights, a registration by them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from r2n2.cli import main
from r2n2.geometry import Grid
from r2n2.io import write_series
from r2n2.network.checkpoint import load_network, read_manifest
from r2n2.series import ImageSeries
from r2n2.training import run as run_module
from r2n2.training.presets import PRESETS, preset
from r2n2.training.settings import Stage, TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, OTHER = 32, 40
STEPS = 3


def _small(name: str) -> TrainingConfig:
    """The preset with a few channels, small squares and one update of its first, middle and last stage."""
    settings = preset(name)
    last = settings.stages[-1]
    picked = dict.fromkeys((0, len(settings.stages) // 2, len(settings.stages) - 1))
    stages = tuple(
        Stage(
            **stage.model_dump(exclude={"updates", "working_size", "steps"}),
            updates=1,
            working_size=SIZE if stage.working_size == last.working_size else OTHER,
            steps=min(stage.steps, STEPS),
        )
        for stage in (settings.stages[k] for k in picked)
    )
    sizes = (SIZE, 48)[: len(settings.network.least_squares_sizes)]
    network = {"channels": (4, 4, 6, 6), "working_size": SIZE, "least_squares_sizes": sizes}
    begun, ended = settings.data.thorax_seeds
    return settings.model_copy(
        update={
            "network": settings.network.model_copy(update=network),
            "stages": stages,
            "data": settings.data.model_copy(
                update={"held_out": ("b",), "thorax_seeds": (begun, min(ended, begun + 1)), "thorax_frames": 1}
            ),
            "batch": 2,
            "chunk": min(settings.chunk, 2),
            "groups": min(settings.groups, 2),
            "data_size": 48,
            "validation_steps": settings.validation_steps and STEPS,
        }
    )


def _series(folder: Path) -> Path:
    """A spot that moves, on pixels that are not square."""
    y, x = np.mgrid[:34, :49]
    stack = np.stack([100 + 800 * np.exp(-((y - 15 - t) ** 2) / 40 - (x - 25) ** 2 / 150) + 2 * x for t in range(4)])
    folder.mkdir(parents=True)
    series = ImageSeries(stack[:, None], Grid((34, 49), (2.0, 1.5)), source={"format": "mha", "path": str(folder / "s.mha")})
    write_series(folder, "s", series, (series.frame(k) for k in range(4)))
    return folder / "s.mha"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_from_data_to_a_registration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_VALIDATION_PAIRS", 2)
    monkeypatch.setattr(run_module, "can_draw", lambda: False)
    series, _ = _series(tmp_path / "data" / "a"), _series(tmp_path / "data" / "b")
    settings, file, folder, result = _small(name), tmp_path / "small.toml", tmp_path / "run", tmp_path / "result"
    file.write_text(settings.to_toml(), encoding="utf-8")
    assert main(["train", str(file), "--data", str(tmp_path / "data"), "-o", str(folder), "--device", "cpu", "--quiet"]) == 0

    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    errors = [line["validation/error_percent"] for line in lines if "validation/error_percent" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert errors
    assert all(math.isfinite(number) for number in errors + losses)
    assert max(line.get("step", 0) for line in lines) == len(settings.stages)

    weights = folder / "weights.safetensors"
    assert read_manifest(weights).config == settings.network
    trained = load_network(weights).state_dict()
    assert all(bool(value.isfinite().all()) for value in trained.values())
    options = ["--method", "r2n2", "--no-refine", "--steps", str(STEPS), "--weights", str(weights), "--device", "cpu", "--quiet"]
    assert main(["register", str(series), "-o", str(result), "--reference", "0", *options]) == 0
    rows = list(csv.DictReader((result / "sequence.csv").read_text().splitlines()))
    frames = list(csv.DictReader((result / "metrics.csv").read_text().splitlines()))
    assert len(frames) == 4
    assert {row["status"] for row in frames} <= {"reference", "ok", "doubtful", "worse"}
    assert all(math.isfinite(float(row[column])) for row in rows for column in ("y_mm", "x_mm", "vy_mm", "vx_mm"))
    kept = [row for row in frames if row["status"] in ("ok", "doubtful")]
    assert len(rows) <= STEPS * len(kept)
