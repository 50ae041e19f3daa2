"""The settings of a server, and the interface of inline Actors. Values only."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol

from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.faults.fault_file import Faults


class InlineContext(Protocol):
    """The Run of a coroutine Actor, as the Actor uses it: directly, without HTTP and without a process."""

    @property
    def run_id(self) -> str:
        """The Run's id."""

    @property
    def input(self) -> Any:
        """The merged and validated input: None without one, text or bytes if it is not JSON."""

    async def push_items(self, items: list[Any]) -> None:
        """Append items to the Run's dataset."""

    async def set_value(self, key: str, value: Any) -> None:
        """Store a value in the Run's key-value store: bytes as they are, str as text, anything else as JSON."""

    async def set_status_message(self, message: str, *, is_terminal: bool = False) -> None:
        """Show a status message on the Run."""

    async def log(self, text: str) -> None:
        """Append lines to the Run's log."""

    def fail(self, exit_code: int = 1, message: str | None = None) -> None:
        """End the Run as FAILED at once."""


#: A coroutine as an Actor. Returning means exit code 0, raising exit code 91 (the SDK's).
InlineActor = Callable[[InlineContext], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """An additional account and its limits."""

    username: str
    #: None: the server makes one and stores it in `data_dir` for later starts.
    token: str | None = field(default=None, repr=False)
    max_total_memory_mb: int = 8192
    max_concurrent_runs: int = 25
    max_tasks: int = 5000
    #: The account's general access. True: others read its Runs and storages only if these say so; False: by their ids.
    is_restricted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of a server. Those of an account are about the first one; `accounts` holds the others."""

    #: Holds the state. Created if missing, for this user only. Used by one server at a time.
    data_dir: Path
    #: Whether `data_dir` may be a symbolic link. False: it lies in a directory whose owner may put one there.
    follows_link: bool = True
    host: str = "127.0.0.1"
    #: 0: any free port.
    port: int = 0
    #: The account's API token. None: the server makes one and stores it in `data_dir` for later starts.
    token: str | None = field(default=None, repr=False)
    #: Directories of an Actor (with `.actor/actor.json`), or of several such directories.
    actors: tuple[Path, ...] = ()
    #: Seconds between two checks of these directories for changes.
    reload_every_s: float = 1
    #: Full name ("user/name") -> coroutine Actor.
    inline_actors: Mapping[str, InlineActor] = field(default_factory=dict)
    #: The account's name. It owns the Actors from directories.
    username: str = "local"
    max_total_memory_mb: int = 8192
    max_concurrent_runs: int = 25
    #: True: the documented rate limits are announced and enforced.
    is_rate_limited: bool = True
    #: Memory of a Run if start, task and Actor set none.
    default_memory_mb: int = 1024
    #: Time limit of a Run if start and task set none; 0 means unlimited.
    default_timeout_s: int = 3600
    max_tasks: int = 5000
    #: The account's general access. True: others read its Runs and storages only if these say so; False: by their ids.
    is_restricted: bool = False
    #: Additional accounts. An account's data is private, except where the API lets anyone read who knows an id.
    accounts: tuple[AccountSettings, ...] = ()
    #: Seconds that a gracefully aborted Run may go on. Source: the API reference.
    abort_grace_s: float = 30
    #: Max seconds for Actors with a websocket to save their state and stop when the server closes.
    migration_notice_s: float = 3
    #: Seconds from a Run's end until its usage is final; 0: the first figures are final.
    usage_settle_s: float = 5
    #: Seconds before a webhook is retried first; doubles with each retry. Source: webhook actions.
    webhook_retry_s: float = 60
    #: True: webhooks and the page-scraper may reach loopback and private addresses, besides this server.
    allow_private_addresses: bool = False
    #: Password of Apify Proxy, which Actors then use. None: they use a proxy of this server that goes out directly.
    proxy_password: str | None = field(default=None, repr=False)
    #: Faults that the server injects; None means no faults.
    faults: Faults | None = None
