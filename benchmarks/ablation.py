"""Train small networks with one switch turned at a time and print what each is worth on validation patients.

usage: python benchmarks/ablation.py OUT [--minutes 3 | --updates 300] [--batch 4] [--seeds 1] [--variants all ...]
           [--data FILE_OR_FOLDER ...] [--markdown FILE] [--json FILE] [--figure FILE.png]

All variants see the same validation pairs, of patients that none is trained on; the patients of the benchmarks' test part are left
out altogether. Runs are kept in OUT, one folder a variant and seed: an ablation that was stopped goes on, a finished run is read.
With --minutes variants get the same time, with --updates the same number of updates, whatever one costs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import VALIDATION_PATIENTS, data_folder

from r2n2.config import NetworkConfig
from r2n2.simulation.engine import PairEngine
from r2n2.training.data.reading import TrainingData, load_data, split
from r2n2.training.loop import build_network
from r2n2.training.presets import preset
from r2n2.training.run import train
from r2n2.training.settings import DataConfig, Stage, TrainingConfig
from r2n2.training.validation import validate

TEST_PATIENTS = ("SCD0000101", "SCD0000301", "SC-HF-I-01", "SC-HF-I-04")
"""The contoured cine patients under the names of both data sets."""
_VALIDATION_SEED = 2**31 - 1
_VALIDATION_PAIRS = 48
_CONTOURED_PAIRS = 24
_ENDLESS = 1_000_000


def _changed(config: TrainingConfig, part: str, **values: Any) -> TrainingConfig:
    return config.model_copy(update={part: getattr(config, part).model_copy(update=values)})


def _no_least_squares(config: TrainingConfig) -> TrainingConfig:
    config = _changed(config, "network", least_squares_sizes=())
    return _changed(config, "objective", placement=0.0)


def _no_real_pairs(config: TrainingConfig) -> TrainingConfig:
    return _changed(config, "data", engine=config.data.engine.model_copy(update={"real_share": 0.0}))


def _unsupervised(config: TrainingConfig) -> TrainingConfig:
    """Likeness alone, whether the truth is known or not; the placement term needs it too."""
    return _changed(
        config,
        "objective",
        supervised=0.0,
        placement=0.0,
        similarity_with_truth=config.objective.similarity,
        roughness_with_truth=1.0,
    )


VARIANTS: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "all": lambda config: config,
    "untrained": lambda config: config,
    "no least squares": _no_least_squares,
    "no supervised term": _unsupervised,
    "no placement term": lambda config: _changed(config, "objective", placement=0.0),
    "weak placement term": lambda config: _changed(config, "objective", placement=0.05),
    "no roughness terms": lambda config: _changed(config, "objective", diffusion=0.0, folding=0.0),
    "no real pairs": _no_real_pairs,
    "whole sequences": lambda config: config.model_copy(update={"chunk": 0, "groups": 1}),
    "gradients through images": lambda config: config.model_copy(update={"through_images": True}),
    "whole, through images": lambda config: config.model_copy(update={"chunk": 0, "groups": 1, "through_images": True}),
    "no averaging": lambda config: _changed(config, "optimiser", averaging=0.0),
}
"""What is changed from ``all``, the settings called general with a smaller network."""


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    variant: str
    seed: int
    updates: int
    minutes: float
    numbers: dict[str, float]


def base_config(arguments: argparse.Namespace, seed: int) -> TrainingConfig:
    """The settings of ``all``; no decay, as a run that ends by the clock does not know how long it will be."""
    general = preset("general")
    network = NetworkConfig(**(general.network.model_dump() | {"channels": tuple(arguments.channels)}))
    optimiser = general.optimiser.model_copy(update={"warmup": 20, "decay": "none", "averaging": 0.98})
    size = general.stages[-1].working_size
    updates = arguments.updates or _ENDLESS
    return general.model_copy(
        update={
            "seed": seed,
            "network": network,
            "optimiser": optimiser,
            "batch": arguments.batch,
            "stages": (Stage(updates=updates, working_size=size, steps=arguments.steps),),
            "minutes": None if arguments.updates else arguments.minutes,
            "data": DataConfig(engine=general.data.engine, held_out=tuple(arguments.held_out)),
            "validate_minutes": 1e6,
            "save_minutes": 1.0,
        }
    )


def run(variant: str, seed: int, arguments: argparse.Namespace, data: TrainingData) -> Outcome:
    """Train one variant, or read what it came to."""
    folder = arguments.out / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    kept = folder / "outcome.json"
    if kept.exists():
        return Outcome(**json.loads(kept.read_text(encoding="utf-8")))
    # Checked anew: copies with other values are not.
    config = TrainingConfig.parse(VARIANTS[variant](base_config(arguments, seed)).model_dump())
    if variant == "untrained":
        _, held = split(data, held_out=config.data.held_out, seed=config.seed)
        batch = PairEngine(held.slices, [], config.data.engine, seed=_VALIDATION_SEED).batch(0, _VALIDATION_PAIRS, config.data_size)
        found = validate(build_network(config).eval(), batch, held.contoured[:_CONTOURED_PAIRS], steps=config.stages[-1].steps)
        outcome = Outcome(variant, seed, 0, 0.0, found.numbers())
    else:
        last, seconds = None, 0.0
        for last in train(config, folder, data, resume=True, device=arguments.device):
            seconds = last.seconds if last.validation is None else seconds  # without the time to validate
            if last.step.update % 25 == 0:
                print(f"\r{variant}, seed {seed}: update {last.step.update}, {last.seconds / 60:.1f} min ", end="", flush=True)
        if last is None or last.validation is None:
            raise SystemExit(f"{folder}: holds a run that ended without a validation; remove it and start again")
        outcome = Outcome(variant, seed, last.step.update, seconds / 60, last.validation.numbers())
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    error = outcome.numbers["error_percent"]
    print(
        f"\r{variant}, seed {seed}: {outcome.updates} updates, {outcome.minutes:.1f} min, error {error:.3f} % of the side",
        flush=True,
    )
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """Markdown; with several seeds means, and for the error its standard deviation."""
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    full = [outcome.numbers["error_percent"] for outcome in outcomes if outcome.variant == "all"]
    lines = [
        "| variant | updates | minutes | error, % of side | against all | correlation | folding % | Dice |",
        "|" + "---|" * 8,
    ]
    before = {name: outcomes[0].numbers[f"{name}_before"] for name in ("correlation", "dice")}
    error = outcomes[0].numbers["error_before_percent"]
    lines.append(f"| nothing | | | {error:.3f} | | {before['correlation']:.4f} | 0 | {before['dice']:.3f} |")
    for variant in variants:
        here = [outcome for outcome in outcomes if outcome.variant == variant]
        means = {name: float(np.mean([outcome.numbers[name] for outcome in here])) for name in here[0].numbers}
        spread = f" ± {np.std([outcome.numbers['error_percent'] for outcome in here], ddof=1):.3f}" if len(here) > 1 else ""
        against = f"{means['error_percent'] / np.mean(full):.2f}" if full else ""
        lines.append(
            f"| {variant} | {np.mean([o.updates for o in here]):.0f} | {np.mean([o.minutes for o in here]):.1f} "
            f"| {means['error_percent']:.3f}{spread} | {against} | {means['correlation']:.4f} "
            f"| {means['folding_percent']:.4f} | {means['dice']:.3f} |"
        )
    return "\n".join(lines)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Bars of the validation error, a dot each seed."""
    import matplotlib
    from learning_curves import COLOURS, STYLE
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    errors = {v: [o.numbers["error_percent"] for o in outcomes if o.variant == v] for v in variants}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 0.6 + 0.24 * len(variants)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(variants))[::-1]
        colours = [COLOURS[1] if variant == "all" else COLOURS[0] for variant in variants]
        axes.barh(places, [np.mean(errors[v]) for v in variants], height=0.65, color=colours, alpha=0.75)
        for place, variant in zip(places, variants, strict=True):
            if len(errors[variant]) > 1:
                axes.plot(errors[variant], [place] * len(errors[variant]), "k.", markersize=3)
            axes.annotate(
                f"{np.mean(errors[variant]):.2f}", (max(errors[variant]), place), (3, 0), textcoords="offset points", va="center"
            )
        before = outcomes[0].numbers["error_before_percent"]
        if math.isfinite(before):
            axes.axvline(before, color="0.5", linestyle="--", linewidth=0.8)
            axes.annotate(
                "no registration", (before, 1), (-2, 2), ("data", "axes fraction"), "offset points", ha="right", color="0.4"
            )
        axes.set_yticks(places, variants)
        axes.set_xlabel("validation error, % of the side")
        axes.set_xlim(0, 1.12 * max(before, *(max(values) for values in errors.values())))
        figure.savefig(path, dpi=300)


