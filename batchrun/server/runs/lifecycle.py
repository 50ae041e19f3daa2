"""Runs from start to end: the account's limits, execution, aborts, reboots, waiting.

A Run is live from the moment its start is accepted until its end is committed. Only then do waiters wake, and only then
are its place and memory free.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import orjson
import structlog

from batchrun.model import JsonObject, RunStatus
from batchrun.runtime.error_containment import contained
from batchrun.server import prices
from batchrun.server.accounts.accounts import Accounts
from batchrun.server.catalog.actor_catalog import Actor, Catalog, LocalCommand
from batchrun.server.error_answers import ErrorAnswer, thing_missing
from batchrun.server.ids import iso, now_ms
from batchrun.server.runs import charging
from batchrun.server.runs.actor_processes import ProcessRunner
from batchrun.server.runs.execution import RunExecutor
from batchrun.server.runs.final_usage import FinalUsage
from batchrun.server.runs.hosted_run import (
    ActorProxy,
    HostedRun,
    RunEnd,
    append_log,
    changes_within_limits,
    mark_status,
    store_live,
)
from batchrun.server.runs.run_limits import RunLimits
from batchrun.server.runs.run_object import (
    ITEM_EVENT,
    RunOrder,
    current_part,
    ended_stats,
    new_doc,
    resurrected,
)
from batchrun.server.settings import ServerSettings
from batchrun.server.store import final_usage_table, run_table, storage_table, stored_value_table, webhook_table
from batchrun.server.store.database import Database, is_of_a_full_disk, is_of_the_file
from batchrun.server.webhooks.webhook_book import WebhookBook
from batchrun.server.webhooks.webhook_delivery import WebhookDelivery

_log = structlog.get_logger()

#: Seconds that a reader of a READY Run waits for it to begin. Apify's command line takes READY for a failure.
_BEGINS_WITHIN_S = 1
#: Max ended Runs in memory: those that their followers are about to read once more.
_MAX_JUST_ENDED = 1000
#: Seconds until an end that could not be committed is committed again.
_END_AGAIN_S = 1
#: Tries per line in the log while the disk is full.
_TRIES_PER_WARNING = 60
_PROXY_NOTE = (
    "ACTOR: The proxy is this server's own and goes out directly: it hides no address; groups and countries have no "
    "effect. With APIFY_PROXY_PASSWORD in the server's environment, Actors use Apify Proxy."
)
ABORTED = RunEnd(status=RunStatus.ABORTED, message="The Actor run was aborted")
TIMED_OUT = RunEnd(status=RunStatus.TIMED_OUT, message="The Actor timed out")
_BROKEN = RunEnd(
    status=RunStatus.FAILED,
    message="There was an unexpected error on the server, which its log describes",
    is_decisive=True,
)

T = TypeVar("T")


class Runs:
    """All Runs of all accounts."""

    def __init__(
        self,
        settings: ServerSettings,
        database: Database,
        catalog: Catalog,
        children: anyio.abc.TaskGroup,
        *,
        base_url: str,
        accounts: Accounts,
        final_usage: FinalUsage,
        webhook_book: WebhookBook,
        token_of: Callable[[str, int], str],
        token_of_webhook: Callable[[str], str],
        events_key_of: Callable[[str, int], str],
        actor_proxy: ActorProxy,
    ) -> None:
        self._settings, self._database, self._catalog = settings, database, catalog
        self._children, self._final_usage = children, final_usage
        self._limits = RunLimits(accounts)
        self.counts = self._limits.counts
        self._processes = ProcessRunner(
            database,
            base_url,
            actor_proxy,
            events_key_of=events_key_of,
            allow_private_addresses=settings.allow_private_addresses,
        )
        self._webhooks = webhook_book
        self.delivery = WebhookDelivery(
            database,
            self.read,
            retry_s=settings.webhook_retry_s,
            base_url=base_url,
            token_of=token_of_webhook,
            allow_private_addresses=settings.allow_private_addresses,
        )
        self._executor = RunExecutor(database, self._processes, token_of)
        self._live: dict[str, HostedRun] = {}
        #: The Runs that ended last: a follower of a Run reads it once more after its end.
        self._just_ended: dict[str, JsonObject] = {}
        #: Set once the Run with this id has been changed by its one caller.
        self._changing: dict[str, anyio.Event] = {}
        #: Default dataset -> the live Run that pays for its items.
        self._paid_datasets: dict[str, HostedRun] = {}

    @property
    def live_count(self) -> int:
        """The number of live Runs and of Runs whose start is being committed."""
        return self.counts.live

    def find_live(self, run_id: str) -> HostedRun | None:
        return self._live.get(run_id)

    async def admit_to_proxy(self, password: str, reaches_site: bool) -> bool:
        """True if this is the id of a live Run, whose log then says that the proxy hides nothing."""
        if (live := self._live.get(password)) is None:
            return False
        if not live.is_proxied:
            live.is_proxied = True
            await append_log(self._database, live, _PROXY_NOTE)
        live.has_used_proxy |= reaches_site
        return True

    def owner_of_live(self, run_id: str) -> tuple[str, int] | None:
        """Return the user id of a live Run, and how often it was resurrected."""
        live = self._live.get(run_id)
        return (live.doc["userId"], live.resurrections) if live is not None else None

    async def start(self, order: RunOrder) -> HostedRun:
        """Start a Run, unless its account's quota is used up. It goes on if the caller is cancelled."""
        started_ms = now_ms()
        body = order.stored_input[1] if order.stored_input else None
        extras = {} if order.chain is None else {"chain": order.chain}
        live = self._live_run(new_doc(order, started_ms), extras, order.actor, body)
        if order.ready_s:
            live.ready_s, live.doc["status"] = order.ready_s, RunStatus.READY.value
        self._limits.take(live.doc)
        if order.webhooks:
            await self._add_webhooks(live.doc, order.webhooks)
        self.counts.started += 1
        self.counts.start_times.append(live.began)
        await self._commit_start(
            live, "ACTOR.RUN.CREATED", run_table.insert, live.doc, live.extras, started_ms, order.stored_input
        )
        return live

    async def running(self, run_id: str) -> HostedRun:
        """Return a Run whose Actor runs now."""
        live = self._live.get(run_id)
        if live is not None and live.status is RunStatus.RUNNING:
            return live
        doc = await self.read(run_id)
        if RunStatus(doc["status"]).is_terminal:
            raise ErrorAnswer(403, "job-finished", "The Actor run has already finished")
        raise ErrorAnswer(400, "invalid-request", f"The Actor run is not running (status: {doc['status']})")

    async def read(self, run_id: str) -> JsonObject:
        if (live := self._live.get(run_id)) is not None:
            return live.doc
        if (ended := self._just_ended.get(run_id)) is not None:
            return dict(ended)
        if (doc := await self._database.read(run_table.read, run_id)) is None:
            raise thing_missing("Actor run")
        known: JsonObject = orjson.loads(doc)
        return known

    async def read_with_usage(self, run_id: str) -> JsonObject:
        """Return a Run; a live one with what it has used so far."""
        doc = await self.read(run_id)
        if (live := self._live.get(run_id)) is None:
            return doc
        doc = doc | {"stats": ended_stats(doc["stats"], memory_mb=live.memory_mb, duration_s=live.duration_s())}
        prices.add_usage(doc, await self._database.read(storage_table.read_uses, doc))
        return doc

    async def wait(self, run_id: str, wait_s: float) -> None:
        """Wait until a Run has ended, at most `wait_s`; return at once if it is not live."""
        if wait_s > 0 and (live := self._live.get(run_id)) is not None:
            with anyio.move_on_after(wait_s):
                await live.wait_ended()

    async def wait_begun(self, run_id: str) -> None:
        """Wait until a Run is no longer READY, for a moment at most; not if a fault keeps it so."""
        live = self._live.get(run_id)
        if live is not None and live.status is RunStatus.READY and not live.ready_s:
            with anyio.move_on_after(_BEGINS_WITHIN_S):
                await live.wait_begun()

    def park(self) -> list[HostedRun]:
        """Let no Actor begin again before the server closes, and announce it to those that listen; return their Runs.

        An Actor of the JavaScript SDK saves its state and asks for a reboot: it must not go on from there before the
        next server process, which would go on from the same state.
        """
        self._executor.is_parking = True
        followed = [live for live in self._live.values() if live.events.is_followed]
        for live in followed:
            live.events.send("migrating")
        return followed

    async def abort(self, run_id: str, *, is_graceful: bool = False) -> JsonObject:
        """Abort a Run, unless it has ended or is ending. A graceful abort gives a process time to stop."""
        live = self._live.get(run_id)
        if live is None or live.status in (RunStatus.ABORTING, RunStatus.TIMING_OUT):
            return await self.read(run_id)
        try:
            await mark_status(self._database, live, RunStatus.ABORTING)
        finally:
            # No later abort of a Run that is ABORTING does anything.
            if is_graceful and live.is_process:
                live.scope.deadline = anyio.current_time() + self._settings.abort_grace_s
                live.announce_abort()
            else:
                live.scope.cancel()
        return await self.read(run_id)

    async def charge(self, live: HostedRun, event: str, count: int, key: str | None) -> None:
        """Charge a Run for events of its Actor. All are taken; above the limit the Run is stopped."""
        await charging.charge(self._database, live, event, count, key)
        await self._stop_over_cap(live)

    async def charge_items(self, dataset_id: str, count: int) -> None:
        """Charge the live Run, if one pays for the items of this dataset."""
        if (live := self._paid_datasets.get(dataset_id)) is not None:
            live.doc |= charging.charged(live.doc, ITEM_EVENT, count, is_by_actor=False)
            await store_live(self._database, live)
            await self._stop_over_cap(live)

    async def _stop_over_cap(self, live: HostedRun) -> None:
        """Stop a Run whose charges exceed its limit: SDKs charge one event too many for this. Source: SDK, charging."""
        if not prices.is_over_cap(live.doc) or live.stop_reason:
            return
        cap_usd = live.doc["options"]["maxTotalChargeUsd"]
        live.stop_reason = f"The Actor run was aborted: its charges exceed maxTotalChargeUsd ({cap_usd} USD)"
        await append_log(self._database, live, f"ACTOR: {live.stop_reason}")
        await self.abort(live.id, is_graceful=True)

    async def owner_of(self, run_id: str) -> str:
        return str((await self.read(run_id))["userId"])

    async def abort_of_task(self, task_id: str) -> None:
        for live in [live for live in self._live.values() if live.doc.get("actorTaskId") == task_id]:
            await self.abort(live.id)

    async def change(self, run_id: str, changes: JsonObject) -> JsonObject:
        """Set properties of a live or ended Run that its owner may set, such as the status message."""
        async with self._alone_with(run_id):
            live = self._live.get(run_id)
            if live is not None and live.end_stored is not None:
                await live.end_stored.wait()
            if (live := self._live.get(run_id)) is None:
                self._just_ended.pop(run_id, None)
                changed = await self._database.write(run_table.change, run_id, changes_within_limits(changes))
                if changed is None:
                    raise thing_missing("Actor run")
                if (live := self._live.get(run_id)) is None:
                    return changed
            live.change(changes)
            await store_live(self._database, live)
            return live.doc

    async def resurrect(self, run_id: str, changes: JsonObject) -> JsonObject:
        """Start an ended Run again, with its id, input and storages. `changes` are options of the API."""
        async with self._alone_with(run_id):
            ended = await self.read(run_id)
            if not RunStatus(ended["status"]).is_terminal:
                raise ErrorAnswer(400, "invalid-request", "Only a finished Actor run can be resurrected")
            actor = self._catalog.find(current_part(ended)[0])
            if actor is None:
                raise thing_missing("Actor")
            extras = await self._database.read(run_table.read_extras, run_id)
            # The time limit starts again; the earlier run time still counts as its duration.
            extras |= {"begunMs": now_ms(), "usedS": 0, "ranS": ended["stats"].get("runTimeSecs", 0)}
            if await self._database.read(final_usage_table.is_final, run_id):
                extras["counted"] = prices.countable(ended)
            live = await self._revived(resurrected(ended, changes), extras, actor)
            self._limits.take(live.doc)
            try:
                await self._webhooks.load_run(run_id)
            except Exception:
                self._limits.give_back(live.doc)
                raise
            await self._commit_start(live, "ACTOR.RUN.RESURRECTED", run_table.revive, live.doc, live.extras)
            return live.doc

    async def delete(self, run_id: str) -> None:
        async with self._alone_with(run_id):
            doc = await self.read(run_id)
            if run_id in self._live:
                raise ErrorAnswer(400, "cannot-remove-running-run", "The Actor run is still running: abort it first")
            self._just_ended.pop(run_id, None)
            await self._database.write(run_table.delete, doc)

    @asynccontextmanager
    async def _alone_with(self, run_id: str) -> AsyncIterator[None]:
        """Let one caller at a time change a Run: another would store what it read before, without that change.

        A request that changes something goes on if its client hangs up (`http.handler`): only a server that closes
        cancels a caller, with all others.
        """
        while (other := self._changing.get(run_id)) is not None:
            await other.wait()
        done = self._changing[run_id] = anyio.Event()
        try:
            yield
        finally:
            del self._changing[run_id]
            done.set()

    async def take_over(self, doc: JsonObject, extras: JsonObject, actor: Actor) -> HostedRun:
        """Take over a live Run of the previous process, before any request is answered; it goes on with `go_on`.

        No limit is checked.
        """
        self._limits.take_over(doc)
        try:
            live = await self._revived(doc, extras, actor)
            await self._database.write(run_table.revive, live.doc, extras)
            await self._webhooks.load_run(live.id)
        except Exception:
            self._limits.give_back(doc)
            raise
        self._hold(live)
        return live

    def go_on(self, live: HostedRun, ending: RunEnd | None) -> None:
        """Execute a Run that was taken over, or end it with `ending`."""
        self._children.start_soon(self._carry_out, live, ending)

    async def watch_memory(self) -> None:
        """Enforce the memory limits of processes; runs until cancelled."""
        await self._processes.watch_memory()

    def show_final(self, doc: JsonObject) -> None:
        """Show the final figures of an ended Run from now on."""
        if doc["id"] in self._just_ended:
            self._just_ended[doc["id"]] = doc

    async def _commit_start(self, live: HostedRun, event: str, function: Callable[..., None], *args: object) -> None:
        """Commit a start with reserved quota and launch the Run, even if the caller is cancelled."""
        try:
            await self._write(live.doc, event, function, *args, then=lambda _: self._launch(live))
        except Exception:
            self._limits.give_back(live.doc)
            self._webhooks.forget_run(live.id)
            raise

    async def _add_webhooks(self, doc: JsonObject, given: list[JsonObject]) -> None:
        """Add the webhooks of a Run that has reserved its quota; without them, it gives that back."""
        try:
            await self._webhooks.add_to_run(doc, given)
        except Exception:
            self._limits.give_back(doc)
            self._webhooks.forget_run(doc["id"])
            raise

    async def _write(
        self, doc: JsonObject, event: str, function: Callable[..., T], *args: object, then: Callable[[T], None]
    ) -> None:
        """Commit a change of a Run together with the webhook dispatches that it triggers."""
        dispatches = self._webhooks.dispatches_of(doc, event)
        if not dispatches:
            await self._database.write(function, *args, then=then)
            return

        def both(result: T) -> None:
            then(result)
            self.delivery.expect(dispatches)

        await self._database.write(webhook_table.along, dispatches, now_ms(), function, *args, then=both)

    def _live_run(self, doc: JsonObject, extras: JsonObject, actor: Actor, body: bytes | None) -> HostedRun:
        now = anyio.current_time()
        timeout_s = doc["options"]["timeoutSecs"]
        # An inline Actor runs as soon as its start is committed.
        is_process = isinstance(actor.runner, LocalCommand)
        doc["status"] = (RunStatus.READY if is_process else RunStatus.RUNNING).value
        web_port = self._free_port() if is_process else 0
        if is_process:
            doc["containerUrl"] = f"http://127.0.0.1:{web_port}"
        deadline = now + max(timeout_s - extras.get("usedS", 0), 0) if timeout_s else float("inf")
        began = now - extras.get("ranS", 0)
        return HostedRun(
            doc=doc,
            extras=extras,
            actor=actor,
            input_body=None if is_process else body,
            began=began,
            deadline=deadline,
            web_port=web_port,
        )

    def _free_port(self) -> int:
        """Return a port of this machine that no program uses, and no live Run has."""
        taken = {live.web_port for live in self._live.values()}
        while True:
            with closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in taken:
                return port

    async def _revived(self, doc: JsonObject, extras: JsonObject, actor: Actor) -> HostedRun:
        _, input_key = current_part(doc)
        stored = None
        if not isinstance(actor.runner, LocalCommand):  # a process reads its input itself
            stored = await self._database.read(stored_value_table.read, doc["defaultKeyValueStoreId"], input_key)
        status = RunStatus(doc["status"])
        live = self._live_run(doc, extras, actor, stored[1] if stored else None)
        live.input_key = input_key
        if status in (RunStatus.ABORTING, RunStatus.TIMING_OUT):
            live.doc["status"] = status.value
        return live

    def _launch(self, live: HostedRun) -> None:
        self._hold(live)
        self.go_on(live, None)

    def _hold(self, live: HostedRun) -> None:
        self._live[live.id] = live
        if ITEM_EVENT in live.doc.get("chargedEventCounts", {}):
            self._paid_datasets[live.doc["defaultDatasetId"]] = live
        self._just_ended.pop(live.id, None)

    async def _carry_out(self, live: HostedRun, ending: RunEnd | None) -> None:
        ending = ending or await self._executed(live)
        # An aborted Run is ABORTED however its work ended.
        if live.status is RunStatus.ABORTING:
            ending = replace(ABORTED, message=live.stop_reason, is_decisive=True) if live.stop_reason else ABORTED
        tries = 0
        while self._live.get(live.id) is live:
            try:
                await self._commit_end(live, ending)
            except Exception as error:  # noqa: BLE001 - one Run's trouble is no other's
                if is_of_a_full_disk(error):
                    if tries % _TRIES_PER_WARNING == 0:
                        _log.warning("run_end_waits_for_disk_space", run_id=live.id, reason=str(error))
                    tries += 1
                else:
                    _log.exception("run_not_ended", run_id=live.id)
                await anyio.sleep(_END_AGAIN_S)
                if not is_of_the_file(error):
                    await self._forget_changes(live)
                    ending = _BROKEN

    async def _executed(self, live: HostedRun) -> RunEnd:
        """Execute a Run's Actor; return how it ended."""
        with contained("run_broken", run_id=live.id):
            with live.scope:
                return await self._executor.execute(live)
            return TIMED_OUT  # the time limit has cut the work
        # A server that closes leaves the Run to the next one.
        await anyio.lowlevel.checkpoint()
        return _BROKEN

    async def _forget_changes(self, live: HostedRun) -> None:
        """Make a Run that cannot be stored what it was when it was last stored."""
        with contained("run_not_read", run_id=live.id):
            stored = await self._database.read(run_table.read, live.id)
            live.doc = orjson.loads(stored or b"{}")

    async def _commit_end(self, live: HostedRun, ending: RunEnd) -> None:
        ended = self._ended_doc(live, ending)
        live.end_stored = stored = anyio.Event()
        event, usage = f"ACTOR.RUN.{ending.status.value.replace('-', '_')}", self._final_usage
        args = (final_usage_table.end, ended, usage.delay_s, usage.reads.take() if usage.delay_s == 0 else {})
        try:
            await self._write(ended, event, *args, then=lambda final: self._retire(live, ended, final))
        finally:
            live.end_stored = None
            stored.set()

    def _ended_doc(self, live: HostedRun, ending: RunEnd) -> JsonObject:
        duration_s = live.duration_s()
        doc = dict(live.doc)
        doc["status"], doc["finishedAt"], doc["exitCode"] = ending.status.value, iso(now_ms()), ending.exit_code
        if ending.is_decisive or not doc.get("statusMessage"):
            doc["statusMessage"] = ending.message
        doc["isStatusMessageTerminal"] = True
        doc["stats"] = ended_stats(
            doc["stats"] | live.measured(duration_s), memory_mb=live.memory_mb, duration_s=duration_s
        )
        return doc

    def _retire(self, live: HostedRun, doc: JsonObject, final: list[tuple[JsonObject, float]]) -> None:
        if final:
            self._final_usage.note_spent(*final[0])
        else:
            self._final_usage.expect(live.id)
        live.doc = doc
        del self._live[live.id]
        self._paid_datasets.pop(doc["defaultDatasetId"], None)
        self._webhooks.forget_run(live.id)
        self._just_ended[live.id] = doc
        if len(self._just_ended) > _MAX_JUST_ENDED:
            del self._just_ended[next(iter(self._just_ended))]
        self._limits.give_back(doc)
        live.note_ended()
        live.events.close()
        live.wake_followers()
