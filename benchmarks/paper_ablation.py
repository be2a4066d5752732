"""What each part of the recipe for the paper's network is worth: the same short training with one part changed at a time.

usage: python benchmarks/paper_ablation.py OUT --data FILE... --people NAME... [--stages 120x2,80x3]

The error is the mean distance to the true displacement over all pixels, in mm, on all pairs of those people, who are held out, on
squares of 64 pixels. OUT keeps the runs; those that are finished are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from paper_curve import errors, held_out

from r2n2.network.checkpoint import load_network
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.training.data.reading import load_data
from r2n2.training.presets import preset
from r2n2.training.run import train
from r2n2.training.settings import Stage, TrainingConfig
from r2n2.training.state import load_state

SIZE = 64


def with_network(**changes: object) -> Callable[[TrainingConfig], TrainingConfig]:
    return lambda config: config.model_copy(update={"network": config.network.model_copy(update=changes)})


def without_truth(config: TrainingConfig) -> TrainingConfig:
    return config.model_copy(update={"stages": tuple(stage.model_copy(update={"truth": False}) for stage in config.stages)})


VARIANTS: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "recipe": lambda config: config,
    "torch's initialisation": lambda config: config.model_copy(update={"initialisation": "plain"}),
    "amplitudes in [-1, 1]": with_network(amplitude_scale=1.0),
    "images alone, no truth": without_truth,
    "with noise and dropconnect": with_network(keep_probability=0.5),
    "all of these: as published": lambda config: with_network(amplitude_scale=1.0, keep_probability=0.5)(
        without_truth(config).model_copy(update={"initialisation": "plain"})
    ),
}


def recipe(stages: str, folders: list[Path], people: list[str]) -> TrainingConfig:
    parts = [tuple(map(int, part.split("x"))) for part in stages.split(",")]
    config = preset("paper")
    data = config.data.model_copy(update={"folders": tuple(folders), "held_out": tuple(people), "thorax_seeds": (0, 0)})
    return config.model_copy(
        update={
            "data": data,
            "network": config.network.model_copy(update={"working_size": SIZE, "keep_probability": 1.0}),
            "stages": tuple(Stage(updates=updates, working_size=SIZE, steps=steps) for updates, steps in parts),
            "validation_steps": 1,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--people", nargs="+", required=True)
    parser.add_argument("--stages", default="120x2,80x3", help="updates x steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs, truth, unit = held_out(given.data, given.people, SIZE)
    longest = int(given.stages.rpartition("x")[2])
    print("| variant | updates | minutes | skipped | error before, mm | after, mm |\n|---|---|---|---|---|---|", flush=True)
    for name, change in VARIANTS.items():
        config = change(recipe(given.stages, given.data, given.people))
        folder = given.out / name.replace(" ", "-").replace("'", "").replace(":", "").replace(",", "")
        for _ in train(config, folder, load_data(given.data), resume=True, device="cpu"):
            pass
        state = load_state(folder)
        network = load_network(folder / "weights.safetensors").eval()
        found = errors(RecurrentMethod(network, steps=longest), pairs, truth, every_step=True)
        print(
            f"| {name} | {state.step} | {state.elapsed_s / 60:.1f} | {state.counters['skipped']} "
            f"| {unit * found[0]:.2f} | {unit * found[-1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
