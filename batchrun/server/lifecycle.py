"""Runs from start to end: limits of the account, the Actor's work, restarts, aborts, waiting, and migration.

The truth about Runs: a Run is live from the moment its start is accepted until its end is committed; only then do
waiters wake, and only then are its slot and memory free.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import structlog

from batchrun.model import JsonObject, RunStatus
from batchrun.server import prices, process_groups
from batchrun.server.catalog import Actor, Catalog, LocalCommand
from batchrun.server.database import Database
from batchrun.server.faults import Fault, thing_missing
from batchrun.server.ids import iso, new_id, now_ms
from batchrun.server.inline import run_inline
from batchrun.server.live import Ending, LiveRun, append_log, mark_status
from batchrun.server.processes import ProcessRunner
from batchrun.server.settings import ServerSettings
from batchrun.server.tables import runs, stored_values

_log = structlog.get_logger()

#: restartOnError: so many restarts within so long. Source: the platform's shared constants.
_MAX_RESTARTS, _RESTART_WINDOW_S = 3, 60
_MAX_START_TIMES = 100_000
_MAX_JUST_ENDED = 1000
_ABORTED = Ending(status=RunStatus.ABORTED, message="The Actor run was aborted")
_TIMED_OUT = Ending(status=RunStatus.TIMED_OUT, message="The Actor timed out")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """A start as asked for, merged and checked: what a new Run is made of."""

    actor: Actor
    task_id: str | None
    build: str
    timeout_s: int
    memory_mb: int
    max_items: int | None
    max_total_charge_usd: float | None
    restart_on_error: bool
    webhooks: list[JsonObject]
    #: Content type and bytes; None starts without an input.
    stored_input: tuple[str, bytes] | None
    origin: str
    client_ip: str | None
    user_agent: str | None


@dataclass(slots=True)
class RunCounts:
    """The server's own count, the truth for tests."""

    started: int = 0
    peak_live: int = 0
    peak_memory_mb: int = 0
    #: The last 100,000 starts, on the loop's clock.
    start_times: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_START_TIMES))


