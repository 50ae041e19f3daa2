"""Whatever is sent to the server, it answers in its own words: no 5xx, and no traceback."""

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
import pytest
import structlog
from anyio.from_thread import start_blocking_portal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import LogCapture

from batchrun.server.http.handler import make_table
from tests.support.server_api import open_api

#: `/v2/acts` is `/v2/actors` once more.
ROUTES = sorted(
    route for route in make_table().served if route[1].startswith("/v2") and not route[1].startswith("/v2/acts")
)
_PARAMETERS = (
    "limit", "offset", "desc", "status", "startedAfter", "startedBefore", "waitForFinish", "timeout", "memory",
    "maxItems", "maxTotalChargeUsd", "restartOnError", "build", "webhooks", "format", "fields", "omit", "unwind",
    "flatten", "clean", "view", "attachment", "bom", "delimiter", "skipHidden", "skipEmpty", "simplified", "name",
    "unnamed", "exclusiveStartKey", "prefix", "lockSecs", "clientKey", "forefront", "cursor", "outputRecordKey",
    "origin", "gracefully", "targetActorId", "method", "token", "contentType", "exclusiveStartId", "outputFields",
)  # fmt: skip
_texts = st.text(max_size=20)
_numbers = st.sampled_from(["0", "1", "-1", "1.5", "1e400", "nan", "99999999999999999999", "", "x", "0x1", "\u0661"])
_values = st.one_of(
    _numbers, st.sampled_from(["true", "false", "SUCCEEDED,READY", "json", "csv", "xml", "2026-01-01", "W10="]), _texts
)
_queries = st.dictionaries(st.sampled_from(_PARAMETERS), _values, max_size=4)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), _texts
)
_names = st.sampled_from(
    [
        "actId", "name", "input", "options", "title", "id", "uniqueKey", "url", "handledAt", "retryCount", "userData",
        "memoryMbytes", "timeoutSecs", "build", "statusMessage", "isStatusMessageTerminal", "generalAccess", "runId",
        "maxItems", "webhooks", "eventName", "count", "a", "#hidden", "method", "headers", "payload", "actorStandby",
    ]
)  # fmt: skip
_json = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_names, inner, max_size=4)),
    max_leaves=8,
)


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits, or half a surrogate pair
        return repr(value).encode("utf-8", "surrogatepass")


_bodies = st.one_of(st.none(), st.binary(max_size=40), _json.map(_dump))
_headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["application/json", "text/plain", "", "application/json; charset=x", "ü"]),
        "Content-Encoding": st.sampled_from(["gzip", "br", "deflate", "identity", "zstd", "gzip,gzip", ","]),
        "X-Apify-Request-Origin": st.sampled_from(["WEB", "", "x"]),
        "User-Agent": st.text(
            st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=9
        ),
    },
)


