"""Which acquisitions a cohort's folder is about: cohort.json, so that names stay and shards can be merged by their folder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from r2n2.cohort.entry import Entry
from r2n2.config import Config
from r2n2.errors import ReadError
from r2n2.io.atomic import atomic_write
from r2n2.results.manifest import EntryName

__all__ = ["COHORT_NAME", "CohortRecord", "Member", "load_cohort", "save_cohort"]

COHORT_NAME = "cohort.json"


class Member(Config):
    """One acquisition."""

    name: EntryName
    """Of its folder."""
    path: str


class CohortRecord(Config):
    """The cohort.json of a folder."""

    format_version: Literal[1] = 1
    kind: Literal["cohort"] = "cohort"
    members: tuple[Member, ...]
    """Of the last command, in its order."""
    earlier: tuple[Member, ...] = ()
    """Of commands before it: their names are not given to others."""

    @property
    def names(self) -> dict[str, str]:
        """Path -> name, of all that were ever named."""
        return {member.path: member.name for member in (*self.earlier, *self.members)}


def load_cohort(folder: Path) -> CohortRecord | None:
    """What the folder says; None where it says nothing.

    Raises
    ------
    ReadError
        If the file is damaged.
    """
    path = folder / COHORT_NAME
    try:
        return CohortRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReadError(f"{path}: damaged or of another version ({reason}); delete it, then names are given anew") from None


def save_cohort(folder: Path, entries: Sequence[Entry], before: CohortRecord | None) -> None:
    """Write what this command is about; raises as ``atomic_write``."""
    members = tuple(Member(name=entry.name, path=entry.path) for entry in entries)
    now = {entry.path for entry in entries}
    earlier = () if before is None else tuple(Member(name=name, path=p) for p, name in before.names.items() if p not in now)
    record = CohortRecord(members=members, earlier=earlier)
    with atomic_write(folder / COHORT_NAME) as temporary:
        temporary.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
