"""The jobs that did not succeed, by cause, each cause with a sample; readable while another process runs the batch."""

from pathlib import Path
from urllib.parse import quote, urlsplit

from batchrun.config import ApiConfig
from batchrun.ledger.facts import TRIPS
from batchrun.ledger.protocol import FailureKind
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import JobKey, Outcome, Position, RunId, Selection
from batchrun.output.kept_logs import KeptLogs
from batchrun.policy.failure_cause import without_exit_code
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.words.terminal_text import one_line

#: Max causes that are listed; the others are only counted.
MAX_KINDS = 50
_MESSAGE_CHARS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCause:
    """The jobs that did not succeed for one cause, and the first of them as a sample."""

    #: Names the cause in `retry --failure`.
    id: str
    count: int
    outcome: Outcome
    error_type: str | None
    exit_code: int | None
    #: The sample's error message.
    message: str
    key: JobKey
    run_id: RunId | None
    #: None: no log was kept.
    log_tail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(FailureCause):
    """A cause whose sample can be read again from the job file."""

    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The jobs that did not succeed, most frequent causes first."""

    kinds: list[Failure]
    #: Causes beyond MAX_KINDS, and their jobs.
    other_kinds: int
    other_jobs: int
    #: Lines that are no jobs.
    bad_lines: int
    succeeded: int

    @property
    def jobs(self) -> int:
        """How many jobs did not succeed."""
        return self.other_jobs + sum(kind.count for kind in self.kinds)


def read_failures(directory: Path, selection: Selection) -> Failures:
    """Return the settled jobs of an output directory by cause; an empty Selection means all that did not succeed."""
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return failures_of(ledger, directory, selection)


def count_failures(directory: Path, selection: Selection) -> int:
    """Count the jobs that `read_failures` returns, without their samples."""
    with open_for_reading(directory) as ledger:
        return ledger.failed_jobs.count(selection)


def failures_of(ledger: LedgerReader, directory: Path, selection: Selection) -> Failures:
    """Return the settled jobs of an open ledger by cause."""
    logs = KeptLogs(directory)
    found = ledger.failed_jobs.kinds(selection, MAX_KINDS)
    outcomes = ledger.count_outcomes()
    kinds = [_failure(ledger, logs, kind) for kind in found.kinds]
    return Failures(
        kinds=kinds,
        other_kinds=found.kinds_in_all - len(kinds),
        other_jobs=found.jobs_in_all - sum(kind.count for kind in kinds),
        bad_lines=outcomes.get(Outcome.INVALID, 0),
        succeeded=outcomes.get(Outcome.SUCCEEDED, 0),
    )


def read_unknown(directory: Path, selection: Selection) -> dict[str, list[str]]:
    """Return the names in a selection that no job of the batch has, by part: keys, groups, error types, causes."""
    named = {part: getattr(selection, part) or () for part in ("keys", "groups", "error_types", "failures")}
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return {part: ledger.failed_jobs.unknown(part, values) for part, values in named.items() if values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripped:
    """The jobs in the window of the breaker when it last tripped, of all groups."""

    keys: list[JobKey]
    #: True if it tripped because successes brought no items.
    is_for_empty: bool


def read_tripped(directory: Path) -> Tripped | None:
    """Return the jobs for which the breaker last tripped; None if it never did."""
    with open_for_reading(directory) as ledger:
        trips = ledger.fact(TRIPS)
    if trips is None:
        return None
    keys = list(dict.fromkeys(key for trip in trips for key in trip.keys))
    return Tripped(keys=keys, is_for_empty=any(trip.is_for_empty for trip in trips))


def _failure(ledger: LedgerReader, logs: KeptLogs, kind: FailureKind) -> Failure:
    sample = kind.sample
    assert sample.key is not None, "a bad line is no job that could be selected"
    attempts = ledger.attempts(sample.id)
    run_ids = [each.run_id for each in attempts if each.round == sample.round and each.run_id is not None]
    run_id = run_ids[-1] if run_ids else None
    ended = sample.settlement
    tail = logs.read(run_id) if run_id is not None else None
    return Failure(
        id=kind.id,
        count=kind.count,
        outcome=ended.outcome,
        error_type=ended.error_type,
        exit_code=ended.exit_code,
        message=without_exit_code(ended.error_message or "", ended.exit_code),
        key=sample.key,
        position=sample.position,
        run_id=run_id,
        log_tail=tail.decode("utf-8", "replace") if tail is not None else None,
    )


def cause_words(failure: FailureCause) -> str:
    """Return a cause and its number of jobs in words: `81 failed, exit 91, "403 blocked"`."""
    return f"{failure.count:,} {kind_words(failure)}"


def kind_words(failure: FailureCause) -> str:
    """Return a cause in words: `failed, exit 91, "403 blocked"`."""
    words = [failure.outcome.replace("_", " ")]
    if failure.outcome is Outcome.REJECTED and failure.error_type:
        words.append(one_line(failure.error_type, _MESSAGE_CHARS))
    if failure.exit_code is not None:
        words.append(f"exit {failure.exit_code}")
    if failure.message:
        words.append(f'"{one_line(failure.message, _MESSAGE_CHARS)}"')
    return ", ".join(words)


def run_address(api: ApiConfig, run_id: RunId) -> str | None:
    """Return the address of a Run's page; None for an embedded platform that is not running here.

    A platform on this machine is taken for `batchrun serve`, which has a page; others answer with the Run as JSON.
    """
    if api.is_embedded:
        return None
    if urlsplit(api.base_url).hostname == "api.apify.com":
        return f"https://console.apify.com/view/runs/{quote(run_id, safe='')}"
    place = "#/runs" if api.is_loopback else "v2/actor-runs"
    return f"{api.base_url.rstrip('/').removesuffix('/v2')}/{place}/{quote(run_id, safe='')}"
