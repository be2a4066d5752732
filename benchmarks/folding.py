"""What the proof of no folding finds on development series, and what it costs to have none: frames, landmark errors, time.

usage: python benchmarks/folding.py [--method fit] [--frames 3] [--most 4] [--parts thorax slices unseen contoured]

Times are of one run, so that their ratios hold whatever else the machine does: of the method, of the bound a frame, and of what is
done to frames that fold.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from held_out import PARTS, Case, data_folder, held_out_cases

from r2n2.config import RegistrationConfig
from r2n2.evaluation import target_registration_error
from r2n2.registration import build_method
from r2n2.registration.base import RegistrationStep
from r2n2.registration.unfolding import SMALLEST_PROVEN, Unfolding
from r2n2.transform import Transform, folding_percent, inverse, jacobian_bound, jacobian_determinant


@dataclass
class Sums:
    """Of the frames of one part."""

    frames: int = 0
    lattice: int = 0
    proven: int = 0
    limited: int = 0
    smaller: int = 0
    method_s: float = 0.0
    bound_s: float = 0.0
    unfolding_s: float = 0.0
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    residual_px: float = 0.0


@dataclass(frozen=True)
class _Found:
    """A method that gives what was found already, so that what comes after it is timed alone."""

    step: RegistrationStep
    name: str = "found"

    def register(self, pairs, *, start=None):
        """The last step."""
        yield self.step


def add(sums: Sums, case: Case, method, config: RegistrationConfig) -> None:
    """Register a series, prove, unfold, compare."""
    began = time.process_time()
    *_, last = method.register(case.pairs)
    found = last.transforms()
    sums.method_s += time.process_time() - began
    began = time.process_time()
    proven = [jacobian_bound(transform).proven for transform in found]
    sums.bound_s += time.process_time() - began
    began = time.process_time()
    *_, changed = Unfolding(_Found(last), config.fit).register(case.pairs)
    sums.unfolding_s += time.process_time() - began
    after = changed.transforms()
    sums.frames += len(found)
    sums.lattice += sum(_folds(transform) for transform in found)
    sums.proven += sum(value > 0 for value in proven)
    sums.limited += sum(bool(note) for note in changed.notes)
    sums.smaller += sum("limited" in note or "smaller" in note for note in changed.notes)
    for transform in after:
        assert jacobian_bound(transform, everywhere=True).proven >= SMALLEST_PROVEN - 1e-9
    for k, note in enumerate(changed.notes):
        if note:
            sums.residual_px = max(sums.residual_px, inverse(after[k]).residual_mm / min(case.grid.spacing))
    if case.landmarks is not None:
        sums.before += _errors(found, case)
        sums.after += _errors(after, case)


def _folds(transform: Transform) -> bool:
    vectors = transform.displacement_field().vectors[None]
    return float(folding_percent(jacobian_determinant(vectors, transform.grid))) > 0


def _errors(transforms: tuple[Transform, ...], case: Case) -> list[float]:
    table = target_registration_error(dict(enumerate(transforms, start=1)), case.landmarks, 0, case.grid)
    return [row.after_mm for row in table.included()]


def line(name: str, sums: Sums) -> str:
    """A row of the table."""
    errors = "| | | "
    if sums.before:
        mean, largest = (f"{f(sums.before):.3f} -> {f(sums.after):.3f}" for f in (np.mean, np.max))
        errors = f"| {mean} | {largest} "
    shares = [100 * count / sums.frames for count in (sums.lattice, sums.frames - sums.proven, sums.limited, sums.smaller)]
    cells = " | ".join(f"{share:.0f}" for share in shares)
    return (
        f"| {name} | {sums.frames} | {cells} {errors}| {1000 * sums.bound_s / sums.frames:.1f} "
        f"| {100 * sums.bound_s / sums.method_s:.1f} | {100 * sums.unfolding_s / sums.method_s:.0f} | {sums.residual_px:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["fit", "r2n2", "bspline"], default="fit")
    parser.add_argument("--frames", type=int, default=3, help="moving frames a series")
    parser.add_argument("--most", type=int, default=4, help="series a part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["thorax", "slices", "unseen", "contoured"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = RegistrationConfig(method=arguments.method, device="cpu")
    method = build_method(config)
    needs_data = set(arguments.parts) - {"thorax", "unseen"}
    print(
        "| development series | frames | fold on the lattice % | not proven % | limited % | made smaller % | mean TRE mm "
        "| largest | bound ms | of the method % | unfolding, of the method % | largest inverse residual px |"
    )
    print("|" + "---|" * 12)
    for part in arguments.parts:
        sums = Sums()
        cases = held_out_cases(
            (part,), data_folder() if needs_data else None, frames=arguments.frames, most=arguments.most, validation=True
        )
        for case in cases:
            add(sums, case, method, config)
        print(line(part, sums), flush=True)


if __name__ == "__main__":
    main()
