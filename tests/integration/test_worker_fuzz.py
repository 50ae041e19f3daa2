"""Whatever is sent to a worker by one who holds its token: no 5xx, an answer in the envelope, and little memory."""

import http.client
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.crash import open_api
from tests.support.worker_process import WorkerProcess

#: The task does not exist: what is accepted fails, and starts nothing.
CONFIG = b'[task]\nid = "no-such-task"\n[jobs]\nfile = "jobs.jsonl"\n'
#: Max memory of the worker. A text of the largest size takes 40 MB, and two are parsed at once.
MAX_MEMORY_MB = 250

_DEEP_KEY = b".".join([b"a"] * 30_000)
_hostile = st.sampled_from(
    [
        b"", b"\x00", b"\xff", b"[" * 3_000, b'{"a":' * 900, b"1" * 900_000, b"0" * 5_000, b"-", b"nan", b"1e400",
        b"x = " + b"[" * 3_000, b"x = 0x" + b"f" * 20_000, _DEEP_KEY + b" = 1", b"[" + _DEEP_KEY + b"]",
        b"".join(b"[t%x]\n" % n for n in range(9_000)), b"".join(b"a%x=1\n" % n for n in range(9_000)),
        b'{"' + _DEEP_KEY + b'": 1}', b'{"output": {"dir": "/tmp"}, "output.dir": ""}', b'{"jobs.file": "/etc/hosts"}',
        b'{"input": ' + b'{"a":' * 63 + b"1" + b"}" * 64, b'{"$ref": "#"}', b'{"$ref": "http://127.0.0.1:1/"}',
        b'{"limits.start_rate": 1}', b'{"type": "object"}', b'{"allOf": 3}', b"[]", b"{}", b"null", b"../../token",
    ]
)  # fmt: skip
_text = st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
_numbers = st.sampled_from([b"1", b"0", b"-1", b"1.5", b"99999999999999999999", b"1_0", "\u0661".encode()])
_values = st.one_of(_text, _numbers, _hostile)
_scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=9))
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)

_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            [b"multipart/form-data", b"text/plain", b"multipart/form-data; boundary=", b"\xff"]
        ),
        "Content-Encoding": st.sampled_from([b"gzip", b"br", b"deflate", b"x", b""]),
    },
)


