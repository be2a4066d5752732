"""``r2n2 movie``: a result as GIF or MP4, before beside after or one frame step by step."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2n2.cli.frame_lists import listed_frames
from r2n2.errors import ArgumentError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from r2n2.movies.drawing import Picture
    from r2n2.results.reader import RegisteredSeries

__all__ = ["movie"]


def movie(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote, of one slice position.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Movie to write: .gif or .mp4.")],
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Frame N step by step, instead of all before beside after.")
    ] = None,
    frames: Annotated[str, typer.Option(metavar="A-B,C|all", help="Which frames.")] = "all",
    rate: Annotated[float, typer.Option(metavar="HZ", help="Pictures a second.")] = 8.0,
    height: Annotated[int, typer.Option(metavar="PIXELS", min=32, max=2160, help="Height of an image at least.")] = 320,
    images: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="The images that were registered, where they have moved.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier movie.")] = False,
) -> None:
    """Write a movie: every frame before beside after, or one frame step by step."""
    from r2n2.movies.writing import check_movie, write_movie
    from r2n2.results.reader import read_result

    check_movie(output)
    if output.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: exists already; give --overwrite or another name")
    registered = read_result(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    stop = context.ensure_object(StopRequest)
    with contextlib.closing(write_movie(output, _pictures(registered, images, steps, frames, height), rate_hz=rate)) as writing:
        for _ in writing:
            stop.check()
    print(output)


def _pictures(registered: RegisteredSeries, images: Path | None, steps: int | None, frames: str, height: int) -> Iterator[Picture]:
    from r2n2.movies.pictures import MovieSeries, before_after, step_by_step
    from r2n2.registration import warp_frame
    from r2n2.results.source_series import source_series

    every = sorted(registered.transforms)
    chosen = listed_frames("--frames", frames, every)
    if steps is not None:
        listed_frames("--steps", str(steps), every)
    series = source_series(registered, images)
    shown = MovieSeries(
        len(series),
        series.frame,
        lambda frame: warp_frame(series, registered.result(frame)),
        registered.grid.spacing,
        series.times_s,
        series.spacing_known,
    )
    if steps is not None:
        return step_by_step(shown, steps, registered.reference, registered.transforms[steps], height=height)
    return before_after(shown, frames=chosen, height=height)
