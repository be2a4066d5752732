"""Joins series that are one phase of a cycle each, as a respiratory-gated CT has them: the phase stands in their descriptions.

A description is free text and may name a person: the number of the phase alone is kept, and a hash of the rest to compare.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from r2n2.io.dicom.frame import FrameHeader

__all__ = ["PHASE_TAG", "described_phase", "join_phases"]

PHASE_TAG = "phase in SeriesDescription"
"""What the phase is called among the values that order frames."""

_PHASE = re.compile(
    r"(\d{1,3}(?:\.\d+)?)\s*%(?:\s*(in|ex)(?![a-z]))?|\b(?:phase|ph|t)\s*[=_:-]?\s*(\d{1,3})(?:\.0+)?(?![\d.])", re.IGNORECASE
)
_CYCLE = 200.0


def described_phase(description: str) -> tuple[float, str] | None:
    """The phase in percent that a description such as "4DCT 30%", "Gated, 30.0%A" or "T30" names, and a hash of its other words.

    "20% Ex" is exhalation back from 100 %: 180. None where there is no phase, or several numbers may be one.
    """
    found = list(_PHASE.finditer(description))
    if len(found) != 1:
        return None
    match = found[0]
    value = float(match[1] or match[3])
    rest = re.sub(r"[\s,]+", " ", description[: match.start()] + "#" + description[match.end() :])
    if match[2] and match[2].lower() == "ex":
        value = _CYCLE - value
    return value, hashlib.sha256(rest.encode(errors="replace")).hexdigest()[:16]


def join_phases(frames: Sequence[FrameHeader]) -> tuple[tuple[FrameHeader, ...], dict[str, str]]:
    """Frames of series that are phases of one acquisition, under the UID of the first phase and with their phase among the times.

    Series are phases where study, frame of reference, modality, size, pixel size, orientation and all other words of the
    description are the same, and each names another phase. How many slices they have is not compared: that is told when the
    volumes are made.

    Returns
    -------
    tuple
        All frames, and what was joined, by SeriesInstanceUID.
    """
    by_series: defaultdict[str, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        by_series[frame.series_uid].append(frame)
    alike: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for uid, members in by_series.items():
        kinds = {_kind(frame) for frame in members}
        if members[0].phase is not None and len(kinds) == 1 and len({frame.phase for frame in members}) == 1:
            alike[next(iter(kinds))].append(uid)
    first_of: dict[str, str] = {}
    notes: dict[str, str] = {}
    for uids in alike.values():
        phase = {uid: (by_series[uid][0].phase or (0.0, ""))[0] for uid in uids}
        if len(uids) < 2 or len(set(phase.values())) < len(uids):
            continue
        uids.sort(key=phase.__getitem__)
        first_of.update(dict.fromkeys(uids, uids[0]))
        listed = ", ".join(f"{phase[uid]:g}" for uid in uids[:12]) + (", ..." if len(uids) > 12 else "")
        notes[uids[0]] = f"{len(uids)} series were joined, one a phase by their descriptions: {listed}"
    return tuple(_renamed(frame, first_of) for frame in frames), notes


def _kind(frame: FrameHeader) -> tuple[object, ...]:
    orientation = None if frame.orientation is None else tuple(round(value, 3) + 0.0 for value in frame.orientation)
    words = frame.phase[1] if frame.phase is not None else ""
    place = (frame.study_uid, frame.frame_of_reference_uid, frame.modality, frame.shape, frame.channels, frame.spacing, orientation)
    return (*place, words)


def _renamed(frame: FrameHeader, first_of: dict[str, str]) -> FrameHeader:
    if frame.series_uid not in first_of or frame.phase is None:
        return frame
    # Numbers of series and instances begin anew in each phase: they order nothing.
    return replace(frame, series_uid=first_of[frame.series_uid], times={**frame.times, PHASE_TAG: frame.phase[0]})
