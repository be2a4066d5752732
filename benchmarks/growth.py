"""Time and memory of `r2n2 register` against frames, pixels and threads: each run a process of its own, files and report included.

usage: python benchmarks/growth.py [--frames 1 35 140 560] [--sides 128 256 512 1024] [--threads 1 2] [--rounds 1] [--minutes 10]
       [--figures docs/images]
       python benchmarks/growth.py --beyond 1280

The series is a simulated thorax of which 36 frames repeat; frames are counted without the reference. The first form goes from
the cheap runs to the dear ones and leaves out what is left when time is up. The second registers a Zarr series of so many MiB of
pixels and fails if the process needed as much.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

METHODS = {"network": ("--no-refine",), "network + refinement": ("--refine",), "fit": ("--method", "fit")}
PROGRAM = (sys.executable, "-c", "import sys; from r2n2.cli import main; sys.exit(main())")
DISTINCT_FRAMES = 36
SIDE_OF_FRAMES, FRAMES_OF_SIDES = 256, 16
# Guesses in s until a run of the method says better: of a frame of 256 x 256, and of starting and writing the report.
GUESS_S, START_S = 0.3, 6.0


@dataclass(frozen=True)
class Case:
    """One run: moving frames, pixels a side, threads, method."""

    frames: int
    side: int
    threads: int
    method: str

    @property
    def work(self) -> float:
        """Size against that of one frame of 256 x 256, for an estimate of the time: half of a frame's work is the method's own."""
        return self.frames * (0.5 + 0.5 * (self.side / 256) ** 2) / (1 + 0.6 * (self.threads > 1))


@dataclass(frozen=True)
class Cost:
    """What a run took: wall time of the process, of registration alone (both in s), and its largest resident memory."""

    total_s: float
    registration_s: float
    peak_mib: float


def series_of(folder: Path, frames: int, side: int) -> Path:
    """A .npy of ``frames`` moving frames and the reference, written once, uint16."""
    from r2n2.simulation import ThoraxConfig, thorax_series

    path = folder / f"{frames}_{side}.npy"
    if not path.exists():
        distinct = folder / f"distinct_{side}.npy"
        if not distinct.exists():
            truth = thorax_series(ThoraxConfig(seed=7, frames=DISTINCT_FRAMES, shape=(side, side)))
            np.save(distinct, np.stack([truth.series.frame(k)[0] for k in range(DISTINCT_FRAMES)]).astype(np.uint16))
        few = np.load(distinct, mmap_mode="r")
        stack = np.lib.format.open_memmap(path, mode="w+", dtype=few.dtype, shape=(frames + 1, side, side))
        for k in range(frames + 1):
            stack[k] = few[k % DISTINCT_FRAMES]
        stack.flush()
    return path


def register(source: Path, out: Path, options: Sequence[str], threads: int) -> Cost:
    """Run the command line in a process of its own."""
    fixed = ("--spacing", "1.5,1.5", "--reference", "0", "--device", "cpu", "--overwrite", "--quiet")
    command = [*PROGRAM, "register", str(source), "-o", str(out), *fixed, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    child = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    total_s = time.perf_counter() - began
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command[3:])} ended with status {child.returncode}")
    peak_mib = json.loads((out / "run.json").read_text(encoding="utf-8"))["peak_memory_mib"]
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        registration_s = sum(float(row["seconds"] or 0) for row in csv.DictReader(file))
    shutil.rmtree(out)
    return Cost(total_s, registration_s, peak_mib)


def cases(frames: Iterable[int], sides: Iterable[int], threads: Iterable[int]) -> list[Case]:
    """Every run, each once, the cheap ones first."""
    threads = list(threads)
    sizes = [*((count, SIDE_OF_FRAMES) for count in frames), *((FRAMES_OF_SIDES, side) for side in sides)]
    every = {Case(count, side, number, method) for count, side in sizes for number in threads for method in METHODS}
    return sorted(every, key=lambda case: (case.work, list(METHODS).index(case.method)))


def measure(every: Sequence[Case], rounds: int, minutes: float, folder: Path) -> dict[Case, Cost]:
    """The median of the rounds for every case that fits into the time; what is left out is said."""
    began = time.monotonic()
    found: dict[Case, list[Cost]] = {}
    a_frame_s = dict.fromkeys(METHODS, GUESS_S)
    for turn in range(rounds):
        for case in every:
            left_s = 60 * minutes - (time.monotonic() - began)
            if START_S + a_frame_s[case.method] * case.work > left_s:
                print(f"round {turn + 1}: no time left for {case}", file=sys.stderr)
                continue
            source = series_of(folder, case.frames, case.side)
            cost = register(source, folder / "out", METHODS[case.method], case.threads)
            found.setdefault(case, []).append(cost)
            if case.frames >= 16:
                a_frame_s[case.method] = max(cost.total_s - START_S, 1.0) / case.work
            print(f"{case}: {cost.total_s:.1f} s, {cost.peak_mib:.0f} MiB", file=sys.stderr)
    return {
        case: Cost(
            *(statistics.median(values) for values in zip(*((c.total_s, c.registration_s, c.peak_mib) for c in costs), strict=True))
        )
        for case, costs in found.items()
    }


def table(found: dict[Case, Cost]) -> str:
    """Markdown, a row a case."""
    lines = [
        "| method | threads | moving frames | pixels | s in all | s of registration | s of registration a frame | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = list(METHODS)
    for case in sorted(found, key=lambda c: (order.index(c.method), c.threads, c.side, c.frames)):
        cost = found[case]
        lines.append(
            f"| {case.method} | {case.threads} | {case.frames} | {case.side} x {case.side} | {cost.total_s:.1f} | "
            f"{cost.registration_s:.1f} | {cost.registration_s / case.frames:.3f} | {cost.peak_mib:.0f} |"
        )
    return "\n".join(lines)


def draw(
    path: Path, found: dict[Case, Cost], place: str, label: str, panels: Sequence[tuple[str, Callable[[Case, Cost], float]]]
) -> None:
    """One panel a quantity against ``place``, a colour a method, a dash a number of threads."""
    import matplotlib
    from learning_curves import COLOURS, STYLE
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    places = sorted({getattr(case, place) for case in found})
    most = max(case.threads for case in found)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(panels), 2.7), layout="constrained")
        for axes, (title, value), letter in zip(figure.subplots(1, len(panels)), panels, "abc", strict=False):
            for method, colour in zip(METHODS, COLOURS, strict=False):
                for threads in sorted({case.threads for case in found}, reverse=True):
                    line = sorted(
                        (getattr(c, place), value(c, cost))
                        for c, cost in found.items()
                        if (c.method, c.threads) == (method, threads)
                    )
                    style: dict[str, Any] = {
                        "linestyle": "-" if threads == most else "--",
                        "marker": "o",
                        "markersize": 2.5,
                        "color": colour,
                    }
                    axes.plot(*zip(*line, strict=True), label=f"{method}, {threads} thread{'s'[: threads > 1]}", **style)
            axes.set_xscale("log", base=2)
            axes.set_xticks(places, [str(p) for p in places])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(label)
            axes.set_ylabel(title)
            axes.set_title(letter, loc="left", fontweight="bold")
            axes.grid(axis="y", color="0.8")
            if "whole" not in title:
                axes.set_ylim(0, 1.08 * max(value(case, cost) for case, cost in found.items()))
            else:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_locator(NullLocator())
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300)


def beyond(mib: int, folder: Path) -> None:
    """Register a series that is larger than what its process needs."""
    import zarr

    few = np.load(series_of(folder, DISTINCT_FRAMES - 1, 1024), mmap_mode="r").astype(np.float32)
    count = -(-mib * 2**20 // few[0].nbytes)
    chunks = (8, *few.shape[1:])
    array = zarr.create_array(
        folder / "large.zarr", shape=(count, *few.shape[1:]), chunks=chunks, dtype="f4", dimension_names=list("tyx")
    )
    for start in range(0, count, chunks[0]):
        array[start : start + chunks[0]] = few[np.arange(start, min(start + chunks[0], count)) % len(few)]
    cost = register(folder / "large.zarr", folder / "out", (*METHODS["network"], "--steps", "5", "--batch-size", "8"), 1)
    series_mib = count * few[0].nbytes / 2**20
    print(
        f"{count} frames of 1024 x 1024 in float32, {series_mib:.0f} MiB in chunks of {chunks[0]} frames, by the network: "
        f"{cost.total_s:.0f} s, peak resident memory {cost.peak_mib:.0f} MiB"
    )
    if cost.peak_mib >= series_mib:
        raise SystemExit("the process needed as much memory as the series: give more MiB, or look for what holds frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 35, 140, 560])
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--beyond", type=int, metavar="MIB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r2n2-growth-") as name:
        folder = Path(name)
        if arguments.beyond:
            beyond(arguments.beyond, folder)
            return
        every = cases(arguments.frames, arguments.sides, arguments.threads)
        found = measure(every, arguments.rounds, arguments.minutes, folder)
    print(f"{platform.machine()}, {os.cpu_count()} cores; {arguments.rounds} rounds, medians\n")
    by_frames = {case: cost for case, cost in found.items() if case.side == SIDE_OF_FRAMES and case.frames in arguments.frames}
    by_sides = {case: cost for case, cost in found.items() if case.frames == FRAMES_OF_SIDES and case.side in arguments.sides}
    for part in (by_frames, by_sides):
        print(table(part) + "\n")
    if arguments.figures and by_frames and by_sides:
        memory = ("peak memory, MiB", lambda _, cost: cost.peak_mib)
        whole = ("seconds, the whole command", lambda _, cost: cost.total_s)
        one = ("seconds a frame, registration", lambda case, cost: cost.registration_s / case.frames)
        draw(arguments.figures / "growth_frames.png", by_frames, "frames", "moving frames of 256 x 256", (whole, one, memory))
        draw(arguments.figures / "growth_pixels.png", by_sides, "side", "pixels a side, 16 moving frames", (whole, one, memory))


if __name__ == "__main__":
    main()
