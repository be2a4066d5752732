"""What training learns from: real slices, pairs of frames and contoured pairs, each with the patient it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from r2n2.errors import ArgumentError
from r2n2.simulation.slices import RealPair, RealSlice

__all__ = ["ContouredPair", "TrainingData", "is_held_out", "split"]


@dataclass(frozen=True, eq=False)
class ContouredPair:
    """Two frames of one series in which the same structure is outlined, for Dice in validation.

    Parameters
    ----------
    fixed, moving
        (1, H, W) float32.
    fixed_mask, moving_mask
        (1, H, W) bool: inside the outline.
    spacing
        (y, x) in mm; 1 where the file holds none.
    patient
        Whose; a patient is never on both sides of a split.
    source
        File or series, for messages.

    Raises
    ------
    ValueError
        If the four arrays differ in shape.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    moving_mask: Tensor
    spacing: tuple[float, float]
    patient: str
    source: str

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.fixed, self.moving, self.fixed_mask, self.moving_mask)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 3 or shapes[0][0] != 1:
            raise ValueError(
                f"ContouredPair {self.source}: frames and masks must share one shape (1, H, W), "
                f"got {', '.join(map(str, shapes))}; draw the masks on the frames"
            )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Everything there is to learn from, or the part of it on one side of a split.

    Parameters
    ----------
    slices
        Frames to be moved by simulated motion.
    pairs
        Two frames of one place each, with real motion between them; its truth is rarely known.
    contoured
        Pairs for Dice; never trained on by their masks.
    notes
        What was left out and why, one sentence each.
    """

    slices: tuple[RealSlice, ...] = ()
    pairs: tuple[RealPair, ...] = ()
    contoured: tuple[ContouredPair, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("slices", "pairs", "contoured", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def patients(self) -> tuple[str, ...]:
        """Everybody in it, sorted."""
        owners = {item.patient for item in self.slices} | {item.patient for item in self.pairs}
        return tuple(sorted(owners | {item.patient for item in self.contoured}))

    def sha256(self) -> str:
        """Over all images, outlines, sizes and owners; the folders they were read from do not count."""
        digest = hashlib.sha256()
        items: list[RealSlice | RealPair | ContouredPair] = [*self.slices, *self.pairs, *self.contoured]
        for item in items:
            digest.update(repr((type(item).__name__, item.patient, item.spacing)).encode())
            for part in vars(item).values():
                if isinstance(part, Tensor):
                    digest.update(repr(tuple(part.shape)).encode())
                    digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

    def of(self, patients: Sequence[str]) -> TrainingData:
        """What belongs to these patients."""
        wanted = frozenset(patients)
        return TrainingData(
            tuple(item for item in self.slices if item.patient in wanted),
            tuple(item for item in self.pairs if item.patient in wanted),
            tuple(item for item in self.contoured if item.patient in wanted),
            self.notes,
        )


def is_held_out(patient: str, share: float, seed: int) -> bool:
    """Whether a patient falls among the held-out ones.

    Decided by a hash of seed and name alone, so that adding patients to a data set moves none of the others.
    """
    digest = int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest(), "big")
    # Exact: a float quotient could round up to 1 and hold out nobody's patient at share 1.
    return Fraction(digest, 2**256) < Fraction(share)


def split(data: TrainingData, *, held_out: Sequence[str] | float, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """Part training data by patient into training and validation.

    Parameters
    ----------
    held_out
        The patients to validate on, or the share of patients that a hash of their names is to choose.
    seed
        Of the hash; without effect where patients are named.

    Raises
    ------
    ArgumentError
        If a named patient is not there, the share is not within [0, 1], or one side would be empty though both were asked for.
    """
    everybody = data.patients
    if isinstance(held_out, int | float):
        if not 0 <= held_out <= 1:
            raise ArgumentError(f"held_out: a share of patients lies between 0 and 1, got {held_out}; give such a share or names")
        chosen = {patient for patient in everybody if is_held_out(patient, held_out, seed)}
    else:
        chosen = set([held_out] if isinstance(held_out, str) else held_out)
        unknown = sorted(chosen - set(everybody))
        if unknown:
            raise ArgumentError(
                f"held_out: no data of {', '.join(map(repr, unknown))}; known patients: {', '.join(everybody) or 'none'}"
            )
    if everybody and chosen == set(everybody) and held_out != 1:
        raise ArgumentError(
            f"held_out: all {len(everybody)} patients would be held out and none trained on; hold out fewer or name them"
        )
    return data.of([patient for patient in everybody if patient not in chosen]), data.of(sorted(chosen))
