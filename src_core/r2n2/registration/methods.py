"""From settings to a method: which of the three, on which device, with which weights, refined or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ResourceError
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.bspline import BSplineMethod
from r2n2.registration.fit.growing import GrowingFit
from r2n2.registration.fit.method import FitMethod
from r2n2.registration.fit.trust import TrustMap
from r2n2.registration.guided import Guided
from r2n2.registration.initial import GoingOn, Initialised
from r2n2.registration.measures import Measure, measure_of
from r2n2.registration.trusting import Trusting, fewer_steps, last_steps
from r2n2.registration.unfolding import Unfolding
from r2n2.transform import GaussianSequence, Transform

__all__ = ["build_method", "resolve_device"]

# Of the network's steps, from the result of a frame's neighbour in time: it is near, so its first Gaussians hold.
_RENEWED = 1 / 3
# Of which the network gives its share where it is not told how many a frame needs.
_USUAL_STEPS = 25
_DEVICE = re.compile(r"(?P<kind>cpu|cuda)(:(?P<number>[0-9]{1,4}))?")


def resolve_device(name: str) -> torch.device:
    """The device to compute on; "auto" is the first CUDA device where there is one, else the processor.

    Raises
    ------
    ResourceError
        If the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = _DEVICE.fullmatch(name)
    if known is None:
        raise ResourceError(f"device: {name!r} is not known; choose auto, cpu, cuda or cuda:N")
    kind, number = known["kind"], known["number"]
    if kind == "cpu" and number:
        raise ResourceError(
            f"device: {name!r} is not known, as the processor is one device; choose cpu, and its threads by OMP_NUM_THREADS"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device: cuda was asked for but torch finds no CUDA device; see `r2n2 doctor`, or choose auto or cpu")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ResourceError(f"device: {name} does not exist, there are {torch.cuda.device_count()} CUDA devices (from cuda:0)")
    return torch.device(name)


def build_method(config: RegistrationConfig, *, guided: bool = False) -> Method:
    """The method that the settings ask for, ready to register pairs.

    A similarity of "auto" is that of a series whose contrast stays, ssd: who has the series resolves it first.

    Parameters
    ----------
    guided
        Whether pairs of images may hold guiding pairs.

    Raises
    ------
    ArgumentError
        If the method takes no guiding pairs.
    ResourceError
        If the network's weights are not there.
    """
    if guided and config.method == "bspline":
        raise ArgumentError("guide: bspline takes no guiding pairs, as they move Gaussians; choose method r2n2 or fit")
    plain = _plain_method(config)

    def finished(method: Method) -> Method:
        guiding = Guided(method, config.fit, measure=_measure(config)) if guided else method
        return _proven(guiding, config)

    whole = finished(_from_where_it_lies(plain, config))
    if not _looks_twice(config):
        return whole
    shorter = _fit(config.model_copy(update={"fit": fewer_steps(config.fit)}))
    first = _from_where_it_lies(replace(plain, then=shorter) if isinstance(plain, _Refined) else shorter, config)

    def further(trust: TrustMap | None) -> Method:
        # As many Gaussians as each start has.
        last = config.model_copy(update={"fit": last_steps(config.fit), "steps": "auto" if config.steps == "auto" else 1})
        return finished(GoingOn(_fit(last, None if trust is None else trust.weight)))

    return Trusting(whole, first, further, config.fit, _measure(config))


def _looks_twice(config: RegistrationConfig) -> bool:
    """Whether the last steps of fit are to know what all frames have left."""
    fitted = config.method == "fit" or (config.method == "r2n2" and config.refine)
    return fitted and config.fit.trust and _measure(config).name == "ssd" and last_steps(config.fit).refine_steps[1] > 0


def _from_where_it_lies(method: Method, config: RegistrationConfig) -> Method:
    return method if config.initial == "none" else Initialised(method, config.initial)


def _proven(method: Method, config: RegistrationConfig) -> Method:
    return Unfolding(method, config.fit, measure=_measure(config)) if config.no_folding else method


def _measure(config: RegistrationConfig) -> Measure:
    return measure_of("ssd" if config.similarity == "auto" else config.similarity, clamp=config.fit.clamp)


def _fit(config: RegistrationConfig, trust: Tensor | None = None) -> FitMethod | GrowingFit:
    if config.steps == "auto":
        return GrowingFit(config.fit, measure=_measure(config), trust=trust)
    return FitMethod(config.fit, gaussians=config.steps, measure=_measure(config), trust=trust)


def _plain_method(config: RegistrationConfig) -> Method:
    if config.method == "bspline":
        return BSplineMethod(config.bspline, measure=_measure(config))
    fit = _fit(config)
    # The network compares intensities: where those do not correspond, its Gaussians are worse than none to start from.
    if config.method == "fit" or _measure(config).name != "ssd":
        return fit
    from r2n2.network.checkpoint import load_network
    from r2n2.registration.cuda_graph import cuda_graph
    from r2n2.registration.precision import resolve_precision
    from r2n2.registration.recurrent import RecurrentMethod

    device = resolve_device(config.device)
    network = load_network(config.weights).to(device).eval()
    recurrent = partial(
        RecurrentMethod,
        network,
        stopping=config.stopping if config.stop_early else None,
        dtype=resolve_precision(config, network),
        recorder=cuda_graph if device.type == "cuda" else None,
    )
    steps = _USUAL_STEPS if config.steps == "auto" else config.steps
    if config.refine:
        return _Refined(recurrent(steps=max(1, round(config.network_share * steps))), fit)
    return _Alone(recurrent(steps=steps), recurrent(steps=max(1, round(_RENEWED * steps))), steps)


@dataclass(frozen=True)
class _Alone:
    """The network alone; from a start, whose last Gaussians give way to new ones, so that no sequence outgrows its length."""

    afresh: Method
    further: Method
    """Takes ``_RENEWED`` of the steps."""
    steps: int

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.afresh.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step."""
        if start is None or all(isinstance(given, GaussianSequence) and not len(given) for given in start):
            yield from self.afresh.register(pairs, start=start)
            return
        kept = self.steps - max(1, round(_RENEWED * self.steps))
        yield from self.further.register(
            pairs, start=[given.select(slice(0, kept)) if isinstance(given, GaussianSequence) else given for given in start]
        )


@dataclass(frozen=True)
class _Refined:
    """The network, then fit from the network's Gaussians; fit alone from a start that holds as many as asked for, if that is told.

    Were the network to go on from a full start, each result would be longer than the one it started from.
    """

    first: Method
    then: FitMethod | GrowingFit

    @property
    def name(self) -> str:
        """What to call the two together: the first, which decides."""
        return self.first.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch by both, yielding after every step of either."""
        given = [len(sequence.centres) for sequence in start or () if isinstance(sequence, GaussianSequence)]
        full = 1 if isinstance(self.then, GrowingFit) else self.then.gaussians
        if given and len(given) == len(start or ()) and min(given) >= full:
            yield from self.then.register(pairs, start=start)
            return
        last: RegistrationStep | None = None
        for step in self.first.register(pairs, start=start):
            # A step of the network gives a Gaussian, so fit starts from at least so many.
            yield replace(step, total=step.total + self.then.step_count(step.total))
            last = step
        assert last is not None
        for step in self.then.register(pairs, start=last.transforms()):
            yield replace(step, index=last.total + step.index, total=last.total + step.total)
