"""The question what the axes of a file mean, asked where the file is opened and neither it nor its format says so."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QApplication, QInputDialog

from r2n2.errors import AxesUnknownError

__all__ = ["ask_axes"]


def ask_axes(place: Path, question: AxesUnknownError) -> str | None:
    """Letters of the axes, slow to fast as in NumPy, or None where the person does not say or nothing is known to be meant."""
    sizes = " x ".join(map(str, question.shape))
    known = {f"{letters}: {meaning}": letters for letters, meaning in question.choices}
    if not known:
        return None
    text, said = QInputDialog.getItem(
        QApplication.activeWindow(),
        "R2N2: what do the axes mean?",
        f"{place.name} holds an array of {sizes} and does not say what its axes mean.\nFrom the slowest to the fastest they are:",
        list(known),
        0,
        False,
    )
    return known[text] if said and text in known else None
