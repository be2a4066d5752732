"""One part of a cohort, for machines that do theirs without knowing of one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from r2n2.errors import ArgumentError

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """Part ``number``, from 1, of ``count``.

    Which part a slice position is in follows from its place in the cohort alone, so that all parts agree though one may fail to
    list an acquisition that others have listed.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``I/N``.

        Raises
        ------
        ArgumentError
            If it is not two whole numbers with 1 <= I <= N.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ArgumentError(f"--shard: expected I/N with I from 1 to N, such as 3/40, got {text!r}; number an array from 1")
        return cls(int(number), int(count))

    def holds(self, acquisition: int, slice_index: int = 0) -> bool:
        """Whether a slice position of the acquisition at that place is in it."""
        return (acquisition + slice_index) % self.count == self.number - 1

    @property
    def suffix(self) -> str:
        """For the names of files of its own."""
        return f"-{self.number}-of-{self.count}"
