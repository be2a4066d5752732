"""The question what the axes of a file mean, asked where the file is opened and neither it nor its format says so."""

from __future__ import annotations

import re
from pathlib import Path

from qtpy.QtWidgets import QApplication, QInputDialog

__all__ = ["ask_axes", "axes_in_question", "meanings"]

_SHAPE = re.compile(r"shape \(([\d, ]+)\)")
# Letters as the readers take them, slow to fast; what moves in time is what is mostly meant.
_MEANINGS = {
    2: {"YX": "y, x (a single image)"},
    3: {"TYX": "time, y, x", "ZYX": "slice, y, x (a volume, nothing in time)"},
    4: {
        "TZYX": "time, slice, y, x",
        "ZTYX": "slice, time, y, x",
        "TCYX": "time, channel, y, x",
        "TYXC": "time, y, x, channel",
    },
    5: {
        "TZCYX": "time, slice, channel, y, x",
        "TCZYX": "time, channel, slice, y, x",
        "TZYXC": "time, slice, y, x, channel",
        "ZTYXC": "slice, time, y, x, channel",
    },
}


def axes_in_question(problem: str) -> tuple[int, ...] | None:
    """Shape of the array whose axes a reader could not tell, (0, 0, 0) where it does not name it; None for another problem."""
    if "--axes" not in problem:
        return None
    found = _SHAPE.search(problem)
    return tuple(int(n) for n in found[1].replace(",", " ").split()) if found else (0, 0, 0)


def meanings(shape: tuple[int, ...]) -> dict[str, str]:
    """Text -> letters of what so many axes may mean."""
    sizes = " x ".join(map(str, shape)) if any(shape) else ""
    return {f"{text}   [{sizes}]" if sizes else text: letters for letters, text in _MEANINGS.get(len(shape), {}).items()}


def ask_axes(place: Path, shape: tuple[int, ...]) -> str | None:
    """Letters of the axes, slow to fast as in NumPy, or None where the person does not say or nothing is known to be meant."""
    known = meanings(shape)
    if not known:
        return None
    text, said = QInputDialog.getItem(
        QApplication.activeWindow(),
        "R2N2: what do the axes mean?",
        f"{place.name} does not say what its {len(shape)} axes mean.\nSlow to fast, as NumPy counts them:",
        list(known),
        0,
        False,
    )
    return known[text] if said and text in known else None
