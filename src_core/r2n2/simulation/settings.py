"""Settings of the simulated thorax."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from r2n2.config import Config

__all__ = ["ThoraxConfig"]

_OUTERMOST = 0.8  # position of the first and the last slice
_Pixels = Annotated[int, Field(ge=16, le=2048)]
_Millimetres = Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]


class ThoraxConfig(Config):
    """A free-breathing coronal thorax MR series; the same settings give the same series, bit for bit, on one machine."""

    seed: int = Field(default=0, ge=0)
    """Chooses the anatomy, the breathing and the noise."""
    slices: int = Field(default=1, ge=1, le=40)
    """Coronal slice positions that the person is seen at, evenly from the back to the front; 1: through the middle of the chest."""
    slice: int = Field(default=0, ge=0)
    """Which of them this series is of, 0 the rearmost. Positions were acquired one after the other: each has breaths of its own."""
    frames: int = Field(default=20, ge=1, le=10000)
    """Number of frames."""
    shape: tuple[_Pixels, _Pixels] = (256, 256)
    """Pixels along y and x."""
    spacing_mm: tuple[_Millimetres, _Millimetres] | None = None
    """Pixel size along y and x; left out: square pixels, with the frame's longer side 384 mm long."""
    frame_interval_s: float = Field(default=0.3, gt=0, le=60)
    """Time between frames."""
    breathing_period_s: float = Field(default=4.0, ge=0.5, le=60)
    """Mean duration of a breath."""
    breathing_depth_mm: float = Field(default=18.0, ge=0, le=30)
    """Mean craniocaudal way of the diaphragm."""
    irregularity: float = Field(default=0.12, ge=0, le=0.4)
    """Relative standard deviation of period and depth from breath to breath, and size of the slow drift."""
    hysteresis_s: float = Field(default=0.25, ge=0, le=2)
    """Time by which the upper lung and the chest wall lag behind the diaphragm."""
    cardiac_rate_hz: float = Field(default=1.15, gt=0, le=12)
    """Heart beats a second."""
    cardiac_amplitude_mm: float = Field(default=3.0, ge=0, le=6)
    """Largest inward motion of the heart's border."""
    noise: float = Field(default=0.02, ge=0, le=0.5)
    """Standard deviation of the noise in each of the two receiver channels (Rician), relative to the signal of blood."""
    bias: float = Field(default=0.35, ge=0, le=2)
    """Strength of the coil sensitivity, which stays in the scanner: about the log of its range over the frame."""
    density_effect: float = Field(default=1.0, ge=0, le=3)
    """How much the lung darkens as it expands; 1 keeps its mass, 0 its brightness."""
    flow_effect: float = Field(default=0.08, ge=0, le=0.5)
    """Relative change of blood's brightness over a heart beat."""
    anatomy_variation: float = Field(default=1.0, ge=0, le=2)
    """How far body, organs and tissue brightness depart from the average; 0: only vessels and textures vary."""
    landmarks: int = Field(default=30, ge=0, le=500)
    """Number of landmarks, most of them at branchings of vessels."""

    @property
    def position(self) -> float:
        """Where the slice lies: -1 the back of the chest's inside, 0 its middle, 1 its front."""
        return 0.0 if self.slices == 1 else _OUTERMOST * (2 * self.slice / (self.slices - 1) - 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.slice >= self.slices:
            raise ValueError(f"slice must be 0 to {self.slices - 1} of {self.slices} slices, got {self.slice}")
        return self
