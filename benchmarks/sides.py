"""One side of a comparison, in a process of its own: carries out jobs and prints what they took, as JSON.

    python -m benchmarks.sides '{"side": "plain", "base_url": …, "jobs": 5000, "slots": 256, "directory": …}'

All sides send the same four requests per job, one after another: start, poll with `waitForFinish=60`, the first page of
items, the empty page that ends them. Nobody but batchrun keeps any state.
"""

import asyncio
import gc
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import orjson
import uvloop

from batchrun import load_config, open_batch
from batchrun.batch import running_batch
from batchrun.cli.event_loop import run_async
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.sqlite import journal as ledger_journal
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from benchmarks.stages import Sampler

TOKEN = "bench"  # noqa: S105 - on loopback, for the length of a benchmark
TASK = "bench~task"
COOLDOWN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a side is to do."""

    side: str
    base_url: str
    jobs: int
    slots: int
    #: Of batchrun's files: jobs.jsonl is made there if it is missing, and out.
    directory: str
    #: Whether batchrun goes without syncing anything.
    unsynced: bool = False
    #: Whether CPU time is attributed to stages, by samples.
    sampled: bool = False
    #: The URL of batchrun's shared log; None: it has none.
    replica: str | None = None
    #: Seconds that each append to it takes longer, if it is in a directory.
    append_s: float = 0.0
    #: A cProfile of the process is written there.
    profile: str | None = None


class _Clock:
    """Wall and CPU time from here on."""

    def __init__(self) -> None:
        gc.collect()
        self._began = (time.perf_counter(), time.process_time())

    def read(self) -> dict[str, float]:
        elapsed_s, cpu_s = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"elapsed_s": elapsed_s, "cpu_s": cpu_s, "peak_rss_mb": round(peak_mb, 1)}


async def _plain(order: Order) -> dict[str, Any]:
    """Do the requests and nothing else, over aiohttp and uvloop: the ceiling."""
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "bench"}
    base, numbers = f"{order.base_url}/v2", iter(range(order.jobs))
    posted = {"Content-Type": "application/json; charset=utf-8"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
    ) as session:

        async def get(path: str) -> Any:
            async with session.get(base + path) as answer:
                return orjson.loads(await answer.read())

        async def work() -> None:
            for n in numbers:
                start = f"{base}/actor-tasks/{TASK}/runs?waitForFinish=0"
                async with session.post(start, data=b'{"n": %d}' % n, headers=posted) as answer:
                    run = orjson.loads(await answer.read())["data"]
                while run["status"] != "SUCCEEDED":
                    run = (await get(f"/actor-runs/{run['id']}?waitForFinish=60"))["data"]
                offset = 0
                path = f"/datasets/{run['defaultDatasetId']}/items?format=json&limit=1000&offset="
                while items := await get(f"{path}{offset}"):
                    offset += len(items)

        clock = _Clock()
        async with asyncio.TaskGroup() as children:
            for _ in range(order.slots):
                children.create_task(work())
        return clock.read()


async def _cooldown(order: Order) -> dict[str, Any]:
    """Look every ten seconds which Runs have ended, and start as many others: what a fixed cooldown comes to."""
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "bench"}
    base, numbers, live = f"{order.base_url}/v2", iter(range(order.jobs)), set[str]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def start() -> None:
            if (n := next(numbers, None)) is not None:
                url = f"{base}/actor-tasks/{TASK}/runs?waitForFinish=0"
                async with session.post(url, json={"n": n}) as answer:
                    live.add((await answer.json())["data"]["id"])

        async def look(run_id: str) -> None:
            async with session.get(f"{base}/actor-runs/{run_id}") as answer:
                if (await answer.json())["data"]["status"] == "SUCCEEDED":
                    live.discard(run_id)

        clock = _Clock()
        while True:
            async with asyncio.TaskGroup() as children:
                for _ in range(order.slots - len(live)):
                    children.create_task(start())
            if not live:
                return clock.read()
            await asyncio.sleep(COOLDOWN_S)
            async with asyncio.TaskGroup() as children:
                for run_id in live:
                    children.create_task(look(run_id))


async def _apify_client(order: Order) -> dict[str, Any]:
    """Do it as the official guide suggests: a semaphore, and `gather` over all jobs."""
    from apify_client import ApifyClientAsync  # noqa: PLC0415 - each side pays for its own imports alone

    client = ApifyClientAsync(TOKEN, api_url=order.base_url)
    task, limit = client.task(TASK), asyncio.Semaphore(order.slots)

    async def work(n: int) -> None:
        async with limit:
            started = await task.start(task_input={"n": n})
            run = await client.run(started.id).wait_for_finish(wait_duration=timedelta(minutes=5))
            assert run is not None
            dataset, offset = client.dataset(run.default_dataset_id), 0
            while page := (await dataset.list_items(offset=offset, limit=1000)).items:
                offset += len(page)

    clock = _Clock()
    await asyncio.gather(*(work(n) for n in range(order.jobs)))  # noqa: TID251 - as the guide does
    return clock.read()


async def _httpx(order: Order) -> dict[str, Any]:
    """Do it with httpx, and aiometer for the limit."""
    import aiometer  # noqa: PLC0415 - as above
    import httpx  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "bench"}
    limits = httpx.Limits(max_connections=order.slots, max_keepalive_connections=order.slots)
    async with httpx.AsyncClient(base_url=order.base_url, headers=headers, limits=limits, timeout=90) as client:

        async def work(n: int) -> None:
            answer = await client.post(f"/v2/actor-tasks/{TASK}/runs?waitForFinish=0", json={"n": n})
            run = answer.json()["data"]
            while run["status"] != "SUCCEEDED":
                run = (await client.get(f"/v2/actor-runs/{run['id']}?waitForFinish=60")).json()["data"]
            offset = 0
            path = f"/v2/datasets/{run['defaultDatasetId']}/items?format=json&limit=1000&offset="
            while items := (await client.get(f"{path}{offset}")).json():
                offset += len(items)

        clock = _Clock()
        await aiometer.run_on_each(work, range(order.jobs), max_at_once=order.slots)
        return clock.read()


async def _batchrun(order: Order) -> dict[str, Any]:
    """Do it durably: the clock runs from the first line that is admitted to the last record that is synced."""
    directory = Path(order.directory)
    groups: list[int] = []
    sampler = Sampler() if order.sampled else None
    with ExitStack() as stack:
        if order.append_s:
            _append_slowly(stack, order.append_s)
        if order.unsynced:
            _forgo_syncing(stack)
        _count_groups(stack, groups)
        # Costs are final ten seconds after the last record.
        stack.enter_context(mock.patch.object(running_batch, "wait_for_final_costs", mock.AsyncMock()))
        async with open_batch(config(order), environ={"APIFY_TOKEN": TOKEN}) as batch:
            groups.clear()
            clock = _Clock()
            if sampler is not None:
                stack.enter_context(sampler)
            summary = await batch.run()
            figures = clock.read()
    assert summary.settled == order.jobs, summary
    groups.sort()
    ledger = {
        "commits": len(groups),
        "steps_per_commit": round(sum(groups) / len(groups), 1),
        "steps_p50": groups[len(groups) // 2],
        "steps_max": groups[-1],
        "files_mb": round(sum(file.stat().st_size for file in (directory / "out").iterdir()) / 1e6, 1),
    }
    stages = {} if sampler is None else {"stages_s": sampler.seconds, "frames_s": sampler.top(40)}
    refill = {"slot_use": summary.slot_use, "refill_p50_s": summary.refill_p50_s, "refill_p99_s": summary.refill_p99_s}
    return figures | ledger | stages | refill


def config(order: Order) -> Any:
    """Return the batch's configuration; no rate of ours holds it up."""
    return load_config(
        flags={
            "api.base_url": order.base_url,
            "task.id": TASK,
            "jobs.file": f"{order.directory}/jobs.jsonl",
            "output.dir": f"{order.directory}/out",
            "limits.max_concurrent_runs": order.slots,
            "limits.start_rate": 1e6,
            "limits.request_rate": 1e6,
            **({"replica.url": order.replica} if order.replica is not None else {}),
        },
        environ={},
    )


