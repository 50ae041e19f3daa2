"""Whether the platform would accept a job's merged input and options, and whether it sets anything; grouped over lines.

It reads no file and asks no platform: it is given jobs and what is known of their build.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import orjson

from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.jobs.template import Template
from batchrun.model import Job, JsonObject, RunOptions, read_json, write_json
from batchrun.policy.secret_fields import SecretFields
from batchrun.preflight.builds import Build
from batchrun.preflight.line_problems import LineProblems

#: Max characters of a name in a problem.
_MAX_NAME_CHARS = 200
#: Unknown properties of one input that are reported.
_MAX_UNKNOWN = 20
#: Properties of a schema that a message names.
NAMES_SHOWN = 8


class Findings(NamedTuple):
    """What is wrong with a job, as far as it is known here."""

    #: Reasons why the platform would refuse it.
    problems: list[str]
    #: Reasons why its Run would do nothing new.
    futile: list[str]


class JobCheck:
    """Checks jobs as the platform would, the merged input and the options; and whether they set anything.

    It keeps about 100 bytes per job, by which it recognises equal inputs.

    Args:
        task_input: the task's input.
        build: the build that Runs use.
        options: the batch's options over the task's; a job's own come first.
        account_memory_mb: the account's limit of memory; None: unknown.
        stops_futile: whether a job that would do nothing new stops a new batch.
        columns: that the template fills in, by the path in the input, like `input.startUrls.*.url`.
    """

    def __init__(
        self,
        *,
        task_input: JsonObject,
        build: Build,
        options: RunOptions,
        account_memory_mb: int | None,
        stops_futile: bool = False,
        columns: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._schema, self._build, self._options = build.schema, build, options
        self._account_memory_mb = account_memory_mb
        self.stops_futile = stops_futile
        self._columns = columns
        # The platform merges property by property: defaults <- task <- override.
        self._under = {**(self._schema.defaults if self._schema is not None else {}), **task_input}
        names = self._schema.names if self._schema is not None else ()
        self._secrets = self._schema.secrets if self._schema is not None else SecretFields(None)
        #: Empty: any property may be meant.
        self._known = {*names, *task_input} if names else set()
        self._inputs: set[bytes] = set()
        self._options_text = repr(options).encode()
        self.first_job: Job | None = None
        self._problems_of_all = list(self._options_problems(options))
        #: Jobs whose own `build` is another; their inputs are not checked.
        self.of_other_builds = 0

    def look_at(self, job: Job) -> Findings:
        """Check one job."""
        options, override = self.options(job), read_json(job.body)
        merged = {**self._under, **override}
        self.first_job = self.first_job or job
        problems = self._problems(job, merged)
        if (other := self._other_build(options)) is not None:
            self.of_other_builds += self._build.has(other)
            return Findings(problems, [])
        unknown = list(islice((self._unknown(name) for name in override if self._is_unknown(name)), _MAX_UNKNOWN))
        return Findings(problems, unknown or self._repeated(merged, options))

    def problems(self, job: Job) -> list[str]:
        """Return the reasons why the platform would refuse a job, which is not counted."""
        return self._problems(job, {**self._under, **read_json(job.body)})

    def _problems(self, job: Job, merged: JsonObject) -> list[str]:
        options = self.options(job)
        found = list(self._problems_of_all if job.options is None else self._options_problems(options))
        if self._schema is not None and self._other_build(options) is None:
            found += self._schema.problems(merged, self._columns)
        return found

    def _other_build(self, options: RunOptions) -> str | None:
        """Return the build of the options if it is another one, whose schema is unknown."""
        return None if options.build is None or self._build.is_same(options.build) else options.build

    def shown(self, job: Job) -> str:
        """Return the whole input of a job's Run as JSON, for a person: without secrets."""
        return write_json(self._secrets.masked({**self._under, **read_json(job.body)})).decode()

    def revealed(self, job: Job) -> list[str]:
        """Return a message for each text of a job that is shown everywhere and holds a secret of its input."""
        if self._secrets.paths == ():
            return []
        texts = self._secrets.texts_in(read_json(job.body))
        shown = {"jobs.key": job.key, "jobs.group": job.group or ""}
        return [
            f"is named by a secret of its input, which records, reports and logs show; choose another {setting}"
            for setting, name in shown.items()
            if any(text in name for text in texts)
        ]

    def template_example(self) -> str:
        """Return a line of a template that fills a property of the schema from the first unknown one of a line."""
        if self._schema is None or self.first_job is None:
            return ""
        column = next((name for name in orjson.loads(self.first_job.body) if self._is_unknown(name)), None)
        names = [*(name for name in self._schema.required if name not in self._under), *self._schema.names]
        free = next(iter(names), None)
        return "" if column is None or free is None else self._schema.placeholder(free, column)

    def _is_unknown(self, name: str) -> bool:
        return name not in self._known if self._known else not _is_visible(name)

    def _unknown(self, name: str) -> str:
        name = name[:_MAX_NAME_CHARS]
        if self._schema is None or not self._known:
            return f"sets {name!r}, a name with characters that cannot be seen"
        by_plain = {_plain(each): each for each in self._schema.names}
        near = get_close_matches(_plain(name), by_plain, n=1)
        advice = f"; did you mean {by_plain[near[0]]!r}?" if near else f"; it names {_some(self._schema.names)}"
        return f"sets {name!r}, which the Actor's input schema does not name{advice}"

    def _repeated(self, merged: JsonObject, options: RunOptions) -> list[str]:
        if merged == self._under:
            return ["changes nothing of the task's input"]
        text = self._options_text if options is self._options else repr(options).encode()
        content = write_json(merged, option=orjson.OPT_SORT_KEYS) + text
        before = len(self._inputs)
        self._inputs.add(blake2b(content, digest_size=16).digest())
        return [] if len(self._inputs) > before else ["comes to the same input as an earlier line"]

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
    """Collects what is wrong with the jobs at the head of a job file."""

    def __init__(self, check: JobCheck) -> None:
        self.check = check
        self.problems = LineProblems()
        self.futile = LineProblems()

    def look_at(self, job: Job) -> None:
        """Check one job."""
        found = self.check.look_at(job)
        self.problems.note(job.position.line, found.problems)
        self.futile.note(job.position.line, found.futile)


def job_check(config: Config, account: AccountInfo, task: Task, build: Build) -> JobCheck:
    """Return the check of a batch's jobs."""
    ours, of_task = config.run.as_options(), task.options
    options = ours.over(RunOptions(build=of_task.get("build"), memory_mb=of_task.get("memoryMbytes")))
    return JobCheck(
        task_input=task.input,
        build=build,
        options=options,
        account_memory_mb=account.limits.max_total_memory_mb,
        stops_futile=config.jobs.unknown_properties == "stop" and not config.api.is_loopback,
        columns=_columns(config),
    )


def _columns(config: Config) -> dict[str, str]:
    """Return the columns that the template fills in, by the path in the input as messages write it."""
    if config.jobs.template is None:
        return {}
    columns = dict[str, str]()
    for column, key in Template(config.jobs.template, "jobs.template").columns.items():
        path = ("*" if part.isdigit() else part for part in key.split(".")[2:])
        columns.setdefault(".".join(["input", *path]), column)
    return columns


def _is_visible(name: str) -> bool:
    return name.isprintable() and name == name.strip()


def _plain(name: str) -> str:
    """Return a name without what distinguishes spellings of one word."""
    return "".join(filter(str.isalnum, name)).lower()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
