"""What the owner of a batch holds: a claim of its log, which it keeps alive and short."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio

from batchrun.errors import OutputError
from batchrun.ledger.shared_log.log_store import open_store
from batchrun.ledger.shared_log.owned_log import HEARTBEAT_PART, Membership, OwnedLog
from batchrun.ledger.shared_log.packs import Packer
from batchrun.ledger.shared_log.snapshots import SnapshotMaker
from batchrun.ledger.shared_log.standby import Standby, release, stand_by
from batchrun.runtime.children import open_children

#: Seconds between two looks for entries that can be packed, and at how much the ledger has grown.
SHORTEN_EVERY_S = 10.0


@asynccontextmanager
async def claimed_log(
    url: str,
    lease_s: float,
    directory: Path,
    *,
    may_wait: bool,
    on_standby: Callable[[Standby], None] | None = None,
    check: Callable[[], None] = lambda: None,
    membership: Membership | None = None,
) -> AsyncIterator[OwnedLog]:
    """Follow a batch's log until no owner is left, claim it, and keep the claim alive while the context lasts.

    Args:
        url: of the log's store.
        lease_s: of the claim.
        directory: of the batch; this process has locked it. It has all that the log has once it is claimed.
        may_wait: False refuses a batch that another process owns.
        on_standby: called when what it waits for changes.
        check: called in a worker thread once the directory has what the log has; an error ends the wait.
        membership: of this process; None: it carries out its batches alone.

    Raises:
        OutputError: The batch has an owner, and this process may not wait; or the directory cannot be written.
        LedgerError: The directory is not of this log's batch.
        LogUnreachable: The store does not answer at first.
        ConfigError: The URL names no store.
    """
    with ExitStack() as stack:
        store = await anyio.to_thread.run_sync(stack.enter_context, open_store(url))
        log = await stand_by(
            store,
            lease_s,
            directory,
            may_wait=may_wait,
            on_standby=on_standby,
            check=check,
            membership=membership,
        )
        try:
            async with open_children(cancels_on_leaving=True) as children:
                packer, snapshots = Packer(store), SnapshotMaker(store, directory)
                children.start_soon(_keep_alive, log, lease_s)
                children.start_soon(_keep_short, log, packer, snapshots)
                try:
                    yield log
                finally:
                    packer.stop()
                    snapshots.stop()
                    log.give_up_soon()  # a heartbeat under way must not hold up the end
        finally:
            await release(log)


async def _keep_alive(log: OwnedLog, lease_s: float) -> None:
    thread = anyio.CapacityLimiter(1)  # not a shared one: all of these may wait for a slow store
    while log.refused is None:
        await anyio.sleep(lease_s * HEARTBEAT_PART / 2)
        with suppress(OutputError):  # `log.refused` and `log.trouble` say it
            await anyio.to_thread.run_sync(log.beat, limiter=thread)


async def _keep_short(log: OwnedLog, packer: Packer, snapshots: SnapshotMaker) -> None:
    """Make the packs and snapshots that keep the next take-over short."""
    while log.refused is None:
        began_at, is_made = anyio.current_time(), False
        with suppress(OutputError):  # the log is whole without them
            is_made = await anyio.to_thread.run_sync(packer.make_next, log.last.entry + 1)
            is_made = is_made or await anyio.to_thread.run_sync(snapshots.make_next)
        # Half of the time at most goes into them, so that those of a long log do not hold up commits.
        await anyio.sleep(anyio.current_time() - began_at if is_made else SHORTEN_EVERY_S)
