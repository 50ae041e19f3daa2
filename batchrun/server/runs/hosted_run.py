"""A live Run of this server: the only Runs in memory. An ended Run is a row of the database."""

from dataclasses import field

import anyio

from batchrun.model import JsonObject, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.catalog.actor_catalog import Actor, LocalCommand
from batchrun.server.ids import iso, now_ms
from batchrun.server.runs.actor_events import EventChannel
from batchrun.server.runs.last_save import LastSave
from batchrun.server.store import run_table
from batchrun.server.store.database import Database

#: Max characters of a status message. Source: account limits.
MAX_STATUS_MESSAGE_LENGTH = 1000
#: Max bytes of a log. Source: account limits.
MAX_LOG_BYTES = 10_485_760
#: Exit code of a process ended by SIGKILL: 128 + 9.
EXIT_KILLED = 137
#: Exit code of an exception in an Actor's code. Source: the SDK.
EXIT_RAISED = 91


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorProxy:
    """The proxy of Actors."""

    hostname: str
    port: int
    #: None: the id of the Run.
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    status: RunStatus
    exit_code: int | None = None
    #: Shown unless the Actor has set a status message.
    message: str
    #: True: the message is shown in any case.
    is_decisive: bool = False


def ending_of(exit_code: int) -> RunEnd:
    if exit_code == 0:
        return RunEnd(status=RunStatus.SUCCEEDED, exit_code=0, message="Actor succeeded")
    return RunEnd(
        status=RunStatus.FAILED, exit_code=exit_code, message=f"The Actor process failed with exit code {exit_code}"
    )


