"""``python -m r2n2.training``: one process of a training run, alone or among those that torchrun starts.

Needs torch, numpy, pydantic and safetensors alone where the data are data files. Exit codes are those of ``r2n2``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r2n2.errors import R2N2Error
from r2n2.runtime.signals import Interrupted, StopRequest, stop_signals

if TYPE_CHECKING:
    from r2n2.training.settings import TrainingConfig

__all__ = ["main"]

_LOG = logging.getLogger("r2n2.training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and give the exit code.

    Parameters
    ----------
    arguments
        In place of those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m r2n2.training", description=__doc__)
    parser.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="settings as TOML, with data.folders; see r2n2 train --write-config"
    )
    parser.add_argument("--preset", metavar="NAME", help="settings by name in place of CONFIG")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="data files, in place of data.folders")
    parser.add_argument("--held-out", nargs="+", metavar="PATIENT", help="whom to validate on, in place of data.held_out")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder of the run, shared by all machines")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; several processes take one GPU each")
    parser.add_argument("--init", metavar="FILE", help="weights to begin with, where DIR holds no checkpoint yet")
    parser.add_argument("--minutes", type=float, help="stop after this time, and save")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with stop_signals() as stop:
            _train(_settings(given), given.output, given.resume, given.device, stop)
    except Interrupted as end:
        _LOG.info("r2n2.training: %s", end)
        return end.exit_code
    except R2N2Error as error:
        _LOG.error("r2n2.training: %s", " ".join(str(error).split()))
        return error.exit_code
    return 0


def _settings(given: argparse.Namespace) -> TrainingConfig:
    """From a file or by name; what else is given comes first."""
    from r2n2.errors import ArgumentError
    from r2n2.training.presets import preset
    from r2n2.training.settings import TrainingConfig

    if (given.config is None) == (given.preset is None):
        raise ArgumentError("CONFIG: give either a file of settings or --preset NAME")
    if given.config is not None and not given.config.is_file():
        raise ArgumentError(f"CONFIG {given.config}: no such file; give settings as TOML, which r2n2 train --write-config writes")
    config = preset(given.preset) if given.config is None else TrainingConfig.from_toml(given.config)
    values = config.model_dump(mode="json")
    values |= {name: value for name in ("init", "minutes") if (value := getattr(given, name)) is not None}
    if given.data is not None:
        values["data"] |= {"folders": [str(file.absolute()) for file in given.data], "thorax_seeds": [0, 0]}
    if given.held_out is not None:
        values["data"]["held_out"] = given.held_out
    return TrainingConfig.parse(values)


def _train(config: TrainingConfig, folder: Path, resume: bool, device: str, stop: StopRequest) -> None:
    from r2n2.training.data.reading import load_data
    from r2n2.training.processes import team_of_environment
    from r2n2.training.run import WEIGHTS_FILE, train

    team = team_of_environment(device)
    source = config.data
    data = load_data(source.folders, exclude_patients=source.exclude, masks=source.masks, phases=source.phases, axes=source.axes)
    said_s = 0.0
    with stop.patiently():
        for done in train(config, folder, data, resume=resume, device=device, stop=lambda: stop.asked, processes=team):
            for note in done.notes if team.leads else ():
                _LOG.info("note: %s", note)
            if team.leads and (done.validation or done.saved or done.seconds > said_s + 30):
                found = f", validation error {done.validation.error_percent:.3f} %" if done.validation else ""
                _LOG.info("update %d of %d, loss %.4g%s", done.step.update, done.step.updates, done.step.loss, found)
                said_s = done.seconds
    team.leave()
    if team.leads:
        _LOG.info("%s: the best weights", folder / WEIGHTS_FILE)
    stop.check()


if __name__ == "__main__":
    exit_code = main()
    if "WORLD_SIZE" in os.environ:
        from r2n2.training.processes import end_process

        end_process(exit_code)
    sys.exit(exit_code)
