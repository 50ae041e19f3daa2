"""Makes the usage of Runs final a few seconds after their end, as the platform does, and sums it by account."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import anyio

from batchrun.model import JsonObject
from batchrun.runtime.change_signal import ChangeSignal
from batchrun.runtime.error_containment import contained
from batchrun.server.ids import now_ms
from batchrun.server.store import final_usage_table, usage_table
from batchrun.server.store.database import Database
from batchrun.server.store.read_counts import ReadCounts

#: Max Runs in one transaction, so that a start or an end behind it waits for a few milliseconds only.
_MAX_GROUP = 40
#: Seconds between two writes of the read counts while no Run ends.
_KEEP_READS_EVERY_S = 2


def month_of(day: datetime) -> tuple[str, str]:
    """Return the first day of this day's month and of the next month."""
    following = (day.year + day.month // 12, day.month % 12 + 1)
    return f"{day.year:04}-{day.month:02}-01", f"{following[0]:04}-{following[1]:02}-01"


class FinalUsage:
    def __init__(self, database: Database, delay_s: float) -> None:
        self._database, self.delay_s = database, delay_s
        self.reads = ReadCounts()
        #: (Loop time, Run id), in order of time.
        self._due: deque[tuple[float, str]] = deque()
        self._has_due = ChangeSignal()
        self._month = (0, 0)
        self._spent_usd: dict[str, float] = {}

    async def load(self) -> None:
        """Load the Runs with preliminary usage, and the sums of this month."""
        now = anyio.current_time()
        left = await self._database.read(final_usage_table.preliminary)
        self._due.extend((now + max(at_ms - now_ms(), 0) / 1000, run_id) for run_id, at_ms in left)
        today = datetime.now(UTC)
        self._month = (today.year, today.month)
        self._spent_usd = await self._database.read(usage_table.read_totals, month_of(today)[0])

    def expect(self, run_id: str) -> None:
        """Make the usage of this Run final after the delay."""
        self._due.append((anyio.current_time() + self.delay_s, run_id))
        if len(self._due) == 1:
            self._has_due.notify()

    def spent_usd(self, user_id: str) -> float:
        """Return the dollars that an account's Runs with final usage cost this month."""
        today = datetime.now(UTC)
        if (today.year, today.month) != self._month:
            self._month, self._spent_usd = (today.year, today.month), {}
        return self._spent_usd.get(user_id, 0.0)

    def note_spent(self, doc: JsonObject, usd: float) -> None:
        user_id = doc["userId"]
        self._spent_usd[user_id] = self.spent_usd(user_id) + usd

    async def run(self, show: Callable[[JsonObject], None]) -> None:
        """Make the usage of each Run final when it is due, and show it; runs until cancelled."""
        while True:
            await self.finish_due(show)
            wait_s = self._due[0][0] - anyio.current_time() if self._due else _KEEP_READS_EVERY_S
            await self._has_due.wait(min(wait_s, _KEEP_READS_EVERY_S))

    async def finish_due(self, show: Callable[[JsonObject], None]) -> None:
        """Make the usage of the Runs that are due final, and store the read counts."""
        now = anyio.current_time()
        run_ids: list[str] = []
        while self._due and self._due[0][0] <= now and len(run_ids) < _MAX_GROUP:
            run_ids.append(self._due.popleft()[1])
        reads = self.reads.take()
        if not run_ids and not reads:
            return
        is_done = False
        with contained("usage_not_final"):
            await self._make_final(run_ids, reads, show)
            is_done = True
        # Of a group that cannot be stored, each alone. The next server tries the others again.
        for run_id in () if is_done else run_ids:
            with contained("usage_not_final", run_id=run_id):
                await self._make_final([run_id], {}, show)

    async def _make_final(
        self, run_ids: Sequence[str], reads: Mapping[str, tuple[int, int]], show: Callable[[JsonObject], None]
    ) -> None:
        for doc, usd in await self._database.write(final_usage_table.make_final, run_ids, reads):
            self.note_spent(doc, usd)
            show(doc)
