"""When a job counts as larger than its account: it asks for more memory than the account has."""

import re

from batchrun.errors import ResourcesBusy
from batchrun.model import Problem

#: Seconds after which a job counts as larger than an account that does not show its limits: it asks for more memory
#: than any Run so far had, and is refused for lack of memory, although no other Run of ours is live.
TOO_LARGE_AFTER_S = 600.0
_MEMORY_TYPE = "actor-memory-limit-exceeded"
#: The account's memory in the message of such a refusal.
_ACCOUNT_MEMORY = re.compile(r"memory limit of ([\d,]+)\s*(MB|GB)", re.IGNORECASE)


class RefusedAlone:
    """How long an account has refused one job while no other Run of ours was live: the job may be larger than it."""

    def __init__(self) -> None:
        #: When the first of these refused starts was intended (steady); None before a refusal.
        self._since: float | None = None

    def note(self, intended_at: float, *, is_alone: bool) -> float:
        """Note a refusal, and return the seconds since the first one; 0 if it has another explanation.

        `is_alone`: no other Run of ours is live, and the account does not show its limits.
        """
        if self._since is None or not is_alone:
            self._since = intended_at
        return intended_at - self._since


def never_fits(full: ResourcesBusy, memory_mb: int, largest_mb: int, alone_s: float) -> Problem | None:
    """Return the problem of a job that is larger than the account, by what a refusal shows; None: it may fit later.

    Args:
        full: the account's refusal, which is the same for a job that is too large and for a full account.
        memory_mb: what the job asks for; 0: unknown.
        largest_mb: the largest Run that this process has started.
        alone_s: how long the job was refused while no other Run of ours was live; 0 if the account shows its limits.
    """
    if full.type != _MEMORY_TYPE:
        return None
    limit = _ACCOUNT_MEMORY.search(full.message)
    limit_mb = int(limit[1].replace(",", "") or 0) * (1024 if limit[2].upper() == "GB" else 1) if limit else 0
    is_too_large = 0 < limit_mb < memory_mb or (memory_mb > largest_mb and alone_s >= TOO_LARGE_AFTER_S)
    return Problem(type=full.type, message=f"asks for {memory_mb:,} MB: {full.message}") if is_too_large else None
