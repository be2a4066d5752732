"""Registration from frame to frame: each frame to the one before it, and the displacements composed back to the reference.

Neighbours in time look most alike, so a tissue whose texture changes on its way, as speckle does, is followed where the reference
shows nothing like it any more. The price is that errors add up: a displacement is no better than those it is composed of. With g_k
from frame k - 1 into frame k, f_k(x) = f_{k-1}(x) + g_k(x + f_{k-1}(x)). g_k is evaluated at these very places, so no rounding to
pixels adds up along the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from r2n2.geometry import Space
from r2n2.registration.batch import LoadedFrame, assess_composed
from r2n2.registration.measures import Measure
from r2n2.registration.passes import Frames
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.registration.unfolding import SMALLEST_PROVEN, limited
from r2n2.transform import DisplacementField, Transform, compose, jacobian_bound

__all__ = ["Chain", "Predecessors"]

_UNUSABLE = (FrameStatus.FAILED, FrameStatus.CONSTANT)
_BROKEN = re.compile(r"the way to it is in doubt from frame (\d+) on")


class Predecessors(Mapping[int, LoadedFrame]):
    """Frame -> its neighbour on the side of the reference, or the nearest one there that can be used, loaded when it is asked for.

    Parameters
    ----------
    frames
        Of the series.
    reference
        Its mask says what counts in every frame, at the place where it lies in the reference.
    """

    def __init__(self, frames: Frames, reference: LoadedFrame) -> None:
        self._frames = frames
        self._reference = reference

    def __getitem__(self, frame: int) -> LoadedFrame:
        side = 1 if frame > self._reference.index else -1
        for number in range(frame - side, self._reference.index, -side):
            found = self._frames.load(number)
            if isinstance(found, LoadedFrame):
                return self._masked(found)
        return self._reference

    def _masked(self, frame: LoadedFrame) -> LoadedFrame:
        weights = [weight for weight in (frame.weight, self._reference.weight) if weight is not None]
        if not weights:
            return frame
        both = replace(frame, weight=weights[0] * weights[-1] if len(weights) > 1 else weights[0])
        # Where the two leave nothing, the frame's own is better than none.
        return both if bool(both.counted.any()) else frame

    def __iter__(self) -> Iterator[int]:
        return (k for k in range(len(self._frames.series)) if k != self._reference.index)

    def __len__(self) -> int:
        return len(self._frames.series) - 1


@dataclass(eq=False)
class _End:
    """How far a side of the reference is composed."""

    transform: Transform
    """Of the last frame, from the reference."""
    broken: int | None = None
    """The first frame that did not follow from its neighbour as it should: nothing from there on is sure."""


class Chain:
    """Results between neighbours made results from the reference, in the order in which frames lie outward from it.

    Parameters
    ----------
    frames, reference
        Of the series.
    measure
        What frames are compared by.
    done
        Results of an earlier run, from the reference, from which to go on.
    proven
        Whether a displacement that folds between pixels is smoothed there until it provably does not.
    """

    def __init__(
        self,
        frames: Frames,
        reference: LoadedFrame,
        measure: Measure,
        done: Mapping[int, FrameResult | None],
        *,
        proven: bool = False,
    ) -> None:
        self._frames, self._reference, self._measure, self._proven = frames, reference, measure, proven
        identity = DisplacementField.identity(frames.series.grid)
        self._ends = {side: _End(identity) for side in (-1, 1)}
        self._go_on(done)

    def _go_on(self, done: Mapping[int, FrameResult | None]) -> None:
        last = dict[int, int]()
        for number in self._outward(done):
            result = done[number]
            if result is None or number == self._reference.index:
                continue
            end, said = self._end(number), _BROKEN.search(result.message)
            if end.broken is None and (said or self._is_left_out(result)):
                end.broken = int(said[1]) if said else number
            if result.status not in _UNUSABLE:
                last[self._side(number)] = number
        for side, number in last.items():
            result = done[number]
            assert result is not None
            self._ends[side].transform = result.transform

    def add(self, links: Iterable[FrameResult]) -> tuple[FrameResult, ...]:
        """What frames become that were registered to their neighbours: composed, and measured against the reference."""
        of_frame = {link.frame: link for link in links}
        composed = [self._composed(of_frame[number]) for number in self._outward(of_frame)]
        return tuple(sorted(composed, key=lambda result: result.frame))

    def _composed(self, link: FrameResult) -> FrameResult:
        end = self._end(link.frame)
        unsure = not link.status.sound and link.status not in _UNUSABLE
        if end.broken is None and (unsure or self._is_left_out(link)):
            end.broken = link.frame
        frame = self._frames.load(link.frame)
        if link.status in _UNUSABLE or isinstance(frame, FrameResult):
            return link
        # In the unit and precision of a field's file, so that a run that goes on from files gives the same to the bit.
        transform: Transform = compose(end.transform, link.transform).to_space(Space.WORLD)
        told = ""
        if self._proven:
            # No step folds, and so no composition of their exact maps; drawn from pixel to pixel, it may.
            found = jacobian_bound(transform, everywhere=True).found
            transform, how = limited(transform)
            told = (
                how
                and f"composed, its Jacobian determinant fell to {found:.2f}; {how}, it is proven to stay above {SMALLEST_PROVEN:g}"
            )
        end.transform = transform
        reasons = [] if link.status.sound else [f"to its neighbour: {_why(link)}"]
        if end.broken is not None:
            reasons.append(f"the way to it is in doubt from frame {end.broken} on")
        result = assess_composed(self._reference, frame, transform, link, reasons, self._measure)
        if not told:
            return result
        status = FrameStatus.LIMITED if result.status is FrameStatus.OK else result.status
        rest = result.message.removeprefix(f"frame {link.frame}: ")
        return replace(result, status=status, message=f"frame {link.frame}: " + "; ".join(part for part in (told, rest) if part))

    def _is_left_out(self, result: FrameResult) -> bool:
        """Whether a frame could not be registered that its successor was registered to; one that shows nothing is passed over."""
        return result.status is FrameStatus.FAILED and isinstance(self._frames.load(result.frame), LoadedFrame)

    def _outward(self, numbers: Iterable[int]) -> list[int]:
        return sorted(numbers, key=lambda number: (abs(number - self._reference.index), number))

    def _side(self, number: int) -> int:
        return 1 if number > self._reference.index else -1

    def _end(self, number: int) -> _End:
        return self._ends[self._side(number)]


def _why(result: FrameResult) -> str:
    """The reasons in a result's message alone."""
    told = result.message.removeprefix(f"frame {result.frame}: ")
    return told.removesuffix("; it is left as it is").removesuffix("; look at it before using it")
