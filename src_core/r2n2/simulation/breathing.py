"""How far the diaphragm and the heart are on their way at any time: breaths and beats that vary from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from r2n2.simulation.texture import FloatArray
from r2n2.simulation.thorax_motion import FrameState

__all__ = ["DEEPEST_BREATH", "Breathing", "BreathingSettings", "draw_breathing"]

DEEPEST_BREATH = 1.4
"""Largest depth of a breath relative to the mean."""


class BreathingSettings(Protocol):
    """The settings that breaths and beats depend on."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        ...

    @property
    def frame_interval_s(self) -> float:
        """Time between frames."""
        ...

    @property
    def breathing_period_s(self) -> float:
        """Mean duration of a breath."""
        ...

    @property
    def breathing_depth_mm(self) -> float:
        """Mean way of the diaphragm."""
        ...

    @property
    def irregularity(self) -> float:
        """Relative standard deviation of period and depth."""
        ...

    @property
    def hysteresis_s(self) -> float:
        """Time by which the upper lung and the chest wall lag behind."""
        ...

    @property
    def cardiac_rate_hz(self) -> float:
        """Heart beats a second."""
        ...

    @property
    def cardiac_amplitude_mm(self) -> float:
        """Largest inward motion of the heart."""
        ...


@dataclass(frozen=True, eq=False)
class Breathing:
    """Breaths one after the other, and the heart's rhythm.

    Parameters
    ----------
    starts_s, depths
        (N,) beginning of each breath at end-expiration, and its depth relative to the mean.
    drift
        (K, 3): amplitude, rate in Hz and phase of slow changes of the end-expiratory level, relative to the mean depth.
    beat_phase
        Phase of the heart at time 0, in beats.
    """

    starts_s: FloatArray
    depths: FloatArray
    drift: FloatArray
    beat_phase: float

    def level(self, time_s: float) -> float:
        """Way of the diaphragm relative to the mean depth: about 0 at end-expiration, 1 at end-inspiration."""
        breath = int(np.clip(np.searchsorted(self.starts_s, time_s, side="right") - 1, 0, len(self.starts_s) - 2))
        share = (time_s - self.starts_s[breath]) / (self.starts_s[breath + 1] - self.starts_s[breath])
        # Inspiration is quicker than expiration, and the lung rests at its end.
        wave = np.sin(np.pi * np.clip(share, 0, 1) ** 0.85) ** 2.6
        drift = sum(a * np.sin(2 * np.pi * (rate * time_s + phase)) for a, rate, phase in self.drift)
        return float(self.depths[breath] * wave + drift)

    def state(self, config: BreathingSettings, frame: int) -> FrameState:
        """What moves in a frame."""
        time = frame * config.frame_interval_s
        beat = (time * config.cardiac_rate_hz + self.beat_phase) % 1.0
        # Systole takes a third of the beat.
        systole = float(np.sin(np.pi * min(beat / 0.45, 1.0)) ** 2)
        return FrameState(
            lower_mm=config.breathing_depth_mm * self.level(time),
            upper_mm=config.breathing_depth_mm * self.level(time - config.hysteresis_s),
            contraction_mm=config.cardiac_amplitude_mm * systole,
            rocking_mm=0.35 * config.cardiac_amplitude_mm * float(np.sin(2 * np.pi * beat)),
            flow=float(np.cos(2 * np.pi * (beat - 0.2))),
        )


def draw_breathing(rng: np.random.Generator, config: BreathingSettings) -> Breathing:
    """Draw breaths for the whole series."""
    duration = config.frames * config.frame_interval_s + config.hysteresis_s
    mean, spread = config.breathing_period_s, config.irregularity
    count = int(duration / mean / 0.5) + 6
    periods = mean * np.clip(1 + spread * rng.standard_normal(count), 0.5, 1.6)
    depths = np.clip(1 + spread * rng.standard_normal(count + 1), 0.4, DEEPEST_BREATH)
    first = -config.hysteresis_s - periods[0] * rng.uniform(0, 1)
    starts = first + np.concatenate(([0.0], np.cumsum(periods)))
    drift = np.stack((0.25 * spread * rng.uniform(0.3, 1, 3), rng.uniform(0.01, 0.08, 3), rng.uniform(0, 1, 3)), axis=1)
    return Breathing(starts, depths, drift, float(rng.uniform()))
