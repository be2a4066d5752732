"""What was measured of a frame's registration, in the words and the unit of its series."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_r2n2.models.lengths import Lengths
    from r2n2.registration import FrameResult, Uncertainty

__all__ = ["described_quality", "described_uncertainty"]


def described_quality(result: FrameResult, lengths: Lengths) -> str:
    """How alike the frame and the reference are, before and after, and what the displacement does; as rich text."""
    # In the words of the command's table.
    alike = "Correlation" if result.similarity_measure == "ssd" else f"Agreement ({result.similarity_measure})"
    # Proven for the whole frame, or of the pixel lattice in results from before there was a proof.
    smallest = result.min_jacobian_proven if math.isfinite(result.min_jacobian_proven) else result.min_jacobian
    return (
        f"{alike} {result.similarity_before:.4f} → <b>{result.similarity_after:.4f}</b>, "
        f"folding {result.folding_percent:.2f} %, smallest Jacobian determinant {smallest:.2f}, "
        f"largest displacement {lengths.text(result.max_displacement_mm)}"
    )


def described_uncertainty(uncertainty: Uncertainty, lengths: Lengths) -> str:
    """How far half and most of what is seen may be off."""
    half, most = lengths.text(uncertainty.median_mm), lengths.text(uncertainty.q95_mm)
    text = f"Half of what is seen is off by less than {half}, 95 % of it by less than {most}, each with 90 % probability"
    return f"{text} (not calibrated: {uncertainty.uncalibrated})" if uncertainty.uncalibrated else text
