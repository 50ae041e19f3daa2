"""What the limit of open files leaves for connections."""

import resource

import pytest

from batchrun.runtime.open_files import RESERVED, SPARE, connections_within_limit, polls_within_limit
from batchrun.server.app import _MAX_CONNECTIONS as OF_SERVER
from batchrun.server.http.forward_proxy import _MAX_CLIENTS as OF_PROXY
from batchrun.worker.http.http_app import MAX_CONNECTIONS as OF_WORKER


@pytest.mark.parametrize("limit", [256, 1024, 4096, 65_536])
def test_connections_of_all_servers_of_a_process_leave_it_files(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Each client of the proxy needs two: its own, and one to a site."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    wanted = [(OF_SERVER, 5), (OF_WORKER, 1), (OF_PROXY, 1), (OF_PROXY, 1)]
    assert 0 < sum(connections_within_limit(most, eighths=part) for most, part in wanted) <= limit - SPARE


@pytest.mark.parametrize("limit", [1024, 1500, 2048, 4096])
def test_an_embedded_server_admits_all_polls_of_its_process(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """And their two ends leave files for all else."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    polls = polls_within_limit(1000, is_embedded=True)
    assert polls <= connections_within_limit(OF_SERVER, eighths=5)
    assert 2 * polls + RESERVED <= limit
    assert polls <= polls_within_limit(1000, is_embedded=False) == min(1000, limit - RESERVED)
