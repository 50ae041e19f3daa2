"""The text of a new batch file: what is known of the task and the job file, with a comment for each key."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchrun.model import JsonObject, write_json
from batchrun.preflight.column_match import ColumnMatch, Matching, placeholder_of
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.shell_command import shell_command

#: Max properties without a column that are listed as comments.
MAX_OTHERS = 15
#: Characters of a property's title in a comment.
_TITLE_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDraft:
    """What a batch file is written from."""

    #: The batch file, and the job file.
    file: Path
    jobs: Path
    lines: str
    #: Settings of `[jobs]` that say how the file is read.
    reading: Mapping[str, str]
    #: Of `[api]` and `[server]`.
    base_url: str | None
    actors: tuple[Path, ...]
    #: Keys of `[task]`, and what task that is.
    task: Mapping[str, str]
    task_words: str
    #: Properties of the Actor's input schema, and the values that the task or the schema gives to them.
    fields: Mapping[str, JsonObject]
    given: Mapping[str, Any]
    matching: Matching
    #: Constants for all lines.
    constants: Mapping[str, Any]


def batch_file_text(draft: BatchDraft) -> str:
    """Return the batch file as TOML."""
    return "\n".join([*_head(draft), *_jobs(draft), *_template(draft), *_constants(draft), *_limits(), *_output(), ""])


def _head(draft: BatchDraft) -> Iterator[str]:
    yield f"# A batch: one Run of the task below for each line of {_plain(draft.jobs.name)}."
    plan, run = (shell_command("batchrun", verb, draft.file.name) for verb in ("plan", "run"))
    yield f"# Check it with `{plan}`, start or resume it with `{run}`."
    if draft.base_url is not None:
        yield from ("", "[api]", f"base_url = {toml_value(draft.base_url)}")
    if draft.actors:
        folders = [_relative(folder, draft.file) for folder in draft.actors]
        yield from ("", "[server]", f"actors = {toml_value(folders)}  # directories of Actors of your own")
    yield from ("", f"[task]  # {_plain(draft.task_words)}")
    yield from (f"{key} = {toml_value(value)}" for key, value in draft.task.items())


def _jobs(draft: BatchDraft) -> Iterator[str]:
    matching = draft.matching
    yield from ("", "[jobs]", f"file = {toml_value(_relative(draft.jobs, draft.file))}  # {_plain(draft.lines)}")
    yield from (f"{key} = {toml_value(value)}" for key, value in draft.reading.items())
    about = "a job's identity, different in each line; default: a hash of its content"
    if matching.key:
        yield f"key = {toml_value(placeholder_of(matching.key))}  # {about}"
    else:
        yield f'# key = "{{{{id}}}}"  # {about}'
    if matching.meta:
        yield f"meta = {toml_value(list(matching.meta))}  # columns that are copied into records and items"
    else:
        yield '# meta = ["sku"]  # columns that are copied into records and items'


def _template(draft: BatchDraft) -> Iterator[str]:
    yield from ("", "# The input made from each line: a property that is not named here is the task's own.")
    yield "[jobs.template]"
    yield from (_matched(each, draft.fields.get(each.property, {})) for each in draft.matching.matches)
    for name in draft.matching.missing:
        if name not in draft.constants:
            yield f"# {_named(name)} = {_example(draft.fields.get(name, {}))}  # REQUIRED: {_about(draft.fields, name)}"
    taken = {*draft.matching.template, *draft.matching.missing, *draft.constants}
    others = [name for name in draft.fields if name not in taken]
    for name in others[:MAX_OTHERS]:
        given = draft.given.get(name)
        is_default = given is not None and given == draft.fields[name].get("default")
        now = "; the Actor's default" if is_default else "; the task sets it" if given is not None else ""
        yield f"# {_named(name)} = {_example(draft.fields[name], given)}  # {_about(draft.fields, name)}{now}"
    if len(others) > MAX_OTHERS:
        yield f"# … and {_plain(', '.join(others[MAX_OTHERS:]))}"


def _matched(match: ColumnMatch, field: JsonObject) -> str:
    also = f"; also possible: {_plain(', '.join(match.rivals))}" if match.rivals else ""
    return f"{_named(match.property)} = {toml_value(match.value)}  # {_title(field) or 'from each line'}{also}"


def _constants(draft: BatchDraft) -> Iterator[str]:
    yield from ("", "[input]  # constants for all lines")
    yield from (f"{_named(name)} = {toml_value(value)}" for name, value in draft.constants.items())


def _limits() -> Iterator[str]:
    yield from ("", "[limits]")
    yield 'max_concurrent_runs = "auto"  # Runs live at once: as many as the account has free, less one; or a number'
    yield "# start_rate = 5.0  # max starts per second"
    yield "# budget_usd = 20.0  # max cost of the batch in US dollars; see `batchrun help limits-and-money`"
    yield from ("", "[run]", "# memory_mb = 1024  # of each Run; default: the task's", "# timeout_s = 300")
    yield "# max_total_charge_usd = 0.10  # max charge of a Run, if the Actor is paid per event"


def _output() -> Iterator[str]:
    yield from ("", "[output]", "# expect_items_min = 1  # a Run with fewer items has the outcome `empty`")


def _relative(path: Path, file: Path) -> str:
    """Return a path as a batch file names it: relative to the file."""
    return path.name if path.parent == file.parent else os.path.relpath(path, file.parent)


def _named(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def _about(fields: Mapping[str, JsonObject], name: str) -> str:
    field = fields.get(name, {})
    title = _title(field)
    return f"{_plain(field.get('type', 'any'))}{f': {title}' if title else ''}"


def _title(field: JsonObject) -> str:
    words = _plain(field.get("title") or field.get("description") or "")
    return words if len(words) <= _TITLE_CHARS else words[: _TITLE_CHARS - 1] + "…"


def _plain(text: Any) -> str:
    """Return a text of others for a comment: one line, which nothing in it can end."""
    return "".join(filter(str.isprintable, " ".join(str(text).split())))


def _example(field: JsonObject, given: Any = None) -> str:
    """Return an example of a value: a given number or choice, the schema's own, or one of the property's type."""
    allowed = field["enum"] if isinstance(field.get("enum"), list) else []
    # Other values of the task may be secret without a mark.
    is_harmless = isinstance(given, int | float) or given in allowed
    values = [given if is_harmless else None, field.get("prefill"), field.get("default"), *allowed]
    found = next((value for value in values if value not in (None, "", [], {}) and not field.get("isSecret")), None)
    if found is not None and len(text := toml_value(found)) <= _TITLE_CHARS:
        return text
    kinds = {"integer": "1", "number": "1.0", "boolean": "true", "array": '["…"]', "object": "{ }"}
    return kinds.get(str(field.get("type")), '"…"')


def toml_value(value: Any) -> str:
    """Return a JSON value as TOML on one line; null, which TOML lacks, is left out of tables and lists."""
    if isinstance(value, dict):
        parts = [f"{_named(name)} = {toml_value(part)}" for name, part in value.items() if part is not None]
        return f"{{ {', '.join(parts)} }}" if parts else "{}"
    if isinstance(value, list):
        return f"[{', '.join(toml_value(part) for part in value if part is not None)}]"
    # JSON's texts, numbers and booleans are TOML's, but for one character.
    return write_json(value).decode().replace("\x7f", "\\u007f")
