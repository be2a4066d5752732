"""How lung function is read from an aligned series."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r2n2.config import Config

__all__ = ["LungConfig"]

Band = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class LungConfig(Config):
    """Bands of the rates, and the rules by which maps and defects are made."""

    breathing_hz: Band = (0.05, 0.5)
    """Lowest and highest rate of breathing; infants breathe faster, up to 1 Hz."""
    heart_hz: Band = (0.6, 2.0)
    """Lowest and highest rate of the heart; infants' beats faster, up to 3 Hz."""
    skip: int = Field(default=0, ge=0, le=1000)
    """Frames left out at the beginning, while the magnetisation settles."""
    harmonics: int = Field(default=1, ge=0, le=2)
    """For how many rhythms (breathing, then heart) a second harmonic is fitted, so that a form that is no cosine is no noise."""
    rician: bool = True
    """Whether the bias of magnitude images at low signal is taken away; must be off for images that are no magnitudes, as CT."""
    defect_share: float = Field(default=0.6, gt=0, lt=1)
    """A place counts as defect below this share of the reference value of its map."""
    defect_of: Annotated[str, Field(pattern=r"^(median|p(5[0-9]|[6-9][0-9]))$")] = "p75"
    """The reference value: the median inside the mask, or a percentile (p50 to p99), which defects themselves move less."""
    vessels: float = Field(default=99.0, ge=90, le=100)
    """Percentile of the heart's amplitude inside the mask that stands for large vessels, to which perfusion is normalised."""
    jacobian: Literal["auto", "on", "off"] = "auto"
    """Whether ventilation is also computed from how the tissue widens; auto: where the displacements are known."""

    @model_validator(mode="after")
    def _bands_are_apart(self) -> Self:
        for name in ("breathing_hz", "heart_hz"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name}: expected the lower rate first, got {low:g} to {high:g}")
        if self.breathing_hz[1] > self.heart_hz[0]:
            raise ValueError(
                f"breathing_hz ends at {self.breathing_hz[1]:g} Hz, above where heart_hz begins ({self.heart_hz[0]:g} Hz); "
                "set them apart"
            )
        return self
