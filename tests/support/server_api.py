"""An opened server and a plain HTTP client for it, without any code of `batchrun.apify`."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import orjson

from batchrun.server import InlineContext, Server, ServerSettings, open_server

ACTORS = Path(__file__).parent / "actors"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers, and the body, parsed if it is JSON."""

    status: int
    headers: Any
    body: Any

    @property
    def data(self) -> Any:
        """What stands in the API's envelope."""
        return self.body["data"]

    @property
    def error_type(self) -> Any:
        """The API's `error.type`."""
        return self.body["error"]["type"]

    @property
    def refusal(self) -> tuple[int, Any]:
        """Status and `error.type`."""
        return self.status, self.error_type


class Api:
    """Sends requests as the account, unless told otherwise."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server, self._session = server, session

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """Send one request; `token=None` sends none, `raw` sends bytes as they are."""
        fields = dict(headers or {})
        if token is not None:
            fields["Authorization"] = f"Bearer {token or self.server.token}"
        if body is not None:
            raw = orjson.dumps(body)
            fields["Content-Type"] = "application/json"
        params = {name: str(value) for name, value in query.items()}
        async with self._session.request(
            method,
            path,
            data=io.BytesIO(raw) if raw is not None else None,
            headers=fields,
            params=params,
            allow_redirects=False,
        ) as response:
            content = await response.read()
            is_json = response.content_type == "application/json" and content
            return Answer(response.status, response.headers, orjson.loads(content) if is_json else content)

    async def get(self, path: str, **query: Any) -> Answer:
        """GET."""
        return await self.send("GET", path, **query)

    async def create_task(self, actor: str = "test/echo", **properties: Any) -> str:
        """Create a task; return its id."""
        answer = await self.send("POST", "/v2/actor-tasks", {"actId": actor, **properties})
        assert answer.status == 201, answer.body
        return str(answer.data["id"])

    async def start(self, task: str, override: Any = None, **query: Any) -> Answer:
        """Start a Run of a task."""
        return await self.send("POST", f"/v2/actor-tasks/{task}/runs", override, **query)

    async def run_actor(self, actor: str, given: Any = None, **query: Any) -> Any:
        """Start a Run of an Actor; return it."""
        answer = await self.send("POST", f"/v2/actors/{actor}/runs", given, **query)
        assert answer.status == 201, answer.body
        return answer.data

    async def items(self, run: Any, count: int = 0) -> Any:
        """Return what a Run has pushed, once it has pushed `count` items."""
        path = f"/v2/datasets/{run['defaultDatasetId']}/items"
        items = (await self.get(path)).body
        with anyio.fail_after(60):
            pause_s = 0.02
            while len(items) < count:
                await anyio.sleep(pause_s)
                pause_s = min(0.2, pause_s * 1.3)  # a process takes seconds until it pushes, a coroutine none
                items = (await self.get(path)).body
        return items

    async def finish(self, run_id: str) -> Any:
        """Wait for a Run's end; return it."""
        while True:
            run = (await self.get(f"/v2/actor-runs/{run_id}", waitForFinish=60)).data
            if run["finishedAt"] is not None:
                return run


async def echo(context: InlineContext) -> None:
    """Push the input as an item, store it as OUTPUT, and do what it says."""
    given = context.input or {}
    await context.push_items([given])
    await context.set_value("OUTPUT", given)
    if "fail" in given:
        context.fail(given["fail"], given.get("message"))
    if "raise" in given:
        raise RuntimeError(given["raise"])


@asynccontextmanager
async def open_api(data_dir: Path, **settings: Any) -> AsyncIterator[Api]:
    """Open a server on a free port and a client for it; the receivers and sites of tests are on this machine."""
    inline = {"test/echo": echo, **settings.pop("inline_actors", {})}
    settings = {"allow_private_addresses": True, **settings}
    async with (
        open_server(ServerSettings(data_dir=data_dir, inline_actors=inline, **settings)) as server,
        aiohttp.ClientSession(server.base_url) as session,
    ):
        yield Api(server, session)
