"""What a server process holds in memory: a piece for each slow reader; of what is small on the wire, little too."""

import gzip
import random
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.api_process import ACTOR, TOKEN

#: The largest body that the server takes.
LARGE = 9_437_184
READERS = 6
#: Two thirds of what the readers were to read. Usual is next to nothing; on a busy machine a table that was still being
#: made took 28 MB.
MAX_GROWTH_BYTES = READERS * LARGE * 2 // 3


@dataclass(frozen=True, slots=True)
class Served:
    """A server in a process of its own."""

    port: int
    pid: int

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "",
        more_headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send a request; return the answer's body."""
        connection = HTTPConnection("127.0.0.1", self.port)
        headers = {"Authorization": f"Bearer {TOKEN}", **({"Content-Type": content_type} if content_type else {})}
        headers |= more_headers or {}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, content
            return content
        finally:
            connection.close()

    def send_json(self, method: str, path: str, body: Any = None) -> Any:
        """Send JSON; return what stands in the envelope."""
        answer = orjson.loads(self.send(method, path, orjson.dumps(body), "application/json") or b"{}")
        return answer.get("data")

    def resident_bytes(self) -> int:
        """Return the memory of the process."""
        return self._status_bytes("VmRSS")

    def _status_bytes(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text("ascii"))
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Begin the most memory that it has had anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", "ascii")

    def peak_bytes(self) -> int:
        """Return the most memory that the process has had."""
        return self._status_bytes("VmHWM")

    def nameless_files(self) -> int:
        """Return how many files the process has open that stand in no directory."""
        links = Path(f"/proc/{self.pid}/fd").iterdir()
        return sum(1 for link in links if _target(link).endswith(" (deleted)"))

    @contextmanager
    def reader(self, path: str, method: str = "GET") -> Iterator["Reader"]:
        """Ask for something and read its first few KB."""
        with socket.socket() as connection:
            # Set before it connects: what the kernel takes in ahead is small.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", self.port))
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(head.encode())
            received = b""
            while b"\r\n\r\n" not in received or len(received) < 2048:
                received += connection.recv(1024)
            yield Reader(connection, received)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who has read the first few KB of an answer."""

    connection: socket.socket
    received: bytes

    def rest(self) -> tuple[bytes, bytes]:
        """Read on; return head and body, as far as they came."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        pieces = [body]
        missing = int(length[1]) - len(body)
        while missing > 0 and (piece := self.connection.recv(min(missing, 1 << 20))):
            pieces.append(piece)
            missing -= len(piece)
        return head, b"".join(pieces)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server process."""
    if sys.platform != "linux":
        pytest.skip("the memory of another process is read from /proc")
    command = [sys.executable, "-m", "tests.support.api_process", str(tmp_path_factory.mktemp("slow")), "0", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        try:
            yield Served(int(url.rpartition(":")[2]), process.pid)
        finally:
            process.kill()


def _record(served: Served) -> str:
    store = served.send_json("POST", "/v2/key-value-stores")["id"]
    path = f"/v2/key-value-stores/{store}/records/large"
    served.send("PUT", path, random.Random(1).randbytes(LARGE), "image/png")
    return path


def _archive(served: Served) -> str:
    return _record(served).removesuffix("/large")


def _items(served: Served) -> str:
    path = f"/v2/datasets/{served.send_json('POST', '/v2/datasets')['id']}/items"
    served.send_json("POST", path, [{"text": "x" * 900} for _ in range(10_000)])
    return path


def _one_item(served: Served) -> str:
    path = f"/v2/datasets/{served.send_json('POST', '/v2/datasets')['id']}/items"
    served.send_json("POST", path, {"text": "x" * (LARGE - 100)})
    return path


def _items_as(form: str) -> Callable[[Served], str]:
    return lambda served: f"{_items(served)}?format={form}"


def _one_item_as(form: str) -> Callable[[Served], str]:
    return lambda served: f"{_one_item(served)}?format={form}"


def _log(served: Served) -> str:
    given = {"n": 1, "log_bytes": LARGE}
    run = served.send_json("POST", f"/v2/actors/{ACTOR.replace('/', '~')}/runs?waitForFinish=60", given)
    return f"/v2/logs/{run['id']}"


def _followed_log(served: Served) -> str:
    return f"{_log(served)}?stream=1"


def _requests(served: Served) -> str:
    path = f"/v2/request-queues/{served.send_json('POST', '/v2/request-queues')['id']}/requests"
    for n in range(9):
        served.send_json("POST", path, {"url": f"http://x/{n}", "uniqueKey": str(n), "payload": "x" * 1_000_000})
    return path


def _task_input(served: Served) -> str:
    task = {"actId": ACTOR, "input": {"text": "x" * (LARGE - 1000)}}
    return f"/v2/actor-tasks/{served.send_json('POST', '/v2/actor-tasks', task)['id']}"


SLOWLY_READ = {
    "record": _record,
    "records as an archive": _archive,
    "items": _items,
    "one item": _one_item,
    "items as a table": _items_as("csv"),
    "one item as a table": _one_item_as("csv"),
    "one item as text": _one_item_as("xml"),
    "log": _log,
    "followed log": _followed_log,
    "requests": _requests,
    "task": _task_input,
}


@pytest.mark.parametrize("prepare", SLOWLY_READ.values(), ids=SLOWLY_READ)
def test_slow_readers_hold_little_memory(served: Served, prepare: Callable[[Served], str]) -> None:
    """Six who read a few KB of 9 MB and then stall: the server grows by far less than 6 times 9 MB."""
    assert _growth_bytes(served, "GET", prepare(served)) < MAX_GROWTH_BYTES


def test_slow_readers_of_an_output_hold_little_memory(served: Served) -> None:
    """The same where a Run's output is the answer to its start."""
    task = {"actId": ACTOR, "input": {"n": 1, "output_bytes": LARGE}}
    path = f"/v2/actor-tasks/{served.send_json('POST', '/v2/actor-tasks', task)['id']}/run-sync"
    assert _growth_bytes(served, "POST", path) < MAX_GROWTH_BYTES


