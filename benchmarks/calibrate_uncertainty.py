"""Fit the tables of the radius that ships with the package, on series whose motion is known.

usage: python benchmarks/calibrate_uncertainty.py TABLES.json --rows FOLDER [--methods r2n2 ...] [--seeds 10] [--slow-seeds 3]

Seeds from 100 on of every kind but those that are left out; real pictures are those of development (set R2N2_DATA). Methods that
are not named keep the table that TABLES.json holds. About ten minutes of a processor for all, of which the B-spline takes two.
The folder keeps what was found of every registration: give an empty one after a method has changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from error_rows import BACK, kept_rows
from held_out import data_folder
from known_contrast import CONTRAST_KINDS
from known_motion import CALIBRATION_SEEDS, KINDS, LEFT_OUT
from radius_fit import FEATURES, FRAME, FRAME_OF_EDGES, fitted_table

from r2n2.registration.uncertainty.tables import EDGES, MethodTable, RadiusTables

__all__ = ["SLOW", "kinds_of"]

SLOW = (f"r2n2{BACK}", "bspline")
"""Methods of which fewer seeds are registered."""
_METHODS = ("r2n2", "network", "fit", "ngf", *SLOW)


def kinds_of(method: str) -> tuple[str, ...]:
    """Kinds that a method's table is fitted to: under another measure than intensities those whose contrast changes, too."""
    if method == EDGES:
        return ("thorax", "slices", *CONTRAST_KINDS)
    return tuple(kind for kind in KINDS if kind not in LEFT_OUT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--rows", type=Path, required=True, help="folder in which registrations are kept")
    parser.add_argument("--methods", nargs="+", default=_METHODS, choices=_METHODS)
    parser.add_argument("--seeds", type=int, default=10, help="how many of a kind")
    parser.add_argument("--slow-seeds", type=int, default=3, help="how many for the B-spline and for both ways")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = RadiusTables.model_validate_json(arguments.tables.read_text()) if arguments.tables.exists() else None
    tables: dict[str, MethodTable] = {}
    for name, table in {} if kept is None else kept.methods.items():
        tables[name] = table.model_copy(update={"calibrated_on": table.calibrated_on or kept.calibrated_on})
    for method in arguments.methods:
        count = arguments.slow_seeds if method in SLOW else arguments.seeds
        kinds = kinds_of(method)
        rows = list(kept_rows(kinds, CALIBRATION_SEEDS, count, (method,), data_folder(), arguments.rows))
        back = ("disagreement",) if method.endswith(BACK) else ()
        frame = FRAME_OF_EDGES if method == EDGES else FRAME
        found = fitted_table(rows, (*FEATURES[method.removesuffix(BACK)], *back), frame)
        said = f"{count} series of each of {', '.join(kinds)} from seed {CALIBRATION_SEEDS[0]} on"
        tables[method] = found.model_copy(update={"calibrated_on": said})
        print(f"{method}: {len(rows)} series", flush=True)
    said = "what each method's table says (benchmarks/known_motion.py and known_contrast.py)"
    arguments.tables.write_text(RadiusTables(calibrated_on=said, methods=tables).model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
