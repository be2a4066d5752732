"""How bright tissues are: relative to fat in a T1-weighted gradient echo, in HU with contrast agent in the blood.

Values are those of the textbooks, rounded; a person's depart a little from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2n2.simulation.person.settings import VolumeContrast

__all__ = ["Tones", "draw_tones"]

_MR = {
    "air": 0.0, "lung": 0.105, "fat": 0.80, "skin": 0.42, "muscle": 0.33, "blood": 0.66, "vein": 0.60, "myocardium": 0.42,
    "liver": 0.47, "spleen": 0.42, "kidney": 0.50, "pelvis": 0.25, "stomach": 0.36, "content": 0.30, "bowel": 0.38, "gas": 0.02,
    "cortical": 0.06, "marrow": 0.50, "disc": 0.32, "cartilage": 0.40, "csf": 0.18, "cord": 0.42, "airway": 0.015,
    "airway wall": 0.30, "fissure": 0.24, "diaphragm": 0.34, "oesophagus": 0.34, "pericardium": 0.20,
}  # fmt: skip
_CT = {
    "air": -1000.0, "lung": -850.0, "fat": -105.0, "skin": 5.0, "muscle": 55.0, "blood": 190.0, "vein": 150.0, "myocardium": 105.0,
    "liver": 108.0, "spleen": 120.0, "kidney": 165.0, "pelvis": 60.0, "stomach": 60.0, "content": 20.0,
    "bowel": 45.0, "gas": -900.0, "cortical": 620.0, "marrow": 210.0,
    "disc": 85.0, "cartilage": 110.0, "csf": 15.0, "cord": 40.0, "airway": -985.0,
    "airway wall": -60.0, "fissure": -640.0, "diaphragm": 60.0, "oesophagus": 45.0, "pericardium": 30.0,
}  # fmt: skip
_SOFT = ("liver", "spleen", "kidney", "muscle", "myocardium", "blood")


@dataclass(frozen=True)
class Tones:
    """Brightness by tissue.

    Parameters
    ----------
    values
        By name.
    contrast
        What the numbers are.
    """

    values: dict[str, float]
    contrast: VolumeContrast

    def __getitem__(self, tissue: str) -> float:
        return self.values[tissue]

    @property
    def grain(self) -> float:
        """Standard deviation of the texture of soft tissue, in units of brightness."""
        return 0.025 if self.contrast == "mr" else 6.0

    def mixed(self, first: str, second: str, share: float) -> float:
        """Between two tissues: 0 the first, 1 the second."""
        return self[first] + share * (self[second] - self[first])


def draw_tones(rng: np.random.Generator, contrast: VolumeContrast, variation: float) -> Tones:
    """The tones of one person."""
    values = dict(_MR if contrast == "mr" else _CT)
    for tissue in _SOFT:
        departure = float(np.clip(rng.normal(), -2, 2)) * variation
        values[tissue] += departure * (0.04 * values[tissue] if contrast == "mr" else 8.0)
    return Tones(values, contrast)
