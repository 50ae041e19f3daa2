"""The platform behind the API: what every handler may use. Composed when the server opens."""

from dataclasses import dataclass

from batchrun.server.auth import Tokens
from batchrun.server.catalog import Catalog
from batchrun.server.database import Database
from batchrun.server.demo import DemoSite
from batchrun.server.lifecycle import Runs
from batchrun.server.rate_limits import RateLimits
from batchrun.server.room import Room
from batchrun.server.settings import ServerSettings
from batchrun.server.task_book import TaskBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One account, its Actors, tasks, Runs and storages."""

    settings: ServerSettings
    #: Without a slash at the end, without `/v2`.
    base_url: str
    user_id: str
    room: Room
    #: Wall milliseconds.
    created_ms: int
    database: Database
    catalog: Catalog
    tasks: TaskBook
    runs: Runs
    tokens: Tokens
    rate_limits: RateLimits
    demo: DemoSite
