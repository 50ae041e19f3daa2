"""What a server is opened with, and what an inline Actor is given. Values only."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from batchrun.server.faults.fault_config import Faults


class InlineContext(Protocol):
    """What a coroutine Actor may do with its Run; no HTTP and no process stand in between."""

    @property
    def run_id(self) -> str:
        """The Run's id."""
        ...

    @property
    def input(self) -> Any:
        """The merged and validated input; None if the Run was started without one, text or bytes if it is not JSON."""
        ...

    async def push_items(self, items: list[Any]) -> None:
        """Append items to the Run's dataset."""
        ...

    async def set_value(self, key: str, value: Any) -> None:
        """Store a value (bytes as they are, str as text, anything else as JSON) in the Run's key-value store."""
        ...

    async def set_status_message(self, message: str, *, is_terminal: bool = False) -> None:
        """Show a status message on the Run."""
        ...

    async def log(self, text: str) -> None:
        """Append lines to the Run's log."""
        ...

    def fail(self, exit_code: int = 1, message: str | None = None) -> None:
        """End the Run as FAILED, at once."""
        ...


#: A coroutine that plays an Actor. Returning is exit code 0, raising is exit code 91 (as the SDK's).
InlineActor = Callable[[InlineContext], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One more account, and what it may do."""

    username: str
    #: None makes one and keeps it in `data_dir`, so that a restart keeps it.
    token: str | None = field(default=None, repr=False)
    max_total_memory_mb: int = 8192
    max_concurrent_runs: int = 25
    max_tasks: int = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server stands and what its accounts may do; all but `accounts` is about the first one."""

    #: Holds the state; created (for this user only) when missing. One server at a time.
    data_dir: Path
    host: str = "127.0.0.1"
    #: 0 takes a free port.
    port: int = 0
    #: The account's API token; None makes one and keeps it in `data_dir`, so that a restart keeps it.
    token: str | None = field(default=None, repr=False)
    #: Directories which are an Actor (hold `.actor/actor.json`) or hold such directories.
    actors: tuple[Path, ...] = ()
    #: How often these directories are looked at for changes.
    reload_every_s: float = 1
    #: Full name ("user/name") -> coroutine Actor.
    inline_actors: Mapping[str, InlineActor] = field(default_factory=dict)
    #: The account's name; Actors from directories belong to it.
    username: str = "local"
    max_total_memory_mb: int = 8192
    max_concurrent_runs: int = 25
    #: Whether the documented rate limits are announced and enforced.
    is_rate_limited: bool = True
    #: The memory of a Run for which neither start, task nor Actor says anything.
    default_memory_mb: int = 1024
    #: The time limit of such a Run; 0 means none.
    default_timeout_s: int = 3600
    max_tasks: int = 5000
    #: More accounts. What an account has is private, but for what the API opens to everybody who knows an id.
    accounts: tuple[AccountSettings, ...] = ()
    #: How long a Run that is aborted gracefully may go on. Source: the API reference.
    abort_grace_s: float = 30
    #: How long Actors that listen are given to save their state when the server closes.
    migration_notice_s: float = 1
    #: How long after its end the usage of a Run becomes final; 0 makes the first figures final.
    usage_settle_s: float = 5
    #: The break before a webhook is called again; each further one is twice as long. Source: webhook actions.
    webhook_retry_s: float = 60
    #: What the server does wrong, on purpose; None means nothing.
    faults: Faults | None = None
