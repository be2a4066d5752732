"""The methods that are compared, each as one call that registers the frames of a series to its first.

A contestant that cannot take part (weights or a package missing) is a line of text that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from held_out import Case

from r2n2.benchmark import contestant
from r2n2.benchmark.contestant import Settings
from r2n2.benchmark.contestants import OTHERS, absence, chosen
from r2n2.benchmark.images import Images
from r2n2.benchmark.own import numbers_of
from r2n2.config import RegistrationConfig
from r2n2.errors import R2N2Error
from r2n2.geometry import Space
from r2n2.network import create_network
from r2n2.network.checkpoint import load_network, read_manifest
from r2n2.registration import Method, build_method
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.training.adapt import adapt
from r2n2.transform import DisplacementField, Transform

__all__ = ["NAMES", "Entry", "Registered", "contestants", "images_of"]

NAMES = ("nothing", "bspline", *OTHERS, "fit", "paper", "untrained", "general", "refined", "adapted")


@dataclass(frozen=True, eq=False)
class Registered:
    """One transform a moving frame, and how many numbers describe one."""

    transforms: tuple[Transform, ...]
    numbers: int


@dataclass(frozen=True, eq=False)
class Entry:
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


def contestants(wanted: Sequence[str], options: Any) -> list[Entry | str]:
    """The methods of these names.

    Parameters
    ----------
    options
        ``threads``, ``bspline_frames``, ``elastix_frames``, ``paper``, ``general``, ``adapted``, ``adapt_minutes`` and
        ``adapt_parts`` of the command line.
    """
    found: list[Entry | str] = []
    for name in wanted:
        try:
            found += _named(name, options)
        except (R2N2Error, ImportError) as error:
            found.append(f"{name}: left out, {error}")
    return found


def _named(name: str, options: Any) -> list[Entry | str]:
    if name == "nothing":
        return [Entry("nothing", _nothing)]
    if name == "bspline":
        return [_ours("bspline", RegistrationConfig(method="bspline"), options.bspline_frames)]
    if name in OTHERS:
        return [_theirs(program, options) for program in chosen([name], OTHERS, "--methods")]
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
        transforms = last.transforms()
        return Registered(transforms, numbers_of(transforms[0]))

    return register


def _ours(name: str, config: RegistrationConfig, most_frames: int | None = None) -> Entry:
    return Entry(name, _by(build_method(config)), most_frames)


def _theirs(program: contestant.Contestant, options: Any) -> Entry | str:
    reason = absence(program)
    if reason is not None:
        return f"{program.name}: left out, {reason}"

    def register(case: Case) -> Registered:
        run, _ = program.make(case.grid, Settings(options.threads))
        found = run(images_of(case))
        vectors = [torch.from_numpy(one.vectors_px).double() for one in found]
        return Registered(tuple(DisplacementField(one, case.grid, Space.INDEX) for one in vectors), found[0].numbers)

    return Entry(program.name, register, options.elastix_frames if program.choice == "elastix" else None)


def images_of(case: Case) -> Images:
    """The frames as the comparison of ``r2n2 benchmark`` takes them."""
    frames = case.frames[:, 0].numpy()
    valid = np.ones(frames.shape, dtype=bool)
    return Images(frames[0], valid[0], frames[1:], valid[1:], case.grid)


def _untrained(options: Any) -> Entry:
    """The general network before any training: what its fixed parts do alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_network(read_manifest(options.general).config).eval()
    return Entry("network general, untrained", _by(RecurrentMethod(network, steps=RegistrationConfig().steps)))


def _adapted(options: Any) -> list[Entry | str]:
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

    return [Entry(f"network after {options.adapt_minutes:g} min of adapt", _nothing, prepare=prepare)]
