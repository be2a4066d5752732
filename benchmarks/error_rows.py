"""What can be seen of registrations, and how far off they are: features and errors at known places, of one series and method.

Rows are kept in a folder, so that tables can be fitted and judged again without registering anything twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from known_contrast import CONTRAST_KINDS
from known_motion import FRAMES, KINDS, KnownSeries
from numpy.typing import NDArray

from r2n2.config import FitConfig, RegistrationConfig, SimilarityName
from r2n2.geometry import Space
from r2n2.registration import Method, Pairs, build_method
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.measures import agreement, measure_of
from r2n2.registration.uncertainty import backward_pairs
from r2n2.registration.uncertainty.features import features_of, frame_features
from r2n2.transform import GaussianSequence, Transform, sample_normalised

__all__ = ["BACK", "METHODS", "Rows", "kept_rows", "register", "rows_of"]

METHODS = {
    "r2n2": RegistrationConfig(device="cpu", precision="float32"),
    "fit": RegistrationConfig(method="fit", device="cpu"),
    "network": RegistrationConfig(refine=False, device="cpu", precision="float32"),
    "bspline": RegistrationConfig(method="bspline", device="cpu"),
    "ngf": RegistrationConfig(method="fit", similarity="ngf", device="cpu"),
}
"""By the names of ``method_key``."""
BACK = "+back"
"""Behind the name of a method: registered back as well."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Of T frames of a series at N places.

    Parameters
    ----------
    kind, seed, method
        Which series, registered how.
    values
        Feature -> (T, N).
    counts
        (T, N) how much the reference shows there.
    error
        (T, N) NORMALISED; NaN where the place has left the frame.
    frames
        Feature of a frame -> (T,).
    doubts
        (T,) how many reasons there are for doubt without any map of uncertainty.
    unit_mm
        Length of one NORMALISED unit.
    seconds, own_seconds
        Processor time of the registration of a frame, and of its features.
    """

    kind: str
    seed: int
    method: str
    values: dict[str, NDArray[np.float32]]
    counts: NDArray[np.float32]
    error: NDArray[np.float64]
    frames: dict[str, NDArray[np.float32]]
    doubts: NDArray[np.int64]
    unit_mm: float
    seconds: float
    own_seconds: float

    def save(self, path: Path) -> None:
        """As an archive of arrays."""
        arrays = {f"value {k}": v for k, v in self.values.items()} | {f"frame {k}": v for k, v in self.frames.items()}
        numbers = {name: getattr(self, name) for name in ("kind", "seed", "method", "unit_mm", "seconds", "own_seconds")}
        np.savez(path, counts=self.counts, error=self.error, doubts=self.doubts, **arrays, **numbers)

    @classmethod
    def load(cls, path: Path) -> Rows:
        """What ``save`` wrote."""
        with np.load(path) as data:
            parts = {p: {k.removeprefix(f"{p} "): data[k] for k in data.files if k.startswith(f"{p} ")} for p in ("value", "frame")}
            numbers = {name: data[name].item() for name in ("kind", "seed", "method", "unit_mm", "seconds", "own_seconds")}
            return cls(
                values=parts["value"],
                frames=parts["frame"],
                counts=data["counts"],
                error=data["error"],
                doubts=data["doubts"],
                **numbers,
            )


@cache
def _method(name: str) -> Method:
    return build_method(METHODS[name])


def register(pairs: Pairs, method: str) -> tuple[tuple[Transform, ...], float]:
    """Transforms of a batch, and the processor time a frame."""
    began = time.process_time()
    last = list(_method(method).register(pairs))[-1]
    transforms = last.transforms()
    return transforms, (time.process_time() - began) / len(pairs)


def rows_of(
    series: KnownSeries, seed: int, method: str, transforms: Sequence[Transform], backward: Sequence[Transform], seconds: float
) -> Rows:
    """Features and errors of transforms that are known already."""
    pairs, grid, config = series.pairs, series.grid, METHODS[method.removesuffix(BACK)]
    began = time.process_time()
    with torch.inference_mode():
        features = features_of(pairs, transforms, FitConfig(), backward, by_intensities=config.similarity == "auto")
        frames = {name: value.numpy() for name, value in frame_features(features).items()}
    own = (time.process_time() - began) / len(pairs)
    points = grid.convert_points(torch.from_numpy(series.points), Space.INDEX, Space.NORMALISED)
    truth = grid.convert_points(torch.from_numpy(series.places), Space.INDEX, Space.NORMALISED)
    error = torch.stack([points + t.displacement_at(points.float()) for t in transforms]) - truth
    where = points.mT[None, :, :, None].float().expand(len(pairs), -1, -1, -1)

    def at_points(values: torch.Tensor) -> NDArray[np.float32]:
        return sample_normalised(values[:, None].float(), where, features.lattice).image[:, 0, :, 0].numpy()

    return Rows(
        series.kind,
        seed,
        method,
        {name: at_points(value) for name, value in features.values.items()},
        at_points(features.counts),
        error.norm(dim=-1).numpy(),
        frames,
        np.array(
            [
                len(reasons_of(pairs, k, t, "ssd" if config.similarity == "auto" else config.similarity))
                for k, t in enumerate(transforms)
            ]
        ),
        grid.unit_mm,
        seconds,
        own,
    )


def reasons_of(pairs: Pairs, k: int, transform: Transform, similarity: SimilarityName) -> tuple[str, ...]:
    """Why frame ``k`` is doubtful without any map of uncertainty."""
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None]
    images = (pairs.fixed[k], pairs.moving[k], pairs.fixed_valid[k], pairs.moving_valid[k])
    whole, alike = None, 1.0
    if isinstance(transform, GaussianSequence) and transform.linear is not None:
        whole = transform.linear_field().vectors[None]
    if similarity != "ssd":
        _, alike = agreement(measure_of(similarity), *images, vectors, pairs.grid)
    return reasons_for_doubt(*images, vectors, pairs.grid, whole, measure=similarity, agreement=alike, beside_radius=True)


def kept_rows(
    kinds: Sequence[str], seeds: Sequence[int], count: int, methods: Sequence[str], data: Path, folder: Path
) -> Iterator[Rows]:
    """Rows of the first seeds of every kind, made where the folder does not hold them yet; "+back" also registers back.

    Parameters
    ----------
    count
        Seeds of a kind; of drawn pictures, whose series are of one frame, as many more as give the same number of frames.
    """
    for kind in kinds:
        for seed in seeds[: count * (FRAMES if kind == "drawn" else 1)]:
            missing = [method for method in methods if not _path(folder, kind, seed, method).exists()]
            series = (KINDS | CONTRAST_KINDS)[kind](seed, data) if missing else None
            for method in missing:
                assert series is not None
                transforms, seconds = register(series.pairs, method.removesuffix(BACK))
                backward, more = (
                    register(backward_pairs(series.pairs), method.removesuffix(BACK)) if method.endswith(BACK) else ((), 0.0)
                )
                rows_of(series, seed, method, transforms, backward, seconds + more).save(_path(folder, kind, seed, method))
            yield from (Rows.load(_path(folder, kind, seed, method)) for method in methods)


def _path(folder: Path, kind: str, seed: int, method: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}_{seed}_{method}.npz"
