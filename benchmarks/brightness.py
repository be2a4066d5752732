"""Landmark error of fit with other settings than usual, on development series of all kinds: what brightness, or trust, is worth.

usage: python benchmarks/brightness.py [--set KEY=VALUE ...] [--method fit|r2n2] [--parts thorax slices ct ...] [--frames 3]

A table row a part and each of: the settings as they are, and with what --set changes, such as brightness=0 or trust=false (which
needs at least 5 frames). Thoraxes are those of seeds 100 to 115; `pulse` are those of 100 to 107 at 192 pixels with three times the
usual brightness change of blood. CT and histology are single pictures that motions move, without the shading of coils: tissue keeps
its brightness.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contestants import images_of
from held_out import Case, data_folder, held_out_cases
from moved_slices import acquired, landmarks_of, moved, stretched, textured_places
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from unseen_kind import KINDS

from r2n2.benchmark.scores import FrameTruth, score_frame
from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.registration import Method, automatic_reference, build_method
from r2n2.series import LandmarkSet
from r2n2.simulation import MotionConfig, ThoraxConfig, thorax_series
from r2n2.simulation.random_motion import draw_motion

PARTS = ("thorax", "pulse", "slices", "ct", "histology", "ultrasound", "fluorescence", "contoured")
_SIDE_PX = 256
_CT_PLANES = (100, 120, 140, 160)
_HISTOLOGY = (
    "lesions_/scale-5pc/Izd2-29-041-w35_HE.jpg",
    "rat-kidney_/scale-5pc/Rat-Kidney_HE.jpg",
    "images/artificial_reference.jpg",
    "lesions_/scale-5pc/Izd2-29-041-w35_proSPC.jpg",
)


def cases_of(part: str, frames: int) -> Iterator[Case]:
    """The series of a part, at most ``frames`` moving frames each."""
    if part == "thorax":
        yield from (_thorax(ThoraxConfig(seed=seed), frames) for seed in range(100, 116))
    elif part == "pulse":
        yield from (_thorax(ThoraxConfig(seed=seed, shape=(192, 192), flow_effect=0.24), frames) for seed in range(100, 108))
    elif part == "ct":
        yield from _moved(part, _planes(), 150, frames)
    elif part == "histology":
        yield from _moved(part, _sections(), 160, frames)
    elif part in KINDS:
        drawn = (KINDS[part](seed, frames) for seed in range(100, 108))
        yield from (Case("unseen", f"{part} {k}", d.frames, d.grid, d.landmarks) for k, d in enumerate(drawn, 100))
    else:
        found = held_out_cases((part,), data_folder(), frames=frames, validation=True)
        yield from list(found)[:: 2 if part == "contoured" else 1]


def _thorax(config: ThoraxConfig, frames: int) -> Case:
    truth = thorax_series(config)
    reference = automatic_reference(truth.series)
    others = [k for k in range(len(truth.series)) if k != reference]
    chosen = [reference, *(others[round(k)] for k in np.linspace(0, len(others) - 1, min(frames, len(others))))]
    kept = [truth.landmarks.in_frame(k) for k in chosen]
    landmarks = LandmarkSet(
        tuple(name for part in kept for name in part.ids),
        np.repeat(np.arange(len(chosen)), [len(part) for part in kept]),
        np.concatenate([part.points for part in kept]),
        truth.landmarks.space,
    )
    images = torch.stack([torch.from_numpy(truth.series.frame(k).astype(np.float32)) for k in chosen])
    return Case("thorax", f"thorax {config.seed}", images, truth.series.grid, landmarks)


def _moved(part: str, pictures: Iterator[tuple[NDArray[np.float64], Grid]], seed: int, frames: int) -> Iterator[Case]:
    for number, (picture, grid) in enumerate(pictures, seed):
        rng = np.random.default_rng([number, 21])
        image = gaussian_filter(stretched(picture), 0.7)
        drawn = [draw_motion(rng, _SIDE_PX, MotionConfig(none_share=0.0))[0] for _ in range(frames)]
        motions = np.stack([motion.double().numpy() * (_SIDE_PX - 1) / 2 for motion in drawn])
        shown = np.stack([image, *(moved(image, motion) for motion in motions)])
        yield Case(
            part, f"{part} {number}", acquired(rng, shown, bias=0.0), grid, landmarks_of(textured_places(image, 40), motions)
        )


def _planes() -> Iterator[tuple[NDArray[np.float64], Grid]]:
    import SimpleITK

    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(data_folder() / "plastimatch-4dct" / "t0.mha"))).astype(np.float64)
    for plane in _CT_PLANES:
        image = zoom(volume[::-1, plane].clip(-1000, 950), (2, 1), order=1)
        yield image, Grid(image.shape, (1.25, 1.953))


def _sections() -> Iterator[tuple[NDArray[np.float64], Grid]]:
    import imageio.v3
    from skimage.transform import resize

    root: Path = data_folder() / "birl-histology" / "data-images"
    for name in _HISTOLOGY:
        image = imageio.v3.imread(root / name).astype(np.float64)
        image = image.mean(-1) if image.ndim == 3 else image
        side = min(image.shape)
        first = [(n - side) // 2 for n in image.shape]
        image = image[first[0] : first[0] + side, first[1] : first[1] + side]
        yield resize(255 - image, (_SIDE_PX, _SIDE_PX), anti_aliasing=True), Grid((_SIDE_PX, _SIDE_PX))


@dataclass
class _Found:
    """What one setting came to on a part."""

    errors: list[float]
    overlaps: list[float]
    seconds: float = 0.0
    frames: int = 0

    def add(self, method: Method, case: Case) -> None:
        began = time.process_time()
        *_, last = method.register(case.pairs)
        transforms = last.transforms()
        self.seconds += time.process_time() - began
        for frame, transform in enumerate(transforms, start=1):
            labels = None if case.masks is None else np.stack([case.masks[0], case.masks[frame]])
            score = score_frame(images_of(case), frame - 1, transform, FrameTruth(frame, 0, case.landmarks, labels))
            self.errors += list(score.tre_mm)
            self.overlaps += [] if labels is None else [score.dice]
            self.frames += 1

    def cells(self) -> list[str]:
        cells = [""] * 5
        if self.errors:
            every = np.array(self.errors)
            numbers = (every.mean(), np.median(every), np.quantile(every, 0.95), every.max())
            cells = [*(f"{number:.3f}" for number in numbers), str(int((every > 5).sum()))]
        return [*cells, f"{np.mean(self.overlaps):.4f}" if self.overlaps else "", f"{self.seconds / self.frames:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", default=["brightness=0"], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--method", choices=["fit", "r2n2"], default="fit")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--frames", type=int, default=3, help="moving frames a series")
    parser.add_argument("--most", type=int, default=None, help="series a part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changed = {name: json.loads(value) for name, value in (text.split("=") for text in arguments.settings)}
    usual = RegistrationConfig(method=arguments.method, initial="none", similarity="ssd")
    other = usual.model_copy(update={"fit": FitConfig(**changed)})
    methods = {"as it is": build_method(usual), ", ".join(arguments.settings): build_method(other)}
    print("| part | settings | mean mm | median | 95 % | largest | beyond 5 mm | Dice | s/frame |\n" + "|" + "---|" * 9)
    for part in arguments.parts:
        found = {name: _Found([], []) for name in methods}
        for case in list(cases_of(part, arguments.frames))[: arguments.most]:
            # In turn, so that both times are of the same minutes.
            for name, method in methods.items():
                found[name].add(method, case)
        for name, result in found.items():
            print(f"| {' | '.join([part, name, *result.cells()])} |", flush=True)


if __name__ == "__main__":
    main()
