"""What would become of a job file's lines: inputs that would be refused, repeated lines, erased fields. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from batchrun.jobs.merge import lost_fields, nested_properties
from batchrun.model import BadLine, Job, JsonObject, RunOptions
from batchrun.preflight.builds import Build

#: Lines that are named of those with the same problem.
LINES_NAMED = 3
#: Different problems that are told apart; lines of strangers can be wrong in endless ways.
MAX_PROBLEMS = 500
OTHER_PROBLEMS = "other problems"
REPEATED_KEY = "has the key of an earlier line with other content; give each line its own @key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with some lines, and with how many."""

    message: str
    #: How many lines have it, and the first of them.
    count: int
    lines: list[int]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.lines))
        more = f" and {self.count - len(self.lines):,} more" if self.count > len(self.lines) else ""
        return f"{'line' if self.count == 1 else 'lines'} {named}{more}: {self.message}"


class Problems:
    """Collects problems, the same ones of different lines under one message."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}
        self._last_line: dict[str, int] = {}
        #: How many lines have any.
        self.lines = 0
        self._failing_line = 0

    def note(self, line: int, messages: Iterable[str]) -> None:
        """Note what is wrong with a line; lines come in order, one may come several times."""
        for message in messages:
            self._note(line, message)

    def _note(self, line: int, message: str) -> None:
        if line != self._failing_line:
            self._failing_line = line
            self.lines += 1
        if message not in self._counts and len(self._counts) >= MAX_PROBLEMS:
            message = OTHER_PROBLEMS
        if self._last_line.get(message) == line:
            return  # of another combination of the matrix
        self._last_line[message] = line
        self._counts[message] += 1
        named = self._lines.setdefault(message, [])
        if len(named) < LINES_NAMED:
            named.append(line)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __iter__(self) -> Iterator[Problem]:
        """Yield the problems, those of most lines first."""
        for message, count in self._counts.most_common():
            yield Problem(message=message, count=count, lines=self._lines[message])


class JobCheck:
    """Says whether the platform would take a job: its merged input, its options.

    Args:
        task_input: of the task.
        build: what is known of the build that Runs use.
        options: of Runs of which the job says nothing, the task's included.
        account_memory_mb: the account's memory in all; None where it is not known.
    """

    def __init__(
        self, *, task_input: JsonObject, build: Build, options: RunOptions, account_memory_mb: int | None
    ) -> None:
        self._schema, self._build, self._options = build.schema, build, options
        self._account_memory_mb = account_memory_mb
        # Property by property, as the platform fills in: defaults <- task <- override.
        self._under = {**(self._schema.defaults if self._schema is not None else {}), **task_input}
        self._problems_of_all = list(self._options_problems(options))
        #: Jobs that name another build, whose schema is not known here.
        self.of_other_builds = 0

    def problems(self, job: Job) -> list[str]:
        """Return why the platform would refuse the job; nothing when it would take it, as far as can be told."""
        options = self.options(job)
        found = list(self._problems_of_all if job.options is None else self._options_problems(options))
        if options.build is not None and not self._build.is_same(options.build):
            self.of_other_builds += self._build.has(options.build)
        elif self._schema is not None:
            found += self._schema.problems({**self._under, **orjson.loads(job.body)})
        return found

    def options(self, job: Job) -> RunOptions:
        """Return the options that a job's Run has."""
        return self._options if job.options is None else job.options.over(self._options)

    def memory_mb(self, job: Job) -> int | None:
        """Return how much memory a job's Run takes; None where that is not known."""
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
    """Checks the jobs at the head of a file, before a batch is begun."""

    def __init__(self, check: JobCheck) -> None:
        self._check = check
        self.problems = Problems()

    def look_at(self, job: Job) -> None:
        """Take a job in."""
        self.problems.note(job.position.line, self._check.problems(job))


class Survey:
    """Adds up a whole job file. To know repeated lines again it keeps about 200 bytes for each job.

    Args:
        check: judges each job.
        shadowed: the task's input where overrides are merged shallowly; else {}.
    """

    def __init__(self, check: JobCheck, shadowed: JsonObject) -> None:
        self._check = check
        self._nested = nested_properties(shadowed)
        self._seen: dict[bytes, bytes] = {}
        self.problems = Problems()
        self.jobs = 0
        self.bad_lines = 0
        self.duplicates = 0
        #: Jobs by group; those without one under the empty text.
        self.groups: Counter[str] = Counter()
        #: Jobs whose override replaces a property of the task whole and drops some of what is in it, by property.
        self.erased: Counter[str] = Counter()
        #: What is dropped of each, as far as it lies at its top.
        self.erased_fields: dict[str, set[str]] = {}
        self.largest_body_bytes = 0
        self.memory_mb = 0
        #: Jobs of which the memory is not known.
        self.of_unknown_memory = 0

    def look_at(self, entry: Job | BadLine) -> None:
        """Take a line in."""
        if isinstance(entry, BadLine):
            self.bad_lines += 1
            self.problems.note(entry.position.line, [entry.reason])
        elif (first := self._first_content(entry)) is not None:
            self._repeated(entry, first)
        else:
            self._job(entry)

    def _first_content(self, job: Job) -> bytes | None:
        """Return the content with which a job's key came first; None when it comes now."""
        key = blake2b(job.key.encode(), digest_size=16).digest()
        before = len(self._seen)
        first = self._seen.setdefault(key, job.digest)
        return None if len(self._seen) > before else first

    def _repeated(self, job: Job, first: bytes) -> None:
        if first == job.digest:
            self.duplicates += 1
        else:
            self.bad_lines += 1
            self.problems.note(job.position.line, [REPEATED_KEY])

    def _job(self, job: Job) -> None:
        self.jobs += 1
        self.groups[job.group or ""] += 1
        self.largest_body_bytes = max(self.largest_body_bytes, len(job.body))
        memory_mb = self._check.memory_mb(job)
        self.memory_mb += memory_mb or 0
        self.of_unknown_memory += memory_mb is None
        if self._nested:
            self._note_erased(orjson.loads(job.body))
        self.problems.note(job.position.line, self._check.problems(job))

    def _note_erased(self, override: JsonObject) -> None:
        for name in lost_fields(self._nested, override):
            self.erased[name] += 1
            self.erased_fields.setdefault(name, set()).update(self._nested[name].keys() - override[name].keys())
