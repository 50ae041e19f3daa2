"""Notes an outage in the ledger, where `batchrun status` finds it."""

import os
from datetime import UTC, datetime

import anyio

from batchrun.apify.client import ApifyClient
from batchrun.ledger.protocol import Ledger, NotedOutage

#: Between two looks.
INTERVAL_S = 1.0


async def note_outages(client: ApifyClient, ledger: Ledger) -> None:
    """Note begin, reason and end of each outage until cancelled."""
    noted: NotedOutage | None = None
    while True:
        reason = client.outage
        if reason and noted is None:
            noted = NotedOutage(pid=os.getpid(), reason=reason, began_at=datetime.now(UTC))
            ledger.note_outage(noted)
        elif not reason and noted is not None:
            noted = None
            ledger.note_outage(None)
        await anyio.sleep(INTERVAL_S)
