"""From an aligned series to maps and figures of lung function: two passes over the frames, one at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.lung.amplitudes import Amplitudes, Regression
from r2n2.lung.defects import DefectFigures, defect_figures, defects
from r2n2.lung.maps import (
    Noise,
    delay_s,
    fractional_ventilation,
    magnitude,
    noise_level,
    normalised_perfusion,
    ventilation_perfusion_ratio,
)
from r2n2.lung.rhythm import Rhythm, explained_by, find_rhythm, uniform_step
from r2n2.lung.settings import LungConfig

__all__ = ["LungFunction", "LungProgress", "Region", "analyse"]

Map = NDArray[np.float64]
Inside = NDArray[np.bool_]

_TRACES = 2000  # pixels whose course is kept to look for the heart in
_PARTS = 4
_SHORTEST = 16
_UNREGULAR = 0.25


@dataclass(frozen=True)
class LungProgress:
    """How far an analysis is, share of the work in [0, 1]."""

    fraction: float


@dataclass(frozen=True)
class Region:
    """Figures of one lung or of both.

    Parameters
    ----------
    name
        "right", "left" or "both".
    area_mm2
        Of the mask.
    ventilation, perfusion, jacobian
        Medians; NaN where the map is not known.
    defects
        Shares in percent.
    """

    name: str
    area_mm2: float
    ventilation: float
    perfusion: float
    jacobian: float
    defects: DefectFigures


@dataclass(frozen=True, eq=False)
class LungFunction:
    """Maps (H, W) on the reference frame, NaN where they are not known, and their figures.

    Parameters
    ----------
    config
        By which rules.
    mask
        Where lung is.
    mean
        Signal without rhythms.
    ventilation
        Fractional ventilation by signal, 0 to 1.
    perfusion
        Normalised perfusion, 0 to 1; None where no heart beat was found.
    ratio
        V/Q.
    breathing_delay_s, heart_delay_s
        Behind the mean of the lung.
    jacobian
        Change of area from expiration to inspiration as a share, by the displacements.
    ventilation_defects, perfusion_defects
        Inside the mask.
    breathing, heart
        The rhythms.
    signal
        (T,) mean of the lung; what was left out is interpolated.
    noise
        What was taken for noise.
    regions
        Right, left and both, or both alone.
    left_out
        Frames that did not count.
    notes
        What a person should know, one sentence each.
    """

    config: LungConfig
    mask: Inside
    mean: Map
    ventilation: Map
    perfusion: Map | None
    ratio: Map | None
    breathing_delay_s: Map
    heart_delay_s: Map | None
    jacobian: Map | None
    ventilation_defects: Inside
    perfusion_defects: Inside | None
    breathing: Rhythm
    heart: Rhythm | None
    signal: Map
    noise: Noise
    regions: tuple[Region, ...]
    left_out: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())


def analyse(
    frame: Callable[[int], NDArray[np.floating]],
    times_s: Sequence[float],
    mask: Inside,
    config: LungConfig | None = None,
    *,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    sides: Mapping[str, Inside] | None = None,
    left_out: Sequence[int] = (),
    jacobian: Callable[[int], NDArray[np.floating]] | None = None,
) -> Generator[LungProgress, None, LungFunction]:
    """Maps and figures of one slice position.

    Parameters
    ----------
    frame
        Gives aligned frame k, (H, W); read twice.
    times_s
        Of all frames, at equal steps.
    mask
        (H, W) where lung is.
    sides
        Parts of the mask for which figures are wanted too.
    left_out
        Frames that do not count, as they were not aligned well.
    jacobian
        Gives the Jacobian determinant of frame k's displacement, (H, W): the area of tissue there as a multiple of the reference's.

    Raises
    ------
    ReadError
        If frames are too few or not at equal steps, or no breathing is found.
    """
    config = config or LungConfig()
    step = uniform_step(np.asarray(times_s, np.float64))
    count = len(times_s)
    dropped = sorted({*range(min(config.skip, count)), *left_out})
    used = [index for index in range(count) if index not in set(dropped)]
    if len(used) < _SHORTEST:
        raise ReadError(f"frames: expected at least {_SHORTEST} aligned frames to find rhythms in, got {len(used)}; give more")
    _check_rates(config, step)
    passes = 3 if jacobian is not None else 2
    traces = np.full((count, min(_TRACES, int(mask.sum()))), np.nan)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(mask))[: traces.shape[1]]
    signal = np.full(count, np.nan)
    for number, index in enumerate(used):
        values = np.asarray(frame(index), np.float64)
        signal[index], traces[index] = values[mask].mean(), values.ravel()[chosen]
        yield LungProgress((number + 1) / len(used) / passes)
    signal, traces = _filled(signal, used), np.apply_along_axis(_filled, 0, traces, used)
    breathing, heart, notes = _rhythms(signal, traces, step, config)
    rhythms = (breathing,) if heart is None else (breathing, heart)
    regression = Regression(rhythms, mask.shape, harmonics=min(config.harmonics, len(rhythms)))
    for number, index in enumerate(used):
        regression.add(index, frame(index))
        yield LungProgress((1 + (number + 1) / len(used)) / passes)
    found = regression.solve()
    widening = None
    if jacobian is not None:
        areas = Regression((breathing,), mask.shape)
        for number, index in enumerate(used):
            areas.add(index, jacobian(index))
            yield LungProgress((2 + (number + 1) / len(used)) / passes)
        widening = _widening(areas.solve(), found, mask)
    if dropped:
        notes.append(f"{len(dropped)} of {count} frames are left out: {_listed(dropped)}")
    return _summarised(found, rhythms, config, mask, signal, spacing_mm, sides or {}, widening, tuple(dropped), tuple(notes))


def _check_rates(config: LungConfig, step_s: float) -> None:
    highest = 0.5 / step_s
    if config.breathing_hz[1] > highest:
        raise ReadError(
            f"times: frames every {step_s:.3g} s show rates up to {highest:.3g} Hz, breathing is looked for up to "
            f"{config.breathing_hz[1]:g} Hz; give a faster series, or a lower end of the band with --breathing"
        )


def _filled(values: Map, used: Sequence[int]) -> Map:
    """A row of samples with those not used interpolated between their neighbours."""
    return np.interp(np.arange(len(values)), used, values[list(used)])


def _rhythms(signal: Map, traces: Map, step_s: float, config: LungConfig) -> tuple[Rhythm, Rhythm | None, list[str]]:
    notes: list[str] = []
    breathing = find_rhythm(signal, step_s, config.breathing_hz)
    if breathing is None:
        breathing = _strongest(_principal(traces), step_s, config.breathing_hz)
        if breathing is None:
            low, high = config.breathing_hz
            raise ReadError(
                f"no breathing between {low:g} and {high:g} Hz is found in the mask: check the mask and the times of the frames, "
                "or give another band with --breathing"
            )
        notes.append("breathing does not show in the mean of the lung; its rhythm is that of the first principal components")
    if breathing.spread_hz > _UNREGULAR * breathing.frequency_hz:
        notes.append(
            f"breathing is irregular ({breathing.frequency_hz:.2f} +- {breathing.spread_hz:.2f} Hz): ventilation is that of the "
            "mean depth of a breath"
        )
    if config.heart_hz[0] > 0.5 / step_s:
        notes.append(f"frames every {step_s:.3g} s are too slow to show the heart; there is no perfusion")
        return breathing, None, notes
    band = (config.heart_hz[0], min(config.heart_hz[1], 0.5 / step_s))
    left = traces - np.stack([explained_by(column, (breathing,)) for column in traces.T], axis=1)
    heart = _strongest([signal, *_principal(left)], step_s, band, without=(breathing,))
    if heart is None:
        notes.append(f"no heart beat between {band[0]:g} and {band[1]:g} Hz is found; there is no perfusion")
    return breathing, heart, notes


def _principal(traces: Map) -> list[Map]:
    """Courses of the first principal components of the pixels, which show what their mean cancels."""
    vectors, values, _ = np.linalg.svd(traces - traces.mean(axis=0), full_matrices=False)
    return [vectors[:, k] * values[k] for k in range(min(_PARTS, len(values)))]


def _strongest(
    signals: Sequence[Map], step_s: float, band_hz: tuple[float, float], without: tuple[Rhythm, ...] = ()
) -> Rhythm | None:
    """Of the rhythms in several signals, the one that explains the largest share of what is left of its own."""
    best, most = None, 0.0
    for signal in signals:
        rhythm = find_rhythm(signal, step_s, band_hz, without=without)
        if rhythm is None:
            continue
        left = signal - signal.mean() - (explained_by(signal, without) if without else 0.0)
        share = float(explained_by(left, (rhythm,)).var() / max(left.var(), 1e-300))
        if share > most:
            best, most = rhythm, share
    return best


def _widening(areas: Amplitudes, found: Amplitudes, mask: Inside) -> Map:
    """(area at inspiration - at expiration) / area at expiration, the phase being that of the lung's mean signal."""
    # The signal falls as air comes in, so expiration is where its curve, turned to the mean phase of the lung, is highest.
    phase = np.exp(1j * np.angle(found.oscillations[0][mask].sum()))
    along = (areas.oscillations[0] * np.conj(phase)).real
    expired, inspired = areas.offset + along, areas.offset - along
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expired > 0, inspired / expired - 1, np.nan)


