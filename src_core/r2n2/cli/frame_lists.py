"""Lists of numbers as they are typed: ``all``, ``7``, ``0-9``, ``0-9,15``."""

from __future__ import annotations

from collections.abc import Sequence

from r2n2.errors import ArgumentError

__all__ = ["listed_frames", "listed_numbers"]


def listed_numbers(option: str, text: str) -> list[int]:
    """Numbers and ranges, both ends counted in, in order and each once.

    Raises
    ------
    ArgumentError
        If it is no such list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ArgumentError(f"{option}: expected numbers and ranges such as 0-9,15, got {text!r}")
        end = int(last) if dash else int(first)
        if end < int(first):
            raise ArgumentError(f"{option}: the range {part.strip()} ends before it begins; write {end}-{first}")
        found.update(range(int(first), end + 1))
    return sorted(found)


def listed_frames(option: str, text: str, frames: Sequence[int]) -> list[int]:
    """The frames that an option names, ``all`` among them.

    Parameters
    ----------
    frames
        Those that there are.

    Raises
    ------
    ArgumentError
        If there is no such frame.
    """
    if text.strip() == "all":
        return sorted(frames)
    try:
        chosen = listed_numbers(option, text)
    except ArgumentError as error:
        raise ArgumentError(f"{option}: expected all, or frames from 0 to {max(frames)} such as 0-9,15, got {text!r}") from error
    missing = [number for number in chosen if number not in frames]
    if missing:
        raise ArgumentError(
            f"{option}: expected all or a frame from 0 to {max(frames)}, or several, got {text!r}, which names {missing[0]}"
        )
    return chosen
