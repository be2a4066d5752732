"""The command ``r2n2``: arguments to settings to public functions, and the one place that turns errors into exit codes.

0 success, 2 usage, 3 bad input, 4 resource, 5 internal, 130 interrupted (143 by SIGTERM). Whatever is slow to import is
imported inside the commands, so that ``r2n2 --help`` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from r2n2 import __version__
from r2n2.cli.apply import apply
from r2n2.cli.batch import batch
from r2n2.cli.benchmark import benchmark
from r2n2.cli.curves import curves
from r2n2.cli.export import export
from r2n2.cli.lung import lung
from r2n2.cli.movie import movie
from r2n2.cli.register import register
from r2n2.cli.results import evaluate
from r2n2.cli.simulate import simulate
from r2n2.cli.tools import doctor, info
from r2n2.cli.training import adapt, train
from r2n2.errors import R2N2Error
from r2n2.runtime.openmp import wait_asleep
from r2n2.runtime.signals import Interrupted, StopRequest, stop_signals

__all__ = ["app", "main"]

_INTERNAL, _RESOURCE = 5, 4

app = typer.Typer(
    name="r2n2",
    help="Align every frame of a moving image series to one reference frame by a short sequence of local Gaussian deformations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (register, batch, evaluate, apply, curves, movie, export, lung, info, simulate, train, adapt, benchmark, doctor):
    app.command()(_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"r2n2 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of internal errors.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    context.ensure_object(StopRequest)
    if debug:
        os.environ["R2N2_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    Parameters
    ----------
    arguments
        In place of those of the process.
    """
    debug_before = os.environ.get("R2N2_DEBUG")
    wait_asleep()
    try:
        with stop_signals() as stop:
            app(args=None if arguments is None else list(arguments), obj=stop)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Interrupted as end:
        return _say(str(end), end.exit_code)
    except R2N2Error as error:
        return _say(str(error), error.exit_code)
    except MemoryError:
        return _say("not enough memory; use a smaller --batch-size, or fewer slices at once with --slice", _RESOURCE)
    except Exception as error:
        return _unexpected(error)
    finally:
        if debug_before is None:
            os.environ.pop("R2N2_DEBUG", None)
    return 0


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        # The reader of our output has gone (r2n2 info ... | head): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if type(error).__name__ == "OutOfMemoryError":
        return _say("the GPU has not enough memory; use a smaller --batch-size or --device cpu", _RESOURCE)
    if isinstance(error, OSError) and error.filename is not None:
        return _say(f"{error.filename}: {error.strerror}; check path and permissions", _RESOURCE)
    if os.environ.get("R2N2_DEBUG"):
        traceback.print_exception(error)
    return _say(f"internal error, {type(error).__name__}: {error} (details in {_log(error)}; please report it)", _INTERNAL)


def _log(error: Exception) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="r2n2-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"r2n2 {__version__}\n" + "".join(traceback.format_exception(error)))
    except OSError:
        return "no log: no temporary folder can be written"
    return str(Path(name))


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"r2n2: {line}", file=sys.stderr)
    return code