class Runs:
    """All Runs of the account."""

    def __init__(
        self,
        settings: ServerSettings,
        database: Database,
        catalog: Catalog,
        children: anyio.abc.TaskGroup,
        *,
        base_url: str,
        user_id: str,
        token_of: Callable[[str], str],
    ) -> None:
        """Take over; `token_of` makes the token of a Run."""
        self._settings, self._database, self._catalog = settings, database, catalog
        self._children, self._user_id, self._token_of = children, user_id, token_of
        self._processes = ProcessRunner(database, base_url)
        self._live: dict[str, LiveRun] = {}
        #: The last ones that ended, since whoever follows a Run asks for it once more right then.
        self._just_ended: dict[str, JsonObject] = {}
        self._reviving: set[str] = set()
        #: Accepted starts, from before they are committed.
        self._reserved_runs = self._reserved_mb = 0
        self.counts = RunCounts()

    @property
    def live_count(self) -> int:
        """Runs that have not ended."""
        return self._reserved_runs

    @property
    def live_memory_mb(self) -> int:
        """What they have reserved."""
        return self._reserved_mb

    def find_live(self, run_id: str) -> LiveRun | None:
        """Return a Run that has not ended."""
        return self._live.get(run_id)

    async def start(self, order: RunOrder) -> LiveRun:
        """Start a Run; it lives on if the caller is cancelled.

        Raises:
            Fault: 402 when the account has no memory or no slot for it; nothing was started.
        """
        started_ms = now_ms()
        live = self._new_run(order, started_ms)
        self._reserve(live.memory_mb)
        self.counts.started += 1
        self.counts.start_times.append(anyio.current_time())
        await self._commit_start(live, runs.insert, live.doc, live.extras, started_ms, order.stored_input)
        return live

    async def read(self, run_id: str) -> JsonObject:
        """Return a Run as it is now.

        Raises:
            Fault: 404.
        """
        if (live := self._live.get(run_id)) is not None:
            return live.doc
        if (ended := self._just_ended.get(run_id)) is not None:
            return dict(ended)
        if (doc := await self._database.read(runs.read, run_id)) is None:
            raise thing_missing("Actor run")
        known: JsonObject = orjson.loads(doc)
        return known

    async def wait(self, run_id: str, wait_s: float) -> None:
        """Wait until a Run has ended, at most so long; at once for one that is not live."""
        if wait_s > 0 and (live := self._live.get(run_id)) is not None:
            with anyio.move_on_after(wait_s):
                await live.ended.wait()

    async def abort(self, run_id: str) -> JsonObject:
        """Abort a Run; one that ends or has ended is left alone."""
        live = self._live.get(run_id)
        if live is not None and live.status not in (RunStatus.ABORTING, RunStatus.TIMING_OUT):
            await mark_status(self._database, live, RunStatus.ABORTING)
            live.scope.cancel()
        return await self.read(run_id)

    async def abort_of_task(self, task_id: str) -> None:
        """Abort all live Runs of a task."""
        for live in [live for live in self._live.values() if live.doc.get("actorTaskId") == task_id]:
            await self.abort(live.id)

    async def change(self, run_id: str, changes: JsonObject) -> JsonObject:
        """Set properties of a Run that its owner may set, such as the status message; live or ended."""
        live = self._live.get(run_id)
        if live is not None:
            live.change(changes)
            await self._database.write(runs.update_live, dict(live.doc))
            return live.doc
        doc = await self.read(run_id) | changes
        self._just_ended.pop(run_id, None)
        await self._database.write(runs.update, doc)
        return doc

    async def resurrect(self, run_id: str, changes: JsonObject) -> JsonObject:
        """Start an ended Run again, with its id, input and storages; `changes` are options of the API.

        Raises:
            Fault: 400 when the Run has not ended, 402 when the account has no room for it.
        """
        doc = await self.read(run_id)
        if not RunStatus(doc["status"]).is_terminal:
            raise Fault(400, "invalid-request", "Only a finished Actor run can be resurrected")
        actor = self._catalog.find(doc["actId"])
        if actor is None:
            raise thing_missing("Actor")
        if run_id in self._reviving:
            raise Fault(400, "invalid-request", "The Actor run is being resurrected")
        self._reviving.add(run_id)
        try:
            doc["options"] = doc["options"] | changes
            doc["stats"] = doc["stats"] | {"resurrectCount": doc["stats"]["resurrectCount"] + 1}
            doc |= {"finishedAt": None, "exitCode": None, "statusMessage": None, "isStatusMessageTerminal": None}
            live = await self._revived(doc, await self._database.read(runs.read_extras, run_id), actor)
            self._reserve(live.memory_mb)
            await self._commit_start(live, runs.update, live.doc)
        finally:
            self._reviving.discard(run_id)
        return live.doc

    async def delete(self, run_id: str) -> None:
        """Forget an ended Run and its default storages.

        Raises:
            Fault: 400 `cannot-remove-running-run`, 404.
        """
        doc = await self.read(run_id)
        if run_id in self._live:
            raise Fault(400, "cannot-remove-running-run", "The Actor run is still running: abort it first")
        self._just_ended.pop(run_id, None)
        await self._database.write(runs.delete, doc)

    async def migrate(self) -> None:
        """Start the live Runs of a predecessor again, each under its id, with its time limit anew."""
        for doc, extras in await self._database.read(runs.load_live):
            actor = self._catalog.find(doc["actId"])
            doc["stats"]["migrationCount"] += 1
            # Room was made for them when they were started; a smaller limit now does not end them.
            self._reserved_runs += 1
            self._reserved_mb += doc["options"]["memoryMbytes"]
            live = await self._revived(doc, extras, actor or _missing_actor(doc))
            self._launch(live, ending=_ending_left_over(RunStatus(doc["status"]), is_actor_known=actor is not None))
            _log.info("run_migrated", run_id=live.id)

    async def end_orphans(self) -> None:
        """End the process groups that a dead predecessor has left; before anything else may start."""
        for pid, started in await self._database.read(runs.take_processes):
            if await anyio.to_thread.run_sync(process_groups.end_orphan, pid, started):
                _log.info("orphan_ended", pid=pid)
        await self._database.write(runs.forget_processes)

    async def watch_memory(self) -> None:
        """Enforce the memory limits of Runs that are processes; runs until cancelled."""
        await self._processes.watch_memory()

    async def _commit_start(self, live: LiveRun, function: Callable[..., None], *args: object) -> None:
        """Keep a start whose room is reserved, and launch the Run, even if the caller is cancelled meanwhile."""
        try:
            await self._database.write(function, *args, then=lambda _: self._launch(live))
        except Exception:
            self._release(live.memory_mb)
            raise

    def _reserve(self, memory_mb: int) -> None:
        limit_mb, max_runs = self._settings.max_total_memory_mb, self._settings.max_concurrent_runs
        if self._reserved_mb + memory_mb > limit_mb:
            raise Fault(
                402,
                "actor-memory-limit-exceeded",
                f"By launching this job you will exceed the memory limit of {limit_mb}MB for all your Actor runs and "
                f"builds (currently used: {self._reserved_mb}MB, requested: {memory_mb}MB)",
            )
        if self._reserved_runs + 1 > max_runs:
            raise Fault(
                402,
                "concurrent-runs-limit-exceeded",
                f"By launching this job you will exceed your limit of {max_runs} concurrent Actor runs",
            )
        self._reserved_runs += 1
        self._reserved_mb += memory_mb
        self.counts.peak_live = max(self.counts.peak_live, self._reserved_runs)
        self.counts.peak_memory_mb = max(self.counts.peak_memory_mb, self._reserved_mb)

    def _release(self, memory_mb: int) -> None:
        self._reserved_runs -= 1
        self._reserved_mb -= memory_mb

    def _new_run(self, order: RunOrder, started_ms: int) -> LiveRun:
        extras: JsonObject = {"restartOnError": True} if order.restart_on_error else {}
        if order.webhooks:
            extras["webhooks"] = order.webhooks
        body = order.stored_input[1] if order.stored_input else None
        doc = _new_doc(order, started_ms, self._user_id, len(body or b""))
        return self._live_run(doc, extras, order.actor, body)

    def _live_run(self, doc: JsonObject, extras: JsonObject, actor: Actor, body: bytes | None) -> LiveRun:
        now = anyio.current_time()
        timeout_s = doc["options"]["timeoutSecs"]
        # An inline Actor is at work with the commit of its start.
        doc["status"] = (RunStatus.READY if isinstance(actor.runner, LocalCommand) else RunStatus.RUNNING).value
        deadline = now + timeout_s if timeout_s else float("inf")
        return LiveRun(doc=doc, extras=extras, actor=actor, input_body=body, began=now, deadline=deadline)

    async def _revived(self, doc: JsonObject, extras: JsonObject, actor: Actor) -> LiveRun:
        stored = await self._database.read(stored_values.read, doc["defaultKeyValueStoreId"], "INPUT")
        return self._live_run(doc, extras, actor, stored[1] if stored else None)

    def _launch(self, live: LiveRun, ending: Ending | None = None) -> None:
        self._live[live.id] = live
        self._just_ended.pop(live.id, None)
        self._children.start_soon(self._carry_out, live, ending)

    async def _carry_out(self, live: LiveRun, ending: Ending | None) -> None:
        if ending is None:
            with live.scope:
                ending = await self._work(live)
        # Whatever the work came to, a Run that somebody aborted is ABORTED; else only its time limit cuts it.
        if live.status is RunStatus.ABORTING:
            ending = _ABORTED
        ending = ending or _TIMED_OUT
        ended = self._ended_doc(live, ending)
        await self._database.write(runs.end, ended, prices.settle, then=lambda _: self._retire(live, ended))

    async def _work(self, live: LiveRun) -> Ending:
        restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
        while True:
            ending = await self._run_actor(live)
            now = anyio.current_time()
            is_worn_out = len(restarts) == _MAX_RESTARTS and now - restarts[0] < _RESTART_WINDOW_S
            if ending.status is not RunStatus.FAILED or not live.extras.get("restartOnError") or is_worn_out:
                return ending
            restarts.append(now)
            live.doc["stats"]["restartCount"] += 1
            await append_log(self._database, live, "ACTOR: Restarting, as the run was started with restartOnError.")

    async def _run_actor(self, live: LiveRun) -> Ending:
        runner = live.actor.runner
        if not isinstance(runner, LocalCommand):
            return await run_inline(self._database, live, runner)
        await append_log(self._database, live, "ACTOR: Starting a local process.")
        return await self._processes.run(live, runner, self._token_of(live.id))

    def _ended_doc(self, live: LiveRun, ending: Ending) -> JsonObject:
        duration_s = max(anyio.current_time() - live.began, 0.001)
        doc = dict(live.doc)
        doc["status"], doc["finishedAt"], doc["exitCode"] = ending.status.value, iso(now_ms()), ending.exit_code
        if not (doc.get("isStatusMessageTerminal") and doc.get("statusMessage")):
            doc["statusMessage"] = ending.message
        doc["isStatusMessageTerminal"] = True
        doc["stats"] = doc["stats"] | {
            "durationMillis": round(duration_s * 1000),
            "runTimeSecs": round(duration_s, 3),
            "computeUnits": prices.compute_units(live.memory_mb, duration_s),
            "memMaxBytes": live.max_memory_bytes,
            "cpuAvgUsage": round(100 * live.cpu_s / duration_s, 3),
        }
        return doc

    def _retire(self, live: LiveRun, doc: JsonObject) -> None:
        live.doc = doc
        del self._live[live.id]
        self._just_ended[live.id] = doc
        if len(self._just_ended) > _MAX_JUST_ENDED:
            del self._just_ended[next(iter(self._just_ended))]
        self._release(live.memory_mb)
        live.ended.set()
        live.log_grown.set()


