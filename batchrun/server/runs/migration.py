"""From one server process to the next: orphaned processes are killed, and live Runs start again as migrated ones."""

from collections.abc import Callable

import anyio
import anyio.to_thread
import structlog

from batchrun.model import JsonObject, RunStatus
from batchrun.runtime.error_containment import contained
from batchrun.server.catalog.actor_catalog import Actor, Catalog
from batchrun.server.ids import now_ms
from batchrun.server.runs import process_groups
from batchrun.server.runs.hosted_run import HostedRun, RunEnd
from batchrun.server.runs.lifecycle import ABORTED, TIMED_OUT, Runs
from batchrun.server.runs.process_groups import Orphan
from batchrun.server.runs.run_object import current_part, migrated_extras
from batchrun.server.store import account_table, run_table
from batchrun.server.store.database import Database, is_of_a_full_disk

_log = structlog.get_logger()

#: Seconds between two notes of the time: a migrated Run keeps the rest of its time limit as of the last note.
_NOTE_TIME_EVERY_S = 5
#: Seconds for Actors that are still at work to save their state, before they are killed.
_SAVE_WITHIN_S = 1
#: Seconds for crawlers to mark the requests as handled whose items they have pushed.
_MARK_WITHIN_S = 0.3


async def end_orphans(database: Database, token_of: Callable[[str], str]) -> None:
    """Kill all processes of a dead server process, also those outside of their groups; before any Run starts.

    A server process that lives keeps its own: the state is a copy of its state.
    """
    own = await anyio.to_thread.run_sync(process_groups.own_identity)
    before = await database.write(account_table.read_or_set, "served_by", own)
    processes = await database.read(run_table.read_processes)
    noted = [Orphan(run_id, token_of(run_id), pid, started) for run_id, pid, started in processes]
    if noted and before != own and await anyio.to_thread.run_sync(process_groups.may_be_alive, before):
        reason = "the state is a copy, or of another container, and its server may run"
        _log.warning("orphans_left", reason=reason, server=before)
    elif noted:
        for run_id in await anyio.to_thread.run_sync(process_groups.end_orphans, noted):
            _log.info("orphan_ended", run_id=run_id)
    await database.write(run_table.forget_processes)
    await database.write(account_table.put, "served_by", own)


async def migrate(database: Database, catalog: Catalog, live_runs: Runs) -> list[tuple[HostedRun, RunEnd | None]]:
    """Take over the live Runs of the previous process, under their ids and with the rest of their time limits.

    Return each with its end, or None if its Actor is to start again.
    """
    alive_ms = int(await database.write(account_table.read_or_set, "alive_ms", str(now_ms())))
    taken_over = []
    for doc, kept in await database.read(run_table.load_live):
        with contained("run_not_migrated", run_id=doc["id"]):
            actor = catalog.find(current_part(doc)[0])
            doc["stats"]["migrationCount"] += 1
            ending = _ending_left_over(RunStatus(doc["status"]), is_actor_known=actor is not None)
            extras = migrated_extras(doc, kept, alive_ms)
            taken_over.append((await live_runs.take_over(doc, extras, actor or _missing_actor(doc)), ending))
            _log.info("run_migrated", run_id=doc["id"])
    return taken_over


async def announce_migration(database: Database, live_runs: Runs, notice_s: float) -> None:
    """Announce the migration to Actors with a websocket, and give them time to save their state."""
    followed = live_runs.park()
    with anyio.move_on_after(notice_s, shield=True):
        for live in followed:
            await live.wait_ended()
    # Those that work on save their state once more, so that nothing of it is done twice.
    left = [live for live in followed if live.is_at_work]
    with anyio.move_on_after(_SAVE_WITHIN_S if left else 0, shield=True):
        async with anyio.create_task_group() as children:
            for live in left:
                children.start_soon(live.last_save.ask, live.events)
    crawlers = [live for live in left if live.last_save.has_handled]
    for live in crawlers:
        live.last_save.hold()
    with anyio.CancelScope(shield=True):
        await anyio.sleep(_MARK_WITHIN_S if crawlers else 0)
        await _note_time(database)


async def note_time(database: Database, live_runs: Runs) -> None:
    """Store the time every few seconds, as a lower bound of live Runs' run time; runs until cancelled."""
    while True:
        if live_runs.live_count:
            with contained("time_not_noted", is_known=is_of_a_full_disk):
                await _note_time(database)
        await anyio.sleep(_NOTE_TIME_EVERY_S)


async def _note_time(database: Database) -> None:
    await database.write(account_table.put, "alive_ms", str(now_ms()))


def _missing_actor(doc: JsonObject) -> Actor:
    async def never(_: object) -> None:
        raise AssertionError(doc["actId"])

    return Actor(username="unknown", name="unknown", title="unknown", runner=never)


def _ending_left_over(status: RunStatus, *, is_actor_known: bool) -> RunEnd | None:
    """Return how a Run of the previous process ends without starting again; None if it starts again."""
    if status is RunStatus.ABORTING:
        return ABORTED
    if status is RunStatus.TIMING_OUT:
        return TIMED_OUT
    if not is_actor_known:
        return RunEnd(status=RunStatus.FAILED, message="The Actor of this run is no longer known to the server")
    return None
