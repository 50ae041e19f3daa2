"""The User-Agent of our requests: that of a start carries the attempt's mark, by which its Run is recognised."""

import re
from datetime import UTC, datetime

from batchrun.model import Mark, Run

#: Stands for the beginning of a Run that waits in the platform's queue, to sort Runs by age.
_NOT_YET = datetime.max.replace(tzinfo=UTC)


def user_agent(version: str, mark: Mark | None = None) -> str:
    """Return our User-Agent. The platform shows that of a start as the Run's `meta.userAgent`, with the mark."""
    return f"batchrun/{version}" + (f" ({mark})" if mark is not None else "")


def mark_of(agent: str | None) -> Mark | None:
    """Return the mark in the User-Agent of a start; None if there is none."""
    found = re.search(r"batchrun/\S+ \(([^()\s]+)\)", agent or "")
    return Mark(found[1]) if found else None


def by_mark(runs: list[Run], marks: set[Mark]) -> dict[Mark, list[Run]]:
    """Return the Runs whose User-Agent contains one of the marks as a word; of each mark, oldest first."""
    found: dict[Mark, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.started_at or _NOT_YET, run.id)):
        for mark in marks.intersection(map(Mark, re.findall(r"[\w-]+", run.user_agent or ""))):
            found.setdefault(mark, []).append(run)
    return found
