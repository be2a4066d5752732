"""Changes of one Gaussian of a sequence by hand; each gives a new sequence, steps count from 1, positions are (y, x) in pixels."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from napari_r2n2.models.registration import FrameKey, Registration
    from r2n2.registration import FrameResult
    from r2n2.transform import GaussianSequence

__all__ = ["added", "moved", "pointed", "refitted_around", "set_by_hand", "turned", "widened", "without"]

_NARROWEST, _WIDEST = 0.02, 1.0  # NORMALISED
_NEW_SIGMA = 0.17

Place = tuple[float, float]


def moved(sequence: GaussianSequence, step: int, to: Place) -> GaussianSequence:
    """Its centre lies there."""
    return _with(sequence, step, "centres", _normalised(sequence, to))


def pointed(sequence: GaussianSequence, step: int, tip: Place) -> GaussianSequence:
    """The arrow of its amplitude ends there."""
    return _with(sequence, step, "amplitudes", _normalised(sequence, tip) - sequence.centres[step - 1])


def widened(sequence: GaussianSequence, step: int, factor: float) -> GaussianSequence:
    """So many times as wide along both axes, within what a Gaussian may be."""
    return _with(sequence, step, "sigmas", (sequence.sigmas[step - 1] * factor).clamp(_NARROWEST, _WIDEST))


def turned(sequence: GaussianSequence, step: int, degrees: float) -> GaussianSequence:
    """Turned from x towards y."""
    return _with(sequence, step, "orientation", sequence.orientation[step - 1] + math.radians(degrees))


def without(sequence: GaussianSequence, step: int) -> GaussianSequence:
    """All but this one."""
    import torch

    if not 1 <= step <= len(sequence):
        raise IndexError(f"there is no Gaussian {step}: the sequence has {len(sequence)}")
    return sequence.select(torch.tensor([k for k in range(len(sequence)) if k != step - 1], dtype=torch.long))


def added(sequence: GaussianSequence, at: Place) -> GaussianSequence:
    """One more, round and of no amplitude, as the last step."""
    import torch

    centres = sequence.centres
    return replace(
        sequence,
        centres=torch.cat((centres, _normalised(sequence, at)[None])),
        sigmas=torch.cat((sequence.sigmas, centres.new_full((1, 2), _NEW_SIGMA))),
        orientation=torch.cat((sequence.orientation, centres.new_zeros(1, 1))),
        amplitudes=torch.cat((sequence.amplitudes, centres.new_zeros(1, 2))),
    )


def set_by_hand(registration: Registration, key: FrameKey, sequence: GaussianSequence, what: str) -> FrameResult:
    """The result of a frame with a sequence that a person made, measured anew, with the status EDITED.

    Raises
    ------
    ReadError
        If a frame cannot be read any more.
    """
    from r2n2.registration import edited_result

    place = (registration.series[key.slice_index], registration.references[key.slice_index])
    message = f"frame {key.frame}: edited by hand, {what}"
    return edited_result(*place, registration.results[key], sequence, message, masks=registration.masks_of(key.slice_index))


class _Share(float):
    """Share done."""

    @property
    def fraction(self) -> float:
        """In [0, 1]."""
        return float(self)


def refitted_around(registration: Registration, key: FrameKey, step: int) -> Generator[_Share, None, FrameResult]:
    """Fit all other Gaussians of a frame again around this one; the result is returned."""
    from r2n2.errors import ArgumentError
    from r2n2.registration import refit_around

    config = registration.config
    if config is None or key not in registration.results:
        raise ArgumentError(f"frame {key.frame} is not aligned yet")
    running = refit_around(
        registration.series[key.slice_index],
        registration.references[key.slice_index],
        registration.results[key],
        [step - 1],
        config,
        masks=registration.masks_of(key.slice_index),
        message=f"frame {key.frame}: edited by hand, fitted again around Gaussian {step}",
    )
    while True:
        try:
            share = next(running)
        except StopIteration as end:
            result: FrameResult = end.value
            return result
        yield _Share(share)


def _normalised(sequence: GaussianSequence, place: Place) -> Tensor:
    import torch

    from r2n2.geometry import Space

    point = torch.tensor([place], dtype=torch.float64)
    found: Tensor = sequence.grid.convert_points(point, Space.INDEX, Space.NORMALISED)[0]
    return found.to(sequence.centres.dtype)


def _with(sequence: GaussianSequence, step: int, name: str, value: Tensor) -> GaussianSequence:
    if not 1 <= step <= len(sequence):
        raise IndexError(f"there is no Gaussian {step}: the sequence has {len(sequence)}")
    changed = getattr(sequence, name).clone()
    changed[step - 1] = value.to(changed)
    return replace(sequence, **{name: changed})
