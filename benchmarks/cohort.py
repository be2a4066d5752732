"""Register a simulated cohort one after another, on workers, and on workers that are killed at random, and print what it costs.

usage: python benchmarks/cohort.py OUT [--series 6] [--frames 8] [--size 96,128] [--workers 2] [--kills 4] [--tiny 1000]
           [--method fit] [--markdown FILE]

The series are simulated thoraxes with the seeds 100 and following (development data). Every way registers the same series with one
thread a process, in this order within one run. Wall and processor times are those of the whole command, start and overview
included; where other programs want the same cores, processor times still tell what the engine adds. 0 leaves kills or tiny tasks
out. OUT must be empty or of an earlier run, which is done anew.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from r2n2.cohort.dask_engine import local_workers
from r2n2.cohort.engine import Engine, InProcess
from r2n2.cohort.entry import Entry, Listing
from r2n2.results.manifest import load_manifest

_FIRST_SEED = 100
_SAME = ("registered.*", "sequence.npz", "sequence.csv", "fields/*", "uncertainty/*")
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_R2N2 = (sys.executable, "-c", "import sys; from r2n2.cli import main; sys.exit(main())")


@dataclass(frozen=True)
class Way:
    """Wall and processor time of one way, and what its processes needed in MiB, the first time and at the end."""

    name: str
    seconds: float
    cpu_seconds: float
    first_mib: float
    last_mib: float


def simulate(folder: Path, count: int, frames: int, size: str) -> list[Path]:
    paths = []
    for seed in range(_FIRST_SEED, _FIRST_SEED + count):
        place = folder / f"p{seed}"
        command = ["simulate", "-o", place, "--seed", seed, "--frames", frames, "--size", size, "--overwrite"]
        subprocess.run([*_R2N2, *map(str, command)], check=True, env=_ENVIRONMENT, stdout=subprocess.DEVNULL)
        paths.append(place / "series.mha")
    return paths


def register(paths: Sequence[Path], output: Path, *options: str) -> subprocess.Popen[bytes]:
    shutil.rmtree(output, ignore_errors=True)
    command = [*_R2N2, "batch", *map(str, paths), "-o", str(output), "--quiet", *options]
    return subprocess.Popen(command, env=_ENVIRONMENT, stdout=subprocess.DEVNULL)


def timed(name: str, paths: Sequence[Path], output: Path, *options: str) -> Way:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = register(paths, output, *options)
    assert process.wait() == 0, f"{name}: ended with {process.returncode}"
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Way(name, seconds, used, *memory(output))


def memory(output: Path) -> tuple[float, float]:
    """Peak of a process after its first series and after its last one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for log in output.glob("*/log.txt"):
        process = next(line for line in reversed(log.read_text().splitlines()) if " begun by " in line).split(" begun by ")[1]
        peak = load_manifest(log.parent).peak_memory_mib or float("nan")
        found.setdefault(process, []).append(((log.parent / "run.json").stat().st_mtime, peak))
    ordered = [sorted(items) for items in found.values()]
    return max(items[0][1] for items in ordered), max(items[-1][1] for items in ordered)


def results(output: Path) -> dict[str, bytes]:
    files = (file for pattern in _SAME for file in output.glob(f"*/{pattern}"))
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers whose nannies start them again when they are killed."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "cluster.log").open("wb"))

        def start(module: str, *options: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file), *options]
            process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        while not file.exists():
            time.sleep(0.1)
        options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
        yield file, [start("dask_worker", *options) for _ in range(workers)]


def kill_at_random(paths: Sequence[Path], output: Path, workers: int, kills: int, span_s: float, *options: str) -> tuple[int, int]:
    """How many workers were killed in the middle of a series, and how often a series went on where it had been."""
    chance = random.Random(0)
    done = 0
    with cluster(output.parent, workers) as (file, nannies):
        process = register(paths, output, "--scheduler", str(file), *options)
        while process.poll() is None and done < kills:
            if not any(output.glob("*/unfinished.journal")):
                time.sleep(0.05)
                continue
            time.sleep(chance.uniform(0.0, 0.6) * span_s / len(paths))
            busy = [child for nanny in nannies for child in psutil.Process(nanny.pid).children()]
            busy = [child for child in busy if "spawn_main" in " ".join(child.cmdline())]
            if busy and any(output.glob("*/unfinished.journal")):
                chance.choice(busy).kill()
                done += 1
        assert process.wait() == 0, f"with kills: ended with {process.returncode}"
    return done, sum(log.read_text().count("continuing:") for log in output.glob("*/log.txt"))


def overhead_ms(engine: Engine, folder: Path, count: int) -> float:
    """Time of a task that does nothing, in ms: it is of another version, and refused."""
    entry = Entry(name="none", path="none")
    jobs = [Listing(entry=entry, folder=str(folder), version="0") for _ in range(count)]
    started = time.perf_counter()
    while jobs or engine.busy:
        while jobs and engine.free > 0:
            engine.submit(jobs.pop())
        engine.wait()
    return 1000 * (time.perf_counter() - started) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--series", type=int, default=6)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", default="96,128")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--tiny", type=int, default=1000)
    parser.add_argument("--method", default="fit")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    options = ("--method", given.method, "--batch-size", "2")
    paths = simulate(given.out / "in", given.series, given.frames, given.size)
    alone = timed("one after another", paths, given.out / "alone", *options)
    side = timed(f"--workers {given.workers}", paths, given.out / "workers", *options, "--workers", str(given.workers))
    lines: list[str] = []

    def tell(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    for text in (
        "| way | seconds | of one after another | processor seconds | MiB of a process after its first and last series |",
        "| --- | --- | --- | --- | --- |",
    ):
        tell(text)
    for way in (alone, side):
        times = f"{way.seconds:.1f} | {way.seconds / alone.seconds:.2f} | {way.cpu_seconds:.1f}"
        tell(f"| {way.name} | {times} | {way.first_mib:.0f}, {way.last_mib:.0f} |")
    compared = ["workers"]
    if given.kills:
        killed, continued = kill_at_random(paths, given.out / "killed", given.workers, given.kills, side.seconds, *options)
        tell(f"\n{killed} workers killed with -9 at random moments; {continued} times a series went on where it had been")
        compared.append("killed")
    expected = results(given.out / "alone")
    for name in compared:
        found = results(given.out / name)
        same = sum(found.get(file) == data for file, data in expected.items())
        tell(f"\n{name}: {same} of {len(expected)} files are those of one after another, byte for byte")
    if given.tiny:
        with local_workers(given.workers, "bench") as engine:
            overhead_ms(engine, given.out, 10 * given.workers)
            many = overhead_ms(engine, given.out, given.tiny)
        plain = overhead_ms(InProcess("bench"), given.out, given.tiny)
        tell(f"\na task that does nothing, mean of {given.tiny}: {many:.1f} ms on workers, {plain:.2f} ms in the process")
    tell(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if given.markdown is not None:
        given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
