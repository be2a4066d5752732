"""Our own methods as contestants: raw images in, dense displacements in pixels out, a batch of pairs at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from r2n2.benchmark.contestant import Registrar, Settings
from r2n2.benchmark.images import Images
from r2n2.benchmark.programs import Found
from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import Method, Pairs, build_method, resolve_device
from r2n2.registration.batch_size import automatic_batch_size
from r2n2.registration.contrast import examine_frames, suitable_measure
from r2n2.transform import BSplineField, GaussianSequence, Transform

__all__ = ["by_method", "numbers_of", "own_method"]


def own_method(choice: str, grid: Grid, settings: Settings) -> tuple[Registrar, int]:
    """One of our methods at its defaults, and how many pairs ``r2n2 register`` would give it at once.

    As ``r2n2 register`` does, it looks at the images first and compares them by what suits their contrast.

    Parameters
    ----------
    choice
        ``network``, ``refined``, ``fit`` or ``bspline``.
    grid
        Lattice of the images.
    """
    given: dict[str, Any] = {"method": choice}
    if choice in ("network", "refined"):
        given = {"method": "r2n2", "weights": settings.weights, "refine": choice == "refined"}
    config = RegistrationConfig.parse({**given, "device": settings.device})
    torch.set_num_threads(settings.threads)
    device = resolve_device(config.device)
    methods: dict[str, Method] = {}

    def register(images: Images) -> list[Found]:
        frames = [(torch.from_numpy(images.fixed)[None], torch.from_numpy(images.fixed_valid)[None])]
        frames += [
            (torch.from_numpy(a)[None], torch.from_numpy(b)[None]) for a, b in zip(images.moving, images.moving_valid, strict=True)
        ]
        similarity = suitable_measure(examine_frames(frames, images.grid, range(len(frames))), images.grid.ndim)
        if similarity not in methods:
            methods[similarity] = build_method(config.model_copy(update={"similarity": similarity}))
        return by_method(methods[similarity], device)(images)

    methods["ssd"] = build_method(config.model_copy(update={"similarity": "ssd"}))
    return register, automatic_batch_size(config, grid, device)


def by_method(method: Method, device: torch.device) -> Registrar:
    """A method as a contestant; the dense displacement, which the other programs give too, is part of its work."""

    def register(images: Images) -> list[Found]:
        fixed, fixed_valid, moving, moving_valid = (
            torch.from_numpy(part).to(device) for part in (images.fixed, images.fixed_valid, images.moving, images.moving_valid)
        )
        pairs = Pairs(
            fixed[None, None].expand(len(moving), 1, *fixed.shape),
            moving[:, None],
            fixed_valid[None, None].expand(len(moving), 1, *fixed.shape),
            moving_valid[:, None],
            images.grid,
        )
        *_, last = method.register(pairs)
        return [Found(_pixels(transform), numbers_of(transform)) for transform in last.transforms()]

    return register


def _pixels(transform: Transform) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = transform.displacement_field().to_space(Space.INDEX).vectors
    return vectors.detach().float().cpu().numpy()


def numbers_of(transform: Transform) -> int:
    """How many numbers describe a transform; seven a Gaussian in 2D."""
    if isinstance(transform, GaussianSequence):
        parts = (transform.centres, transform.sigmas, transform.orientation, transform.amplitudes)
        return sum(part.numel() for part in parts)
    if isinstance(transform, BSplineField):
        return transform.control.numel()
    return transform.displacement_field().vectors.numel()
