"""Draw the learning curves of training runs: loss, error on the training stream, error on validation patients.

usage: python benchmarks/learning_curves.py FIGURE.png RUN [RUN ...] [--against updates|minutes] [--title TEXT] [--bspline]

RUN is a folder of `r2n2 train`, its journal.jsonl, or a log.jsonl of one object a line with update, min, loss, rel and val;
NAME=RUN gives it a name. Faint lines are what was logged, firm ones its running mean. A log in
which the updates begin anew is taken as going on from the weights before. Only quantities that some run has are drawn. --bspline
registers each run's validation pairs by B-splines, minutes a run, and draws their error as a dotted line; needs the data.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.config import BSplineConfig
from r2n2.registration import BSplineMethod
from r2n2.training.chunk import square_pairs
from r2n2.training.data.contents import split
from r2n2.training.data.reading import load_data
from r2n2.training.journal import read_journal
from r2n2.training.run import validation_batch
from r2n2.training.settings import TrainingConfig
from r2n2.training.validation import displacements, error_percent

# Okabe and Ito's colours, told apart by nearly everybody.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.3,
}
PANEL_IN = (2.5, 2.3)


@dataclass(frozen=True)
class Panel:
    """One quantity: its names in logs, the axis, whether it is a validation's, its name before any registration."""

    names: tuple[str, ...]
    label: str
    validation: bool = False
    before: str = ""
    logarithmic: bool = False


PANELS = (
    Panel(("loss",), "loss (each its own)", logarithmic=True),
    Panel(("relative_error", "rel"), "relative error, training", logarithmic=True),
    Panel(
        ("validation/error_percent",),
        "validation error, % of side",
        validation=True,
        before="validation/error_before_percent",
        logarithmic=True,
    ),
    Panel(("val/tre",), "validation TRE, mm", validation=True, logarithmic=True),
    Panel(("validation/dice", "val/dice"), "validation Dice", validation=True, before="validation/dice_before"),
)


@dataclass(frozen=True)
class Run:
    """The numbers of one run: for each quantity its updates, minutes and values."""

    name: str
    curves: dict[str, np.ndarray]
    """(N, 3) an entry."""
    spline: float | None = None
    """The B-spline's error on the run's validation pairs, % of the side."""

    def curve(self, panel: Panel) -> np.ndarray | None:
        """(N, 3) of a panel's quantity, if the run has it."""
        return next((self.curves[name] for name in panel.names if name in self.curves), None)


def read_run(text: str) -> Run:
    """A run as given on the command line."""
    name, equals, place = text.rpartition("=")
    path = Path(place)
    name = name if equals else path.resolve().parent.name
    if path.is_dir():
        name = name if equals else path.resolve().name
        path = path / ("journal.jsonl" if (path / "journal.jsonl").exists() else "log.jsonl")
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give the folder of a run")
    lines = _plain_log(path) if path.name == "log.jsonl" else _journal(path)
    points: dict[str, list[tuple[float, float, float]]] = {}
    for update, minutes, quantities in lines:
        for key, value in quantities.items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(key, []).append((update, minutes, value))
    if not points:
        raise SystemExit(f"{path}: holds no numbers; give the folder of a run that has begun")
    return Run(name, {key: np.array(values) for key, values in points.items()})


def spline_error(folder: Path) -> float:
    """Error of the B-spline on the pairs that a run is validated on, % of the side of the frame."""
    config = TrainingConfig.from_toml(folder / "config.toml")
    source = config.data
    data = load_data(source.folders, exclude_patients=source.exclude, masks=source.masks, phases=source.phases, axes=source.axes)
    _, held = split(data, held_out=source.held_out, seed=config.seed)
    batch = validation_batch(config, held)
    return error_percent(displacements(BSplineMethod(BSplineConfig()), square_pairs(batch)), batch)


def _journal(path: Path) -> Iterator[tuple[float, float, dict[str, Any]]]:
    minutes = 0.0
    for line in read_journal(path):
        if line["kind"] == "scalars":
            # A validation's line bears no time of its own: that of the line before.
            minutes = line.get("minutes", minutes)
            yield line["step"], minutes, {k: v for k, v in line.items() if k not in ("step", "kind", "unix_s", "minutes")}


