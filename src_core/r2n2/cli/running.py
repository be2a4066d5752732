"""A registration that is seen: every slice position into its folder, with the bar and notes of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.series import ImageSeries

__all__ = ["show_registration"]


def show_registration(
    found: Sequence[ImageSeries],
    output: Path,
    config: RegistrationConfig | None = None,
    *,
    stop: StopRequest,
    quiet: bool,
    landmarks: Sequence[Any] = (),
    surveys: Sequence[Any] = (),
    guides: Sequence[Any] = (),
    masks: Sequence[Any] = (),
    **options: Any,
) -> bool:
    """Register one series into a folder, or each slice position into a sub-folder; true if a frame or a slice position failed.

    Parameters
    ----------
    landmarks, surveys, guides, masks
        One item a slice position, or empty.
    options
        As ``register_to_folder`` takes them.
    """
    from r2n2.cli.progress import RunDisplay
    from r2n2.workflow import register_slices_to_folder, register_to_folder

    each = {"landmarks": landmarks, "surveys": surveys, "guides": guides, "masks": masks}
    several: dict[str, Any] = {name: items for name, items in each.items() if items}
    flagged, seen = False, -1
    failed: dict[str, str] = {}
    if len(found) == 1:
        one: dict[str, Any] = {"survey" if name == "surveys" else name: items[0] for name, items in several.items()}
        alone = register_to_folder(found[0], output, config, **one, **options)
        with contextlib.closing(alone), RunDisplay(stop, quiet=quiet) as display:
            for progress in alone:
                flagged |= display.show(progress, found[0], output)
        return flagged
    running = register_slices_to_folder(found, output, config, **several, **options)
    with contextlib.closing(running), RunDisplay(stop, quiet=quiet) as display:
        for step in running:
            series = found[step.index]
            if step.index != seen:
                seen = step.index
                display.note(f"{step.name}: {series.name}, {len(series)} frames")
            if step.progress is None:
                failed[step.name] = step.failure
                display.fail(f"{step.name}: {step.failure}")
            else:
                flagged |= display.show(step.progress, series, output / step.name)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    return bool(failed) or flagged
