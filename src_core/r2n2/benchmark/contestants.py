"""Who takes part: names, what each is, the package it needs, and how it is made ready; nothing heavy is imported before that."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from functools import partial

from r2n2.benchmark import programs
from r2n2.benchmark.contestant import Contestant, Ready, Settings
from r2n2.benchmark.images import Images
from r2n2.benchmark.programs import Found, Program
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid

__all__ = ["OTHERS", "OURS", "absence", "chosen"]


def _own(choice: str, grid: Grid, settings: Settings) -> Ready:
    from r2n2.benchmark.own import own_method

    return own_method(choice, grid, settings)


def _pair_by_pair(program: Callable[[tuple[float, ...], int], Program], grid: Grid, settings: Settings) -> Ready:
    register_pair = program(grid.spacing, settings.threads)

    def register(images: Images) -> list[Found]:
        fixed = programs.z_scored(images.fixed, images.fixed_valid)
        pairs = zip(images.moving, images.moving_valid, strict=True)
        return [register_pair(fixed, programs.z_scored(moving, valid)) for moving, valid in pairs]

    return register, 1


_ELASTIX, _ANTS = ("itk-elastix", "itk"), ("antspyx", "ants")
_FINE_ITERATIONS = (100, 70, 50, 20)
_ALL = (
    Contestant("network", "network", "the network alone: 25 Gaussians, one after the other", partial(_own, "network")),
    Contestant(
        "network + refinement",
        "refined",
        "the network's Gaussians refined by fit: the default of r2n2 register",
        partial(_own, "refined"),
    ),
    Contestant("fit", "fit", "25 Gaussians fitted to each pair, no network", partial(_own, "fit")),
    Contestant(
        "bspline", "bspline", "the paper's baseline: cubic B-splines, three levels of 250 iterations", partial(_own, "bspline")
    ),
    Contestant(
        "elastix, 16 px",
        "elastix",
        "cubic B-splines with control points 16 pixels apart, mean squares + bending energy, 300 iterations a level",
        partial(_pair_by_pair, partial(programs.elastix, control_px=16)),
        _ELASTIX,
    ),
    Contestant(
        "elastix, 8 px",
        "elastix",
        "the same with control points 8 pixels apart, which follow finer motion",
        partial(_pair_by_pair, partial(programs.elastix, control_px=8)),
        _ELASTIX,
    ),
    Contestant(
        "demons",
        "demons",
        "fast symmetric forces demons of SimpleITK, four levels, smoothed by 1.5 pixels",
        partial(_pair_by_pair, programs.demons),
        ("SimpleITK", "SimpleITK"),
    ),
    Contestant(
        "ANTs SyN",
        "ants",
        "symmetric normalisation of ANTs after an affine stage, mutual information, at its own settings (half resolution)",
        partial(_pair_by_pair, programs.ants),
        _ANTS,
    ),
    Contestant(
        "ANTs SyN, fine",
        "ants",
        "the same with 100, 70, 50 and 20 iterations down to full resolution",
        partial(_pair_by_pair, partial(programs.ants, iterations=_FINE_ITERATIONS)),
        _ANTS,
    ),
    Contestant(
        "TV-L1",
        "tvl1",
        "TV-L1 optical flow of scikit-image at its own settings",
        partial(_pair_by_pair, programs.tvl1),
        ("scikit-image", "skimage"),
    ),
)
OURS = tuple(dict.fromkeys(item.choice for item in _ALL if item.ours))
"""Choices among our methods."""
OTHERS = tuple(dict.fromkeys(item.choice for item in _ALL if not item.ours))
"""Choices among other people's programs."""


def chosen(names: Iterable[str], known: tuple[str, ...], option: str) -> list[Contestant]:
    """The contestants of these choices, in the order of the tables.

    Parameters
    ----------
    names
        Some of ``known``.
    option
        Where they were given, for the message.

    Raises
    ------
    ArgumentError
        If a name is unknown; the message gives the nearest.
    """
    wanted = set(names)
    for name in sorted(wanted - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
        raise ArgumentError(f"{option}: {name!r} is not known; {hint}")
    return [item for item in _ALL if item.choice in wanted and item.choice in known]


def absence(contestant: Contestant) -> str | None:
    """Why a contestant cannot take part and what to do, or None if its package is there; imports nothing."""
    if contestant.package is None:
        return None
    distribution, module = contestant.package
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} is not installed: pip install {distribution}"
    if importlib.util.find_spec(module) is None:
        return f"{distribution} is installed without its module {module}: pip install --force-reinstall {distribution}"
    return None
