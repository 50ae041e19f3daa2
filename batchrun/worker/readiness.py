"""Why a worker cannot take or run batches now: for its health, its status, its page and systemd."""

from collections.abc import Iterable

from batchrun.account.account import Account
from batchrun.worker.disk_probe import DiskProbe
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.submission import BatchState, Submission


def disk_words(disk: DiskProbe, account: Account | None) -> str:
    """Say what is wrong with a worker's disk; empty: nothing."""
    if disk.trouble:
        return f"its directory cannot be written: {disk.trouble}"
    held_for = account.shared.capacity.held_for if account is not None else ""
    return f"starts nothing until the disk has room: {held_for}" if held_for else ""


def platform_words(outage: str, account: Account | None) -> str:
    """Say why a worker waits for the platform; empty: it does not."""
    if outage:
        return f"waits for the platform: {outage}"
    return "the platform has not answered yet" if account is None else ""


def fleet_words(fleet: Fleet | None) -> str:
    """Say what a worker waits for in its fleet; empty: nothing, or it works alone."""
    if fleet is not None and fleet.trouble:
        return f"waits for the fleet's store: {fleet.trouble}"
    if fleet is not None and not fleet.was_read.is_set():
        return "reads the fleet's list of batches"
    return ""


def stopped_words(own_batches: Iterable[Submission]) -> str:
    """Say that all batches of a worker are stopped, and why the last one is; empty: one is under way, or none is."""
    stopped = None
    for each in own_batches:
        if each.state.is_under_way:
            return ""
        if not each.state.is_over and each.state is not BatchState.PAUSED:
            stopped = each
    return f"all batches are stopped; {stopped.name}: {stopped.reason}" if stopped is not None else ""
