"""The journal of a training: always a JSONL file, one object a line, and TensorBoard's files where that package is installed."""

from __future__ import annotations

import importlib
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from r2n2.errors import MissingExtraError, ReadError, ResourceError
from r2n2.io.atomic import atomic_write, resource_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["Journal", "read_journal"]

_LOG = logging.getLogger(__name__)
_NAME = "journal.jsonl"
_RESERVED = frozenset({"step", "kind", "unix_s"})


class Journal:
    """Writes down what a training does.

    Lines are ``{"step": 12, "kind": "scalars", "unix_s": ..., "loss": 0.3, ...}`` and ``{"step": 12, "kind": "text", ...}``;
    numbers that are not finite, for which JSON has no words, are the texts "nan", "inf" and "-inf". Every line is handed to the
    system at once, so that a killed process loses none.

    Parameters
    ----------
    folder
        For ``journal.jsonl`` and, below it, ``tensorboard``; made if missing.
    step
        Updates done so far. What an earlier run wrote about later steps is removed, as they will be done again; at 0, all but
        what is said about the start.
    tensorboard
        Whether to write for TensorBoard too; "auto": where it is installed, with a note where it is not.
    clock
        Whether lines bear the time of day; without it two equal trainings write equal files.

    Raises
    ------
    MissingExtraError
        If TensorBoard is asked for and not installed.
    ResourceError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool | Literal["auto"] = "auto", clock: bool = True) -> None:
        self.path = folder / _NAME
        self._clock = clock
        with resource_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        self.notes: tuple[str, ...] = _forget_after(self.path, step)
        self._board = _board(folder / "tensorboard", step) if tensorboard else None
        if tensorboard and self._board is None:
            problem = "TensorBoard is not installed: pip install 'napari-r2n2[training]'"
            if tensorboard is True:
                raise MissingExtraError(f"the journal for TensorBoard cannot be written, {problem}")
            self.notes = (*self.notes, f"no curves and pictures beside {_NAME}, {problem}")
        for note in self.notes:
            _LOG.info(note)
        with resource_errors(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    @property
    def takes_pictures(self) -> bool:
        """Whether ``image`` and ``figure`` do anything; if not, drawing can be spared."""
        return self._board is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note numbers after ``step`` updates.

        Raises
        ------
        ValueError
            If one is called step, kind or unix_s.
        ResourceError
            If the disk is full.
        """
        numbers = {name: float(value) for name, value in values.items()}
        self._line(step, "scalars", {name: v if math.isfinite(v) else repr(v) for name, v in numbers.items()})
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def text(self, step: int, name: str, words: str) -> None:
        """Note a remark."""
        self._line(step, "text", {name: words})
        if self._board is not None:
            self._board.add_text(name, words, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """Show a picture (H, W), (1, H, W) or (3, H, W), its values 0 to 1, in TensorBoard."""
        if self._board is not None:
            # A copy in plain float: TensorBoard's way of quantising is undefined for other types and values out of range.
            shown = image.detach().to("cpu").float().nan_to_num(0.0).clamp(0, 1)
            self._board.add_image(name, shown if shown.ndim == 3 else shown[None], step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Show a matplotlib figure in TensorBoard; the figure is left as it is."""
        if self._board is None:
            return
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        # Drawn here, as TensorBoard's own way imports pyplot, which keeps and closes figures for the whole process.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self._board.add_image(name, np.asarray(canvas.buffer_rgba())[..., :3].copy(), step, dataformats="HWC")

    def flush(self) -> None:
        """Hand everything to the system, TensorBoard's files too."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """End the journal."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _line(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        wrong = sorted(_RESERVED & set(values))
        if wrong:
            raise ValueError(f"Journal: {wrong[0]!r} is a word of the journal itself; call the value something else")
        when = {"unix_s": round(time.time(), 3)} if self._clock else {}
        line = json.dumps({"step": step, "kind": kind, **when, **values}, allow_nan=False)
        with resource_errors(self.path):
            self._file.write(line + "\n")
            self._file.flush()


def read_journal(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of a journal file or of the one in a folder; numbers that are not finite are floats again.

    An unfinished last line, which a killed process leaves, is passed over.

    Raises
    ------
    ReadError
        If there is no journal, or a line is no line of one.
    """
    file = path / _NAME if path.is_dir() else path
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ReadError(f"{file}: no journal can be read ({error.strerror or error}); check the path") from None
    return tuple(_parse(file, number, line) for number, line in enumerate(lines[:-1], start=1))


def _parse(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or type(values["step"]) is not int or not isinstance(values["kind"], str):
            raise ValueError("not an object with step and kind")
    except (ValueError, KeyError, RecursionError) as error:
        raise ReadError(f"{file}: line {number} is no line of a journal ({str(error)[:80]}); remove that line") from None
    if values["kind"] != "scalars":
        return values
    return {name: float(v) if v in ("nan", "inf", "-inf") else v for name, v in values.items()}


def _forget_after(path: Path, step: int) -> tuple[str, ...]:
    """Remove the lines about later steps and an unfinished last one; say what was removed."""
    if not path.exists():
        return ()
    with resource_errors(path):
        content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    steps = [_parse(path, number, line)["step"] for number, line in enumerate(lines, start=1)]
    kept = [line for line, at in zip(lines, steps, strict=True) if at <= step]
    notes = []
    if len(kept) < len(lines):
        notes.append(f"{path}: removed {len(lines) - len(kept)} lines about steps after {step}, which are done again")
    if rest:
        notes.append(f"{path}: removed an unfinished last line")
    if notes:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
    return tuple(notes)


def _board(folder: Path, step: int) -> Any | None:
    """TensorBoard's writer, or None where the package is missing."""
    try:
        importlib.import_module("tensorboard")
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        # Events of an earlier run after this step are hidden by TensorBoard.
        return SummaryWriter(str(folder), purge_step=step + 1)
    except OSError as error:
        raise ResourceError(f"{folder}: not written ({error.strerror or error}); choose another folder") from error
