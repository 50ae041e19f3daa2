"""What a batch waits for is said after ten seconds: for every kind of wait, in the words of the terminal."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
import structlog

from batchrun.batch.wait_watch import WaitWatch
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.ports import Chunk
from batchrun.ledger.facts import WAIT
from batchrun.ledger.protocol import OpenCost
from batchrun.model import Record, RunOptions, RunStatus, WaitKind
from batchrun.policy.budget import Budget
from batchrun.policy.run_cost import Prices
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered
from tests.support.scripted_api import (
    TASK,
    Engine,
    Plan,
    ScriptedApi,
    api_error,
    in_order,
    lost_answer,
    output_plan,
    retries,
)
from tests.support.shared_logs import log_out_of_reach


class Watched:
    """An engine with its watch, while the context lasts."""

    def __init__(self, api: ScriptedApi, jobs: int = 3, *, ledger: WatchedLedger | None = None, **engine: Any) -> None:
        log = engine.pop("log", None)
        self.ledger = ledger or WatchedLedger()
        source = engine.pop("source", None) or numbered(jobs)
        self.engine = Engine(api, self.ledger, source, **engine)
        self.watch = WaitWatch(self.engine.parts, api, self.ledger, TASK, log)

    async def words_at(self, *moments: float) -> list[str]:
        """Run the batch; return what it waits for at some moments of virtual time."""
        words = []
        async with anyio.create_task_group() as children:
            children.start_soon(self.watch.run)
            children.start_soon(partial(self.engine.run, at_the_end=self.engine.costs.finish))
            for moment in moments:
                await anyio.sleep(moment - anyio.current_time())
                words.append(self.watch.words())
            children.cancel_scope.cancel()
        return words


def failing(name: str, plan: Plan | None = None) -> ScriptedApi:
    """Return a platform, one method of which never answers."""

    async def for_ever(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    api = ScriptedApi(plan or Plan(run_s=1))
    setattr(api, name, for_ever)
    return api


def outage() -> Watched:
    api = ScriptedApi(Plan(run_s=600))
    api.outage = "a login page"
    return Watched(api)


def failed_reads() -> Watched:
    api = failing("get_items")
    api.failed_reads = ["GET /datasets/d/items: 500 error"]
    return Watched(api, output=output_plan("file"))


def full_of_others() -> Watched:
    api = ScriptedApi(capacity=3)
    api.others = 3
    return Watched(api)


def beside_another_batch() -> Watched:
    shared = Engine(ScriptedApi(), WatchedLedger(), ListSource([]), slots=2).shared
    for _ in range(2):
        shared.pool.keep(object(), 1)
    return Watched(ScriptedApi(), shared=shared, slots="auto")


def reserved_budget() -> Watched:
    prices = Prices(model="PAY_PER_EVENT")
    options = RunOptions(max_total_charge_usd=1.0)
    reservations = CostReservations(Budget(1.5), prices, task_options=options, is_strict=True)
    return Watched(ScriptedApi(Plan(run_s=600)), reservations=reservations, options=options)


def slow_disk() -> Watched:
    class Slow(WatchedLedger):
        async def settle(self, *_: object) -> None:
            await anyio.sleep_forever()

    return Watched(ScriptedApi(Plan(run_s=1)), ledger=Slow())


def slow_reader() -> Watched:
    async def never(_: Record) -> None:
        await anyio.sleep_forever()

    return Watched(ScriptedApi(Plan(run_s=1)), on_record=never)


def costs_that_stay_open() -> Watched:
    class Slow(WatchedLedger):
        async def open_costs(self, *_: object) -> list[OpenCost]:
            await anyio.sleep_forever()
            return []

    return Watched(ScriptedApi(Plan(run_s=1)), ledger=Slow())


class _Silent:
    async def next_chunk(self, max_entries: int) -> Chunk | None:  # noqa: ARG002 - nothing comes
        await anyio.sleep_forever()
        return None


def full_disk() -> Watched:
    """Starts are held while the disk is almost full."""
    watched = Watched(ScriptedApi())
    watched.engine.shared.capacity.hold("9 MB free, 90 MB are to stay free")
    return watched


def full_group() -> Watched:
    source = ListSource([make_job(n, group="g") for n in (1, 2)])
    return Watched(ScriptedApi(Plan(run_s=600)), source=source, group_limits={"g": 1})


#: Made here, since it waits for a moment.
_LOST_LOG = log_out_of_reach()

WAITS: list[tuple[Callable[[], Watched], float, str]] = [
    (
        lambda: Watched(ScriptedApi(Plan(run_s=600)), log=_LOST_LOG),
        12,
        "the shared log cannot be reached (/nowhere/log/000000000001.zst: No such file or directory); nothing is",
    ),
    (outage, 12, "the platform cannot be reached (a login page); 3 live Runs"),
    (
        lambda: Watched(ScriptedApi(Plan(error=api_error(429, "rate-limit-exceeded", retry_after_s=100)))),
        30,
        "the platform refuses starts for now, next try in 1 min 10 s (429 rate-limit-exceeded: so it is)",
    ),
    (full_of_others, 12, "the account takes no further Run beside 0 of this process, next try in "),
    (beside_another_batch, 12, "other batches use the account's Runs"),
    (reserved_budget, 12, "the budget is reserved for Runs whose cost is not final; 1 live Run"),
    (
        lambda: Watched(ScriptedApi(Plan(error=lost_answer()))),
        20,
        "3 starts in doubt, decided within 46 s",
    ),
    (
        failed_reads,
        12,
        "1 read without success so far, retried (GET /datasets/d/items: 500 error); the output of 3 Runs",
    ),
    (
        lambda: Watched(ScriptedApi(Plan(run_s=1, status=RunStatus.FAILED)), 1, retry=retries(2, first_s=60)),
        20,
        "1 job before the next attempt, the first in ",
    ),
    (
        lambda: Watched(ScriptedApi(Plan(run_s=1)), start_rate=0.02),
        14,
        "the rate of starts or requests, next try in 36 s",
    ),
    (lambda: Watched(ScriptedApi(Plan(answer_after_s=600))), 12, "3 starts without an answer yet"),
    (
        lambda: Watched(ScriptedApi(Plan(run_s=600)), memory_mb=1500, options=RunOptions(memory_mb=1024)),
        12,
        "the next Run needs more memory than is left; 1 live Run",
    ),
    (full_group, 12, "the next Run's group has all its Runs live; 1 live Run"),
    (lambda: Watched(ScriptedApi(Plan(run_s=600))), 12, "3 live Runs"),
    (
        lambda: Watched(ScriptedApi(Plan(run_s=600, is_queued=True))),
        16,
        "3 live Runs; 3 of them queued at the platform (READY)",
    ),
    (lambda: Watched(failing("get_items"), output=output_plan("file")), 12, "the output of 3 Runs"),
    (full_disk, 12, "room on the disk (9 MB free, 90 MB are to stay free); nothing is started"),
    (slow_disk, 12, "the disk, to write 3 records"),
    (slow_reader, 14, "the reader of the records, which has not taken 3"),
    (lambda: Watched(ScriptedApi(), source=_Silent()), 12, "the next lines of the job file"),
    (costs_that_stay_open, 14, "the final costs of Runs"),
    (
        lambda: Watched(failing("list_runs", Plan(error=lost_answer()))),
        20,
        "3 starts in doubt, until the platform answers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("watched", "at", "words"), WAITS)
async def test_each_kind_of_wait_is_said(watched: Callable[[], Watched], at: float, words: str) -> None:
    """With what is known of its end; nothing is said in the first ten seconds, but for what cannot be reached."""
    it = watched()
    early, late = await it.words_at(8, at)
    is_late = {WaitKind.OUTAGE, WaitKind.SHARED_LOG}.isdisjoint(_noted(it))
    assert (early == "", late.partition(": ")[2].startswith(words)) == (is_late, True), late


async def test_every_kind_of_wait_is_among_them() -> None:
    """A new kind needs a case above."""
    seen: set[WaitKind] = set()
    for watched, at, _ in WAITS:
        it = watched()
        await it.words_at(anyio.current_time() + at)
        seen.update(_noted(it))
    assert seen == set(WaitKind)


async def test_a_batch_that_goes_on_waits_for_nothing() -> None:
    """The ledger shows it, for `status`, and the log has one line for the begin and one for the end of each wait."""
    it = Watched(ScriptedApi(in_order(Plan(run_s=15), then=Plan(run_s=3))), 2, slots=1)
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as log:
        assert await it.words_at(14, 17) == ["waiting 13 s: 1 live Run", ""]
    assert it.ledger.fact(WAIT) is None
    waits = [(each["event"], each.get("words")) for each in log if each["event"].startswith("batch_")]
    assert waits == [("batch_waits", "waiting 10 s: 1 live Run"), ("batch_goes_on", None)]


def _noted(it: Watched) -> list[WaitKind]:
    noted = it.ledger.fact(WAIT)
    assert noted is not None
    assert noted.pid == os.getpid()
    return [each.kind for each in noted.reasons]