class Target:
    """A worker process and its OpenAPI document."""

    def __init__(self, worker: WorkerProcess, pid: int) -> None:
        self._address = urlsplit(worker.address).netloc
        self._token, self._pid = (worker.data_dir / "token").read_text().strip(), pid
        document = orjson.loads(self.send("GET", "/openapi.json", {}, None)[1])
        self.schemas = document["components"]["schemas"]
        self.operations = [
            (method.upper(), path, operation)
            for path, item in sorted(document["paths"].items())
            for method, operation in sorted(item.items())
        ]

    def send(self, method: str, path: str, headers: dict[str, bytes], body: bytes | None) -> tuple[int, bytes]:
        """Send a request; return status and body, that of a stream of events without reading it."""
        given: dict[str, str | bytes] = {"Authorization": f"Bearer {self._token}", **headers}
        with closing(http.client.HTTPConnection(self._address, timeout=60)) as connection:
            with suppress(BrokenPipeError):  # it was refused before all of it was sent
                connection.request(method, path, body=body, headers=given)
            answer = connection.getresponse()
            is_endless = "event-stream" in answer.headers.get("Content-Type", "")
            return answer.status, b"" if is_endless else answer.read()

    def peak_mb(self) -> float:
        """Return the most memory that the worker has had."""
        line = next(each for each in Path(f"/proc/{self._pid}/status").read_text().splitlines() if "VmHWM" in each)
        return int(line.split()[1]) / 1024


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A worker with one batch that has failed, named `known`."""
    if sys.platform != "linux":
        pytest.skip("the memory of another process is read from /proc")
    path = tmp_path_factory.mktemp("fuzz")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url)
        with worker.running() as process:
            target = Target(worker, process.pid)
            headers, body = _form({"config": CONFIG, "name": b"known", "jobs": b"{}\n"})
            assert target.send("POST", "/v1/batches", headers, body)[0] == 201
            yield target


def _form(fields: dict[str, bytes]) -> tuple[dict[str, bytes], bytes]:
    parts = b"".join(
        b"--b\r\nContent-Disposition: form-data; name=%s%s\r\n\r\n%s\r\n"
        % (orjson.dumps(name), b'; filename="jobs.jsonl"' if name == "jobs" else b"", value)
        for name, value in fields.items()
    )
    return {"Content-Type": b"multipart/form-data; boundary=b"}, parts + b"--b--\r\n"


def _forms(properties: dict[str, Any]) -> st.SearchStrategy[tuple[dict[str, bytes], bytes]]:
    """Return forms: most have a batch file or a profile, to which something may be added, and some other fields."""
    configs = st.one_of(st.just(CONFIG), _values.map(lambda more: CONFIG + more), _values)
    nothing: dict[str, bytes] = {}
    base = st.one_of(st.fixed_dictionaries({"config": configs, "jobs": st.just(b"{}\n") | _values}), st.just(nothing))
    more = st.dictionaries(st.sampled_from([name for name in properties if name != "config"]), _values, max_size=3)
    return st.builds(lambda first, second: _form({**first, **second}), base, more)


def _bodies(target: Target, content: dict[str, Any]) -> st.SearchStrategy[tuple[dict[str, bytes], bytes]]:
    (kind, body), *_ = content.items()
    schema = body["schema"]
    properties = (
        target.schemas[schema["$ref"].rpartition("/")[2]]["properties"] if "$ref" in schema else schema["properties"]
    )
    if kind == "multipart/form-data":
        return _forms(properties)
    objects = st.dictionaries(st.sampled_from(sorted(properties)), st.one_of(_scalars, _json), max_size=3)
    return st.one_of(objects.map(orjson.dumps), _json.map(_dump), _hostile).map(lambda raw: ({}, raw))


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half a surrogate pair
        return repr(value).encode("utf-8", "surrogatepass")


@settings(max_examples=80, database=None)
@given(data=st.data())
def test_nothing_that_is_sent_breaks_the_worker(target: Target, data: st.DataObject) -> None:
    """Any operation of the document with any parameters and any body; half of them are submissions."""
    submit = [each for each in target.operations if each[2]["operationId"] == "submit"]
    method, path, operation = data.draw(st.sampled_from(submit) | st.sampled_from(target.operations), label="operation")
    query: dict[str, bytes] = {}
    headers: dict[str, bytes] = {}
    for parameter in operation.get("parameters", []):
        value = data.draw(
            st.none() | _values.map(lambda each: each[: 1_900 if each.isalnum() else 500]), label=parameter["name"]
        )
        if parameter["in"] == "path":
            known = b"known" if method != "DELETE" and (value is None or len(value) < 3) else (value or b"x")[:200]
            path = path.replace("{ref}", quote(known, safe=""))
        elif value is not None and parameter["in"] == "query":
            query[parameter["name"]] = value
        elif value is not None:
            headers[parameter["name"]] = bytes(each for each in value if 32 <= each != 127)  # as HTTP has it
    body = None
    if "requestBody" in operation:
        more, body = data.draw(_bodies(target, operation["requestBody"]["content"]), label="body")
        headers |= more
    headers |= data.draw(_HEADERS, label="headers")
    status, answered = target.send(method, path + ("?" + urlencode(query) if query else ""), headers, body)
    assert status < 500 or (status, path) == (503, "/health/ready"), (status, answered)
    if 400 <= status < 500:
        assert {"type", "message"} == set(orjson.loads(answered)["error"]), answered
        assert len(answered) < 20_000


def test_nothing_that_was_sent_took_much_memory(target: Target) -> None:
    """After all that, and once more what tomllib makes most of."""
    for hostile in (b"".join(b"[t%x]\n" % n for n in range(30_000)), _DEEP_KEY + b" = 1", b"x = " + b"1" * 200_000):
        headers, body = _form({"config": CONFIG + hostile, "jobs": b"{}\n"})
        assert target.send("POST", "/v1/batches", headers, body)[0] == 400
    assert target.peak_mb() < MAX_MEMORY_MB
