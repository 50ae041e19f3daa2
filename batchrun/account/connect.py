"""A client of the platform: the Apify API, or the embedded server in this process."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import structlog
from pydantic import SecretStr

from batchrun import server as embedded_server
from batchrun.apify.client import ApifyClient, open_client
from batchrun.apify.wire import AccountInfo
from batchrun.config import ApiConfig, ServerConfig, read_token
from batchrun.errors import (
    ApiError,
    BatchRefused,
    ConnectFailed,
    NoUsableAnswer,
    Unauthorized,
)
from batchrun.runtime.children import open_children
from batchrun.runtime.fast_dataclasses import dataclass

if TYPE_CHECKING:
    from batchrun.server import InlineActor

#: Seconds that the opening of a batch waits for the platform. An open batch waits without limit.
PATIENCE_S = 30.0

#: Seconds after which a wait for the platform is noted.
WAITS_NOTED_AFTER_S = (3.0, 10.0, 20.0)
#: The same for its first answer: the imports took most of the second for which a person looks at an empty screen.
FIRST_WAIT_NOTED_AFTER_S = 0.1

_log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A wait for the platform's first answer."""

    #: Its address; None: it is the embedded server of this process.
    base_url: str | None
    waited_s: float
    #: Why the last try got no answer that can be used; empty if it is still under way.
    reason: str


#: Called while a command waits for the platform's first answer; None: nothing is noted.
on_wait: ContextVar[Callable[[Wait], None] | None] = ContextVar("on_wait", default=None)


@asynccontextmanager
async def open_platform(
    api: ApiConfig,
    *,
    environ: Mapping[str, str],
    request_rate_per_s: float,
    server: ServerConfig,
    server_dir: Path,
    inline_actors: "Mapping[str, InlineActor]",
) -> AsyncIterator[tuple[ApifyClient, str | None]]:
    """Open a client of the configured platform, with the link of its page if the platform is the embedded server.

    The embedded server runs until the context ends, and the link's token ends with it.

    Raises:
        ConfigError: the token's file, an Actor's directory or the file of faults cannot be used; the server's directory
            is something else's.
    """
    if not api.is_embedded:
        read_this_token = partial(read_token, api, environ)
        token = await anyio.to_thread.run_sync(read_this_token)
        async with open_client(
            api.base_url,
            token,
            request_rate_per_s=request_rate_per_s,
            read_token_again=read_this_token,
            allow_plain_http=api.allow_plain_http,
        ) as client:
            yield client, None
        return
    await anyio.to_thread.run_sync(embedded_server.refuse_anothers_directory, server_dir, "--out")
    settings = embedded_server.ServerSettings(
        data_dir=server_dir,
        # None is kept: copies of an output directory are given away.
        token=secrets.token_urlsafe(24),
        follows_link=False,
        actors=tuple(server.actors),
        inline_actors=inline_actors,
        max_concurrent_runs=server.max_concurrent_runs,
        max_total_memory_mb=server.max_total_memory_mb,
        usage_settle_s=0,
        allow_private_addresses=server.allow_private_addresses,
        proxy_password=environ.get("APIFY_PROXY_PASSWORD") or None,
        faults=(
            await anyio.to_thread.run_sync(embedded_server.load_faults, server.faults)
            if server.faults is not None
            else None
        ),
    )
    async with (
        embedded_server.open_server(settings) as embedded,
        open_client(
            embedded.base_url, SecretStr(embedded.token), request_rate_per_s=request_rate_per_s, is_embedded=True
        ) as client,
    ):
        yield client, embedded.page_link


async def read_account(client: ApifyClient) -> AccountInfo:
    """Read the account that the token belongs to, as far as it may.

    Raises:
        BatchRefused: the token is missing or wrong.
        ConnectFailed: the platform does not answer.
    """
    try:
        return await patiently(client, client.get_account())
    except Unauthorized as error:
        raise BatchRefused(
            f"the platform does not accept the token ({error.message}); set APIFY_TOKEN to the API token from"
            " the account's settings, under API & Integrations",
            error,
        ) from error
    except ApiError as error:
        raise BatchRefused(f"the account cannot be read: {error}", error) from error


async def _note_waits(client: ApifyClient) -> None:
    """Log a wait, and call `on_wait`, again and again."""
    note = on_wait.get()
    began_at = anyio.current_time()
    # The embedded server is in this process: nothing is connected to, and an early note would only startle.
    first = () if client.has_answered or client.is_embedded else (FIRST_WAIT_NOTED_AFTER_S,)
    for after_s in (*first, *WAITS_NOTED_AFTER_S):
        await anyio.sleep_until(began_at + after_s)  # it may be past: a process can stand still
        _log.info("platform_awaited", base_url=client.base_url, waited_s=after_s, reason=client.last_failure)
        if note is not None:
            base_url = None if client.is_embedded else client.base_url
            note(Wait(base_url=base_url, waited_s=after_s, reason=client.last_failure))


async def patiently(client: ApifyClient, answer: Awaitable[T]) -> T:
    """Wait at most PATIENCE_S for an answer that the client retries without limit.

    Raises:
        ConnectFailed: no answer came in time that can be used.
    """
    try:
        async with open_children(cancels_on_leaving=True) as children:
            children.start_soon(_note_waits, client)
            return await client.within(PATIENCE_S, answer)
    except NoUsableAnswer as error:
        advice = "; nothing was started. Check the network and api.base_url, and run the same command again"
        raise ConnectFailed(f"{client.base_url} {error}", advice=advice) from None
