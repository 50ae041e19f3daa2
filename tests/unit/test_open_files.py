"""What the limit of open files leaves for connections."""

import resource

import pytest

from batchrun.runtime.open_files import SPARE, connections_within_limit
from batchrun.server.app import _MAX_CONNECTIONS as OF_SERVER
from batchrun.server.http.forward_proxy import _MAX_CLIENTS as OF_PROXY
from batchrun.worker.http.http_app import MAX_CONNECTIONS as OF_WORKER


@pytest.mark.parametrize("limit", [256, 1024, 4096, 65_536])
def test_connections_of_all_servers_of_a_process_leave_it_files(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Each client of the proxy needs two: its own, and one to a site."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    wanted = [(OF_SERVER, 5), (OF_WORKER, 1), (OF_PROXY, 1), (OF_PROXY, 1)]
    assert 0 < sum(connections_within_limit(most, eighths=part) for most, part in wanted) <= limit - SPARE
