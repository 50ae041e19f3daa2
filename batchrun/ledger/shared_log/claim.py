"""How a process becomes the owner of a batch: it follows the log, waits for silence, and appends a claim."""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from batchrun.errors import LogUnreachable, OutputError
from batchrun.ledger.shared_log.entries import Entry, EntryKind, Owner
from batchrun.ledger.shared_log.log_store import LogStore, open_store
from batchrun.ledger.shared_log.owned_log import HEARTBEAT_PART, OwnedLog
from batchrun.ledger.shared_log.replica import Replica, open_replica
from batchrun.runtime.children import open_children
from batchrun.runtime.steady_time import boot_time

#: A claim waits until the log has been silent for this many leases. The owner starts nothing after one.
SILENT_LEASES = 1.5
#: A standby reads the log this often, as a part of the lease.
_LOOK_PART = 0.1
#: Longest time between two looks, in seconds.
_LONGEST_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """What a standby waits for."""

    #: Name of the owner; empty: the log cannot be reached.
    owner: str
    #: Seconds of silence after which the standby takes over.
    takes_over_after_s: float
    #: Why the log cannot be reached; empty: it can.
    trouble: str = ""


@asynccontextmanager
async def claimed_log(
    url: str,
    lease_s: float,
    directory: Path,
    *,
    may_wait: bool,
    on_standby: Callable[[Standby], None] | None = None,
) -> AsyncIterator[OwnedLog]:
    """Follow a batch's log until no owner is left, claim it, and keep the claim alive while the context lasts.

    Args:
        url: of the log's store.
        lease_s: of the claim.
        directory: of the batch; this process has locked it. It has all that the log has once it is claimed.
        may_wait: False refuses a batch that another process owns.
        on_standby: called when this process begins to wait for something else than before.

    Raises:
        OutputError: The batch has an owner, and this process may not wait; or the directory cannot be written.
        LedgerError: The directory is not of this log's batch.
        LogUnreachable: The store does not answer from the start.
        ConfigError: The URL names no store.
    """
    with ExitStack() as stack:
        store = await anyio.to_thread.run_sync(stack.enter_context, open_store(url))
        log = await _claim(store, lease_s, directory, may_wait=may_wait, on_standby=on_standby)
        try:
            async with open_children(cancels_on_leaving=True) as children:
                children.start_soon(_keep_alive, log, lease_s)
                yield log
        finally:
            with anyio.CancelScope(shield=True), suppress(OutputError):  # without it, the next claim waits
                await anyio.to_thread.run_sync(log.release)


async def _keep_alive(log: OwnedLog, lease_s: float) -> None:
    while log.refused is None:
        await anyio.sleep(lease_s * HEARTBEAT_PART / 2)
        with suppress(OutputError):  # `log.refused` and `log.trouble` say it
            await anyio.to_thread.run_sync(log.beat)


async def _claim(
    store: LogStore, lease_s: float, directory: Path, *, may_wait: bool, on_standby: Callable[[Standby], None] | None
) -> OwnedLog:
    with ExitStack() as stack:
        replica = await anyio.to_thread.run_sync(stack.enter_context, open_replica(store, directory))
        host = socket.gethostname()
        heard_at = None
        told: Standby | None = None
        while True:
            trouble = ""
            try:
                if await anyio.to_thread.run_sync(replica.catch_up) or heard_at is None:
                    heard_at = boot_time()
                last = replica.last
                silent_s = boot_time() - heard_at
                if last is None or _is_free(replica, last, host, silent_s, lease_s):
                    owner = Owner(id=secrets.token_hex(16), name=f"{host} (process {os.getpid()})", lease_s=lease_s)
                    log = await anyio.to_thread.run_sync(replica.claim, owner, host)
                    if log is not None:
                        return log
                    continue
            except LogUnreachable as error:
                if heard_at is None:
                    raise
                # While it is out of reach, an owner cannot be heard.
                heard_at, trouble = boot_time(), str(error)
            if replica.last is not None:
                wait = _standby(replica.last, lease_s, trouble)
                if not may_wait:
                    raise OutputError(
                        f"{directory}: {wait.owner} carries the batch out. It can be taken over"
                        f" {wait.takes_over_after_s:g} s after its last sign of life"
                    )
                if wait != told and on_standby is not None:
                    on_standby(wait)
                told = wait
            await anyio.sleep(min(lease_s * _LOOK_PART, _LONGEST_LOOK_S))


def _is_free(replica: Replica, last: Entry, host: str, silent_s: float, lease_s: float) -> bool:
    """True if the process that has appended the last entry starts nothing more."""
    return (
        last.kind is EntryKind.RELEASE
        or replica.is_own(last.owner, host)
        or silent_s >= SILENT_LEASES * max(lease_s, last.owner.lease_s)
    )


def _standby(last: Entry, lease_s: float, trouble: str) -> Standby:
    return Standby(
        owner=last.owner.name,
        takes_over_after_s=SILENT_LEASES * max(lease_s, last.owner.lease_s),
        trouble=trouble,
    )
