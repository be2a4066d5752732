"""How the brightness of tissue changes from frame to frame where nothing moves: inversion recovery, uptake, gamma, polarity.

Two parts make a change: a factor of every piece of tissue, which moves with it, and a curve through which a frame's brightness
passes. Brightness is relative to that of blood, before coil sensitivity and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.preprocessing import blur
from r2n2.simulation.material import Label, Material

__all__ = ["Contrast", "ContrastKind", "contrast_of_material", "contrast_of_picture"]

FloatArray = NDArray[np.floating]

_INVERSION_TIMES_MS = (120.0, 4000.0)  # as of a MOLLI: from just after the inversion to recovered
# T1 at 1.5 T: Bojorquez et al., Magn Reson Imaging 2017, rounded.
_T1_MS = {Label.BACKGROUND: 1000.0, Label.BODY: 950.0, Label.LUNG: 1200.0, Label.LIVER: 600.0, Label.HEART: 1050.0}
_FAT_MS, _BLOOD_MS = 290.0, 1500.0
_FAT_FROM = 0.55  # brightness of body tissue that is fat rather than muscle
_UPTAKE = {Label.BACKGROUND: 0.0, Label.BODY: 0.15, Label.LUNG: 0.5, Label.LIVER: 0.9, Label.HEART: 0.7}
_BLOOD_UPTAKE = 1.5
_ARRIVAL = {Label.BACKGROUND: 0.5, Label.BODY: 0.6, Label.LUNG: 0.25, Label.LIVER: 0.5, Label.HEART: 0.3}
_BLOOD_ARRIVAL = 0.2  # share of the series
_PASSAGE = 0.06
_WHITE = 1.2  # becomes black where polarity is reversed
_STEEPEST_GAMMA = 2.2
_CLASSES = 6


class ContrastKind(StrEnum):
    """What changes."""

    SIGNED_RECOVERY = "signed recovery"
    """Inversion recovery with the sign of the magnetisation kept; the inversion times come in random order."""
    MAGNITUDE_RECOVERY = "magnitude recovery"
    """Inversion recovery as a magnitude image shows it."""
    UPTAKE = "uptake"
    """An agent arrives, tissue by tissue, and brightens each by a share of its own."""
    GAMMA = "gamma"
    """Every frame has a gamma of its own."""
    POLARITY = "polarity"
    """Every other frame is a negative."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """A change of contrast drawn for one series.

    Parameters
    ----------
    kind
        What changes.
    levels
        A number a frame: the inversion time in ms, the share of the series that has passed, gamma, or 0 and 1 for a negative.
    t1_ms, uptake, arrival
        (H, W) of the tissue: its T1, its largest relative brightening, and when that is half reached.
    """

    kind: ContrastKind
    levels: tuple[float, ...]
    t1_ms: FloatArray
    uptake: FloatArray
    arrival: FloatArray

    @property
    def signed(self) -> bool:
        """Whether frames may be negative: their noise is then Gaussian."""
        return self.kind is ContrastKind.SIGNED_RECOVERY

    def factor(self, frame: int) -> FloatArray | None:
        """(H, W) by which the brightness of tissue is multiplied; None for 1 everywhere."""
        level = self.levels[frame]
        if self.kind in (ContrastKind.SIGNED_RECOVERY, ContrastKind.MAGNITUDE_RECOVERY):
            return np.asarray(1 - 2 * np.exp(-level / self.t1_ms))
        if self.kind is ContrastKind.UPTAKE:
            return np.asarray(1 + self.uptake / (1 + np.exp((self.arrival - level) / _PASSAGE)))
        return None

    def shown(self, brightness: FloatArray, frame: int) -> FloatArray:
        """Brightness of a frame, of any shape, as it is shown."""
        level = self.levels[frame]
        if self.kind is ContrastKind.GAMMA:
            return np.asarray(np.clip(brightness, 0, None) ** level)
        if self.kind is ContrastKind.POLARITY and level:
            return np.asarray(np.clip(_WHITE - brightness, 0, None))
        return brightness if self.signed else np.abs(brightness)


def contrast_of_material(rng: np.random.Generator, material: Material, kind: ContrastKind, frames: int) -> Contrast:
    """A change for a simulated person: T1 and uptake follow its labels, fat, muscle and blood, with some of its own."""
    signal, blood = material.signal[0], np.clip(material.signal[2], 0, 1)
    labels = np.rint(material.labels).astype(np.int64)
    fat = (labels == Label.BODY) * np.clip((signal - _FAT_FROM) / 0.2 + 0.5, 0, 1)
    width = 0.8 / material.raster.step_mm

    def drawn(values: dict[Label, float], of_fat: float, of_blood: float, spread: float) -> FloatArray:
        table = np.array([values[label] * np.exp(rng.normal(0, spread)) for label in Label])
        tissue = table[labels] * (1 - fat) + of_fat * fat
        mixed = tissue * (1 - blood) + of_blood * np.exp(rng.normal(0, spread)) * blood
        return np.asarray(_smooth(mixed, width))

    t1 = drawn(_T1_MS, _FAT_MS, _BLOOD_MS, 0.1)
    uptake = drawn(_UPTAKE, 0.05, _BLOOD_UPTAKE, 0.25)
    arrival = drawn(_ARRIVAL, 0.6, _BLOOD_ARRIVAL, 0.1)
    return Contrast(kind, _levels(rng, kind, frames), t1, uptake, arrival)


def contrast_of_picture(rng: np.random.Generator, picture: FloatArray, kind: ContrastKind, frames: int) -> Contrast:
    """A change for a picture (H, W) of brightness 0 to about 1 without labels: pixels of like brightness are one tissue."""
    edges = np.quantile(picture, np.linspace(0, 1, _CLASSES + 1)[1:-1])
    tissue = np.digitize(_smooth(picture, 1.0), np.unique(edges))

    def drawn(low: float, high: float) -> FloatArray:
        # Neighbouring brightness need not mean neighbouring T1: fat and blood are both bright.
        values = rng.permutation(np.linspace(low, high, _CLASSES))
        return np.asarray(_smooth(values[tissue], 1.0))

    t1 = np.exp(drawn(np.log(_FAT_MS), np.log(_BLOOD_MS)))
    return Contrast(kind, _levels(rng, kind, frames), t1, drawn(0.0, _BLOOD_UPTAKE), drawn(_BLOOD_ARRIVAL, 0.6))


def _smooth(image: FloatArray, sigma_px: float) -> FloatArray:
    return np.asarray(blur(torch.from_numpy(image)[None, None], (sigma_px, sigma_px))[0, 0].numpy())


def _levels(rng: np.random.Generator, kind: ContrastKind, frames: int) -> tuple[float, ...]:
    if kind in (ContrastKind.SIGNED_RECOVERY, ContrastKind.MAGNITUDE_RECOVERY):
        # In random order: sorted ones would let neighbours in time look alike.
        return tuple(map(float, rng.permutation(np.geomspace(*_INVERSION_TIMES_MS, frames))))
    if kind is ContrastKind.UPTAKE:
        return tuple(k / max(frames - 1, 1) for k in range(frames))
    if kind is ContrastKind.GAMMA:
        steepest = np.log(_STEEPEST_GAMMA)
        return tuple(map(float, np.exp(rng.permutation(np.linspace(-steepest, steepest, frames)))))
    return tuple(float(k % 2) for k in range(frames))
