"""Registration in two goes: all frames, then the last steps once more known which pixels of the reference can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from r2n2.config import FitConfig
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.fit.trust import Leftover, TrustMap
from r2n2.registration.measures import Measure
from r2n2.transform import Transform

__all__ = ["Trusting", "fewer_steps", "last_steps"]


@dataclass(frozen=True)
class Trusting:
    """A method whose last steps weigh the pixels of the reference by what all frames have left there.

    What can be trusted follows from all frames of a series. Whoever has the series takes the goes one by one, each over all batches
    (``register_series``); a batch that is all there is takes both here.
    """

    whole: Method
    """As if all pixels could be trusted alike: for frames too few to tell, or of no common fixed image."""
    first: Method
    """The first go: the same without its last steps."""
    further: Callable[[TrustMap | None], Method]
    """The last steps, by what can be trusted if that is known, from the result of the first go; it alone heeds guiding pairs."""
    fit: FitConfig
    """Settings of the objective."""
    measure: Measure

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step."""
        if len(pairs) < self.fit.trust_frames or pairs.fixed.stride(0) != 0:
            yield from self.whole.register(pairs, start=start)
            return
        last: RegistrationStep | None = None
        for step in self.first.register(replace(pairs, guides=()), start=start):
            yield replace(step, total=step.total + self.fit.trust_steps)
            last = step
        assert last is not None
        leftover, found = Leftover(self.fit, self.measure), last.transforms()
        leftover.estimate(pairs, found)
        for step in self.further(leftover.map()).register(pairs, start=found):
            yield replace(step, index=last.index + step.index, total=last.index + step.total)

    def second(self, trust: TrustMap | None) -> Method:
        """The second go for frames that have a start; whoever has none, as on the way back, takes the whole."""
        return _Second(self.whole, self.further(trust))


@dataclass(frozen=True)
class _Second:
    whole: Method
    further: Method

    @property
    def name(self) -> str:
        return self.whole.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        yield from (self.whole if start is None else self.further).register(pairs, start=start)


def last_steps(fit: FitConfig) -> FitConfig:
    """Settings of fit that take these steps alone, from a start that lacks no Gaussians."""
    return fit.model_copy(update={"refine_steps": (0, _count(fit)), "far_steps": 0, "most_gaussians": 1})


def fewer_steps(fit: FitConfig) -> FitConfig:
    """Settings of fit that leave out as many of the steps on the finest square."""
    count, (middle, finest) = _count(fit), fit.refine_steps
    return fit.model_copy(update={"refine_steps": (middle, finest - count), "final_steps": fit.final_steps - count})


def _count(fit: FitConfig) -> int:
    """At least one step is left to the first go, where there is more than one."""
    return max(0, min(fit.trust_steps, fit.refine_steps[1] - 1, fit.final_steps - 1))
