"""Rewrite missing or damaged lines of the output files from the ledger and the platform; starts no Run.

A new file is written beside the old one and replaces it when it is complete. Until the ledger has noted the new file's
length, it notes that a repair is under way, and no process resumes the batch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import orjson

from batchrun.batch.batch_engine import output_plan
from batchrun.config.job_format_builder import job_format
from batchrun.engine.collect import OUTPUT_GONE, Collected, Collector
from batchrun.errors import BatchRefused, JobFileError, NotFound
from batchrun.jobs import JobFile
from batchrun.ledger.facts import REPAIRING
from batchrun.ledger.protocol import ItemWriter, SettledJob
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.maintenance.idle_batch import IdleBatch, open_idle_batch
from batchrun.maintenance.open_costs import finish_costs
from batchrun.model import Attempt, Items, Job, JobId, JobKey, Problem, Record, Run
from batchrun.output.layout import ITEMS, RECORDS
from batchrun.output.replacement import Replacement
from batchrun.report.cost_file import write_costs
from batchrun.runtime.byte_budget import ByteBudget


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


async def repair_outputs(directory: Path, environ: Mapping[str, str]) -> Repaired:
    """Rewrite missing or damaged lines of records.jsonl, of items.jsonl when it is too short, and all of costs.jsonl.

    Costs that are not final are read.

    Raises:
        OutputError: the directory holds no batch, a process runs it, or the disk refuses the new file.
        BatchRefused: the platform does not accept the token.
    """
    async with open_idle_batch(directory, environ) as batch:
        with ExitStack() as stack:
            ledger = await anyio.to_thread.run_sync(stack.enter_context, open_ledger(directory))
            repair = await anyio.to_thread.run_sync(_Repair, directory, batch, ledger)
            await repair.records()
            if batch.config.output.items == "file":
                await repair.items()
            await finish_costs(batch, ledger)
            await anyio.to_thread.run_sync(write_costs, directory)
            return repair.done


class _Repair:
    def __init__(self, directory: Path, batch: IdleBatch, ledger: LedgerTables) -> None:
        self._directory = directory
        self._batch = batch
        self._ledger = ledger
        self._plan = output_plan(batch.config.output)
        self._buffers = ByteBudget.of_megabytes(batch.config.limits.max_buffer_mb)
        #: Whether an earlier repair of the items was interrupted.
        self._is_cut_short = ledger.fact(REPAIRING) == ITEMS
        self.done = Repaired()

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
                record = await self._rebuild(settled, jobs.get(settled.id))
                replacement.write(record.as_line())
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

    async def _last_run(self, attempts: list[Attempt]) -> Run | None:
        run_id = next((each.run_id for each in reversed(attempts) if each.run_id is not None), None)
        if run_id is None:
            return None
        try:
            return await self._batch.client.get_run(run_id)
        except NotFound:
            self.done.without_run += 1
            return None

    async def items(self) -> None:
        """Rewrite the item file when it is shorter than the ledger says: all items of each Run, once."""
        file = self._directory / ITEMS
        if not self._is_cut_short and await anyio.to_thread.run_sync(self._is_long_enough, file):
            return
        replacement = await anyio.to_thread.run_sync(Replacement, file)
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
                replacement.write(collected.item_lines)
            self.done.item_runs += 1
        await anyio.to_thread.run_sync(self._put_in_place, ITEMS, replacement)

    def _is_long_enough(self, file: Path) -> bool:
        committed = self._ledger.output_lengths().get(ITEMS, 0)
        return file.exists() and file.stat().st_size >= committed

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

    def _put_in_place(self, name: str, replacement: Replacement) -> None:
        with self._ledger.transaction():
            self._ledger.note_fact(REPAIRING, name)
        length = replacement.put_in_place()
        with self._ledger.transaction():
            self._ledger.note_output_lengths({name: length})
            self._ledger.note_fact(REPAIRING, None)
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


def _run_of(line: bytes) -> Any:
    try:
        item = orjson.loads(line)
    except ValueError:
        return None
    return item.get("_run") if isinstance(item, dict) else None
