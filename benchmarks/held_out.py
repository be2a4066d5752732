"""Series to measure on that no weight was trained on, and as many of other patients and seeds that settings may be chosen on.

Test: slices of the two contoured cine patients and of the breathing CT moved by the data engine's motions (seeds 0-99), simulated
thoraxes (seeds 0-9), drawn ultrasound (seeds 0-99), contoured end-diastole and end-systole of the cine patients, the breathing CT.
Development: slices and contours of the patients that training validates on, thorax seeds 100-107, drawn fluorescence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from moved_slices import acquired, landmarks_of, moved, stretched, textured_places
from numpy.typing import NDArray
from real_series import PATIENTS, PHASES, contoured_slices, endocardium
from scipy.ndimage import gaussian_filter, map_coordinates
from unseen_kind import KINDS, Drawn

from r2n2.geometry import Grid
from r2n2.registration import Pairs, automatic_reference
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.simulation import MotionConfig, ThoraxConfig, thorax_series
from r2n2.simulation.random_motion import draw_motion

__all__ = ["PARTS", "Case", "data_folder", "held_out_cases", "moved_pictures"]

PARTS = ("slices", "thorax", "unseen", "contoured", "breathing")
VALIDATION_PATIENTS = ("SC-HF-I-08", "SC-HF-NI-07", "SC-HYP-08")
_SIDE_PX = 256
_MARKS = 40
_SOFTENED_PX = 0.7
_MOTIONS = MotionConfig(none_share=0.0)
_CT_COLUMNS = slice(24, 629)  # of the GIF: the rest is a black border
_CT_SPACING_MM = (2.315, 2.157)  # of the 128 x 128 pixels it was enlarged from
_CT_PLANES = (48, 64, 80)  # coronal planes of the volume, well inside the chest; the GIF shows plane 92


@dataclass(frozen=True, eq=False)
class Case:
    """A short series to register: every frame but the first to the first.

    Parameters
    ----------
    part, name
        One of ``PARTS``, and what to call the series.
    frames
        (T, 1, H, W) float32; frame 0 is the reference.
    grid
        Lattice of every frame; a spacing of 1 where the pixel size is unknown.
    landmarks
        Exact places in INDEX, if known.
    masks
        (T, H, W) uint8, if something is outlined.
    """

    part: str
    name: str
    frames: torch.Tensor
    grid: Grid
    landmarks: LandmarkSet | None = None
    masks: NDArray[np.uint8] | None = None

    def first(self, count: int | None) -> Case:
        """The same series with at most ``count`` moving frames."""
        return self if count is None or len(self.frames) <= count + 1 else replace(self, frames=self.frames[: count + 1])

    @property
    def pairs(self) -> Pairs:
        """The batch to register; pair k belongs to frame k + 1."""
        moving = self.frames[1:]
        valid = torch.ones(1, dtype=torch.bool).expand_as(moving)
        return Pairs(self.frames[:1].expand_as(moving), moving, valid, valid, self.grid)

    @property
    def series(self) -> ImageSeries:
        """The same as a series."""
        return ImageSeries(self.frames.numpy(), self.grid, name=self.name)


def data_folder() -> Path:
    """The folder of real series: R2N2_DATA, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("R2N2_DATA", beside))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; set R2N2_DATA to the folder of real series")
    return folder


def held_out_cases(
    parts: tuple[str, ...], data: Path | None, *, frames: int, most: int | None = None, validation: bool = False
) -> Iterator[Case]:
    """The series of the parts, ``frames`` moving frames each, at most ``most`` series a part."""
    for part in parts:
        if part == "slices":
            cases = _moved_slices(_dev_slices(data) if validation else _test_slices(data), 50 if validation else 0, frames)
        elif part == "thorax":
            cases = (_thorax(seed, frames) for seed in (range(100, 108) if validation else range(10)))
        elif part == "unseen":
            cases = (_drawn("fluorescence" if validation else "ultrasound", seed, frames) for seed in range(4))
        elif part == "contoured":
            cases = _dev_contoured(data) if validation else _test_contoured(data)
        else:
            cases = iter(()) if validation else _breathing(data, frames)
        for number, case in enumerate(cases):
            if number == most:
                break
            yield case


