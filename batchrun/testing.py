"""A pytest fixture for people who test their own code against the embedded server.

    from batchrun.testing import local_platform  # in conftest.py

    def test_my_pipeline(local_platform):
        platform = local_platform(actors=["my-actors"])
        client = ApifyClient(platform.token, api_url=platform.base_url)

Needs pytest, which batchrun itself does not.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from batchrun.server import Server, ServerSettings, open_server

__all__ = ["local_platform"]


@pytest.fixture
def local_platform(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that opens an embedded server, which serves in a thread until the test ends.

    Its arguments are those of `ServerSettings`; each server has a new data directory, unless one is given. What it
    returns has the server's `base_url`, without /v2, and its API `token`.
    """
    with start_blocking_portal() as portal, ExitStack() as open_servers:
        opened = 0

        def open_one(**settings: Any) -> Server:
            nonlocal opened
            opened += 1
            actors = tuple(Path(folder) for folder in settings.pop("actors", ()))
            given = {"data_dir": tmp_path / f"platform-{opened}", **settings}
            context = portal.wrap_async_context_manager(open_server(ServerSettings(actors=actors, **given)))
            return open_servers.enter_context(context)

        yield open_one
