"""Rebuild a ledger that is missing, damaged or older than the files beside it; asks the platform for nothing.

The job file says which jobs there are, the records how they ended, and the log of starts which of the others were
started. An attempt that the records do not have comes back in doubt: the batch finds its Run by the mark, as after a
lost answer, and starts nothing twice.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

import orjson

from batchrun.config import Config
from batchrun.config.job_format_builder import job_format, shard_of
from batchrun.errors import DamagedLedger, JobFileError, LedgerError
from batchrun.jobs import JobFile, ReadPoint
from batchrun.ledger.facts import CONFIG, DUPLICATES, READ_TO, REPAIRING, SIGNATURE, START_COMMITS, TASK_ID
from batchrun.ledger.line_admission import admit_lines
from batchrun.ledger.protocol import ReadTo, Settlement
from batchrun.ledger.sqlite.restored_ledger import refuse_missing_ledger, refuse_older_ledger
from batchrun.ledger.sqlite.start_log import NotedStart, read_start_log
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.maintenance.noted_config import config_of, refuse_unsigned
from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    Cause,
    CostSource,
    Job,
    JobKey,
    JsonObject,
    Mark,
    Outcome,
    RunId,
    RunStatus,
    read_json,
)
from batchrun.output.committed_lines import bounded_lines
from batchrun.output.layout import ITEMS, LEDGER, RECORDS, STARTS
from batchrun.output.sink import explaining, sync_directory
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.private_files import is_confined, private_opener

_REBUILT = f"{LEDGER}.rebuilt"
#: Lines of the job file that are admitted at a time.
_LINES_AT_ONCE = 1000
_EXIT_CODE = re.compile(r"\(exit code (-?\d+)\)$")


def rebuild_damaged_ledger(directory: Path, *, has_platform: bool = False) -> Path | None:
    """Rebuild the ledger if it is damaged, and return where the old one is kept; None: it is whole.

    The directory is locked by this process. Afterwards the ledger notes that the output files are under repair.

    Args:
        directory: of the batch.
        has_platform: True if the caller is a worker, whose directories are its own, but for those in its spool.

    Raises:
        ConfigError: the directory may be somebody else's, who would choose which file is read as the job file.
        LedgerError: the files beside the ledger are not enough to rebuild it; nothing was changed.
        JobFileError: the job file is not the one that the batch was begun with; nothing was changed.
    """
    try:
        refuse_missing_ledger(directory)
        if (directory / LEDGER).exists():
            with open_ledger(directory) as ledger:  # brings one of an earlier version up to date
                ledger.check()
                refuse_older_ledger(ledger, directory)
    except DamagedLedger as damage:
        for end in ("", "-wal", "-shm"):
            (directory / f"{_REBUILT}{end}").unlink(missing_ok=True)
        _rebuild(directory, damage, has_platform=has_platform)
        crash_point("rebuilt")
        return _put_in_place(directory)
    return None


def _put_in_place(directory: Path) -> Path:
    kept = next(file for n in count(1) if not (file := directory / f"{LEDGER}.damaged-{n}").exists())
    with explaining(directory / LEDGER):
        for end in ("-wal", "-shm", ""):
            old = directory / f"{LEDGER}{end}"
            if old.exists():
                old.rename(kept.with_name(kept.name + end))
        crash_point("moved_away")
        (directory / _REBUILT).rename(directory / LEDGER)
        sync_directory(directory)
    return kept


def _rebuild(directory: Path, damage: DamagedLedger, *, has_platform: bool) -> None:
    facts, commits, records_bytes = _noted_in_log(directory)
    if CONFIG.name not in facts:
        raise LedgerError(f"{damage}. But it cannot be: {STARTS} beside it, which has the configuration, is missing")
    noted_config = read_json(facts[CONFIG.name])
    if not has_platform or is_confined(directory):
        task_id, signature = (read_json(facts.get(fact.name, "null")) for fact in (TASK_ID, SIGNATURE))
        refuse_unsigned(noted_config, task_id, signature, directory)
    config = config_of(noted_config, directory)
    _refuse_damaged_records(directory / RECORDS, records_bytes)
    with open_ledger(directory, _REBUILT) as ledger, ledger.transaction():
        for name, value in facts.items():
            ledger.note_json(name, value)
        mending = _admit_all(ledger, config)
        for record in _records(directory / RECORDS):
            mending.follow(record["key"], record["line"])
            _restore_record(ledger, record, config)
        for line in read_start_log(directory):
            for start in line.starts:
                mending.follow(start.key, start.line)
                _restore_start(ledger, start, config)
        mending.admit_rest()
        ledger.note_fact(DUPLICATES, sum(1 for _ in ledger.duplicates()))
        ledger.note_fact(START_COMMITS, commits)
        ledger.note_fact(REPAIRING, ITEMS)


def _noted_in_log(directory: Path) -> tuple[dict[str, str], int, int]:
    """Return the facts in the log of starts, its count of commits, and the length of the records where it begins."""
    facts: dict[str, str] = {}
    commits = records_bytes = 0
    for line in read_start_log(directory):
        commits = max(commits, line.commits)
        if line.facts is not None:
            facts, records_bytes = line.facts, line.records_bytes
    return facts, commits, records_bytes


def _refuse_damaged_records(file: Path, records_bytes: int) -> None:
    """Refuse a file of records that lacks lines which were committed before the log of starts begins.

    Raises:
        LedgerError: the jobs of the missing lines would be started again.
    """
    length = 0
    if file.exists():
        with explaining(file), open(file, "rb", opener=private_opener) as opened:
            for number, line in enumerate(opened, 1):
                if length >= records_bytes:
                    break
                length += len(line)
                if _parsed(line) is None:
                    raise LedgerError(
                        f"{file}:{number}: is damaged, so the ledger cannot be rebuilt from it. Put the newest {LEDGER}"
                        f" or {RECORDS} back"
                    )
    if length < records_bytes:
        raise LedgerError(
            f"{file}: has {length} bytes where {records_bytes} were written, so the ledger cannot be rebuilt from it."
            f" Put the newest {LEDGER} or {RECORDS} back"
        )


class _Mending:
    """The lines that replace others, in the order of the file: which of them counts is for records and starts to say.

    They are held in memory; a person writes them, so they are few.
    """

    def __init__(self, ledger: LedgerTables) -> None:
        self._ledger = ledger
        self._jobs: dict[int, list[Job]] = {}

    def without(self, entries: Iterable[Job | BadLine]) -> list[Job | BadLine]:
        """Return the other entries, and hold these for later."""
        others: list[Job | BadLine] = []
        for entry in entries:
            if isinstance(entry, Job) and entry.replaces:
                self._jobs.setdefault(entry.position.line, []).append(entry)
            else:
                others.append(entry)
        return others

    def admit_new(self) -> None:
        """Admit those that have nothing to replace."""
        for job in self._in_order():
            if self._ledger.id_of(job.key) is None:
                self._ledger.admit(job)

    def follow(self, key: str | None, line: int) -> None:
        """Give a job the line of its record or start; a record without a key says that the line was refused."""
        for job in self._jobs.get(line, ()):
            job_id = self._ledger.id_of(job.key)
            if key is None:
                bad_line = BadLine(position=job.position, reason="it was refused", content="")
                _settle_bad_line(self._ledger, bad_line)
            elif key == job.key and job_id is not None:
                self._ledger.move(job_id, job)

    def admit_rest(self) -> None:
        """Let those that were not read yet, or did not come to a start, replace the jobs with their keys."""
        read_to = self._ledger.fact(READ_TO)
        assert read_to is not None, "the job file was read"
        point = ReadPoint(offset=read_to.offset, line=read_to.line, fingerprint=read_to.fingerprint)
        for job in self._in_order():
            _admit(self._ledger, [job], point)

    def _in_order(self) -> list[Job]:
        return [job for line in sorted(self._jobs) for job in self._jobs[line]]


def _settle_bad_line(ledger: LedgerTables, bad_line: BadLine) -> bool:
    job_id = ledger.admit_bad_line(bad_line)
    if job_id is not None:
        problem = Settlement(outcome=Outcome.INVALID, error_type="bad-line", error_message=bad_line.reason)
        ledger.settle(job_id, None, problem)
    return job_id is not None


def _admit_all(ledger: LedgerTables, config: Config) -> _Mending:
    """Admit all lines of the job file, whether they were read before or not; return those that replace others."""
    mending = _Mending(ledger)

    wanted = job_format(config, {})
    if wanted.is_stdin:
        raise LedgerError(f"{config.out_dir / LEDGER}: cannot be rebuilt, because its jobs came from standard input")
    with JobFile(wanted) as job_file:
        entries: Iterator[Job | BadLine] = job_file.read(holds_back=True, limit=config.jobs.limit)
        has = shard_of(config).has
        while chunk := list(islice(entries, _LINES_AT_ONCE)):
            _admit(ledger, mending.without(filter(has, chunk)), job_file.read_point)
        if job_file.unended is not None:
            _admit(ledger, mending.without(filter(has, job_file.build_unended())), job_file.read_point)
    mending.admit_new()
    return mending


def _admit(ledger: LedgerTables, entries: Sequence[Job | BadLine], point: ReadPoint) -> None:
    read_to = ReadTo(offset=point.offset, line=point.line, fingerprint=point.fingerprint)
    admit_lines(
        entries,
        read_to,
        ledger,
        ledger.admit,
        ledger.replace,
        lambda bad_line, _: _settle_bad_line(ledger, bad_line),
        ledger.note_duplicate,
        held=None,
    )


def _records(file: Path) -> Iterator[JsonObject]:
    if file.exists():
        with explaining(file), open(file, "rb", opener=private_opener) as opened:
            yield from (record for line in bounded_lines(opened, file) if (record := _parsed(line)) is not None)


def _parsed(line: bytes) -> JsonObject | None:
    try:
        record = orjson.loads(line)
        return record if line.endswith(b"\n") and record["outcome"] and record["round"] else None
    except (ValueError, TypeError, KeyError):
        return None


def _restore_record(ledger: LedgerTables, record: JsonObject, config: Config) -> None:
    """Settle the job that a record reports; a bad line was settled when it was read."""
    key, number = record["key"], record["round"]
    if key is None or ledger.settled_id(key, record["line"], number) is not None:
        return
    job_id = ledger.id_of(JobKey(key))
    if job_id is None:
        raise _not_in_job_file(config, key, record["line"])
    error, items, times = record["error"] or {}, record["items"] or {}, record["times"]
    exit_code = _EXIT_CODE.search(error.get("message", ""))
    ledger.restore_round(
        job_id,
        number,
        admitted_at=_time(times["admitted_at"]) or datetime.now(UTC),
        settled_at=_time(times["finished_at"]) or datetime.now(UTC),
        settlement=Settlement(
            outcome=Outcome(record["outcome"]),
            error_type=error.get("type"),
            error_message=error.get("message"),
            exit_code=int(exit_code[1]) if exit_code is not None else None,
            items_count=items.get("count"),
        ),
    )
    for attempt in record["attempts"]:
        ledger.restore_attempt(job_id, _attempt(attempt, number, is_cost_final=record.get("cost_is_final", False)))


def _attempt(noted: JsonObject, number: int, *, is_cost_final: bool) -> Attempt:
    return Attempt(
        attempt_no=noted["attempt_no"],
        round=number,
        mark=Mark(""),
        state=AttemptState.ENDED,
        run_id=RunId(noted["run_id"]) if noted["run_id"] is not None else None,
        status=RunStatus(noted["status"]) if noted["status"] is not None else None,
        cause=Cause(noted["cause"]) if noted["cause"] is not None else None,
        memory_mb=noted["memory_mb"],
        timeout_s=noted["timeout_s"],
        intended_at=_time(noted["intended_at"]) or datetime.now(UTC),
        started_at=_time(noted["started_at"]),
        finished_at=_time(noted["finished_at"]),
        storages=noted.get("storages"),
        cost_usd=noted["cost_usd"],
        cost_source=CostSource(noted["cost_source"]),
        cost_is_final=is_cost_final,
    )


def _restore_start(ledger: LedgerTables, start: NotedStart, config: Config) -> None:
    """Note an attempt in doubt, unless the records know how it ended.

    Of two starts with one number the earlier one was withdrawn. So was one of a settled round that has no Run.
    """
    job_id = ledger.id_of(start.key)
    if job_id is None:
        raise _not_in_job_file(config, start.key, None)
    attempt = start.attempt
    if ledger.settled_id(start.key, 0, attempt.round) is None:
        ledger.restore_round(job_id, attempt.round, admitted_at=attempt.intended_at)
        ledger.restore_attempt(job_id, attempt)


def _not_in_job_file(config: Config, key: str, line: int | None) -> JobFileError:
    problem = f"does not have job {key!r} any more, which was started; restore the file as it was"
    return JobFileError(problem, file=config.jobs.file, line=line)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
