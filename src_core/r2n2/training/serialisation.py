"""Nested dicts, lists and tuples of tensors and numbers as JSON beside named tensors, and back without any loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor

__all__ = ["flatten", "rebuild"]

# Every container becomes an object with one of these keys, so that nothing in the data can be mistaken for one.
_TENSOR, _DICT, _LIST, _TUPLE, _FLOAT = "tensor", "dict", "list", "tuple", "float"


def flatten(value: Any, prefix: str, tensors: MutableMapping[str, Tensor]) -> Any:
    """JSON of ``value``, whose tensors are added to ``tensors`` under names that start with ``prefix``.

    Raises
    ------
    TypeError
        Naming the type, for anything but tensors, numbers, texts, None, lists, tuples and dicts with int or str keys.
    """
    if isinstance(value, Tensor):
        name = f"{prefix}{len(tensors):06d}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        wrong = [key for key in value if type(key) not in (int, str)]
        if wrong:
            raise TypeError(f"flatten: keys must be int or str, got {wrong[0]!r} of type {type(wrong[0]).__name__}")
        return {_DICT: [[key, flatten(item, prefix, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {_LIST if isinstance(value, list) else _TUPLE: [flatten(item, prefix, tensors) for item in value]}
    if type(value) is float:
        # JSON has no words for these; repr gives every other float back exactly.
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if value is None or type(value) in (bool, int, str):
        return value
    raise TypeError(f"flatten: a {type(value).__name__} cannot be kept; convert it to a tensor, number or text first")


def rebuild(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What ``flatten`` was given.

    Raises
    ------
    ValueError
        If ``tree`` is none that ``flatten`` gives.
    KeyError
        If a tensor is missing.
    """
    if not isinstance(tree, dict):
        if isinstance(tree, list):
            raise ValueError("rebuild: a list without its kind")
        return tree
    if len(tree) != 1:
        raise ValueError(f"rebuild: expected one kind, got {sorted(map(str, tree))[:5]}")
    kind, content = next(iter(tree.items()))
    if kind == _TENSOR:
        return tensors[content]
    if kind == _FLOAT:
        return float(content)
    if kind == _DICT:
        return {key: rebuild(item, tensors) for key, item in content}
    if kind == _LIST:
        return [rebuild(item, tensors) for item in content]
    if kind == _TUPLE:
        return tuple(rebuild(item, tensors) for item in content)
    raise ValueError(f"rebuild: unknown kind {str(kind)[:40]!r}")
