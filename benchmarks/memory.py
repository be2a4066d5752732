"""Peak memory of `r2n2 register` against the number of frames, each run a process of its own.

usage: python benchmarks/memory.py [--frames 20 70 140 280] [--size 256] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def run(*arguments: str) -> tuple[float, float]:
    """Peak resident memory in MiB and wall seconds of one command."""
    import time

    began = time.perf_counter()
    program = str(Path(sys.executable).with_name("r2n2"))
    program = str(Path(sys.executable).with_name("r2n2"))
    child = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        raise SystemExit(f"r2n2 {' '.join(arguments)} ended with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[20, 70, 140, 280])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="r2n2-memory-"))
    print("| frames | frames on disk MiB | peak memory MiB | wall s |\n|---|---|---|---|")
    for count in arguments.frames:
        source, target = folder / f"in{count}", folder / f"out{count}"
        run("simulate", "-o", str(source), "--frames", str(count), "--size", f"{arguments.size},{arguments.size}", "--overwrite")
        series = next(source.glob("series.*"))
        peak, seconds = run("register", str(series), "-o", str(target), "--overwrite", "--quiet")
        print(f"| {count} | {count * arguments.size**2 * 2 / 2**20:.0f} | {peak:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
