"""`batchrun init`: write a batch file for a job file, whose columns become the input of a task."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from batchrun.account.connect import patiently, read_account
from batchrun.account.task import find_task
from batchrun.apify.client import ApifyClient
from batchrun.cli.batch_file_text import BatchDraft, batch_file_text
from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.init_questions import MAX_OFFERED, ask_column, ask_value, choose, is_terminal
from batchrun.cli.terminal import answer, say, say_lines
from batchrun.config import ServerConfig, TaskConfig, load_api, load_config, parse_setting
from batchrun.config.limits_settings import AccountLimitsConfig
from batchrun.errors import ApiError, BatchRefused, ConfigError, JobFileError, OutputError
from batchrun.jobs import NO_JOBS, JobFile, JobFormat
from batchrun.jobs.job_file import HEAD_JOBS
from batchrun.jobs.job_format import Kind
from batchrun.jobs.text_encoding import likely_encoding
from batchrun.model import Job, JsonObject, read_json
from batchrun.preflight.builds import read_build
from batchrun.preflight.column_match import Matching, is_usable, match_columns
from batchrun.preflight.job_column import JobColumn
from batchrun.preflight.plan import Plan, as_created, make_plan, open_to_look
from batchrun.runtime.children import plain_errors
from batchrun.runtime.fast_dataclasses import dataclass, replace
from batchrun.runtime.logs import silence
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted

#: Keys of `[jobs]` that say how the file is read, and that `--set` may give.
READING = ("format", "encoding", "delimiter", "quote")
#: What the names of Actors from directories begin with, on the embedded server.
_OWN = "local/"
#: Problems of the job file that are shown.
MAX_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What a person asks for."""

    jobs: Path
    file: Path
    task: str | None
    actor: str | None
    actors: tuple[Path, ...]
    api_url: str | None
    #: How the file is read, by key of `[jobs]`.
    reading: Mapping[str, str]
    #: Columns by property.
    chosen: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The head of a job file: its columns, and how many lines were read."""

    columns: list[JobColumn]
    lines: int
    bad_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The task, and the input that its Actor takes."""

    keys: dict[str, str]
    words: str
    fields: Mapping[str, JsonObject]
    required: Sequence[str]
    given: Mapping[str, Any]
    #: Why there is no schema; empty: there is one.
    why_unchecked: str


def reading_of(settings: Sequence[str]) -> dict[str, str]:
    """Return the keys of `[jobs]` that `--set` gives.

    Raises:
        ConfigError: it gives another key.
    """
    found: dict[str, str] = {}
    for key, value in map(parse_setting, settings):
        section, _, name = key.partition(".")
        if section != "jobs" or name not in READING:
            known = ", ".join(f"jobs.{each}" for each in READING)
            raise ConfigError(f"--set {key}: init takes {known}; other keys go into the batch file that init writes")
        if name == "format" and value not in get_args(Kind):
            raise ConfigError(f"--set {key}={value}: give one of {', '.join(get_args(Kind))}")
        found[name] = str(value)
    return found


def pairs_of(texts: Sequence[str]) -> dict[str, str]:
    """Return columns by property.

    Raises:
        ConfigError: a text is not PROPERTY=COLUMN.
    """
    for text in texts:
        if not all(text.partition("=")):
            raise ConfigError(f"--map {text}: write it as PROPERTY=COLUMN")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in texts}


def init_batch(request: InitRequest) -> ExitCode:
    """Write a batch file; return USAGE if a line of the job file would fail with it.

    Raises:
        ConfigError: the file exists; or a task, a property or a column is not known.
        JobFileError: the job file cannot be read.
        BatchRefused: the platform does not accept the token, or knows no such task.
    """
    silence()
    _refuse_existing(request.file)
    request = _with_encoding(request)
    head = _read_head(request)
    target = run_async(_find_target, request)
    _check_chosen(request.chosen, head, target)
    matching, constants = _match(request, head, target)
    draft = BatchDraft(
        file=request.file,
        jobs=request.jobs,
        lines=f"columns: {', '.join(column.name for column in head.columns[:MAX_OFFERED])}",
        reading=request.reading,
        base_url=request.api_url,
        actors=request.actors,
        task=target.keys,
        task_words=target.words,
        fields=target.fields,
        given=target.given,
        matching=matching,
        constants=constants,
    )
    _write(request.file, batch_file_text(draft))
    say_lines(_summary(request, target, matching, constants))
    plan = _check(request.file)
    say_lines(_findings(plan, head))
    say(f"next      {_next_step(request.file, would_fail=plan.would_fail)}")
    answer(str(request.file))
    return ExitCode.USAGE if plan.would_fail else ExitCode.SUCCEEDED


