"""From method and path to a handler."""

import pytest

from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.routing.router import Router


@pytest.fixture
def router() -> Router[str]:
    """A router with overlapping paths."""
    router: Router[str] = Router()
    router.add("GET", "/v2/things", "list")
    router.add("POST", "/v2/things", "create")
    router.add("GET", "/v2/things/{thing}", "get")
    router.add("GET", "/v2/things/{thing}/runs/last", "last")
    return router


def test_a_path_leads_to_its_handler_and_parameters(router: Router[str]) -> None:
    """Parameters are decoded after the path was cut, so that an encoded slash stays inside."""
    assert router.find("GET", "/v2/things") == ("list", {})
    assert router.find("GET", "/v2/things/") == ("list", {})
    assert router.find("HEAD", "/v2/things/a%2Fb%20c") == ("get", {"thing": "a/b c"})
    assert router.find("GET", "/v2/things/x/runs/last") == ("last", {"thing": "x"})


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
def test_other_paths_and_methods_are_refused(router: Router[str], method: str, path: str, status: int) -> None:
    """404 for no endpoint, 405 for another method."""
    with pytest.raises(ErrorAnswer) as caught:
        router.find(method, path)
    assert caught.value.status == status
