"""``python -m r2n2.training.data.thorax``: simulated people in one file, from which a machine without the simulation trains."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from r2n2.errors import R2N2Error
from r2n2.training.data.contents import TrainingData
from r2n2.training.data.file import save_data_file

__all__ = ["main", "write_thorax_data"]

_LOG = logging.getLogger("r2n2.training.data.thorax")


def write_thorax_data(path: Path, people: range, *, pairs: int, size: int, acquisitions: bool) -> int:
    """Pairs of frames with exact displacement, a patient a person; how many were written.

    Parameters
    ----------
    path
        Ends in .safetensors.
    people
        A seed each.
    pairs
        Pairs of frames of each slice position.
    size
        Pixels of a frame along both axes.
    acquisitions
        Whether people are seen at all of their 7 to 14 slice positions, or through the middle of the chest alone.
    """
    from r2n2.simulation.people import acquisition_pairs, thorax_pairs

    made = (acquisition_pairs if acquisitions else thorax_pairs)(people, pairs, size=size)
    save_data_file(path, TrainingData(pairs=tuple(made)))
    return len(made)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m r2n2.training.data.thorax", description=__doc__)
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--people", type=int, nargs=2, required=True, metavar=("FIRST", "END"), help="seeds; END is not made")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of frames of each slice position")
    parser.add_argument("--size", type=int, default=256, help="pixels along both axes")
    parser.add_argument("--acquisitions", action="store_true", help="all slice positions of a person, not the middle one alone")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        count = write_thorax_data(
            given.output, range(*given.people), pairs=given.pairs, size=given.size, acquisitions=given.acquisitions
        )
    except R2N2Error as error:
        _LOG.error("%s", " ".join(str(error).split()))
        return error.exit_code
    _LOG.info("%s: %d pairs of %d people", given.output, count, len(range(*given.people)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
