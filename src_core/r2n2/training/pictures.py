"""What a validation shows in TensorBoard: example warps, and the sequence of Gaussians that made them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from r2n2.network import RecurrentNetwork
from r2n2.registration.base import Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.simulation.engine import SimulatedBatch
from r2n2.training.chunk import square_pairs
from r2n2.training.journal import Journal
from r2n2.transform import GaussianSequence, warp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["can_draw", "example_figure", "show_examples"]

_EXAMPLES = 4


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def show_examples(journal: Journal, update: int, network: RecurrentNetwork, batch: SimulatedBatch, *, steps: int) -> None:
    """Write figures of the first validation pairs to the journal."""
    whole = square_pairs(batch)
    part = slice(0, min(_EXAMPLES, len(whole)))
    pairs = whole.part(part)
    *_, last = RecurrentMethod(network, steps=steps).register(pairs)
    for index, sequence in enumerate(last.transforms()):
        assert isinstance(sequence, GaussianSequence)
        journal.figure(update, f"example {index}", example_figure(pairs, index, sequence))


def example_figure(pairs: Pairs, index: int, sequence: GaussianSequence) -> Figure:
    """Fixed, moving and warped image, the differences before and after, and the Gaussians with their amplitudes."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    field = sequence.displacement_field().vectors.to(pairs.moving)
    images = (pairs.fixed[index, 0], pairs.moving[index, 0], warp(pairs.moving[index, None], field[None], pairs.grid).image[0, 0])
    # As arrays: matplotlib asks tensors for copies in a way that newer numpy warns of.
    fixed, moving, warped = (image.cpu().numpy() for image in images)
    # No pyplot: it would keep every figure for the whole process.
    figure = Figure(figsize=(15, 2.8), layout="constrained")
    axes = figure.subplots(1, 6)
    low, high = float(fixed.min()), float(fixed.max())
    for axis, image, title in zip(axes, (fixed, moving, warped), ("fixed", "moving", "warped"), strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        axis.set_title(title)
    limit = max(float(abs(moving - fixed).max()), 1e-6)
    for axis, image, title in ((axes[3], moving, "difference before"), (axes[4], warped, "difference after")):
        axis.imshow(image - fixed, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(title)
    axes[5].imshow(fixed, cmap="gray", vmin=low, vmax=high)
    axes[5].set_title(f"{len(sequence)} Gaussians")
    pixels = torch.tensor(pairs.grid.shape).sub(1) / 2
    colours = colormaps["viridis"]
    for step in range(len(sequence)):
        y, x = ((sequence.centres[step] + 1) * pixels).tolist()
        # Squares have as many pixels along both axes: a length in pixels is the same in every direction.
        along, across = (2 * sequence.sigmas[step] * pixels[0]).tolist()
        angle = float(torch.rad2deg(sequence.orientation[step, 0]))
        colour = colours(step / max(1, len(sequence) - 1))
        axes[5].add_patch(Ellipse((x, y), along, across, angle=angle, fill=False, edgecolor=colour, linewidth=0.8))
        v_y, v_x = (sequence.amplitudes[step] * pixels).tolist()
        axes[5].arrow(x, y, v_x, v_y, color=colour, width=0.2, length_includes_head=True)
    for axis in axes:
        axis.set_axis_off()
    return figure