def data_of(arguments: argparse.Namespace) -> TrainingData:
    """What to train on: what was given, or the outlined cine pictures of the folder of real series."""
    if arguments.data:
        return load_data(arguments.data, exclude_patients=TEST_PATIENTS)
    root = data_folder() / "sunnybrook-edes-png" / "Data" / "Train"
    return load_data([root / "Images"], masks=root / "Labels", phases=20, exclude_patients=TEST_PATIENTS, cache=arguments.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--updates", type=int, default=None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25, help="length of a sequence")
    parser.add_argument("--channels", type=int, nargs=4, default=[8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--data", type=Path, nargs="+", default=None, help="folders of series or data files to train on")
    parser.add_argument("--held-out", nargs="+", default=list(VALIDATION_PATIENTS), help="patients to validate on")
    for name in ("markdown", "json", "figure"):
        parser.add_argument(f"--{name}", type=Path, default=None, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = data_of(arguments)
    outcomes: list[Outcome] = []
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            outcomes.append(run(variant, seed, arguments, data))
            if arguments.markdown:
                arguments.markdown.write_text(table(outcomes) + "\n", encoding="utf-8")
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1), encoding="utf-8")
    print("\n" + table(outcomes))
    if arguments.figure:
        draw(outcomes, arguments.figure)


if __name__ == "__main__":
    main()
