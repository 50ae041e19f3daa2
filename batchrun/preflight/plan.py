"""`batchrun plan`: check a whole job file and forecast the batch's time and cost.

It starts no Run, creates no task and writes nothing into the output directory.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from batchrun.account.connect import open_platform, patiently, read_account
from batchrun.account.connected_task import refuse_other_account
from batchrun.account.limits_watch import slot_count
from batchrun.account.task import Task, find_task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo
from batchrun.config import ApiConfig, Config, ServerConfig
from batchrun.config.job_format_builder import job_format, shard_of
from batchrun.errors import JobFileError
from batchrun.jobs import NO_JOBS, JobFile
from batchrun.ledger.facts import ACCOUNT, READ_TO
from batchrun.ledger.protocol import ReadTo
from batchrun.ledger.sqlite.reader import is_begun, open_for_reading
from batchrun.model import MAX_BODY_BYTES, Ending, Job, JsonObject, Outcome
from batchrun.output.layout import SERVER_STATE
from batchrun.preflight.batch_forecast import Effort, Forecast, read_forecast
from batchrun.preflight.builds import Build, read_build
from batchrun.preflight.input_checks import JobCheck, job_check
from batchrun.preflight.job_file_counts import JobFileCounts
from batchrun.preflight.job_file_head import settle_dialect
from batchrun.preflight.line_problems import LineProblem
from batchrun.preflight.pinned_build import number_to_pin, pinned_before
from batchrun.preflight.same_batch import check_limit, refuse_changed_lines, refuse_other_settings
from batchrun.report.batch_status import read_summary
from batchrun.runtime.children import plain_errors
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.long_reads import read_in_thread, read_in_thread_of
from batchrun.words.number_words import counted

#: Lines that are read in one call to a thread; between two calls, signals are handled.
CHUNK_LINES = 5000
#: Bytes of their inputs after which fewer are read.
CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a batch would do."""

    account: str
    account_plan: str | None
    task: str
    #: False: `run` will create the described task.
    is_task_there: bool
    build: str | None
    #: How a CSV file is read: its columns, and how it separates and quotes cells; empty and None for JSON.
    columns: tuple[str, ...]
    delimiter: str | None
    quote: str | None
    #: Distinct jobs of the file, with and without problems.
    jobs: int
    #: False: the file goes on after the lines that were read.
    is_whole_file: bool
    #: Jobs by group, of the first 1,000 groups; "" counts the jobs without a group.
    groups: dict[str, int]
    #: Jobs of the groups after them.
    in_other_groups: int
    duplicates: int
    #: Jobs that earlier processes have settled; `run` skips them.
    settled: int
    largest_input_bytes: int
    max_input_bytes: int
    are_inputs_checked: bool
    #: Lines whose jobs would be refused, and the problems.
    failing_lines: int
    problems: list[LineProblem]
    warnings: list[str]
    #: The whole inputs of the first jobs, each with its line.
    inputs: list[tuple[int, str]]
    forecast: Forecast
    #: What neither the checks nor the forecast could find out.
    unknown: list[str]

    @property
    def would_fail(self) -> bool:
        """True if any line has a problem."""
        return bool(self.problems)


async def make_plan(config: Config, *, shown: int = 0, environ: Mapping[str, str] | None = None) -> Plan:
    """Check the job file of a batch and forecast the batch; `shown` is the number of inputs that the plan shows.

    Raises:
        JobFileError: the job file cannot be read, or holds no jobs; or lines changed that the batch has read.
        ConfigError: its template, key or matrix cannot be used; the output directory holds another batch; the task
            exists and differs from its description; the number of a build that is to be pinned is unknown.
        BatchRefused: the platform does not accept the token, or knows no such task.
    """
    environ = os.environ if environ is None else environ
    async with (
        plain_errors(),
        open_to_look(config.api, config.server, config.limits.request_rate, environ) as client,
    ):
        return await plan_batch(client, config, shown=shown)


