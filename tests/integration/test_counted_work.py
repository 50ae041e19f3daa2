"""What a fixed batch costs, in what can be counted exactly: requests, commits, syncs, waits for the ledger.

None of it is timed, so that it means the same on any machine. A change that makes a count grow has to say why, here.
"""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrun import Outcome, open_batch
from batchrun.apify.client import ApifyClient
from batchrun.engine.background import final_costs
from batchrun.ledger.sqlite.group_commit import GroupCommit
from batchrun.ledger.sqlite.journal import Journal, open_journal
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import JobId, JobKey, Record
from batchrun.server import InlineContext
from tests.support.inline_batch import ENVIRON, batch_config, serving

JOBS = 100
SLOTS = 20
#: Lines are admitted 32 at a time where there are so few slots.
CHUNKS = 4
#: Of one job: start, poll, a page of items, and the empty page that ends them.
REQUESTS = {"start_run": 1, "get_run": 1, "get_items": 2}
#: Of one job: the intent must be durable before its request, the record before the job counts as settled.
WAITS = {"intend": 1, "settle": 1}
#: Notes that nobody waits for.
NOTES = {"bind": 1}


async def one_item(context: InlineContext) -> None:
    """Store one item."""
    await context.push_items([{"n": context.input["n"]}])


def _counting(monkeypatch: pytest.MonkeyPatch, counts: Counter[str], owner: object, names: Iterator[str]) -> None:
    for name in names:
        monkeypatch.setattr(owner, name, _counted(counts, name, getattr(owner, name)))


def _counted(counts: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Awaitable[Any] | Any:
        counts[name] += 1
        return function(*args, **kwargs)

    return counted


async def _run(tmp_path: Path, jobs: int = JOBS) -> None:
    async with serving(tmp_path, one_item, is_rate_limited=False) as server:
        lines = [{"n": n} for n in range(jobs)]
        limits = {"limits__max_concurrent_runs": SLOTS, "limits__start_rate": 10_000.0}
        config = batch_config(tmp_path, server, lines, **limits)
        async with open_batch(config, environ=ENVIRON) as batch:
            summary = await batch.run()
    assert summary.outcomes == {Outcome.SUCCEEDED: jobs}


async def test_a_job_takes_four_requests_and_two_waits_for_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and ledger steps of a batch are those of its jobs, and nothing beside them."""
    monkeypatch.setattr(final_costs, "MIN_FOR_LISTING", 1)  # costs are read during a slow batch, few of them one by one
    counts: Counter[str] = Counter()
    _counting(monkeypatch, counts, ApifyClient, iter(REQUESTS))
    _counting(monkeypatch, counts, LedgerTables, iter(["intend", "bind", "withdraw", "postpone"]))
    _counting(monkeypatch, counts, Journal, iter(["admit", "settle", "write_items"]))
    await _run(tmp_path)
    wanted = {name: count * JOBS for name, count in (REQUESTS | WAITS | NOTES).items()}
    assert counts == wanted | {"admit": CHUNKS}


async def test_commits_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the steps arrive, a commit is for all that wait: never one for each step, with every slot at work."""
    groups: list[Counter[str]] = []
    commit_group = Journal.commit_group

    def counted(journal: Journal, steps: Any) -> None:
        groups.append(Counter(step.do.func.__name__ for step in steps))
        commit_group(journal, steps)

    monkeypatch.setattr(Journal, "commit_group", counted)
    syncs = Counter[str]()
    _counting(monkeypatch, syncs, os, iter(["fdatasync"]))
    await _run(tmp_path)
    steps = sum(groups, Counter())
    del steps["open_costs"], steps["note_final_costs"]  # every two seconds, and at the end
    of_batch = {"admit": CHUNKS, "note_echo": 1, "note_all_read": 1, "note_unlisted": 3, "known_runs": 2}
    assert steps == {**dict.fromkeys((*WAITS, *NOTES), JOBS), **of_batch}
    assert len(groups) <= 2 * JOBS, "there is a commit for each intent and each record"
    settling = sum("settle" in group for group in groups)
    assert syncs["fdatasync"] == 2 * settling, "records and items are synced once in each commit that settles jobs"


async def test_steps_that_are_ready_share_one_commit(tmp_path: Path) -> None:
    """Whoever is ready to note something when a commit begins is in it: so many waits, one group."""
    groups: list[int] = []

    record = Record(key=JobKey("job"), line=1, outcome=Outcome.SUCCEEDED)

    class CountingJournal(Journal):
        def commit_group(self, steps: Any) -> None:
            groups.append(len(steps))
            for step in steps:
                step.result = None

    async with open_journal(tmp_path) as journal, anyio.create_task_group() as children:
        counting = await anyio.to_thread.run_sync(CountingJournal, tmp_path, journal.ledger, {})
        commit = GroupCommit(counting, in_thread=False)
        children.start_soon(commit.run)
        for _ in range(100):
            children.start_soon(commit.settle, JobId(1), None, record, b"")
        children.start_soon(_close_when_idle, commit)
    assert groups == [100]


async def _close_when_idle(commit: GroupCommit) -> None:
    await anyio.wait_all_tasks_blocked()
    commit.close()
