"""The picture of docs/concepts/uncertainty.md: error and radius of one frame, and how often radii hold, kind by kind.

usage: python benchmarks/uncertainty_figure.py FIGURE.png --rows FOLDER [--seeds 60]

The frame is the one with the largest motion of a simulated thorax of development; the rows are those of benchmarks/uncertainty.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from error_rows import METHODS, Rows, kept_rows, register
from held_out import data_folder
from known_motion import EVALUATION_SEEDS, KINDS, LEFT_OUT
from radius_fit import LEVELS, places_of
from uncertainty import WRONG, kind_weights, radii

from r2n2.geometry import Space
from r2n2.registration import Pairs
from r2n2.registration.uncertainty import uncertainty_estimator
from r2n2.registration.uncertainty.tables import shipped_tables
from r2n2.report.style import AFTER_COLOUR, BEFORE_COLOUR, STYLE
from r2n2.simulation import ThoraxConfig, thorax_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEED, _MOST_MM = 150, 5.0
_GREY = "#8a929c"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=len(EVALUATION_SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(kept_rows(tuple(KINDS), EVALUATION_SEEDS, arguments.seeds, ("r2n2",), data_folder(), arguments.rows))
    _draw(*_one_frame(), rows, arguments.figure)


def _one_frame() -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Reference, error and radius in mm of the frame with the largest motion, and the spacing."""
    truth = thorax_series(ThoraxConfig(seed=_SEED))
    grid = truth.series.grid
    exact = max(
        (truth.displacement(0, k) for k in range(1, len(truth.series))), key=lambda field: float(field.magnitude_mm().max())
    )
    frame = next(k for k in range(1, len(truth.series)) if bool((truth.displacement(0, k).vectors == exact.vectors).all()))
    images = [torch.from_numpy(truth.series.frame(k).astype(np.float32))[None] for k in (0, frame)]
    valid = torch.ones_like(images[0], dtype=torch.bool)
    pairs = Pairs(*images, valid, valid, grid)
    transforms, _ = register(pairs, "r2n2")
    estimator = uncertainty_estimator(METHODS["r2n2"])
    assert estimator is not None
    radius = estimator.estimate(pairs, transforms)[0].on(grid).numpy()
    found = transforms[0].displacement_field().to_space(Space.WORLD).vectors
    error = (found - exact.to_space(Space.WORLD).vectors).norm(dim=0).numpy()
    return images[0][0, 0].numpy(), error, radius, (grid.spacing[0], grid.spacing[1])


def _draw(
    image: np.ndarray, error: np.ndarray, radius: np.ndarray, spacing: tuple[float, float], rows: Sequence[Rows], path: Path
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11.5, 3.1), layout="constrained")
        cells = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.15))
        options: dict[str, Any] = {"aspect": spacing[0] / spacing[1], "interpolation": "nearest"}
        cells[0].imshow(image, cmap="gray", vmin=np.quantile(image, 0.005), vmax=np.quantile(image, 0.995), **options)
        for cell, values in zip(cells[1:3], (error, radius), strict=True):
            drawn = cell.imshow(values, cmap="inferno", vmin=0, vmax=_MOST_MM, **options)
        bar = figure.colorbar(drawn, ax=cells[1:3].tolist(), fraction=0.024, pad=0.02, extend="max")
        bar.set_label("mm")
        bar.outline.set_visible(False)
        for cell, title in zip(cells, ("a  reference", "b  error", "c  radius of 90 %", "d  how often radii hold"), strict=True):
            cell.set_title(title, loc="left")
        for cell in cells[:3]:
            cell.set_xticks([])
            cell.set_yticks([])
            for spine in cell.spines.values():
                spine.set_visible(False)
        _reliability(cells[3], rows)
        figure.savefig(path, dpi=130)


def _reliability(axes: Axes, rows: Sequence[Rows]) -> None:
    table = shipped_tables().methods["r2n2"]
    asked = [100 * level for level in LEVELS]
    axes.plot((40, 100), (40, 100), color=_GREY, linewidth=0.9, linestyle=(0, (3, 3)))
    groups = {
        "ordinary kinds": (lambda kind: kind not in (*WRONG, *LEFT_OUT), AFTER_COLOUR, "o"),
        "far or of another contrast": (lambda kind: kind in WRONG, BEFORE_COLOUR, "s"),
        "kinds never calibrated on": (lambda kind: kind in LEFT_OUT, "#2a7f62", "^"),
    }
    for label, (belongs, colour, marker) in groups.items():
        some = [row for row in rows if belongs(row.kind)]
        places = places_of(some, tuple(table.features))
        weight = kind_weights(places)
        held = [100 * np.average(places.error <= radii(table, some, level), weights=weight) for level in LEVELS]
        axes.plot(asked, held, color=colour, marker=marker, markersize=4.5, linewidth=1.3, label=label)
    axes.set_xlabel("probability of the radius (%)")
    axes.set_ylabel("places within it (%)")
    axes.set_xlim(46, 99)
    axes.set_ylim(40, 100)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="lower right", borderpad=0)


if __name__ == "__main__":
    main()
