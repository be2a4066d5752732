"""The errors a person can do something about, each with the command line's exit code."""

from __future__ import annotations

__all__ = ["ArgumentError", "AxesUnknownError", "MissingExtraError", "R2N2Error", "ReadError", "ResourceError"]


class R2N2Error(Exception):
    """An error whose message names the thing, the reason and the remedy in one line."""

    exit_code = 5


class ArgumentError(R2N2Error, ValueError):
    """An option or setting is wrong: exit code 2."""

    exit_code = 2


class ReadError(R2N2Error, ValueError):
    """A file is damaged, ambiguous or not what it should be: exit code 3."""

    exit_code = 3


class AxesUnknownError(ReadError):
    """A file does not say which of its axes is time: whoever reads it has to.

    Parameters
    ----------
    shape
        Of the array, slow to fast.
    choices
        What ``axes`` may be, the likeliest first, each with what it would mean.
    """

    def __init__(self, message: str, shape: tuple[int, ...], choices: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message)
        self.shape = shape
        self.choices = choices

    def __reduce__(self) -> tuple[type[AxesUnknownError], tuple[str, tuple[int, ...], tuple[tuple[str, str], ...]]]:
        """Sent from another process with all it says."""
        return type(self), (str(self), self.shape, self.choices)


class ResourceError(R2N2Error, RuntimeError):
    """Memory, disk, permission or device is missing: exit code 4."""

    exit_code = 4


class MissingExtraError(R2N2Error, ImportError):
    """An optional package is missing; the message names the extra to install: exit code 4."""

    exit_code = 4