def _moved_slices(slices: Iterator[tuple[str, NDArray[np.float64], Grid]], seed: int, frames: int) -> Iterator[Case]:
    for number, (name, image, grid, motions, rng) in enumerate(_with_motions(slices, seed, frames)):
        shown = np.stack([image, *(moved(image, motion) for motion in motions)])
        marks = landmarks_of(textured_places(image, _MARKS), motions)
        yield Case("slices", f"{name}, seed {seed + number}", acquired(rng, shown), grid, marks)


def _with_motions(
    slices: Iterator[tuple[str, NDArray[np.float64], Grid]], seed: int, frames: int
) -> Iterator[tuple[str, NDArray[np.float64], Grid, NDArray[np.float64], np.random.Generator]]:
    for number, (name, image, grid) in enumerate(slices):
        rng = np.random.default_rng([seed + number, 21])
        # What noise the picture has would else move with the tissue, a perfect texture for whoever follows single pixels.
        image = gaussian_filter(stretched(image), _SOFTENED_PX)
        drawn = [draw_motion(rng, _SIDE_PX, _MOTIONS) for _ in range(frames)]
        yield name, image, grid, np.stack([motion.double().numpy() * (_SIDE_PX - 1) / 2 for motion, _ in drawn]), rng


def moved_pictures(
    data: Path, seed: int, frames: int, *, validation: bool
) -> Iterator[tuple[str, NDArray[np.float64], Grid, NDArray[np.float64]]]:
    """Name, picture of brightness 0 to about 1, lattice and motions (frames, 2, n, n) in pixels of the slices that are moved."""
    for name, image, grid, motions, _ in _with_motions(_dev_slices(data) if validation else _test_slices(data), seed, frames):
        yield name, image, grid, motions


def _test_slices(data: Path | None) -> Iterator[tuple[str, NDArray[np.float64], Grid]]:
    """Four slices of each cine patient and four coronal ones of the breathing CT, alternating so that a few are of all kinds."""
    cine = [_cine_slices(data, patient) for patient in PATIENTS]
    ct = _ct_slices(data)
    for _ in range(4):
        for source in (*cine, ct):
            yield next(source)


def _cine_slices(data: Path, patient) -> Iterator[tuple[str, NDArray[np.float64], Grid]]:
    root = data / "sunnybrook-cine" / "final_data"
    numbers = sorted(contoured_slices(root, patient))
    for number in [numbers[round(share * (len(numbers) - 1))] for share in (0.15, 0.4, 0.65, 0.9)]:
        image, grid = _cine_frame(root, patient.dicom, number * PHASES + patient.diastole + 1)
        yield f"{patient.dicom} slice {number}", image, grid


def _cine_frame(root: Path, patient: str, instance: int) -> tuple[NDArray[np.float64], Grid]:
    import pydicom

    header = pydicom.dcmread(root / "dicoms" / patient / f"{instance}.dcm")
    spacing = tuple(float(s) for s in header.PixelSpacing)
    return header.pixel_array.astype(np.float64), Grid(header.pixel_array.shape, spacing)


def _ct_slices(data: Path) -> Iterator[tuple[str, NDArray[np.float64], Grid]]:
    import nibabel

    frames, grid = _ct_frames(data)
    yield "breathing CT", frames[0], grid
    volume = np.asarray(nibabel.load(data / "tcia-4dlung-103" / "LungCT_0103_0005.nii.gz").dataobj, dtype=np.float64)
    for plane in _CT_PLANES:
        image, grid = _enlarged(volume[:, plane, :].T[::-1].clip(-1000, 950))
        yield f"breathing CT, plane {plane}", image, grid


def _ct_frames(data: Path) -> tuple[NDArray[np.float64], Grid]:
    """The breathing series at 256 x 256, twice what it was taken at."""
    import imageio.v3
    from skimage.transform import resize

    pictures = imageio.v3.imread(data / "tcia-4dlung-103" / "Real_TCIA_103.gif")[..., _CT_COLUMNS, 0].astype(np.float64)
    coarse = [resize(picture, (128, 128), order=1, anti_aliasing=True, preserve_range=True) for picture in pictures]
    enlarged = [_enlarged(picture) for picture in coarse]
    return np.stack([image for image, _ in enlarged]), enlarged[0][1]


def _enlarged(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], Grid]:
    grid = Grid(image.shape, _CT_SPACING_MM).resized((_SIDE_PX, _SIDE_PX))
    axes = [np.linspace(0, n - 1, _SIDE_PX) for n in image.shape]
    return map_coordinates(image, np.meshgrid(*axes, indexing="ij"), order=3, mode="nearest"), grid


