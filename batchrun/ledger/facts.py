"""The facts of a batch: each with its type here, and its name and JSON form in the ledger.

The JSON forms are part of the ledger's format: a later version reads what an earlier one has noted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from batchrun.ledger.protocol import NotedWait, Notified, ReadTo
from batchrun.ledger.shared_commits import LogClaim, LogPosition
from batchrun.model import Command, JobKey, JsonObject, Mark, RunId, TaskId, WaitKind, WaitReason
from batchrun.policy.breaker import Trip
from batchrun.policy.secret_fields import SecretFields
from batchrun.runtime.fast_dataclasses import dataclass

T = TypeVar("T")


def _unchanged(value: Any) -> Any:
    return value


def _of_kind(kind: type) -> Callable[[Any], Any]:
    """Return a check of what was noted: with a shared log, another machine has noted it."""

    def check(noted: Any) -> Any:
        if not isinstance(noted, kind):
            raise TypeError(f"a fact of the batch is {str(noted)[:100]!r}")
        return noted

    return check


_number, _flag, _text, _object, _list = (_of_kind(kind) for kind in (int, bool, str, dict, list))


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """A fact's name in the ledger, and how its values become JSON and back."""

    name: str
    to_json: Callable[[T], Any] = _unchanged
    from_json: Callable[[Any], T] = _unchanged


class NotedFacts(Protocol):
    """The ledger, as far as reading facts goes."""

    def fact(self, fact: Fact[T]) -> T | None:
        """Return the value that was noted last; None if none was."""


