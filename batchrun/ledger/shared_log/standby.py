"""How a process becomes the owner of a batch: it follows the log, waits for silence, and appends a claim.

How long the silence lasts is a matter of `replica.lease_s`, which the configuration gives.
"""

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio

from batchrun.errors import LogUnreachable, OutputError
from batchrun.ledger.shared_log.entries import EntryKind, Owner
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.ledger.shared_log.owned_log import Membership, OwnedLog
from batchrun.ledger.shared_log.replica import Replica, open_replica
from batchrun.runtime.children import open_children
from batchrun.runtime.fast_dataclasses import dataclass
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

    #: Name of the owner; empty: it is unknown.
    owner: str
    #: Seconds of silence after which the standby takes over.
    takes_over_after_s: float
    #: Why the log cannot be reached; empty: it can.
    trouble: str = ""


async def stand_by(
    store: LogStore,
    lease_s: float,
    directory: Path,
    *,
    may_wait: bool,
    on_standby: Callable[[Standby], None] | None,
    check: Callable[[], None],
    membership: Membership | None,
) -> OwnedLog:
    """Follow a batch's log until no owner is left, and claim it. Arguments and errors are those of `claimed_log`."""
    log: OwnedLog | None = None
    told: Standby | None = None
    try:
        async with AsyncExitStack() as stack:
            opened = open_replica(store, directory, is_of_fleet=membership is not None)
            replica = await anyio.to_thread.run_sync(stack.enter_context, opened)
            children = await stack.enter_async_context(open_children(cancels_on_leaving=True))
            children.start_soon(_stop_when_cancelled, replica)
            claimant = Claimant(replica, lease_s, membership)
            await anyio.to_thread.run_sync(replica.catch_up)
            await anyio.to_thread.run_sync(check)
            while True:
                found = await anyio.to_thread.run_sync(claimant.look)
                if isinstance(found, OwnedLog):
                    log = found
                    break
                if not may_wait:
                    raise OutputError(_refusal(directory, found))
                if found != told and on_standby is not None:
                    on_standby(found)
                told = found
                await anyio.sleep(min(lease_s * _LOOK_PART, _LONGEST_LOOK_S))
    except BaseException:
        if log is not None:  # cancelled just as it was claimed
            await release(log)
        raise
    return log


async def release(log: OwnedLog) -> None:
    """Let the next claim begin at once, if the log can be reached."""
    with anyio.CancelScope(shield=True), suppress(OutputError):
        await anyio.to_thread.run_sync(log.release)


async def _stop_when_cancelled(replica: Replica) -> None:
    """Let the thread that follows the log end: it may have hours of work before it, and nothing else can end it."""
    try:
        await anyio.sleep_forever()
    finally:
        replica.stop()


class Claimant:
    """A process that wants to own a log, and looks at it again and again.

    It claims the log once that was seen to be silent for 1.5 leases. A look that fails does not begin this wait again.
    But the time from the look before it to the next that succeeds does not count: the owner may have been unable to
    append as well, and is to be heard first once the store is back.
    """

    def __init__(self, replica: Replica, lease_s: float, membership: Membership | None = None) -> None:
        self._replica = replica
        self._lease_s = lease_s
        self._membership = membership
        self._id_begins = f"{membership.id}." if membership is not None else ""
        self._host = socket.gethostname()
        #: For how many seconds the log was seen to be silent; None: it was not looked at yet.
        self._silent_s: float | None = None
        #: When it was looked at last; None: that look has failed.
        self._looked_at: float | None = None

    def look(self) -> OwnedLog | Standby:
        """Replay what is new, and claim the log if it has no owner any more.

        Raises:
            LogUnreachable: At the first look, the store does not answer, or may not be written.
        """
        is_first, last = self._silent_s is None, self._replica.last
        try:
            return self._look()
        except LogUnreachable as error:
            if is_first:
                raise
            if self._replica.last is not last:  # it was heard of before the store failed
                self._silent_s = 0.0
            self._looked_at = None
            return self._standby(str(error))

    def _look(self) -> OwnedLog | Standby:
        name = f"{self._host} (process {os.getpid()})"
        while True:
            self._hear(new=self._replica.catch_up())
            if not self._is_free():
                return self._standby("")
            owner = Owner(id=self._id_begins + secrets.token_hex(16), name=name, lease_s=self._lease_s)
            try:
                if (log := self._replica.claim(owner, self._host, self._membership)) is not None:
                    return log
            except LogUnreachable:
                # The answer can be lost where two processes claim at once: then one of them has an entry there.
                if not self._replica.catch_up():
                    raise
            else:
                if not self._replica.catch_up():  # the entry that is in the way does not show yet
                    return self._standby("another process is claiming it")
            self._silent_s = 0.0

    def _hear(self, *, new: int) -> None:
        """Note how many entries a look at the log has found that are new."""
        now = boot_time()
        if new or self._silent_s is None:
            self._silent_s = 0.0
        elif self._looked_at is not None:
            self._silent_s += now - self._looked_at
        self._looked_at = now

    def _is_free(self) -> bool:
        """True if the process that has appended the last entry starts nothing more."""
        last = self._replica.last
        return (
            last is None
            or last.kind is EntryKind.RELEASE
            or self._replica.is_own(last.owner, self._host)
            or (self._membership is not None and self._membership.has_left(last.owner.id.partition(".")[0]))
            or (self._silent_s or 0.0) >= self._takes_over_after_s
        )

    @property
    def _takes_over_after_s(self) -> float:
        last = self._replica.last
        return SILENT_LEASES * max(self._lease_s, last.owner.lease_s if last is not None else 0.0)

    def _standby(self, trouble: str) -> Standby:
        last = self._replica.last
        owner = last.owner.name if last is not None else ""
        return Standby(owner=owner, takes_over_after_s=self._takes_over_after_s, trouble=trouble)


def _refusal(directory: Path, standby: Standby) -> str:
    if standby.trouble:
        return f"{directory}: the shared log cannot be reached: {standby.trouble}"
    return (
        f"{directory}: {standby.owner} carries the batch out. It can be taken over {standby.takes_over_after_s:g} s"
        " after its last sign of life"
    )
