"""Wait for a batch on a fleet's list, whichever worker carries it out, without calling one."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from batchrun.cli.live_progress import PLAIN_INTERVAL_S
from batchrun.cli.terminal import say
from batchrun.errors import LogUnreachable, OutputError
from batchrun.ledger.shared_log.log_store import open_part
from batchrun.words.number_words import counted
from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList
from batchrun.worker.fleet.sharded_batch import ShardedBatch
from batchrun.worker.fleet.shared_page import PAGE_LOG, PageDamaged, SharedPage
from batchrun.worker.submission import BatchCounts, Submission

#: Seconds between two looks at the store.
_LOOK_S = 1.0


def wait_on_list(url: str, batch: str) -> Submission:
    """Show a batch's progress until it rests; return it then.

    Raises:
        OutputError: it was deleted.
    """
    shown_at = float("-inf")
    for now in _looks(url, batch):
        is_over = not now.state.is_under_way
        if is_over or time.monotonic() - shown_at >= PLAIN_INTERVAL_S:
            shown_at = time.monotonic()
            say(f"{time.strftime('%H:%M:%S')}  {_words(now)}")
        if is_over:
            return now
    raise OutputError(f"batch {batch} was deleted")


def _looks(url: str, batch: str) -> Iterator[Submission]:
    """Yield a batch as it is, again and again, until it is deleted; wait while the store does not answer."""
    trouble = ""
    with ExitStack() as stack:
        batches = FleetList(stack.enter_context(open_part(url, LIST_LOG)))
        pages = SharedPage(stack.enter_context(open_part(url, PAGE_LOG)))
        while True:
            try:
                now = _look(batches, pages, batch)
            except (LogUnreachable, PageDamaged) as error:
                if not trouble:
                    say(f"{error}; waiting")
                trouble = str(error)
            else:
                trouble = ""
                if now is None:
                    return
                yield now
            time.sleep(_LOOK_S)


def _look(batches: FleetList, pages: SharedPage, batch: str) -> Submission | None:
    listed, page = batches.read(), pages.read()
    if (entry := listed.get(batch)) is None:
        return None
    counts = {each: carried.counts for member in page.members.values() for each, carried in member.batches.items()}
    parts = [listed[part] for part in entry.part_ids] or [entry]
    present = [_counted(part.submission, counts.get(part.submission.id)) for part in parts]
    return present[0] if parts == [entry] else ShardedBatch(entry, parts).together(present)


def _counted(submission: Submission, counts: BatchCounts | None) -> Submission:
    is_final = counts is None or not submission.state.is_under_way
    return submission if is_final else submission.model_copy(update={"counts": counts})


def _words(now: Submission) -> str:
    counts = now.counts
    whole = "" if counts.jobs is None else f" of {counts.jobs:,}"
    failed = f", {counts.failed:,} did not succeed" if counts.failed else ""
    reason = f": {now.reason}" if now.reason else ""
    live = counted(counts.live_runs, "live Run")
    return f"{now.name}: {now.state.replace('_', ' ')}{reason} · {counts.settled:,}{whole} jobs done{failed}, {live}"