def _plain_log(path: Path) -> Iterator[tuple[float, float, dict[str, Any]]]:
    """Lines of a log to which several runs may have been added, each beginning with the weights of the one before."""
    last, done = (0.0, 0.0), (0.0, 0.0)
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        found = line.pop("val", {})
        # Where a validation failed its message stands in place of the numbers.
        scores = {f"val/{key}": value for key, value in found.items()} if isinstance(found, dict) else {}
        here = (line.pop("update"), line.pop("min"))
        if here[0] < last[0]:
            done = (done[0] + last[0], done[1] + last[1])
        last = here
        yield done[0] + here[0], done[1] + here[1], line | scores


def running_mean(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Mean over a window of that share of the curve, narrower at its ends so that it stays centred."""
    reach = max(1, round(share * len(values) / 2))
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    near = np.minimum(reach, np.minimum(index, len(values) - 1 - index))
    return (total[index + near + 1] - total[index - near]) / (2 * near + 1)


def draw(runs: list[Run], figure_path: Path, *, against: str, title: str) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(run.curve(panel) is not None for run in runs)]
    column = 0 if against == "updates" else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL_IN[0] * len(panels), PANEL_IN[1]), layout="constrained")
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            _draw_panel(axes, panel, runs, column)
            axes.set_xlabel("updates" if column == 0 else "minutes of training")
            axes.set_title(f"{chr(ord('a') + number)}", loc="left", fontweight="bold")
        handles, names = figure.axes[0].get_legend_handles_labels()
        if len(runs) > 1:
            figure.legend(handles, names, loc="outside lower center", ncols=min(len(runs), 6), frameon=False)
        if title:
            figure.suptitle(title, fontsize=9)
        figure.savefig(figure_path, dpi=300)


def _draw_panel(axes: Any, panel: Panel, runs: list[Run], column: int) -> None:
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        curve = run.curve(panel)
        if curve is None:
            axes.plot([], [], color=colour, label=run.name)
            continue
        place, values = curve[:, column], curve[:, 2]
        if panel.validation:
            axes.plot(place, values, "o-", color=colour, markersize=2.5, label=run.name)
        else:
            axes.plot(place, values, color=colour, alpha=0.25, linewidth=0.6)
            axes.plot(place, running_mean(values), color=colour, label=run.name)
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        if run.spline is not None and "validation/error_percent" in panel.names:
            _draw_level(axes, run.spline, f"B-spline, pairs of {run.name}", colour, ":")
        if panel.before in run.curves:
            _draw_level(axes, run.curves[panel.before][-1, 2], f"no registration, {run.name}", colour, "--")
    if panel.logarithmic and all(run.curve(panel) is None or (run.curve(panel)[:, 2] > 0).all() for run in runs):
        from matplotlib.ticker import LogLocator, StrMethodFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
    axes.set_xlim(0, 1.03 * max(curve[-1, column] for run in runs for curve in run.curves.values()))
    axes.set_ylabel(panel.label)
    axes.grid(axis="y")


def _draw_level(axes: Any, value: float, name: str, colour: str, style: str) -> None:
    """A level across the panel: runs are validated on pairs of their own, so each has its own."""
    axes.axhline(value, color=colour, linestyle=style, linewidth=0.9)
    axes.annotate(name, (1, value), (0, 2), ("axes fraction", "data"), "offset points", ha="right", color=colour, fontsize=6)


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--against", choices=["updates", "minutes"], default="updates")
    parser.add_argument("--title", default="")
    parser.add_argument("--bspline", action="store_true", help="draw the B-spline's error on the validation pairs as well")
    arguments = parser.parse_args()
    runs = [read_run(run) for run in arguments.runs]
    if arguments.bspline:
        folders = [Path(run.rpartition("=")[2]) for run in arguments.runs]
        runs = [replace(run, spline=spline_error(folder)) for run, folder in zip(runs, folders, strict=True)]
        print(*(f"{run.name}: B-spline {run.spline:.3f} %" for run in runs), sep="\n")
    draw(runs, arguments.figure, against=arguments.against, title=arguments.title)


if __name__ == "__main__":
    main()
