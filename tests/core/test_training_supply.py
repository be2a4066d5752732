"""A sample that cannot be made, or not in time, ends the training with its number; the others are what their source gives."""

from __future__ import annotations

import threading

import pytest
import torch
import training_factory as make

from r2n2.errors import ResourceError
from r2n2.simulation.engine import SimulatedBatch
from r2n2.training.supply import Supply


class _Faulty:
    """Fails or hangs at sample 17."""

    def __init__(self, error: BaseException | None) -> None:
        self.error, self.engine = error, make.engine(make.config())
        self.free = threading.Event()

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        if first <= 17 < first + count:
            if self.error is None:
                self.free.wait()
            else:
                raise self.error
        return self.engine.batch(first, count, size)


def test_it_gives_what_its_source_gives() -> None:
    engine = make.engine(make.config())
    supply = Supply(engine)
    for first in (0, 4):
        assert torch.equal(supply.batch(first, 3, 32).moving, engine.batch(first, 3, 32).moving)


@pytest.mark.parametrize("error", [ValueError("a broken picture"), SystemExit(3), MemoryError("no room")])
def test_a_sample_that_cannot_be_made_is_named(error: BaseException) -> None:
    supply = Supply(_Faulty(error))
    supply.batch(0, 8, 32)
    message = rf"sample 17 cannot be made \({type(error).__name__}: {error}\); take its image out .*--resume"
    with pytest.raises(ResourceError, match=message):
        supply.batch(16, 8, 32)


def test_samples_that_take_too_long_are_named() -> None:
    source = _Faulty(None)
    supply = Supply(source, patience_s=0.05)
    with pytest.raises(ResourceError, match=r"samples 16 to 23 were not made within 0\.05 s; .*--resume"):
        supply.batch(16, 8, 32)
    source.free.set()


def test_a_training_ends_with_the_number_of_the_sample() -> None:
    trainer = make.trainer(make.config(20), _Faulty(OSError("gone")))
    with pytest.raises(ResourceError, match="sample 17 cannot be made"):
        list(trainer.run())
    assert trainer.update == 8
