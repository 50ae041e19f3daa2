"""The key of a job: its line's `@key`, or `jobs.key` filled from the line, or else derived from its content."""

import re
from hashlib import sha256
from typing import Any

import orjson

from batchrun.errors import ConfigError
from batchrun.jobs.job_format import JobFormat
from batchrun.jobs.rows import NotAJob, quoted
from batchrun.jobs.template import DROPPED, Cells, Template, as_text
from batchrun.model import JobKey, JsonObject, write_json

#: Characters of a job key or a group.
MAX_KEY_CHARS = 512

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def is_name(text: str) -> bool:
    """True if a text is short enough for a job key or a group, and has no control characters."""
    return len(text) <= MAX_KEY_CHARS and not _CONTROL.search(text)


def check_key(key: Any) -> JobKey:
    """Return a value as a job key, or raise NotAJob."""
    if type(key) is not str:
        raise NotAJob(f"the key must be a string, not {quoted(key)}")
    if not key:
        raise NotAJob("the key is empty; give each line its own, or leave it out to derive it from the content")
    if len(key) > MAX_KEY_CHARS:
        raise NotAJob(f"the key has {len(key)} characters; at most {MAX_KEY_CHARS} are allowed")
    if found := _CONTROL.search(key):
        raise NotAJob(
            f"the key has a control character or a line end as its character {found.start() + 1:,}; leave it out"
        )
    return JobKey(key)


def key_of(own: str | None, suffix: str | None, template: Template | None, cells: Cells, digest: bytes) -> JobKey:
    """Return the key of a job.

    Args:
        own: the `@key` of its line, checked.
        suffix: what `jobs.matrix` adds to that; None: more than a key may have.
        template: `jobs.key`.
        cells: the line, from which that is filled.
        digest: of the job's content.

    Raises:
        NotAJob: the key is none.
    """
    if own is not None:
        if suffix is None:
            raise NotAJob(
                f"has a @key, to which jobs.matrix adds values of more than {MAX_KEY_CHARS} characters; leave it"
                " out to derive the keys from the content, or set jobs.key"
            )
        return check_key(own + suffix) if suffix else JobKey(own)
    if template is None or (value := template.fill(cells)) is DROPPED:
        return JobKey(digest.hex())
    return check_key(as_text(value))


def content_digest(override: JsonObject, options: JsonObject) -> bytes:
    """Return the digest of a job's content: two lines with one key must have one content."""
    content = write_json(override, option=orjson.OPT_SORT_KEYS)
    if options:
        # Compact JSON holds no line end: no override alone reads like another one with options.
        content += b"\n" + write_json(options, option=orjson.OPT_SORT_KEYS)
    return sha256(content).digest()[:16]


def check_key_covers(key: Template, job_format: JobFormat) -> None:
    """Check that the jobs that `jobs.matrix` makes of a line get different keys.

    Raises:
        ConfigError: `jobs.key` lacks a column of the matrix.
    """
    for name, values in job_format.matrix.items():
        if len(values) > 1 and name not in key.columns:
            problem = f"must contain {{{{{name}}}}}, or all jobs that jobs.matrix makes of a line get one key"
            raise ConfigError(problem, key="jobs.key")


def key_conflict(key: JobKey, line: int) -> str:
    """Return the reason why a job is a bad line: the job of an earlier line has its key and other content."""
    return (
        f"key {key!r} stands on line {line} with other content; give this line another @key, or"
        ' "@replaces": true if it mends that line'
    )
