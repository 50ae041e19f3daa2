"""What a batch looks at before it is begun: would the head of its job file be taken; which build is it pinned to."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import anyio

from batchrun.account.task import Task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.errors import ConfigError, JobFileError
from batchrun.ledger.facts import PINNED_BUILD, PinnedBuild
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import RunOptions
from batchrun.preflight.builds import Build, read_build
from batchrun.preflight.input_checks import HeadCheck, JobCheck, LineProblems

#: LineProblems that are shown at once.
MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is settled before the first start."""

    #: Options of every Run of which the job says nothing; with the pinned build, where there is one.
    options: RunOptions
    #: Memory of a Run, in megabytes; None where it is not known.
    run_memory_mb: int | None
    #: Looks at the head of the job file; None where nothing is to be checked.
    head: HeadCheck | None


async def prepare(
    client: ApifyClient, config: Config, account: AccountInfo, task: Task, ledger: LedgerTables
) -> Preparation:
    """Read what the platform knows of the build that Runs will use, as far as it matters.

    Raises:
        ConfigError: the build is to be pinned and the platform does not tell which it is.
    """
    number = await anyio.to_thread.run_sync(pinned_before, ledger, config) if config.run.pin_build else None
    is_to_be_pinned = config.run.pin_build and number is None
    is_to_be_checked = config.jobs.check_inputs and ledger.is_empty
    build: Build | None = None
    if is_to_be_pinned or is_to_be_checked:
        build = await read_build(client, task, config.run.build)
        if is_to_be_pinned:
            number = number_to_pin(build)
            await anyio.to_thread.run_sync(_pin, ledger, config, number)
    options = config.run.as_options()
    return Preparation(
        options=options if number is None else replace(options, build=number),
        run_memory_mb=options.memory_mb
        or task.options.get("memoryMbytes")
        or (build.default_memory_mb if build is not None else None),
        head=HeadCheck(job_check(config, account, task, build)) if build is not None and is_to_be_checked else None,
    )


def job_check(config: Config, account: AccountInfo, task: Task, build: Build) -> JobCheck:
    """Return the check of a batch's jobs."""
    ours, of_task = config.run.as_options(), task.options
    options = ours.over(RunOptions(build=of_task.get("build"), memory_mb=of_task.get("memoryMbytes")))
    return JobCheck(
        task_input=task.input, build=build, options=options, account_memory_mb=account.limits.max_total_memory_mb
    )


def pinned_before(ledger: LedgerReader, config: Config) -> str | None:
    """Return the number of the build that the batch was pinned to when it was begun, if it was."""
    noted = ledger.fact(PINNED_BUILD)
    # Another run.build means another build; a batch of which nothing was started has no past to be true to.
    if noted is None or noted.asked != config.run.build or ledger.is_empty:
        return None
    return noted.number


def number_to_pin(build: Build) -> str:
    """Return the number of the build that Runs would use now.

    Raises:
        ConfigError: the platform does not tell it.
    """
    if build.number is None:
        problem = f"the build cannot be pinned: {build.why_unchecked or 'it shows no number'}"
        raise ConfigError(problem, key="run.pin_build")
    return build.number


def _pin(ledger: LedgerTables, config: Config, number: str) -> None:
    with ledger.transaction():
        ledger.note_fact(PINNED_BUILD, PinnedBuild(asked=config.run.build, number=number))


def refuse_head(problems: LineProblems, config: Config) -> None:
    """Stop a batch at whose head the platform would refuse inputs.

    Raises:
        JobFileError: there are problems; nothing was started.
    """
    if problems:
        raise JobFileError("\n".join(_lines(problems)), file=config.jobs.file)


def _lines(problems: LineProblems) -> Iterator[str]:
    count = "1 line" if problems.lines == 1 else f"{problems.lines:,} lines"
    yield f"{count} at its head would be refused:"
    found = list(problems)
    yield from (f"  {problem}" for problem in found[:MAX_PROBLEMS_SHOWN])
    if len(found) > MAX_PROBLEMS_SHOWN:
        yield f"  … and {len(found) - MAX_PROBLEMS_SHOWN:,} other problems"
    yield (
        "Nothing was started. Fix them (`batchrun plan` checks the whole file), or set jobs.check_inputs = false to"
        " run the other lines"
    )
