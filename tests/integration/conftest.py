"""The server that most of the server's tests ask."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchrun.server.store import item_table
from tests.support.patience import IMPATIENCE
from tests.support.server_api import Api, open_api


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run on uvloop, as every command does."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches and workers in this process wait no longer than forked ones do."""
    for name, value in IMPATIENCE.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A server in `tmp_path`/server, with the settings that the module's SERVER holds."""
    async with open_api(tmp_path / "server", **getattr(request.module, "SERVER", {})) as api:
        yield api


@pytest.fixture
def page_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of items in each page that is read from a dataset from now on."""
    sizes = []
    page = item_table.page

    def noted(*args: Any) -> list[bytes]:
        found = page(*args)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(item_table, "page", noted)
    return sizes
