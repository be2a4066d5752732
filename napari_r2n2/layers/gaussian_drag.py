"""Dragging the selected Gaussian in the canvas: inside it moves, at the rim it widens or, with Shift, turns, by its tip it aims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_r2n2.models.gaussian_edits import moved, pointed, set_by_hand, turned, widened
from r2n2.errors import R2N2Error

if TYPE_CHECKING:
    from napari_r2n2.layers.result_layers import ResultLayers
    from r2n2.transform import GaussianSequence

__all__ = ["GaussianDrag", "Grip", "grip"]

_TIP = 0.02  # of the longer side: as far from the tip of the arrow it is still meant
_INSIDE, _RIM = 0.8, 1.3  # standard deviations

Place = tuple[float, float]


class Grip(Enum):
    """By what a Gaussian is held; the value says what a drag does."""

    TIP = "its arrow was scaled"
    INSIDE = "it was moved"
    RIM = "it was widened or turned"


class GaussianDrag:
    """Edits while ``on``; a drag that ends becomes an exchange of the frame's result, which can be taken back."""

    def __init__(self, results: ResultLayers, say: Callable[[str], None]) -> None:
        self._results, self._say = results, say
        self.on = False
        results.viewer.mouse_drag_callbacks.append(self._drag)

    def close(self) -> None:
        """Let go of the viewer."""
        self.on = False
        callbacks = self._results.viewer.mouse_drag_callbacks
        if self._drag in callbacks:
            callbacks.remove(self._drag)

    def _drag(self, viewer: Any, event: Any) -> Iterator[None]:
        session, key = self._results.session, self._results.key
        step, place = session.selection, self._results.place
        if not self.on or key is None or step is None or place is None or event.button != 1:
            return
        sequence = session.sequence(key)
        if sequence is None or step > len(sequence) or sequence.grid.ndim != 2:
            return
        start = _pixel(event, place)
        held = grip(sequence, step, start)
        if held is None:
            return
        camera = viewer.scene.camera
        pan, camera.mouse_pan = camera.mouse_pan, False
        found = None
        yield
        try:
            while event.type == "mouse_move":
                found = dragged(sequence, step, held, start, _pixel(event, place), turn="Shift" in event.modifiers)
                self._results.draw_gaussians(found)
                yield
        finally:
            camera.mouse_pan = pan
        if found is not None:
            try:
                session.exchange(key, set_by_hand(session.registration, key, found, f"Gaussian {step}: {held.value}"))
            except (R2N2Error, OSError) as error:
                self._say(str(error))


def grip(sequence: GaussianSequence, step: int, at: Place) -> Grip | None:
    """By what a press at (y, x) holds a Gaussian; None beside it."""
    centre, tip = _centre(sequence, step), _tip(sequence, step)
    if math.dist(at, tip) < _TIP * max(sequence.grid.shape) and math.dist(tip, centre) > 0:
        return Grip.TIP
    sigmas = _sigmas(sequence, step, at)
    return Grip.INSIDE if sigmas < _INSIDE else Grip.RIM if sigmas < _RIM else None


def dragged(sequence: GaussianSequence, step: int, held: Grip, start: Place, end: Place, *, turn: bool) -> GaussianSequence:
    """The sequence after a drag from ``start`` to ``end``."""
    centre = _centre(sequence, step)
    if held is Grip.TIP:
        return pointed(sequence, step, end)
    if held is Grip.INSIDE:
        return moved(sequence, step, (centre[0] + end[0] - start[0], centre[1] + end[1] - start[1]))
    if turn:
        return turned(sequence, step, math.degrees(_angle(sequence, centre, end) - _angle(sequence, centre, start)))
    return widened(sequence, step, _sigmas(sequence, step, end) / max(_sigmas(sequence, step, start), 1e-6))


def _pixel(event: Any, place: Any) -> Place:
    y, x = np.subtract(event.position[-2:], place.translate[-2:]) / np.asarray(place.plane)
    return float(y), float(x)


def _centre(sequence: GaussianSequence, step: int) -> Place:
    from r2n2.geometry import Space

    y, x = sequence.grid.convert_points(sequence.centres[step - 1 : step], Space.NORMALISED, Space.INDEX)[0].tolist()
    return float(y), float(x)


def _tip(sequence: GaussianSequence, step: int) -> Place:
    from r2n2.geometry import Space

    tip = sequence.centres[step - 1 : step] + sequence.amplitudes[step - 1 : step]
    y, x = sequence.grid.convert_points(tip, Space.NORMALISED, Space.INDEX)[0].tolist()
    return float(y), float(x)


def _sigmas(sequence: GaussianSequence, step: int, at: Place) -> float:
    """How many standard deviations a position lies from the centre, in its direction."""
    import torch

    from r2n2.geometry import Space
    from r2n2.transform import precision_matrix

    point = sequence.grid.convert_points(torch.tensor([at], dtype=torch.float64), Space.INDEX, Space.NORMALISED)[0]
    offset = point - sequence.centres[step - 1].double()
    precision = precision_matrix(sequence.sigmas[step - 1 : step].double(), sequence.orientation[step - 1 : step].double())[0]
    return float((offset @ precision @ offset).sqrt())


def _angle(sequence: GaussianSequence, centre: Place, at: Place) -> float:
    """From x towards y, in mm."""
    sy, sx = sequence.grid.spacing
    return math.atan2((at[0] - centre[0]) * sy, (at[1] - centre[1]) * sx)
