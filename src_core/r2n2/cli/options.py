"""Option values that several commands share, from text to numbers."""

from __future__ import annotations

from collections.abc import Sequence

from r2n2.errors import ArgumentError

__all__ = ["parse_batch_size", "parse_reference", "parse_spacing", "parse_steps"]


def parse_spacing(text: str) -> tuple[float, ...]:
    """Pixel size in mm from ``Y,X`` (or ``Z,Y,X``).

    Raises
    ------
    ArgumentError
        If it is not two or three positive finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 3) or any(not 0 < value < float("inf") for value in values):
        raise ArgumentError(f"--spacing: expected Y,X as two positive numbers of mm such as 1.5,1.2, got {text!r}")
    return values


def parse_reference(text: str, words: Sequence[str] = ("auto",)) -> int | str:
    """Frame number from ``N``, or one of the words.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if text in words:
        return text
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ArgumentError(f"--reference: expected {', '.join(words)} or a frame number from 0, got {text!r}")
    return number


def parse_batch_size(text: str) -> int | str:
    """Frames at once from ``auto`` or ``N``.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    return _auto_or_number("--batch-size", text, most=1024)


def parse_steps(text: str) -> int | str:
    """Number of Gaussians from ``auto`` or ``N``.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    return _auto_or_number("--steps", text, most=500)


def _auto_or_number(option: str, text: str, *, most: int) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ArgumentError(f"{option}: expected auto or a number from 1 to {most}, got {text!r}")
    return int(text)
