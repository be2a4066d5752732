"""Short series of many kinds whose motion is known at places all over what they show: to calibrate and to judge a radius of error.

Kinds: simulated thoraxes, also with oblong pixels; slices of real hearts moved by the data engine's motions (of the patients that
training validates on); drawn pictures moved likewise; drawn fluorescence; thoraxes and slices in noise; moved planes of a real CT
and moved histology; and, made from the thoraxes and slices, frames that lie far away or show another contrast. A seed is used for
one thing only: seeds 100-139 and the first two patients to calibrate, 140-199 and the third patient to judge. Nothing here is test
data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from held_out import VALIDATION_PATIENTS, _png_pairs
from moved_slices import acquired, moved, places_in_frame, stretched
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter, map_coordinates
from unseen_kind import fluorescence, motions_in_time

from r2n2.geometry import Grid
from r2n2.registration import Pairs
from r2n2.simulation import EngineConfig, MotionConfig, PairEngine, ThoraxConfig, thorax_series
from r2n2.simulation.random_motion import draw_motion

__all__ = [
    "CALIBRATION_SEEDS",
    "EVALUATION_SEEDS",
    "FRAMES",
    "KINDS",
    "LEFT_OUT",
    "KnownSeries",
    "drawn_places",
    "known_series",
    "shifted",
    "within",
]

CALIBRATION_SEEDS, EVALUATION_SEEDS = range(100, 140), range(140, 200)
FRAMES = 3
"""Moving frames of a series."""
LEFT_OUT = ("ct", "histology")
"""Kinds that nothing is calibrated on: they show what transfers."""
_SIDE_PX = 256
_PLACES = 160
_FROM_BORDER_PX = 6
_BODY = 0.12
_SOFTENED_PX = 0.7
_MOVING = MotionConfig(none_share=0.0)
_FAR = (0.08, 0.4)  # of the longer side
_LIFTED = 0.3
_NOISE = (0.15, 0.5)  # of the reference's standard deviation


@dataclass(frozen=True, eq=False)
class KnownSeries:
    """Moving frames that are to be registered to the first.

    Parameters
    ----------
    kind, name
        One of ``KINDS``, and what to call the series.
    frames
        (T + 1, 1, H, W) float32; frame 0 is the reference.
    grid
        Lattice of every frame; a spacing of 1 where the pixel size is unknown.
    points
        (N, 2) INDEX in the reference.
    places
        (T, N, 2) INDEX where they lie in each moving frame; NaN where they have left it.
    """

    kind: str
    name: str
    frames: torch.Tensor
    grid: Grid
    points: NDArray[np.float64]
    places: NDArray[np.float64]

    @property
    def pairs(self) -> Pairs:
        """The batch to register; pair k belongs to frame k + 1."""
        moving = self.frames[1:]
        valid = torch.ones(1, dtype=torch.bool).expand_as(moving)
        return Pairs(self.frames[:1].expand_as(moving), moving, valid, valid, self.grid)


def known_series(kind: str, seeds: range, data: Path) -> Iterator[KnownSeries]:
    """One series a seed.

    Parameters
    ----------
    data
        The folder of real pictures.
    """
    for seed in seeds:
        yield KINDS[kind](seed, data)


def drawn_places(rng: np.random.Generator, image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Places (N, 2) anywhere in the body, which is what is brighter than the ground, its holes filled."""
    smooth = gaussian_filter(image.astype(np.float64), 4)
    low, high = np.quantile(smooth, (0.005, 0.995))
    body = binary_fill_holes(smooth > low + _BODY * (high - low))
    inner = np.zeros_like(body)
    inner[_FROM_BORDER_PX:-_FROM_BORDER_PX, _FROM_BORDER_PX:-_FROM_BORDER_PX] = True
    inside = np.argwhere(body & inner)
    chosen = rng.choice(len(inside), min(_PLACES, len(inside)), replace=False)
    return inside[np.sort(chosen)].astype(np.float64)


