"""Tasks done by dask.distributed: workers of its own on this machine, or those of a scheduler that is running already.

Tasks are handed out as workers become free, not all at once: what a lost worker had is then one task, and not a queue of them, and
the scheduler holds as many tasks as there are workers, however large the cohort is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import queue
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2n2.cohort.entry import Listing, Outcome
from r2n2.cohort.perform import MOST_ATTEMPTS, perform
from r2n2.errors import ArgumentError, MissingExtraError, ResourceError
from r2n2.runtime.openmp import wait_asleep

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskEngine", "joined_scheduler", "local_workers"]

_PATIENCE_S = 1.0
_CONNECT_S = 30
_WORKERS_ASKED_EVERY_S = 2.0
_LEAST_MEMORY = 2 * 2**30
_RESOURCE = 4


class DaskEngine:
    """An ``Engine`` of the workers of a client.

    Parameters
    ----------
    client
        Connected.
    run
        Of which run of the command its tasks are a part.
    threads
        That torch takes in each worker; None: as many as dask gave the worker.
    """

    def __init__(self, client: Client, run: str, *, threads: int | None = None) -> None:
        self._client = client
        self._run = run
        self._threads = threads
        self._jobs: dict[str, tuple[Listing, Future]] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._known: tuple[str, ...] = ()
        self._asked = -_WORKERS_ASKED_EVERY_S

    @property
    def free(self) -> int:
        """As many as workers have nothing to do; one where there is no worker yet, so that there is something to wait for."""
        return max(len(self._addresses()), 1) - len(self._jobs)

    @property
    def busy(self) -> int:
        """Handed in and not given back."""
        return len(self._jobs)

    @property
    def workers(self) -> int:
        """As many as the scheduler knows."""
        return len(self._addresses())

    @property
    def dashboard(self) -> str:
        """Of the scheduler, where the package that draws it is installed."""
        return str(self._client.dashboard_link) if importlib.util.find_spec("bokeh") else ""

    def submit(self, job: Listing, *, avoid: str = "") -> None:
        """Hand it to a worker; to another than the one to be avoided, where there is another."""
        others = [address for address in self._addresses() if address != avoid] if avoid else []
        place: dict[str, Any] = {"workers": others, "allow_other_workers": True} if others else {}
        future = self._client.submit(_perform_on_worker, job, self._run, self._threads, pure=False, **place)
        self._jobs[future.key] = job, future
        future.add_done_callback(lambda ended: self._ended.put(ended.key))

    def wait(self) -> Sequence[tuple[Listing, Outcome]]:
        """What workers have done by now, after at most a second."""
        outcomes: list[tuple[Listing, Outcome]] = []
        with contextlib.suppress(queue.Empty):
            key = self._ended.get(timeout=_PATIENCE_S)
            while True:
                if key in self._jobs:
                    job, future = self._jobs[key]
                    outcomes.append((job, self._outcome(future)))
                    del self._jobs[key]
                key = self._ended.get_nowait()
        self._check_connection()
        return outcomes

    def _outcome(self, future: Future) -> Outcome:
        self._check_connection()
        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.status == "cancelled":
            raise ResourceError(self._gone())
        # What the task itself can raise is an outcome: this is a worker that was lost once too often, or cannot take the task.
        error = future.exception()
        text = " ".join(str(error).split())[:300]
        lost = type(error).__name__ == "KilledWorker"
        reason = "its worker was lost several times: killed, or out of memory" if lost else f"{type(error).__name__}: {text}"
        return Outcome(exit_code=_RESOURCE, message=reason, attempts=MOST_ATTEMPTS if lost else 1)

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise ResourceError(self._gone())

    def _gone(self) -> str:
        where = self._client.scheduler.address if self._client.scheduler else "of the cluster"
        return f"the scheduler {where} is gone; what is done is kept: start it and run the same command again for the rest"

    def _addresses(self) -> tuple[str, ...]:
        if time.monotonic() - self._asked >= _WORKERS_ASKED_EVERY_S:
            self._asked = time.monotonic()
            self._check_connection()
            try:
                self._known = tuple(self._client.nthreads())
            except OSError:
                raise ResourceError(self._gone()) from None
        return self._known


def _perform_on_worker(job: Listing, run: str, threads: int | None) -> Outcome:
    """Runs in the worker."""
    wait_asleep()
    import torch
    from distributed import get_worker

    worker = get_worker()
    wanted = worker.state.nthreads if threads is None else threads
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return perform(job, run).model_copy(update={"worker": worker.address})


@contextlib.contextmanager
def local_workers(count: int, run: str) -> Iterator[DaskEngine]:
    """Workers on this machine, a process each, among which its cores and its memory are shared out.

    Raises
    ------
    ArgumentError
        If there are fewer cores or less than 2 GiB of memory for each.
    MissingExtraError
        If dask is not installed.
    """
    _check_extra()
    from dask.system import CPU_COUNT
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    if not 1 <= count <= CPU_COUNT:
        raise ArgumentError(f"--workers: expected 1 to {CPU_COUNT}, the cores of this machine, got {count}")
    memory = MEMORY_LIMIT // count
    if memory < _LEAST_MEMORY and count > 1:
        most = max(1, MEMORY_LIMIT // _LEAST_MEMORY)
        raise ArgumentError(
            f"--workers {count}: each would have {memory / 2**30:.1f} GiB of memory, less than 2; at most {most} fit"
        )
    cluster = LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        memory_limit=memory,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    )
    with _quiet(), cluster, _client(address=cluster) as client:
        yield DaskEngine(client, run, threads=max(1, CPU_COUNT // count))


@contextlib.contextmanager
def joined_scheduler(address: str, run: str) -> Iterator[DaskEngine]:
    """The workers of a running scheduler.

    Parameters
    ----------
    address
        Such as tcp://host:8786, or the path of a scheduler file.

    Raises
    ------
    ResourceError
        If nothing answers there.
    MissingExtraError
        If dask is not installed.
    """
    _check_extra()
    if "://" in address:
        where: dict[str, Any] = {"address": address}
    elif Path(address).is_file():
        where = {"scheduler_file": address}
    else:
        raise ResourceError(f"--scheduler {address}: neither an address such as tcp://host:8786 nor a scheduler file; check it")
    with _quiet(), _client(**where) as client:
        yield DaskEngine(client, run)


@contextlib.contextmanager
def _client(**where: Any) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(**where, timeout=f"{_CONNECT_S}s")
    except (OSError, TimeoutError, ValueError) as error:
        place = next(iter(where.values()))
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ResourceError(f"--scheduler {place}: nothing answers there ({reason[:200]}); is it running?") from None
    try:
        yield client
    finally:
        # A client whose scheduler is gone cannot say goodbye.
        with contextlib.suppress(OSError, TimeoutError):
            client.close(timeout=5)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that dask logs when a connection ends, of which the command tells in one line."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_extra() -> None:
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtraError("dask.distributed is not installed; pip install 'napari-r2n2[batch]', or leave --workers out")
