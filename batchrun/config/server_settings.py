"""`[server]`: the embedded server."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from batchrun.config.section import PositiveInt, Section


class ServerConfig(Section):
    """The embedded server, if `api.base_url` is "embedded"."""

    actors: list[Path] = []
    """Directories of Actors besides the bundled ones."""
    max_concurrent_runs: PositiveInt = 25
    """The account's limit of concurrent Runs."""
    max_total_memory_mb: Annotated[int, Field(ge=128)] = 8192
    """The account's limit of memory in all Runs together."""
    allow_private_addresses: bool = False
    """Webhooks and the page-scraper may reach loopback and private addresses, besides the server itself."""
    faults: Path | None = None
    """TOML file of faults that the server simulates, as with `batchrun serve --faults`."""
