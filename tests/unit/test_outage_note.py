"""An outage stands in the ledger while it lasts, for `batchrun status`."""

import os
from typing import cast

import anyio

from batchrun.apify.client import ApifyClient
from batchrun.batch.outage_note import note_outages
from batchrun.ledger.facts import OUTAGE
from tests.support.memory_ledger import WatchedLedger


class _Client:
    outage = ""


async def test_an_outage_is_noted_once_and_its_end_once() -> None:
    """With the process that sees it, so that a later one is not taken for it."""
    client, ledger = _Client(), WatchedLedger()
    async with anyio.create_task_group() as children:
        children.start_soon(note_outages, cast("ApifyClient", client), ledger)
        await anyio.sleep(5)
        assert ledger.fact(OUTAGE) is None
        client.outage = "a page"
        await anyio.sleep(5)
        noted = ledger.fact(OUTAGE)
        assert noted is not None
        assert (noted.pid, noted.reason) == (os.getpid(), "a page")
        client.outage = ""
        await anyio.sleep(5)
        assert ledger.fact(OUTAGE) is None
        children.cancel_scope.cancel()
    assert [note for note in ledger.notes if note.startswith("outage")] == ["outage a page", "outage over"]
