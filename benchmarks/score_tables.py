"""Tables of scores: one line a method, the same a part of the data, and on the frames that all methods registered."""

from __future__ import annotations

from typing import Any

import numpy as np
from held_out import PARTS
from scoring import Score

__all__ = ["by_part", "errors", "mean", "ratios", "report", "row"]

SIMULATED = ("slices", "thorax")
OTHERS = ("demons", "elastix", "ANTs", "TV-L1", "bspline")
"""What the networks are compared with."""
NAN = float("nan")


def errors(scores: list[Score]) -> np.ndarray:
    return np.array([value for score in scores for value in score.tre_mm])


def ratios(scores: list[Score]) -> dict[str, float]:
    """Mean error of every series relative to doing nothing."""
    series: dict[str, list[Score]] = {}
    for score in scores:
        if score.tre_mm:
            series.setdefault(score.series, []).append(score)
    return {
        name: float(np.mean(errors(part)) / np.mean([value for score in part for value in score.before_mm]))
        for name, part in series.items()
    }


def mean(values: list[float]) -> float:
    values = [value for value in values if value == value]
    return float(np.mean(values)) if values else NAN


def row(method: str, scores: list[Score]) -> dict[str, Any]:
    """One line of the table."""
    simulated = [score for score in scores if score.part in SIMULATED]
    after, relative = errors(simulated), ratios(scores)
    told = len(after) > 0
    worst = max(relative, key=relative.__getitem__) if relative else ""
    outlined = [score for score in scores if score.part == "contoured"]
    line = {
        "method": method,
        "TRE before mm": mean([value for score in simulated for value in score.before_mm]),
        "TRE mean mm": mean(list(after)),
        "median": float(np.median(after)) if told else NAN,
        "95 %": float(np.quantile(after, 0.95)) if told else NAN,
        "max": float(after.max()) if told else NAN,
    }
    for part in (*SIMULATED, "unseen"):
        line[f"TRE {part}"] = mean(list(errors([score for score in scores if score.part == part])))
    return line | {
        "worst series / nothing": f"{relative[worst]:.2f} ({worst})" if worst else "",
        "series worse": sum(ratio > 1 for ratio in relative.values()) if relative else NAN,
        "Dice before": mean([score.dice_before for score in outlined]),
        "Dice": mean([score.dice for score in outlined]),
        "slices worse": sum(score.dice < score.dice_before for score in outlined) if outlined else NAN,
        "lowest Dice": min([score.dice for score in outlined], default=NAN),
        "folding %": mean([score.folding_percent for score in scores]),
        "worst folding %": max([score.folding_percent for score in scores], default=NAN),
        "correlation": mean([score.correlation for score in scores]),
        "s/frame": mean([score.seconds for score in scores]),
        "numbers": round(mean([score.numbers for score in scores])) if scores else NAN,
        "frames": len(scores),
    }


def by_part(method: str, scores: list[Score]) -> list[dict[str, Any]]:
    """One line a part, for the second table and the files."""
    lines = []
    for part in PARTS:
        here = [score for score in scores if score.part == part]
        if not here:
            continue
        after, relative = errors(here), ratios(here)
        told = len(after) > 0
        lines.append(
            {
                "part": part,
                "method": method,
                "TRE before mm": mean([value for score in here for value in score.before_mm]),
                "TRE mean mm": mean(list(after)),
                "median": float(np.median(after)) if told else NAN,
                "95 %": float(np.quantile(after, 0.95)) if told else NAN,
                "max": float(after.max()) if told else NAN,
                "series worse": sum(ratio > 1 for ratio in relative.values()) if relative else NAN,
                "Dice before": mean([score.dice_before for score in here]),
                "Dice": mean([score.dice for score in here]),
                "folding %": mean([score.folding_percent for score in here]),
                "correlation before": mean([score.correlation_before for score in here]),
                "correlation": mean([score.correlation for score in here]),
                "s/frame": mean([score.seconds for score in here]),
                "frames": len(here),
            }
        )
    return lines


def common(scores: dict[str, list[Score]]) -> tuple[dict[str, list[Score]], int]:
    """The scores of the simulated frames that every method registered that registered any, and how many frames those are."""
    taken = {method: {(s.series, s.frame): s for s in some if s.part in SIMULATED} for method, some in scores.items()}
    taken = {method: some for method, some in taken.items() if some}
    shared = set.intersection(*(set(some) for some in taken.values())) if taken else set()
    return {method: [some[key] for key in sorted(shared)] for method, some in taken.items()}, len(shared)


def _relative(scores: dict[str, list[Score]]) -> list[dict[str, Any]]:
    """One line a method on the same frames, with its error relative to the best of the others' methods and to each."""
    names = ("method", "TRE before mm", "TRE mean mm", "median", "95 %", "max", "s/frame")
    lines = [{name: row(method, some)[name] for name in names} for method, some in scores.items()]
    others = {line["method"]: line["TRE mean mm"] for line in lines if line["method"].startswith(OTHERS)}
    for line in lines:
        if others:
            line["TRE / best other"] = line["TRE mean mm"] / min(others.values())
        for name, error in others.items():
            line[f"TRE / {name}"] = line["TRE mean mm"] / error
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    def text(name: str, value: Any) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.4f}" if "%" in name and "95" not in name else f"{value:.3f}"
        return str(value)

    if not lines:
        return ""
    head = list(lines[0])
    parts = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*parts, *("| " + " | ".join(text(k, line[k]) for k in head) + " |" for line in lines)])


def report(scores: dict[str, list[Score]], title: str, skipped: list[str]) -> str:
    sections = [title, markdown([row(method, some) for method, some in scores.items()]), *skipped]
    same, count = common(scores)
    if same:
        sections += [f"The {count} simulated frames that all of these registered:", markdown(_relative(same))]
    parts = sorted(
        (line for method, some in scores.items() for line in by_part(method, some)), key=lambda x: PARTS.index(x["part"])
    )
    return "\n\n".join([*sections, "By part:", markdown(parts)]) + "\n"
