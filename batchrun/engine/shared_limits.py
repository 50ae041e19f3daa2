"""The limits that all batches of one account share: live Runs, capacity, rates and polls."""

import anyio

from batchrun.apify.throttle import Throttle
from batchrun.engine.account_counters import AccountCounters
from batchrun.engine.doubt.seen_user_agents import SeenUserAgents
from batchrun.engine.follow.polls import Polls
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.account_pool import AccountPool
from batchrun.model import TaskId
from batchrun.policy.token_bucket import Contenders, TokenBucket
from batchrun.runtime.byte_budget import ByteBudget
from batchrun.runtime.free_space import DiskRoom


class SharedLimits:
    """The limits of one account, for one batch or many.

    Args:
        max_live_runs: max live Runs of ours at first.
        wanted: the configured number of Runs; None: as many as the account allows.
        max_open_polls: max requests that wait for the end of a Run at the same time.
        starts_per_task_per_s: max starts of one task per second.
        throttle: the rate of all requests; None: unlimited.
        max_buffer_mb: megabytes of output in memory, on its way from the platform to the disk.
        is_for_one: whether there is never more than one batch.
    """

    def __init__(
        self,
        *,
        max_live_runs: int,
        wanted: int | None,
        max_open_polls: int,
        starts_per_task_per_s: float,
        throttle: Throttle | None,
        max_buffer_mb: int,
        is_for_one: bool = False,
    ) -> None:
        self.pool = AccountPool(max_live_runs)
        self.capacity = AccountCapacity(self.pool, wanted)
        self.polls = Polls(max_open_polls)
        self.throttle = throttle
        self.buffers = ByteBudget.of_megabytes(max_buffer_mb)
        self.disk_room = DiskRoom()
        self.user_agents = SeenUserAgents(notes_starts=not is_for_one)
        self.counters = AccountCounters()
        self._starts_per_task_per_s = starts_per_task_per_s
        self._announced_per_s: float | None = None
        #: The part of each task's rate that is ours; None: all, for good.
        self._part: float | None = None
        self._buckets: dict[TaskId, TokenBucket] = {}
        self._contenders: dict[TaskId, Contenders] = {}

    def start_bucket(self, task_id: TaskId) -> TokenBucket:
        """Return the bucket from which all starts of a task take their tokens."""
        bucket = self._buckets.get(task_id)
        if bucket is None:
            bucket = self._buckets[task_id] = TokenBucket.at_rate(self._starts_per_task_per_s)
            if self._announced_per_s is not None:
                bucket.stay_below(self._announced_per_s)
            if self._part is not None:  # without a burst: another process may have used that of this part just now
                now = anyio.current_time()
                bucket.close(now)
                self._divide(bucket, now)
        return bucket

    def contenders(self, task_id: TaskId) -> Contenders:
        """Return the gates that wait for tokens of a task's bucket."""
        return self._contenders.setdefault(task_id, Contenders())

    def stay_below(self, limit_per_s: float) -> None:
        """Keep the starts of each task below a limit that the platform announces."""
        self._announced_per_s = limit_per_s
        for bucket in self._buckets.values():
            bucket.stay_below(limit_per_s * (1.0 if self._part is None else self._part))

    def take_part(self, part: float) -> None:
        """Use this part of each task's rate from now on; others use the rest."""
        self._part = part
        now = anyio.current_time()
        for bucket in self._buckets.values():
            self._divide(bucket, now)

    def _divide(self, bucket: TokenBucket, now: float) -> None:
        assert self._part is not None, "there is something to divide"
        announced_per_s = None if self._announced_per_s is None else self._announced_per_s * self._part
        bucket.change_rate(self._starts_per_task_per_s * self._part, now, limit_per_s=announced_per_s)
