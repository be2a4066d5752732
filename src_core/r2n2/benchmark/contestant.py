"""What a contestant of the comparison is: its name, what makes it ready, and the settings that all contestants share."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from r2n2.benchmark.images import Images
from r2n2.benchmark.programs import Found
from r2n2.geometry import Grid

__all__ = ["Contestant", "Ready", "Registrar", "Settings"]

Registrar = Callable[[Images], list[Found]]
"""Registers all pairs that it is given, at once."""
Ready = tuple[Registrar, int]
"""What registers, and how many pairs it takes at once."""


@dataclass(frozen=True)
class Settings:
    """What is the same for every contestant.

    Parameters
    ----------
    threads
        Threads that each may use.
    device
        What our methods compute on; the others know the processor only.
    weights
        Name or file of the network's weights.
    """

    threads: int = 1
    device: str = "cpu"
    weights: str = "general"


@dataclass(frozen=True)
class Contestant:
    """A method in the comparison.

    Parameters
    ----------
    name
        In tables and files.
    choice
        By which it is chosen on the command line; several may share one.
    about
        What it is and how it is set, a phrase.
    make
        Imports what is needed and gives what registers, for images on a grid; called in the contestant's own process.
    package
        The distribution that holds it, and the module to import; None for a method of ours.
    """

    name: str
    choice: str
    about: str
    make: Callable[[Grid, Settings], Ready]
    package: tuple[str, str] | None = None

    @property
    def ours(self) -> bool:
        """Whether it is a method of this package."""
        return self.package is None

    @property
    def version(self) -> str:
        """Version of the package that computes."""
        if self.package is None:
            from r2n2 import __version__

            return f"napari-r2n2 {__version__}"
        return f"{self.package[0]} {importlib.metadata.version(self.package[0])}"
