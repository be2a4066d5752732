"""What a person prefers, set once on R2N2's page of napari's Preferences and read whenever a widget opens; without Qt.

The page itself is made by napari from ``configurations`` in the manifest, whose defaults are those of ``Preferences``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["PLUGIN_NAME", "Preferences", "read_preferences"]

PLUGIN_NAME = "napari-r2n2"

_LOG = logging.getLogger(__name__)
# Group on the page, which is where napari keeps a value.
_GROUPS = {
    "device": "compute",
    "method": "registration",
    "weights": "registration",
    "refine": "registration",
    "colormap": "display",
    "arrow_spacing_px": "display",
    "stacks": "reading",
}


@dataclass(frozen=True)
class Preferences:
    """What widgets start with; each of them can still be told otherwise."""

    device: str = "auto"
    """auto, cpu or cuda."""
    method: str = "r2n2"
    """r2n2, fit or bspline."""
    weights: str = "general"
    """Name of weights, shipped or adapted, or path of a .safetensors file; it may be gone by now."""
    refine: bool = True
    """Refine the network's Gaussians."""
    colormap: str = "turbo"
    """Name that napari and matplotlib know; colours Gaussians from the first to the last step."""
    arrow_spacing_px: int = 8
    """Distance of the arrows of a displacement in pixels of the image."""
    stacks: str = "automatic"
    """How stacks of slices are opened: automatic, slices or volumes; automatic is by their geometry, as ``r2n2 register`` does."""

    @property
    def volumes(self) -> bool | None:
        """``stacks`` as ``read_series`` takes it."""
        return None if self.stacks == "automatic" else self.stacks == "volumes"


def read_preferences() -> Preferences:
    """What is set now; the default wherever napari keeps no value or one of another type."""
    settings = _settings()
    values: dict[str, Any] = {}
    for field in fields(Preferences):
        value = getattr(getattr(settings, _GROUPS[field.name], None), field.name, None)
        # By type, not isinstance: True is an int, but no distance.
        if type(value) is type(field.default):
            values[field.name] = value.strip() or field.default if isinstance(value, str) else value
    return Preferences(**values)


def _settings() -> Any:
    """Settings of this plugin, as napari keeps them; None where there are none."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # before napari 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN_NAME)
    except KeyError:
        return None
    except Exception:
        # napari reads the files of all plugins at once: none of them may keep a widget from opening.
        _LOG.warning("The preferences could not be read; the defaults are used.", exc_info=True)
        return None
