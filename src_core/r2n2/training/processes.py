"""Training on several processes, GPUs or machines: who leads, what all agree on, and how the chunk is wrapped."""

from __future__ import annotations

import datetime
import gc
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from r2n2.errors import ArgumentError, ResourceError
from r2n2.registration import resolve_device

__all__ = ["Processes", "end_process", "team_of_environment"]

# As long as the leader may take to validate; a process that ends is noticed at once.
_PATIENCE_S = 3600.0
_LOST = re.compile(r"gloo|nccl|connection|peer|timed? ?out|socket|\bstore\b", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """Place of one process among all; ``alone`` needs no communication."""

    rank: int
    world: int
    device: torch.device | None = None

    @classmethod
    def alone(cls) -> Processes:
        """One process."""
        return cls(0, 1)

    @property
    def leads(self) -> bool:
        """Whether this one validates, logs and saves."""
        return self.rank == 0

    def wrap(self, chunk: nn.Module) -> nn.Module:
        """The chunk, with gradients averaged over all processes."""
        if self.world == 1:
            return chunk
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device] if self.device is not None and self.device.type == "cuda" else None
        with self.together("begin"):
            return DistributedDataParallel(chunk, device_ids=ids)

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it: all must take the same turn."""
        return self.agree_on(wish)[0]

    def agree_on(self, *wishes: bool) -> tuple[bool, ...]:
        """``agree`` on several things at once."""
        return tuple(value > 0 for value in self._largest([float(wish) for wish in wishes]))

    def alike(self, number: int) -> bool:
        """Whether all processes give the same number."""
        largest, least = self._largest([float(number), -float(number)])
        return largest == -least

    def require_alike(self, **facts: object) -> None:
        """See that all processes were started with the same.

        Parameters
        ----------
        facts
            By name, as they are told; equal where their text is.

        Raises
        ------
        ArgumentError
            On every process, naming what differs.
        """
        if self.world == 1:
            return
        # A number of 48 bits is exact in the float64 that is sent.
        numbers = [float(int(hashlib.sha256(str(fact).encode()).hexdigest()[:12], 16)) for fact in facts.values()]
        largest = self._largest([*numbers, *(-number for number in numbers)])
        differing = [name for name, high, low in zip(facts, largest, largest[len(numbers) :], strict=False) if high != -low]
        if differing:
            raise ArgumentError(
                f"process {self.rank} of {self.world}: not all processes were started with the same {' and '.join(differing)}; "
                f"give every one the same CONFIG, data and version"
            )

    def _largest(self, values: list[float]) -> list[float]:
        if self.world == 1:
            return values
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self.together("agree"):
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
            return [float(value) for value in tensor.tolist()]

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Inside, the failure of another process becomes an error that says so.

        Raises
        ------
        ResourceError
            If the others are gone or silent.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _LOST.search(str(error)):
                raise
            reason = " ".join(str(error).split())[:160]
            raise ResourceError(
                f"process {self.rank} of {self.world}: another process is gone or silent, they could not {what} together "
                f"({reason}); see its message, then go on from the last checkpoint with --resume"
            ) from None

    def leave(self) -> None:
        """End the communication; let go of the wrapped chunk before."""
        if self.world > 1:
            import torch.distributed as dist

            # The wrapped chunk lies in reference cycles and holds the group beyond its end.
            gc.collect()
            dist.destroy_process_group()

    def gather(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """What every process gives, in order of rank, on the one that leads; an empty list elsewhere."""
        if self.world == 1:
            return [tensors]
        import torch.distributed as dist

        found: list[dict[str, Tensor] | None] | None = [None] * self.world if self.leads else None
        with self.together("save"):
            dist.gather_object(tensors, found)
        return [part for part in found or [] if part is not None]


def team_of_environment(device: str = "auto") -> Processes:
    """Join the processes that ``torchrun`` started, or be alone.

    Raises
    ------
    ResourceError
        If the others cannot be reached.
    """
    try:
        world, rank, local = (
            int(os.environ.get(name, usual)) for name, usual in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise ArgumentError(
            f"torchrun: WORLD_SIZE, RANK and LOCAL_RANK must be whole numbers ({error}); start it by torchrun"
        ) from None
    resolve_device(device)
    if world == 1:
        return Processes.alone()
    import torch.distributed as dist

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    own = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        resolve_device(str(own))
        torch.cuda.set_device(own)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=datetime.timedelta(seconds=_PATIENCE_S))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResourceError(f"torchrun: process {rank} of {world} cannot reach the others ({reason}); check addresses") from None
    return Processes(rank, world, own)


def end_process(code: int) -> NoReturn:
    """End one process of several without tearing the interpreter down.

    Gloo's threads let go of their last tensors when they like, and one that does so while the interpreter ends aborts the
    process (https://github.com/pytorch/pytorch/pull/179291): a finished training would be told as a crash.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
