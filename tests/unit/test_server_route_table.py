"""From method and path to a route."""

import pytest
from aiohttp import web

from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.routing.call import Call, empty_answer
from batchrun.server.routing.route_table import RouteTable


async def _handle(_: Call) -> web.Response:
    return empty_answer()


@pytest.fixture
def table() -> RouteTable:
    """A table with overlapping paths."""
    table = RouteTable()
    table.add("GET POST", "/v2/things", _handle)
    table.add("GET", "/v2/things/{thing}", _handle)
    table.add("GET", "/v2/things/{thing}/runs/last", _handle)
    return table


@pytest.mark.parametrize(
    ("method", "path", "template", "arguments"),
    [
        ("GET", "/v2/things", "/v2/things", {}),
        ("POST", "/v2/things/", "/v2/things", {}),
        ("HEAD", "/v2/things/a%2Fb%20c", "/v2/things/{thing}", {"thing": "a/b c"}),
        ("GET", "/v2/things/x/runs/last", "/v2/things/{thing}/runs/last", {"thing": "x"}),
    ],
)
def test_a_path_leads_to_its_route_and_parameters(
    table: RouteTable, method: str, path: str, template: str, arguments: dict[str, str]
) -> None:
    """Parameters are decoded after the path was cut, so that an encoded slash stays inside."""
    route, found = table.find(method, path)
    assert (route.path, found) == (template, arguments)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2", 404),
        ("GET", "/v2/things/x/runs", 404),
        ("GET", "/v2//x", 404),
        ("DELETE", "/v2/things", 405),
        ("POST", "/v2/things/x", 405),
    ],
)
def test_other_paths_and_methods_are_refused(table: RouteTable, method: str, path: str, status: int) -> None:
    """404 for no endpoint, 405 for another method."""
    with pytest.raises(ErrorAnswer) as caught:
        table.find(method, path)
    assert caught.value.status == status
