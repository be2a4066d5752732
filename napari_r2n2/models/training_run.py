"""Adapting the network's weights to one series as people follow it: what was measured and what came of it; without Qt.

Weights that became better are written to a folder of the user as ``r2n2 adapt`` writes them, and are known by their name from
then on.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from psygnal import SignalInstance

from r2n2.errors import ResourceError
from r2n2.network.shipped_weights import SUFFIX, named_weights

if TYPE_CHECKING:
    from r2n2.series import ImageSeries
    from r2n2.training.adapt import Adapting

__all__ = [
    "SUFFIX",
    "Check",
    "TrainingRun",
    "adapted_weights",
    "resolve_weights",
    "weights_added",
    "weights_folder",
]

weights_added: SignalInstance = SignalInstance((str, Path), name="weights_added")
"""Weights were adapted: their name and their file."""

_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 40


def weights_folder() -> Path:
    """Where adapted weights are kept; it need not exist yet."""
    return Path(platformdirs.user_data_path("napari-r2n2", appauthor=False)) / "weights"


def adapted_weights() -> dict[str, Path]:
    """Name -> file of all weights that were adapted on this machine, the newest first."""
    try:
        files = [(file.stat().st_mtime, file) for file in weights_folder().glob(f"*{SUFFIX}") if file.is_file()]
    except OSError:
        return {}
    return {file.stem: file for _time, file in sorted(files, reverse=True)}


def resolve_weights(name: str) -> str:
    """What ``RegistrationConfig(weights=...)`` takes for the name of shipped or adapted weights, or for a path."""
    if name in named_weights():
        return name
    known = adapted_weights().get(name)
    return name if known is None else str(known)


@dataclass(frozen=True)
class Check:
    """The held-out frames were registered.

    Parameters
    ----------
    update
        After so many updates.
    similarity
        Mean correlation with the reference of the best weights so far.
    folding_percent
        Of them, share of pixels with a Jacobian determinant of at most 0.
    """

    update: int
    similarity: float
    folding_percent: float


class TrainingRun:
    """One adapting: ``work`` is consumed in a thread, its items are given to ``take`` where the curves are drawn.

    Parameters
    ----------
    series
        One slice position.
    name
        Of the series, for the name of the weights.
    start
        Weights to start from: a name or the path of a file.
    seconds
        For everything.
    reference
        Frame or "auto", as it will be registered.
    device
        auto, cpu, cuda or cuda:N.
    """

    def __init__(
        self,
        series: ImageSeries,
        *,
        name: str,
        start: str = "general",
        seconds: float = 120.0,
        reference: int | str = "auto",
        device: str = "auto",
    ) -> None:
        self.series, self.name, self.start = series, name, start
        self.seconds, self.reference, self.device = seconds, reference, device
        self.losses: list[tuple[int, float]] = []
        """(update, loss), finite ones only."""
        self.checks: list[Check] = []
        self.notes: tuple[str, ...] = ()
        """Frames that could not be used, and why."""
        self.last: Adapting | None = None
        self.file: Path | None = None
        """Where the adapted weights are, once they are kept."""
        self._stop = threading.Event()
        self._began = time.monotonic()

    # In the thread

    def work(self) -> Iterator[Adapting]:
        """Adapt; raises as ``load_network`` and ``adapt`` do."""
        # Imported here, in the worker's thread: loading torch takes seconds.
        import torch

        from r2n2.network.checkpoint import load_network
        from r2n2.training.adapt import adapt

        threads = torch.get_num_threads()
        # A core is left to the window: waiting for each other, both would be many times slower.
        torch.set_num_threads(max(1, min(threads, (os.cpu_count() or 2) - 1)))
        try:
            network = load_network(resolve_weights(self.start), ndim=2)
            left = max(1.0, self.seconds - (time.monotonic() - self._began))
            steps = adapt(self.series, network, seconds=left, reference=self.reference, device=self.device, stop=self._stop.is_set)
            for adapting in steps:
                yield adapting
                if self._stop.is_set() and adapting.update == 0:
                    return  # what follows is long, and nothing was learnt yet
        except torch.OutOfMemoryError:
            raise ResourceError("the device has no memory left; choose the device cpu, or crop the series") from None
        finally:
            torch.set_num_threads(threads)

    def stop(self) -> None:
        """End after this update, with a last look at the held-out frames; from any thread."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    # Where it is looked at

    def take(self, adapting: Adapting) -> None:
        """Note what an update gave."""
        self.last = adapting
        self.notes += adapting.notes
        if math.isfinite(adapting.loss):
            self.losses.append((adapting.update, adapting.loss))
        if adapting.checked:
            self.checks.append(Check(adapting.update, adapting.best.similarity, adapting.best.folding_percent))

    @property
    def better(self) -> bool:
        """Whether weights were found that do better on the frames held out."""
        return self.last is not None and self.last.best != self.last.start

    @property
    def fraction(self) -> float:
        """Share of the time that is over."""
        return min(1.0, (time.monotonic() - self._began) / self.seconds)

    @property
    def phase(self) -> str:
        """What goes on, and how long it will."""
        if self.stopping:
            return "Stopping after this update ..."
        left = f"{_duration(self.seconds * (1 - self.fraction))} left" if self.fraction < 1 else "finishing"
        if self.last is None:
            return f"Registering the frames held out ... {left}"
        if self.last.update == 0:
            return f"Finding displacements to learn from ... {left}"
        return f"Learning, update {self.last.update}, {left}"

    @property
    def verdict(self) -> str:
        """What came of it, in words."""
        if self.last is None:
            return f"Stopped before anything was learnt: {self._kept}"
        start, best, updates = self.last.start, self.last.best, self.last.update
        if updates == 0:
            return f"Stopped before anything was learnt (held-out correlation {start.similarity:.4f}): {self._kept}"
        after = f"after {updates} update{'s' if updates != 1 else ''}"
        if not self.better:
            return (
                f"No better weights were found {after}: held-out correlation stays {start.similarity:.4f}, "
                f"folding {start.folding_percent:.2f} %. {self._kept}"
            )
        return (
            f"Held-out correlation {start.similarity:.4f} → {best.similarity:.4f}, "
            f"folding {best.folding_percent:.2f} % (was {start.folding_percent:.2f} %) {after}: better weights kept."
        )

    def keep(self) -> Path | None:
        """Write better weights to the user's folder and make them known; None where there are none.

        Raises
        ------
        R2N2Error, OSError
            If they cannot be written.
        """
        if not self.better or self.last is None:
            return None
        from r2n2.network.checkpoint import read_manifest, save_network

        last, folder = self.last, weights_folder()
        folder.mkdir(parents=True, exist_ok=True)
        info = {
            "name": "adapted",
            "started_from": read_manifest(resolve_weights(self.start)).sha256,
            "updates": str(last.update),
            "minutes": f"{last.seconds / 60:.1f}",
            "similarity_before": f"{last.start.similarity:.4f}",
            "similarity": f"{last.best.similarity:.4f}",
        }
        file = _free_name(folder, self.name)
        save_network(file, last.network, info=info)
        self.file = file
        weights_added.emit(file.stem, file)
        return file

    def save_as(self, file: Path) -> Path:
        """Copy the weights that were kept; the suffix is added where it is missing.

        Raises
        ------
        ValueError
            If there are none.
        OSError
            If they cannot be copied.
        """
        if self.file is None:
            raise ValueError("no better weights were found, so there is nothing to save; adapt for longer or from others")
        target = file if file.suffix == SUFFIX else file.with_name(file.name + SUFFIX)
        from r2n2.io.atomic import atomic_write

        with atomic_write(target) as temporary:
            shutil.copyfile(self.file, temporary)
        return target

    @property
    def _kept(self) -> str:
        name = self.start if self.start in named_weights() else Path(self.start).stem
        return f"{name!r} stays as it is and nothing was saved."


def _free_name(folder: Path, name: str) -> Path:
    """A new file named after the series and the minute."""
    plain = _NOT_IN_A_NAME.sub("_", name).strip("._-")[:_LONGEST_NAME] or "series"
    stem = f"{plain}_{datetime.datetime.now():%Y-%m-%d_%H-%M}"
    candidates = [stem, *(f"{stem}_{number}" for number in range(2, 1000))]
    return next(file for file in (folder / f"{stem}{SUFFIX}" for stem in candidates) if not file.exists())


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