def _next_step(file: Path, *, would_fail: bool) -> str:
    plan = shell_command("batchrun", "plan", file)
    if would_fail:
        return f"mend {file} or the lines, then {plan}; to start over, delete {file} and run init again"
    return f"{plan}, then {shell_command('batchrun', 'run', file, '--limit', 10)}"


def _refuse_existing(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise ConfigError("exists, and is not overwritten; name another file with --out, or move it away", file=file)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        _refuse_existing(file)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error


def _with_encoding(request: InitRequest) -> InitRequest:
    """Read a CSV file that is not UTF-8 as spreadsheet programs write it in Western Europe, and say so."""
    if "encoding" in request.reading or request.jobs.suffix.lower() not in (".csv", ".tsv"):
        return request
    encoding = likely_encoding(request.jobs) if request.jobs.is_file() else None
    if encoding is None:
        return request
    say(f"encoding  not UTF-8, so read as {encoding}; if letters look wrong: --set jobs.encoding=…")
    return replace(request, reading={**request.reading, "encoding": encoding})


def _read_head(request: InitRequest) -> _Head:
    if str(request.jobs) == "-":
        raise ConfigError("init reads a file, not stdin: save the jobs in a file first")
    known = {"rows" if key == "format" else key: value for key, value in request.reading.items()}
    names: dict[str, None] = {}
    rows: list[JsonObject] = []

    def look_at(job: Job) -> None:
        row = read_json(job.body)
        rows.append(row)
        names.update(dict.fromkeys(row))

    with JobFile(JobFormat(path=request.jobs, **known)) as job_file:  # type: ignore[arg-type] # checked by the format
        bad_lines = job_file.check_head(look_at)
        names = dict.fromkeys(job_file.columns) or names
    if not rows:
        first = f"no line is a job; line {bad_lines[0].position.line}: {bad_lines[0].reason}" if bad_lines else NO_JOBS
        raise JobFileError(first, file=request.jobs)
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    return _Head(columns=columns, lines=len(rows), bad_lines=len(bad_lines))


def _column(name: str, cells: list[Any]) -> JobColumn:
    values = [cell for cell in cells if cell not in (None, "")]
    is_text = all(isinstance(value, str | int) for value in values)
    is_unique = is_text and len(set(map(str, values))) == len(values)
    return JobColumn(name=name, values=values, has_empty=len(values) < len(cells), is_unique=is_unique)


async def _find_target(request: InitRequest) -> _Target:
    api, server = load_api(request.api_url), ServerConfig(actors=list(request.actors))
    rate = AccountLimitsConfig().request_rate
    async with plain_errors(), open_to_look(api, server, rate, os.environ) as client:
        account = await read_account(client)
        keys = await _task_keys(client, request)
        task = await find_task(client, TaskConfig.model_validate(keys), is_created=False)
        build = await read_build(client, task, None)
    task = as_created(task, build)
    schema = build.schema
    of_actor = f" of {keys['actor']}" if "actor" in keys else ""
    created = "" if task.exists else ", which the first `batchrun run` creates"
    number = f", build {build.number}" if build.number else ""
    return _Target(
        keys=keys,
        words=f"{task.label}{of_actor}{number} in the account {account.username}{created}",
        fields=schema.fields if schema is not None else {},
        required=schema.required if schema is not None else (),
        given={**(schema.defaults if schema is not None else {}), **task.input},
        why_unchecked=build.why_unchecked,
    )


async def _task_keys(client: ApifyClient, request: InitRequest) -> dict[str, str]:
    """Return the keys of `[task]`: as asked for, or as chosen from what the account has."""
    if request.task is not None:
        return {"id": request.task}
    if request.actor is not None:
        return _described(request.actor, request.jobs)
    try:
        tasks = await patiently(client, client.list_tasks())
        actors = await patiently(client, client.list_actors()) if not tasks else []
    except ApiError as error:
        raise BatchRefused(
            f"the token may not list the account's tasks ({error.message}); give --task", error
        ) from error
    if tasks:
        return {"id": choose("task", tasks).replace("/", "~")}
    own = [name for name in actors if name.startswith(_OWN)] if request.actors else []
    if len(own) == 1:
        return _described(own[0], request.jobs)
    if actors:
        return _described(choose("actor", actors), request.jobs)
    raise ConfigError("the account has neither a task nor an Actor; give --actor user/name")


def _described(actor: str, jobs: Path) -> dict[str, str]:
    stem = re.sub(r"[^a-z0-9]+", "-", jobs.name.partition(".")[0].lower()).strip("-")[:50].strip("-")
    # The platform takes names of 3 to 63 characters.
    return {"actor": actor, "name": stem if len(stem) >= 3 else f"batch-{stem or 'of-mine'}"}


def _check_chosen(chosen: Mapping[str, str], head: _Head, target: _Target) -> None:
    names = [column.name for column in head.columns]
    for name, column in chosen.items():
        if column not in names:
            raise ConfigError(f"--map {name}={column}: there is no such column; there are {', '.join(names)}")
        if not is_usable(column):
            unusable = 'batchrun\'s own begin with "@", and a template cannot read a name with \'"\' or "}}"'
            raise ConfigError(f"--map {name}={column}: no property takes this column: {unusable}")
        if target.fields and name not in target.fields:
            raise ConfigError(f"--map {name}={column}: no such property; the input has {', '.join(target.fields)}")


def _match(request: InitRequest, head: _Head, target: _Target) -> tuple[Matching, dict[str, Any]]:
    """Match the columns, and ask for what stays open; return the constants that were given, too."""
    match = partial(match_columns, head.columns, target.fields, target.required, given=target.given)
    matching = match(chosen=request.chosen)
    if not is_terminal():
        return matching, {}
    chosen = dict(request.chosen)
    constants: dict[str, Any] = {}
    for each in matching.matches:
        if each.rivals:
            offered = [each.column, *each.rivals]
            chosen[each.property] = ask_column(f"Which column fills {each.property}?", offered, each.column)
    matching = match(chosen=chosen)
    for name in matching.missing:
        field = target.fields.get(name, {})
        if not field.get("isSecret"):
            given = ask_value(name, field, [column.name for column in head.columns if is_usable(column.name)])
            (chosen if given[0] else constants).update({name: given[1]} if given[1] is not None else {})
    return match(chosen=chosen), constants


def _summary(request: InitRequest, target: _Target, matching: Matching, constants: Mapping[str, Any]) -> Iterator[str]:
    yield f"task      {target.words}"
    for number, each in enumerate(matching.matches):
        also = f"  (also possible: {', '.join(each.rivals)})" if each.rivals else ""
        yield f"{'columns' if not number else '':<9} {each.column} -> {each.property}{also}"
    if not matching.matches:
        names = ", ".join(target.fields)
        yield f"columns   none fills a property of the input ({names}); --map PROPERTY=COLUMN says which one does"
    if target.why_unchecked:
        yield f"unknown   which input the Actor takes: {target.why_unchecked}"
    if missing := [name for name in matching.missing if name not in constants]:
        yield f"missing   {', '.join(missing)}: the Actor requires a value; write one into {request.file}"
    yield f"key       {matching.key or 'none: a hash of each job'}"
    if matching.meta:
        yield f"meta      {', '.join(matching.meta)}: copied into each record"
    yield f"wrote     {request.file}"


def _check(file: Path) -> Plan:
    """Return the plan of the written file, of the lines at the head of its job file."""
    config = load_config(file)
    config = config.model_copy(update={"jobs": config.jobs.model_copy(update={"limit": HEAD_JOBS})})
    return run_async(partial(make_plan, shown=1), config)


def _findings(plan: Plan, head: _Head) -> Iterator[str]:
    for line, shown in plan.inputs:
        yield f"input     line {line}: {shown}"
    if plan.would_fail:
        yield f"checked   {counted(plan.failing_lines, 'line')} of {head.lines + head.bad_lines:,} would fail:"
        yield from (f"  {problem}" for problem in plan.problems[:MAX_SHOWN])
    else:
        checked = "valid" if plan.are_inputs_checked else "read, without an input schema to check them against"
        yield f"checked   {counted(plan.jobs, 'job')}: {checked}"
    yield from (f"warning   {warning}" for warning in plan.warnings[:MAX_SHOWN])
