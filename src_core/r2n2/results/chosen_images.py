"""Some of the frames, or of the channels, of a series: views that read a frame when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.series import ImageSeries

__all__ = ["chosen_channels", "chosen_images"]


class _Chosen:
    """Some of the frames of a series, read when they are asked for."""

    def __init__(self, series: ImageSeries, chosen: Sequence[int]) -> None:
        self._series, self._chosen = series, tuple(chosen)
        self.shape = (len(chosen), *series.frames.shape[1:])
        self.dtype = series.dtype

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self._series.frame(self._chosen[index])


def chosen_images(series: ImageSeries, frames: Sequence[int]) -> ImageSeries:
    """Some frames of a series, with their times."""
    times = None if series.times_s is None else tuple(series.times_s[frame] for frame in frames)
    return replace(series, frames=_Chosen(series, frames), times_s=times)


class _Channels:
    """Some of the channels of a series' frames, read when they are asked for."""

    def __init__(self, series: ImageSeries, channels: Sequence[int]) -> None:
        self._series, self._channels = series, list(channels)
        self.shape = (len(series), len(channels), *series.frames.shape[2:])
        self.dtype = series.dtype

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self._series.frame(index)[self._channels]


def chosen_channels(series: ImageSeries, channels: Sequence[int]) -> ImageSeries:
    """Some channels of every frame, in the order asked for.

    Raises
    ------
    ArgumentError
        If there is no such channel.
    """
    for channel in channels:
        if not 0 <= channel < series.channels:
            raise ArgumentError(
                f"--channels: {series.name or 'the file'} has channels 0 to {series.channels - 1}, got {channel}; count from 0"
            )
    return replace(series, frames=_Channels(series, channels))
