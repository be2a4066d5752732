"""The paper's Figure 7 of one pair, and what each step of the sequence brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt

from r2n2.registration import Pairs
from r2n2.transform import GaussianSequence, warp_image

__all__ = ["FIGURE_7_STEPS", "draw_error_against_steps", "draw_figure_7"]

FIGURE_7_STEPS = (2, 4, 8, 25)


def draw_figure_7(path: Path, pairs: Pairs, index: int, stages: dict[int, GaussianSequence]) -> None:
    """Fixed, moving and warped image and the displacement, whole and after some steps: the sequence as it then was."""
    moving, sequence = pairs.moving[index], stages[max(stages)]
    warped = warp_image(moving, sequence)
    unit = pairs.grid.unit_mm
    fields = [one.displacement_field().vectors * unit for one in (sequence, *stages.values())]
    largest = float(torch.stack(fields).norm(dim=1).max())
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    high = float(pairs.fixed[index].quantile(0.99))
    images = ((pairs.fixed[index], "fixed image"), (moving, "moving image"), (warped, "warped image"))
    for axis, (image, title) in zip(axes[0], images, strict=False):
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=high)
        axis.set_title(title, fontsize=9)
    titles = ("final displacement", *(f"displacement t = {step}" for step in stages))
    for axis, field, title in zip((axes[0, 3], *axes[1]), fields, titles, strict=True):
        shown = axis.imshow(field.norm(dim=0), cmap="magma", vmin=0, vmax=largest)
        axis.contour(field.norm(dim=0), levels=np.linspace(0, largest, 8)[1:], colors="white", linewidths=0.3)
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes[:, 3], label="mm", shrink=0.8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_error_against_steps(path: Path, errors: list[list[float]], spline_mm: float) -> None:
    """Mean error after every step over all slice positions, each of them thin, and the B-spline's as a line."""
    if not errors:
        return
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    for one in errors:
        axis.plot(one, color="0.8", linewidth=0.6)
    axis.plot(np.mean(errors, axis=0), color="C0", linewidth=2, label="R2N2")
    axis.axhline(spline_mm, color="C1", linestyle="--", label="B-spline")
    axis.set(xlabel="step t", ylabel="mean TRE, mm", ylim=(0, None), xlim=(0, len(errors[0]) - 1))
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
