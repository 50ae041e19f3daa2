"""Rewrite missing or damaged lines of the output files from the ledger and the platform; starts no Run.

A new file is written beside the old one and replaces it when it is complete. Until the ledger has noted the new file's
length, it notes that a repair is under way, and no process resumes the batch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import orjson

from batchrun.apify.client import ApifyClient
from batchrun.apify.user_agent import by_mark
from batchrun.batch.configured_engine import output_plan
from batchrun.config.job_format_builder import job_format
from batchrun.engine.collect import OUTPUT_GONE, Collected, Collector
from batchrun.engine.run_outcome import has_messages, outcome_of, with_end, without_secrets
from batchrun.errors import BatchRefused, ConfigError, JobFileError, LedgerError, NotFound, OutputError
from batchrun.jobs import JobFile
from batchrun.ledger.facts import REPAIRING, SECRETS, START_COMMITS
from batchrun.ledger.protocol import ItemWriter, SettledJob
from batchrun.ledger.sqlite.start_log import StartLog
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.maintenance.idle_batch import IdleBatch, open_idle_batch
from batchrun.maintenance.ledger_rebuild import rebuild_damaged_ledger
from batchrun.maintenance.noted_config import read_config
from batchrun.maintenance.refresh_costs import finish_costs, open_idle_ledger
from batchrun.model import Attempt, AttemptState, BadLine, Items, Job, JobId, JobKey, Problem, Record, Run
from batchrun.output.atomic_write import Replacement
from batchrun.output.bad_lines import bad_line_json
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS, STARTS
from batchrun.output.lock import enter_lock
from batchrun.policy.secret_fields import MASK, InputSecrets
from batchrun.preflight.preparation import read_input_secrets
from batchrun.report.batch_status import Doubt
from batchrun.report.output_files.costs_jsonl import write_costs
from batchrun.runtime.byte_budget import ByteBudget
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.shell_command import shell_command


@dataclass(slots=True)
class Repaired:
    """The result of a repair."""

    #: Records that were intact.
    kept: int = 0
    #: Records that were rewritten.
    rebuilt: int = 0
    #: Rewritten records whose Run the platform has deleted: they hold only what the ledger knows.
    without_run: int = 0
    #: Runs whose items were rewritten.
    item_runs: int = 0
    #: Lines of bad_lines.jsonl that were rewritten.
    bad_lines: int = 0
    #: Where the damaged ledger is kept, if it was rebuilt.
    damaged_ledger: Path | None = None


async def repair_outputs(
    directory: Path, environ: Mapping[str, str], client: ApifyClient | None = None, buffers: ByteBudget | None = None
) -> Repaired:
    """Rewrite missing or damaged lines of records.jsonl, items.jsonl and bad_lines.jsonl, and all of costs.jsonl.

    First, a ledger that is damaged, missing or older than its records is rebuilt. Costs that are not final are read.

    A worker gives its own `buffers`, which all its batches share, instead of what the batch may hold.

    Raises:
        OutputError: the directory holds no batch, a process runs it, or the disk refuses the new file.
        JobFileError: the ledger is damaged, and the job file is not the one that the batch was begun with.
        BatchRefused: the platform does not accept the token.
    """
    await anyio.to_thread.run_sync(_refuse_no_batch, directory)
    await anyio.to_thread.run_sync(_refuse_shared_log, directory)
    async with enter_lock(directory):
        rebuild = partial(rebuild_damaged_ledger, directory, has_platform=client is not None)
        damaged = await anyio.to_thread.run_sync(rebuild)
    async with open_idle_batch(directory, environ, client) as batch, open_idle_ledger(directory) as ledger:
        repair = await anyio.to_thread.run_sync(_Repair, directory, batch, ledger, buffers)
        repair.done.damaged_ledger = damaged
        await repair.earlier_attempts()
        await repair.records()
        await anyio.to_thread.run_sync(repair.bad_lines)
        if batch.config.output.items == "file":
            await repair.items()
        await anyio.to_thread.run_sync(repair.finish)
        await finish_costs(batch, ledger)
        await anyio.to_thread.run_sync(write_costs, directory)
        return repair.done


def _refuse_shared_log(directory: Path) -> None:
    """Refuse a batch that other machines have as well: they would not learn what is written here."""
    with suppress(LedgerError, ConfigError):  # what is damaged tells nothing of a log
        url = read_config(directory)[0].replica.url
        if url is not None:
            pull = shell_command("batchrun", "pull", url, "NEW_DIR")
            raise OutputError(
                f"{directory}: the batch's shared log has every line. `{pull}` writes them into a new directory"
            )


def _refuse_no_batch(directory: Path) -> None:
    if not any((directory / name).exists() for name in (LEDGER, RECORDS, STARTS)):
        raise LedgerError(f"{directory}: holds no ledger; is it the output directory of a batch?")


class _Repair:
    def __init__(self, directory: Path, batch: IdleBatch, ledger: LedgerTables, buffers: ByteBudget | None) -> None:
        self._directory = directory
        self._batch = batch
        self._ledger = ledger
        self._plan = output_plan(batch.config.output)
        self._buffers = buffers or ByteBudget.of_megabytes(batch.config.limits.max_buffer_mb)
        #: Whether an earlier repair of the items was interrupted.
        self._is_cut_short = ledger.fact(REPAIRING) == ITEMS
        #: The secrets of the inputs; None: not read yet.
        self._secrets: InputSecrets | None = None
        self.done = Repaired()

    async def earlier_attempts(self) -> None:
        """Find the Runs of attempts that a rebuilt ledger has in doubt, and whose jobs had another attempt since."""
        doubts = await anyio.to_thread.run_sync(self._earlier_doubts)
        runs = (await self._batch.runs_for(doubts)).runs if doubts else []
        found = by_mark(runs, {doubt.attempt.mark for doubt in doubts})
        for doubt in doubts:
            ours = found.get(doubt.attempt.mark)
            run = await self._batch.client.get_run(ours[0].id) if ours else None
            await anyio.to_thread.run_sync(self._resolve, doubt, run)

    def _earlier_doubts(self) -> list[Doubt]:
        return [
            Doubt(job_id=job.id, job_key=job.key, attempt=attempt)
            for job in self._ledger.begun_jobs()
            for attempt in job.attempts[:-1]
            if attempt.state is AttemptState.INTENDED
        ]

    def _resolve(self, doubt: Doubt, run: Run | None) -> None:
        with self._ledger.transaction():
            if run is None:
                self._ledger.deny(doubt.job_id, doubt.attempt.attempt_no)
                return
            outcome, _ = outcome_of(run, None)
            ended = with_end(doubt.attempt, run, outcome, None, run.finished_at or datetime.now(UTC))
            self._ledger.bind(doubt.job_id, doubt.attempt.attempt_no, run)
            self._ledger.restore_attempt(doubt.job_id, replace(ended, run_id=run.id, started_at=run.started_at))

    async def records(self) -> None:
        """Keep the intact lines and rewrite those of the other settled jobs, round by round.

        By this order the last line of a job is that of its latest round.
        """
        replacement = await anyio.to_thread.run_sync(Replacement, self._directory / RECORDS)
        for number in await anyio.to_thread.run_sync(self._rounds):
            present = await anyio.to_thread.run_sync(self._keep_records, replacement, number)
            missing = await anyio.to_thread.run_sync(self._settled_without, present, number)
            jobs = await anyio.to_thread.run_sync(self._read_again, missing)
            for settled in missing:
                job = jobs.get(settled.id)
                record = await self._without_secrets(await self._rebuild(settled, job), settled, job)
                await anyio.to_thread.run_sync(replacement.write, record.as_line())
                self.done.rebuilt += 1
        await anyio.to_thread.run_sync(self._put_in_place, RECORDS, replacement)

    def _rounds(self) -> range:
        return range(1, self._ledger.last_round() + 1)

    def _keep_records(self, replacement: Replacement, number: int) -> set[JobId]:
        present: set[JobId] = set()
        for line in replacement.old_lines():
            job_id = self._settled_job_of(line, number)
            if job_id is not None and job_id not in present:
                present.add(job_id)
                replacement.write(line)
        self.done.kept += len(present)
        return present

    def _settled_job_of(self, line: bytes, number: int) -> JobId | None:
        """Return the job that a line of this round reports; None when the line is damaged or was never committed."""
        try:
            record = orjson.loads(line)
            if record["round"] != number or not record["outcome"]:
                return None
            return self._ledger.settled_id(record["key"], record["line"], number)
        except (ValueError, KeyError, TypeError):
            return None

    def _settled_without(self, present: set[JobId], number: int) -> list[SettledJob]:
        return [job for job in self._ledger.settled_jobs(number) if job.id not in present]

    def _attempts(self, settled: SettledJob) -> list[Attempt]:
        """Return the attempts of the round in which the job was settled."""
        return [each for each in self._ledger.attempts(settled.id) if each.round == settled.round]

    def _read_again(self, missing: Iterable[SettledJob]) -> dict[JobId, Job]:
        """Reread the jobs' lines; jobs whose line has changed or is gone are left out."""
        jobs: dict[JobId, Job] = {}
        with suppress(JobFileError), JobFile(job_format(self._batch.config, {})) as job_file:
            for settled in missing:
                with suppress(JobFileError):
                    jobs[settled.id] = _same_job(job_file, settled)
        return jobs

    async def _rebuild(self, settled: SettledJob, job: Job | None) -> Record:
        attempts = await anyio.to_thread.run_sync(self._attempts, settled)
        run = await self._last_run(attempts)
        noted = settled.settlement
        record = Record(
            key=settled.key,
            line=settled.position.line,
            round=settled.round,
            group=settled.group,
            meta=job.meta if job is not None else None,
            outcome=noted.outcome,
            attempts=tuple(attempts),
            run=run.fields if run is not None else None,
            items=_noted_items(noted.items_count, run),
            error=Problem(type=noted.error_type, message=noted.error_message or "") if noted.error_type else None,
            admitted_at=settled.admitted_at if settled.key is not None else None,
            started_at=run.started_at if run is not None else None,
            finished_at=run.finished_at if run is not None else None,
        )
        if run is None or job is None:
            return record
        # The items of the item file are rewritten by `items`; here only what is part of the record is collected.
        plan = replace(self._plan, items="none") if self._plan.items == "file" else self._plan
        collector = Collector(self._batch.client, _PagesTo(None), plan, self._buffers)
        with collector.room() as room:
            collected = await collector.collect(job, settled.id, attempts[-1], run, noted.outcome, room)
        refuse_unreadable(collected)
        items = collected.items or record.items
        return replace(record, output=collected.output, output_error=collected.output_error, items=items)

    async def _without_secrets(self, record: Record, settled: SettledJob, job: Job | None) -> Record:
        """Return a record whose messages quote no secret of its input; no status message, if its line has changed."""
        if not has_messages(record):
            return record
        if self._secrets is None:
            fields = await anyio.to_thread.run_sync(self._ledger.fact, SECRETS)
            batch = self._batch
            self._secrets = await read_input_secrets(batch.client, batch.config, batch.task_id, fields)
        if job is not None and job.digest == settled.digest:
            return without_secrets(record, self._secrets.of(job.body))
        if self._secrets.are_none or record.run is None or not record.run.get("statusMessage"):
            return record
        return replace(record, run={**record.run, "statusMessage": MASK})

    async def _last_run(self, attempts: list[Attempt]) -> Run | None:
        run_id = next((each.run_id for each in reversed(attempts) if each.run_id is not None), None)
        if run_id is None:
            return None
        with suppress(NotFound):
            run = await self._batch.client.get_run(run_id)
            if not run.is_of_another(self._batch.task_id):
                return run
        self.done.without_run += 1
        return None

    def bad_lines(self) -> None:
        """Keep the intact lines of bad_lines.jsonl, and rewrite the others from ledger and job file."""
        missing = {job.position.line: job for job in self._ledger.settled_jobs(1) if job.key is None}
        replacement = Replacement(self._directory / BAD_LINES)
        for line in replacement.old_lines():
            if missing.pop(_bad_line_no(line), None) is not None:
                replacement.write(line)
        contents = self._contents(missing)
        for number, job in missing.items():
            reason = job.settlement.error_message or ""
            bad_line = BadLine(position=job.position, reason=reason, content=contents.get(number, ""))
            replacement.write(bad_line_json(bad_line))
            self.done.bad_lines += 1
        self._put_in_place(BAD_LINES, replacement)

    def _contents(self, missing: Mapping[int, SettledJob]) -> dict[int, str]:
        """Reread lines of the job file; those that cannot be reread are left out."""
        contents: dict[int, str] = {}
        wanted = job_format(self._batch.config, {})
        if not missing or wanted.is_stdin:
            return contents
        with suppress(JobFileError), JobFile(wanted) as job_file:
            for made in job_file.read():
                if made.position.line in missing:
                    content = made.content if isinstance(made, BadLine) else made.body.decode("utf-8", "replace")
                    contents[made.position.line] = content
        return contents

    async def items(self) -> None:
        """Rewrite the item file when it has not exactly the lines that the ledger says: all items of each Run, once."""
        replacement = await anyio.to_thread.run_sync(Replacement, self._directory / ITEMS)
        if not self._is_cut_short and await anyio.to_thread.run_sync(self._are_items_intact, replacement):
            await anyio.to_thread.run_sync(replacement.discard)
            return
        incomplete = await anyio.to_thread.run_sync(self._keep_items, replacement)
        jobs = await anyio.to_thread.run_sync(self._read_again, incomplete)
        collector = Collector(self._batch.client, _PagesTo(replacement), self._plan, self._buffers)
        for settled in incomplete:
            attempts = await anyio.to_thread.run_sync(self._attempts, settled)
            run = await self._last_run(attempts)
            if run is None:
                await anyio.to_thread.run_sync(self._keep_what_is_left, replacement, attempts)
                continue
            job = jobs.get(settled.id) or _stand_in(settled)
            fresh = replace(attempts[-1], items_offset=0, items_count=0)
            with collector.room() as room:
                collected = await collector.collect(job, settled.id, fresh, run, settled.settlement.outcome, room)
                refuse_unreadable(collected)
                await anyio.to_thread.run_sync(replacement.write, collected.item_lines)
            self.done.item_runs += 1
        await anyio.to_thread.run_sync(self._put_in_place, ITEMS, replacement)

    def _are_items_intact(self, replacement: Replacement) -> bool:
        """Whether each line up to the committed length is an item, and each Run has as many as the ledger says."""
        counts, length, committed = Counter[Any](), 0, self._ledger.output_lengths().get(ITEMS, 0)
        for line in replacement.old_lines():
            if length >= committed:
                break
            length += len(line)
            counts[_run_of(line)] += 1
        for settled in chain.from_iterable(self._ledger.settled_jobs(number) for number in self._rounds()):
            if settled.settlement.items_count:
                counts[self._attempts(settled)[-1].run_id] -= settled.settlement.items_count
        for job in self._ledger.begun_jobs():
            for attempt in job.attempts:
                counts[attempt.run_id] -= attempt.items_count
        return length == committed and not any(counts.values())

    def _keep_items(self, replacement: Replacement) -> list[SettledJob]:
        """Keep the lines of complete Runs; return the jobs (and rounds) whose items have to be rewritten."""
        counts = Counter(run_id for line in replacement.old_lines() if (run_id := _run_of(line)) is not None)
        complete: set[str] = set()
        incomplete = []
        for settled in chain.from_iterable(self._ledger.settled_jobs(number) for number in self._rounds()):
            if not settled.settlement.items_count:
                continue
            run_id = self._attempts(settled)[-1].run_id
            if run_id is not None and counts[run_id] == settled.settlement.items_count:
                complete.add(run_id)
            else:
                incomplete.append(settled)
        for line in replacement.old_lines():
            if _run_of(line) in complete:
                replacement.write(line)
        return incomplete

    def _keep_what_is_left(self, replacement: Replacement, attempts: list[Attempt]) -> None:
        """Keep the lines of a Run that the platform has deleted."""
        run_ids = {each.run_id for each in attempts}
        for line in replacement.old_lines():
            if _run_of(line) in run_ids:
                replacement.write(line)

    def finish(self) -> None:
        """Let processes run the batch again, with a log of starts that goes by the new files."""
        items = self._directory / ITEMS
        with self._ledger.transaction():
            if ITEMS not in self._ledger.output_lengths() and items.exists():
                self._ledger.note_output_lengths({ITEMS: items.stat().st_size})  # of a batch that collects none now
            self._ledger.note_fact(REPAIRING, None)
        start_log = StartLog(self._directory, self._ledger)
        start_log.begin(self._ledger.fact(START_COMMITS) or 0)
        start_log.close()

    def _put_in_place(self, name: str, replacement: Replacement) -> None:
        with self._ledger.transaction():
            self._ledger.note_fact(REPAIRING, ITEMS if self._is_cut_short or name == ITEMS else name)
        length = replacement.put_in_place()
        crash_point("repaired")
        with self._ledger.transaction():
            self._ledger.note_output_lengths({name: length})
            if name == ITEMS:
                self._ledger.forget_open_items()