class Facts(NotedFacts, Protocol):
    """The ledger, as far as facts go."""

    def note_fact(self, fact: Fact[T], value: T | None) -> None:
        """Note a value, which replaces the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedBuild:
    """The build that all Runs of a batch use."""

    #: `run.build` of the configuration when it was pinned.
    asked: str | None
    number: str


def _read_to_json(read_to: ReadTo) -> list[Any]:
    return [read_to.offset, read_to.line, read_to.fingerprint.hex()]


def _read_to(noted: list[Any]) -> ReadTo:
    offset, line, fingerprint = noted
    return ReadTo(offset=offset, line=line, fingerprint=bytes.fromhex(fingerprint))


def _wait_json(wait: NotedWait) -> JsonObject:
    times = {"began_at": wait.began_at.isoformat(), "noted_at": wait.noted_at.isoformat()}
    return {"pid": wait.pid, **times, "reasons": [asdict(each) for each in wait.reasons]}


def _wait(noted: JsonObject) -> NotedWait:
    return NotedWait(
        pid=noted["pid"],
        began_at=datetime.fromisoformat(noted["began_at"]),
        noted_at=datetime.fromisoformat(noted["noted_at"]),
        reasons=[WaitReason(**{**each, "kind": WaitKind(each["kind"])}) for each in noted["reasons"]],
    )


def _trips(noted: Sequence[JsonObject]) -> list[Trip]:
    return [
        Trip(
            reason=_text(trip["reason"]),
            group=trip["group"],
            keys=tuple(JobKey(key) for key in trip["keys"]),
            is_for_empty=trip.get("is_for_empty", False),  # missing in old ledgers
        )
        for trip in noted
    ]


#: How far the job file is read.
READ_TO: Fact[ReadTo] = Fact("read_to", _read_to_json, _read_to)
#: Number of lines that repeat a job of another line.
DUPLICATES: Fact[int] = Fact("duplicates", from_json=_number)
#: True if the platform shows the mark of a Run that was started with it.
ECHO: Fact[bool] = Fact("echo", from_json=_flag)
#: Seconds for which earlier processes have watched the platform for the Run of each attempt in doubt, by mark.
WATCHED_S: Fact[Mapping[Mark, float]] = Fact("watched_s", from_json=_object)
#: Since when, by the Runs' clock, no process has looked for Runs that repeat a start; None: nothing is left.
UNLISTED_SINCE: Fact[datetime] = Fact("unlisted_since", datetime.isoformat, datetime.fromisoformat)
#: What identifies the batch; the batch that resumes must have the same.
IDENTITY: Fact[JsonObject] = Fact("identity", from_json=_object)
TASK_ID: Fact[TaskId] = Fact("task_id", from_json=_text)
#: Id of the account that the Runs are started in; None if the token may not read it.
ACCOUNT: Fact[str] = Fact("account", from_json=_text)
#: The configuration that the batch was last opened with.
CONFIG: Fact[JsonObject] = Fact("config", from_json=_object)
#: The signature of who has noted task and configuration: somebody else who supplies the directory has another one.
SIGNATURE: Fact[str] = Fact("signature", from_json=_text)
#: The command line that resumes the batch.
COMMAND: Fact[Command] = Fact(
    "command", asdict, lambda noted: Command(line=_text(noted["line"]), directory=_text(noted["directory"]))
)
#: Number of jobs in the job file, estimated; None if an estimate would cost too much.
JOB_COUNT: Fact[int] = Fact("job_count", from_json=_number)
#: True if the shared log has the whole job file, False if it has a part; None: it has none of it.
JOB_FILE_IS_COPIED: Fact[bool] = Fact("job_file_is_copied", from_json=_flag)
#: The breaker's trips in the last process that had any.
TRIPS: Fact[Sequence[Trip]] = Fact("tripped", lambda trips: [asdict(trip) for trip in trips], _trips)
#: What the process that runs the batch waits for; None while it goes on.
WAIT: Fact[NotedWait] = Fact("wait", _wait_json, _wait)
#: What people were notified of.
NOTIFIED: Fact[Notified] = Fact("notified", asdict, lambda noted: Notified(**noted))
#: The secret fields of inputs, by the Actor's schema; None if it could not be read.
SECRETS: Fact[SecretFields] = Fact(
    "secrets", lambda secrets: secrets.paths, lambda noted: SecretFields(tuple(tuple(path) for path in noted))
)
PINNED_BUILD: Fact[PinnedBuild] = Fact("pinned_build", asdict, lambda noted: PinnedBuild(**noted))
#: Hashes of the task's input, options and Actor when the batch was last opened.
TASK_AS_OPENED: Fact[JsonObject] = Fact("task_as_opened", from_json=_object)
#: Number of commits that have noted intents; `starts.jsonl` counts along.
START_COMMITS: Fact[int] = Fact("start_commits", from_json=_number)
#: Id of the last retry whose jobs were reopened; None: it had none, or it was a command's.
RETRIED: Fact[str] = Fact("retried", from_json=_text)
#: Ids of the last retries that had one, the newest last.
RETRIES: Fact[Sequence[str]] = Fact("retries", from_json=_list)
#: Runs that `batchrun abort` has found ended, or ended; the attempts that started them are as they were.
ABORTED: Fact[Sequence[RunId]] = Fact("aborted", from_json=_list)
#: The output file whose repair has begun and not ended; None if no repair has.
REPAIRING: Fact[str] = Fact("repairing", from_json=_text)
#: The last entry of the shared log that this ledger has.
LOG_POSITION: Fact[LogPosition] = Fact("log_position", asdict, lambda noted: LogPosition(**noted))
#: Id of the last claim that was tried from this directory, and the host of the process.
LOG_CLAIM: Fact[LogClaim] = Fact("log_claim", asdict, lambda noted: LogClaim(**noted))
#: In a directory that is united of the parts of a batch: how much of each part's output files it has, in bytes.
UNITED: Fact[Mapping[str, Mapping[str, int]]] = Fact("united", from_json=_object)

#: Max ids of retries that are kept, for clients that repeat an order.
_MAX_RETRIES = 20


def note_retry(ledger: Facts, retry_id: str | None) -> None:
    """Note a retry whose jobs are reopened in the same commit; None: one by a command, which has no id."""
    ledger.note_fact(RETRIED, retry_id)
    if retry_id is not None:
        ledger.note_fact(RETRIES, [*(ledger.fact(RETRIES) or ()), retry_id][-_MAX_RETRIES:])


def has_retried(ledger: NotedFacts, retry_id: str) -> bool:
    """True if the jobs of a retry were reopened, as far as the last ones are known."""
    return retry_id == ledger.fact(RETRIED) or retry_id in (ledger.fact(RETRIES) or ())