async def plan_batch(
    client: ApifyClient, config: Config, *, shown: int, max_slots: int | None = None, max_jobs: int | None = None
) -> Plan:
    """Check the job file of a batch and forecast the batch, at an open platform; raises what `make_plan` does.

    Args:
        client: the platform; it is only read.
        config: of the batch.
        shown: the number of inputs that the plan shows.
        max_slots: live Runs that the batch can have at most, whatever its own limits; None: no such limit.
        max_jobs: jobs and bad lines that are read at most, which bounds time and memory; None: the whole file.
    """
    config = await read_in_thread(settle_dialect, config)
    account = await read_account(client)
    task = await find_task(client, config.task, is_created=False)
    past = await anyio.to_thread.run_sync(_read_past, config, account, task)
    build = await patiently(client, read_build(client, task, past.pinned_build or config.run.build))
    if config.run.pin_build:
        number_to_pin(build)
    task = as_created(task, build)
    check = job_check(config, account, task, build)
    counts = await _count(config, task, check, past.read_to, shown, max_jobs)
    opened_again = sum(line > past.read_lines for line in counts.replacing.values())
    settled = max(0, past.settled - opened_again)
    slots = slot_count(config.limits, account, past.live_runs)
    effort = Effort(
        runs=max(0, counts.jobs - settled),
        slots=slots if max_slots is None else min(slots, max_slots),
        run_memory_mb=_mean_memory_mb(counts),
        start_rate_per_s=config.limits.start_rate,
    )
    forecast = await read_forecast(client, account, task, effort)
    return Plan(
        account=account.username,
        account_plan=account.plan,
        task=task.label,
        is_task_there=task.exists,
        build=build.number or build.asked or None,
        columns=counts.columns,
        delimiter=counts.dialect.delimiter if counts.dialect else None,
        quote=(counts.dialect.quote or "none") if counts.dialect else None,
        jobs=counts.jobs,
        is_whole_file=counts.is_whole_file,
        groups=dict(counts.groups.most_common()),
        in_other_groups=counts.in_other_groups,
        duplicates=counts.duplicates,
        settled=settled,
        largest_input_bytes=counts.largest_body_bytes,
        max_input_bytes=MAX_BODY_BYTES,
        are_inputs_checked=build.schema is not None,
        failing_lines=counts.problems.lines,
        problems=list(counts.problems),
        warnings=_warnings(counts, is_task_missing=not (task.exists or past.is_begun)),
        inputs=counts.inputs.kept,
        forecast=forecast,
        unknown=[*_unread(counts), *_unknown(build, check), *forecast.unknown],
    )


@asynccontextmanager
async def open_to_look(
    api: ApiConfig, server: ServerConfig, request_rate_per_s: float, environ: Mapping[str, str]
) -> AsyncIterator[ApifyClient]:
    """Open a platform on which nothing is started.

    An embedded server that opens the batch's own state restarts the Runs in it, so a fresh one is opened.
    """
    with TemporaryDirectory(prefix="batchrun-plan-", ignore_cleanup_errors=True) as scratch:
        async with open_platform(
            api,
            environ=environ,
            request_rate_per_s=request_rate_per_s,
            server=server,
            server_dir=Path(scratch) / SERVER_STATE,
            inline_actors={},
        ) as (client, _):
            yield client


def as_created(task: Task, build: Build) -> Task:
    """Return the task as `run` will create it: without an input, it gets the prefilled values of the schema."""
    if task.exists or task.input or build.schema is None:
        return task
    return replace(task, input=build.schema.prefills)