def _summarised(
    found: Amplitudes,
    rhythms: tuple[Rhythm, ...],
    config: LungConfig,
    mask: Inside,
    signal: Map,
    spacing_mm: tuple[float, float],
    sides: Mapping[str, Inside],
    widening: Map | None,
    dropped: tuple[int, ...],
    notes: tuple[str, ...],
) -> LungFunction:
    noise = noise_level(found, mask)
    ventilation = fractional_ventilation(found.offset, magnitude(found, 0), noise.sigma if config.rician else 0.0)
    rule = (config.defect_share, config.defect_of)
    heart = rhythms[1] if len(rhythms) > 1 else None
    perfusion = ratio = heart_delay = perfusion_defects = None
    if heart is not None:
        perfusion = normalised_perfusion(magnitude(found, 1), mask, config.vessels)
        ratio = ventilation_perfusion_ratio(ventilation, perfusion, mask)
        heart_delay = delay_s(found, 1, mask, heart.frequency_hz)
        perfusion_defects = defects(perfusion, mask, *rule)
    ventilation_defects = defects(ventilation, mask, *rule)
    none = np.zeros_like(mask)
    regions = []
    for name, inside in {**sides, "both": mask}.items():
        figures = defect_figures(ventilation_defects, none if perfusion_defects is None else perfusion_defects, inside)
        if perfusion_defects is None:
            nan = float("nan")
            figures = DefectFigures(figures.vdp, nan, nan, nan)
        v, q, j = (_median(values, inside) for values in (ventilation, perfusion, widening))
        regions.append(Region(name, float(inside.sum()) * spacing_mm[0] * spacing_mm[1], v, q, j, figures))
    return LungFunction(
        config=config,
        mask=mask,
        mean=found.offset,
        ventilation=ventilation,
        perfusion=perfusion,
        ratio=ratio,
        breathing_delay_s=delay_s(found, 0, mask, rhythms[0].frequency_hz),
        heart_delay_s=heart_delay,
        jacobian=widening,
        ventilation_defects=ventilation_defects,
        perfusion_defects=perfusion_defects,
        breathing=rhythms[0],
        heart=heart,
        signal=signal,
        noise=noise,
        regions=tuple(regions),
        left_out=dropped,
        notes=notes,
    )


def _median(values: Map | None, inside: Inside) -> float:
    if values is None or not inside.any():
        return float("nan")
    return float(np.nanmedian(values[inside]))


def _listed(frames: Sequence[int]) -> str:
    shown = ", ".join(map(str, frames[:12]))
    return shown + (f" and {len(frames) - 12} more" if len(frames) > 12 else "")