class Target:
    """A server in a thread of its own, with things that exist, and what it has logged."""

    def __init__(self, base_url: str, token: str, known: dict[str, list[str]], log: LogCapture) -> None:
        self._address, self._token, self.known, self.log = urlsplit(base_url).netloc, token, known, log
        self._connection = http.client.HTTPConnection(self._address, timeout=60)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, method: str, path: str, query: dict[str, str], body: bytes | None, headers: dict[str, str]) -> Any:
        """Send a request; return status and body."""
        url = path + ("?" + urlencode(query, errors="surrogatepass") if query else "")
        fields = {"Authorization": f"Bearer {self._token}", **headers}
        raw = {name: value.encode("latin-1") for name, value in fields.items()}
        self._connection.request(method, url, body=body, headers=raw)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with a task, a finished Run and its storages."""
    log = LogCapture()
    structlog.configure(processors=[log])
    opened = open_api(tmp_path_factory.mktemp("fuzz"), is_rate_limited=False)
    try:
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as api:
            task = portal.call(api.create_task)
            run = portal.call(api.start, task, {"n": 1}).data
            portal.call(api.finish, run["id"])
            known = {
                "task": [task, "local~"],
                "run": [run["id"]],
                "log": [run["id"]],
                "actor": [run["actId"], "test~echo"],
                "storage": [run[name] for name in run if name.startswith("default")],
                "dataset": [run["defaultDatasetId"]],
                "queue": [run["defaultRequestQueueId"]],
                "key": ["OUTPUT", "INPUT"],
            }
            target = Target(api.server.base_url, api.server.token, known, log)
            yield target
            target.close()
    finally:
        structlog.reset_defaults()


def _segments(target: Target, method: str, segment: str) -> st.SearchStrategy[str]:
    """Return what may stand for a part of a path; what is known is not deleted, so that it lasts."""
    if not segment.startswith("{"):
        return st.just(segment)
    known = st.sampled_from(["x"] if method == "DELETE" else target.known.get(segment[1:-1], ["x"]))
    return st.one_of(known, known, known, _texts.map(lambda text: quote(text, safe="", errors="surrogatepass")))


@settings(max_examples=300, derandomize=True, database=None)
@given(data=st.data())
def test_nothing_that_is_sent_breaks_the_server(target: Target, data: st.DataObject) -> None:
    """Any route with any parameters and any body: below 500; errors in the API's envelope."""
    method, template = data.draw(st.sampled_from(ROUTES), label="route")
    path = "/".join(data.draw(_segments(target, method, segment)) for segment in template.split("/"))
    query, body, headers = data.draw(_queries), data.draw(_bodies), data.draw(_headers)
    query = {name: value for name, value in query.items() if name != "waitForFinish" or method != "GET"}
    status, answered = target.send(method, path, query, body, headers)
    assert status < 500, (status, answered)
    assert status < 400 or {"type", "message"} <= set(orjson.loads(answered)["error"]), answered
    assert [entry for entry in target.log.entries if entry["event"] == "request_failed"] == []


@pytest.mark.parametrize(("sent", "shown"), [("é".encode(), "é"), (b"\xe9", "é")])
def test_a_user_agent_in_any_encoding_is_kept(target: Target, sent: bytes, shown: str) -> None:
    """UTF-8 or Latin-1: the Run is started, and shows it as text."""
    path = f"/v2/actor-tasks/{target.known['task'][0]}/runs"
    status, body = target.send("POST", path, {}, None, {"User-Agent": sent.decode("latin-1")})
    assert (status, orjson.loads(body)["data"]["meta"]["userAgent"]) == (201, shown)


@pytest.mark.parametrize("levels", [245, 252, 253, 254, 255, 1000, 1100])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/actor-tasks/{task}/runs", b'{"a":%s}'),
        ("POST", "/v2/actors/{actor}/runs", b'{"a":%s}'),
        ("PUT", "/v2/actor-tasks/{task}/input", b'{"deep":%s}'),
        ("PUT", "/v2/actor-tasks/{task}", b'{"input":{"a":%s}}'),
        ("POST", "/v2/datasets/{dataset}/items", b'[{"a":%s}]'),
        ("POST", "/v2/request-queues/{queue}/requests", b'{"url":"http://a.test","userData":{"a":%s}}'),
    ],
)
def test_json_that_is_nested_deeply_is_refused(
    target: Target, method: str, path: str, body: bytes, levels: int
) -> None:
    """Deeper than can be stored: 400 in the API's words; below that it is taken."""
    address = path.format(**{name: known[0] for name, known in target.known.items()})
    nested = body % (b"[" * levels + b"1" + b"]" * levels)
    status, answered = target.send(method, address, {}, nested, {"Content-Type": "application/json"})
    assert status < 500, answered
    assert (status == 400) is (levels > 250), answered


@example(path="//")
@example(path="/v2/actor-tasks/%00/runs")
@example(path="/v2/%ED%A0%80")
@settings(derandomize=True, database=None)
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40).map(lambda text: f"/{text}"))
def test_any_path_is_answered(target: Target, path: str) -> None:
    """Also those that are no routes, and those that no URL should hold."""
    status, _ = target.send("GET", path.replace("#", ""), {}, None, {})
    assert status < 500