async def _count(
    config: Config, task: Task, check: JobCheck, read_to: ReadTo | None, shown: int, max_jobs: int | None
) -> JobFileCounts:
    shadowed: JsonObject = task.input if config.jobs.merge == "shallow" else {}
    counts = JobFileCounts(check, shadowed, shown)
    # Problems are shown in the order of the file, so priorities are ignored.
    in_order = replace(job_format(config, task.input), look_ahead=1)
    job_file = await read_in_thread(JobFile, in_order)
    counts.columns, counts.dialect = job_file.columns, job_file.dialect
    try:
        await read_in_thread(refuse_changed_lines, job_file, read_to, config)
        entries = await read_in_thread(partial(job_file.read, limit=config.jobs.limit))
        shard = shard_of(config)
        within = islice(entries, max_jobs)

        def take_chunk() -> int:
            count = size = 0
            for entry in islice(within, CHUNK_LINES):
                count += 1
                if shard.has(entry):
                    counts.look_at(entry)
                if isinstance(entry, Job) and (size := size + len(entry.body)) > CHUNK_BYTES:
                    break
            counts.read += count
            counts.is_whole_file = count > 0 or next(entries, None) is None
            return count

        while await read_in_thread_of(not job_file.is_replayable, take_chunk):
            pass
    finally:
        job_file.close()
    counts.empty_in_text = job_file.empty_in_text
    if not counts.jobs and not counts.bad_lines:
        raise JobFileError(NO_JOBS, file=config.jobs.file)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """The batch as earlier processes left it."""

    is_begun: bool = False
    settled: int = 0
    #: How far the job file was read.
    read_to: ReadTo | None = None
    live_runs: int = 0
    #: The number of the build that the batch is pinned to; None: it is not pinned.
    pinned_build: str | None = None

    @property
    def read_lines(self) -> int:
        """Lines that were read: later ones that replace an earlier one open its job again."""
        return 0 if self.read_to is None else self.read_to.line


def _read_past(config: Config, account: AccountInfo, task: Task) -> _Past:
    if not is_begun(config.out_dir):
        return _Past()
    summary = read_summary(config.out_dir, Ending.INTERRUPTED)
    with open_for_reading(config.out_dir) as ledger:
        # A fresh embedded server gives its task another id, and a task that was deleted has none.
        is_compared = task.exists and not config.api.is_embedded
        if is_compared:
            refuse_other_account(ledger.fact(ACCOUNT), account)
        refuse_other_settings(ledger, config, task.id if is_compared else None)
        check_limit(ledger, config)
        pinned_build = pinned_before(ledger, config) if config.run.pin_build else None
        read_to = ledger.fact(READ_TO)
    settled = summary.settled - summary.outcomes.get(Outcome.INVALID, 0)
    return _Past(
        is_begun=True,
        settled=settled,
        read_to=read_to,
        live_runs=summary.live_runs + summary.in_doubt,
        pinned_build=pinned_build,
    )


def _mean_memory_mb(counts: JobFileCounts) -> float | None:
    known = counts.jobs - counts.of_unknown_memory
    return counts.memory_mb / known if known else None


def _warnings(counts: JobFileCounts, *, is_task_missing: bool) -> list[str]:
    warnings = [str(problem) for problem in counts.odd]
    for name, count in counts.erased.most_common():
        overrides = "1 override replaces" if count == 1 else f"{count:,} overrides replace"
        fields = ", ".join(sorted(counts.erased_fields[name])) or "fields"
        warnings.append(
            f"{overrides} {name} of the task's input whole and erase {fields} in it;"
            ' jobs.merge = "deep" would keep that'
        )
    for key, count in counts.empty_in_text.items():
        cells = "1 empty cell is" if count == 1 else f"{count:,} empty cells are"
        warnings.append(f"{cells} filled into the text of {key}; a trailing ? leaves the whole text out")
    if is_task_missing:
        warnings.append("the task does not exist yet; running the batch creates it")
    return warnings


def _unread(counts: JobFileCounts) -> list[str]:
    if counts.is_whole_file:
        return []
    jobs = f"the first {counts.read:,} jobs of the file"
    return [f"what the lines after {jobs} add, and whether they are valid: a worker reads no more"]


def _unknown(build: Build, check: JobCheck) -> list[str]:
    unknown = [f"whether the platform accepts the inputs: {build.why_unchecked}"] if build.why_unchecked else []
    if build.schema is not None and build.schema.untried_patterns:
        fields = ", ".join(dict.fromkeys(build.schema.untried_patterns))
        unknown.append(f"whether {fields} match their patterns, which only the platform can check")
    if check.of_other_builds:
        unknown.append(f"whether the inputs of {counted(check.of_other_builds, 'job')} with another build are valid")
    return unknown
