"""The page of a lung analysis: morphology, ventilation, perfusion, their ratio, defects, histograms and rhythms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2n2.lung.analysis import LungFunction
from r2n2.lung.spectrum import signal_spectrum
from r2n2.report.style import AFTER_COLOUR, BEFORE_COLOUR, STYLE, WIDTH_IN, figure_uri, new_figure, show_image
from r2n2.report.template import number_text, render_template

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render_lung"]

_VENTILATION, _PERFUSION = "#1f5f8b", "#a4161a"
_DEFECT_COLOURS = ("#00000000", "#2f7fb8", "#c8323c", "#7b3f9d")


def render_lung(
    function: LungFunction, times_s: Sequence[float], spacing_mm: tuple[float, float], *, title: str, mask_text: str
) -> str:
    """The HTML text of one slice position.

    Parameters
    ----------
    times_s
        Of all frames.
    spacing_mm
        Of rows and columns.
    title
        What the series is called.
    mask_text
        Where the mask came from, one sentence.
    """
    context = {
        "title": title,
        "tiles": _tiles(function),
        "maps": _maps_figure(function, spacing_mm),
        "delays": _delays_figure(function, spacing_mm),
        "histograms": _histogram_figure(function),
        "rhythms": _rhythm_figure(function, times_s),
        "regions": function.regions,
        "mask_text": mask_text,
        "rule": _rule_text(function),
        "notes": function.notes,
        "settings": _settings(function),
    }
    return render_template("lung.html.j2", context, {"number": number_text})


def _tiles(function: LungFunction) -> list[tuple[str, str, str]]:
    both = function.regions[-1]
    breathing, heart = function.breathing, function.heart
    tiles = [
        ("Fractional ventilation", number_text(both.ventilation, 3), "median of the lung"),
        ("Ventilation defects", f"{number_text(both.defects.vdp, 1)} %", "VDP, share of the lung"),
    ]
    if heart is not None:
        tiles += [
            ("Perfusion defects", f"{number_text(both.defects.qdp, 1)} %", "QDP, share of the lung"),
            ("Matched", f"{number_text(both.defects.vqm, 1)} %", "VQM, neither is a defect"),
        ]
    tiles.append(
        ("Breathing", f"{60 * breathing.frequency_hz:.1f} /min", f"{breathing.cycles:.0f} breaths, {breathing.frequency_hz:.3f} Hz")
    )
    if heart is not None:
        tiles.append(("Heart", f"{60 * heart.frequency_hz:.0f} /min", f"{heart.frequency_hz:.2f} Hz"))
    return tiles


def _maps_figure(function: LungFunction, spacing: tuple[float, float]) -> str:
    from matplotlib import rc_context
    from matplotlib.colors import ListedColormap

    outside = ~function.mask
    panels: list[tuple[str, NDArray[Any], dict[str, Any]]] = [
        (
            "a  fractional ventilation",
            function.ventilation,
            {"cmap": "viridis", "vmin": 0, "vmax": _top(function.ventilation, function.mask)},
        )
    ]
    if function.perfusion is not None and function.ratio is not None:
        panels += [
            (
                "b  normalised perfusion",
                function.perfusion,
                {"cmap": "inferno", "vmin": 0, "vmax": _top(function.perfusion, function.mask)},
            ),
            ("c  V/Q", np.log2(np.maximum(function.ratio, 2.0**-9)), {"cmap": "RdBu_r", "vmin": -2, "vmax": 2}),
        ]
    if function.jacobian is not None:
        top = _top(np.abs(function.jacobian), function.mask)
        panels.append((f"{'abcd'[len(panels)]}  change of area", function.jacobian, {"cmap": "RdBu_r", "vmin": -top, "vmax": top}))
    columns = len(panels) + 1
    with rc_context(STYLE):
        figure = new_figure(_height(function, spacing, columns))
        axes = figure.subplots(1, columns)
        for cell, (name, values, options) in zip(axes, panels, strict=False):
            _ground(cell, function, spacing)
            drawn = show_image(cell, np.where(outside, np.nan, values), spacing, **options)
            cell.set_title(name, loc="left")
            bar = figure.colorbar(drawn, ax=cell, orientation="horizontal", fraction=0.05, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7)
            if name.endswith("V/Q"):
                bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
        marked = function.ventilation_defects.astype(float)
        if function.perfusion_defects is not None:
            marked = marked + 2 * function.perfusion_defects
        _ground(axes[-1], function, spacing)
        drawn = show_image(axes[-1], marked, spacing, cmap=ListedColormap(_DEFECT_COLOURS), vmin=-0.5, vmax=3.5)
        # Room as for the bars beside it, so that all pictures stand in one line; the legend takes it.
        figure.colorbar(drawn, ax=axes[-1], orientation="horizontal", fraction=0.05, pad=0.02).ax.set_visible(False)
        axes[-1].contour(*_outline(function.mask, spacing), levels=[0.5], colors="#ffb000", linewidths=1.1)
        axes[-1].set_title(f"{'abcde'[columns - 1]}  mask and defects", loc="left")
        _legend(axes[-1], function.perfusion_defects is not None)
        return figure_uri(figure)


def _legend(cell: Axes, perfusion: bool) -> None:
    from matplotlib.patches import Patch

    names = ["ventilation", "perfusion", "both"] if perfusion else ["ventilation"]
    patches = [Patch(color=colour, label=name) for colour, name in zip(_DEFECT_COLOURS[1:], names, strict=False)]
    cell.legend(
        handles=patches,
        frameon=False,
        fontsize=7.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=len(names),
        handlelength=1,
        columnspacing=0.9,
    )


def _delays_figure(function: LungFunction, spacing: tuple[float, float]) -> str:
    """Delays of breathing and heart beat, cyclic colours over one cycle."""
    from matplotlib import rc_context

    panels = [("a  delay of breathing (s)", function.breathing_delay_s, function.breathing.frequency_hz)]
    if function.heart_delay_s is not None and function.heart is not None:
        panels.append(("b  delay of the heart beat (s)", function.heart_delay_s, function.heart.frequency_hz))
    with rc_context(STYLE):
        figure = new_figure(_height(function, spacing, 4))
        axes = figure.subplots(1, 4)
        for cell, (name, values, rate) in zip(axes, panels, strict=False):
            half = 0.5 / rate
            _ground(cell, function, spacing)
            drawn = show_image(
                cell, np.where(function.mask, values, np.nan), spacing, cmap="twilight_shifted", vmin=-half, vmax=half
            )
            cell.set_title(name, loc="left")
            bar = figure.colorbar(drawn, ax=cell, orientation="horizontal", fraction=0.05, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7)
        for cell in axes[len(panels) :]:
            cell.set_visible(False)
        return figure_uri(figure)


def _histogram_figure(function: LungFunction) -> str:
    from matplotlib import rc_context

    maps = [("fractional ventilation", function.ventilation, _VENTILATION)]
    if function.perfusion is not None:
        maps.append(("normalised perfusion", function.perfusion, _PERFUSION))
    with rc_context(STYLE):
        figure = new_figure(2.4)
        for cell, (name, values, colour) in zip(figure.subplots(1, 2), maps, strict=False):
            inside = values[function.mask & np.isfinite(values)]
            top = _top(values, function.mask)
            cell.hist(np.clip(inside, 0, top), bins=60, range=(0, top), color=colour, alpha=0.8)
            cell.set_xlabel(name)
            cell.set_ylabel("pixels")
        if len(maps) == 1:
            figure.axes[1].set_visible(False)
        return figure_uri(figure)


def _rhythm_figure(function: LungFunction, times_s: Sequence[float]) -> str:
    """The lung's signal with the breathing found, and its spectrum with the rates."""
    from matplotlib import rc_context

    times = np.asarray(times_s, np.float64)
    signal = function.signal
    design = np.stack([np.ones_like(times), times, function.breathing.curve.real, function.breathing.curve.imag], axis=1)
    fitted = design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    with rc_context(STYLE):
        figure = new_figure(2.7)
        curve, spectrum = figure.subplots(1, 2, width_ratios=(3, 2))
        curve.plot(times, signal, color="#8a929c", linewidth=0.8, label="mean signal of the lung")
        curve.plot(times, fitted, color=AFTER_COLOUR, linewidth=1.4, label="breathing and drift")
        if function.left_out:
            curve.plot(times[list(function.left_out)], signal[list(function.left_out)], "x", color=BEFORE_COLOUR, label="left out")
        curve.set_xlabel("time (s)")
        curve.set_ylabel("signal")
        curve.margins(x=0.01)
        curve.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
        rates, amplitude = signal_spectrum(signal, times)
        spectrum.semilogy(rates, np.maximum(amplitude, 1e-4), color="#4a525c", linewidth=0.9)
        for rhythm, colour, name in ((function.breathing, _VENTILATION, "breathing"), (function.heart, _PERFUSION, "heart")):
            if rhythm is not None:
                spectrum.axvline(
                    rhythm.frequency_hz, color=colour, linewidth=1.4, alpha=0.8, label=f"{name} {rhythm.frequency_hz:.2f} Hz"
                )
        spectrum.set_xlim(0, min(rates[-1], 2.2))
        spectrum.set_ylim(1e-4, 1.5)
        spectrum.set_xlabel("rate (Hz)")
        spectrum.set_ylabel("amplitude")
        spectrum.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
        return figure_uri(figure)


