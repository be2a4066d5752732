"""``r2n2 curves``: intensity, area and strain of labels over time, as a table and a figure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.errors import ArgumentError, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2n2.results.reader import RegisteredSeries

__all__ = ["curves"]


def curves(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote, of one slice position.")],
    labels: Annotated[Path, typer.Option("--labels", metavar="FILE", help="Label map, drawn on the reference.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for curves.csv, curves.png and curves.svg.")
    ],
    source: Annotated[
        int | None, typer.Option("--from", metavar="N", help="The labels are drawn in frame N instead of the reference.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="The images that were registered, where they have moved.")
    ] = None,
    channel: Annotated[int, typer.Option(metavar="N", help="Which channel's intensity, from 0.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier curves.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes and no bar.")] = False,
) -> None:
    """Mean intensity before and after alignment, area and strain of every label over time."""
    from rich.console import Console
    from rich.progress import Progress

    from r2n2.curves import label_curves
    from r2n2.report.curves import write_curves
    from r2n2.results.reader import read_result

    if (output / "curves.csv").exists() and not overwrite:
        raise ArgumentError(f"--output {output}: holds curves already; give --overwrite or another folder")
    if not labels.exists():
        raise ReadError(f"--labels {labels}: no such file; check the path")
    registered = read_result(folder)
    drawn = _labels(registered, labels, source, quiet)
    stop = context.ensure_object(StopRequest)
    aligned, before = _frames(registered, images, channel, quiet)
    running = label_curves(drawn, registered.grid, registered.transforms, aligned, before)
    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("reading curves", total=1.0)
        while True:
            stop.check()
            try:
                bar.update(task, completed=next(running).fraction)
            except StopIteration as end:
                found = end.value
                break
    status = {row.frame: row.status.value for row in registered.metrics}
    write_curves(output, found, registered.manifest.input.times_s, status)
    print(output)


def _labels(registered: RegisteredSeries, path: Path, source: int | None, quiet: bool) -> NDArray[np.integer]:
    """(*shape) on the pixels of the reference."""
    import numpy as np

    from r2n2.results.apply import apply_to_series
    from r2n2.results.placing import read_placed

    placed = read_placed(registered.lattice, path, labels=True)
    if not quiet:
        for note in placed.notes:
            print(f"note: {path.name}: {note}", file=sys.stderr)
    series = placed.series
    if len(series) != 1:
        raise ArgumentError(
            f"--labels {path}: holds {len(series)} images; give the label map of one frame, and --from N if not of the reference"
        )
    if series.grid.shape != registered.grid.shape:
        raise ArgumentError(
            f"--labels {path}: has {series.grid.shape} pixels, the reference {registered.grid.shape}; resample it to the reference"
        )
    image = series.frame(0)[0]
    if source is not None:
        image = next(iter(apply_to_series(registered, series, frames=[source], labels=True)))[0]
    return np.asarray(np.rint(image)).astype(np.int64)


def _frames(registered: RegisteredSeries, images: Path | None, channel: int, quiet: bool) -> Any:
    """What gives a frame after and before alignment; None in place of the latter where the images are not at hand."""
    import numpy as np

    from r2n2.io import read_series
    from r2n2.registration import warp_frame
    from r2n2.results.reader import own_path
    from r2n2.results.source_series import source_series

    def picked(frame: NDArray[Any]) -> NDArray[np.floating]:
        if not 0 <= channel < len(frame):
            raise ArgumentError(f"--channel {channel}: the images have channels 0 to {len(frame) - 1}")
        values = frame[channel]
        return np.asarray(np.abs(values) if np.iscomplexobj(values) else values, np.float64)

    try:
        series = source_series(registered, images)
    except ReadError as error:
        name = registered.manifest.registered_file
        if images is not None or name is None:
            raise
        if not quiet:
            print(f"note: {error}; there are no curves before alignment (--input FILE)", file=sys.stderr)
        stored = read_series(own_path(registered.folder, registered.folder / name))[0]
        return (lambda frame: picked(stored.frame(frame))), None
    return (lambda frame: picked(warp_frame(series, registered.result(frame)))), (lambda frame: picked(series.frame(frame)))
