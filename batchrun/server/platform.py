"""The platform behind the API: what every handler may use. Composed when the server opens."""

from dataclasses import dataclass

from batchrun.server.accounts import Accounts
from batchrun.server.actor_builds import ActorBuilds
from batchrun.server.auth import Tokens
from batchrun.server.catalog import Catalog
from batchrun.server.database import Database
from batchrun.server.demo import DemoSite
from batchrun.server.lifecycle import Runs
from batchrun.server.rate_limits import RateLimits
from batchrun.server.read_counts import ReadCounts
from batchrun.server.settings import ServerSettings
from batchrun.server.settling import Settling
from batchrun.server.task_book import TaskBook
from batchrun.server.webhook_book import WebhookBook
from batchrun.server.webhook_delivery import WebhookDelivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
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
    tokens: Tokens
    rate_limits: RateLimits
    settling: Settling
    webhooks: WebhookBook
    demo: DemoSite

    @property
    def reads(self) -> ReadCounts:
        """Counts reads of storages."""
        return self.settling.reads

    @property
    def webhook_delivery(self) -> WebhookDelivery:
        """Delivers what webhooks are set off by."""
        return self.runs.delivery