def _new_doc(order: RunOrder, started_ms: int, user_id: str, input_length: int) -> JsonObject:
    options: JsonObject = {
        "build": order.build,
        "timeoutSecs": order.timeout_s,
        "memoryMbytes": order.memory_mb,
        "diskMbytes": order.memory_mb * 2,
    }
    if order.max_items is not None:
        options["maxItems"] = order.max_items
    if order.max_total_charge_usd is not None:
        options["maxTotalChargeUsd"] = order.max_total_charge_usd
    return {
        "id": new_id(),
        "actId": order.actor.id,
        "userId": user_id,
        "actorTaskId": order.task_id,
        "startedAt": iso(started_ms),
        "finishedAt": None,
        "status": RunStatus.READY.value,
        "statusMessage": None,
        "isStatusMessageTerminal": None,
        "meta": {"origin": order.origin, "clientIp": order.client_ip, "userAgent": order.user_agent},
        "stats": {
            "inputBodyLen": input_length,
            "migrationCount": 0,
            "rebootCount": 0,
            "restartCount": 0,
            "resurrectCount": 0,
            "metamorph": 0,
            "computeUnits": 0,
        },
        "options": options,
        "buildId": order.actor.build_id,
        "buildNumber": order.actor.build_number,
        "exitCode": None,
        "generalAccess": "FOLLOW_USER_SETTING",
        "defaultKeyValueStoreId": new_id(),
        "defaultDatasetId": new_id(),
        "defaultRequestQueueId": new_id(),
        "usageTotalUsd": 0,
    }


def _missing_actor(doc: JsonObject) -> Actor:
    async def never(_: object) -> None:
        raise AssertionError(doc["actId"])

    return Actor(username="unknown", name="unknown", title="unknown", runner=never)


def _ending_left_over(status: RunStatus, *, is_actor_known: bool) -> Ending | None:
    """Return how a predecessor's Run ends without starting again, if it does."""
    if status is RunStatus.ABORTING:
        return _ABORTED
    if status is RunStatus.TIMING_OUT:
        return _TIMED_OUT
    if not is_actor_known:
        return Ending(status=RunStatus.FAILED, message="The Actor of this run is no longer known to the server")
    return None
