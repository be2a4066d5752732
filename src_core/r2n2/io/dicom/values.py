"""Reads typed values out of a DICOM data set whose elements may be missing, empty, of another type or forged."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from r2n2.io.dicom.tags import PRIVATE_TAGS

__all__ = [
    "FunctionalGroups",
    "clean_uid",
    "code",
    "frame_groups",
    "integer",
    "is_filled",
    "microseconds",
    "number",
    "numbers",
    "private_value",
    "shown",
    "text",
    "words",
]

_CREATORS = {(group, element): creator for group, element, creator in PRIVATE_TAGS}
_DEEPEST_MACRO = 2
_MICROSECONDS_A_DAY = 86_400_000_000


def clean_uid(value: str) -> str:
    """A UID as it is; anything else might be a name, and gives way to a number made of it."""
    if re.fullmatch(r"[0-9.]{0,64}", value):
        return value
    return f"2.25.{int.from_bytes(hashlib.sha256(value.encode(errors='replace')).digest()[:12], 'big')}"


def shown(name: object) -> str:
    """A file's name as it may stand in a message: one line, no control characters, no bytes that are no text."""
    return "".join(c if c.isprintable() else "?" for c in str(name))


def text(dataset: Any, keyword: Any) -> str:
    """The element as text, "" where it is missing or cannot be understood."""
    try:
        value = dataset.get(keyword)
        value = getattr(value, "value", value) if isinstance(keyword, tuple) else value
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return ""
    return "" if value is None else str(value).strip()


def code(dataset: Any, keyword: str) -> str:
    """A coded word such as MR; anything else is no code and might be a name."""
    word = text(dataset, keyword).upper()
    return word if re.fullmatch(r"[A-Z0-9_ ]{1,16}", word) else ""


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """All coded words of an element; of a word that is no code, which might be a name, only a number made of it."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return ()
    items = [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else []
    upper = [str(item).strip().upper() for item in items]
    return tuple(w if re.fullmatch(r"[A-Z0-9_ +-]{0,16}", w) else f"CODE{int(clean_uid(w)[5:]) % 10_000}" for w in upper)


def integer(dataset: Any, keyword: Any) -> int | None:
    """A whole number, or None."""
    value = number(dataset, keyword)
    return int(value) if value is not None and math.isfinite(value) else None


def number(dataset: Any, keyword: Any) -> float | None:
    """A single number, which may be infinite or NaN, or None where there is none or there are several."""
    values = numbers(dataset, keyword)
    return values[0] if values is not None and len(values) == 1 else None


def numbers(dataset: Any, keyword: Any, count: int | None = None) -> tuple[float, ...] | None:
    """The numbers of an element, or None where it is missing, empty, has another length than ``count`` or is no number."""
    try:
        value = dataset.get(keyword)
        value = getattr(value, "value", value) if isinstance(keyword, tuple) else value
        if value is None or isinstance(value, (bytes, str)):
            return None
        items = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
        found = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError, NotImplementedError, AttributeError):
        return None
    if not found or (count is not None and len(found) != count):
        return None
    return found if len(found) == 1 or all(map(math.isfinite, found)) else None


def is_filled(dataset: Any, keyword: str) -> bool:
    """Whether an element is there with any value."""
    try:
        return dataset.get(keyword) not in (None, "")
    except (TypeError, ValueError, NotImplementedError, AttributeError):  # there is something, though no number
        return True


def microseconds(date: str, time: str) -> float | None:
    """Whole microseconds since day 0 of the calendar, or of the day where the date is none (some files hold 20120000)."""
    match = re.match(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?", time.strip())
    if not match:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    value = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int((match[4] or "0").ljust(6, "0"))
    try:
        return value + datetime.strptime(date.strip()[:10].replace(".", ""), "%Y%m%d").toordinal() * _MICROSECONDS_A_DAY
    except ValueError:
        return value


def private_value(dataset: Any, group: int, element: int) -> Any:
    """Value of a private element, None where it or its creator is missing."""
    try:
        return dataset.get_private_item(group, element, _CREATORS[(group, element)]).value
    except Exception:  # missing, or of a type that pydicom cannot convert
        return None


class FunctionalGroups:
    """Where a frame's values are found: its own functional groups, then the shared ones, then the data set.

    Parameters
    ----------
    own, shared
        The macros of the frame and of all frames, as ``macros_by_tag`` gives them.
    """

    def __init__(self, dataset: Any, own: Mapping[int, Any], shared: Mapping[int, Any]) -> None:
        self.dataset = dataset
        self._own, self._shared = own, shared

    def holder(self, keyword: str) -> Any:
        """The data set that holds ``keyword``, in whichever macro it is: vendors and modalities differ in that."""
        tag = _tag(keyword)
        return self._own.get(tag) or self._shared.get(tag) or self.dataset


def frame_groups(dataset: Any) -> Callable[[int], FunctionalGroups]:
    """The functional groups of every frame of a file, by the frame's index."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = _macros_by_tag((dataset.get("SharedFunctionalGroupsSequence") or [None])[0])

    def of(index: int) -> FunctionalGroups:
        return FunctionalGroups(dataset, _macros_by_tag(per_frame[index] if index < len(per_frame) else None), shared)

    return of


def _macros_by_tag(group: Any) -> dict[int, Any]:
    """By tag, the data set of a functional group that holds it: its macros, and sequences in these."""
    found: dict[int, Any] = {}
    pending = [] if group is None else [(group, 0)]
    while pending:
        item, depth = pending.pop(0)
        for tag in item.keys():  # noqa: SIM118  pydicom's iteration would convert every value
            found.setdefault(int(tag), item)
        if depth < _DEEPEST_MACRO:
            pending += [(item[tag].value[0], depth + 1) for tag in item.keys() if _is_sequence(item, tag)]  # noqa: SIM118
    return found


def _is_sequence(item: Any, tag: Any) -> bool:
    element = item.get_item(tag)
    return (element.VR == "SQ" or (element.VR is None and item[tag].VR == "SQ")) and bool(item[tag].value)


@functools.cache
def _tag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return int(tag_for_keyword(keyword) or 0)
