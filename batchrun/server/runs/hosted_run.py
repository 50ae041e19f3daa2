"""A Run while it lives: the only state of Runs held in memory; an ended one is a row."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from batchrun.model import JsonObject, RunStatus
from batchrun.server.catalog.actor_catalog import Actor, LocalCommand
from batchrun.server.ids import iso, now_ms
from batchrun.server.runs.actor_events import EventChannel
from batchrun.server.store import run_table
from batchrun.server.store.database import Database

#: Characters of a status message and of a log at most. Source: account limits.
MAX_STATUS_MESSAGE_LENGTH = 1000
MAX_LOG_BYTES = 10_485_760
#: Exit code of a process ended by SIGKILL, and of an exception in an Actor's code under the SDK.
EXIT_KILLED = 137
EXIT_RAISED = 91


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a Run's work came to its end."""

    status: RunStatus
    exit_code: int | None = None
    #: Shown unless the Actor has set a terminal message of its own.
    message: str


def ending_of(exit_code: int) -> RunEnd:
    """Return the ending that an exit code means."""
    if exit_code == 0:
        return RunEnd(status=RunStatus.SUCCEEDED, exit_code=0, message="Actor succeeded")
    return RunEnd(
        status=RunStatus.FAILED, exit_code=exit_code, message=f"The Actor process failed with exit code {exit_code}"
    )


@dataclass(slots=True, kw_only=True, eq=False)
class HostedRun:
    """One Run that has not ended."""

    #: The Run as the API shows it.
    doc: JsonObject
    extras: JsonObject
    actor: Actor
    #: The merged input as stored, for an inline Actor; a process reads it from its store.
    input_body: bytes | None
    #: On the loop's clock: when this life of the Run began, and when its time is up.
    began: float
    deadline: float
    #: Whether its end is committed and shows.
    is_ended: bool = False
    #: Made by whoever waits for the end: most Runs are not waited for.
    _ended: anyio.Event | None = None
    #: Around the Actor's work; cancelled to abort it.
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    #: Around one life of the Actor; cancelled to let it begin anew. Replaced with each life; None before the first.
    life: anyio.CancelScope | None = None
    #: What the Actor is told while it works.
    events: EventChannel = field(default_factory=EventChannel)
    #: Where its input is stored; another place after a metamorph.
    input_key: str = "INPUT"
    #: Made by whoever follows the log, to wait for the next chunk; set and forgotten when it comes.
    log_grown: anyio.Event | None = None
    log_bytes: int = 0
    #: Idempotency keys of charges, each with the loop's time until which it is remembered.
    charge_keys: dict[str, float] = field(default_factory=dict)
    #: As measured last; sums are over `measures`.
    memory_bytes: int = 0
    max_memory_bytes: int = 0
    sum_memory_bytes: int = 0
    measures: int = 0
    cpu_s: float = 0.0
    #: Per cent of one core.
    cpu_usage: float = 0.0
    max_cpu_usage: float = 0.0

    @property
    def id(self) -> str:
        """The Run's id."""
        return str(self.doc["id"])

    @property
    def memory_mb(self) -> int:
        """What the Run has reserved."""
        return int(self.doc["options"]["memoryMbytes"])

    @property
    def status(self) -> RunStatus:
        """Where the Run stands."""
        return RunStatus(self.doc["status"])

    @property
    def is_process(self) -> bool:
        """Whether a process does its work, and not a coroutine."""
        return isinstance(self.actor.runner, LocalCommand)

    def note_usage(self, memory_bytes: int, cpu_s: float, elapsed_s: float) -> None:
        """Take in one measurement of its processes; `cpu_s` is what those that live have used in all."""
        self.memory_bytes, self.max_memory_bytes = memory_bytes, max(self.max_memory_bytes, memory_bytes)
        self.sum_memory_bytes, self.measures = self.sum_memory_bytes + memory_bytes, self.measures + 1
        self.cpu_usage = max(cpu_s - self.cpu_s, 0.0) / elapsed_s * 100 if elapsed_s > 0 else 0.0
        self.max_cpu_usage = max(self.max_cpu_usage, self.cpu_usage)
        self.cpu_s = max(self.cpu_s, cpu_s)

    def duration_s(self) -> float:
        """Return for how long it has run."""
        return max(anyio.current_time() - self.began, 0.001)

    def measured(self, duration_s: float) -> JsonObject:
        """Return what was measured in so long, in the words of the Run's statistics."""
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

    async def wait_ended(self) -> None:
        """Wait for the end."""
        if self.is_ended:
            return
        if self._ended is None:
            self._ended = anyio.Event()
        await self._ended.wait()

    def note_ended(self) -> None:
        """Wake those who wait for the end."""
        self.is_ended = True
        if self._ended is not None:
            self._ended.set()

    def next_log(self) -> anyio.Event:
        """Return what is set when the log grows or the Run ends."""
        if self.log_grown is None:
            self.log_grown = anyio.Event()
        return self.log_grown

    def tell_followers(self) -> None:
        """Wake those who follow the log."""
        if self.log_grown is not None:
            self.log_grown.set()
            self.log_grown = None

    def begin_anew(self) -> None:
        """End the Actor's present life, for the next to begin."""
        if self.life is not None:
            self.life.cancel()

    def tell_abort(self) -> None:
        """Tell the Actor that it is about to be aborted, and had better save its state."""
        self.events.send("aborting")
        self.events.send("persistState", {"isMigrating": False})

    def change(self, changes: JsonObject) -> None:
        """Set properties that the Run's owner may set; a status message is cut to the platform's length."""
        self.doc |= changes
        if message := self.doc.get("statusMessage"):
            self.doc["statusMessage"] = message[:MAX_STATUS_MESSAGE_LENGTH]


async def mark_status(database: Database, live: HostedRun, status: RunStatus) -> None:
    """Show and keep a status on the way."""
    live.doc["status"] = status.value
    await database.write(run_table.update_live, dict(live.doc))


async def append_log(database: Database, live: HostedRun, text: str) -> None:
    """Append lines, each with its time, up to the platform's limit on a log."""
    at = iso(now_ms())
    body = "".join(f"{at} {line}\n" for line in text.splitlines()).encode(errors="replace")
    room = MAX_LOG_BYTES - live.log_bytes
    if not body or room <= 0:
        return
    live.log_bytes += len(body)
    await database.write(run_table.append_log, live.id, body[:room])
    live.tell_followers()


#: Does a Run's work: returns how it ended, unless cancelled.
Runner = Callable[[HostedRun], Awaitable[RunEnd]]
