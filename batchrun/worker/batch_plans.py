"""Plans of batches that a worker does not have: how many are made at once, and how much of a job file each reads."""

import anyio

from batchrun.account.account import Account
from batchrun.config import Config
from batchrun.errors import OutputError
from batchrun.preflight.plan import Plan, plan_batch

#: Max plans that are made at once.
MAX_PLANS = 2
#: Jobs that a plan reads at most: it keeps some 300 bytes of each.
MAX_PLANNED_JOBS = 200_000


class BatchPlans:
    """Makes the plans of one worker."""

    def __init__(self) -> None:
        self._turns = anyio.Semaphore(MAX_PLANS)

    async def make(self, account: Account, config: Config, shown: int) -> Plan:
        """Check the lines of a batch, up to MAX_PLANNED_JOBS, and forecast it; start nothing.

        `shown` is the number of inputs that the plan shows.

        Raises:
            ConfigError, JobFileError: as `make_plan` does.
            BatchRefused: the platform does not know the task.
            OutputError: MAX_PLANS plans are being made.
        """
        try:
            self._turns.acquire_nowait()
        except anyio.WouldBlock:
            raise OutputError(f"{MAX_PLANS} other plans are being made; ask again in a moment") from None
        try:
            return await plan_batch(
                account.client, config, shown=shown, max_slots=account.max_live_runs, max_jobs=MAX_PLANNED_JOBS
            )
        finally:
            self._turns.release()
