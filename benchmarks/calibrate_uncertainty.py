"""Fit the tables of the radius that ships with the package, on series whose motion is known.

usage: python benchmarks/calibrate_uncertainty.py TABLES.json --rows FOLDER [--seeds 40] [--slow-seeds 10]

Seeds 100 to 139 of every kind but those that are left out; real pictures are those of development (set R2N2_DATA).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from error_rows import kept_rows
from held_out import data_folder
from known_motion import CALIBRATION_SEEDS, KINDS, LEFT_OUT
from radius_fit import FEATURES, fitted_table

from r2n2.registration.uncertainty.tables import MethodTable, RadiusTables

__all__ = ["SLOW"]

SLOW = ("bspline", "r2n2+back")
"""Methods of which fewer seeds are registered."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--rows", type=Path, required=True, help="folder in which registrations are kept")
    parser.add_argument("--seeds", type=int, default=len(CALIBRATION_SEEDS), help="how many of a kind")
    parser.add_argument("--slow-seeds", type=int, default=10, help="how many for the B-spline and for both ways")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = tuple(kind for kind in KINDS if kind not in LEFT_OUT)
    tables: dict[str, MethodTable] = {}
    for method in (*FEATURES, "r2n2+back"):
        count = arguments.slow_seeds if method in SLOW else arguments.seeds
        rows = list(kept_rows(kinds, CALIBRATION_SEEDS, count, (method,), data_folder(), arguments.rows))
        back = ("disagreement",) if method.endswith("+back") else ()
        tables[method] = fitted_table(rows, (*FEATURES[method.removesuffix("+back")], *back))
        print(f"{method}: {len(rows)} series", flush=True)
    said = (
        f"{arguments.seeds} series of each of {', '.join(kinds)} from seed {CALIBRATION_SEEDS[0]} on (benchmarks/known_motion.py)"
    )
    arguments.tables.write_text(RadiusTables(calibrated_on=said, methods=tables).model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
