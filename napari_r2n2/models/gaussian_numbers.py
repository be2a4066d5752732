"""The numbers of a sequence as a person reads them: columns of a table, and all digits of one Gaussian in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_r2n2.models.lengths import Lengths
    from r2n2.transform import GaussianSequence

__all__ = ["Column", "columns", "described", "rows"]


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, what the numbers are, and how many decimals they have."""

    heading: str
    tip: str
    decimals: int = 1

    def text(self, number: float) -> str:
        """In so few letters that all columns fit into a dock: from 100 on without decimals."""
        # Adding 0 takes the sign off what is rounded to nothing.
        rounded = round(number, self.decimals) + 0.0
        return f"{rounded:.{self.decimals}f}" if abs(rounded) < 100 else f"{number:.0f}"


_IN_SLICES = (
    Column("α", "Angle of the first axis from x towards y, degrees", 0),
    Column("vy", "Displacement at the centre along y"),
    Column("vx", "Displacement at the centre along x"),
)
_ORDINALS = ("first", "second", "third")


def columns(ndim: int) -> tuple[Column, ...]:
    """Of the seven numbers of a Gaussian in a slice; of the twelve in a volume what fits: where, how wide, how far it moves."""
    axes = "zyx"[-ndim:]
    # In a volume whole mm, so that more columns fit.
    decimals = 1 if ndim == 2 else 0
    return (
        *(Column(axis, f"Centre along {axis}", decimals) for axis in axes),
        *(Column(f"σ{k + 1}", f"Standard deviation along the {_ORDINALS[k]} axis", decimals) for k in range(ndim)),
        *(_IN_SLICES if ndim == 2 else (Column("|v|", "Length of the displacement at the centre"),)),
    )


def rows(sequence: GaussianSequence, lengths: Lengths) -> list[list[float]]:
    """Numbers of every step, in the order of ``columns``, in the unit of the series."""
    import torch

    per_mm = lengths.value(1.0)
    vectors = sequence.amplitudes_mm() * per_mm
    last = (sequence.angles_deg()[:, None], vectors) if sequence.grid.ndim == 2 else (vectors.norm(dim=1, keepdim=True),)
    found: list[list[float]] = torch.cat((sequence.centres_mm() * per_mm, sequence.sigmas_mm() * per_mm, *last), dim=1).tolist()
    return found


def described(sequence: GaussianSequence, step: int, lengths: Lengths, *, on: bool) -> str:
    """All numbers of a step, as rich text."""
    import torch

    number, unit, axes = lengths.number, lengths.name, "zyx"[-sequence.grid.ndim :]

    def named(values: list[float]) -> str:
        return ", ".join(f"{axis} {number(value)}" for axis, value in zip(axes, values, strict=True))

    centre, sigmas, vector = (
        values[step - 1].tolist() for values in (sequence.centres_mm(), sequence.sigmas_mm(), sequence.amplitudes_mm())
    )
    if sequence.grid.ndim == 2:
        turned = f"angle {float(sequence.angles_deg()[step - 1]):.1f}°"
    else:
        degrees = torch.rad2deg(sequence.orientation[step - 1]).tolist()
        turned = "turned by " + ", ".join(f"{axis} {angle:.1f}°" for axis, angle in zip(axes, degrees, strict=True))
    length = float(sequence.amplitudes_mm()[step - 1].norm())
    return (
        f"<b>Gaussian {step}{'' if on else ' (off)'}</b>: centre {named(centre)} {unit}; "
        f"σ {', '.join(map(number, sigmas))} {unit}; {turned}; v {named(vector)} {unit} ({number(length)} {unit})"
    )
