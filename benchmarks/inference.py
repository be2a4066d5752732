"""Where the time of the network goes: quick steps against plain ones, operations counted, and a profile by kind of operation.

usage: python benchmarks/inference.py [--threads 2] [--frames 16] [--runs 3] [--weights general]

"Plainly" is the same network in float32, one frame at a time, on squares of 256 pixels, by the path that training takes. Both take
turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from speed import batch_of
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from r2n2.config import NetworkConfig
from r2n2.network import R2N2, RecurrentNetwork, create_network
from r2n2.network.checkpoint import load_network, read_manifest
from r2n2.registration import Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.registration.recurrent_steps import advance, begin, compare, prepare

STEPS = 25
KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "matrix products": ("bmm", "aten::mm", "addmm", "matmul", "linear", "einsum"),
    "sampling": ("grid_sampler", "upsample"),
    "exp, sigmoid, tanh, log": ("exp", "sigmoid", "tanh", "log", "sin", "cos", "softmax", "pow", "sqrt", "reciprocal"),
    "copies": ("copy_", "cat", "flip", "clone", "fill_", "index", "stack", "pad"),
    "other arithmetic": ("add", "mul", "sub", "div", "lerp", "sum", "clamp", "abs", "le", "and", "where", "max", "square", "neg"),
}


def quickly(network: RecurrentNetwork, pairs: Pairs) -> None:
    for _ in RecurrentMethod(network, steps=STEPS).register(pairs):
        pass


def plainly(network: RecurrentNetwork, pairs: Pairs) -> None:
    for k in range(len(pairs)):
        squares = prepare(network.config, pairs.part(slice(k, k + 1)), network.entry.weight)
        progress = begin(network, squares)
        for _ in range(STEPS):
            progress = advance(network, squares, progress, compare(squares, progress.displacements)).progress.detached()


def at_size(network: RecurrentNetwork, size: int) -> RecurrentNetwork:
    """The same weights on larger squares."""
    factor = size // network.config.working_size
    sizes = tuple(min(size, s * factor) for s in network.config.least_squares_sizes)
    if len(set(sizes)) < len(sizes):
        sizes = tuple(size >> (len(sizes) - 1 - k) for k in range(len(sizes)))
    larger = create_network(network.config.model_copy(update={"working_size": size, "least_squares_sizes": sizes})).eval()
    larger.load_state_dict(network.state_dict())
    return larger


def gigaflop(run: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def profiled(run: Callable[[], None]) -> list[tuple[str, float, int]]:
    """Milliseconds and calls by kind of operation, of their own time alone."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in seen.key_averages():
        kind = next(
            (kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "the rest, Python included"
        )
        spent[kind][0] += event.self_cpu_time_total / 1e3
        spent[kind][1] += event.count
    return sorted(((kind, ms, int(calls)) for kind, (ms, calls) in spent.items()), key=lambda line: -line[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--weights", default="general")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = load_network(arguments.weights).eval()
    plain = at_size(network, 256)
    pairs = batch_of(256, arguments.frames)
    one = pairs.part(slice(0, 1))
    quickly(network, pairs)
    plainly(plain, one)
    found: dict[str, list[float]] = {"quickly": [], "plainly, same squares": [], "plainly, 256 x 256": []}
    for _ in range(arguments.runs):
        for name, run, count in (
            ("quickly", lambda: quickly(network, pairs), len(pairs)),
            ("plainly, same squares", lambda: plainly(network, pairs.part(slice(0, 2))), 2),
            ("plainly, 256 x 256", lambda: plainly(plain, one), 1),
        ):
            began = time.perf_counter()
            run()
            found[name].append((time.perf_counter() - began) / count)
    print(
        f"{arguments.threads} threads, {arguments.frames} frames at once quickly, one plainly; {STEPS} steps, none stopped early\n"
    )
    print("| | s/frame, median | smallest | times as long as quickly |\n|---|---|---|---|")
    base = statistics.median(found["quickly"])
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {min(values):.3f} | {middle / base:.1f} |")
    paper = R2N2(NetworkConfig()).eval()
    image = torch.zeros(1, 1, 256, 256)
    step = gigaflop(lambda: paper.step(image, image, paper.initial_state(1, 256)) and None)
    print("\n| counted | GFLOP a pair |\n|---|---|")
    print(f"| the paper's network, 256 x 256, {STEPS} steps | {STEPS * step:.1f} |")
    print(f"| {arguments.weights}, 256 x 256 | {gigaflop(lambda: plainly(plain, one)):.1f} |")
    print(f"| {arguments.weights}, {read_manifest(arguments.weights).config.working_size} squares, plainly | ", end="")
    print(f"{gigaflop(lambda: plainly(network, one)):.2f} |")
    lines = profiled(lambda: quickly(network, pairs))
    total = sum(ms for _, ms, _ in lines)
    print(f"\n| quickly, {arguments.frames} frames | ms | share | calls |\n|---|---|---|---|")
    for kind, ms, calls in lines:
        print(f"| {kind} | {ms:.0f} | {100 * ms / total:.0f} % | {calls} |")


if __name__ == "__main__":
    main()