def _append_slowly(stack: ExitStack, append_s: float) -> None:
    append = DirectoryStore.append

    def slow(store: DirectoryStore, number: int, entry: bytes) -> bool:
        time.sleep(append_s)
        return append(store, number, entry)

    stack.enter_context(mock.patch.object(DirectoryStore, "append", slow))


def _count_groups(stack: ExitStack, groups: list[int]) -> None:
    commit_group = ledger_journal.Journal.commit_group

    def counted(journal: ledger_journal.Journal, steps: Any) -> None:
        commit_group(journal, steps)
        groups.append(len(steps))

    stack.enter_context(mock.patch.object(ledger_journal.Journal, "commit_group", counted))


def _forgo_syncing(stack: ExitStack) -> None:
    """Let nothing wait for the disk: what durability costs is the difference. No batch ever runs like this."""

    @contextmanager
    def opened(directory: Path, log: CommitLog | None) -> Iterator[LedgerTables]:
        with open_ledger(directory, log=log) as ledger:
            ledger._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - benchmark only
            yield ledger

    stack.enter_context(mock.patch.object(ledger_journal, "open_ledger", opened))
    stack.enter_context(mock.patch.object(os, "fdatasync"))


#: How each side runs its loop: as people would.
SIDES: dict[str, tuple[Callable[[Order], Awaitable[dict[str, Any]]], Callable[..., Any]]] = {
    "plain": (_plain, lambda function, order: uvloop.run(function(order))),
    "cooldown": (_cooldown, lambda function, order: uvloop.run(function(order))),
    "apify-client": (_apify_client, lambda function, order: asyncio.run(function(order))),
    "httpx": (_httpx, lambda function, order: asyncio.run(function(order))),
    "batchrun": (_batchrun, run_async),
}


def main() -> None:
    """Carry out one order."""
    order = Order(**orjson.loads(sys.argv[1]))
    function, run = SIDES[order.side]
    if order.profile is None:
        figures = run(function, order)
    else:
        import cProfile  # noqa: PLC0415 - only where it is asked for

        profile = cProfile.Profile()
        figures = profile.runcall(run, function, order)
        profile.dump_stats(order.profile)
    print(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main()
