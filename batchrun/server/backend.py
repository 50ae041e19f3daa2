"""The parts of the server that handlers use. Composed when the server opens."""

from batchrun.runtime.byte_budget import ByteBudget
from batchrun.runtime.fair_turns import FairTurns
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.free_space import FreeSpace
from batchrun.server.accounts.accounts import Accounts
from batchrun.server.accounts.callers import CallerTokens
from batchrun.server.accounts.rate_limits import RateLimits
from batchrun.server.catalog.actor_catalog import Catalog
from batchrun.server.catalog.changed_actors import ChangedActors
from batchrun.server.catalog.task_book import TaskBook
from batchrun.server.content.demo_pages import DemoSite
from batchrun.server.runs.final_usage import FinalUsage
from batchrun.server.runs.lifecycle import Runs
from batchrun.server.settings import ServerSettings
from batchrun.server.store.database import Database
from batchrun.server.webhooks.webhook_book import WebhookBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    settings: ServerSettings
    #: Without `/v2` and without a slash at the end.
    base_url: str
    accounts: Accounts
    #: Creation time of the data directory, in wall milliseconds.
    created_ms: int
    database: Database
    catalog: Catalog
    builds: ChangedActors
    tasks: TaskBook
    runs: Runs
    tokens: CallerTokens
    rate_limits: RateLimits
    final_usage: FinalUsage
    webhooks: WebhookBook
    demo: DemoSite
    space: FreeSpace
    #: Memory for large bodies that are parsed, and for their values.
    bodies: ByteBudget
    #: Of the threads that show pages of items, or parse odd ones: they share the interpreter with the event loop.
    showing: FairTurns
    #: Of the threads that decompress bodies: each takes up to 16 MB.
    unpacking: FairTurns
    #: Of requests that read much at once.
    reading_much: FairTurns
    #: Of searches for the last of many Runs.
    searching: FairTurns
