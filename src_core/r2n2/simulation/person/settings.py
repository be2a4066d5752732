"""Settings of a simulated person seen in volumes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r2n2.config import Config

__all__ = ["PersonConfig", "VolumeContrast"]

VolumeContrast = Literal["mr", "ct"]
_Voxels = Annotated[int, Field(ge=1, le=512)]
_Millimetres = Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
_Place = Annotated[float, Field(ge=-400, le=400, allow_inf_nan=False)]


class PersonConfig(Config):
    """A breathing person in 3D+t; the same settings give the same series, bit for bit, on one machine."""

    seed: int = Field(default=0, ge=0)
    """Chooses the anatomy, the breathing and the noise."""
    contrast: VolumeContrast = "mr"
    """mr: a T1-weighted gradient echo, magnitudes; ct: Hounsfield units with contrast agent in the blood."""
    frames: int = Field(default=10, ge=1, le=10000)
    """Number of frames."""
    shape: tuple[_Voxels, _Voxels, _Voxels] = (80, 112, 144)
    """Voxels along z, y and x; a slab of one slice is possible."""
    spacing_mm: tuple[_Millimetres, _Millimetres, _Millimetres] = (4.0, 2.5, 2.5)
    """Voxel size along z, y and x."""
    centre_mm: tuple[_Place, _Place, _Place] = (0.0, 0.0, 0.0)
    """Where the middle of the grid lies: z to the head, y to the back, x to the patient's left of the middle of the chest."""
    frame_interval_s: float = Field(default=0.45, gt=0, le=60)
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
    cardiac_amplitude_mm: float = Field(default=5.0, ge=0, le=8)
    """Largest inward motion in the heart."""
    noise: float | None = Field(default=None, ge=0, le=500)
    """Standard deviation of the noise: of each of the two receiver channels relative to fat for mr (Rician), in HU for ct
    (Gaussian); left out: 0.02 or 20 HU."""
    bias: float = Field(default=0.4, ge=0, le=2)
    """Strength of the coil sensitivity of mr, which stays in the scanner: about the log of its range over the body."""
    anatomy_variation: float = Field(default=1.0, ge=0, le=2)
    """How far body and organs depart from the average; 0: only vessels and textures vary."""
    landmarks: int = Field(default=60, ge=0, le=500)
    """Number of landmarks, two thirds of them at branchings of vessels in the five lobes of the lungs."""
