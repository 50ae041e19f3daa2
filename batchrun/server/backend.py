"""The platform behind the API: what every handler may use. Composed when the server opens."""

from dataclasses import dataclass

from batchrun.server.accounts.accounts import Accounts
from batchrun.server.accounts.callers import CallerTokens
from batchrun.server.accounts.rate_limits import RateLimits
from batchrun.server.catalog.actor_builds import ActorBuilds
from batchrun.server.catalog.actor_catalog import Catalog
from batchrun.server.catalog.task_book import TaskBook
from batchrun.server.content.demo_pages import DemoSite
from batchrun.server.runs.final_usage import FinalUsage
from batchrun.server.runs.lifecycle import Runs
from batchrun.server.settings import ServerSettings
from batchrun.server.store.database import Database
from batchrun.server.store.read_counts import ReadCounts
from batchrun.server.webhooks.webhook_book import WebhookBook
from batchrun.server.webhooks.webhook_delivery import WebhookDelivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The accounts, and their Actors, tasks, Runs and storages."""

    settings: ServerSettings
    #: Without a slash at the end, without `/v2`.
    base_url: str
    accounts: Accounts
    #: Of the data directory, in wall milliseconds.
    created_ms: int
    database: Database
    catalog: Catalog
    builds: ActorBuilds
    tasks: TaskBook
    runs: Runs
    tokens: CallerTokens
    rate_limits: RateLimits
    final_usage: FinalUsage
    webhooks: WebhookBook
    demo: DemoSite

    @property
    def reads(self) -> ReadCounts:
        """Counts reads of storages."""
        return self.final_usage.reads

    @property
    def webhook_delivery(self) -> WebhookDelivery:
        """Delivers what webhooks are set off by."""
        return self.runs.delivery
