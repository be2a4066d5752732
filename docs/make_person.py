"""Draw docs/images/person.png: a simulated person in three planes, two contrasts and two phases, and its truth.

usage: python docs/make_person.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from r2n2.simulation import PersonConfig, PersonLabel, SimulatedVolume, person_series

IMAGES = Path(__file__).with_name("images")
GRID = {"shape": (104, 128, 168), "spacing_mm": (3.0, 2.2, 2.1), "frames": 10}
# What is shown from black to white: in CT lung and soft tissue have most of the greys.
GREYS = {"mr": ((0, 950), (0, 1)), "ct": ((-1000, -550, -160, 260, 800), (0, 0.42, 0.48, 0.88, 1))}
COLOURS = ("#00000000", "#00000000", "#4c9be8", "#7fd1c7", "#e4576b", "#c98a3b", "#f5ead0", "#b9a7e0")


def main() -> None:
    """Simulate one person in both contrasts, draw, save."""
    figure, panels = plt.subplots(4, 4, figsize=(12.6, 12.2), facecolor="black", layout="constrained")
    for first, contrast in enumerate(("mr", "ct")):
        volume = person_series(PersonConfig(seed=100, contrast=contrast, **GRID))
        low = volume.landmarks.points[:, 0].reshape(10, -1).mean(axis=1)
        phases = int(np.argmax(low)), int(np.argmin(low))
        for row, phase in enumerate(phases):
            frame = volume.series.frame(phase)[0]
            axes = panels[2 * first + row]
            for axis, (plane, aspect) in zip(axes, planes(volume, frame), strict=False):
                shown = np.interp(plane, *GREYS[contrast])
                axis.imshow(shown, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="bicubic")
            name = f"{contrast.upper()}, {('end of expiration', 'end of inspiration')[row]}"
            axes[0].set_title(name, color="white", fontsize=10, loc="left")
        draw_truth(volume, phases, panels[2 * first : 2 * first + 2, 3], labels=contrast == "mr")
    for axis in panels.ravel():
        axis.axis("off")
    figure.savefig(IMAGES / "person.png", dpi=80, facecolor="black", pil_kwargs={"optimize": True})


def planes(volume: SimulatedVolume, values: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Axial, coronal and sagittal plane with their aspects, as radiologists look at them."""
    dz, dy, dx = volume.series.grid.spacing
    z, y, x = (n // 2 for n in values.shape)
    return [
        (values[z + 1], dy / dx),
        (values[::-1, y - 2], dz / dx),
        (values[::-1, :, x - 28], dz / dy),
    ]


def draw_truth(volume: SimulatedVolume, phases: tuple[int, int], axes: np.ndarray, *, labels: bool) -> None:
    """Below each other: labels and the way to the feet, or landmarks and the change of volume."""
    frame = planes(volume, volume.series.frame(phases[0])[0])[1]
    upper, lower = axes
    grey = np.interp(frame[0], *GREYS["mr" if labels else "ct"])
    upper.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=frame[1])
    if labels:
        plane = planes(volume, volume.label_map(phases[0]))[1][0]
        upper.imshow(plane, cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=len(PersonLabel) - 0.5, aspect=frame[1], alpha=0.55)
        upper.set_title("labels", color="white", fontsize=10)
        way = -volume.displacement(*phases).vectors.numpy()[0]
        show_map(lower, planes(volume, way)[1], "way to the feet in mm", "viridis", (0.0, float(way.max())))
    else:
        points = volume.landmarks.in_frame(phases[0]).points
        height = volume.series.grid.shape[0]
        upper.scatter(points[:, 2], height - 1 - points[:, 0], s=9, c="#ffd24a", linewidths=0)
        upper.set_title("landmarks, all depths", color="white", fontsize=10)
        change = volume.volume_change(*phases)
        show_map(lower, planes(volume, change)[1], "volume over that at expiration", "RdBu", (0.6, 1.4))


def show_map(axis: Axes, plane: tuple[np.ndarray, float], title: str, colours: str, limits: tuple[float, float]) -> None:
    """A map of numbers with its colour bar."""
    shown = axis.imshow(plane[0], cmap=colours, vmin=limits[0], vmax=limits[1], aspect=plane[1])
    axis.set_title(title, color="white", fontsize=10)
    bar = axis.figure.colorbar(shown, ax=axis, fraction=0.045, pad=0.02)
    bar.ax.tick_params(colors="white", labelsize=8)


if __name__ == "__main__":
    main()
