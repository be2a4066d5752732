"""Write docs/reference/training-settings.md: every setting of training with its values in the presets.

usage: python docs/make_settings.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r2n2.config import Config, NetworkConfig
from r2n2.simulation import AppearanceConfig, EngineConfig, MotionConfig
from r2n2.training.presets import PRESETS
from r2n2.training.settings import DataConfig, ObjectiveConfig, OptimiserConfig, Stage, TrainingConfig

PAGE = Path(__file__).parent / "reference" / "training-settings.md"

_HEAD = """# Settings of training

Every setting of `r2n2 train`, as it stands in a TOML file, with its value in the presets. An unknown name, a wrong type or a value
out of range is an error that names the setting. `r2n2 train --preset general --write-config FILE` writes them all; what is left out
of a file has the value of `paper-as-published`. An empty cell is a setting that is not given. What the settings are for is said in
[Train on your own series](../how-to/train.md) and [The network](../concepts/network.md). This page is written by
`docs/make_settings.py`.
"""

_TABLES: tuple[tuple[str, type[Config], str], ...] = (
    ("", TrainingConfig, "At the top of the file"),
    ("network", NetworkConfig, "`[network]`"),
    ("objective", ObjectiveConfig, "`[objective]`"),
    ("optimiser", OptimiserConfig, "`[optimiser]`"),
    ("data", DataConfig, "`[data]`"),
    ("data.engine", EngineConfig, "`[data.engine]`"),
    ("data.engine.motion", MotionConfig, "`[data.engine.motion]`"),
    ("data.engine.appearance", AppearanceConfig, "`[data.engine.appearance]`"),
    ("stages", Stage, "`[[stages]]`"),
)


def page() -> str:
    """The whole page."""
    presets = {name: make().model_dump(mode="json") for name, make in PRESETS.items()}
    sections = [_HEAD]
    for place, model, title in _TABLES:
        values = {name: _at(settings, place) for name, settings in presets.items()}
        lines = [
            f"## {title}",
            "",
            _sentence(model),
            "",
            f"| setting | {' | '.join(presets)} | meaning |",
            "|---" * (2 + len(presets)) + "|",
        ]
        for name, field in model.model_fields.items():
            if all(isinstance(found[name], dict) or _is_tables(found[name]) for found in values.values()):
                continue  # a table of its own
            shown = " | ".join(_shown(found[name]) for found in values.values())
            lines.append(f"| `{name}` | {shown} | {_meaning(field.description)} |")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _at(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """The values of one table; of the last where there are several."""
    found: Any = settings
    for part in place.split(".") if place else ():
        found = found[part]
    values: dict[str, Any] = found[-1] if isinstance(found, list) else found
    return values


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _shown(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _sentence(model: type[Config]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0]


def _meaning(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
