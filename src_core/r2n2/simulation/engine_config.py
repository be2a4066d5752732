"""Settings of the data engine: how often each motion and each change of appearance occurs, and how strong it may be."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from r2n2.config import Config

__all__ = ["AppearanceConfig", "EngineConfig", "MotionConfig"]

_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0)]
_Range = tuple[float, float]


def _check_rising(name: str, limits: tuple[float, float]) -> None:
    """Refuse a range that is not two positive numbers, the smaller first."""
    if not 0 < limits[0] <= limits[1]:
        raise ValueError(f"{name} must be a smaller and a larger positive number, got {limits}")


class MotionConfig(Config):
    """Kinds of motion; lengths are NORMALISED, half the side of the square."""

    gaussians: _Weight = 0.25
    """How often, relative to the other kinds: a few random anisotropic Gaussians."""
    breathing: _Weight = 0.25
    """How often: motion along an axis, largest at a curved diaphragm, sometimes sliding along the chest wall."""
    cardiac: _Weight = 0.2
    """How often: an elliptic ring that contracts or expands."""
    smooth: _Weight = 0.2
    """How often: a band-limited random field."""
    affine: _Weight = 0.1
    """How often: a small rotation, shift, scale and shear."""
    none_share: _Share = 0.08
    """Share of samples that do not move."""
    sum_share: _Share = 0.2
    """Share of the moving samples with the sum of two motions."""
    factor: _Range = (0.25, 1.0)
    """Every motion is multiplied by a number from this range, even in its logarithm."""
    gaussian_count: tuple[int, int] = (1, 8)
    """Fewest and most Gaussians."""
    gaussian_sigma: _Range = (0.04, 0.6)
    """Range of the standard deviations."""
    gaussian_amplitude: float = Field(default=0.15, ge=0, le=1)
    """Longest displacement of one Gaussian."""
    breathing_amplitude: _Range = (0.03, 0.2)
    """Range of the largest displacement of a breath."""
    sliding_share: _Share = 0.35
    """Share of breaths that slide along the chest wall."""
    cardiac_radius: _Range = (0.1, 0.4)
    """Range of the ring's outer radius."""
    cardiac_contraction: float = Field(default=0.45, ge=0, le=0.5)
    """Largest change of the inner radius, relative to it."""
    smooth_controls: tuple[int, int] = (5, 14)
    """Fewest and most random values along a side."""
    smooth_amplitude: float = Field(default=0.06, ge=0, le=1)
    """Largest standard deviation of a component."""
    affine_strength: float = Field(default=0.1, ge=0, le=0.5)
    """Largest entry of the linear part and largest shift."""
    smallest_jacobian: float = Field(default=0.25, gt=0, lt=1)
    """A motion is made weaker until no Jacobian determinant on the lattice is below this."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gaussians + self.breathing + self.cardiac + self.smooth + self.affine <= 0:
            raise ValueError("at least one kind of motion needs a positive weight")
        for name in ("factor", "gaussian_sigma", "breathing_amplitude", "cardiac_radius"):
            _check_rising(name, getattr(self, name))
        if not 1 <= self.gaussian_count[0] <= self.gaussian_count[1]:
            raise ValueError("gaussian_count must be two rising numbers of at least 1")
        if not 4 <= self.smooth_controls[0] <= self.smooth_controls[1]:
            raise ValueError("smooth_controls must be two rising numbers of at least 4")
        return self


class AppearanceConfig(Config):
    """Changes of appearance, for intensities of about 0 to 1; a probability each, then how strong."""

    invert: _Share = 0.3
    """Bright becomes dark, in both images."""
    gamma: _Share = 0.5
    """A power from ``gamma_range`` on both images."""
    gamma_range: _Range = (0.5, 2.0)
    """Range of the power."""
    mapping: _Share = 0.25
    """A random piecewise linear mapping of both images' intensity, rising with at most one falling piece."""
    texture: _Share = 0.4
    """Multiplicative band-limited noise that moves with the tissue."""
    texture_strength: _Range = (0.03, 0.3)
    """Range of its standard deviation."""
    vessels: _Share = 0.35
    """Bright or dark curved tubes that move with the tissue."""
    bias: _Share = 0.5
    """A smooth brightness factor that stays in the scanner, nearly the same in both images."""
    bias_strength: _Range = (0.05, 0.4)
    """Range of the standard deviation of its logarithm."""
    bias_change: _Share = 0.15
    """Its difference between the images, relative to it."""
    density: _Share = 0.15
    """Tissue darkens where it expands, as lung does."""
    drift: _Share = 0.35
    """Slight difference of gamma and gain between the images."""
    drift_strength: float = Field(default=0.1, ge=0, le=1)
    """Largest logarithm of that gamma and gain."""
    pulse: _Share = 0.2
    """A small place changes its brightness between the images, as blood does."""
    pulse_strength: float = Field(default=0.3, ge=0, le=2)
    """Largest such change."""
    blur: _Share = 0.15
    """One image is slightly less sharp."""
    blur_px: _Range = (0.3, 0.8)
    """Range of the blur's standard deviation in pixels of the square, at most 0.8."""
    noise: _Share = 0.75
    """Rician (one half) or Gaussian noise, independent in both images."""
    noise_strength: _Range = (0.003, 0.06)
    """Range of the noise's standard deviation, even in its logarithm."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("gamma_range", "texture_strength", "bias_strength", "blur_px", "noise_strength"):
            _check_rising(name, getattr(self, name))
        if self.blur_px[1] > 0.8:
            raise ValueError(f"blur_px must be at most 0.8 pixels, got {self.blur_px}")
        return self


class EngineConfig(Config):
    """The stream of training pairs."""

    real_share: _Share = 0.3
    """Share of pairs taken from real series, if there are any, instead of simulated from a slice."""
    synthetic_share: _Share = 0.15
    """Share of simulated pairs made from a drawn picture instead of a real slice; all of them if there is no slice."""
    zoom: _Range = (0.7, 1.6)
    """Range of the magnification of a source; 1 shows all of it."""
    rotation_deg: float = Field(default=15.0, ge=0, le=180)
    """Largest rotation of the view."""
    quarter_turns: _Share = 0.25
    """Share of views turned by a multiple of 90 degrees as well."""
    flips: _Share = 0.5
    """Probability of a mirrored view."""
    shift: float = Field(default=0.1, ge=0, le=1)
    """Largest shift of the view, beyond what the zoom leaves out, NORMALISED."""
    motion: MotionConfig = MotionConfig()
    appearance: AppearanceConfig = AppearanceConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_rising("zoom", self.zoom)
        return self
