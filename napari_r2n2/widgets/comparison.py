"""Choosers of what frames are compared by and what they are registered to, in plain words."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox

from napari_r2n2.widgets.choosers import combo

__all__ = ["choose", "measure_combo", "target_combo"]

_MEASURES = {
    "automatic": "auto",
    "intensities": "ssd",
    "local intensities": "lncc",
    "edges": "ngf",
    "self-similarity": "mind",
    "intensity curve": "curve",
}
_MEASURE_TIP = (
    "What frames are compared by.\n"
    "automatic: intensities, or edges where the contrast of the series changes; which and why is said below.\n"
    "intensities (ssd): tissue keeps its brightness. The network knows only these; otherwise Gaussians are fitted without it.\n"
    "local intensities (lncc): brightness changes smoothly from place to place.\n"
    "edges (ngf): contrast changes or reverses and edges stay, as in inversion recovery or with contrast agent.\n"
    "self-similarity (mind): contrast changes in any way; for where edges do not help.\n"
    "intensity curve (curve): brightness changes the same way everywhere, as with another gamma or a negative."
)
_TARGETS = {
    "reference": "reference",
    "mean": "mean",
    "median": "median",
    "previous": "previous",
    "1 component": "pca:1",
    "2 components": "pca:2",
    "3 components": "pca:3",
    "4 components": "pca:4",
}
_TARGET_TIP = (
    "What frames are registered to; mean, median and components take three times as long.\n"
    "reference: the reference frame itself, right for most series.\n"
    "mean, median: that of the aligned series over time, for a reference frame that is noisy.\n"
    "previous: each frame to its neighbour on the side of the reference, composed back to it: for texture that changes\n"
    "on its way, as speckle does; errors add up, and the result is no sequence of Gaussians.\n"
    "components: for each frame an image of its own, the mean of the series and its part along the first principal components\n"
    "over time (pca), for contrast that changes along the series; take as few as the contrast allows."
)


def measure_combo() -> QComboBox:
    """Values of ``RegistrationConfig.similarity``."""
    return _of(_MEASURES, _MEASURE_TIP)


def target_combo() -> QComboBox:
    """Values of ``RegistrationConfig.target``."""
    return _of(_TARGETS, _TARGET_TIP)


def choose(box: QComboBox, value: str) -> None:
    """Choose a value; one that a result was made with and that is not offered is offered from now on."""
    if box.findData(value) < 0:
        box.addItem(value, value)
    box.setCurrentIndex(box.findData(value))


def _of(values: dict[str, str], tip: str) -> QComboBox:
    box = combo(tip)
    for label, value in values.items():
        box.addItem(label, value)
    return box
