"""Scripts for clusters, filled in with the command they are to run: a SLURM array, and dask workers started by dask-jobqueue."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from r2n2.errors import ArgumentError

__all__ = ["JobScript"]

_KINDS = ("array", "jobqueue")
_CORES, _MEMORY_GB, _HOURS = 4, 8, 4

_ARRAY = """\
#!/bin/bash
#SBATCH --job-name=r2n2
#SBATCH --array=1-{count}
#SBATCH --cpus-per-task={cores}
#SBATCH --mem={memory}G
#SBATCH --time={hours}:00:00
#SBATCH --output="{output}/slurm-%A_%a.out"
#SBATCH --requeue
# Submit with: sbatch THIS_FILE. Parts that were cut off go on when the same file is submitted again. When all are done:
#   {collect}
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# exec: SLURM's signal before the time limit then reaches r2n2 itself, which keeps what is done.
exec {command} --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
"""

_JOBQUEUE = '''\
"""Run with: python THIS_FILE, on a machine that may submit jobs and stays up; needs pip install dask-jobqueue."""

import subprocess

from dask_jobqueue import SLURMCluster

if __name__ == "__main__":
    cluster = SLURMCluster(
        cores={cores},
        processes=1,
        memory="{memory}GB",
        walltime="{hours:02d}:00:00",
        # Before the time limit a worker hands back what it has not begun and ends; others take its place.
        worker_extra_args=["--nthreads", "{cores}", "--lifetime", "{minutes}m", "--lifetime-stagger", "4m"],
    )
    cluster.adapt(minimum=1, maximum={count})
    raise SystemExit(subprocess.call([*{command!r}, "--scheduler", cluster.scheduler_address]))
'''


@dataclass(frozen=True)
class JobScript:
    """A script of a kind, array or jobqueue, for so many jobs."""

    kind: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``array:N`` or ``jobqueue:N``.

        Raises
        ------
        ArgumentError
            If it is neither.
        """
        kind, _, count = text.partition(":")
        if kind not in _KINDS or not count.isdecimal() or not 1 <= int(count) <= 100_000:
            raise ArgumentError(f"--script: expected array:N or jobqueue:N with a number of jobs such as array:40, got {text!r}")
        return cls(kind, int(count))

    def text(self, command: Sequence[str], output: str) -> str:
        """The script that runs the command for the output folder."""
        values = {"count": self.count, "cores": _CORES, "memory": _MEMORY_GB, "hours": _HOURS}
        if self.kind == "jobqueue":
            return _JOBQUEUE.format(command=list(command), minutes=_HOURS * 60 - 5, **values)
        collect = shlex.join(["r2n2", "batch", "--collect", "-o", output])
        return _ARRAY.format(command=shlex.join(command), collect=collect, output=output, **values)
