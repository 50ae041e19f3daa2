"""Whether the platform would accept a job's merged input and options; problems are grouped over lines.

It reads no file and asks no platform: it is given jobs and what is known of their build.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.model import Job, JsonObject, RunOptions
from batchrun.preflight.builds import Build

#: Line numbers that are named for one problem.
LINES_NAMED = 3
#: Distinct problems that are kept, which bounds memory; further ones are counted as OTHER_PROBLEMS.
MAX_PROBLEMS = 500
OTHER_PROBLEMS = "other problems"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """One problem, and the lines that have it."""

    message: str
    #: Number of lines.
    count: int
    #: The first of them.
    lines: list[int]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.lines))
        more = f" and {self.count - len(self.lines):,} more" if self.count > len(self.lines) else ""
        return f"{'line' if self.count == 1 else 'lines'} {named}{more}: {self.message}"


class LineProblems:
    """Collects problems by message, each with its lines."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}
        self._last_line: dict[str, int] = {}
        #: Lines with at least one problem.
        self.lines = 0
        self._failing_line = 0

    def note(self, line: int, messages: Iterable[str]) -> None:
        """Note the problems of a line; lines come in order, and a matrix gives several jobs of one line."""
        for message in messages:
            self._note(line, message)

    def _note(self, line: int, message: str) -> None:
        if line != self._failing_line:
            self._failing_line = line
            self.lines += 1
        if message not in self._counts and len(self._counts) >= MAX_PROBLEMS:
            message = OTHER_PROBLEMS
        if self._last_line.get(message) == line:
            return  # noted for another job of the same line
        self._last_line[message] = line
        self._counts[message] += 1
        named = self._lines.setdefault(message, [])
        if len(named) < LINES_NAMED:
            named.append(line)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __iter__(self) -> Iterator[LineProblem]:
        """Yield the problems, those with the most lines first."""
        for message, count in self._counts.most_common():
            yield LineProblem(message=message, count=count, lines=self._lines[message])


class JobCheck:
    """Checks jobs as the platform would: the merged input and the options.

    Args:
        task_input: the task's input.
        build: the build that Runs use.
        options: the batch's options over the task's; a job's own come first.
        account_memory_mb: the account's limit of memory; None: unknown.
    """

    def __init__(
        self, *, task_input: JsonObject, build: Build, options: RunOptions, account_memory_mb: int | None
    ) -> None:
        self._schema, self._build, self._options = build.schema, build, options
        self._account_memory_mb = account_memory_mb
        # The platform merges property by property: defaults <- task <- override.
        self._under = {**(self._schema.defaults if self._schema is not None else {}), **task_input}
        self._problems_of_all = list(self._options_problems(options))
        #: Jobs whose own `build` is another; their inputs are not checked.
        self.of_other_builds = 0

    def problems(self, job: Job) -> list[str]:
        """Return the reasons why the platform would refuse the job, as far as they are known here."""
        options = self.options(job)
        found = list(self._problems_of_all if job.options is None else self._options_problems(options))
        if options.build is not None and not self._build.is_same(options.build):
            self.of_other_builds += self._build.has(options.build)
        elif self._schema is not None:
            found += self._schema.problems({**self._under, **orjson.loads(job.body)})
        return found

    def options(self, job: Job) -> RunOptions:
        """Return the options of a job's Run."""
        return self._options if job.options is None else job.options.over(self._options)

    def memory_mb(self, job: Job) -> int | None:
        """Return the memory of a job's Run in megabytes; None: unknown."""
        return self.options(job).memory_mb or self._build.default_memory_mb

    def _options_problems(self, options: RunOptions) -> Iterator[str]:
        build = self._build
        if options.build is not None and not build.has(options.build):
            yield f"The Actor has no build {options.build!r}; it has {', '.join(build.tags or ()) or 'none'}"
        memory_mb = options.memory_mb or build.default_memory_mb
        if memory_mb is None:
            return
        if not (build.min_memory_mb or 0) <= memory_mb <= (build.max_memory_mb or memory_mb):
            bounds = f"{build.min_memory_mb or 128:,} to {build.max_memory_mb or 32768:,} MB"
            yield f"The Actor takes {bounds} of memory, not {memory_mb:,} MB"
        if self._account_memory_mb is not None and memory_mb > self._account_memory_mb:
            yield f"A Run of {memory_mb:,} MB does not fit into the account's {self._account_memory_mb:,} MB of memory"


class HeadCheck:
    """Collects the problems of the jobs at the head of a job file."""

    def __init__(self, check: JobCheck) -> None:
        self._check = check
        self.problems = LineProblems()

    def look_at(self, job: Job) -> None:
        """Check one job."""
        self.problems.note(job.position.line, self._check.problems(job))


def job_check(config: Config, account: AccountInfo, task: Task, build: Build) -> JobCheck:
    """Return the check of a batch's jobs."""
    ours, of_task = config.run.as_options(), task.options
    options = ours.over(RunOptions(build=of_task.get("build"), memory_mb=of_task.get("memoryMbytes")))
    return JobCheck(
        task_input=task.input, build=build, options=options, account_memory_mb=account.limits.max_total_memory_mb
    )