def _ground(cell: Axes, function: LungFunction, spacing: tuple[float, float]) -> None:
    """The morphology under a map."""
    low, high = np.quantile(function.mean, (0.005, 0.995))
    show_image(cell, function.mean, spacing, cmap="gray", vmin=low, vmax=high)


def _outline(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rows, columns = mask.shape
    return np.arange(columns) * spacing[1], np.arange(rows) * spacing[0], mask.astype(float)


def _height(function: LungFunction, spacing: tuple[float, float], columns: int) -> float:
    rows, across = function.mask.shape
    ratio = min(max(rows * spacing[0] / (across * spacing[1]), 0.3), 2.2)
    return WIDTH_IN * 0.95 / columns * ratio + 0.75


def _top(values: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    inside = values[mask & np.isfinite(values)]
    return float(np.percentile(inside, 99)) if inside.size and np.percentile(inside, 99) > 0 else 1.0


def _rule_text(function: LungFunction) -> str:
    config = function.config
    of = "the median" if config.defect_of == "median" else f"the {config.defect_of[1:]}th percentile"
    return f"A place is a defect below {100 * config.defect_share:.0f} % of {of} of its map inside the mask."


def _settings(function: LungFunction) -> list[tuple[str, str]]:
    config = function.config
    rows = [
        ("Fractional ventilation", "(S_exp − S_insp) / S_exp with S = offset ± amplitude of breathing (Zapke 2006)"),
        (
            "Perfusion",
            f"amplitude of the heart beat, divided by its {config.vessels:g}th percentile in the mask (large vessels), at most 1",
        ),
        ("V/Q", "ventilation and perfusion, each divided by its median in the mask"),
        ("Delay", "behind the mean of the mask, within half a cycle"),
        ("Rates", "matrix pencil of the lung's signal, then demodulated about the rate as it drifts"),
        (
            "Bands",
            f"breathing {config.breathing_hz[0]:g} to {config.breathing_hz[1]:g} Hz, "
            f"heart {config.heart_hz[0]:g} to {config.heart_hz[1]:g} Hz",
        ),
        (
            "Noise",
            f"{function.noise.sigma:.3g}, seen in {'air' if function.noise.source == 'air' else 'what the fit leaves in the lung'}"
            + ("; its Rician bias is taken away" if config.rician else "; its bias is left"),
        ),
        ("Frames", f"{len(function.signal) - len(function.left_out)} of {len(function.signal)} count"),
    ]
    if function.jacobian is not None:
        rows.insert(3, ("Change of area", "area at inspiration / area at expiration − 1, by the Jacobian of the displacements"))
    return rows
