"""The Gaussians of a frame as lines and their colours: the one of the step on display, those before it, those to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.layers import overlays

if TYPE_CHECKING:
    from r2n2.transform import GaussianSequence

__all__ = ["gaussian_colours", "gaussian_lines", "step_colours"]

# The image below has to be seen.
_CURRENT, _PAST, _FAINT = 0.95, 0.4, 0.1
_OFF_COLOUR = (0.6, 0.6, 0.6, 0.35)


def gaussian_lines(
    sequence: GaussianSequence,
    enabled: NDArray[np.bool_],
    step: int,
    selected: int | None,
    plane: overlays.Plane,
    width: float,
    colormap: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pieces (N, 2, 2) and their colours (N, 4).

    Parameters
    ----------
    enabled
        (T,) whether each Gaussian takes part.
    step
        On display; later ones are faint.
    selected
        Step of the selected Gaussian from 1, drawn bold and with its arrow, or None.
    plane
        Size of a pixel.
    width
        Of a bold line, in the unit of ``plane``.
    """
    outlines = overlays.ellipses(sequence, plane)
    # What reaches beyond the image would make it small whenever napari shows all there is; the selected one stays whole.
    pieces, kept = overlays.cropped(outlines.reshape(-1, 2, 2), sequence.grid.shape, plane)
    colours = np.repeat(gaussian_colours(enabled, step, selected, colormap), outlines.shape[1], axis=0)[kept]
    if selected is not None and selected <= len(sequence):
        own = overlays.bold(np.concatenate((outlines[selected - 1], overlays.arrow(sequence, selected, plane))), width)
        colour = step_colours(colormap, len(sequence))[selected - 1]
        pieces = np.concatenate((pieces, own))
        colours = np.concatenate((colours, np.broadcast_to(colour, (len(own), 4))))
    return pieces, colours


def gaussian_colours(enabled: NDArray[np.bool_], step: int, selected: int | None, colormap: str) -> NDArray[np.float64]:
    """(T, 4): colour by step, faint where the step is still to come, grey where it is switched off."""
    count = len(enabled)
    colours = step_colours(colormap, count)
    colours[:, 3] = np.where(np.arange(count) < step, _PAST, _FAINT)
    if selected is not None and selected <= count:
        colours[selected - 1, 3] = _CURRENT
    colours[~enabled] = _OFF_COLOUR
    return colours


def step_colours(colormap: str, count: int) -> NDArray[np.float64]:
    """(count, 4) colours along a napari colormap; its dark and bright ends are left out, as they vanish on an image."""
    from napari.utils.colormaps import ensure_colormap

    return np.array(ensure_colormap(colormap).map(np.linspace(0.1, 0.9, max(count, 1)))[:count], dtype=np.float64)
