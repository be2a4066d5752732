"""Says on standard error how many files were looked at, while a large folder is searched for images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["scan_progress"]


@contextmanager
def scan_progress(*, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A function to be told the number of files looked at; its line appears on a terminal only, and goes at the end."""
    from rich.console import Console
    from rich.status import Status

    console = Console(stderr=True)
    status = Status("looking at files", console=console)

    def tell(count: int) -> None:
        status.update(f"{count} files looked at")
        status.start()

    try:
        yield (lambda _count: None) if quiet or not console.is_terminal else tell
    finally:
        status.stop()