def _thorax(seed: int, frames: int) -> Case:
    truth = thorax_series(ThoraxConfig(seed=seed, shape=(_SIDE_PX, _SIDE_PX)))
    series, marks = truth.series, truth.landmarks
    reference = automatic_reference(series)
    others = [k for k in range(len(series)) if k != reference]
    # Spread over the whole series: neighbouring frames show nearly the same breath.
    chosen = [reference, *(others[round(k)] for k in np.linspace(0, len(others) - 1, min(frames, len(others))))]
    images = torch.stack([torch.from_numpy(series.frame(k).astype(np.float32)) for k in chosen])
    kept = [marks.in_frame(k) for k in chosen]
    landmarks = LandmarkSet(
        tuple(name for part in kept for name in part.ids),
        np.repeat(np.arange(len(chosen)), [len(part) for part in kept]),
        np.concatenate([part.points for part in kept]),
        marks.space,
    )
    return Case("thorax", f"thorax seed {seed}", images, series.grid, landmarks)


def _drawn(kind: str, seed: int, frames: int) -> Case:
    drawn: Drawn = KINDS[kind](seed, frames)
    return Case("unseen", f"{kind} seed {seed}", drawn.frames, drawn.grid, drawn.landmarks)


def _test_contoured(data: Path) -> Iterator[Case]:
    root = data / "sunnybrook-cine" / "final_data"
    for patient in PATIENTS:
        folder = root / "contourfiles" / patient.contours / "i-contours"
        for number, instances in sorted(contoured_slices(root, patient).items()):
            images, grids = zip(*(_cine_frame(root, patient.dicom, n) for n in instances), strict=True)
            masks = np.stack([endocardium(folder, n, grids[0].shape) for n in instances])
            stack = torch.from_numpy(np.stack(images)).float()[:, None]
            yield Case("contoured", f"{patient.dicom} slice {number}", stack, grids[0], masks=masks)


def _breathing(data: Path, frames: int) -> Iterator[Case]:
    pictures, grid = _ct_frames(data)
    stack = torch.from_numpy(pictures).float()[:, None]
    reference = automatic_reference(ImageSeries(stack.numpy(), grid))
    order = [reference, *(k for k in range(len(stack)) if k != reference)]
    yield Case("breathing", "breathing CT", stack[order][: frames + 1], grid)


def _png_pairs(data: Path, patient: str) -> Iterator[tuple[str, list[tuple[NDArray[np.float64], NDArray[np.uint8]]]]]:
    """Name of a slice, and image and mask of end-diastole, then end-systole, of every slice with both."""
    import imageio.v3

    root = data / "sunnybrook-edes-png" / "Data" / "Train"
    slices: dict[int, list[tuple[NDArray[np.float64], NDArray[np.uint8]]]] = {}
    for path in sorted(root.glob(f"Images/*/{patient}-IM-0001-*.png")):
        number = (int(re.search(r"IM-0001-(\d{4})", path.name)[1]) - 1) // PHASES
        mask = imageio.v3.imread(root / "Labels" / path.parent.name / path.name)
        mask = (mask if mask.ndim == 2 else mask[..., 0]) > 127
        slices.setdefault(number, []).append((imageio.v3.imread(path)[..., 0].astype(np.float64), mask.astype(np.uint8)))
    for number, phases in slices.items():
        if len(phases) == 2:
            # The larger cavity is that of end-diastole.
            yield f"{patient} slice {number}", sorted(phases, key=lambda phase: -int(phase[1].sum()))


def _dev_slices(data: Path) -> Iterator[tuple[str, NDArray[np.float64], Grid]]:
    found = [list(_png_pairs(data, patient)) for patient in VALIDATION_PATIENTS]
    for share in (0.2, 0.5, 0.8):
        for slices in found:
            name, phases = slices[round(share * (len(slices) - 1))]
            yield name, phases[0][0], Grid(phases[0][0].shape)


def _dev_contoured(data: Path) -> Iterator[Case]:
    for patient in VALIDATION_PATIENTS:
        for name, phases in _png_pairs(data, patient):
            if phases[1][1].sum() < 60:
                continue  # a closed apex has no outline to carry over
            stack = torch.from_numpy(np.stack([image for image, _ in phases])).float()[:, None]
            masks = np.stack([mask for _, mask in phases])
            yield Case("contoured", name, stack, Grid(tuple(stack.shape[2:])), masks=masks)
