"""The two processes of a measurement: the responder on one core, whoever is measured on the other."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson

ROOT = Path(__file__).parents[1]
#: Requests that the ceiling is measured with, sent so many at a time.
CEILING_REQUESTS = 60_000
PIPELINED = 200


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A responder at work."""

    base_url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        """Ask what it has counted."""
        return self._ask("stats")

    def empty_lists(self) -> None:
        """Show no Runs so far in lists: to a new batch, those of an earlier round would be another client's."""
        self._ask("empty-lists")

    def _ask(self, what: str) -> dict[str, Any]:
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - loopback
        with urlopen(f"{self.base_url}/v2/{what}", timeout=30, context=context) as answer:  # noqa: S310 - likewise
            data: dict[str, Any] = orjson.loads(answer.read())["data"]
            return data


def cores() -> tuple[int, int]:
    """Return the core of the responder and that of whoever is measured; the same where there is only one."""
    allowed = sorted(_CORES)
    return allowed[0], allowed[-1]


_CORES = os.sched_getaffinity(0)


@contextmanager
def open_responder(**behaviour: Any) -> Iterator[Counterpart]:
    """Run a responder on its own core."""
    command = [sys.executable, "-m", "benchmarks.responder", orjson.dumps(behaviour).decode()]
    with on_core(cores()[0]):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield Counterpart(process.stdout.readline().decode().strip(), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Hold what is started inside to one core: a child inherits it, with all threads it will have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_side(module: str, order: Mapping[str, Any], *, timeout_s: float = 600.0) -> dict[str, Any]:
    """Run a module of ours on the core of who is measured, and return the JSON that it prints last."""
    command = [sys.executable, "-m", module, orjson.dumps(order).decode()]
    with on_core(cores()[1]):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=timeout_s)
    figures: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return figures


def ceiling_per_s(counterpart: Counterpart) -> dict[str, int]:
    """Measure how many requests per second the responder answers, by kind, when the client costs next to nothing.

    Requests are sent many at a time and answers only counted, on the other core.
    """
    start = "POST /v2/actor-tasks/t/runs?waitForFinish=0", b'{"n": 1}'
    run_id = re.compile(rb'"id":"(r\d+)"')
    with on_core(cores()[1]), _connect(counterpart) as connection:
        first = _exchange(connection, _request(*start), 1)
        found = run_id.search(first)
        assert found is not None, "the responder starts Runs"
        run = found[1].decode()
        kinds = {
            "start": _request(*start),
            "poll": _request(f"GET /v2/actor-runs/{run}?waitForFinish=60"),
            "items": _request(f"GET /v2/datasets/d{run}/items?format=json&offset=0&limit=1000"),
        }
        rates = {}
        for kind, request in kinds.items():
            began_at = time.perf_counter()
            for _ in range(CEILING_REQUESTS // PIPELINED // len(kinds)):
                _exchange(connection, request * PIPELINED, PIPELINED)
            rates[kind] = round(CEILING_REQUESTS / len(kinds) / (time.perf_counter() - began_at))
    return rates


def _connect(counterpart: Counterpart) -> socket.socket:
    host, _, port = counterpart.base_url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)))


def _request(line: str, body: bytes = b"") -> bytes:
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer bench\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{head}{length}\r\n".encode() + body


def _exchange(connection: socket.socket, requests: bytes, count: int) -> bytes:
    connection.sendall(requests)
    received, answers, last = 0, 0, b""
    expected = None
    while answers < count:
        last = connection.recv(1 << 20)
        if expected is None:
            head, _, _ = last.partition(b"\r\n\r\n")
            expected = len(head) + 4 + int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
        received += len(last)
        answers = round(received / expected)
    return last