def _growth_bytes(served: Served, method: str, path: str) -> int:
    """Return by how much the server grows while all readers stall, once one has read everything."""
    assert len(served.send(method, path)) > LARGE * 0.9
    before = served.resident_bytes()
    with ExitStack() as readers:
        for _ in range(READERS):
            readers.enter_context(served.reader(path, method))
        return served.resident_bytes() - before


def _push_many(served: Served) -> None:
    """Push 200,000 empty items, 600 bytes on the wire."""
    _push(served, [{}] * 200_000)


def _unwind_many(served: Served) -> None:
    """Ask for one item as 200,000."""
    path = _push(served, [{"a": [1] * 200_000}])
    for form in ("json", "jsonl"):
        assert len(served.send("GET", f"{path}?unwind=a&format={form}")) > 200_000


def _read_queue(served: Served) -> None:
    """Twenty at once read a request of 2 MB that takes 25 MB as objects, by each way."""
    queue = f"/v2/request-queues/{served.send_json('POST', '/v2/request-queues')['id']}"
    request = {"url": "http://x/", "uniqueKey": "x", "userData": ["ab"] * 400_000}
    id_ = served.send_json("POST", f"{queue}/requests", request)["requestId"]
    for path in ("/requests", f"/requests/{id_}", "/head"):
        with ThreadPoolExecutor(20) as readers:
            answers = [*readers.map(served.send, ["GET"] * 20, [queue + path] * 20)]
        assert all(b"http://x/" in each for each in answers)


def _push(served: Served, items: list[Any]) -> str:
    path = f"/v2/datasets/{served.send_json('POST', '/v2/datasets')['id']}/items"
    served.send("POST", path, gzip.compress(orjson.dumps(items), 1), "application/json", {"Content-Encoding": "gzip"})
    return path


@pytest.mark.parametrize("act", [_push_many, _unwind_many, _read_queue])
def test_small_requests_take_little_memory(served: Served, act: Callable[[Served], None]) -> None:
    """What they name or compress may be large: its values are not all objects, or texts with room to grow, at once."""
    served.forget_peak()
    before = served.resident_bytes()
    act(served)
    assert served.peak_bytes() - before < 300e6


@pytest.mark.parametrize("then", ["overwritten", "deleted"])
def test_a_slow_reader_gets_the_value_he_asked_for(served: Served, then: str) -> None:
    """Whole and unmixed, though it is overwritten or deleted while he reads; who asks later gets what is there then."""
    path, value = _record(served), random.Random(1).randbytes(LARGE)
    with served.reader(path) as reader:
        if then == "overwritten":
            served.send("PUT", path, random.Random(2).randbytes(LARGE), "image/gif")
            assert served.send("GET", path) == random.Random(2).randbytes(LARGE)
        else:
            served.send("DELETE", path)
        head, body = reader.rest()
    assert b"Content-Type: image/png" in head
    assert b"X-RateLimit-Limit: 200" in head
    assert body == value


def test_readers_who_hang_up_leave_no_file_behind(served: Served) -> None:
    """What waits for a slow reader in a file goes with him."""
    path = _record(served)
    assert _without_nameless_files(served)
    with ExitStack() as readers:
        for _ in range(READERS):
            readers.enter_context(served.reader(path))
        assert served.nameless_files() == READERS
    assert _without_nameless_files(served)


def _without_nameless_files(served: Served) -> bool:
    """Whether the server drops all of them soon."""
    give_up_at = time.monotonic() + 30
    while served.nameless_files() and time.monotonic() < give_up_at:
        served.send("GET", "/v2/users/me")
    return not served.nameless_files()


def test_a_dataset_deleted_while_it_is_read_is_not_taken_for_whole(served: Served) -> None:
    """The connection is cut: an array that ended early would look like all of the items."""
    path = _items(served)
    with served.reader(path) as reader:
        served.send("DELETE", path.removesuffix("/items"))
        received = bytearray(reader.received)  # bytes would be copied for each of thousands of pieces
        while piece := reader.connection.recv(1 << 20):
            received += piece
    assert b"Transfer-Encoding: chunked" in received
    assert not received.endswith(b"0\r\n\r\n")


def test_large_values_are_answered_like_small_ones(served: Served) -> None:
    """HEAD tells the length and sends nothing; an attachment has its name; the archive holds the very bytes."""
    path = _record(served)
    connection = HTTPConnection("127.0.0.1", served.port)
    for method, sent in [("HEAD", b""), ("GET", random.Random(1).randbytes(LARGE))]:
        connection.request(method, f"{path}?attachment=1")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(LARGE))
        assert answer.headers["Content-Disposition"] == 'attachment; filename="large"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.read() == sent
    connection.close()
    with zipfile.ZipFile(BytesIO(served.send("GET", path.removesuffix("/large")))) as archive:
        assert archive.read("large") == random.Random(1).randbytes(LARGE)
