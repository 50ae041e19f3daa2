"""A platform that is never the bottleneck: a minimal HTTP/1.1 responder, in a process of its own, until SIGTERM.

    python -m benchmarks.responder '{"run_s": [15, 25], "delay_s": 0.15}'

It answers what batchrun, apify-client and the loops beside them ask, with objects of the API's shape and size, and
checks nothing. It keeps of a Run what its answers need: when it ends, and which User-Agent started it. Its first line
on stdout is its base URL; `GET /stats` tells what it has counted.
"""

import asyncio
import bisect
import random
import re
import signal
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import orjson
import uvloop

TASK_ID = "benchTask00000000"
ACTOR_ID = "benchActor0000000"
BUILD_ID = "benchBuild0000000"
#: Runs that are kept for lists; older ones that have ended are forgotten.
MAX_KEPT = 50_000
SEED = 1

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_AGENT = re.compile(rb"(?i)\r\nuser-agent: *([^\r]*)")
_NUMBER = re.compile(r"(?:^|&)(waitForFinish|offset|limit)=(\d+)")
_AFTER = re.compile(r"(?:^|&)startedAfter=([^&]*)")

#: A Run as the API shows it; what differs between Runs is filled in.
_RUN = (
    b'{"id":"%(id)b","actId":"'
    + ACTOR_ID.encode()
    + b'","userId":"benchUser00000000","actorTaskId":"'
    + TASK_ID.encode()
    + b'","startedAt":"%(started)b","finishedAt":%(finished)b,"status":"%(status)b",'
    b'"statusMessage":null,"isStatusMessageTerminal":null,"meta":{"origin":"API","clientIp":"127.0.0.1",'
    b'"userAgent":"%(agent)b"},"stats":{"inputBodyLen":12,"migrationCount":0,"rebootCount":0,"restartCount":0,'
    b'"resurrectCount":0,"metamorph":0,"computeUnits":0,"durationMillis":0,"runTimeSecs":0,"memAvgBytes":0,'
    b'"memMaxBytes":0,"memCurrentBytes":0,"cpuAvgUsage":0,"cpuMaxUsage":0,"cpuCurrentUsage":0,"netRxBytes":0,'
    b'"netTxBytes":0},"options":{"build":"latest","timeoutSecs":3600,"memoryMbytes":1024,"diskMbytes":2048},"buildId":"'
    + BUILD_ID.encode()
    + b'","buildNumber":"0.0.1","exitCode":%(code)b,"generalAccess":"FOLLOW_USER_SETTING",'
    b'"defaultKeyValueStoreId":"k%(id)b","defaultDatasetId":"d%(id)b","defaultRequestQueueId":"q%(id)b",'
    b'"containerUrl":"http://127.0.0.1/","usageTotalUsd":0.0001,"usage":{"ACTOR_COMPUTE_UNITS":0,"DATASET_READS":1,'
    b'"DATASET_WRITES":1,"KEY_VALUE_STORE_READS":1,"KEY_VALUE_STORE_WRITES":0,"KEY_VALUE_STORE_LISTS":0,'
    b'"REQUEST_QUEUE_READS":0,"REQUEST_QUEUE_WRITES":0,"DATA_TRANSFER_INTERNAL_GBYTES":0,'
    b'"DATA_TRANSFER_EXTERNAL_GBYTES":0,"PROXY_RESIDENTIAL_TRANSFER_GBYTES":0,"PROXY_SERPS":0}}'
)
#: A Run as lists show it. Source: the API reference, RunShort.
_SHORT = (
    b'{"id":"%(id)b","actId":"'
    + ACTOR_ID.encode()
    + b'","userId":"benchUser00000000","actorTaskId":"'
    + TASK_ID.encode()
    + b'","startedAt":"%(started)b","finishedAt":%(finished)b,"status":"%(status)b","meta":{"origin":"API"},"buildId":"'
    + BUILD_ID.encode()
    + b'","buildNumber":"0.0.1","defaultKeyValueStoreId":"k%(id)b","defaultDatasetId":"d%(id)b",'
    b'"defaultRequestQueueId":"q%(id)b","usageTotalUsd":0.0001}'
)
_ITEMS = b'[{"url":"https://example.com/products/17","title":"A product","price":17.5,"available":true}]'
_PAGINATION = (
    b"X-Apify-Pagination-Total: 1\r\nX-Apify-Pagination-Offset: %d\r\nX-Apify-Pagination-Limit: 1000\r\n"
    b"X-Apify-Pagination-Count: %d\r\nX-Apify-Pagination-Desc: false\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the responder is to be."""

    #: A Run's length in seconds, uniformly between two bounds; (0, 0) is zero length.
    run_s: tuple[float, float] = (0.0, 0.0)
    #: Length of a round trip in seconds, half of it each way.
    delay_s: float = 0.0
    #: PEM file with key and certificate; with it, TLS.
    certificate: str | None = None


@dataclass(slots=True)
class _Run:
    id: bytes
    agent: bytes
    started_at: datetime
    finished_at: datetime
    has_ended: bool = False
    waiters: list[Callable[[], None]] | None = None


class Responder:
    """All that a platform of zero effort knows."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._rng = random.Random(SEED)
        self._runs: dict[bytes, _Run] = {}
        self._order: list[_Run] = []
        self._count = 0
        self.requests: dict[str, int] = {}
        self.first_start: float | None = None
        #: Live Runs, and the integral of them over time.
        self._live = 0
        self._live_since = 0.0
        self._busy_s = 0.0
        self._most_live = 0
        #: As it was at the last start: until then, jobs were waiting.
        self._at_last_start = (0.0, 0.0)
        #: When Runs ended whose places are not taken again, and how long others were free.
        self._freed = deque[float]()
        self._refills = list[float]()
        self._date = (0, b"")

    def answer(self, method: bytes, target: str, head: bytes) -> bytes | Callable[..., None]:
        """Return the whole answer, or what takes a callback for it when the answer has to wait."""
        path, _, query = target.partition("?")
        parts = path.split("/")[2:]  # after /v2
        match parts:
            case ["actor-runs", run_id] if method == b"GET":
                return self._poll(run_id.encode(), query)
            case ["datasets", _, "items"]:
                self._note("items")
                offset = _number(query, "offset")
                return self._ok(b"[]" if offset else _ITEMS, _PAGINATION % (offset, not offset))
            case ["actor-tasks", _, "runs"] if method == b"POST":
                return self._ok(b'{"data":%b}' % self._start(head), status=b"201 Created")
            case ["actor-runs"] | ["actor-tasks", _, "runs"]:
                return self._list(query)
            case _:
                return self._other(parts)

    def _note(self, kind: str) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1

    def _start(self, head: bytes) -> bytes:
        self._note("start")
        now = time.monotonic()
        if self.first_start is None:
            self.first_start = now
        self._count += 1
        shortest, longest = self.behaviour.run_s
        length_s = self._rng.uniform(shortest, longest) if longest else 0.0
        agent = found[1] if (found := _AGENT.search(head)) else b""
        at = datetime.now(UTC)
        run = _Run(b"r%016d" % self._count, agent, at, at + timedelta(seconds=length_s))
        self._runs[run.id] = run
        self._order.append(run)
        if len(self._order) > 2 * MAX_KEPT:
            self._forget()
        if length_s:
            self._note_live(1)
            self._at_last_start = (self._busy_s, now)
            if self._freed:
                self._refills.append(now - self._freed.popleft())
            asyncio.get_running_loop().call_later(length_s, self._end, run)
        document = self._document(run)
        run.has_ended = not length_s
        return document

    def _forget(self) -> None:
        for run in self._order[:MAX_KEPT]:
            if run.has_ended:
                del self._runs[run.id]
        self._order = self._order[MAX_KEPT:]

    def _end(self, run: _Run) -> None:
        run.has_ended = True
        self._note_live(-1)
        self._freed.append(time.monotonic())
        for wake in run.waiters or ():
            wake()
        run.waiters = None

    def _note_live(self, change: int) -> None:
        now = time.monotonic()
        self._busy_s += (now - self._live_since) * self._live
        self._live_since = now
        self._live += change
        self._most_live = max(self._most_live, self._live)

    def _poll(self, run_id: bytes, query: str) -> bytes | Callable[..., None]:
        self._note("poll")
        run = self._runs.get(run_id)
        if run is None:
            return self._not_found()
        patience_s = _number(query, "waitForFinish")
        if run.has_ended or not patience_s:
            return self._run(run)

        def wait(reply: Callable[[bytes], None]) -> None:
            def tell() -> None:
                timer.cancel()
                reply(self._run(run))

            def give_up() -> None:
                if run.waiters is not None and tell in run.waiters:
                    run.waiters.remove(tell)
                tell()

            timer = asyncio.get_running_loop().call_later(patience_s, give_up)
            run.waiters = run.waiters or []
            run.waiters.append(tell)

        return wait

    def _run(self, run: _Run) -> bytes:
        return self._ok(b'{"data":%b}' % self._document(run))

    def _list(self, query: str) -> bytes:
        self._note("list")
        offset, limit, after = _number(query, "offset"), _number(query, "limit") or 1000, _AFTER.search(query)
        first = 0
        if after is not None:
            at = datetime.fromisoformat(after[1].replace("%3A", ":").replace("%2B", "+"))
            first = bisect.bisect_left(self._order, at, key=lambda run: run.started_at)
        runs = self._order[::-1] if "desc=1" in query or "desc=true" in query else self._order[first:]
        if "status=" in query:  # asked for nothing but live ones
            runs = [run for run in runs if not run.has_ended]
        items = b",".join(self._document(run, _SHORT) for run in runs[offset : offset + limit])
        page = b'"total":%d,"offset":%d,"limit":%d,"desc":false,"count":%d' % (len(runs), offset, limit, len(runs))
        return self._ok(b'{"data":{%b,"items":[%b]}}' % (page, items))

    def _document(self, run: _Run, form: bytes = _RUN) -> bytes:
        fields = {
            b"id": run.id,
            b"started": _iso(run.started_at),
            b"finished": b'"%b"' % _iso(run.finished_at) if run.has_ended else b"null",
            b"status": b"SUCCEEDED" if run.has_ended else b"READY",
            b"agent": run.agent,
            b"code": b"0" if run.has_ended else b"null",
        }
        return form % fields

    def _other(self, parts: list[str]) -> bytes:
        self._note("other")
        match parts:
            case ["users", "me"]:
                data: Any = {"id": "benchUser00000000", "username": "bench", "plan": {"id": "BENCH"}}
            case ["users", "me", "limits"]:
                data = {
                    "limits": {"maxConcurrentActorJobs": 100_000, "maxActorMemoryGbytes": 1_000_000},
                    "current": {"activeActorJobCount": self._live, "actorMemoryGbytes": 0},
                }
            case ["actor-tasks", _]:
                data = {
                    "id": TASK_ID,
                    "name": "bench",
                    "username": "bench",
                    "actId": ACTOR_ID,
                    "input": {},
                    "options": {},
                }
            case ["actors" | "acts", _]:
                tagged = {"latest": {"buildId": BUILD_ID, "buildNumber": "0.0.1"}}
                options = {"build": "latest", "timeoutSecs": 3600, "memoryMbytes": 1024}
                data = {"id": ACTOR_ID, "name": "bench", "taggedBuilds": tagged, "defaultRunOptions": options}
            case ["actor-builds", _]:
                schema = {"type": "object", "schemaVersion": 1, "title": "Bench", "properties": {}}
                data = {"id": BUILD_ID, "buildNumber": "0.0.1", "actorDefinition": {"input": schema}}
            case ["empty-lists"]:
                self._order, data = [], {}
            case ["stats"]:
                self._note_live(0)
                data = {
                    "requests": self.requests,
                    "first_start": self.first_start,
                    "busy_s_at_last_start": self._at_last_start[0],
                    "last_start": self._at_last_start[1],
                    "refills_s": sorted(self._refills)[:: max(1, len(self._refills) // 1000)],
                    "live": self._live,
                    "most_live": self._most_live,
                    "cpu_s": time.process_time(),
                    "now": time.monotonic(),
                }
            case _:
                return self._not_found()
        return self._ok(orjson.dumps({"data": data}))

    def _not_found(self) -> bytes:
        body = b'{"error":{"type":"record-not-found","message":"There is no such thing"}}'
        return self._ok(body, status=b"404 Not Found")

    def _ok(self, body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
        second = int(time.time())  # noqa: TID251 - the Date header is wall time
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return (
            b"HTTP/1.1 %b\r\nContent-Type: application/json; charset=utf-8\r\nDate: %b\r\n%b"
            b"Content-Length: %d\r\n\r\n%b" % (status, self._date[1], headers, len(body), body)
        )


def _number(query: str, name: str) -> int:
    return next((int(number) for found, number in _NUMBER.findall(query) if found == name), 0)


def _iso(at: datetime) -> bytes:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


class _Connection(asyncio.Protocol):
    """One connection; requests may come pipelined, and are answered in order where no answer has to wait."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._loop = asyncio.get_running_loop()
        self._half_s = responder.behaviour.delay_s / 2
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received = data = self._received + data if self._received else data
        at, answers = 0, list[bytes]()
        while (end := data.find(b"\r\n\r\n", at)) >= 0:
            head = data[at:end]
            length = int(found[1]) if head[:1] == b"P" and (found := _LENGTH.search(head)) else 0
            if len(data) < end + 4 + length:
                break
            at = end + 4 + length
            method, target, _ = head.split(b" ", 2)
            if self._half_s:
                self._loop.call_later(self._half_s, self._respond_late, method, target, head)
                continue
            answer = self._responder.answer(method, target.decode(), head)
            if isinstance(answer, bytes):
                answers.append(answer)
            else:
                answer(self._reply)
        self._received = data[at:]
        if answers:
            self._reply(b"".join(answers))

    def _respond_late(self, method: bytes, target: bytes, head: bytes) -> None:
        answer = self._responder.answer(method, target.decode(), head)
        if isinstance(answer, bytes):
            self._reply_late(answer)
        else:
            answer(self._reply_late)

    def _reply_late(self, answer: bytes) -> None:
        self._loop.call_later(self._half_s, self._reply, answer)

    def _reply(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


async def _serve(behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    responder, context = Responder(behaviour), None
    if behaviour.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(behaviour.certificate)
    server = await loop.create_server(lambda: _Connection(responder), "127.0.0.1", 0, ssl=context, backlog=16_384)
    port = server.sockets[0].getsockname()[1]
    print(f"{'http' if context is None else 'https'}://127.0.0.1:{port}", flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    uvloop.run(_serve(Behaviour(**orjson.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))))
