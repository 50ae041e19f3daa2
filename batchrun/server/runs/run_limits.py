"""What live Runs take of the limits of their accounts, and how many there are."""

from collections import deque
from dataclasses import dataclass, field

from batchrun.model import JsonObject
from batchrun.server.accounts.accounts import Accounts
from batchrun.server.accounts.run_quota import RunQuota

#: Max start times in memory, about 3 MB.
_MAX_START_TIMES = 100_000


@dataclass(slots=True)
class RunCounts:
    """The server's own counts, the ground truth of tests."""

    started: int = 0
    live: int = 0
    peak_live: int = 0
    peak_memory_mb: int = 0
    #: Loop times of the last 100,000 starts.
    start_times: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_START_TIMES))


class RunLimits:
    """Takes memory and a place of its account for each Run, and gives both back."""

    def __init__(self, accounts: Accounts) -> None:
        self._quotas = {account.id: account.quota for account in accounts}
        self.counts = RunCounts()

    def take(self, doc: JsonObject) -> None:
        """Reserve what a Run takes.

        Raises:
            ErrorAnswer: it would exceed a limit; nothing is reserved.
        """
        quota = self._quota_of(doc)
        quota.take(doc["options"]["memoryMbytes"])
        self.counts.peak_memory_mb = max(self.counts.peak_memory_mb, quota.memory_mb)
        self._count_live()

    def take_over(self, doc: JsonObject) -> None:
        """Count a live Run of the previous process, whatever the limits are now."""
        self._quota_of(doc).take_over(doc["options"]["memoryMbytes"])
        self._count_live()

    def give_back(self, doc: JsonObject) -> None:
        self._quota_of(doc).give_back(doc["options"]["memoryMbytes"])
        self.counts.live -= 1

    def _quota_of(self, doc: JsonObject) -> RunQuota:
        # Runs of an account that was removed from the settings continue to their end.
        return self._quotas.setdefault(doc["userId"], RunQuota(0, 0))

    def _count_live(self) -> None:
        self.counts.live += 1
        self.counts.peak_live = max(self.counts.peak_live, self.counts.live)