def refuse_unreadable(collected: Collected) -> None:
    """Refuse to put a file in place that lacks items which the platform has, and cannot send now.

    Items that are gone for good do not keep a repair from the others.

    Raises:
        BatchRefused: the files are as they were.
    """
    if collected.problem is not None and collected.problem.type != OUTPUT_GONE:
        raise BatchRefused(f"{collected.problem.message}. Nothing was changed; run the same command again later")


class _PagesTo(ItemWriter):
    """Writes pages of items into a file; without a file, no page may come."""

    def __init__(self, replacement: Replacement | None) -> None:
        self._replacement = replacement

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:  # noqa: ARG002
        assert self._replacement is not None, "no items are collected into the item file here"
        await anyio.to_thread.run_sync(self._replacement.write, lines)


def _same_job(job_file: JobFile, settled: SettledJob) -> Job:
    (job,) = job_file.reread([settled.position])
    if job.key != settled.key:
        raise JobFileError("was changed", file="", line=settled.position.line)
    return job


def _stand_in(settled: SettledJob) -> Job:
    """Return a job with what the ledger knows of it, where its line cannot be reread."""
    key = settled.key or JobKey("")
    return Job(key=key, digest=settled.digest, position=settled.position, body=b"{}", group=settled.group)


def _noted_items(count: int | None, run: Run | None) -> Items | None:
    return None if count is None else Items(count=count, dataset_id=run.dataset_id if run is not None else None)


def _bad_line_no(line: bytes) -> Any:
    try:
        noted = orjson.loads(line)
        return noted["line"] if isinstance(noted["content"], str) and noted["reason"] else None
    except (ValueError, TypeError, KeyError):
        return None


def _run_of(line: bytes) -> Any:
    try:
        item = orjson.loads(line)
    except ValueError:
        return None
    run_id = item.get("_run") if isinstance(item, dict) else None
    return run_id if isinstance(run_id, str) else None