@dataclass(slots=True, kw_only=True, eq=False)
class HostedRun:
    #: The Run as the API shows it.
    doc: JsonObject
    extras: JsonObject
    actor: Actor
    #: The stored input, for an inline Actor. A process reads it from its store.
    input_body: bytes | None
    #: Loop times of its start and of the end of its time limit. Earlier run time, before a migration, is counted in.
    began: float
    deadline: float
    #: Seconds that it stays READY, as an injected fault.
    ready_s: float = 0.0
    #: The port for a web server of its Actor; 0 if it is no process.
    web_port: int = 0
    #: True once its end is committed.
    is_ended: bool = False
    #: There while its end is being committed: what is changed meanwhile would be lost.
    end_stored: anyio.Event | None = None
    #: Made by the first waiter for the end; most Runs have none.
    _ended: anyio.Event | None = None
    #: Made by a waiter for the end of READY.
    _begun: anyio.Event | None = None
    #: The scope of the Actor's work; cancelled to abort the Run.
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    #: The scope of one execution of the Actor; cancelled to restart it. None before the first.
    life: anyio.CancelScope | None = None
    #: Events for the Actor.
    events: EventChannel = field(default_factory=EventChannel)
    #: What it pushes, and its state, when the server stops.
    last_save: LastSave = field(default_factory=LastSave)
    #: Key of its stored input. A metamorph changes it.
    input_key: str = "INPUT"
    #: Made by a follower of the log; set and dropped when the log grows.
    log_grown: anyio.Event | None = None
    log_bytes: int = 0
    #: Why the server stops it; empty: it does not.
    stop_reason: str = ""
    #: True once it has asked the server's own proxy for anything; and for a site.
    is_proxied: bool = False
    has_used_proxy: bool = False
    #: True once its log says that its HTTP client cannot read the proxy's URL.
    has_misread_proxy: bool = False
    #: The end of what its process has printed.
    log_tail: str = ""
    #: Idempotency key of a charge -> loop time until which it is remembered.
    charge_keys: dict[str, float] = field(default_factory=dict)
    #: The last measured value; sums are over `measures`.
    memory_bytes: int = 0
    max_memory_bytes: int = 0
    sum_memory_bytes: int = 0
    measures: int = 0
    cpu_s: float = 0.0
    #: Percent of one core.
    cpu_usage: float = 0.0
    max_cpu_usage: float = 0.0

    @property
    def id(self) -> str:
        return str(self.doc["id"])

    @property
    def resurrections(self) -> int:
        return int(self.doc["stats"]["resurrectCount"])

    @property
    def memory_mb(self) -> int:
        return int(self.doc["options"]["memoryMbytes"])

    @property
    def status(self) -> RunStatus:
        return RunStatus(self.doc["status"])

    @property
    def is_process(self) -> bool:
        return isinstance(self.actor.runner, LocalCommand)

    def note_usage(self, memory_bytes: int, cpu_s: float, elapsed_s: float) -> None:
        """Add one measurement of its processes. `cpu_s` is the total CPU time of those that live."""
        self.memory_bytes, self.max_memory_bytes = memory_bytes, max(self.max_memory_bytes, memory_bytes)
        self.sum_memory_bytes, self.measures = self.sum_memory_bytes + memory_bytes, self.measures + 1
        self.cpu_usage = max(cpu_s - self.cpu_s, 0.0) / elapsed_s * 100 if elapsed_s > 0 else 0.0
        self.max_cpu_usage = max(self.max_cpu_usage, self.cpu_usage)
        self.cpu_s = max(self.cpu_s, cpu_s)

    def duration_s(self) -> float:
        return max(anyio.current_time() - self.began, 0.001)

    def measured(self, duration_s: float) -> JsonObject:
        """Return the measurements of that time as part of the Run's `stats`."""
        return {
            "memAvgBytes": self.sum_memory_bytes / self.measures if self.measures else 0,
            "memMaxBytes": self.max_memory_bytes,
            "memCurrentBytes": self.memory_bytes,
            "cpuAvgUsage": round(100 * self.cpu_s / duration_s, 3),
            "cpuMaxUsage": round(self.max_cpu_usage, 3),
            "cpuCurrentUsage": round(self.cpu_usage, 3),
            "netRxBytes": 0,
            "netTxBytes": 0,
        }

    async def wait_begun(self) -> None:
        if self.status is RunStatus.READY:
            if self._begun is None:
                self._begun = anyio.Event()
            await self._begun.wait()

    def note_begun(self) -> None:
        if self._begun is not None:
            self._begun.set()

    async def wait_ended(self) -> None:
        """Wait until its end is committed, or until it is parked."""
        if self.is_ended:
            return
        if self._ended is None:
            self._ended = anyio.Event()
        await self._ended.wait()

    def note_ended(self) -> None:
        self.is_ended = True
        self.note_parked()

    @property
    def is_at_work(self) -> bool:
        return not self.is_ended and self.life is not None and not self.life.cancel_called

    def note_parked(self) -> None:
        """Wake the waiters: the Actor does not run again in this server process."""
        if self._ended is not None:
            self._ended.set()

    def next_log(self) -> anyio.Event:
        """Return an event that is set when the log grows or the Run ends."""
        if self.log_grown is None:
            self.log_grown = anyio.Event()
        return self.log_grown

    def wake_followers(self) -> None:
        if self.log_grown is not None:
            self.log_grown.set()
            self.log_grown = None

    def restart(self) -> None:
        """End this execution of the Actor, so that the next one begins."""
        if self.life is not None:
            self.life.cancel()

    def announce_abort(self) -> None:
        """Send the Actor the events that announce an abort and ask it to save its state."""
        self.events.send("aborting")
        self.events.send("persistState", {"isMigrating": False})

    def change(self, changes: JsonObject) -> None:
        """Set properties that the Run's owner may set."""
        self.doc |= changes_within_limits(changes)


def changes_within_limits(changes: JsonObject) -> JsonObject:
    """Return properties that a Run's owner sets, the status message cut to its max length."""
    message = changes.get("statusMessage")
    return changes | ({"statusMessage": message[:MAX_STATUS_MESSAGE_LENGTH]} if message else {})


async def store_live(database: Database, live: HostedRun) -> None:
    await database.write(run_table.update_live, dict(live.doc))


async def mark_status(database: Database, live: HostedRun, status: RunStatus) -> None:
    live.doc["status"] = status.value
    live.note_begun()
    await store_live(database, live)


async def append_log(database: Database, live: HostedRun, text: str) -> None:
    """Append lines, each with its time, up to the max length of a log."""
    at = iso(now_ms())
    body = "".join(f"{at} {line}\n" for line in text.splitlines()).encode(errors="replace")
    room = MAX_LOG_BYTES - live.log_bytes
    if not body or room <= 0:
        return
    live.log_bytes += len(body)
    await database.write(run_table.append_log, live.id, body[:room])
    live.wake_followers()
