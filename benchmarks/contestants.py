"""The methods that are compared, each as one call that registers the frames of a series to its first.

A contestant that cannot take part (weights or a package missing) is a line of text that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from competitors import Competitor, demons, elastix, has_elastix
from held_out import Case

from r2n2.checkpoint import load_network, read_manifest
from r2n2.config import RegistrationConfig
from r2n2.errors import R2N2Error
from r2n2.network import R2N2
from r2n2.registration import Method, build_method
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.training.adapt import adapt
from r2n2.transform import BSplineField, DisplacementField, GaussianSequence, Transform

__all__ = ["NAMES", "Contestant", "Registered", "contestants", "numbers_of"]

NAMES = ("nothing", "bspline", "demons", "elastix", "fit", "paper", "untrained", "general", "refined", "adapted")
ELASTIX_SPACINGS_PX = (16, 8)


@dataclass(frozen=True, eq=False)
class Registered:
    """One transform a moving frame, and how many numbers describe one; None: to be counted."""

    transforms: tuple[Transform, ...]
    numbers: int | None = None


@dataclass(frozen=True, eq=False)
class Contestant:
    """A method.

    Parameters
    ----------
    name
        In the table.
    register
        What is timed.
    most_frames
        Moving frames a series that it registers, as it is slow; None: all.
    prepare
        Called before each series and not timed; it gives what ``register`` is to be for this series, or None to leave it out.
    """

    name: str
    register: Callable[[Case], Registered]
    most_frames: int | None = None
    prepare: Callable[[Case], Callable[[Case], Registered] | None] | None = None


def numbers_of(transform: Transform) -> int:
    """How many numbers describe a transform; seven a Gaussian in 2D."""
    if isinstance(transform, GaussianSequence):
        parts = (transform.centres, transform.sigmas, transform.orientation, transform.amplitudes)
        return sum(part.numel() for part in parts)
    if isinstance(transform, BSplineField):
        return transform.control.numel()
    return transform.displacement_field().vectors.numel()


def contestants(wanted: Sequence[str], options: Any) -> list[Contestant | str]:
    """The methods of these names.

    Parameters
    ----------
    options
        ``threads``, ``bspline_frames``, ``elastix_frames``, ``paper``, ``general``, ``adapted``, ``adapt_minutes`` and
        ``adapt_parts`` of the command line.
    """
    found: list[Contestant | str] = []
    for name in wanted:
        try:
            found += _named(name, options)
        except (R2N2Error, ImportError) as error:
            found.append(f"{name}: left out, {error}")
    return found


def _named(name: str, options: Any) -> list[Contestant | str]:
    if name == "nothing":
        return [Contestant("nothing", _nothing)]
    if name == "bspline":
        return [_ours("bspline", RegistrationConfig(method="bspline"), options.bspline_frames)]
    if name == "demons":
        return [Contestant("demons", _theirs(demons(options.threads)))]
    if name == "elastix":
        if not has_elastix():
            return ["elastix: left out, not installed (pip install itk-elastix)"]
        return [
            Contestant(f"elastix, {spacing} px", _theirs(elastix(spacing, options.threads)), options.elastix_frames)
            for spacing in ELASTIX_SPACINGS_PX
        ]
    if name == "fit":
        return [_ours("fit", RegistrationConfig(method="fit"))]
    weights, refine = (options.paper, False) if name == "paper" else (options.general, name == "refined")
    if name == "adapted":
        return _adapted(options)
    if name == "untrained":
        return [_untrained(options)]
    label = {"paper": "network paper", "general": "network general", "refined": "network + refinement"}[name]
    return [_ours(label, RegistrationConfig(method="r2n2", weights=weights, refine=refine, device="cpu"))]


def _nothing(case: Case) -> Registered:
    return Registered((DisplacementField.identity(case.grid),) * (len(case.frames) - 1), 0)


def _by(method: Method) -> Callable[[Case], Registered]:
    def register(case: Case) -> Registered:
        *_, last = method.register(case.pairs)
        return Registered(last.transforms())

    return register


def _ours(name: str, config: RegistrationConfig, most_frames: int | None = None) -> Contestant:
    return Contestant(name, _by(build_method(config)), most_frames)


def _theirs(competitor: Competitor) -> Callable[[Case], Registered]:
    return lambda case: Registered(*competitor(case.pairs))


def _untrained(options: Any) -> Contestant:
    """The general network before any training: what its fixed parts do alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = R2N2(read_manifest(options.general).config).eval()
    return Contestant("network general, untrained", _by(RecurrentMethod(network, steps=RegistrationConfig().steps)))


def _adapted(options: Any) -> list[Contestant | str]:
    if options.adapted is not None:
        config = RegistrationConfig(method="r2n2", weights=str(options.adapted), refine=False, device="cpu")
        return [_ours("network after adapt", config)]
    if not options.adapt_minutes:
        return ["adapted: left out, neither --adapted nor --adapt-minutes is given"]
    network = load_network(options.general)
    parts = tuple(options.adapt_parts)

    def prepare(case: Case) -> Callable[[Case], Registered] | None:
        if case.part not in parts:
            return None
        *_, last = adapt(case.series, network, seconds=60 * options.adapt_minutes, reference=0, device="cpu")
        return _by(RecurrentMethod(last.network, steps=RegistrationConfig().steps))

    return [Contestant(f"network after {options.adapt_minutes:g} min of adapt", _nothing, prepare=prepare)]
