"""A Run and its items as the API describes them, the options it is started with, and the source of its cost."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from batchrun.runtime.fast_dataclasses import dataclass

RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
DatasetId = NewType("DatasetId", str)
StoreId = NewType("StoreId", str)
#: A JSON object as the API or a job file gave it.
JsonObject = dict[str, Any]
#: Bytes of a request's body, uncompressed, and so of the overrides of one start: the API's documented limit.
MAX_BODY_BYTES = 9_437_184


class RunStatus(StrEnum):
    """The API's eight statuses of a Run, never extended by us; `Run.fields` holds one that is none of them."""

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMING_OUT = "TIMING-OUT"
    TIMED_OUT = "TIMED-OUT"
    ABORTING = "ABORTING"
    ABORTED = "ABORTED"

    @property
    def is_terminal(self) -> bool:
        """True if the Run has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.ABORTED})


class CostSource(StrEnum):
    """Where a cost comes from."""

    #: Reported by the platform.
    PLATFORM = "platform"
    #: Computed here from the Run's charged events or items and the Actor's prices.
    DERIVED = "derived"
    UNKNOWN = "unknown"


WEAKEST_COST_SOURCE_FIRST = (CostSource.UNKNOWN, CostSource.DERIVED, CostSource.PLATFORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a start besides its input; None leaves an option to the task."""

    build: str | None = None
    #: The Run's own time limit; 0 means none.
    timeout_s: int | None = None
    memory_mb: int | None = None
    max_items: int | None = None
    max_total_charge_usd: float | None = None
    restart_on_error: bool | None = None
    #: Ad-hoc webhooks, in the API's own spelling (eventTypes, requestUrl, …).
    webhooks: tuple[JsonObject, ...] | None = None

    def over(self, base: "RunOptions") -> "RunOptions":
        """Return these options, with those of `base` where they are None."""
        # Written out: called for every job, and a loop over the fields takes ten times as long.
        return RunOptions(
            build=base.build if self.build is None else self.build,
            timeout_s=base.timeout_s if self.timeout_s is None else self.timeout_s,
            memory_mb=base.memory_mb if self.memory_mb is None else self.memory_mb,
            max_items=base.max_items if self.max_items is None else self.max_items,
            max_total_charge_usd=(
                base.max_total_charge_usd if self.max_total_charge_usd is None else self.max_total_charge_usd
            ),
            restart_on_error=base.restart_on_error if self.restart_on_error is None else self.restart_on_error,
            webhooks=base.webhooks if self.webhooks is None else self.webhooks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A Run as the API last described it."""

    id: RunId
    status: RunStatus
    dataset_id: DatasetId | None
    store_id: StoreId | None
    #: None where the platform does not report it, as for a Run that waits in its queue.
    started_at: datetime | None
    finished_at: datetime | None
    #: None while it is unknown, which is not 0.
    cost_usd: float | None
    cost_source: CostSource = CostSource.UNKNOWN
    #: Its memory and time limit; None where the platform does not report them, as in lists.
    memory_mb: int | None = None
    timeout_s: int | None = None
    #: The User-Agent of the request that started it; None where the platform does not report it.
    user_agent: str | None
    #: The whole Run object of the API.
    fields: JsonObject

    def is_of_another(self, task_id: TaskId) -> bool:
        """True only if the platform names another task.

        A Run of ours must not be given up, or started again, and the API may leave out the task of a live Run. So one
        without a task may be ours. Runs that are not ours come from lists of the account, and from whoever can write to
        a shared log.
        """
        named = self.fields.get("actorTaskId")
        return isinstance(named, str) and named != task_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPage:
    """One page of a list of Runs."""

    #: By id, in the list's order, without the entries that cannot be read.
    runs: Mapping[RunId, Run]
    #: Number of all its entries: the next page begins behind them.
    count: int
    #: Number of Runs in the whole list; None if the platform does not report it.
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsPage:
    """One page of a dataset."""

    items: list[Any]
    #: The dataset's item count by the platform's counter, which lags; None if the platform does not report it.
    total: int | None
    #: Values in the items that no JSON holds, and that were replaced: lone surrogates, NaN, infinity.
    replaced: int = 0
    #: A hash of the items as they came, for this process; 0: none was taken.
    content: int = 0