def within(places: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Places of a frame, NaN for those that have left it."""
    outside = (places < 0).any(-1) | (places > np.array(shape) - 1).any(-1)
    return np.where(outside[..., None], np.nan, places)


def _thorax(seed: int, data: Path | None = None, *, oblong: bool = False) -> KnownSeries:
    rng = np.random.default_rng([seed, 41, oblong])
    options = {"shape": (176, 208), "spacing_mm": (2.6, 1.9)} if oblong else {"shape": (_SIDE_PX, _SIDE_PX)}
    depth, flow, noise = (
        float(rng.choice((14.0, 18.0, 26.0))),
        float(rng.choice((0.08, 0.08, 0.3))),
        float(rng.choice((0.02, 0.05))),
    )
    truth = thorax_series(
        ThoraxConfig(seed=seed, breathing_depth_mm=depth, flow_effect=flow, noise=noise, slices=5, slice=seed % 5, **options)
    )
    chosen = rng.choice(len(truth.series), FRAMES + 1, replace=False)
    frames = np.stack([truth.series.frame(int(k)) for k in chosen]).astype(np.float32)
    points = drawn_places(rng, frames[0, 0])
    places = np.stack([truth.track(points, int(chosen[0]), int(k)) for k in chosen[1:]])
    kind = "oblong" if oblong else "thorax"
    shape = truth.series.grid.shape
    return KnownSeries(kind, f"{kind} {seed}", torch.from_numpy(frames), truth.series.grid, points, within(places, shape))


def _of_picture(kind: str, seed: int, picture: NDArray[np.floating], grid: Grid, *, gentle: bool = False) -> KnownSeries:
    """A picture moved by random motions, as a scanner would show it."""
    rng = np.random.default_rng([seed, 42, sum(map(ord, kind))])
    image = gaussian_filter(stretched(picture), _SOFTENED_PX)
    size = image.shape[0]
    drawn = (
        motions_in_time(rng, size, FRAMES, 0.045)
        if gentle
        else np.stack([draw_motion(rng, size, _MOVING)[0].double().numpy() * (size - 1) / 2 for _ in range(FRAMES)])
    )
    shown = np.stack([image, *(moved(image, motion) for motion in drawn)])
    points = drawn_places(rng, image)
    places = np.stack([places_in_frame(points, motion) for motion in drawn])
    return KnownSeries(
        kind, f"{kind} {seed}", acquired(rng, shown, noise=float(rng.choice((0.01, 0.02, 0.05)))), grid, points, places
    )


def _slice(seed: int, data: Path) -> KnownSeries:
    patient = VALIDATION_PATIENTS[2] if seed in EVALUATION_SEEDS else VALIDATION_PATIENTS[seed % 2]
    slices = list(_png_pairs(data, patient))
    _, phases = slices[(seed // 2) % len(slices)]
    return _of_picture("slices", seed, phases[0][0], Grid(phases[0][0].shape, (1.4, 1.4)))


def _engine(seed: int, data: Path) -> KnownSeries:
    """One pair a frame of its own picture would be three series: here one pair is the whole series."""
    config = EngineConfig(real_share=0.0, synthetic_share=1.0, motion=_MOVING)
    batch = PairEngine((), (), config, seed=seed).batch(0, 1, _SIDE_PX)
    rng = np.random.default_rng([seed, 43])
    inside = np.argwhere(batch.fixed_valid[0, 0].numpy())
    points = inside[np.sort(rng.choice(len(inside), min(_PLACES, len(inside)), replace=False))]
    vectors = batch.displacement[0].double().numpy()[:, points[:, 0], points[:, 1]].T * (_SIDE_PX - 1) / 2
    frames = torch.stack((batch.fixed[0], batch.moving[0]))
    places = within((points + vectors)[None], (_SIDE_PX, _SIDE_PX))
    return KnownSeries("drawn", f"drawn {seed}", frames, Grid((_SIDE_PX, _SIDE_PX)), points.astype(np.float64), places)


def _fluorescence(seed: int, data: Path) -> KnownSeries:
    drawn = fluorescence(seed, FRAMES)
    points = drawn_places(np.random.default_rng([seed, 49]), drawn.frames[0, 0].numpy())
    places = np.stack([places_in_frame(points, motion) for motion in drawn.motions])
    return KnownSeries("fluorescence", f"fluorescence {seed}", drawn.frames, drawn.grid, points, places)


def _ct(seed: int, data: Path) -> KnownSeries:
    import SimpleITK

    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(data / "plastimatch-4dct" / "t0.mha"))).astype(np.float64)
    plane = volume[::-1, 70 + (seed * 7) % 110].clip(-1000, 600)
    axes = [np.linspace(0, n - 1, _SIDE_PX) for n in plane.shape]
    picture = map_coordinates(plane, np.meshgrid(*axes, indexing="ij"), order=1)
    spacing = (2.5 * (plane.shape[0] - 1) / (_SIDE_PX - 1), 1.953)
    return _of_picture("ct", seed, picture, Grid(picture.shape, spacing))


def _histology(seed: int, data: Path) -> KnownSeries:
    import imageio.v3
    from skimage.transform import downscale_local_mean

    folder = data / "birl-histology" / "data-images"
    paths = sorted(path for name in ("lesions_", "rat-kidney_") for path in (folder / name).rglob("*.jpg"))
    whole = imageio.v3.imread(paths[seed % len(paths)])[..., :3].mean(-1)
    coarse = downscale_local_mean(whole, (2, 2))
    rng = np.random.default_rng([seed, 44])
    top, left = (int(rng.integers(0, max(n - _SIDE_PX, 0) + 1)) for n in coarse.shape)
    picture = 255 - coarse[top : top + _SIDE_PX, left : left + _SIDE_PX]
    return _of_picture("histology", seed, picture, Grid(picture.shape), gentle=True)


def _far(seed: int, data: Path) -> KnownSeries:
    return shifted(_thorax(seed, data) if seed % 2 else _slice(seed, data), seed, "far")


def shifted(base: KnownSeries, seed: int, kind: str) -> KnownSeries:
    """The same with moving frames shifted by up to 40 % of the side; their edge is repeated."""
    rng = np.random.default_rng([seed, 45])
    frames, places = base.frames.clone(), base.places.copy()
    side = frames.shape[-1]
    for k in range(FRAMES):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*_FAR) * side
        shift = np.rint(length * np.array((np.sin(angle), np.cos(angle)))).astype(int)
        rows, columns = (np.clip(np.arange(n) - s, 0, n - 1) for n, s in zip(frames.shape[2:], shift, strict=True))
        frames[k + 1, 0] = frames[k + 1, 0][rows][:, columns]
        places[k] = within(places[k] + shift, base.grid.shape)
    return replace(base, kind=kind, name=f"{kind} {seed}", frames=frames, places=places)


def _noisy(seed: int, data: Path) -> KnownSeries:
    """Thoraxes and slices with more noise than the others: that alone makes no frame wrong."""
    base = _thorax(seed, data) if seed % 2 else _slice(seed, data)
    rng = np.random.default_rng([seed, 50])
    added = torch.from_numpy(rng.normal(0, float(rng.uniform(*_NOISE)) * float(base.frames[0].std()), base.frames.shape))
    return replace(base, kind="noisy", name=f"noisy {seed}", frames=base.frames + added.float())


def _contrast(seed: int, data: Path) -> KnownSeries:
    """Thoraxes and slices whose moving frames show their tissue in another contrast."""
    base = _thorax(seed, data) if seed % 2 else _slice(seed, data)
    rng = np.random.default_rng([seed, 46])
    frames = base.frames.clone()
    changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
        lambda x: 1 - x,
        lambda x: x.clamp_min(0) ** 0.4,
        lambda x: x.clamp_min(0) ** 2.5,
        lambda x: 2 * (x - _LIFTED).abs(),
        lambda x: torch.sin(4 * x),
    )
    for k in range(FRAMES):
        low, high = torch.quantile(frames[k + 1], torch.tensor((0.005, 0.995)))
        frames[k + 1] = 1000 * changes[int(rng.integers(len(changes)))]((frames[k + 1] - low) / (high - low))
    return replace(base, kind="contrast", name=f"contrast {seed}", frames=frames)


def _oblong(seed: int, data: Path) -> KnownSeries:
    return _thorax(seed, data, oblong=True)


KINDS: dict[str, Callable[[int, Path], KnownSeries]] = {
    "thorax": _thorax,
    "oblong": _oblong,
    "slices": _slice,
    "drawn": _engine,
    "fluorescence": _fluorescence,
    "noisy": _noisy,
    "ct": _ct,
    "histology": _histology,
    "far": _far,
    "contrast": _contrast,
}
