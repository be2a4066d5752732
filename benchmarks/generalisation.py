"""Compare all methods on series that no weight was trained on: landmark error, overlap, folding, similarity, time, size.

usage: python benchmarks/generalisation.py [--quick] [--validation] [--parts slices ...] [--methods fit ...]
           [--general WEIGHTS] [--paper WEIGHTS] [--adapted WEIGHTS | --adapt-minutes 2] [--markdown FILE] [--csv FILE]
           [--json FILE]

The test part is never to be looked at while weights or settings are chosen: --validation gives the same table on development data.
Methods take turns series by series, so that a busy machine slows all of them alike. Displacements are assessed as each method
gives them; `r2n2 register` would put back a frame whose similarity falls.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from contestants import NAMES, Entry, contestants
from held_out import PARTS, data_folder, held_out_cases
from score_tables import by_part, errors, mean, ratios, report, row
from scoring import Score, scores_of


def save(arguments: argparse.Namespace, scores: dict[str, list[Score]], title: str, skipped: list[str]) -> None:
    """Write the files asked for; called after every series, so that a run that is stopped has shown what it found."""
    if arguments.markdown:
        arguments.markdown.write_text(report(scores, title, skipped), encoding="utf-8")
    if arguments.csv:
        lines = [{"part": "all", **row(method, some)} for method, some in scores.items()]
        lines += [line for method, some in scores.items() for line in by_part(method, some)]
        names = list(dict.fromkeys(name for line in lines for name in line))
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(lines)
    if arguments.json:
        content = {
            "title": title,
            "skipped": skipped,
            "table": [row(method, some) for method, some in scores.items()],
            "parts": [line for method, some in scores.items() for line in by_part(method, some)],
            "series": {method: ratios(some) for method, some in scores.items()},
            "frames": [vars(score) for some in scores.values() for score in some],
        }
        arguments.json.write_text(json.dumps(_plain(content), indent=1), encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same for JSON, which has no word for what is not a number."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of real series; default: R2N2_DATA or ../shared/data")
    parser.add_argument("--validation", action="store_true", help="development data instead of the test part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--frames", type=int, default=8, help="moving frames a series")
    parser.add_argument("--series", type=int, default=None, help="at most so many series a part")
    parser.add_argument("--quick", action="store_true", help="2 series a part of 2 frames each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bspline-frames", type=int, default=2, help="moving frames a series for bspline, which is slow")
    parser.add_argument("--elastix-frames", type=int, default=2, help="the same for elastix")
    parser.add_argument("--paper", default="paper", help="name or file of the weights of the paper's network")
    parser.add_argument("--general", default="general", help="name or file of the general weights")
    parser.add_argument("--adapted", type=Path, default=None, help="weights after adapt")
    parser.add_argument("--adapt-minutes", type=float, default=0.0, help="adapt the general weights to each series so long")
    parser.add_argument("--adapt-parts", nargs="+", choices=PARTS, default=["unseen"])
    for name in ("markdown", "csv", "json"):
        parser.add_argument(f"--{name}", type=Path, default=None, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    frames, most = (2, arguments.series or 2) if arguments.quick else (arguments.frames, arguments.series)
    field_of = contestants(arguments.methods, arguments)
    skipped = [item for item in field_of if isinstance(item, str)]
    methods = [item for item in field_of if isinstance(item, Entry)]
    data = arguments.data or data_folder()
    split = "development data" if arguments.validation else "test part"
    title = f"{split}: {', '.join(arguments.parts)}; {frames} frames a series, {arguments.threads} threads, methods in turn"
    scores: dict[str, list[Score]] = {method.name: [] for method in methods}
    warm = False
    cases = held_out_cases(tuple(arguments.parts), data, frames=frames, most=most, validation=arguments.validation)
    for case in cases:
        if not warm:  # the first call of a library loads and compiles; not counted
            for method in methods:
                if method.most_frames is None and method.prepare is None:
                    method.register(case.first(1))
            warm = True
        for method in methods:
            found = scores_of(method, case)
            scores[method.name] += found
            if found:
                told = f"correlation {found[0].correlation:.3f}"
                if found[0].tre_mm:
                    told = f"TRE {mean(list(errors(found))):.3f} mm"
                elif case.masks is not None:
                    told = f"Dice {found[0].dice:.3f}"
                print(f"{case.part} | {case.name} | {method.name} | {told} | {found[0].seconds:.3f} s", file=sys.stderr, flush=True)
        save(arguments, scores, title, skipped)
    print(report(scores, title, skipped))


if __name__ == "__main__":
    main()
