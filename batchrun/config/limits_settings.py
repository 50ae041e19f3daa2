"""`[limits]`: of one batch, and of all batches of a worker together."""

from typing import Annotated, Literal

from pydantic import Field

from batchrun.config.section import PositiveInt, Rate, Seconds, Section
from batchrun.policy.platform_rates import REQUESTS_PER_S, STARTS_PER_TASK_PER_S


class AccountLimitsConfig(Section):
    """Limits of what we use of the account: one batch, or all batches of a worker together."""

    max_concurrent_runs: PositiveInt | Literal["auto"] = "auto"
    """Most Runs live at once; never more than the account has free. "auto": all that it has free."""
    leave_free_runs: Annotated[int, Field(ge=0)] = 1
    """With "auto": Runs that are left to others; one is always ours."""
    max_total_memory_mb: Annotated[int, Field(ge=128)] | Literal["auto"] = "auto"
    """Most memory of all live Runs in megabytes; never more than the account has free. "auto": all that it has free."""
    leave_free_memory_mb: Annotated[int, Field(ge=0)] = 0
    """With "auto": memory that is left to others, in megabytes."""
    request_rate: Rate = REQUESTS_PER_S
    """Most requests per second of all kinds; the platform allows 250,000 per minute and account."""
    max_open_polls: PositiveInt = 1000
    """Most requests at once that wait for the end of a Run."""
    min_free_disk_mb: Annotated[int, Field(ge=0)] | None = None
    """Free megabytes of the disk below which no Run is started; default: 256, or 5 % of a disk below 5 GB."""
    max_buffer_mb: Annotated[int, Field(ge=16)] = 256
    """Most memory for items and OUTPUT values on their way to disk, in megabytes; larger ones are read one by one."""

    @property
    def wanted_runs(self) -> int | None:
        """`max_concurrent_runs` as a number; None: "auto"."""
        return None if self.max_concurrent_runs == "auto" else self.max_concurrent_runs

    @property
    def wanted_memory_mb(self) -> int | None:
        """`max_total_memory_mb` as a number; None: "auto"."""
        return None if self.max_total_memory_mb == "auto" else self.max_total_memory_mb


class LimitsConfig(AccountLimitsConfig):
    """Limits of one batch."""

    start_rate: Rate = STARTS_PER_TASK_PER_S
    """Most starts per second; the platform allows 400 per task. If it announces a lower limit, that one is kept."""
    start_horizon_s: Seconds = 60.0
    """Seconds after which a start request that was sent can no longer take effect."""
    listing_lag_s: Seconds = 5.0
    """Seconds for which a new Run may be missing from the platform's lists."""
    drain_s: Seconds = 60.0
    """Seconds that the first Ctrl-C waits for live Runs."""
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that the batch may cost in US dollars, over all its processes."""
    budget_mode: Literal["strict", "best_effort"] = "strict"
    """"strict" starts no Run without a bound of its cost; "best_effort" estimates it from earlier Runs."""
    compute_unit_usd: Annotated[float, Field(ge=0)] | None = None
    """Price of a compute unit (1 GB for 1 hour) in US dollars; default: from the account's monthly usage."""
