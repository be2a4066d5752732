"""A function of tensors recorded once as a CUDA graph and replayed, so that no kernel waits for Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Recorded", "Recorder", "TensorFunction", "Tensors", "cuda_graph"]

Tensors: TypeAlias = tuple[Tensor, ...]
TensorFunction: TypeAlias = Callable[[Tensors], Tensors]
Recorder: TypeAlias = Callable[[TensorFunction, Tensors], tuple[Callable[[], None], Tensors]]
"""From a function and its arguments to what computes it again in place, and the tensors that then hold its values."""

_EAGER_CALLS = 2


class Recorded:
    """A function computed as it is in its first two calls, which also warm up what it uses, recorded in the third, then replayed.

    Parameters
    ----------
    function
        Of tensors alone, whose shapes, dtypes and devices are the same in every call. It must not read a value back (a branch on
        a tensor, ``item``, ``nonzero``) nor bring new numbers to the device.
    recorder
        What records; ``cuda_graph`` on a GPU.
    """

    def __init__(self, function: TensorFunction, recorder: Recorder) -> None:
        self._function = function
        self._recorder = recorder
        self._calls = 0
        self._arguments: Tensors = ()
        self._values: Tensors = ()
        self._replay: Callable[[], None] | None = None

    def __call__(self, arguments: Tensors) -> Tensors:
        """Values of the function, as new tensors."""
        self._calls += 1
        if self._calls <= _EAGER_CALLS:
            return self._function(arguments)
        if self._replay is None:
            self._arguments = tuple(argument.clone() for argument in arguments)
            self._replay, self._values = self._recorder(self._function, self._arguments)
        for kept, argument in zip(self._arguments, arguments, strict=True):
            kept.copy_(argument)
        self._replay()
        # The next replay writes over them.
        return tuple(value.clone() for value in self._values)


def cuda_graph(function: TensorFunction, arguments: Tensors) -> tuple[Callable[[], None], Tensors]:
    """Record on the current CUDA device; the recording computes nothing, the first replay does."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values = function(arguments)
    return graph.replay, values
