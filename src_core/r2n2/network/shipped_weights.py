"""Which weights ship with the package, told without loading torch."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable

__all__ = ["SUFFIX", "domain_of", "named_weights", "shipped_file", "weights_folder"]

SUFFIX = ".safetensors"
_DOMAIN = "| for |"


def named_weights() -> tuple[str, ...]:
    """Names of the weights that ship, in alphabetical order."""
    folder = weights_folder()
    if not folder.is_dir():
        return ()
    found = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX)))


def weights_folder() -> Traversable:
    """Where they lie."""
    return importlib.resources.files("r2n2.resources") / "weights"


def shipped_file(name: str) -> Traversable:
    """File of the weights of that name."""
    return weights_folder() / f"{name}{SUFFIX}"


def domain_of(name: str) -> str:
    """What the weights of that name were made for, as their model card says; "" where they do not ship or have no card."""
    card = weights_folder() / f"{name}.md"
    if name not in named_weights() or not card.is_file():
        return ""
    row = next((line for line in card.read_text(encoding="utf-8").splitlines() if line.startswith(_DOMAIN)), "")
    # A link is for readers of the card.
    return row.removeprefix(_DOMAIN).strip().rstrip("|").strip().replace("`", "")
